"""Both notebooks as files: shape, order, clean and fresh outputs, and no number that comes from nowhere."""

import ast
import builtins
import dis
import json
import re
import shutil
import statistics
import types

import pytest
from conftest import ROOT, cells_of, code_cells, compiled, is_definition, load_definitions, source

NOTEBOOKS = {"VAE.ipynb": "vae.json", "RealNVP.ipynb": "realnvp.json"}
TAGS = {
    "VAE.ipynb": ["parameters", "todo-2a", "todo-2b", "todo-2c", "todo-2d", "todo-2e"],
    "RealNVP.ipynb": ["parameters", "todo-3a", "todo-3c", "todo-3d"],
}
ITEMS = {  # heading -> the letter with which the assignment's words begin
    "VAE.ipynb": {"2a": "الف", "2b": "ب", "2c": "ج", "2d": "د", "2e": "ه"},
    "RealNVP.ipynb": {"3a": "الف", "3b": "ب", "3c": "ج", "3d": "د"},
}
ASKED = {  # figures that the assignment asks for, under the heading that asks
    "VAE.ipynb": {"vae_curves": "2c", "vae_samples": "2c", "vae_reconstructions": "2c", "vae_bounds": "2e"},
    "RealNVP.ipynb": {"realnvp_affine": "3a", "realnvp_curves": "3d", "realnvp_samples": "3d"},
}
IMPLEMENTATIONS = {  # each has a displayed equation above it, in its own section
    "VAE.ipynb": "sample_gaussian kl_normal log_bernoulli_with_logits negative_elbo_bound nelbo_loss log_normal "
    "log_mean_exp negative_iwae_bound log_px_quadrature AutoregressiveVAE",
    "RealNVP.ipynb": "log_affine pack AffineCoupling dequantize Gaussianize Bend ScaleShift RealNVP Logit",
}
FIRST_ANSWER = {"VAE.ipynb": "todo-2a", "RealNVP.ipynb": "todo-3a"}
FIRST_CURVE = {"VAE.ipynb": 350, "RealNVP.ipynb": 500}  # the flow's layers, its network and the model come before
KEYS = {  # read by the README, the report and benchmarks/
    "vae.json": "test_nelbo_nats test_kl_nats test_rec_nats niwae_nats nelbo_repeats_nats nll_nats active_units",
    "realnvp.json": "test_bits_per_dim test_nll_nats train_bits_per_dim",
}
SEEN = {  # the numbers of the title's line "What you should see", in its order
    "VAE.ipynb": [("nelbo_repeats_nats", "mean"), ("niwae_nats", "150", "mean"), ("nll_nats",)],
    "RealNVP.ipynb": [("test_bits_per_dim",), ("test_log_mean_bits_per_dim",), ("train_bits_per_dim",)],
}
OWN = {"train", "evaluate", "parameter_groups"}  # the same name, but each notebook's own
IPYTHON = {"display", "get_ipython"}  # builtins where there is an IPython, and used only there
SCAFFOLDING = re.compile(
    "save|timed|progress|print_table|check_.*|plot_.*|load_mnist|MNIST_MD5|OKABE_ITO|WIDTH|cell_hash"
)
notebooks = pytest.mark.parametrize("name", NOTEBOOKS)


def tags(cell):
    return cell["metadata"].get("tags", [])


def length(cell):
    return len(source(cell).splitlines())


def printed(name):
    """All text that the committed outputs show."""
    outputs = [out for cell in code_cells(name) for out in cell["outputs"]]
    return "".join("".join(out.get("text", "")) + "".join(out.get("data", {}).get("text/plain", "")) for out in outputs)


def results(name):
    return json.loads((ROOT / "report/results" / NOTEBOOKS[name]).read_text("utf-8"))


def definitions(name):
    """Returns {name: node} of a notebook's top-level functions and classes."""
    nodes = (node for cell in code_cells(name) for node in ast.parse(source(cell)).body)
    return {node.name: node for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def sections(name):
    """Yields (cell, the headings above it, the Markdown since the nearest of them)."""
    path, text = [], ""
    for cell in cells_of(name):
        if cell["cell_type"] == "markdown":
            for line in source(cell).splitlines():
                if heading := re.match("(#+) (.*)", line):
                    level = len(heading[1])
                    path, text = [h for h in path if h[0] < level] + [(level, heading[2])], ""
                text += line + "\n"
        yield cell, [title for _, title in path], text


# ---------------------------------------------------------------------------------------------- outputs and numbers


@notebooks
def test_outputs_are_of_one_clean_run(name):
    cells = code_cells(name)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    for out in (out for cell in cells for out in cell["outputs"]):
        assert out["output_type"] != "error" and out.get("name") != "stderr", out
    assert not re.search(r"\r|\x1b|Warning|http|stopped by hand", printed(name))
    assert (ROOT / name).stat().st_size < 4_000_000
    assert "widgets" not in json.loads((ROOT / name).read_text("utf-8"))["metadata"]


@notebooks
def test_numbers_belong_to_the_code_beside_them(name):
    stored = results(name)
    cell_hash = load_definitions(name)["cell_hash"]
    assert stored["code_sha256"] == cell_hash([source(cell) for cell in code_cells(name)]), "run the notebook again"
    for key in {"VAE.ipynb": ["nll_nats"], "RealNVP.ipynb": ["test_bits_per_dim"]}[name]:
        assert f"{stored[key]:.3f}" in printed(name)


@notebooks
def test_results_have_the_keys_that_others_read(name):
    stored = results(name)
    both = {"seed", "config", "history", "device", "versions", "minutes", "code_sha256"}
    assert both | set(KEYS[NOTEBOOKS[name]].split()) <= stored.keys()
    assert "total" in stored["minutes"] and len({len(column) for column in stored["history"].values()}) == 1
    if name == "VAE.ipynb":
        assert list(stored["niwae_nats"]) == ["5", "50", "150"] and stored["config"]["repeats"] == 50
        for row in (stored["nelbo_repeats_nats"], *stored["niwae_nats"].values()):
            assert row.keys() == {"mean", "std", "repeats"} and row["repeats"] == 50
    assert not stored["config"]["validate"] and stored["config"]["n_train"] == 60_000


@notebooks
def test_the_hash_is_of_what_the_code_does(name):
    cell_hash = load_definitions(name)["cell_hash"]
    plain = ["x = 1", "def f(a):\n    return a + x"]
    same = ["x=1  # why\n", 'def f(a):\n    """Returns a + x."""\n\n    return (a + x)']
    assert cell_hash(plain) == cell_hash(same)
    for other in (["x = 2", plain[1]], ["x = True", plain[1]], plain[::-1], ["x = 1", "def f(a):\n    return a - x"]):
        assert cell_hash(plain) != cell_hash(other)


@notebooks
def test_the_title_says_what_you_should_see(name):
    stored, (line,) = results(name), re.findall(r"^\*What you should see:\*.*$", source(cells_of(name)[0]), re.M)
    values = [stored, stored, stored]
    for i, keys in enumerate(SEEN[name]):
        for key in keys:
            values[i] = values[i][key]
    found = re.findall(r"\d+\.\d+", line)
    assert found == [f"{value:.{len(n.split('.')[1])}f}" for value, n in zip(values, found, strict=True)]
    (minutes,) = re.findall(r"(\d+) minutes", line)
    assert abs(int(minutes) - stored["minutes"]["total"]) <= 1


@notebooks
def test_no_number_in_the_prose_comes_from_nowhere(name):
    """Decimals and numbers of three digits or more are in the JSON, rounded alike, or in the code."""

    def numbers(value):
        if isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                yield from numbers(item)
        elif isinstance(value, int | float):
            yield value

    code = "\n".join(map(source, code_cells(name)))
    known = [*numbers(results(name)), *map(float, re.findall(r"\d+(?:_\d+)*(?:\.\d+)?(?:e-?\d+)?", code))]
    for cell, headings, _ in sections(name):
        if cell["cell_type"] != "markdown" or headings[-1:] == ["References"]:
            continue
        text = re.sub(r"\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|<[^>]*>|\]\([^)]*\)", " ", source(cell), flags=re.S)
        text = re.sub(r"^>.*$|\b(19|20)\d\d\b|\b(sec|eq)s?\. [\d., ]+", " ", text, flags=re.M)
        for number in re.findall(r"(?<![\w.])\d[\d,]*\.\d+(?!\w)|\d[\d,]{2,}\d|\d{3,}", text):
            digits = len(number.partition(".")[2])
            assert any(f"{abs(k):.{digits}f}" == number.replace(",", "") for k in known), (number, text)


@notebooks
def test_every_figure_is_saved_by_the_notebooks(name):
    """…and none is left over from an earlier version."""
    prefix = name.removesuffix(".ipynb").lower() + "_"
    code = "\n".join(map(source, code_cells(name)))
    saved = {f"{n}.{kind or 'svg'}" for n, kind in re.findall(r'save\(fig, "(\w+)"(?:, "(\w+)")?\)', code)}
    assert saved == {path.name for path in (ROOT / "report/figures").glob(prefix + "*")}


# ------------------------------------------------------------------------------------------------------------- shape


@notebooks
def test_size(name):
    lengths = [length(cell) for cell in code_cells(name)]
    assert len(lengths) <= 60 and sum(lengths) <= 650 and statistics.median(lengths) <= 12


@notebooks
def test_the_first_answer_and_the_first_curve_come_early(name):
    before, answer, curve = 0, None, None
    for cell in code_cells(name):
        if FIRST_ANSWER[name] in tags(cell) and answer is None:
            answer = before
        if "_curves" in source(cell):
            curve = before
        before += length(cell)
    assert answer <= 130 and curve <= FIRST_CURVE[name]


@notebooks
def test_scaffolding_is_a_quarter_at_most(name):
    """Set-up, refusals, JSON, and pictures that the assignment does not ask for, in lines."""

    def scaffolding(cell):
        text, lines = source(cell), set()
        if any(f'save(fig, "{figure}"' in text for figure in ASKED[name]):
            return 0
        if re.search(r"\bplt\.|json\.dumps|\bconfig\b|LEAST", text) and not re.search("^(def|class|@)", text, re.M):
            return length(cell)
        for node in ast.parse(text).body:
            names = [getattr(node, "name", "")] + [t.id for t in getattr(node, "targets", []) if hasattr(t, "id")]
            for n in ast.walk(node):
                guard = isinstance(n, ast.If) and isinstance(n.body[0], ast.Raise)
                guard |= isinstance(n, ast.Expr) and ast.unparse(n).startswith("check_")
                if guard or (n is node and any(map(SCAFFOLDING.fullmatch, names))):
                    first = min(d.lineno for d in [n, *getattr(n, "decorator_list", [])])
                    lines |= set(range(first, n.end_lineno + 1))
        return len(lines)

    cells = code_cells(name)
    assert sum(map(scaffolding, cells)) <= 0.25 * sum(map(length, cells))


@notebooks
def test_answers_are_tagged_in_the_assignments_order(name):
    cells = code_cells(name)
    found = [tag for cell in cells for tag in tags(cell)]
    assert list(dict.fromkeys(found)) == TAGS[name] and found == sorted(found)
    assert not re.search(r"\bTODO\b|NotImplementedError", "\n".join(map(source, cells)))
    for cell, headings, _ in sections(name):
        for item in (tag.removeprefix("todo-") for tag in tags(cell) if tag != "parameters"):
            assert any(heading.startswith(item) for heading in headings), (item, headings)


@notebooks
def test_each_item_has_its_number_and_the_assignments_words(name):
    found = {}
    for cell in cells_of(name):
        if cell["cell_type"] == "markdown":
            found |= re.findall(r'^## (\d\w)\. .*\n\n> <div dir="rtl">\((\w+)\)', source(cell), re.M)
    assert list(found.items()) == list(ITEMS[name].items())
    (last,) = [i for i, (_, headings, _) in enumerate(sections(name)) if headings[-1:] == ["Conclusion"]][:1]
    extra = [i for i, (_, headings, _) in enumerate(sections(name)) if any("Extra" in h for h in headings)]
    asked = [i for i, (_, headings, _) in enumerate(sections(name)) if any(h[:2] in ITEMS[name] for h in headings)]
    assert max(asked) < min(extra) and max(extra) < last


@notebooks
def test_what_is_asked_for_stands_where_it_is_asked_for(name):
    for cell, headings, _ in sections(name):
        for figure, item in ASKED[name].items():
            if f'save(fig, "{figure}"' in source(cell):
                assert any(heading.startswith(item) for heading in headings), (figure, headings)


@notebooks
def test_a_displayed_equation_stands_above_each_implementation(name):
    wanted = set(IMPLEMENTATIONS[name].split())
    for cell, _, text in sections(name):
        if cell["cell_type"] == "code":
            for node in ast.parse(source(cell)).body:
                if getattr(node, "name", "") in wanted:
                    assert text.count("$$") >= 2, node.name
                    wanted.remove(node.name)
    assert not wanted


@notebooks
def test_definitions_and_runs_never_share_a_cell(name):
    for cell in code_cells(name):
        body = ast.parse(source(cell)).body
        has_def = any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in body)
        assert not has_def or all(map(is_definition, body)), source(cell)


@notebooks
def test_functions_use_no_variable_of_a_run(name):
    namespace = load_definitions(name)

    def names(code):
        yield from (i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL")
        for const in code.co_consts:
            if isinstance(const, types.CodeType):
                yield from names(const)

    for _, defines, code in compiled(name):
        for const in code.co_consts if defines else ():
            if isinstance(const, types.CodeType):
                unknown = {n for n in names(const) if n not in namespace and not hasattr(builtins, n)} - IPYTHON
                assert not unknown, (const.co_name, unknown)


def test_what_both_notebooks_need_is_written_in_the_same_words():
    vae, flow = map(definitions, NOTEBOOKS)
    for name in (vae.keys() & flow.keys()) - OWN:
        assert ast.unparse(vae[name]) == ast.unparse(flow[name]), name
    assert {"save", "progress", "print_table", "load_mnist", "plot_images", "cell_hash"} <= vae.keys() & flow.keys()


@notebooks
def test_parameters_are_literals_each_with_its_meaning(name):
    (cell,) = [cell for cell in code_cells(name) if "parameters" in tags(cell)]
    for node, line in zip(ast.parse(source(cell)).body, source(cell).splitlines(), strict=True):
        ast.literal_eval(node.value)
        assert "  # " in line
    assert {"SEED", "DATA", "OUT", "VALIDATE", "N_TRAIN", "N_TEST"} <= set(re.findall(r"^\w+", source(cell), re.M))


@notebooks
def test_asserts_are_not_about_how_a_training_run_turned_out(name):
    """No assert and no check looks at a history, or at what training left in `results`."""
    for node in (n for cell in code_cells(name) for n in ast.walk(ast.parse(source(cell)))):
        if isinstance(node, ast.Assert):
            assert not re.search(r"history|active_units|(test|train)_\w*(nats|dim)", ast.unparse(node))


# -------------------------------------------------------------------------------------------------------------- data


def mnist_copy(folder):
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for path in (ROOT / "data/MNIST/raw").glob("*.gz"):
        shutil.copy(path, raw)
    return raw


@pytest.mark.parametrize("damage", [None, b"not MNIST"])
def test_missing_or_damaged_data_is_named_with_its_md5_and_folder(vae, tmp_path, monkeypatch, damage):
    import torchvision

    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [])  # no network
    raw = mnist_copy(tmp_path)
    bad = raw / "t10k-images-idx3-ubyte.gz"
    bad.unlink()
    if damage:
        bad.write_bytes(damage)
    with pytest.raises(RuntimeError) as error:
        vae.load_mnist(tmp_path, train=False)
    text = str(error.value)
    assert bad.name in text and "9fb629c4189551a2d022fa330f9573f3" in text and str(raw) in text
    assert "train-images" not in text and error.value.__cause__ is not None


def test_a_damaged_extracted_file_is_noticed(vae, tmp_path):
    raw = mnist_copy(tmp_path)
    images, labels = vae.load_mnist(tmp_path, train=False)
    assert images.shape == (10_000, 784) and labels[:3].tolist() == [7, 2, 1]
    extracted = raw / "t10k-images-idx3-ubyte"
    extracted.write_bytes(extracted.read_bytes()[:-1] + b"\x07")
    with pytest.raises(RuntimeError, match="t10k-images"):
        vae.load_mnist(tmp_path, train=False)


def test_intact_data_that_cannot_be_used_is_not_called_damaged(vae, tmp_path, monkeypatch):
    import torchvision

    def refuse(*args, **kwargs):
        raise PermissionError("Permission denied: 'train-images'")

    raw = mnist_copy(tmp_path)
    monkeypatch.setattr(torchvision.datasets, "MNIST", refuse)
    with pytest.raises(RuntimeError, match="intact.*Permission denied") as error:
        vae.load_mnist(tmp_path, train=False)
    assert str(raw) in str(error.value) and "damaged" not in str(error.value)
