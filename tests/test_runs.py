"""The notebooks as people run them, with the small parameters of a quick look."""

import ast
import importlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import matplotlib.pyplot as plt
import nb
import nbformat
import numpy as np
import pytest
import torch
from pretended_gpu import DEVICE, PretendedGpu
from torch import nn

RESULTS = {"VAE.ipynb": "vae", "RealNVP.ipynb": "realnvp"}
both = pytest.mark.parametrize("name", RESULTS)


def load_runner(root):
    """Returns report/run.py of a copy of the repository, as a module."""
    spec = importlib.util.spec_from_file_location("run", root / "report/run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SMALL = load_runner(nb.ROOT).SMALL
TINY = {  # smaller still
    "VAE.ipynb": {
        **SMALL["VAE.ipynb"],
        "N_TEST": 20,
        "TIGHTNESS_SAMPLES": 20,
        "GRID_POINTS": 31,
    },
    "RealNVP.ipynb": {
        **SMALL["RealNVP.ipynb"],
        "N_TRAIN": 260,
        "N_TEST": 20,
        "HIDDEN": 8,
        "CHANNELS": 4,
        "UNITS": 4,
    },
}


def start(command, folder, **env):
    """Starts a command with one thread; its output goes to folder/log.txt."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "0", **env}
    with open(folder / "log.txt", "wb") as log:
        return subprocess.Popen(
            command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT
        )


def script(name, parameters):
    """Returns a notebook's code as a script, as "Download as .py" gives it."""
    notebook = nbformat.read(nb.ROOT / name, as_version=4)
    load_runner(nb.ROOT).set_parameters(notebook, parameters)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return "\n\n# In[ ]:\n\n".join(code)


def copy_repository(folder):
    """Copies what people download to `folder`: nothing here writes to the original."""
    for name in ("report", "theory.md", "README.md", "requirements.txt", *RESULTS):
        source = nb.ROOT / name
        if source.is_dir():
            built = shutil.ignore_patterns("build", "__pycache__")
            shutil.copytree(source, folder / name, ignore=built)
        else:
            shutil.copy(source, folder / name)
    (folder / "data").symlink_to(nb.ROOT / "data")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All small runs, two at a time; {what: (folder, its log, its exit status)}.

    quick: `report/run.py --quick`, in a path with blanks and Persian letters, and in
        an environment that has changed whatever can be changed from outside.
    VAE.ipynb, RealNVP.ipynb: alone in an empty folder, as a script without IPython.
    """
    quick = tmp_path_factory.mktemp("my homework – تمرین دوم")
    copy_repository(quick)
    # a user's own style: white on black, figures cut to their ink
    dark = "figure.facecolor: black\nsavefig.facecolor: black\nsavefig.bbox: tight\n"
    (quick / "matplotlibrc").write_text(dark + "image.cmap: jet\nfont.size: 20\n")
    running = {
        "quick": (
            quick,
            start(
                [sys.executable, "report/run.py", "--quick", "--out", "a look"],
                quick,
                MATPLOTLIBRC=str(quick / "matplotlibrc"),
                MPLBACKEND="agg",
                PYTHONIOENCODING="cp1252",
                PYTHONOPTIMIZE="1",
            ),
        )
    }
    for name in RESULTS:
        folder = tmp_path_factory.mktemp("empty")
        (folder / "data").symlink_to(nb.ROOT / "data")
        text = script(name, SMALL[name])
        (folder / "notebook.py").write_text(text, encoding="utf-8")
        without = "import runpy, sys; sys.modules['IPython'] = None; "
        without += "runpy.run_path('notebook.py', run_name='__main__')"
        process = start([sys.executable, "-c", without], folder, PYTHONWARNINGS="error")
        process.wait()
        running[name] = folder, process
    finished = {}
    for what, (folder, process) in running.items():
        status = process.wait()
        log = (folder / "log.txt").read_text("utf-8", errors="replace")
        finished[what] = folder, log, status
    return finished


def read_json(path):
    return json.loads(path.read_text("utf-8"))


def saved_figures(name):
    """Returns the file names of the figures that a notebook saves."""
    found = [pair for text in nb.code_cells(name) for pair in nb.saved(text)]
    return {f"{figure}.{kind}" for figure, kind in found}


def test_a_quick_run_ends_well_and_shows_where_it_is(runs):
    _, log, status = runs["quick"]
    assert status == 0, log
    for name in RESULTS:
        cells = len(nb.code_cells(name))
        assert f"{name}, cell 1 of {cells}: " in log
        assert f"{name}, cell {cells} of {cells}: " in log
    # the notebook's own progress bar, in the character set of the terminal
    assert re.search(r"^ *\d+%\|", log, flags=re.MULTILINE)


def test_a_quick_run_of_one_notebook_builds_no_report(tmp_path, monkeypatch, capsys):
    """The other notebook's numbers would be missing, and Typst would say it badly."""
    runner = load_runner(nb.ROOT)
    monkeypatch.setattr(runner, "run", lambda name, target, values: target.touch())
    command = ["run.py", "--quick", "--out", str(tmp_path), "RealNVP.ipynb"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as end:
        runner.main()
    assert not end.value.code
    assert "needs a quick run of VAE.ipynb" in capsys.readouterr().out
    assert not (tmp_path / "report.pdf").exists()


def test_a_quick_run_writes_to_its_own_folder_only(runs):
    folder, _, _ = runs["quick"]
    for pattern in ("*.ipynb", "report/*.pdf", "report/figures/*", "report/results/*"):
        for path in nb.ROOT.glob(pattern):
            copy = folder / path.relative_to(nb.ROOT)
            assert copy.read_bytes() == path.read_bytes()
    assert (folder / "a look/report.pdf").read_bytes().startswith(b"%PDF")


@both
def test_the_copy_that_ran_is_clean_and_has_its_figures(runs, name):
    folder, _, _ = runs["quick"]
    notebook = nbformat.read(folder / "a look" / name, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    nb.check_one_run(cells)
    nb.check_tidy(cells)
    for cell in cells:
        if re.search(r"^save\(", cell.source, flags=re.MULTILINE):
            kinds = [kind for out in cell.outputs for kind in out.get("data", {})]
            assert "image/png" in kinds, cell.source
    written = {path.name for path in (folder / "a look/figures").iterdir()}
    assert saved_figures(name) <= written


@both
def test_figures_look_the_same_whatever_the_users_style_is(runs, name):
    styled, _, _ = runs["quick"]
    plain, _, _ = runs[name]
    for figure in saved_figures(name):
        if figure.endswith(".png"):
            a = plt.imread(styled / "a look/figures" / figure)
            b = plt.imread(plain / "report/figures" / figure)
            assert a.shape == b.shape, figure
            # the paper is white
            assert a[0, 0].tolist() == b[0, 0].tolist()
        else:
            a = (styled / "a look/figures" / figure).read_text("utf-8")
            b = (plain / "report/figures" / figure).read_text("utf-8")
            size = re.compile(r"<svg .*?>", re.DOTALL)
            assert size.search(a)[0] == size.search(b)[0], figure


@both
def test_alone_in_an_empty_folder_as_a_script(runs, name):
    folder, log, status = runs[name]
    assert status == 0, log
    assert read_json(folder / f"report/results/{RESULTS[name]}.json")["device"]
    written = {path.name for path in (folder / "report/figures").iterdir()}
    assert written == saved_figures(name)


def differences(a, b, path=""):
    """Yields (the relative difference, its place) of all numbers of two JSON values."""
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            yield from differences(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), path
        for i in range(len(a)):
            yield from differences(a[i], b[i], f"{path}/{i}")
    elif isinstance(a, float):
        yield abs(a - b) / max(1.0, abs(a), abs(b)), path
    else:
        assert a == b, path


@both
def test_two_runs_give_the_same_numbers(runs, name):
    """…in Jupyter's kernel and as a script."""
    quick, _, _ = runs["quick"]
    alone, _, _ = runs[name]
    a = read_json(quick / f"a look/results/{RESULTS[name]}.json")
    b = read_json(alone / f"report/results/{RESULTS[name]}.json")
    for key in ("minutes", "device"):
        del a[key], b[key]
    assert max(differences(a, b)) < (1e-4, ""), max(differences(a, b))


# in this process


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder but for data/; what a notebook sets is set back."""
    (tmp_path / "data").symlink_to(nb.ROOT / "data")
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    with plt.rc_context():
        yield tmp_path
    plt.close("all")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def run_cells(name, parameters, after=lambda namespace: None):
    """Runs a notebook's cells as a script does, and returns their variables.

    Args:
        parameters: in place of the notebook's.
        after: called after each cell.
    """
    namespace = {"__name__": "__main__"}
    for cell in nb.cells(name):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), name, "exec"), namespace)
            if "parameters" in cell["metadata"].get("tags", []):
                assert parameters.keys() <= namespace.keys()
                namespace.update(parameters)
            after(namespace)
    return namespace


def test_the_pretended_gpu_refuses_what_a_gpu_refuses():
    with PretendedGpu():
        there = torch.arange(3.0, device=DEVICE)
        here = torch.arange(3.0)
        assert (2 * there + 1).sum().item() == 9
        assert (there[here.long()] + here.to(DEVICE)).cpu().tolist() == [0, 2, 4]
        for mixed in (
            lambda: there + here,
            lambda: torch.cat([there, here]),
            lambda: here[there.long()],
            lambda: nn.Linear(3, 1)(there),
            lambda: torch.rand(3, device=DEVICE, generator=torch.Generator()),
            lambda: there.numpy(),
            lambda: np.asarray(there),
        ):
            with pytest.raises((RuntimeError, TypeError)):
                mixed()


@both
def test_on_a_pretended_gpu(folder, name, monkeypatch):
    """No tensor is left on the CPU, and none goes to NumPy from elsewhere."""
    # fused=True asks for a GPU by its name
    optimizer = importlib.import_module("torch.optim.optimizer")
    supported = "_get_fused_kernels_supported_devices"
    monkeypatch.setattr(optimizer, supported, lambda: [DEVICE, "cpu"])

    def use_it(namespace):
        if "pick_device" in namespace:
            namespace["pick_device"] = lambda: torch.device(DEVICE)

    with PretendedGpu():
        namespace = run_cells(name, TINY[name], after=use_it)
    assert namespace["device"].type == DEVICE
    assert {p.device.type for p in namespace["model"].parameters()} == {DEVICE}


ODD = {  # sensible, though nobody tried them
    "VAE.ipynb": {"VALIDATE": True, "Z_DIM": 1, "N_TEST": 5, "N_TRAIN": 301},
    "RealNVP.ipynb": {"VALIDATE": True, "PAIRS": 3, "N_TEST": 5, "N_TRAIN": 301},
}


@both
def test_other_parameters_and_the_last_cell_twice(folder, name):
    """Held-out images in place of the test set, a last batch of one image."""
    parameters = {**TINY[name], **ODD[name], "BATCH": 300, "OUT": "elsewhere"}
    namespace = run_cells(name, parameters)
    held_out = namespace["load_mnist"]("data", train=True)[50_000:50_005]
    assert torch.equal(namespace["test_images"].cpu(), held_out)
    path = folder / f"elsewhere/results/{RESULTS[name]}.json"
    stored = read_json(path)
    for key, value in ODD[name].items():
        assert stored["config"][key.lower()] == value
    exec(nb.code_cells(name)[-1], namespace)
    assert read_json(path) == stored


@both
def test_a_training_stopped_by_hand_is_recorded(folder, name, monkeypatch, capsys):
    """The long training is stopped in its third epoch; the cells below work."""
    parameters = {**TINY[name], "N_TRAIN": 200, "BATCH": 100, "EPOCHS": 4}
    clip = torch.nn.utils.clip_grad_norm_
    steps = []

    def stops_at_the_sixth_step(*args, **options):
        steps.append(1)
        if len(steps) == 6:
            raise KeyboardInterrupt
        return clip(*args, **options)

    def replace(namespace):
        if "train" in namespace and namespace["train"].__name__ == "train":
            train = namespace["train"]

            def counted(*args, **options):
                steps.clear()
                return train(*args, **options)

            namespace["train"] = counted

    # before the notebook imports it
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", stops_at_the_sixth_step)
    run_cells(name, parameters, after=replace)
    stored = read_json(folder / f"report/results/{RESULTS[name]}.json")
    assert stored["config"]["epochs"] == 4
    assert stored["epochs_done"] == stored["history"]["epoch"][-1] == 2.5
    assert "stopped by hand" in capsys.readouterr().out


@both
def test_a_gpu_that_this_pytorch_cannot_use(name, monkeypatch, capsys):
    def no_kernels(*args, **options):
        raise RuntimeError("no kernel image is available for execution on the device")

    pick_device = nb.load(name).pick_device
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", no_kernels)
    assert pick_device().type == "cpu"
    assert "the GPU is not used: no kernel image" in capsys.readouterr().out


@both
def test_a_check_that_fails_stops_the_notebook(name):
    """…also where assert statements are left out (see `runs`)."""
    check = nb.load(name).check
    row = check(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]), 0.5, "nats")
    want = {"values": 2, "difference": 0.5, "tolerance": 0.5, "unit": "nats"}
    assert row == want
    for got in (torch.tensor([1.0, 2.6]), torch.tensor([1.0]), torch.tensor(2.0)):
        with pytest.raises(AssertionError):
            check(got, torch.tensor([1.0, 2.0]), 0.5)
    optimized = script(name, {})
    assert not [n for n in ast.walk(ast.parse(optimized)) if isinstance(n, ast.Assert)]


# the runner


def tiny(folder, source):
    """A copy of the runner whose VAE.ipynb is one cell."""
    (folder / "report").mkdir()
    shutil.copy(nb.ROOT / "report/run.py", folder / "report")
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [
        nbformat.v4.new_markdown_cell("## A section"),
        nbformat.v4.new_code_cell(source),
    ]
    nbformat.write(notebook, folder / "VAE.ipynb")
    return start([sys.executable, "report/run.py", "VAE.ipynb"], folder)


def test_a_cell_that_fails_is_named_and_the_notebook_kept(tmp_path):
    process = tiny(tmp_path, "print('so far')\n1 / 0")
    before = (tmp_path / "VAE.ipynb").read_bytes()
    assert process.wait() == 1
    log = (tmp_path / "log.txt").read_text("utf-8")
    assert "so far" in log
    assert "VAE.ipynb failed in cell 1 of 1: A section" in log
    assert "ZeroDivisionError: division by zero" in log
    assert "\x1b" not in log
    assert (tmp_path / "VAE.ipynb").read_bytes() == before


def test_a_python_that_dies_is_said_without_a_traceback(tmp_path):
    process = tiny(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert process.wait() == 1
    log = (tmp_path / "log.txt").read_text("utf-8")
    assert "Python ended, perhaps for want of memory, in cell 1 of 1" in log
    assert "Traceback" not in log


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is another thing there")
def test_ctrl_c_stops_without_a_traceback(tmp_path):
    process = tiny(tmp_path, "import time\nprint('sleeping')\ntime.sleep(600)")
    deadline = time.monotonic() + 60
    while "sleeping" not in (tmp_path / "log.txt").read_text("utf-8"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 1
    log = (tmp_path / "log.txt").read_text("utf-8")
    assert "VAE.ipynb was stopped in cell 1 of 1: A section" in log
    assert "Traceback" not in log


def test_a_notebook_saved_by_somebody_else_meanwhile_is_kept(tmp_path):
    edit = "from pathlib import Path\nPath('VAE.ipynb').write_text('edited')"
    tiny(tmp_path, edit).wait()
    assert (tmp_path / "VAE.ipynb").read_text() == "edited"
    ran = nbformat.read(tmp_path / "VAE.run.ipynb", as_version=4)
    assert ran.cells[1].execution_count == 1


def test_a_parameter_that_is_not_there_is_named():
    notebook = nbformat.read(nb.ROOT / "VAE.ipynb", as_version=4)
    runner = load_runner(nb.ROOT)
    with pytest.raises(ValueError, match="no parameter EPOCH$"):
        runner.set_parameters(notebook, {"EPOCH": 1})
