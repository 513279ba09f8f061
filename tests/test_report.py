"""The report and the zip to hand in, built in a copy of the repository."""

import ast
import errno
import io
import json
import os
import re
import subprocess
import sys
import unicodedata
import zipfile

import nb
import nbformat
import pytest
from pypdf import PdfReader
from test_runs import copy_repository, saved_figures, with_parameters

MAIN = (nb.ROOT / "report/main.typ").read_text("utf-8")
NOTEBOOKS = ("VAE.ipynb", "RealNVP.ipynb")
# the assignment's items
ITEMS = "۱-الف ۱-ب ۱-ج ۱-د ۲-الف ۲-ب ۲-ج ۲-د ۲-ه ۳-الف ۳-ب ۳-ج ۳-د".split()
STUDENT = ["--lastname", "Rezaei", "--student-number", "401234567"]
# decimals that are typed: sections of the RealNVP paper
SECTIONS = {"۳.۱", "۳.۲", "۳.۳", "۳.۴", "۳.۵", "۳.۶", "۳.۷", "۴.۱"}


@pytest.fixture
def build(tmp_path):
    """build.py of a copy that a test may change."""
    copy_repository(tmp_path)
    return nb.load_script("build", tmp_path)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The same, of a copy that is built once and not changed."""
    folder = tmp_path_factory.mktemp("built")
    copy_repository(folder)
    module = nb.load_script("build", folder)
    module.pdf, module.marks = module.compile_report()
    return module


# the PDF


def test_the_same_sources_give_the_same_bytes_as_committed(built, build):
    pdf, _ = build.compile_report()
    assert pdf == built.pdf
    committed = (nb.ROOT / "report/report.pdf").read_bytes()
    version = re.compile(rb"Typst [0-9.]+")
    if version.search(committed)[0] != version.search(pdf)[0]:
        pytest.skip("report.pdf was built with another version of Typst")
    assert committed == pdf, "run python report/build.py"


def test_its_words_are_found_by_a_search(built):
    pages = [page.extract_text() for page in PdfReader(io.BytesIO(built.pdf)).pages]
    for word in ("توزیع", "مدل", "اول", "نمونه", "کران"):
        assert word in "".join(pages)


def test_the_committed_results_bear_what_the_report_says(built):
    for name in ("vae", "realnvp", "samples"):
        if not nb.is_committed(f"report/results/{name}.json"):
            pytest.skip("your own run's results: build.py lists what they do not bear")
    assert built.marks == []


def test_it_answers_in_the_assignments_order():
    assert re.findall(r"^== (\S+)\) ", MAIN, re.MULTILINE) == ITEMS


def test_every_figure_and_table_has_a_caption_and_is_referred_to(built):
    parts = (built.REPORT / "build").glob("theory-*.typ")
    text = MAIN + "".join(path.read_text("utf-8") for path in parts)
    labels = set(re.findall("<((?:fig|tbl|lst)-[a-z0-9-]+)>", text))
    captions = re.findall(r"#figure\(.*caption: \[\S", text)
    assert len(labels) == len(captions) == text.count("#figure(")
    assert [label for label in labels if f"@{label}" not in text] == []
    # none stands outside of a figure
    assert MAIN.count("pic(") == MAIN.count("#figure(pic(")


def test_every_figure_is_drawn_by_a_notebook():
    kept = {path.name for path in (nb.ROOT / "report/figures").glob("*.*g")}
    assert set(re.findall(r'pic\("([^"]+)"', MAIN)) <= kept
    assert saved_figures("VAE.ipynb") | saved_figures("RealNVP.ipynb") == kept


def test_no_measured_number_is_typed():
    lines = MAIN.splitlines()
    own = [line for line in lines if not line.startswith(("//", "#question"))]
    typed = re.findall(r"[۰-۹]+[.٫][۰-۹]+", "\n".join(own))
    assert set(typed) <= SECTIONS


# the listings


def test_listings_are_code(built):
    for name in built.LISTINGS:
        ast.parse((built.REPORT / "build" / f"{name}.py").read_text("utf-8"))


def test_a_listing_leaves_out_docstrings_and_guards_and_nothing_else(build):
    source = '''class C:
    """A docstring."""

    @staticmethod
    def f(x):
        """Another."""
        if x < 0:
            got = f"{x}"
            raise ValueError(f"x must be positive, got {got}")

        # a comment
        if x > 1:
            return 1
        return x
'''
    method = """@staticmethod
def f(x):
    # a comment
    if x > 1:
        return 1
    return x
"""
    cell = {"cell_type": "code", "metadata": {"tags": ["t"]}, "source": source}
    notebook = {"cells": [cell]}
    assert build.listing(notebook, "C.f") == method
    indented = "".join(f"    {line}\n" for line in method.splitlines())
    for part in ("t", "C"):
        assert build.listing(notebook, part) == "class C:\n" + indented
    with pytest.raises(ValueError, match="tagged, or a definition named, C.g,"):
        build.listing(notebook, "C.g")


# what the results do not bear, and what is missing


def test_what_the_results_do_not_bear_is_marked(build, capsys):
    """…and the zip is refused, unless one insists."""
    for name in ("vae", "realnvp"):
        path = build.REPORT / f"results/{name}.json"
        data = json.loads(path.read_text("utf-8"))
        data["history"][-1]["epoch"] = 0.5
        if name == "vae":
            data["niwae_nats"]["5"]["mean"] = 1000.0
        path.write_text(json.dumps(data), encoding="utf-8")
    build.main([])
    marks = capsys.readouterr().out
    assert "2e says that the bounds are ordered" in marks
    assert marks.count("stopped after 0.5 of") == 2
    with pytest.raises(SystemExit, match="2e says that the bounds are ordered"):
        build.main(STUDENT)


def test_words_that_the_parameters_contradict_are_marked(build):
    """…wherever they stand; the assignment's own are not."""
    other = {"VAE.ipynb": {"VALIDATE": True}, "RealNVP.ipynb": {"PAIRS": 5}}
    for name, values in other.items():
        nbformat.write(with_parameters(name, values), build.ROOT / name)
    _, marks = build.compile_report()
    (test_set,) = [mark for mark in marks if "VALIDATE = True" in mark]
    (pairs,) = [mark for mark in marks if "PAIRS is 5" in mark]
    for mark in test_set, pairs:
        assert mark.startswith("page 1, ") and mark.count(",") > 3
    # of the flow's pages only what compares it with the VAE
    assert len(test_set.split(":")[0].split(",")) < 14
    with pytest.raises(SystemExit, match="VAE.ipynb has VALIDATE = True"):
        hand_in(build)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("report/results/vae.json", '"std"', '"deviation"', "std"),
        ("report/main.typ", '"vae_curves.svg"', '"nowhere.svg"', "nowhere.svg"),
        ("report/main.typ", "\n= ", "\n= \U00013000", "could not be displayed"),
        ("theory.md", "### ج) فروپاشی", "### فروپاشی", "heading of level 3 .* «ج"),
        ("theory.md", "\n### ب)", "(Nobody et al., 2016)\n\n### ب)", "«Nobody et al."),
    ],
)
def test_what_is_missing_is_named(build, file, old, new, message):
    """A number, a figure, a sign in all fonts, a part of theory.md, a source."""
    path = build.ROOT / file
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        build.compile_report()


def test_it_builds_in_odd_places(build, built, tmp_path, monkeypatch):
    """From a read-only checkout, beside what Jupyter and others leave; in a kernel."""
    for path in build.REPORT.rglob("*"):
        if path.is_file():
            path.chmod(0o444)
    for folder in ("figures", "results"):
        (build.REPORT / folder / ".ipynb_checkpoints").mkdir()
    pandoc = tmp_path / "bin/pandoc"
    pandoc.parent.mkdir()
    pandoc.write_text("#!/bin/sh\necho another pandoc\n", encoding="utf-8")
    pandoc.chmod(0o755)
    path = f"{pandoc.parent}{os.pathsep}{os.environ['PATH']}"
    # a terminal that cannot show the name
    name = "حسن‌زاده"
    command = [sys.executable, str(build.REPORT / "build.py"), "--anyway"]
    command += [f"--lastname={name}", "--student-number=۴۰۱۲۳۴۵۶۷"]
    done = subprocess.run(
        command,
        env={**os.environ, "PATH": path, "PYTHONIOENCODING": "cp1252"},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert (build.ROOT / f"HW2_{name}_401234567.zip").exists()

    # once more, over the first one's files; this stream has no `reconfigure`
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setenv("PYPANDOC_PANDOC", str(pandoc))
    build.main([])
    assert (build.REPORT / "report.pdf").read_bytes() == built.pdf
    # what may not be written would stop the next build of another user than root
    for path in (build.REPORT / "build").rglob("*.*"):
        assert path.stat().st_mode & 0o200


def test_on_a_full_disk_nothing_is_lost_and_the_file_is_named(build, monkeypatch):
    build.compile_report = lambda **cover: (b"a report", [])
    before = hand_in(build).read_bytes()

    def write_half(path, data):
        with open(path, "wb") as file:
            file.write(data[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(build.ROOT), "write_bytes", write_half)
    with pytest.raises(SystemExit, match="HW2_Rezaei_401234567.zip .*No space left"):
        hand_in(build, "--force")
    assert (build.ROOT / "HW2_Rezaei_401234567.zip").read_bytes() == before
    assert not list(build.ROOT.glob("*.part"))


# the zip


def hand_in(build, *arguments):
    """Makes the zip, also of results that do not bear all; returns its path."""
    build.main([*STUDENT, "--anyway", *arguments])
    return build.ROOT / "HW2_Rezaei_401234567.zip"


def test_the_zip_has_what_is_asked_for_and_nothing_else(build):
    blank_cover = (build.REPORT / "report.pdf").read_bytes()
    path = hand_in(build)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        report = PdfReader(archive.open("report/report.pdf"))
        for name in names:
            source = {"README.md": "report/README.zip.md"}.get(name, name)
            if name != "report/report.pdf":
                assert archive.read(name) == (build.ROOT / source).read_bytes()
    wanted = {*NOTEBOOKS, "theory.md", "requirements.txt", "README.md"}
    assert wanted | {"report/run.py", "report/report.pdf"} <= set(names)
    assert not [name for name in names if "MNIST" in name or "/build/" in name]
    # its cover has the name, and the repository's stays as it is
    assert "Rezaei" in report.pages[0].extract_text()
    assert report.metadata.author == "Rezaei"
    assert (build.REPORT / "report.pdf").read_bytes() == blank_cover


def test_a_zip_that_is_there_already_is_overwritten_when_one_says_so(build):
    build.compile_report = lambda **cover: (cover["name"].encode(), [])
    first = hand_in(build).read_bytes()
    with pytest.raises(SystemExit, match="HW2_Rezaei_401234567.zip exists already"):
        hand_in(build, "--name", "رضا رضایی")
    path = build.ROOT / "HW2_Rezaei_401234567.zip"
    assert path.read_bytes() == first
    hand_in(build, "--force", "--name", "رضا رضایی", "--with-data")
    with zipfile.ZipFile(path) as archive:
        assert archive.read("report/report.pdf").decode() == "رضا رضایی"
        data = [name for name in archive.namelist() if name.startswith("data/MNIST")]
    assert len(data) == 4


def test_a_notebook_without_a_run_or_a_figure_is_not_handed_in(build):
    path = build.ROOT / "VAE.ipynb"
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    # as Jupyter leaves it
    notebook.cells.append(nbformat.v4.new_code_cell())
    # where somebody wants figures as SVG
    text = nbformat.writes(notebook).replace('"image/png"', '"image/svg+xml"')
    path.write_text(text, encoding="utf-8")
    build.check_complete("VAE.ipynb")

    (drawing, *_) = [cell for cell in code if list(nb.saved(cell.source))]
    drawing.outputs = []
    nbformat.write(notebook, path)
    with pytest.raises(SystemExit, match="VAE.ipynb .* figure is not in their output"):
        hand_in(build)
    code[0].execution_count = None
    nbformat.write(notebook, path)
    with pytest.raises(SystemExit, match="VAE.ipynb has cells that were not run"):
        hand_in(build)


def test_names_and_numbers_as_people_write_them(build):
    for name, number in (
        ("Rezaei-Nejad", "401234567"),
        ("حسن‌زاده", "۴۰۱۲۳۴۵۶۷"),
        (unicodedata.normalize("NFD", "Müller"), "٤٠١٢٣٤٥٦٧"),
    ):
        composed = unicodedata.normalize("NFC", name)
        assert build.student(name, number) == (composed, "401234567")
    for name in ("", "Ali Rezaei", "a/b", "..", "Rezaei2", "-a"):
        with pytest.raises(ValueError, match="last name"):
            build.student(name, "401234567")
    for number in ("", "40123456a", "40 1", "-4", "4.5"):
        with pytest.raises(ValueError, match="student number"):
            build.student("Rezaei", number)
