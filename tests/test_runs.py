"""The notebooks as people run them, with small parameters: by Jupyter, as a script, with odd values, and stopped."""

import json
import math
import os
import re
import subprocess
import sys

import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from conftest import ROOT, compiled, load_definitions, source
from nbconvert import ScriptExporter

RESULTS = {"VAE.ipynb": "vae.json", "RealNVP.ipynb": "realnvp.json"}
SMALL = {
    "VAE.ipynb": {"N_TRAIN": 400, "N_TEST": 200, "EPOCHS": 1, "REPEATS": 2, "EXTRA_EPOCHS": 1}
    | {"TIGHTNESS_SAMPLES": 1000, "GRID_POINTS": 151},
    "RealNVP.ipynb": {"N_TRAIN": 600, "N_TEST": 200, "EPOCHS": 1, "COMPARE_EPOCHS": 1, "DRAWS": 2}
    | {"CHANNELS": 8, "UNITS": 8, "HIDDEN": 16},
}
ODD = {  # sensible, though nobody tried them: they run to the end
    "VAE.ipynb": [
        {"VALIDATE": True, "Z_DIM": 10, "N_TEST": 5, "N_TRAIN": 1, "IWAE_M": [3], "SEED": 1},
        {"Z_DIM": 1, "N_TEST": 2, "N_TRAIN": 301, "BATCH": 300, "IWAE_M": [1, 5, 50, 150], "EXTRA_EPOCHS": 2},
    ],
    "RealNVP.ipynb": [
        {"VALIDATE": True, "PAIRS": 1, "N_TEST": 5, "N_TRAIN": 1, "SEED": 1},
        {"PAIRS": 5, "N_TEST": 2, "N_TRAIN": 301, "BATCH": 300, "DRAWS": 3, "UNITS": 0},
    ],
}
SENSELESS = {
    "VAE.ipynb": [("Z_DIM", 0), ("REPEATS", 1), ("EXTRA_EPOCHS", 0), ("IWAE_M", []), ("IWAE_M", [0])],
    "RealNVP.ipynb": [("PAIRS", 0), ("DRAWS", 1), ("COMPARE_EPOCHS", 0), ("CHANNELS", 0), ("UNITS", -1)],
}
SENSELESS_IN_BOTH = [("N_TRAIN", 0), ("N_TEST", 1), ("EPOCHS", 0), ("EPOCHS", 2.5), ("EPOCHS", "3"), ("BATCH", 0)]
SENSELESS_IN_BOTH += [("LR", -1.0), ("LR", math.nan), ("SEED", -1)]
pytestmark = pytest.mark.filterwarnings("ignore:__array__")  # matplotlib's and torch's, about NumPy
notebooks = pytest.mark.parametrize("name", RESULTS)


def tags(cell):
    return cell["metadata"].get("tags", [])


def overriding(parameters):
    return "\n".join(f"{key} = {value!r}" for key, value in parameters.items())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder but for data/, to run in; what a notebook sets for its process is set back."""
    (tmp_path / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(tmp_path)
    with plt.rc_context():
        yield tmp_path
    plt.close("all")
    torch.use_deterministic_algorithms(False)


def run_cells(name, parameters=None, until=None, before=lambda cell, namespace: None):
    """Runs a notebook's code cells in this process, as a script does, and returns their variables.

    Args:
        parameters: override the notebook's, by a cell after theirs.
        until: stop behind the first cell whose source holds this text.
        before: called in front of each cell.
    """
    namespace = {"__name__": name}
    for cell, _, code in compiled(name):
        before(cell, namespace)
        exec(code, namespace)
        if "parameters" in tags(cell):
            assert parameters is None or set(parameters) <= namespace.keys()
            namespace.update(parameters or {})
        if until and until in source(cell):
            break
    return namespace


def read_results(folder, name):
    return json.loads((folder / "report/results" / RESULTS[name]).read_text("utf-8"))


def run_as_people_do(name, folder):
    """Starts the notebook by Jupyter's command, with two threads, and as a script without IPython, with one.

    Returns:
        {"notebook", "script"}: (folder, finished process).
    """
    nb, started = nbformat.read(ROOT / name, as_version=4), {}
    (place,) = [i for i, cell in enumerate(nb.cells) if "parameters" in tags(cell)]
    nb.cells.insert(place + 1, nbformat.v4.new_code_cell(overriding(SMALL[name])))
    script = "import runpy, sys; sys.modules['IPython'] = None; runpy.run_path(sys.argv[1], run_name='__main__')"
    jupyter = ["nbconvert", "--to", "notebook", "--execute", "--inplace", "--ExecutePreprocessor.record_timing=False"]
    for kind, threads, path, command in (
        ("notebook", "2", folder / "my homework – تمرین دوم", ["-m", *jupyter, name]),
        ("script", "1", folder / "script", ["-c", script, name.replace(".ipynb", ".py")]),
    ):
        path.mkdir()
        (path / "data").symlink_to(ROOT / "data")
        if kind == "notebook":
            nbformat.write(nb, path / name)
        else:
            (path / command[-1]).write_text(ScriptExporter().from_notebook_node(nb)[0], encoding="utf-8")
        env = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "MPLBACKEND": "agg"}
        env |= {"PYTHONUTF8": "1"} if sys.platform == "win32" else {}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
        started[kind] = path, subprocess.Popen([sys.executable, *command], cwd=path, env=env, **pipes)
    return {kind: (path, process, *process.communicate(timeout=600)) for kind, (path, process) in started.items()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of both notebooks, made when they are first asked for."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = run_as_people_do(name, tmp_path_factory.mktemp(name.split(".")[0]))
        return made[name]

    return get


@notebooks
def test_jupyters_command_in_a_folder_with_spaces_and_persian_letters(runs, name):
    before = {path: path.stat().st_mtime_ns for path in ROOT.glob("report/*/*")}
    path, process, _, stderr = runs(name)["notebook"]
    assert process.returncode == 0, stderr
    nb = nbformat.read(path / name, as_version=4)
    outputs = [out for cell in nb.cells for out in cell.get("outputs", [])]
    assert not [out for out in outputs if out.get("name") == "stderr" or out["output_type"] == "error"]
    assert "\r" not in json.dumps(outputs) and "stopped by hand" not in json.dumps(outputs)
    stored = read_results(path, name)
    assert {key: stored["config"][key.lower()] for key in SMALL[name]} == SMALL[name]
    sources = [cell.source for cell in nb.cells if cell.cell_type == "code"]
    assert stored["code_sha256"] == load_definitions(name)["cell_hash"](sources)
    assert len(stored["history"]["epoch"]) == 2
    saved = {path.stem for path in (path / "report/figures").iterdir()}
    assert saved == set(re.findall(r'save\(fig, "(\w+)"', "".join(sources)))  # all of them, and nothing half written
    assert before == {path: path.stat().st_mtime_ns for path in ROOT.glob("report/*/*")}


@notebooks
def test_exported_script_without_ipython(runs, name):
    path, process, stdout, stderr = runs(name)["script"]
    assert process.returncode == 0 and not stderr.strip(), stderr
    assert read_results(path, name)["code_sha256"] is None and RESULTS[name] in stdout


def differences(a, b, path=""):
    """Yields the largest relative difference of two JSON values' numbers, and where it is."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            yield from differences(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), path
        for i, pair in enumerate(zip(a, b)):
            yield from differences(*pair, f"{path}/{i}")
    elif isinstance(a, float):
        yield abs(a - b) / max(1.0, abs(a), abs(b)), path
    else:
        assert a == b, path


def numbers_of_a_run(folder, name):
    stored = read_results(folder, name)
    return {
        k: v for k, v in stored.items() if k not in ("minutes", "device", "versions", "code_sha256", "check_errors")
    }


@notebooks
def test_one_thread_and_two_give_the_same_numbers(runs, name):
    """…to 1e-3 of a nat: sums in another order differ in the last bits, and training carries them on."""
    a, b = (numbers_of_a_run(runs(name)[kind][0], name) for kind in ("notebook", "script"))
    assert max(differences(a, b)) < (1e-3, ""), max(differences(a, b))


@notebooks
def test_a_change_upstream_moves_no_number_downstream(runs, folder, name):
    """Random numbers drawn between the cells change nothing: every cell that draws seeds itself."""
    run_cells(name, SMALL[name], before=lambda cell, namespace: torch.rand(1))
    a, b = numbers_of_a_run(runs(name)["script"][0], name), numbers_of_a_run(folder, name)
    assert max(differences(a, b)) < (1e-3, ""), max(differences(a, b))


@notebooks
@pytest.mark.parametrize("odd", [0, 1])
def test_any_sensible_parameters_run_to_the_end(folder, name, odd):
    parameters = SMALL[name] | ODD[name][odd]
    namespace = run_cells(name, parameters)
    stored = read_results(folder, name)["config"]
    images, _ = namespace["load_mnist"]("data", train=bool(parameters.get("VALIDATE")))
    first = 50_000 if parameters.get("VALIDATE") else 0  # the last 10,000 training images stand in for the test set
    assert torch.equal(namespace["test_images"].cpu(), images[first : first + parameters["N_TEST"]])
    assert stored["n_test"] == parameters["N_TEST"] and stored["n_train"] == parameters["N_TRAIN"]


@pytest.mark.parametrize(
    "name, parameter, value",
    [(name, *bad) for name in RESULTS for bad in SENSELESS[name] + SENSELESS_IN_BOTH],
)
def test_senseless_parameters_are_refused_before_anything_is_done(folder, name, parameter, value):
    with pytest.raises(ValueError, match=parameter) as error:
        run_cells(name, {parameter: value}, until="torch.manual_seed(")
    assert ", got " in str(error.value) and not list(folder.glob("report/*/*"))


@notebooks
def test_a_folder_that_cannot_be_written_to_is_found_before_training(folder, name):
    (folder / "taken").write_text("a file, not a folder")
    with pytest.raises(OSError, match="taken"):
        run_cells(name, {"OUT": "taken/report"}, until="torch.manual_seed(")


@notebooks
def test_a_disk_that_refuses_files_is_found_before_training(folder, name, monkeypatch):
    def refuse(*args):
        raise PermissionError("read only")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError, match="read only"):
        run_cells(name, SMALL[name], until="def train(")


@notebooks
def test_no_data_and_no_network_is_said_before_training(folder, name, monkeypatch):
    import torchvision

    (folder / "data").unlink()
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [])
    with pytest.raises(RuntimeError, match="(?s)MNIST is .*missing.*md5"):
        run_cells(name, until="def train(")


@notebooks
def test_stops_in_the_middle_of_each_long_cell(folder, name, capsys):
    """Every training is interrupted at its third step: it ends there, says so, and the cells below work.

    Any other loop with a bar is interrupted once: the cell fails, and works when it is run again.
    """
    parameters = SMALL[name] | {"N_TRAIN": 200, "BATCH": 100, "N_TEST": 48}
    parameters |= {key: 2 for key in parameters if key.endswith("EPOCHS")}
    stopped, namespace = [], {"__name__": name}
    for cell, _, code in compiled(name):
        try:
            exec(code, namespace)
        except KeyboardInterrupt:
            exec(code, namespace)
        if "parameters" in tags(cell):
            namespace.update(parameters)
        if "def progress(" in source(cell):
            namespace["progress"] = interrupted(namespace["progress"], stopped)
    text, history = capsys.readouterr().out, read_results(folder, name)["history"]
    assert history["epoch"] == [0, 1] and "stopped by hand after 1 of 2 epochs" in text
    assert stopped.count("step") == text.count("stopped by hand") > 1
    assert name != "VAE.ipynb" or "image" in stopped


def interrupted(progress, stopped):
    """Returns `progress` whose bars of steps are stopped at the third, and other bars once; `stopped` lists units."""

    def wrapped(total, unit):
        bar, done = progress(total, unit), []
        update = bar.update

        def stop(*args):
            done.append(1)
            if len(done) == 3 and (unit == "step" or unit not in stopped):
                stopped.append(unit)
                raise KeyboardInterrupt
            return update(*args)

        bar.update = stop
        return bar

    return wrapped
