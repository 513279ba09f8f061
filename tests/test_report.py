"""The report and the zip to hand in, built in a copy of the repository."""

import ast
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata
import zipfile

import nb
import pytest
import typst
from pypdf import PdfReader

MAIN = (nb.ROOT / "report/main.typ").read_text("utf-8")
NOTEBOOKS = ("VAE.ipynb", "RealNVP.ipynb")
# the assignment's items
ITEMS = "۱-الف ۱-ب ۱-ج ۱-د ۲-الف ۲-ب ۲-ج ۲-د ۲-ه ۳-الف ۳-ب ۳-ج ۳-د".split()
STUDENT = ["--lastname", "Rezaei", "--student-number", "401234567"]
# decimals that are typed: sections of the RealNVP paper
SECTIONS = {"۳.۱", "۳.۲", "۳.۳", "۳.۴", "۳.۵", "۳.۶", "۳.۷", "۴.۱"}


def copy_tree(folder):
    """Copies what the build reads to `folder` and returns the copy's build.py."""
    without = shutil.ignore_patterns("build", "__pycache__")
    shutil.copytree(nb.ROOT / "report", folder / "report", ignore=without)
    for name in (*NOTEBOOKS, "theory.md", "requirements.txt", "README.md"):
        shutil.copy(nb.ROOT / name, folder)
    return nb.load_script("build", folder)


@pytest.fixture
def build(tmp_path):
    """build.py of a copy that a test may change."""
    return copy_tree(tmp_path)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The same, of a copy that is built once and not changed."""
    module = copy_tree(tmp_path_factory.mktemp("built"))
    module.pdf, module.marks = module.compile_report()
    return module


def query(build, selector):
    """Returns the report's elements of one kind, as Typst tells them."""
    folder = build.REPORT / "build"
    text = typst.query(
        str(folder / "main.typ"),
        selector,
        root=str(folder),
        font_paths=[str(build.REPORT / "fonts")],
        ignore_system_fonts=True,
    )
    return json.loads(text)


def edit(path, old, new):
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def edit_parameter(path, line):
    """Puts a line like "EPOCHS = 2" in the place of the one that it names."""
    name = line.partition(" = ")[0]
    text, count = re.subn(rf'"{name} = .*?(?=  #)', f'"{line}', path.read_text("utf-8"))
    assert count == 1
    path.write_text(text, encoding="utf-8")


def edit_json(build, name, change):
    path = build.REPORT / f"results/{name}.json"
    data = json.loads(path.read_text("utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def run_build(build, *arguments, **env):
    """Runs build.py as people do; returns its exit status, output and error."""
    command = [sys.executable, str(build.REPORT / "build.py"), *arguments]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True)
    return done.returncode, done.stdout, done.stderr


# the PDF


def test_the_same_sources_give_the_same_bytes_as_committed(built, build):
    pdf, _ = build.compile_report()
    assert pdf == built.pdf
    committed = (nb.ROOT / "report/report.pdf").read_bytes()
    version = re.compile(rb"Typst [0-9.]+")
    if version.search(committed)[0] != version.search(pdf)[0]:
        pytest.skip("report.pdf was built with another version of Typst")
    assert committed == pdf, "run python report/build.py"


def test_the_committed_results_bear_what_the_report_says(built):
    for name in ("vae", "realnvp", "samples"):
        if not nb.is_committed(f"report/results/{name}.json"):
            pytest.skip("your own run's results: build.py lists what they do not bear")
    assert built.marks == []


def test_it_answers_in_the_assignments_order(built):
    def titles(items):
        for item in items:
            if isinstance(item, list):
                yield from titles(item)
            else:
                yield item.title

    found = []
    for title in titles(PdfReader(io.BytesIO(built.pdf)).outline):
        item = title.partition(")")[0]
        if item in ITEMS:
            found.append(item)
    assert found == ITEMS


def test_every_figure_and_table_has_a_caption_and_is_referred_to(built):
    sources = (built.REPORT / "build").glob("*.typ")
    text = "".join(path.read_text("utf-8") for path in sources)
    figures = query(built, "figure")
    for figure in figures:
        label = figure["label"].strip("<>")
        caption = json.dumps(figure["caption"]["body"], ensure_ascii=False)
        assert re.search(r'"text": "[^"]{5}', caption), f"{label} has no caption"
        assert f"@{label}" in text, f"{label} is not referred to"
    # none stands outside of a figure; one may hold two pictures
    bodies = json.dumps([figure["body"] for figure in figures])
    for kind in ("image", "table"):
        captioned = bodies.count(f'"func": "{kind}"')
        assert captioned == len(query(built, kind)) > 5


def test_no_measured_number_is_typed():
    lines = MAIN.splitlines()
    own = [line for line in lines if not line.startswith(("//", "#question"))]
    typed = re.findall(r"[۰-۹]+[.٫][۰-۹]+", "\n".join(own))
    assert set(typed) <= SECTIONS


def test_a_sign_that_no_font_has_stops_the_build(build):
    edit(build.REPORT / "main.typ", "= نتیجه‌گیری", "= نتیجه‌گیری \U00013000")
    with pytest.raises(ValueError, match="could not be displayed"):
        build.compile_report()


# the listings


def test_listings_are_the_notebooks_own_lines(built):
    for name, (notebook, *_) in built.LISTINGS.items():
        printed = (built.REPORT / "build" / f"{name}.py").read_text("utf-8")
        ast.parse(printed)
        own = "\n".join(nb.code_cells(notebook))
        # methods stand at the left edge; the anchors of theory.md mean nothing here
        own = {
            re.sub(r" \(eq-[a-z-]+\)$", "", line).strip() for line in own.splitlines()
        }
        assert {line.strip() for line in printed.splitlines()} <= own


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


def test_a_sentence_that_the_results_do_not_bear_is_marked(build, capsys):
    """…and the zip is refused, unless one insists."""
    edit_json(build, "vae", lambda data: data["niwae_nats"]["5"].update(mean=1000.0))
    build.main([])
    assert "2e says that the bounds are ordered" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2e says that the bounds are ordered"):
        build.main(STUDENT)


def test_a_training_that_was_stopped_by_hand_is_marked(build):
    def stop(data):
        data["history"][-1]["epoch"] = 0.5

    for name in ("vae", "realnvp"):
        edit_json(build, name, stop)
    _, marks = build.compile_report()
    assert sum("stopped after 0.5 of" in mark for mark in marks) == 2


def test_words_that_the_parameters_contradict_are_marked(build):
    """…wherever they stand; the assignment's own are not."""
    other = {"VAE.ipynb": "VALIDATE = True", "RealNVP.ipynb": "PAIRS = 5"}
    for name, line in other.items():
        edit_parameter(build.ROOT / name, line)
    _, marks = build.compile_report()
    (test_set,) = [mark for mark in marks if "VALIDATE = True" in mark]
    (pairs,) = [mark for mark in marks if "PAIRS is 5" in mark]
    for mark in test_set, pairs:
        assert mark.startswith("page 1, ") and mark.count(",") > 3
    # of the flow's pages only what compares it with the VAE
    assert len(test_set.split(":")[0].split(",")) < 14
    with pytest.raises(SystemExit, match="VAE.ipynb has VALIDATE = True"):
        hand_in(build)


def test_a_missing_number_figure_source_or_part_is_named(tmp_path):
    def number(build):
        edit_json(build, "vae", lambda data: data["niwae_nats"]["50"].pop("std"))

    def figure(build):
        (build.REPORT / "figures/realnvp_samples.png").unlink()

    def source(build):
        heading = "### ج) فروپاشی پسین\n"
        edit(build.ROOT / "theory.md", heading, heading + "\n(Nobody et al., 2016)\n")

    def part(build):
        edit(build.ROOT / "theory.md", "### ج) فروپاشی", "### فروپاشی")

    for change, message in (
        (number, "std"),
        (figure, "realnvp_samples.png"),
        (source, "Nobody et al., 2016"),
        (part, "heading of level 3 .* «ج"),
    ):
        folder = tmp_path / change.__name__
        folder.mkdir()
        build = copy_tree(folder)
        change(build)
        with pytest.raises(ValueError, match=message):
            build.compile_report()


def test_the_bundled_pandoc_is_used_whatever_is_on_the_path(built, build, tmp_path):
    other = tmp_path / "bin/pandoc"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\necho another pandoc\n", encoding="utf-8")
    other.chmod(0o755)
    path = f"{other.parent}{os.pathsep}{os.environ['PATH']}"
    status, _, error = run_build(build, PATH=path, PYPANDOC_PANDOC=str(other))
    assert status == 0, error
    assert (build.REPORT / "report.pdf").read_bytes() == built.pdf


def test_it_builds_in_odd_places(build, built, monkeypatch):
    """In a kernel, from a read-only checkout, beside what Jupyter and others leave."""
    for path in build.REPORT.rglob("*"):
        if path.is_file():
            path.chmod(0o444)
    for folder in ("figures", "results"):
        (build.REPORT / folder / ".ipynb_checkpoints").mkdir()
    # has no `reconfigure`
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    for _ in range(2):
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


def test_a_pdf_that_cannot_be_written_is_named_in_one_line(build):
    pdf = build.REPORT / "report.pdf"
    pdf.unlink()
    # as a file that is open elsewhere on Windows, or read-only
    pdf.mkdir()
    status, _, error = run_build(build)
    assert status == 1
    (line,) = error.decode("utf-8").splitlines()
    assert "report.pdf" in line and "try again" in line


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
    """…and the same files give the same bytes."""
    build.compile_report = lambda **cover: (str(cover).encode(), [])
    first = hand_in(build).read_bytes()
    with pytest.raises(SystemExit, match="HW2_Rezaei_401234567.zip exists already"):
        hand_in(build, "--name", "رضا رضایی")
    assert hand_in(build, "--force").read_bytes() == first
    assert hand_in(build, "--force", "--name", "رضا رضایی").read_bytes() != first


def test_the_zip_with_data(build):
    build.compile_report = lambda **cover: (b"a report", [])
    without = shutil.ignore_patterns("*-ubyte")
    shutil.copytree(nb.ROOT / "data", build.ROOT / "data", ignore=without)
    with zipfile.ZipFile(hand_in(build, "--with-data")) as archive:
        data = [
            name for name in archive.namelist() if name.startswith("data/MNIST/raw")
        ]
    assert len(data) == 4


def test_a_notebook_without_a_run_or_a_figure_is_not_handed_in(build):
    path = build.ROOT / "VAE.ipynb"
    whole = path.read_text("utf-8")
    cells = json.loads(whole)["cells"]

    def change(cell, **values):
        notebook = json.loads(whole)
        notebook["cells"][cells.index(cell)].update(values)
        path.write_text(json.dumps(notebook), encoding="utf-8")

    code = [cell for cell in cells if cell["cell_type"] == "code"]
    change(code[0], execution_count=None)
    with pytest.raises(SystemExit, match="VAE.ipynb has cells that were not run"):
        hand_in(build)
    # as Jupyter leaves a notebook, in which somebody wants figures as SVG
    notebook = json.loads(whole.replace('"image/png"', '"image/svg+xml"'))
    notebook["cells"].append({**code[-1], "source": [], "execution_count": None})
    path.write_text(json.dumps(notebook), encoding="utf-8")
    assert "VAE.ipynb" in build.zip_files()
    drawing = [cell for cell in code if "\nsave(" in "".join(cell["source"])]
    change(drawing[0], outputs=[])
    with pytest.raises(SystemExit, match="VAE.ipynb .* figure is not in their output"):
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


def test_a_terminal_that_cannot_show_the_name(build):
    name = "حسن‌زاده"
    arguments = [f"--lastname={name}", "--student-number=۴۰۱۲۳۴۵۶۷", "--anyway"]
    status, _, error = run_build(build, *arguments, PYTHONIOENCODING="cp1252")
    assert status == 0, error
    assert (build.ROOT / f"HW2_{name}_401234567.zip").exists()
