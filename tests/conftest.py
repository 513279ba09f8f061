"""Loads a notebook's imports, constants and definitions without its runs."""

import ast
import json
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import pytest

matplotlib.use("agg")
ROOT = Path(__file__).resolve().parents[1]


def code_cells(name):
    """Returns the code cells of a committed notebook, as JSON."""
    cells = json.loads((ROOT / name).read_text("utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def source(cell):
    return "".join(cell["source"])


def is_definition(node):
    """Whether a top-level statement defines something: import, def, class, CONSTANT = …, Class.method = …."""
    if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef):
        return True
    return isinstance(node, ast.Assign) and all(
        isinstance(t, ast.Attribute) or (isinstance(t, ast.Name) and t.id.isupper()) for t in node.targets
    )


def load_definitions(name):
    """Executes only the cells that define, in order, in a namespace of their own."""
    namespace = {"__name__": name}
    for cell in code_cells(name):
        body = ast.parse(source(cell)).body
        if body and all(map(is_definition, body)):
            exec(compile("".join(cell["source"]), f"{name}, a cell", "exec"), namespace)
    return namespace


@pytest.fixture
def vae():
    """The definitions of VAE.ipynb; fresh for each test, so that a test may replace one (vae.namespace[...] = ...)."""
    namespace = load_definitions("VAE.ipynb")
    return SimpleNamespace(namespace=namespace, **{k: v for k, v in namespace.items() if not k.startswith("__")})


@pytest.fixture
def flow():
    """The definitions of RealNVP.ipynb, as `vae`."""
    namespace = load_definitions("RealNVP.ipynb")
    return SimpleNamespace(namespace=namespace, **{k: v for k, v in namespace.items() if not k.startswith("__")})
