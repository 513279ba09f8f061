"""Loads a notebook's imports, constants and definitions without its runs."""

import ast
import functools
import json
import linecache
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import pytest

matplotlib.use("agg")
ROOT = Path(__file__).resolve().parents[1]


def cells_of(name):
    """Returns all cells of a committed notebook, as JSON."""
    return json.loads((ROOT / name).read_text("utf-8"))["cells"]


def code_cells(name):
    return [cell for cell in cells_of(name) if cell["cell_type"] == "code"]


def source(cell):
    return "".join(cell["source"])


def is_definition(node):
    """Whether a top-level statement defines: import, def, class, CONSTANT = …, Class.method = …, try: import …."""
    if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef):
        return True
    if isinstance(node, ast.Try):
        return all(isinstance(n, ast.Import | ast.ImportFrom) for n in node.body)
    if not isinstance(node, ast.Assign):
        return False
    targets = [t for target in node.targets for t in getattr(target, "elts", [target])]
    return all(isinstance(t, ast.Attribute) or (isinstance(t, ast.Name) and t.id.isupper()) for t in targets)


@functools.cache
def compiled(name):
    """Returns [(cell, whether it only defines, its code object)]; tracebacks show the cell's own lines."""
    found = []
    for number, cell in enumerate(code_cells(name), 1):
        file, text = f"<{name}, cell {number}>", source(cell)
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
        body = ast.parse(text).body
        found.append((cell, bool(body) and all(map(is_definition, body)), compile(text, file, "exec")))
    return found


def load_definitions(name):
    """Executes only the cells that define, in order, in a namespace of their own."""
    namespace = {"__name__": name}
    for _, defines, code in compiled(name):
        if defines:
            exec(code, namespace)
    return namespace


def as_fixture(name):
    namespace = load_definitions(name)
    return SimpleNamespace(namespace=namespace, **{k: v for k, v in namespace.items() if not k.startswith("__")})


@pytest.fixture
def vae():
    """The definitions of VAE.ipynb; fresh for each test, so that a test may replace one (vae.namespace[...] = ...)."""
    return as_fixture("VAE.ipynb")


@pytest.fixture
def flow():
    """The definitions of RealNVP.ipynb, as `vae`."""
    return as_fixture("RealNVP.ipynb")
