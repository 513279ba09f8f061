"""Builds report/report.pdf from the results and, for a student, the zip to hand in.

    python report/build.py
    python report/build.py --out DIR
    python report/build.py --lastname Rezaei --student-number 401234567

The second takes figures and results from DIR/figures and DIR/results, and writes
DIR/report.pdf. The third writes HW2_Rezaei_401234567.zip, with the name and the number
on the report's cover; report/report.pdf, whose cover has blank lines, stays as it is.

A sentence that the results do not bear is marked in the report, in the margin, too,
and listed on the terminal. Only the zip is refused then, unless --anyway is given.

Needs typst and pypandoc_binary from PyPI, no network and a few seconds; the same
sources give the same bytes.
"""

import argparse
import ast
import io
import json
import os
import re
import shutil
import sys
import textwrap
import unicodedata
import zipfile
from contextlib import suppress
from pathlib import Path

import pypandoc
import typst

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / "report"
SOURCES = ("main.typ", "template.typ", "refs.bib")
# what the notebooks do not write: in report/ for every run
BENCHMARKS = ("results/samples.json",)
LISTINGS = {  # listing -> notebook, then cells by their tag, definitions by their name
    "todo-2a": ("VAE.ipynb", "todo-2a"),
    "todo-2b": (
        "VAE.ipynb",
        "todo-2b",
        "kl_normal",
        "log_bernoulli_with_logits",
    ),
    "loss-2c": ("VAE.ipynb", "mirrored_loss"),
    "todo-2d": ("VAE.ipynb", "todo-2d", "log_normal", "log_mean_exp", "duplicate"),
    "todo-3c": ("RealNVP.ipynb", "todo-3c", "Flip"),
    "todo-3d": ("RealNVP.ipynb", "Chain", "RealNVP"),
}
VAE_PART = ["رابطه‌های پیاده‌سازی", "مدل VAE"]
FLOW_PART = ["رابطه‌های پیاده‌سازی", "مدل RealNVP"]
THEORY = {  # part of theory.md -> its headings
    "1a": ["سؤال اول", "الف)"],
    "1b": ["سؤال اول", "ب)"],
    "1c": ["سؤال اول", "ج)"],
    "1d": ["سؤال اول", "د)"],
    "3a": ["سؤال سوم", "الف)"],
    "3c": ["سؤال سوم", "ج)"],
    "reparam": [*VAE_PART, "بازپارامتری‌سازی"],
    "normal": [*VAE_PART, "لگاریتم چگالی نرمال"],
    "bernoulli": [*VAE_PART, "لگاریتم درست‌نمایی برنولی"],
    "nelbo": [*VAE_PART, "منفی ELBO"],
    "loss": [*VAE_PART, "تابع هزینهٔ آموزش"],
    "niwae": [*VAE_PART, "منفی کران IWAE"],
    "active": [*VAE_PART, "بُعد فعال"],
    "dequant": [*FLOW_PART, "کوانتش‌زدایی"],
    "bpd": [*FLOW_PART, "بیت بر بُعد"],
    "logit": [*FLOW_PART, "لاجیت"],
    "gaussianize": [*FLOW_PART, "گاوسی‌سازی"],
    "stretch": [*FLOW_PART, "کشیدگی"],
}


def code_cells(notebook):
    """Returns the code cells of `notebook` (its JSON), less the empty ones.

    Jupyter adds an empty one where somebody runs the last.
    """
    found = []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code" and "".join(cell["source"]).strip():
            found.append(cell)
    return found


def definitions(source):
    """Yields (name, lines) of the functions, classes and methods, as "Class.method"."""
    for node in ast.parse(source).body:
        found = [(getattr(node, "name", None), node)]
        if isinstance(node, ast.ClassDef):
            for inner in node.body:
                found.append((f"{node.name}.{getattr(inner, 'name', None)}", inner))
        for name, part in found:
            first = min([part, *getattr(part, "decorator_list", [])], key=line_of)
            lines = source.splitlines()[first.lineno - 1 : part.end_lineno]
            yield name, textwrap.dedent("\n".join(lines))


def line_of(node):
    return node.lineno


def code_parts(notebook, parts):
    """Returns the sources that `parts` names: tags of cells, names of definitions.

    Raises:
        ValueError: no code cell of `notebook` (its JSON) has such a tag or definition.
    """
    sources = []
    for part in parts:
        found = []
        for cell in code_cells(notebook):
            source = "".join(cell["source"])
            if part in cell["metadata"].get("tags", []):
                found.append(source.strip())
            found += [text for name, text in definitions(source) if name == part]
        if not found:
            raise ValueError(
                "a notebook must have a code cell tagged, or a definition named, "
                f"{part}, got none"
            )
        sources += found
    return sources


def is_aside(node):
    """Whether a statement is not printed: a docstring, or a guard."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    if isinstance(node, ast.If):
        return isinstance(node.body[-1], ast.Raise) and not node.orelse
    return False


def without_asides(source):
    """Returns the lines of `source` without docstrings and guards."""
    lines = source.splitlines()
    dropped = set()
    for parent in ast.walk(ast.parse(source)):
        if not isinstance(parent, ast.FunctionDef | ast.ClassDef):
            continue
        asides = [node for node in parent.body if is_aside(node)]
        if len(asides) == len(parent.body):
            continue
        for node in asides:
            last = node.end_lineno
            # the blank line after it, too
            if last < len(lines) and not lines[last].strip():
                last += 1
            dropped.update(range(node.lineno - 1, last))
    return [line for i, line in enumerate(lines) if i not in dropped]


def listing(notebook, *parts):
    """Returns what `code_parts` finds, for print: without docstrings and guards.

    Raises:
        ValueError: a part is missing.
    """
    lines = []
    for source in code_parts(notebook, parts):
        for line in without_asides(source):
            # theory.md's anchors mean nothing in print
            lines.append(re.sub(r"(#.*) \(eq-[a-z-]+\)", r"\1", line))
        lines += ["", ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def theory_part(text, headings):
    """Returns what stands in `text` (Markdown) under headings[0], then headings[1]…

    Raises:
        ValueError: not exactly one heading starts with those words.
    """
    for level, heading in enumerate(headings, start=2):
        sections = re.split(rf"^{'#' * level} ", text, flags=re.M)[1:]
        found = [section for section in sections if section.startswith(heading)]
        if len(found) != 1:
            raise ValueError(
                f"theory.md must have one heading of level {level} that starts with "
                f"«{heading}», got {len(found)}"
            )
        text = found[0].partition("\n")[2]
    return text


def citations(bib):
    """Returns {"Burda et al., 2016": "burda2016iwae", …} for a .bib text."""
    names = {}
    entries = re.finditer(
        r"@\w+\{(?P<key>\w+),.*author=\{(?P<authors>.*)\}, "
        r"(?:booktitle|journal)=.*year=\{(?P<year>\d+)\}",
        bib,
    )
    for entry in entries:
        family = [author.split(",")[0] for author in entry["authors"].split(" and ")]
        who = f"{family[0]} et al." if len(family) > 2 else " & ".join(family)
        names[f"{who}, {entry['year']}"] = entry["key"]
    return names


def typst_theory(markdown, names):
    """Returns a part of theory.md as Typst: citations linked, headings one level up.

    Raises:
        ValueError: a work is cited that refs.bib does not have.
    """

    def link(match):
        work = " ".join(match[0].split())
        if work not in names:
            raise ValueError(
                f"theory.md cites «{work}», which report/refs.bib does not have"
            )
        return f"[{work.replace(' & ', ' and ')}](#ref-{names[work]})"

    work = r"[^\W\d_]+\s(?:et\sal\.|&\s[^\W\d_]+),\s\d{4}"
    markdown = re.sub(work, link, markdown)
    # the pandoc that pypandoc_binary brings, not another one on PATH
    name = "pandoc.exe" if sys.platform == "win32" else "pandoc"
    os.environ["PYPANDOC_PANDOC"] = str(
        Path(pypandoc.__file__).with_name("files") / name
    )
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


def parameters(notebook):
    """Returns the literals of the cell tagged `parameters`: {"EPOCHS": 10, ...}.

    Raises:
        ValueError: there is no such cell.
    """
    (source,) = code_parts(notebook, ["parameters"])
    values = {}
    for node in ast.parse(source).body:
        values[node.targets[0].id] = ast.literal_eval(node.value)
    return values


def notebook_of(out, name):
    """Returns the notebook (its JSON) that gave the results in `out`.

    A quick run's copy is beside its results; otherwise it is the repository's.
    """
    path = out / name
    if not path.exists():
        path = ROOT / name
    return json.loads(path.read_text("utf-8"))


def write(path, data):
    """Writes text or bytes to `path`, whole or, where that fails, not at all."""
    if isinstance(data, str):
        data = data.encode("utf-8")
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        # a full disk names no file
        raise OSError(error.errno, error.strerror, str(path)) from None


def prepare(out=REPORT):
    """Puts all that Typst reads into out/build, and returns that folder.

    The report's sources, figures, results, the notebooks' parameters and listings,
    theory.md's parts.
    """
    build = out / "build"
    for folder in ("figures", "results"):
        # what an earlier build left there would hide that it is missing now
        shutil.rmtree(build / folder, ignore_errors=True)
        (build / folder).mkdir(parents=True, exist_ok=True)
        for path in sorted((out / folder).glob("*")):
            # not a folder, such as Jupyter's .ipynb_checkpoints
            if path.is_file():
                write(build / folder / path.name, path.read_bytes())
    for name in SOURCES:
        write(build / name, (REPORT / name).read_bytes())
    for name in BENCHMARKS:
        if not (build / name).exists() and (REPORT / name).exists():
            write(build / name, (REPORT / name).read_bytes())

    for name, notebook in (("vae", "VAE.ipynb"), ("flow", "RealNVP.ipynb")):
        values = json.dumps(parameters(notebook_of(out, notebook)), indent=1)
        write(build / f"{name}.parameters.json", values)
    for name, (notebook, *parts) in LISTINGS.items():
        code = listing(notebook_of(out, notebook), *parts)
        write(build / f"{name}.py", code)

    theory = (ROOT / "theory.md").read_text("utf-8")
    names = citations((REPORT / "refs.bib").read_text("utf-8"))
    for name, headings in THEORY.items():
        part = typst_theory(theory_part(theory, headings), names)
        part = '#import "template.typ": *\n' + part
        write(build / f"theory-{name}.typ", part)
    return build


def compile_report(out=REPORT, **cover):
    """Returns the PDF's bytes, and what its results do not bear: a list of lines.

    Args:
        out: the folder with figures/ and results/.
        cover: name and number of the student; blank lines otherwise.

    Raises:
        ValueError: Typst stopped (a missing number or figure is named) or warned. A
            glyph that no font has stops it, too: PDF/A-2u does not allow one.
    """
    build = prepare(out)
    try:
        compiler = typst.Compiler(
            str(build / "main.typ"),
            root=str(build),
            font_paths=[str(REPORT / "fonts")],
            ignore_system_fonts=True,
            sys_inputs=cover,
        )
        # a time of its own: the same sources, the same bytes
        pdf, warnings = compiler.compile_with_warnings(
            pdf_standards=["a-2u"], timestamp=315532800
        )
        marks = json.loads(compiler.query("<mark>", field="value"))
    except typst.TypstError as e:
        found = getattr(e, "diagnostic", None) or str(e)
        raise ValueError(found.removeprefix("error: ").strip()) from None
    if warnings:
        raise ValueError("Typst warned: " + "; ".join(w.message for w in warnings))
    pages = {}
    for mark in marks:
        pages.setdefault(mark["message"], []).append(str(mark["page"]))
    found = []
    for message, places in pages.items():
        found.append(f"page {', '.join(dict.fromkeys(places))}: {message}")
    return pdf, found


def student(lastname, number):
    """Returns last name and number as HW2_[Lastname]_[StudentNumber].zip has them.

    The name in composed letters; the number in the digits 0-9, whatever it came in.

    Raises:
        ValueError: there is something else in one of them.
    """
    lastname = unicodedata.normalize("NFC", lastname)
    # letters and their marks; between them hyphens or half-spaces
    kinds = ["-" if c in "-\u200c" else unicodedata.category(c)[0] for c in lastname]
    if not re.fullmatch("L[LM]*(-L[LM]*)*", "".join(kinds)):
        raise ValueError(
            "the last name must be letters, with hyphens or half-spaces inside at "
            f"most, got {lastname!r}"
        )
    if not number.isdecimal():
        raise ValueError(f"the student number must be digits, got {number!r}")
    return lastname, "".join(str(unicodedata.decimal(digit)) for digit in number)


def figure_cells_without_a_figure(notebook):
    """Returns how many cells of `notebook` (its JSON) save a figure and show none."""
    count = 0
    for cell in code_cells(notebook):
        if not re.search(r"^\s*save\(", "".join(cell["source"]), re.M):
            continue
        kinds = [kind for output in cell["outputs"] for kind in output.get("data", {})]
        count += not any(kind.startswith("image/") for kind in kinds)
    return count


def zip_files(with_data=False):
    """Returns the paths, relative to the root, handed in beside report/report.pdf.

    Raises:
        ValueError: one is missing, or a notebook has cells without a run or a figure.
    """
    names = ["VAE.ipynb", "RealNVP.ipynb", "theory.md", "requirements.txt", "README.md"]
    patterns = ["report/*.py", "report/*.typ", "report/theory.lua", "report/refs.bib"]
    patterns += ["report/fonts/*", "report/figures/*", "report/results/*.json"]
    if with_data:
        patterns += ["data/README.md", "data/MNIST/raw/*.gz"]
    for pattern in patterns:
        found = [path for path in ROOT.glob(pattern) if path.is_file()]
        if not found:
            raise ValueError(f"nothing to hand in matches {pattern}")
        names += [path.relative_to(ROOT).as_posix() for path in found]

    for name in names:
        if not (ROOT / name).is_file():
            raise ValueError(f"{name} is missing")
        if not name.endswith(".ipynb"):
            continue
        notebook = json.loads((ROOT / name).read_text("utf-8"))
        if not all(cell["execution_count"] for cell in code_cells(notebook)):
            raise ValueError(
                f"{name} has cells that were not run; hand in notebooks with outputs"
            )
        if figure_cells_without_a_figure(notebook):
            raise ValueError(
                f"{name} has cells whose figure is not in their output; run it again"
            )
    return sorted(names)


def zip_bytes(files):
    """Returns a zip of {name: bytes}; the same files give the same bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            # Unix, on every system, so that the permissions below count
            info.create_system = 3
            info.external_attr = 0o100644 << 16
            archive.writestr(info, files[name], compresslevel=9)
    return out.getvalue()


def hand_in(lastname, number, name=None, with_data=False, force=False, anyway=False):
    """Writes HW2_[lastname]_[number].zip to the repository's root and returns its path.

    Args:
        lastname, number: of the student, for the zip's name and the cover.
        name: the full name for the cover (default: the last name).
        with_data: put MNIST's four files in too.
        force: overwrite an existing zip.
        anyway: also if the report has sentences that its results do not bear.

    Raises:
        ValueError: one of these, a name or number that does not fit, a missing file, or
            numbers of held-out images in place of the test set.
    """
    lastname, number = student(lastname, number)
    for notebook in ("VAE.ipynb", "RealNVP.ipynb"):
        if parameters(notebook_of(ROOT, notebook))["VALIDATE"]:
            raise ValueError(
                f"{notebook} has VALIDATE = True: its numbers are of held-out training "
                "images, not of the test set; run it with False, and hand in that"
            )
    path = ROOT / f"HW2_{lastname}_{number}.zip"
    if path.exists() and not force:
        raise ValueError(f"{path.name} exists already; --force overwrites it")
    files = {name: (ROOT / name).read_bytes() for name in zip_files(with_data)}
    # for a grader: in Persian, and without what the zip has not
    own = REPORT / "README.zip.md"
    if own.is_file():
        files["README.md"] = own.read_bytes()
    name = unicodedata.normalize("NFC", name or lastname)
    files["report/report.pdf"], marks = compile_report(name=name, number=number)
    if marks and not anyway:
        raise ValueError(
            "the results do not bear all that the report says; change its text, or "
            "hand it in with the marks: --anyway\n" + "\n".join(marks)
        )
    write(path, zip_bytes(files))
    return path


def main(argv=None):
    """The command line: see the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", metavar="DIR", help="folder of figures and results")
    zipped = parser.add_argument_group("the zip to hand in")
    zipped.add_argument("--lastname", help="as in HW2_[Lastname]_[StudentNumber].zip")
    zipped.add_argument("--student-number", help="the same")
    zipped.add_argument("--name", help="full name for the cover (default: last name)")
    zipped.add_argument("--with-data", action="store_true", help="with MNIST (11 MB)")
    zipped.add_argument("--force", action="store_true", help="overwrite a zip")
    zipped.add_argument(
        "--anyway", action="store_true", help="although the report has marked sentences"
    )
    args = parser.parse_args(argv)
    options = {
        key: getattr(args, key) for key in ("name", "with_data", "force", "anyway")
    }
    both = args.lastname is not None and args.student_number is not None
    either = args.lastname is not None or args.student_number is not None
    if (either or any(options.values())) and not both:
        parser.error("a zip needs both --lastname and --student-number")
    if both and args.out:
        parser.error("a zip is made from the notebooks' own results, without --out")
    for stream in (sys.stdout, sys.stderr):
        # a terminal that cannot show a sign shows another; Jupyter's and IDLE's can
        with suppress(AttributeError):
            stream.reconfigure(errors="replace")

    try:
        if both:
            path = hand_in(args.lastname, args.student_number, **options)
        else:
            out = Path(args.out).resolve() if args.out else REPORT
            path = out / "report.pdf"
            pdf, marks = compile_report(out)
            write(path, pdf)
            if marks:
                print("marked in the report, because the results do not bear it:")
            for mark in marks:
                print(f"  {mark}")
    except ValueError as e:
        sys.exit(f"error: {e}")
    except OSError as e:
        sys.exit(
            f"error: {e.filename} cannot be written or read ({e.strerror}); close it "
            "where it is open, or make it writable, and try again"
        )
    print(f"{path}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nstopped; what was there is as it was")
