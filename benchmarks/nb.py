"""Loads a notebook: its cells, or its definitions without its runs.

Used by the scripts beside it and, by .pytest.ini, by the tests.
"""

import ast
import importlib.util
import json
import linecache
import subprocess
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def cells(name):
    """Returns a notebook's cells, each source one text, without the empty ones."""
    found = json.loads((ROOT / name).read_text("utf-8"))["cells"]
    for cell in found:
        cell["source"] = "".join(cell["source"])
    # Jupyter adds an empty one where somebody runs the last
    return [cell for cell in found if cell["source"].strip()]


def code_cells(name):
    """Returns the sources of a notebook's code cells."""
    return [cell["source"] for cell in cells(name) if cell["cell_type"] == "code"]


def defines(node):
    """Whether a statement defines: import, def, class, CONSTANT = …, A.method = …"""
    if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef):
        return True
    if not isinstance(node, ast.Assign):
        return False
    targets = []
    for target in node.targets:
        targets += getattr(target, "elts", [target])
    return all(
        isinstance(t, ast.Attribute) or (isinstance(t, ast.Name) and t.id.isupper())
        for t in targets
    )


def defining_cells(name):
    """Yields (number, source) of a notebook's code cells that only define."""
    for number, text in enumerate(code_cells(name), 1):
        body = ast.parse(text).body
        if body and all(defines(node) for node in body):
            yield number, text


def load(name):
    """Returns a module of the notebook's definitions: the cells that only define.

    One that is replaced there is replaced for the notebook's own functions, too.
    """
    module = types.ModuleType(name)
    for number, text in defining_cells(name):
        # tracebacks show the cell's own lines
        file = f"<{name}, cell {number}>"
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
        exec(compile(text, file, "exec"), vars(module))
    return module


def committed(path):
    """Returns a file's bytes in the last commit; None where there is no git."""
    show = ["git", "show", f"HEAD:{path}"]
    try:
        return subprocess.run(show, cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None


def is_committed(path):
    """Whether a file is as in the last commit; False where there is no git."""
    return committed(path) == (ROOT / path).read_bytes()


def load_script(name, root=ROOT):
    """Returns report/run.py or build.py, of a copy of the repository, as a module."""
    spec = importlib.util.spec_from_file_location(name, root / f"report/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_one_run(run_cells):
    """Asserts that code cells (JSON) were run once, in order, without complaint."""
    counts = [cell["execution_count"] for cell in run_cells]
    assert counts == list(range(1, len(run_cells) + 1))
    for cell in run_cells:
        for out in cell["outputs"]:
            assert out["output_type"] != "error", out
            assert out.get("name") != "stderr", out


def check_tidy(run_cells):
    """Asserts that of a progress bar the last state is left, and no times of cells."""
    for cell in run_cells:
        assert "execution" not in cell["metadata"]
        for out in cell["outputs"]:
            text = "".join(out.get("text", ""))
            assert not any(sign in text for sign in "\r\x1b\b"), text


def saved(text):
    """Yields (name, kind) of the figures that a cell saves."""
    for node in ast.parse(text).body:
        call = getattr(node, "value", None)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "save":
            _, figure, *kind = call.args
            yield figure.value, kind[0].value if kind else "svg"
