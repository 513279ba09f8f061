"""Both notebooks as files: outputs of one clean run of this code, and their order."""

import ast
import base64
import builtins
import dis
import io
import json
import re
import types

import matplotlib.pyplot as plt
import nb
import pytest
import torch
import torch.nn.functional as F

run = nb.load_script("run")
build = nb.load_script("build")
RESULTS = {"VAE.ipynb": "vae", "RealNVP.ipynb": "realnvp"}
both = pytest.mark.parametrize("name", RESULTS)
ANSWERS = {  # tag, and the letter with which the assignment's words begin
    "VAE.ipynb": {"2a": "الف", "2b": "ب", "2c": "ج", "2d": "د", "2e": "ه"},
    "RealNVP.ipynb": {"3a": "الف", "3b": "ب", "3c": "ج", "3d": "د"},
}
NOT_CODE = {"3b"}  # asks for reading
# one name, but each notebook's own
OWN = {"train", "measure", "short_training", "print_steps"}
IPYTHON = {"get_ipython"}  # a builtin where there is IPython, and used only there


def source(cell):
    return "".join(cell["source"])


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
        assert cell["execution_count"], f"this cell was not run:\n{source(cell)}"
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


def ink(picture):
    """Returns a picture (h, w, 3 or more) as (1, 1, h, w), 1 for black."""
    return 1 - torch.tensor(picture)[None, None, :, :, :3].double().mean(4)


def unlike(shown, kept):
    """Returns the mean difference in ink of a figure as shown and as it is kept.

    The one shown has half as many dots to an inch, and other margins.
    """
    shown = ink(shown)
    kept = F.pad(F.avg_pool2d(ink(kept), 2), (20, 20, 20, 20))
    # where they agree best: the least sum of (kept - shown)^2 of all places
    ones = torch.ones_like(shown)
    squares = F.conv2d(kept.square(), ones) - 2 * F.conv2d(kept, shown)
    top, left = divmod(squares.argmin().item(), squares.shape[3])
    height, width = shown.shape[2:]
    off = kept[:, :, top : top + height, left : left + width] - shown
    # less what another resolution makes of an edge
    return F.avg_pool2d(off, 6).abs().mean().item()


@both
def test_figures_are_in_the_outputs_and_the_same_in_the_report(name):
    saved = set()
    for cell in code(name):
        kinds = [out.get("data", {}) for out in cell["outputs"]]
        shown = [data for data in kinds if any("image/" in kind for kind in data)]
        figures = list(nb.saved(source(cell)))
        saved.update(f"{figure}.{kind}" for figure, kind in figures)
        if figures:
            assert len(shown) == len(figures), source(cell)
        for (figure, kind), data in zip(figures, shown):
            # one's own Jupyter may show them in another format
            if kind == "png" and nb.is_committed(name):
                kept = plt.imread(nb.ROOT / f"report/figures/{figure}.png")
                png = io.BytesIO(base64.b64decode(data["image/png"]))
                picture = plt.imread(png)
                # its mirror image is a wrong picture with as much ink
                wrong = unlike(picture, kept[:, ::-1].copy())
                off = unlike(picture, kept) / wrong
                assert off < 0.6, f"{figure} is another one in report/"
    # none is left over from an earlier version
    prefix = RESULTS[name] + "_"
    kept = {path.name for path in (nb.ROOT / "report/figures").glob(prefix + "*")}
    assert saved <= kept
    assert {f"figures/{left}" for left in kept - saved} <= set(build.BENCHMARKS)


@both
def test_results_have_what_others_read(name):
    """…the README, the report and benchmarks/."""
    keys = {
        "VAE.ipynb": "test_nelbo_nats test_kl_nats test_rec_nats niwae_nats "
        "nelbo_repeats_nats nll_nats active_units",
        "RealNVP.ipynb": "test_bits_per_dim test_log_mean_bits_per_dim",
    }
    path = nb.ROOT / f"report/results/{RESULTS[name]}.json"
    stored = json.loads(path.read_text("utf-8"))
    wanted = "history steps checks device versions minutes " + keys[name]
    assert set(wanted.split()) <= stored.keys()
    for rows in stored["history"], stored["steps"]:
        assert all(row.keys() == rows[0].keys() for row in rows)
    for row in stored["checks"].values():
        assert row.keys() == {"values", "difference", "tolerance", "unit"}
        assert row["difference"] <= row["tolerance"]


# order


def sections(name):
    """Yields (code cell, the headings above it, the Markdown since the nearest one)."""
    path, text = [], ""
    for cell in nb.cells(name):
        if cell["cell_type"] == "code":
            yield cell, [title for _, title in path], text
            continue
        for line in source(cell).splitlines():
            heading = re.match("(#+) (.*)", line)
            if heading:
                level = len(heading[1])
                path = [(above, title) for above, title in path if above < level]
                path.append((level, heading[2]))
                text = ""
            text += line + "\n"


@both
def test_answers_stand_in_the_assignments_order_under_its_words(name):
    items = list(ANSWERS[name])
    found = [tag for cell in code(name) for tag in tags(cell)]
    wanted = [f"todo-{item}" for item in items if item not in NOT_CODE]
    assert list(dict.fromkeys(found)) == ["parameters", *wanted]
    assert found == sorted(found)

    text = "\n".join(source(cell) for cell in nb.cells(name))
    quotes = re.findall(r'^## (\d\w)\. .*\n\n> <div dir="rtl">\((\w+)\)', text, re.M)
    assert dict(quotes) == ANSWERS[name] and [item for item, _ in quotes] == items
    assert not re.search(r"\bTODO\b", text)

    for cell, headings, _ in sections(name):
        for tag in tags(cell):
            if tag != "parameters":
                item = tag.removeprefix("todo-")
                assert any(title.startswith(item) for title in headings), headings
    titles = re.findall(r"^## (.*)", text, re.M)
    last_answer = max(i for i, title in enumerate(titles) if title[:2] in items)
    extra = [i for i, title in enumerate(titles) if title.startswith("Extra")]
    assert all(i > last_answer for i in extra)


@both
def test_a_displayed_equation_stands_above_each_answer(name):
    seen = set()
    for cell, headings, text in sections(name):
        for tag in tags(cell):
            if tag not in seen and tag != "parameters":
                seen.add(tag)
                # 2c and 2e run what was defined above
                if re.search("^(def|class) ", source(cell), re.M):
                    assert text.count("$$") >= 2, headings


@both
def test_parameters_are_literals_each_with_its_meaning(name):
    (cell,) = [cell for cell in code(name) if "parameters" in tags(cell)]
    for node in ast.parse(source(cell)).body:
        ast.literal_eval(node.value)
        line = source(cell).splitlines()[node.end_lineno - 1]
        assert "  # " in line, line


@both
def test_definitions_and_runs_never_share_a_cell(name):
    for text in nb.code_cells(name):
        body = ast.parse(text).body
        if any(isinstance(n, ast.FunctionDef | ast.ClassDef) for n in body):
            assert all(nb.defines(node) for node in body), text


@both
def test_functions_use_no_variable_of_a_run(name):
    """…so that tests and benchmarks may load the definitions alone."""
    namespace = nb.load(name)
    known = vars(namespace).keys() | vars(builtins).keys() | IPYTHON

    def names(body):
        for instruction in dis.get_instructions(body):
            if instruction.opname == "LOAD_GLOBAL":
                yield instruction.argval
        for inner in body.co_consts:
            if isinstance(inner, types.CodeType):
                yield from names(inner)

    for text in nb.code_cells(name):
        nodes = ast.parse(text).body
        if nodes and all(nb.defines(node) for node in nodes):
            for inner in compile(text, name, "exec").co_consts:
                if isinstance(inner, types.CodeType):
                    unknown = set(names(inner)) - known
                    assert not unknown, (inner.co_name, unknown)


def test_what_both_notebooks_need_is_written_in_the_same_words():
    words = []
    for name in RESULTS:
        found = {}
        for text in nb.code_cells(name):
            for node in ast.parse(text).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    found[node.name] = ast.get_source_segment(text, node)
        words.append(found)
    vae, flow = words
    shared = (vae.keys() & flow.keys()) - OWN
    assert {"pick_device", "save", "check", "load_mnist", "plot_images"} <= shared
    for name in shared:
        assert vae[name] == flow[name], name
