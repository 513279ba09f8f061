"""Builds report/report.pdf from the committed results and, for a student, the zip to hand in.

    python report/build.py
    python report/build.py --lastname Rezaei --student-number 401234567

Needs only packages from PyPI (typst, pypandoc_binary), no network and a few seconds; the same sources give the same
bytes. The second command leaves report/report.pdf, whose cover has blank lines, as it is: the cover with the name and
the number is in the zip.
"""

import argparse
import ast
import datetime
import io
import json
import re
import sys
import textwrap
import tokenize
import zipfile
from pathlib import Path

import pypandoc
import typst

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / "report"
BUILD = REPORT / "build"
DATE = datetime.datetime(1980, 1, 1, tzinfo=datetime.UTC)  # in the PDF and in the zip: same sources, same bytes
LISTINGS = {  # listing -> notebook, then what it prints: cells by their tag, definitions by their name
    "todo-2a": ("VAE.ipynb", "todo-2a"),
    "todo-2b": ("VAE.ipynb", "todo-2b", "kl_normal", "log_bernoulli_with_logits"),
    "todo-2d": ("VAE.ipynb", "todo-2d", "log_normal", "log_mean_exp", "duplicate"),
    "model-2": ("VAE.ipynb", "ResidualNet", "VAE"),
    "todo-3c": ("RealNVP.ipynb", "todo-3c", "Permute", "dequantize", "quantize", "log_standard_normal"),
    "network-3d": ("RealNVP.ipynb", "pack", "unpack", "Residual", "ScaleShift", "networks"),
    "todo-3d": ("RealNVP.ipynb", "todo-3d"),
}
LINE = 101  # characters of code that fit on a line of the page
THEORY = {  # part of theory.md -> its headings
    "notation": ["نمادها و راهنما"],
    "1a": ["سوال اول", "الف)"],
    "1b": ["سوال اول", "ب)"],
    "1c": ["سوال اول", "ج)"],
    "1d": ["سوال اول", "د)"],
    "3a": ["سوال سوم", "الف)"],
    "3c": ["سوال سوم", "ج)"],
    "implementation": ["رابطه‌های پیاده‌سازی"],
    "iwae": ["پیوست: حد و نرخ کران IWAE"],
}


def code_parts(notebook, parts):
    """Returns the sources in `notebook` (its JSON) of the cells or top-level definitions that `parts` names, in order.

    Raises:
        ValueError: no code cell has a tag or a definition of that name.
    """
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    sources = []
    for part in parts:
        found = ["".join(cell["source"]).strip() for cell in cells if part in cell["metadata"].get("tags", [])]
        for source in ("".join(cell["source"]) for cell in cells):
            for node in ast.parse(source).body:
                if getattr(node, "name", None) == part:
                    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                    found.append("\n".join(source.splitlines()[first - 1 : node.end_lineno]))
        if not found:
            raise ValueError(f"a notebook must have a code cell tagged, or a definition named, {part}, got none")
        sources += found
    return sources


def is_aside(node):
    """Whether a statement is not printed: a docstring, or a guard against bad arguments."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return getattr(node.value.func, "id", "").startswith("check_")
    return isinstance(node, ast.If) and not node.orelse and isinstance(node.body[-1], ast.Raise)


def without_asides(source):
    """Returns the lines of `source` without docstrings, without guards and without the blank lines after them."""
    lines = source.splitlines()
    for parent in ast.walk(ast.parse(source)):
        body = parent.body if isinstance(parent, ast.FunctionDef | ast.ClassDef) else []
        for node in filter(is_aside, body) if not all(map(is_aside, body)) else ():
            following = node.end_lineno < len(lines) and not lines[node.end_lineno].strip()
            for i in range(node.lineno - 1, node.end_lineno + following):
                lines[i] = None
    return [line for line in lines if line is not None]


def break_line(lines, row):
    """Breaks lines[row], which is too long, in two where Python allows: after a comma or before an operator.

    Both parts shall fit; then a place in outermost brackets is chosen, or else one outside of brackets, where the first
    part ends with a backslash, or else one further inside; and of those the last.

    Raises:
        ValueError: there is no such place.
    """
    line, indent = lines[row], len(lines[row]) - len(lines[row].lstrip())
    if line.lstrip().startswith("# "):
        wrapped = textwrap.wrap(line.lstrip()[2:], LINE - indent - 2)
        lines[row : row + 1] = [" " * indent + "# " + part for part in wrapped]
        return
    opened, places, previous = [], [], None
    for token in tokenize.generate_tokens(io.StringIO("\n".join(lines) + "\n").readline):
        start = token.start[1]
        if token.start[0] == row + 1 and indent < start <= LINE - 2 and previous and previous.start[0] == row + 1:
            operator = token.type == tokenize.OP and token.string in ("+", "-", "*", "/", "@", "==", "<", ">")
            if previous.string == "," or (operator and opened) or token.string in ("if", "else", "for", "and", "or"):
                column = opened[-1][1] + 1 if opened and opened[-1][0] == row + 1 else indent + 4 * (not opened)
                if column < start:
                    too_long = column + len(line) - start > LINE
                    places.append((too_long, len(opened) or 1.5, -start, column))
        if token.type == tokenize.OP and token.string in "([{":
            opened.append(token.start)
        elif token.type == tokenize.OP and token.string in ")]}":
            opened.pop()
        previous = token
    if not places:
        raise ValueError(f"a listing's line has more than {LINE} characters and no place to break it: {line.strip()}")
    _, depth, start, column = min(places)
    first = line[:-start].rstrip() + (" \\" if depth == 1.5 else "")
    lines[row : row + 1] = [first, " " * column + line[-start:]]


def listing(notebook, *parts):
    """Returns what `code_parts` finds, for print: the same program without docstrings and guards, no line over LINE.

    Raises:
        ValueError: a part is missing, or a line cannot be broken.
    """
    lines = []
    for source in code_parts(notebook, parts):
        for line in [*without_asides(source), "", ""]:
            line = re.sub(r"(#.*) \(eq-[a-z-]+\)", r"\1", line)  # theory.md's anchors mean nothing in print
            code, mark, comment = line.rpartition("  # ")
            if len(line) > LINE and mark:
                lines.append(" " * (len(line) - len(line.lstrip())) + "# " + comment)
                line = code.rstrip()
            lines.append(line)
    row = 0
    while row < len(lines):
        if len(lines[row]) > LINE:
            break_line(lines, row)
        else:
            row += 1
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def theory_part(text, headings):
    """Returns what stands in `text` (Markdown) under the heading that starts with headings[0], then under headings[1]…

    Raises:
        ValueError: a heading is not there exactly once.
    """
    for level, heading in enumerate(headings, start=2):
        sections = re.split(rf"^{'#' * level} ", text, flags=re.M)[1:]
        found = [section for section in sections if section.startswith(heading)]
        if len(found) != 1:
            raise ValueError(
                f"theory.md must have one heading of level {level} that starts with «{heading}», got {len(found)}"
            )
        text = found[0].partition("\n")[2]
    return text


def citations(bib):
    """Returns {"Burda et al., 2016": "burda2016iwae", …} for the entries of a .bib text."""
    names = {}
    for entry in re.finditer(
        r"@\w+\{(?P<key>\w+),.*author=\{(?P<authors>.*)\}, (?:booktitle|journal)=.*year=\{(?P<year>\d+)\}", bib
    ):
        family = [author.split(",")[0] for author in entry["authors"].split(" and ")]
        who = f"{family[0]} et al." if len(family) > 2 else " & ".join(family)
        names[f"{who}, {entry['year']}"] = entry["key"]
    return names


def typst_theory(markdown, names):
    """Returns a part of theory.md as Typst: citations linked to refs.bib, headings one level up.

    Raises:
        ValueError: a work is cited that refs.bib does not have.
    """

    def link(match):
        work = " ".join(match[0].split())
        if work not in names:
            raise ValueError(f"theory.md cites «{work}», which report/refs.bib does not have")
        return f"[{work.replace(' & ', ' and ')}](#ref-{names[work]})"

    markdown = re.sub(r"[^\W\d_]+\s(?:et\sal\.|&\s[^\W\d_]+),\s\d{4}", link, markdown)
    return pypandoc.convert_text(
        markdown,
        "typst",
        format="gfm+tex_math_dollars",
        extra_args=[
            "--wrap=preserve",
            "--shift-heading-level-by=-1",
            f"--lua-filter={REPORT / 'theory.lua'}",
            "--fail-if-warnings",
        ],
    )


def prepare():
    """Writes what main.typ includes to report/build: the notebooks' listings and theory.md's parts."""
    BUILD.mkdir(exist_ok=True)
    for name, (notebook, *parts) in LISTINGS.items():
        code = listing(json.loads((ROOT / notebook).read_text("utf-8")), *parts)
        (BUILD / f"{name}.py").write_text(code, encoding="utf-8")
    theory = (ROOT / "theory.md").read_text("utf-8")
    names = citations((REPORT / "refs.bib").read_text("utf-8"))
    for name, headings in THEORY.items():
        part = '#import "../template.typ": *\n' + typst_theory(theory_part(theory, headings), names)
        (BUILD / f"theory-{name}.typ").write_text(part, encoding="utf-8")


def compile_report(**cover):
    """Returns the PDF's bytes; `cover` may give name and number, which are blank lines otherwise.

    Raises:
        ValueError: Typst stopped (a missing number or figure is named) or warned. A glyph that no font has stops it
            too: PDF/A-2u, the standard asked for, does not allow one.
    """
    prepare()
    try:
        pdf, warnings = typst.compile_with_warnings(
            str(REPORT / "main.typ"),
            root=str(REPORT),
            font_paths=[str(REPORT / "fonts")],
            ignore_system_fonts=True,
            sys_inputs=cover,
            pdf_standards=["a-2u"],
            timestamp=DATE,
        )
    except typst.TypstError as e:
        raise ValueError(getattr(e, "diagnostic", None) or str(e)) from None
    if warnings:
        raise ValueError("Typst warned: " + "; ".join(w.message for w in warnings))
    return pdf


def check_student(lastname, number):
    """Refuses a last name or a student number that does not fit HW2_[Lastname]_[StudentNumber].zip."""
    if not re.fullmatch(r"[^\W\d_]+(-[^\W\d_]+)*", lastname):
        raise ValueError(f"the last name must be letters, with hyphens inside at most, got {lastname!r}")
    if not re.fullmatch(r"[0-9]+", number):
        raise ValueError(f"the student number must be digits 0-9, got {number!r}")


def zip_files(with_data=False):
    """Returns the paths, relative to the root, that are handed in beside report/report.pdf, sorted.

    Raises:
        ValueError: one is missing, or a notebook has cells without a run.
    """
    names = ["VAE.ipynb", "RealNVP.ipynb", "theory.md", "requirements.txt", "README.md"]
    names += [f"report/{name}" for name in ("build.py", "main.typ", "template.typ", "theory.lua", "refs.bib")]
    patterns = ["report/fonts/*", "report/figures/*", "report/results/*.json"]
    if with_data:
        patterns += ["data/README.md", "data/MNIST/raw/*.gz"]
    for pattern in patterns:
        found = [path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern) if path.is_file()]
        if not found:
            raise ValueError(f"nothing to hand in matches {pattern}")
        names += found
    for name in names:
        if not (ROOT / name).is_file():
            raise ValueError(f"{name} is missing")
        if name.endswith(".ipynb"):
            cells = json.loads((ROOT / name).read_text("utf-8"))["cells"]
            if not all(cell["execution_count"] for cell in cells if cell["cell_type"] == "code"):
                raise ValueError(f"{name} has cells that were not run; hand in notebooks with their outputs")
    return sorted(names)


def zip_bytes(files):
    """Returns a zip of {name: bytes}: sorted, with one time and one set of permissions: same files, same bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, DATE.timetuple()[:6])
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3  # Unix, on every system, so that the permissions below count
            info.external_attr = 0o100644 << 16
            archive.writestr(info, files[name], compresslevel=9)
    return out.getvalue()


def hand_in(lastname, number, name=None, with_data=False, force=False):
    """Writes HW2_[lastname]_[number].zip to the repository's root and returns its path.

    Args:
        lastname, number: of the student, for the zip's name and the cover.
        name: the full name for the cover (default: the last name).
        with_data: put MNIST's four files in too.
        force: overwrite an existing zip.

    Raises:
        ValueError: a name or number that does not fit, an existing zip, a missing file.
    """
    check_student(lastname, number)
    path = ROOT / f"HW2_{lastname}_{number}.zip"
    if path.exists() and not force:
        raise ValueError(f"{path.name} exists already; --force overwrites it")
    files = {name: (ROOT / name).read_bytes() for name in zip_files(with_data)}
    files["report/report.pdf"] = compile_report(name=name or lastname, number=number)
    path.write_bytes(zip_bytes(files))
    return path


def main(argv=None):
    """The command line: see the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lastname", help="as in HW2_[Lastname]_[StudentNumber].zip")
    parser.add_argument("--student-number", help="the same")
    parser.add_argument("--name", help="full name for the cover, in Persian if you like (default: the last name)")
    parser.add_argument("--with-data", action="store_true", help="put MNIST into the zip too (11 MB)")
    parser.add_argument("--force", action="store_true", help="overwrite an existing zip")
    args = parser.parse_args(argv)
    student = (args.lastname, args.student_number)
    if any(v is None for v in student) and (student != (None, None) or args.name or args.with_data or args.force):
        parser.error("a zip needs both --lastname and --student-number")
    try:
        if student == (None, None):
            path = REPORT / "report.pdf"
            path.write_bytes(compile_report())
        else:
            path = hand_in(*student, args.name, args.with_data, args.force)
    except ValueError as e:
        sys.exit(f"error: {e}")
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
