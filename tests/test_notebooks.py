"""Both notebooks as files: shape, clean and fresh outputs, and a small run, alone in an empty folder."""

import builtins
import dis
import hashlib
import json
import re
import shutil
import statistics
import types

import nbformat
import pytest
from conftest import ROOT, code_cells, is_definition, load_definitions, source
from nbclient import NotebookClient

NOTEBOOKS = {"VAE.ipynb": "vae.json", "RealNVP.ipynb": "realnvp.json"}
NOTEBOOKS = {name: stored for name, stored in NOTEBOOKS.items() if (ROOT / name).exists()}
TAGS = {
    "VAE.ipynb": ["parameters", "todo-2a", "todo-2b", "todo-2c", "todo-2d", "todo-2e"],
    "RealNVP.ipynb": ["parameters", "todo-3c", "todo-3d", "todo-3d", "todo-3d"],
}
SMALL = {
    "VAE.ipynb": "N_TRAIN = 400; N_TEST = 200; EPOCHS = 1; REPEATS = 2; EXTRA_EPOCHS = 1",
    "RealNVP.ipynb": "N_TRAIN = 600; N_TEST = 200; EPOCHS = 1; COMPARE_EPOCHS = 1; DRAWS = 2",
}
notebooks = pytest.mark.parametrize("name", NOTEBOOKS)


def tags(cell):
    return cell["metadata"].get("tags", [])


def printed(name):
    """All text that the committed outputs show."""
    outputs = [out for cell in code_cells(name) for out in cell["outputs"]]
    return "".join("".join(out.get("text", "")) for out in outputs)


@notebooks
def test_outputs_are_of_one_clean_run(name):
    cells = code_cells(name)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    for out in (out for cell in cells for out in cell["outputs"]):
        assert out["output_type"] != "error" and out.get("name") != "stderr", out
    assert "\r" not in printed(name) and "Warning" not in printed(name) and "http" not in printed(name)
    assert (ROOT / name).stat().st_size < 4_000_000
    assert "widgets" not in json.loads((ROOT / name).read_text("utf-8"))["metadata"]


@notebooks
def test_numbers_belong_to_the_code_beside_them(name):
    stored = json.loads((ROOT / "report/results" / NOTEBOOKS[name]).read_text("utf-8"))
    sources = "\n\n".join(source(cell).strip() for cell in code_cells(name))
    assert stored["code_sha256"] == hashlib.sha256(sources.encode()).hexdigest(), "run the notebook again"
    for key in {"VAE.ipynb": ["nll_nats"], "RealNVP.ipynb": ["test_bits_per_dim"]}[name]:
        assert f"{stored[key]:.3f}" in printed(name)
    assert {"seed", "config", "history", "device", "versions", "minutes"} <= stored.keys()
    assert "total" in stored["minutes"] and len({len(column) for column in stored["history"].values()}) == 1


@notebooks
def test_every_figure_is_saved_by_the_notebooks(name):
    """…and none is left over from an earlier version."""
    prefix = name.removesuffix(".ipynb").lower() + "_"
    code = "\n".join(map(source, code_cells(name)))
    saved = {f"{n}.{kind or 'svg'}" for n, kind in re.findall(r'save\(fig, "(\w+)"(?:, "(\w+)")?\)', code)}
    assert saved == {path.name for path in (ROOT / "report/figures").glob(prefix + "*")}


@notebooks
def test_shape(name):
    cells = code_cells(name)
    lengths = [len(source(cell).splitlines()) for cell in cells]
    assert max(lengths) <= 45 and statistics.median(lengths) <= 12
    found = [tag for cell in cells for tag in tags(cell)]
    assert found == TAGS[name]
    assert not re.search(r"\bTODO\b|NotImplementedError", "\n".join(map(source, cells)))


@notebooks
def test_definitions_and_runs_never_share_a_cell(name):
    import ast

    for cell in code_cells(name):
        kinds = {is_definition(node) for node in ast.parse(source(cell)).body}
        has_def = any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in ast.parse(source(cell)).body)
        assert kinds == {True} or not has_def, source(cell)


@notebooks
def test_functions_use_no_variable_of_a_run(name):
    namespace = load_definitions(name)

    def names(code):
        yield from (i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL")
        for const in code.co_consts:
            if isinstance(const, types.CodeType):
                yield from names(const)

    for cell in code_cells(name):
        for node in compile(source(cell), name, "exec").co_consts:
            if isinstance(node, types.CodeType):  # a function or class of this cell
                unknown = {n for n in names(node) if n not in namespace and not hasattr(builtins, n)}
                assert node.co_name.startswith("<") or not unknown, (node.co_name, unknown)


@notebooks
def test_parameters_are_literals_each_with_its_meaning(name):
    import ast

    (cell,) = [cell for cell in code_cells(name) if "parameters" in tags(cell)]
    for node, line in zip(ast.parse(source(cell)).body, source(cell).splitlines(), strict=True):
        ast.literal_eval(node.value)
        assert "  # " in line


@notebooks
def test_small_run_alone_in_an_empty_folder(name, tmp_path):
    """Only data/ is linked in. The run overrides parameters, as a runner does, by a cell after theirs."""
    before = {path: path.stat().st_mtime_ns for path in (ROOT / "report").rglob("*")}
    shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "data").symlink_to(ROOT / "data")
    nb = nbformat.read(tmp_path / name, as_version=4)
    place = next(i for i, cell in enumerate(nb.cells) if "parameters" in tags(cell))
    nb.cells.insert(place + 1, nbformat.v4.new_code_cell(SMALL[name]))
    NotebookClient(nb, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    stored = json.loads((tmp_path / "report/results" / NOTEBOOKS[name]).read_text("utf-8"))
    assert stored["config"]["epochs"] == 1 and stored["config"]["n_test"] == 200
    assert len(stored["history"]["epoch"]) == 2
    assert len(list((tmp_path / "report/figures").iterdir())) >= 5
    assert before == {path: path.stat().st_mtime_ns for path in (ROOT / "report").rglob("*")}


@pytest.mark.parametrize("damage", [None, b"not MNIST"])
def test_missing_or_damaged_data_is_named_with_its_md5_and_folder(vae, tmp_path, monkeypatch, damage):
    import torchvision

    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [])  # no network
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in (ROOT / "data/MNIST/raw").glob("*.gz"):
        shutil.copy(path, raw)
    bad = raw / "t10k-images-idx3-ubyte.gz"
    bad.unlink()
    if damage:
        bad.write_bytes(damage)
    with pytest.raises(RuntimeError) as error:
        vae.load_mnist(tmp_path, train=False)
    text = str(error.value)
    assert bad.name in text and "9fb629c4189551a2d022fa330f9573f3" in text and str(raw) in text
    assert "train-images" not in text and error.value.__suppress_context__


def test_a_damaged_extracted_file_is_noticed(vae, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in (ROOT / "data/MNIST/raw").glob("*.gz"):
        shutil.copy(path, raw)
    images, labels = vae.load_mnist(tmp_path, train=False)
    assert images.shape == (10_000, 784) and labels[:3].tolist() == [7, 2, 1]
    extracted = raw / "t10k-images-idx3-ubyte"
    extracted.write_bytes(extracted.read_bytes()[:-1] + b"\x07")
    with pytest.raises(RuntimeError, match="t10k-images"):
        vae.load_mnist(tmp_path, train=False)
