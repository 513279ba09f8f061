"""Both notebooks as files: outputs of one clean run of this code, and their order."""

import ast
import base64
import io
import json
import re
import subprocess
import sys

import matplotlib.pyplot as plt
import nb
import pytest
import torch
import torch.nn.functional as F

run = nb.load_script("run")
build = nb.load_script("build")
ANSWERS = {  # tag, and the letter with which the assignment's words begin
    "VAE.ipynb": {"2a": "الف", "2b": "ب", "2c": "ج", "2d": "د", "2e": "ه"},
    "RealNVP.ipynb": {"3a": "الف", "3b": "ب", "3c": "ج", "3d": "د"},
}
both = pytest.mark.parametrize("name", ANSWERS)
NOT_CODE = {"3b"}  # asks for reading
# one name, but each notebook's own
OWN = {"train", "measure", "short_training", "print_steps"}


def tags(cell):
    return cell["metadata"].get("tags", [])


def code(name):
    """Returns a notebook's code cells, as JSON."""
    return [cell for cell in nb.cells(name) if cell["cell_type"] == "code"]


# outputs


@both
def test_outputs_are_of_one_run_without_complaint(name):
    """…of the committed ones; one's own may be in any order."""
    for cell in code(name):
        assert cell["execution_count"], f"this cell was not run:\n{cell['source']}"
        assert "error" not in [out["output_type"] for out in cell["outputs"]]
    if nb.is_committed(name):
        nb.check_one_run(code(name))
        nb.check_tidy(code(name))
        text = json.dumps([cell["outputs"] for cell in code(name)])
        assert "stopped by hand" not in text
        assert "Warning" not in text


@both
def test_outputs_come_from_the_code_beside_them(name):
    """report/run.py kept a hash of the code that ran."""
    ran = json.loads((nb.ROOT / name).read_text("utf-8"))
    if run.code_hash(ran) == ran["metadata"].get("code_hash"):
        return
    message = f"{name} is not the code that report/run.py ran"
    before = json.loads(nb.committed(name) or b'{"cells": []}')
    outputs = [[c.get("outputs") for c in n["cells"]] for n in (before, ran)]
    if outputs[0] == outputs[1]:
        pytest.fail(f"{message}, and its outputs are old: run it again")
    pytest.skip(f"{message}: your own run, if you ran all of it since you changed it")


def test_what_counts_as_other_code():
    def of(*sources):
        cells = [{"cell_type": "code", "source": text} for text in sources]
        return run.code_hash({"cells": cells})

    plain = of("x = 1\ny = '#1'", "def f(a):\n    return max(a, x)", "f(2)")
    commented = 'def f(a):\n    """Doc."""\n\n    # why\n    return max(a, x)  # how'
    drawn = "fig, ax = plt.subplots()\nax.set(title='T')\nsave(fig, 'f')\nf(2)"
    shown = "def plot_f(ax):\n    ax.plot(f(1))"
    assert plain == of("# one\nx = 1\ny = '#1'\n", commented, drawn, shown, "")
    for other in (
        ["x = 2\ny = '#1'", commented, drawn],
        ["x = 1\ny = '#2'", commented, drawn],
        ["x = 1\ny = '#1'", commented.replace("max", "min"), drawn],
        ["x = 1\ny = '#1'", commented, drawn.replace("f(2)", "")],
        ["x = 1\ny = '#1'", commented, "@fast\n" + commented, drawn],
    ):
        assert plain != of(*other)


def thumbnail(picture):
    """Returns a picture's ink without its margins, as 40 x 40, 1 for black."""
    ink = 1 - torch.tensor(plt.imread(picture))[:, :, :3].mean(2)
    rows, columns = torch.nonzero(ink > 0.05, as_tuple=True)
    ink = ink[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return F.adaptive_avg_pool2d(ink[None], 40)


@both
def test_figures_are_in_the_outputs_and_the_same_in_the_report(name):
    for cell in code(name):
        kinds = [out.get("data", {}) for out in cell["outputs"]]
        shown = [data for data in kinds if any("image/" in kind for kind in data)]
        figures = list(nb.saved(cell["source"]))
        if figures:
            assert len(shown) == len(figures), cell["source"]
        for (figure, kind), data in zip(figures, shown):
            # one's own Jupyter may show them in another format
            if kind == "png" and nb.is_committed(name):
                picture = io.BytesIO(base64.b64decode(data["image/png"]))
                kept = nb.ROOT / f"report/figures/{figure}.png"
                # another resolution of the same differs by 0.03 at most, and what is
                # mirrored in part by 0.05 at least
                off = (thumbnail(picture) - thumbnail(kept)).abs().mean()
                assert off < 0.04, f"{figure} is another one in report/"


# order


@both
def test_answers_stand_in_the_assignments_order_under_its_words(name):
    text = "\n".join(cell["source"] for cell in nb.cells(name))
    quotes = re.findall(r'^## (\d\w)\. .*\n\n> <div dir="rtl">\((\w+)\)', text, re.M)
    assert quotes == list(ANSWERS[name].items())
    assert not re.search(r"\bTODO\b", text)
    *_, after = text.partition(f"\n## {quotes[-1][0]}")
    assert text.count("\n## Extra") == after.count("\n## Extra")

    found = []
    section = ""
    for cell in nb.cells(name):
        if cell["cell_type"] == "markdown":
            section += "\n" + cell["source"]
            *_, section = re.split("^(?=## )", section, flags=re.MULTILINE)
        for tag in tags(cell):
            found.append(tag)
            item = tag.removeprefix("todo-")
            assert tag == "parameters" or section.startswith(f"## {item}"), tag
            # an equation above what is defined; 2c and 2e run what was before
            if re.search("^(def|class) ", cell["source"], re.MULTILINE):
                assert section.count("$$") >= 2, tag
    wanted = [f"todo-{item}" for item in ANSWERS[name] if item not in NOT_CODE]
    assert list(dict.fromkeys(found)) == ["parameters", *wanted]
    assert found == sorted(found)


@both
def test_parameters_are_literals_each_with_its_meaning(name):
    (cell,) = [cell for cell in code(name) if "parameters" in tags(cell)]
    for node in ast.parse(cell["source"]).body:
        ast.literal_eval(node.value)
        line = cell["source"].splitlines()[node.end_lineno - 1]
        assert "  # " in line, line


@both
def test_functions_use_no_variable_of_a_run(name):
    """…so that tests and benchmarks may load the definitions alone."""
    text = "\n\n\n".join(text for _, text in nb.defining_cells(name))
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select=F821"]
    # where there is IPython
    command += ["--config", "builtins = ['get_ipython']", "-"]
    done = subprocess.run(command, input=text.encode("utf-8"), capture_output=True)
    assert done.returncode == 0, done.stdout.decode("utf-8") + text


def test_what_both_notebooks_need_is_written_in_the_same_words():
    vae, flow = {}, {}
    for found, name in ((vae, "VAE.ipynb"), (flow, "RealNVP.ipynb")):
        for text in nb.code_cells(name):
            found.update(build.definitions(text))
    shared = (vae.keys() & flow.keys()) - OWN
    assert {"pick_device", "save", "check", "load_mnist", "plot_images"} <= shared
    for name in shared:
        assert vae[name] == flow[name], name
