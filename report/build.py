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
sources give the same PDF.
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
# a result that the notebooks do not write: in report/ for every run
BENCHMARKS = ("results/samples.json",)
NOTEBOOKS = {"vae": "VAE.ipynb", "flow": "RealNVP.ipynb"}
LISTINGS = {  # listing -> notebook, then cells by their tag, definitions by their name
    "todo-2a": ("VAE.ipynb", "todo-2a"),
    "todo-2b": (
        "VAE.ipynb",
        "todo-2b",
        "VAE.log_likelihood",
        "kl_normal",
        "log_bernoulli_with_logits",
    ),
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
    "bernoulli": [*VAE_PART, "لگاریتم درست‌نمایی برنولی"],
    "nelbo": [*VAE_PART, "منفی ELBO"],
    "loss": [*VAE_PART, "تابع هزینهٔ آموزش"],
    "niwae": [*VAE_PART, "منفی کران IWAE"],
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
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [cell for cell in code if "".join(cell["source"]).strip()]


def definitions(source):
    """Yields (name, lines) of the functions, classes and methods, as "Class.method"."""
    tree = ast.parse(source)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    for parent in [tree, *classes]:
        owner = "" if parent is tree else f"{parent.name}."
        for node in parent.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                first = min(part.lineno for part in [node, *node.decorator_list])
                lines = source.splitlines()[first - 1 : node.end_lineno]
                yield owner + node.name, textwrap.dedent("\n".join(lines))


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


def listing(notebook, *parts):
    """Returns what `code_parts` finds, for print: without docstrings and guards."""
    source = "\n\n".join(code_parts(notebook, parts)) + "\n"
    dropped = set()
    for parent in ast.walk(ast.parse(source)):
        if isinstance(parent, ast.FunctionDef | ast.ClassDef):
            for node in parent.body:
                doc = isinstance(node, ast.Expr) and isinstance(
                    node.value, ast.Constant
                )
                guard = isinstance(node, ast.If) and isinstance(
                    node.body[-1], ast.Raise
                )
                if doc or (guard and not node.orelse):
                    dropped.update(range(node.lineno, node.end_lineno + 1))

    kept = []
    for number, line in enumerate(source.splitlines(), 1):
        # the blank line after a docstring or a guard goes, too
        if number in dropped or (not line and number - 1 in dropped):
            continue
        # theory.md's anchors mean nothing in print
        kept.append(re.sub(r"(#.*) \(eq-[a-z-]+\)", r"\1", line))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)) + "\n"


def theory_part(text, headings):
    """Returns what stands in `text` (Markdown) under headings[0], then headings[1]…"""
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
    entry = r"@\w+\{(\w+),.*author=\{(.*)\}, (?:booktitle|journal)=.*year=\{(\d+)\}"
    for key, authors, year in re.findall(entry, bib):
        family = [author.split(",")[0] for author in authors.split(" and ")]
        who = f"{family[0]} et al." if len(family) > 2 else " & ".join(family)
        names[f"{who}, {year}"] = key
    return names


def typst_theory(markdown, names):
    """Returns a part of theory.md as Typst: citations linked, headings one level up."""

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
    files = Path(pypandoc.__file__).with_name("files")
    os.environ["PYPANDOC_PANDOC"] = shutil.which("pandoc", path=files)
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
    """Returns a notebook's literals with names in capitals: {"EPOCHS": 10, ...}."""
    values = {}
    for cell in code_cells(notebook):
        for node in ast.parse("".join(cell["source"])).body:
            name = ast.unparse(node.targets[0]) if isinstance(node, ast.Assign) else ""
            # not what the cell computes, such as a Path
            if name.isupper():
                with suppress(ValueError):
                    values[name] = ast.literal_eval(node.value)
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
        # a full disk names no file
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        part.unlink(missing_ok=True)


def prepare(out=REPORT):
    """Puts all that Typst reads into out/build, and returns that folder.

    The report's sources, figures, results, the notebooks' parameters and listings,
    theory.md's parts.
    """
    build = out / "build"
    sources = {name: REPORT / name for name in (*SOURCES, *BENCHMARKS)}
    for folder in ("figures", "results"):
        # what an earlier build left there would hide that it is missing now
        shutil.rmtree(build / folder, ignore_errors=True)
        (build / folder).mkdir(parents=True, exist_ok=True)
        for path in (out / folder).glob("*"):
            # not a folder, such as Jupyter's .ipynb_checkpoints
            if path.is_file():
                sources[f"{folder}/{path.name}"] = path
    for name, path in sources.items():
        write(build / name, path.read_bytes())

    for name, notebook in NOTEBOOKS.items():
        values = json.dumps(parameters(notebook_of(out, notebook)), indent=1)
        write(build / f"{name}.parameters.json", values)
    for name, (notebook, *parts) in LISTINGS.items():
        write(build / f"{name}.py", listing(notebook_of(out, notebook), *parts))

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
        ValueError: Typst warned, or stopped where a number, figure or glyph is missing.
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
        # a dict as a set that keeps its order
        pages.setdefault(mark["message"], {})[str(mark["page"])] = True
    return pdf, [f"page {', '.join(pages[text])}: {text}" for text in pages]


def student(lastname, number):
    """Returns last name and number as HW2_[Lastname]_[StudentNumber].zip has them.

    The name in composed letters; the number in the digits 0-9, whatever it came in.
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


def check_complete(name):
    """Raises a ValueError where a notebook has not what is asked for."""
    notebook = json.loads((ROOT / name).read_text("utf-8"))
    if parameters(notebook)["VALIDATE"]:
        raise ValueError(
            f"{name} has VALIDATE = True: its numbers are of held-out training "
            "images, not of the test set; run it with False, and hand in that"
        )
    for cell in code_cells(notebook):
        if not cell["execution_count"]:
            raise ValueError(
                f"{name} has cells that were not run; hand in notebooks with outputs"
            )
        saves = re.search(r"^\s*save\(", "".join(cell["source"]), re.MULTILINE)
        if saves and '"image/' not in json.dumps(cell["outputs"]):
            raise ValueError(
                f"{name} has cells whose figure is not in their output; run it again"
            )


def zip_files(with_data):
    """Returns the files handed in beside report/report.pdf: {name: bytes}."""
    patterns = [*NOTEBOOKS.values(), "theory.md", "requirements.txt", "README.md"]
    patterns += ["report/*.py", "report/*.typ", "report/theory.lua", "report/refs.bib"]
    patterns += ["report/fonts/*", "report/figures/*", "report/results/*.json"]
    if with_data:
        patterns += ["data/README.md", "data/MNIST/raw/*.gz"]
    files = {}
    for pattern in patterns:
        found = [path for path in ROOT.glob(pattern) if path.is_file()]
        if not found:
            raise ValueError(f"nothing to hand in matches {pattern}")
        for path in found:
            files[path.relative_to(ROOT).as_posix()] = path.read_bytes()
    return files


def hand_in(args):
    """Writes the zip that `main` was asked for, and returns its path."""
    lastname, number = student(args.lastname, args.student_number)
    path = ROOT / f"HW2_{lastname}_{number}.zip"
    if path.exists() and not args.force:
        raise ValueError(f"{path.name} exists already; --force overwrites it")
    files = zip_files(args.with_data)
    # for a grader: in Persian, and without what the zip has not
    own = REPORT / "README.zip.md"
    if own.is_file():
        files["README.md"] = own.read_bytes()
    for notebook in NOTEBOOKS.values():
        check_complete(notebook)

    name = unicodedata.normalize("NFC", args.name or lastname)
    files["report/report.pdf"], marks = compile_report(name=name, number=number)
    if marks and not args.anyway:
        raise ValueError(
            "the results do not bear all that the report says; change its text, or "
            "hand it in with the marks: --anyway\n" + "\n".join(marks)
        )
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(files):
            archive.writestr(file, files[file])
    write(path, data.getvalue())
    return path


def main(argv=None):
    """The command line: see the top of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", metavar="DIR", help="folder of figures and results")
    group = parser.add_argument_group("the zip to hand in")
    group.add_argument("--lastname", help="as in HW2_[Lastname]_[StudentNumber].zip")
    group.add_argument("--student-number", help="the same")
    group.add_argument("--name", help="full name for the cover (default: last name)")
    group.add_argument("--with-data", action="store_true", help="with MNIST (11 MB)")
    group.add_argument("--force", action="store_true", help="overwrite a zip")
    group.add_argument("--anyway", action="store_true", help="with marked sentences")
    args = parser.parse_args(argv)
    given = [value for key, value in vars(args).items() if key != "out"]
    zipped = any(value not in (None, False) for value in given)
    if zipped and None in (args.lastname, args.student_number):
        parser.error("a zip needs both --lastname and --student-number")
    if zipped and args.out:
        parser.error("a zip is made from the notebooks' own results, without --out")
    for stream in (sys.stdout, sys.stderr):
        # a terminal that cannot show a sign shows another; Jupyter's and IDLE's can
        with suppress(AttributeError):
            stream.reconfigure(errors="replace")

    try:
        if zipped:
            path = hand_in(args)
        else:
            out = Path(args.out).resolve() if args.out else REPORT
            path = out / "report.pdf"
            pdf, marks = compile_report(out)
            write(path, pdf)
            if marks:
                marks.insert(0, "marked in the report; the results do not bear it:")
                print("\n  ".join(marks))
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
