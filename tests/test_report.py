"""The report and the zip to hand in, built in a copy of the repository: nothing here writes to the repository."""

import ast
import importlib.util
import io
import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import typst
from pypdf import PdfReader
from test_theory import other_terms

ROOT = Path(__file__).resolve().parents[1]
MAIN = (ROOT / "report/main.typ").read_text("utf-8")
HEADINGS = """فرض‌ها و قراردادها
 نمادها و راهنما
سوال اول
 ۱-الف) واگرایی KL دو توزیع گاوسی
 ۱-ب) کران IWAE
 ۱-ج) فروپاشی پسین
 ۱-د) کران پایین شواهد (ELBO)
سوال دوم
 ۲-الف) ترفند بازپارامتری‌سازی
 ۲-ب) منفی ELBO
 ۲-ج) آموزش و نمودارها
 ۲-د) کران IWAE
 ۲-ه) مقدار کران IWAE روی دادهٔ آزمون
سوال سوم
 ۳-الف) قضیهٔ تغییر متغیر
 ۳-ب) مقالهٔ RealNVP
 ۳-ج) دترمینان ژاکوبیان لایهٔ کوپلینگ
 ۳-د) پیاده‌سازی RealNVP روی MNIST
وارسی پیاده‌سازی
نتیجه‌گیری
مراجع
پیوست الف: رابطه‌های پیاده‌سازی
 مدل VAE
 مدل RealNVP
پیوست ب: حد و نرخ کران IWAE
پیوست ج: برنامه و شکل‌های تکمیلی
بازتولید نتایج"""
PAGES = 26
README = {  # how a row of the README's table begins -> where its numbers are: (file, keys…)
    "VAE, negative ELBO": [("vae", "nelbo_repeats_nats", "mean")],
    "VAE, negative IWAE": [
        ("vae", "niwae_nats", m, "mean") for m in ("5", "50", "150")
    ],
    "VAE, −log p(x)": [("vae", "nll_nats"), ("vae", "nll_standard_error_nats")],
    "VAE, active": [("vae", "active_units"), ("vae", "config", "z_dim")],
    "RealNVP, bits/dim, mean": [("realnvp", "test_bits_per_dim")],
    "RealNVP, bits/dim, log-mean": [("realnvp", "test_log_mean_bits_per_dim")],
}


def copy_tree(folder):
    """Copies what the build reads to `folder` and returns the copy's build.py as a module."""
    shutil.copytree(
        ROOT / "report",
        folder / "report",
        ignore=shutil.ignore_patterns("build", "__pycache__"),
    )
    for name in (
        "VAE.ipynb",
        "RealNVP.ipynb",
        "theory.md",
        "requirements.txt",
        "README.md",
    ):
        shutil.copy(ROOT / name, folder)
    spec = importlib.util.spec_from_file_location("build", folder / "report/build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def build(tmp_path):
    return copy_tree(tmp_path)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return copy_tree(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def pdf(built):
    return built.compile_report()


def query(build, selector):
    """Returns the report's elements of one kind, as Typst tells them."""
    options = {"font_paths": [str(build.REPORT / "fonts")], "ignore_system_fonts": True}
    return json.loads(
        typst.query(
            str(build.REPORT / "main.typ"), selector, root=str(build.REPORT), **options
        )
    )


def edit(path, old, new):
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def edit_json(build, name, change):
    path = build.REPORT / f"results/{name}.json"
    data = json.loads(path.read_text("utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def typst_version(pdf):
    return re.search(rb"Typst ([0-9.]+)", pdf)[1]


# the PDF


def test_same_sources_same_bytes_as_committed(pdf, built, tmp_path):
    assert copy_tree(tmp_path).compile_report() == pdf
    committed = (ROOT / "report/report.pdf").read_bytes()
    if typst_version(committed) != typst_version(pdf):
        pytest.skip("report.pdf was built with another version of Typst")
    assert committed == pdf, "run python report/build.py"


def test_headings_in_the_assignment_s_order(pdf):
    def titles(items, depth=0):
        for item in items:
            if isinstance(item, list):
                yield from titles(item, depth + 1)
            elif depth < 2:
                yield " " * depth + item.title

    assert list(titles(PdfReader(io.BytesIO(pdf)).outline)) == HEADINGS.split("\n")


def test_pages(pdf):
    assert len(PdfReader(io.BytesIO(pdf)).pages) <= PAGES


def test_text_has_no_missing_glyph(pdf, build):
    text = "".join(page.extract_text() for page in PdfReader(io.BytesIO(pdf)).pages)
    assert len(text) > 40_000 and "\ufffd" not in text and "\0" not in text
    edit(
        build.REPORT / "main.typ", "= نتیجه‌گیری", "= نتیجه‌گیری \U00013000"
    )  # no font has this one
    with pytest.raises(ValueError, match="could not be displayed"):
        build.compile_report()


def test_every_figure_and_table_is_captioned_numbered_and_referred_to(pdf, built):
    kinds = {"image": "fig-", "table": "tbl-", "raw": "lst-"}
    text = MAIN + "".join(path.read_text("utf-8") for path in built.BUILD.glob("*.typ"))
    figures = query(built, "figure")
    for figure in figures:
        label = figure["label"].strip("<>")
        assert label.startswith(kinds[figure["kind"]]) and figure["numbering"] == "۱"
        assert re.search(r'"text": "[^"]{5}', json.dumps(figure["caption"]["body"])), (
            f"{label} has no caption"
        )
        assert f"@{label}" in text, f"{label} is not referred to"
    for kind in ("image", "table"):  # none stands outside a figure
        assert (
            sum(figure["kind"] == kind for figure in figures)
            == len(query(built, kind))
            > 9
        )


def test_every_figure_is_used_and_every_used_one_exists():
    used = re.findall(r'pic\("([^"]+)"', MAIN)
    assert len(used) == len(set(used))
    assert set(used) == {path.name for path in (ROOT / "report/figures").iterdir()}


# the text


def test_one_term_for_one_thing():
    own_words = re.sub(
        r"^#question\(.*$", "", MAIN, flags=re.M
    )  # the assignment's words stay as they are
    assert other_terms(own_words) == []


def test_it_is_persian_text_with_persian_letters():
    assert not re.search("[يك٠-٩]", MAIN)


def test_no_measured_number_is_typed():
    own_words = "\n".join(
        line for line in MAIN.splitlines() if not line.startswith(("//", "#question"))
    )
    typed = set(re.findall(r"[۰-۹]+[.٫][۰-۹]+", own_words))
    assert typed <= {
        "۳.۱",
        "۳.۲",
        "۳.۳",
        "۳.۴",
        "۳.۵",
        "۳.۶",
        "۳.۷",
        "۴.۱",
        "۳.۱۱",
    }  # the paper's sections, Python


# the listings


class Stripped(ast.NodeTransformer):
    """Takes docstrings and guards out of a syntax tree, by other means than build.py's."""

    def generic_visit(self, node):
        super().generic_visit(node)
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            if ast.get_docstring(node) is not None:
                del node.body[0]
            guards = [
                n
                for n in node.body
                if isinstance(n, ast.If)
                and isinstance(n.body[-1], ast.Raise)
                and not n.orelse
            ]
            guards += [n for n in node.body if re.match(r"check_\w+\(", ast.unparse(n))]
            node.body = [n for n in node.body if n not in guards]
        return node


def notebook(build, name):
    return json.loads((build.ROOT / name).read_text("utf-8"))


def defined(tree):
    return {
        n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)
    }


def listing_trees(build, name):
    """Returns the syntax trees of a notebook's printed listings."""
    listings = [
        listing for listing, (source, *_) in build.LISTINGS.items() if source == name
    ]
    return [
        ast.parse((build.BUILD / f"{listing}.py").read_text("utf-8"))
        for listing in listings
    ]


def test_listings_are_the_notebooks_own(pdf, built):
    for name, (source, *parts) in built.LISTINGS.items():
        assert f'listing("{name}"' in MAIN
        printed = ast.parse((built.BUILD / f"{name}.py").read_text("utf-8"))
        own = Stripped().visit(
            ast.parse("\n\n".join(built.code_parts(notebook(built, source), parts)))
        )
        assert ast.dump(printed) == ast.dump(own)


def test_no_line_of_a_listing_is_longer_than_the_measure(
    pdf, built, build, monkeypatch
):
    for name in built.LISTINGS:
        lines = (built.BUILD / f"{name}.py").read_text("utf-8").splitlines()
        assert max(map(len, lines)) <= build.LINE
    monkeypatch.setattr(build, "LINE", build.LINE + 2)  # the page knows its own measure
    data = notebook(build, "VAE.ipynb")
    cell = next(c for c in data["cells"] if "todo-2a" in c["metadata"].get("tags", []))
    cell["source"] = "def f(x):\n    return " + "x" * (build.LINE - 11) + "\n"
    (build.ROOT / "VAE.ipynb").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ValueError, match="wider than the page"):
        build.compile_report()


def test_what_a_listing_calls_is_printed_too(pdf, built):
    for name in ("VAE.ipynb", "RealNVP.ipynb"):
        cells = [
            cell
            for cell in notebook(built, name)["cells"]
            if cell["cell_type"] == "code"
        ]
        in_notebook = set().union(
            *(defined(ast.parse("".join(cell["source"]))) for cell in cells)
        )
        trees = listing_trees(built, name)
        printed = set().union(*map(defined, trees))
        calls = {
            n.func for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Call)
        }
        called = {getattr(f, "id", getattr(f, "attr", None)) for f in calls}
        assert called & in_notebook <= printed, called & in_notebook - printed


LONG = """
class A:
    def f(self, first_argument, second_argument, third_argument=None, fourth_argument=(1, 2, 3), fifth_argument=0):
        \"\"\"A docstring.\"\"\"
        check_all(first_argument)  # a guard
        if second_argument < 1:
            raise ValueError(f"second_argument must be at least 1, got {second_argument}, and the message is long")
        if third_argument:
            raise ValueError("a guard with an else is more than a guard")
        else:
            self.third = third_argument
        a = self.f(first_argument, second_argument, third_argument + self.f(1, 2), fourth_argument)  # and a comment
        # a comment on a line of its own that is longer than what fits on one line of the page, so that it is wrapped
        self.first, self.second, self.third, self.fourth = first_argument, second_argument, third_argument, self.fourth
        return [a for a in first_argument if a is not None and a > 0 or self.f("a, b if c", second_argument) is a]
"""


def test_long_lines_are_broken_where_python_allows(build):
    cell = {"cell_type": "code", "metadata": {"tags": ["t"]}, "source": LONG}
    text = build.listing({"cells": [cell]}, "t")
    assert (
        max(map(len, text.splitlines())) <= build.LINE
        and "# and a comment" in text
        and "wrapped" in text
    )
    assert ast.dump(ast.parse(text)) == ast.dump(Stripped().visit(ast.parse(LONG)))
    cell["source"] = "x = " + "y" * 100
    with pytest.raises(ValueError, match="no place to break it: x = yyy"):
        build.listing({"cells": [cell]}, "t")
    with pytest.raises(ValueError, match="tagged, or a definition named, u"):
        build.listing({"cells": [cell]}, "u")


# what stops the build


def test_a_missing_number_is_named(build):
    edit_json(build, "vae", lambda data: data["niwae_nats"]["50"].pop("std"))
    with pytest.raises(ValueError, match="std"):
        build.compile_report()


def test_a_missing_figure_is_named(build):
    (build.REPORT / "figures/realnvp_samples.png").unlink()
    with pytest.raises(ValueError, match="realnvp_samples.png"):
        build.compile_report()


def test_a_check_without_a_persian_name_is_named(build):
    edit_json(
        build,
        "vae",
        lambda data: data["checks"].append(
            {**data["checks"][0], "name": "something_new"}
        ),
    )
    with pytest.raises(ValueError, match="no Persian name for the check something_new"):
        build.compile_report()


def test_a_claim_that_the_numbers_no_longer_bear_out_is_named(build):
    edit_json(build, "vae", lambda data: data["niwae_nats"]["5"].update(mean=1000.0))
    with pytest.raises(ValueError, match="2e says that the bounds are ordered"):
        build.compile_report()


@pytest.mark.parametrize(
    "file, old, new, message",
    [
        (
            "theory.md",
            "### ج) فروپاشی پسین\n",
            "### ج) فروپاشی پسین\n\n(Nobody et al., 2016)\n",
            "Nobody et al., 2016",
        ),
        ("theory.md", "### ج) فروپاشی", "### فروپاشی", "heading of level 3 .* «ج"),
        (
            "report/main.typ",
            "= نتیجه‌گیری",
            '= نتیجه‌گیری\n#text(font: "No Such Font")[الف]',
            "(?i)no such font",
        ),
    ],
    ids=[
        "a source that is not listed",
        "a part of theory.md under another name",
        "a warning",
    ],
)
def test_what_stops_the_build_is_named(build, file, old, new, message):
    edit(build.ROOT / file, old, new)
    with pytest.raises(ValueError, match=message):
        build.compile_report()


# README


@pytest.mark.parametrize("row", README)
def test_numbers_in_the_readme_equal_the_results(row):
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith(f"| {row}")]
    shown = re.findall(r"\d+(?:\.\d+)?", line.split("|")[2])
    assert len(shown) == len(README[row])
    for number, (name, *keys) in zip(shown, README[row], strict=True):
        value = json.loads((ROOT / f"report/results/{name}.json").read_text("utf-8"))
        for key in keys:
            value = value[key]
        assert number == f"{value:.{len(number.partition('.')[2])}f}"


# the zip


def hand_in(build, *arguments):
    build.main(["--lastname", "Rezaei", "--student-number", "401234567", *arguments])
    return build.ROOT / "HW2_Rezaei_401234567.zip"


def test_zip(build, capsys):
    before = {path: path.read_bytes() for path in build.REPORT.glob("*.pdf")}
    path = hand_in(build)
    first = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        report = PdfReader(archive.open("report/report.pdf"))
        for name in set(names) - {"report/report.pdf"}:
            assert archive.read(name) == (build.ROOT / name).read_bytes()
        assert {info.date_time[0] for info in archive.infolist()} == {1980}
        assert {info.external_attr >> 16 for info in archive.infolist()} == {0o100644}
    assert names == sorted(names)
    wanted = {
        "VAE.ipynb",
        "RealNVP.ipynb",
        "theory.md",
        "requirements.txt",
        "README.md",
        "report/report.pdf",
    }
    assert wanted <= set(names) and not any(
        "MNIST" in name or "build/" in name or ".zip" in name for name in names
    )
    assert (
        "Rezaei" in report.pages[0].extract_text()
        and report.metadata.author == "Rezaei"
    )
    assert (
        "۴۰۱۲۳۴۵۶۷" in report.pages[0].extract_text()
        or "۷۶۵۴۳۲۱۰۴" in report.pages[0].extract_text()
    )
    assert before == {
        path: path.read_bytes() for path in build.REPORT.glob("*.pdf")
    }  # its cover stays blank

    with pytest.raises(SystemExit, match="HW2_Rezaei_401234567.zip exists already"):
        hand_in(build, "--name", "رضا رضایی")
    assert path.read_bytes() == first
    hand_in(build, "--force")
    assert path.read_bytes() == first
    hand_in(build, "--force", "--name", "رضا رضایی")
    assert path.read_bytes() != first


def test_zip_with_data(build):
    with pytest.raises(SystemExit, match="data/README.md"):
        hand_in(build, "--with-data")
    shutil.copytree(
        ROOT / "data", build.ROOT / "data", ignore=shutil.ignore_patterns("*-ubyte")
    )
    with zipfile.ZipFile(hand_in(build, "--with-data")) as archive:
        assert (
            sum(
                name.startswith("data/MNIST/raw/") and name.endswith(".gz")
                for name in archive.namelist()
            )
            == 4
        )


def test_a_notebook_without_outputs_is_not_handed_in(build):
    notebook = json.loads((build.ROOT / "VAE.ipynb").read_text("utf-8"))
    next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")[
        "execution_count"
    ] = None
    (build.ROOT / "VAE.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    with pytest.raises(SystemExit, match="VAE.ipynb has cells that were not run"):
        hand_in(build)


@pytest.mark.parametrize(
    "lastname",
    ["", " ", "Ali Rezaei", "a/b", "..", "Re.zaei", "Re_zaei", "Rezaei2", "-a", "a\n"],
)
def test_refused_last_names(build, lastname):
    with pytest.raises(SystemExit, match="last name"):
        build.main([f"--lastname={lastname}", "--student-number=401234567"])
    assert not list(build.ROOT.glob("*.zip"))


@pytest.mark.parametrize(
    "number", ["", "40123456a", "40 1", "-4", "4.5", "۴۰۱۲۳۴۵۶۷", "١٢"]
)
def test_refused_numbers(build, number):
    with pytest.raises(SystemExit, match="student number"):
        build.main(["--lastname=Rezaei", f"--student-number={number}"])
    assert not list(build.ROOT.glob("*.zip"))


@pytest.mark.parametrize("lastname", ["Rezaei", "Rezaei-Nejad", "رضایی"])
def test_accepted_last_names(build, lastname):
    build.check_student(lastname, "401234567")


@pytest.mark.parametrize(
    "arguments",
    [["--lastname=Rezaei"], ["--student-number=4"], ["--with-data"], ["--force"]],
)
def test_half_a_student_is_refused(build, arguments, capsys):
    with pytest.raises(SystemExit) as error:
        build.main(arguments)
    assert (
        error.value.code == 2
        and "both --lastname and --student-number" in capsys.readouterr().err
    )
