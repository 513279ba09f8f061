"""The notebooks as people run them, with the small parameters of a quick look."""

import ast
import errno
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


RUNNER = nb.load_script("run")
TINY = {  # smaller than a quick look
    "VAE.ipynb": {"N_TEST": 20, "TIGHTNESS_SAMPLES": 20, "GRID_POINTS": 31},
    "RealNVP.ipynb": {
        "N_TRAIN": 260,
        "N_TEST": 20,
        "HIDDEN": 8,
        "CHANNELS": 4,
        "UNITS": 4,
    },
}
_odd = {  # sensible, though nobody tried them: the last batch is one image
    "VALIDATE": True,
    "N_TRAIN": 301,
    "N_TEST": 5,
    "BATCH": 300,
    "WARM_UP_SHARE": 0.0,
}
ODD = {
    "VAE.ipynb": {**_odd, "Z_DIM": 1, "TIGHTNESS_SAMPLES": 5},
    "RealNVP.ipynb": {**_odd, "PAIRS": 3},
}
for _name in RESULTS:
    TINY[_name] = {**RUNNER.SMALL[_name], **TINY[_name]}
    ODD[_name] = {**TINY[_name], **ODD[_name]}
REFUSED = {  # each by its name, before anything is computed
    "VAE.ipynb": {"N_TEST": 1, "REPEATS": 1, "WARM_UP_SHARE": 1.5},
    "RealNVP.ipynb": {"N_TEST": 0, "PAIRS": 0, "DRAWS": 1, "WARM_UP_SHARE": -0.1},
}


def start(command, folder, **env):
    """Starts a command with one thread; its output goes to folder/log.txt."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "0", **env}
    with open(folder / "log.txt", "wb") as log:
        return subprocess.Popen(
            command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT
        )


def log_of(folder):
    return (folder / "log.txt").read_text("utf-8", errors="replace")


def with_parameters(name, parameters):
    """Returns a notebook, nbformat's, with other parameters."""
    notebook = nbformat.read(nb.ROOT / name, as_version=4)
    RUNNER.set_parameters(notebook, parameters)
    return notebook


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
    VAE.ipynb, RealNVP.ipynb: alone in an empty folder, as a script without IPython,
        in a terminal that shows ASCII only, without progress bars.
    """
    quick = tmp_path_factory.mktemp("my homework – تمرین دوم")
    copy_repository(quick)
    # a user's own style: white on black, figures cut to their ink
    dark = "figure.facecolor: black\nsavefig.facecolor: black\nsavefig.bbox: tight\n"
    (quick / "matplotlibrc").write_text(dark + "image.cmap: jet\nfont.size: 20\n")
    # and another Python as Jupyter's python3
    kernel = quick / "jupyter/kernels/python3"
    kernel.mkdir(parents=True)
    spec = {"argv": ["no-such-python"], "display_name": "x", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    process = start(
        [sys.executable, "report/run.py", "--quick", "--out", "a look"],
        quick,
        MATPLOTLIBRC=str(quick / "matplotlibrc"),
        MPLBACKEND="agg",
        JUPYTER_PATH=str(quick / "jupyter"),
        PYTHONIOENCODING="cp1252",
        PYTHONOPTIMIZE="1",
    )
    running = {"quick": (quick, process)}
    for name in RESULTS:
        folder = tmp_path_factory.mktemp("empty")
        (folder / "data").symlink_to(nb.ROOT / "data")
        notebook = with_parameters(name, RUNNER.SMALL[name])
        code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
        # as "Download as .py" gives it
        text = "\n\n# In[ ]:\n\n".join(code)
        (folder / "notebook.py").write_text(text, encoding="utf-8")
        without = "import runpy, sys; sys.modules['IPython'] = None; "
        without += "runpy.run_path('notebook.py', run_name='__main__')"
        process = start(
            [sys.executable, "-c", without],
            folder,
            PYTHONWARNINGS="error",
            PYTHONIOENCODING="ascii",
            TQDM_DISABLE="1",
        )
        process.wait()
        running[name] = folder, process
    finished = {}
    for what, (folder, process) in running.items():
        status = process.wait()
        finished[what] = folder, log_of(folder), status
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
        if list(nb.saved(cell.source)):
            kinds = [kind for out in cell.outputs for kind in out.get("data", {})]
            assert any(kind.startswith("image/") for kind in kinds), cell.source
    written = {path.name for path in (folder / "a look/figures").iterdir()}
    assert saved_figures(name) <= written


@both
def test_figures_look_the_same_whatever_the_users_style_is(runs, name):
    styled, _, _ = runs["quick"]
    plain, _, _ = runs[name]
    for figure in saved_figures(name):
        a = styled / "a look/figures" / figure
        b = plain / "report/figures" / figure
        if figure.endswith(".png"):
            a, b = plt.imread(a), plt.imread(b)
            assert a.shape == b.shape, figure
            # the paper is white
            assert a[0, 0].tolist() == b[0, 0].tolist()
        else:
            size = re.compile(r"<svg .*?>", re.DOTALL)
            a, b = a.read_text("utf-8"), b.read_text("utf-8")
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
    """A user's home, empty but for data/; what a notebook sets is set back."""
    (tmp_path / "data").symlink_to(nb.ROOT / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    threads = torch.get_num_threads()
    with plt.rc_context():
        yield tmp_path
    plt.close("all")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def run_cells(name, parameters, after=lambda variables: None, until="", times=1):
    """Runs a notebook's cells as a script does, and returns their variables.

    Args:
        parameters: in place of the notebook's.
        after: called after each cell.
        until: the name of a variable, at which the run ends.
        times: how often each cell is run.
    """
    variables = {"__name__": "__main__"}
    for cell in nb.cells(name):
        if cell["cell_type"] != "code" or until in variables:
            continue
        for _ in range(times):
            exec(compile("".join(cell["source"]), name, "exec"), variables)
            if "parameters" in cell["metadata"].get("tags", []):
                assert parameters.keys() <= variables.keys()
                variables.update(parameters)
            after(variables)
            plt.close("all")
    return variables


def test_the_pretended_gpu_refuses_what_a_gpu_refuses():
    with PretendedGpu():
        there = torch.arange(3.0, device=DEVICE)
        here = torch.arange(3.0)
        assert (2 * there + 1).sum().item() == 9
        assert (there[here.long()] + here.to(DEVICE)).cpu().tolist() == [0, 2, 4]
        model = nn.Linear(3, 1).to(DEVICE)
        model(there).sum().backward()
        (row,) = model.weight.grad
        assert {there.device, row.device} == {torch.device(DEVICE)}
        assert there.cpu().device == here.device == torch.device("cpu")
        for mixed in (
            lambda: there + here,
            lambda: torch.cat([there, here]),
            lambda: here[there.long()],
            lambda: nn.Linear(3, 1)(there),
            lambda: model(here),
            lambda: row + here,
            lambda: torch.rand(3, device=DEVICE, generator=torch.Generator()),
            lambda: there.numpy(),
            lambda: np.asarray(there),
            lambda: plt.plot(there),
        ):
            with pytest.raises((RuntimeError, TypeError)):
                mixed()


@both
def test_on_a_pretended_gpu(folder, name, monkeypatch):
    """No tensor is left on the CPU, and none goes to NumPy from elsewhere."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a pretended GPU")

    def use_it(variables):
        if "pick_device" in variables:
            variables["pick_device"] = lambda: torch.device(DEVICE)

    with PretendedGpu():
        variables = run_cells(name, TINY[name], after=use_it)
        assert variables["device"].type == DEVICE
        assert {p.device.type for p in variables["model"].parameters()} == {DEVICE}


@both
def test_other_parameters_and_every_cell_twice(folder, name):
    """A cell that is run again leaves what it left, and the report can be built."""
    run_cells(name, {**ODD[name], "OUT": "~/once"})
    run_cells(name, {**ODD[name], "OUT": "~/twice"}, times=2)
    once, twice = (
        read_json(folder / out / f"results/{RESULTS[name]}.json")
        for out in ("once", "twice")
    )
    del once["minutes"], twice["minutes"]
    assert once == twice

    # with what the other notebook gave
    for path in (nb.ROOT / "report").glob("*/*"):
        if path.parent.name in ("figures", "results"):
            target = folder / "once" / path.relative_to(nb.ROOT / "report")
            if not target.exists():
                shutil.copy(path, target)
    nbformat.write(with_parameters(name, ODD[name]), folder / "once" / name)
    _, marks = nb.load_script("build").compile_report(folder / "once")
    assert any("VALIDATE" in mark for mark in marks)


@both
def test_what_is_held_out_is_not_trained_on(folder, name):
    variables = run_cells(name, {"VALIDATE": True}, until="test_images")
    images = variables["load_mnist"]("data", train=True)
    assert torch.equal(variables["train_images"].cpu(), images[:50_000])
    assert torch.equal(variables["test_images"].cpu(), images[50_000:])


@both
def test_without_any_training(folder, name):
    own = run_cells(name, {}, until="EPOCHS")
    none = {parameter: 0 for parameter in own if "EPOCHS" in parameter}
    run_cells(name, {**TINY[name], **none, "WARM_UP_SHARE": 1.0})
    stored = read_json(folder / f"report/results/{RESULTS[name]}.json")
    assert [row["epoch"] for row in stored["history"]] == [0]


@both
def test_parameters_that_cannot_work_are_refused_by_their_names(folder, name):
    for parameter, value in REFUSED[name].items():
        with pytest.raises(ValueError, match=f"{parameter} .*got {value}"):
            run_cells(name, {parameter: value}, until="test_images")


@both
def test_a_training_stopped_by_hand_is_recorded(folder, name, monkeypatch, capsys):
    """The long training is stopped in its third epoch; the cells below work.

    In the flow the button is pressed again, while the models are measured.
    """
    parameters = {**TINY[name], "N_TRAIN": 200, "BATCH": 100, "EPOCHS": 4}
    clip = torch.nn.utils.clip_grad_norm_
    presses = 1 if name == "VAE.ipynb" else 2
    steps = []
    pressed = []

    def press_at_the_sixth_step(*args, **options):
        steps.append(1)
        if len(steps) == 6:
            pressed.append(1)
            raise KeyboardInterrupt
        return clip(*args, **options)

    def replace(variables):
        if getattr(variables.get("train"), "__name__", "") != "train":
            return
        train, measure = variables["train"], variables["measure"]

        def counted_train(*args, **options):
            steps.clear()
            pressed.clear()
            return train(*args, **options)

        def measure_or_press(*args, **options):
            if 0 < len(pressed) < presses:
                pressed.append(1)
                raise KeyboardInterrupt
            return measure(*args, **options)

        variables["train"] = counted_train
        variables["measure"] = measure_or_press

    # before the notebook imports it
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", press_at_the_sixth_step)
    run_cells(name, parameters, after=replace)
    stored = read_json(folder / f"report/results/{RESULTS[name]}.json")
    assert [row["epoch"] for row in stored["history"]] == [0, 1, 2, 2.5][: 5 - presses]
    assert "stopped by hand after 2.50 of 4 epochs" in capsys.readouterr().out


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
def test_what_is_read_is_mnist(name, tmp_path, monkeypatch):
    """…whatever lies beside the published files, and whatever became of them."""
    load_mnist = nb.load(name).load_mnist
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    raw = tmp_path / "MNIST/raw"
    shutil.copytree(nb.ROOT / "data/MNIST/raw", raw)
    # as torchvision unpacks them, cut short; and as it once kept them
    (raw / "t10k-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03")
    (tmp_path / "MNIST/processed").mkdir()
    for file in ("training.pt", "test.pt"):
        other = torch.zeros(10, 28, 28, dtype=torch.uint8), torch.zeros(10)
        torch.save(other, tmp_path / "MNIST/processed" / file)
    for train, n, total in ((True, 60_000, 1567298545), (False, 10_000, 264923200)):
        images = load_mnist(tmp_path, train)
        assert images.shape == (n, 784) and images.dtype == torch.uint8
        assert images.sum() == total

    packed = raw / "t10k-images-idx3-ubyte.gz"
    packed.write_bytes(packed.read_bytes()[:-9])
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RuntimeError, match=f"(?s){root}.*t10k-images.*no network"):
            load_mnist(root, train=False)


def no_network(*args, **options):
    raise OSError("no network here")


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
    for text in nb.code_cells(name):
        assert not [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Assert)]


# the runner

SLEEP = "import time\nprint('sleeping')\ntime.sleep(600)"


def tiny(folder, source, **env):
    """Starts a copy of the runner whose VAE.ipynb is one cell."""
    (folder / "report").mkdir()
    shutil.copy(nb.ROOT / "report/run.py", folder / "report")
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [
        nbformat.v4.new_markdown_cell("## A section"),
        nbformat.v4.new_code_cell(source),
    ]
    nbformat.write(notebook, folder / "VAE.ipynb")
    return start([sys.executable, "report/run.py", "VAE.ipynb"], folder, **env)


def test_a_whole_run_keeps_a_hash_of_its_code(tmp_path):
    tiny(tmp_path, "x = 1\nx").wait()
    ran = read_json(tmp_path / "VAE.ipynb")
    assert ran["cells"][1]["execution_count"] == 1
    assert ran["metadata"]["code_hash"] == RUNNER.code_hash(ran)
    # what a notebook is called when it is exported
    assert ran["metadata"]["language_info"]["file_extension"] == ".py"


def test_it_runs_where_an_event_loop_runs_already(tmp_path):
    """…as by %run in Jupyter."""
    tiny(tmp_path, "1").wait()
    inside = "import asyncio, runpy, sys; sys.argv = ['run.py', 'VAE.ipynb']\n"
    inside += "async def main(): runpy.run_path('report/run.py', run_name='__main__')\n"
    start([sys.executable, "-c", inside + "asyncio.run(main())"], tmp_path).wait()
    assert "VAE.ipynb: all cells ran" in log_of(tmp_path)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("print('so far')\n1 / 0", "VAE.ipynb failed in cell 1 of 1: A section"),
        (
            "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
            "Python ended, perhaps for want of memory, in cell 1 of 1",
        ),
    ],
)
def test_what_goes_wrong_is_said_and_the_notebook_kept(tmp_path, source, said):
    process = tiny(tmp_path, source)
    before = (tmp_path / "VAE.ipynb").read_bytes()
    assert process.wait() == 1
    log = log_of(tmp_path)
    assert said in log and "\x1b" not in log
    assert ("ZeroDivisionError: division by zero" in log) == ("1 / 0" in source)
    assert ("Traceback" in log) == ("1 / 0" in source)
    assert (tmp_path / "VAE.ipynb").read_bytes() == before


def test_on_a_full_disk_the_notebook_is_kept(tmp_path, monkeypatch):
    copy_repository(tmp_path)
    runner = nb.load_script("run", tmp_path)
    monkeypatch.setattr(runner, "execute", lambda *args: None)
    path = tmp_path / "VAE.ipynb"
    before = path.read_bytes()

    def write_half(path, text, encoding):
        path.write_bytes(text.encode(encoding)[:8192])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(path), "write_text", write_half)
    with pytest.raises(SystemExit, match=r"VAE.ipynb cannot be written \(No space"):
        runner.run("VAE.ipynb", path, {})
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


def test_a_python_that_does_not_start_is_named(tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/ipykernel_launcher.py").write_text("raise SystemExit(3)")
    assert tiny(tmp_path, "1", PYTHONPATH=str(tmp_path / "bad")).wait() == 1
    log = log_of(tmp_path)
    assert f"{sys.executable} does not run notebooks" in log
    assert "Traceback" not in log


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is another thing there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_at_once_without_a_traceback(tmp_path, number):
    """…in its first second, and in a cell."""
    process = tiny(tmp_path, SLEEP)
    time.sleep(0.2)
    process.send_signal(number)
    assert process.wait(30) == 1
    (line,) = log_of(tmp_path).split("\n\n")[-1].strip().splitlines()[:1]
    assert "stopped" in line and "Traceback" not in log_of(tmp_path)

    process = start([sys.executable, "report/run.py", "VAE.ipynb"], tmp_path)
    deadline = time.monotonic() + 60
    while "sleeping" not in log_of(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(number)
    assert process.wait(30) == 1
    assert "VAE.ipynb was stopped in cell 1 of 1: A section" in log_of(tmp_path)
    assert "Traceback" not in log_of(tmp_path)


def test_a_notebook_saved_by_somebody_else_meanwhile_is_kept(tmp_path):
    edit = "from pathlib import Path\nPath('VAE.ipynb').write_text('edited')"
    tiny(tmp_path, edit).wait()
    assert (tmp_path / "VAE.ipynb").read_text() == "edited"
    ran = nbformat.read(tmp_path / "VAE.run.ipynb", as_version=4)
    assert ran.cells[1].execution_count == 1


def test_a_parameter_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="no parameter EPOCH$"):
        with_parameters("VAE.ipynb", {"EPOCH": 1})


def test_a_quick_run_of_one_notebook_builds_no_report(tmp_path, monkeypatch, capsys):
    """The other notebook's numbers would be missing, and Typst would say it badly."""
    monkeypatch.setattr(RUNNER, "run", lambda name, target, values: target.touch())
    command = ["run.py", "--quick", "--out", str(tmp_path), "RealNVP.ipynb"]
    monkeypatch.setattr(sys, "argv", command)
    for _ in range(2):
        # into its own folder again, too
        with pytest.raises(SystemExit) as end:
            RUNNER.main()
        assert not end.value.code
        assert "needs a quick run of VAE.ipynb" in capsys.readouterr().out
    assert not (tmp_path / "report.pdf").exists()


def test_a_quick_run_overwrites_nothing_that_is_not_its_own(tmp_path, monkeypatch):
    copy_repository(tmp_path)
    runner = nb.load_script("run", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "run", lambda *args: pytest.fail("it ran"))
    for out in (".", "report", "report/../report"):
        monkeypatch.setattr(sys, "argv", ["run.py", "--quick", "--out", out])
        with pytest.raises(SystemExit, match="no quick run made"):
            runner.main()
