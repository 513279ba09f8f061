"""Numbers in the text agree with the results, within what machines differ by.

Between two kinds of CPU the VAE differed by 0.000 nats and the flow by 0.0003 bits/dim;
another version of PyTorch or a GPU may differ by more. Minutes are not compared.
"""

import json
import re

import nb
import pytest

build = nb.load_script("build")
NATS = 0.1
BITS = 0.006
README = (nb.ROOT / "README.md").read_text("utf-8")
VAE_ROWS = {  # a row of README -> its numbers' keys, and the tolerance of each
    "VAE, negative ELBO": [("nelbo_repeats_nats mean", NATS)],
    "VAE, negative IWAE": [
        ("niwae_nats 5 mean", NATS),
        ("niwae_nats 50 mean", NATS),
        ("niwae_nats 150 mean", NATS),
    ],
    "VAE, −log p(x)": [("nll_nats", NATS), ("nll_standard_error_nats", 0.01)],
    "VAE, active": [("active_units", 2)],
}
FLOW_ROWS = {
    "RealNVP, bits/dim, mean": [("test_bits_per_dim", BITS)],
    "RealNVP, bits/dim, log-mean": [("test_log_mean_bits_per_dim", BITS)],
}


def results(name, notebook):
    """Returns a file of report/results; skips where it is not of the text's run.

    The text was written for the committed notebook's parameters and a whole training.
    """
    last = json.loads((nb.ROOT / f"report/results/{name}.json").read_text("utf-8"))
    now = build.parameters(json.loads((nb.ROOT / notebook).read_text("utf-8")))
    before = nb.committed(notebook)
    if before and build.parameters(json.loads(before)) != now:
        pytest.skip("the text tells of the committed run, which had other parameters")
    if last["history"][-1]["epoch"] < now["EPOCHS"]:
        pytest.skip("the text tells of a whole training, and this one was stopped")
    return last


def look_up(data, keys):
    for key in keys.split():
        data = data[key]
    return data


def agree(texts, wanted):
    """Whether numbers in a text are the wanted (value, tolerance)s, one by one."""
    assert len(texts) == len(wanted), texts
    for text, (value, tolerance) in zip(texts, wanted):
        digits = len(text.partition(".")[2])
        if abs(float(text) - value) > tolerance + 0.5 * 10**-digits:
            return False
    return True


def decimals(text):
    return re.findall(r"\d+\.\d+", text)


def test_what_agrees():
    wanted = [(87.512, NATS), (84.406, NATS), (0.2181, 0.01)]
    assert agree(["87.51", "84.41", "0.22"], wanted)
    assert agree(["87.55", "84.4", "0.22"], wanted)
    for other in ("84.41 87.51 0.22", "87.51 84.41 0.015", "87.51 84.41 0.425"):
        assert not agree(other.split(), wanted)
    assert not agree(["1.093"], [(1.1067, BITS)])


@pytest.mark.parametrize(
    ("name", "notebook", "rows"),
    [("vae", "VAE.ipynb", VAE_ROWS), ("realnvp", "RealNVP.ipynb", FLOW_ROWS)],
)
def test_readmes_table(name, notebook, rows):
    stored = results(name, notebook)
    for begin, keys in rows.items():
        (line,) = [x for x in README.splitlines() if x.startswith(f"| {begin}")]
        cell = line.split("|")[2]
        numbers = decimals(cell) or re.findall(r"\d+", cell)[:1]
        wanted = [(look_up(stored, key), tolerance) for key, tolerance in keys]
        assert agree(numbers, wanted), line


def what_you_should_see(name):
    text = "".join(nb.cells(name)[0]["source"])
    (line,) = re.findall(r"^\*What you should see:\*.*$", text, flags=re.MULTILINE)
    return decimals(line)


def test_what_you_should_see_in_the_vae():
    vae = results("vae", "VAE.ipynb")
    keys = "nelbo_repeats_nats mean", "niwae_nats 150 mean", "nll_nats"
    wanted = [(look_up(vae, key), NATS) for key in keys]
    assert agree(what_you_should_see("VAE.ipynb"), wanted)


def test_what_you_should_see_in_the_flow():
    flow = results("realnvp", "RealNVP.ipynb")
    # in the order of the text; independent pixels are not trained
    values = [s["bits_per_dim"] for s in flow["steps"] if s["key"] != "independent"]
    values += [flow["test_bits_per_dim"], flow["test_log_mean_bits_per_dim"]]
    values.append(flow["history"][-1]["train_bits_per_dim"])
    wanted = [(value, BITS) for value in values]
    assert agree(what_you_should_see("RealNVP.ipynb"), wanted)


def test_measured_samples_in_the_texts():
    """benchmarks/README.md has the table of results/samples.json, and README some."""
    if not nb.is_committed("report/results/samples.json"):
        pytest.skip("the texts tell of the committed measurements")
    rows = json.loads((nb.ROOT / "report/results/samples.json").read_text("utf-8"))
    table = (nb.ROOT / "benchmarks/README.md").read_text("utf-8")
    for model in rows.values():
        # the three last columns
        spread = f"{model['fd_least']:.0f}, {model['fd_most']:.0f}"
        cells = f"| {model['fd']:.1f} | {spread} | {model['sure']:.3f} |"
        assert cells in table, "run benchmarks/samples.py, and copy its table"
    (text,) = re.findall(r"Fréchet distance.*?\n\n", README, flags=re.DOTALL)
    quoted = re.findall(r"\b\d+\.\d\b", text)
    assert quoted and set(quoted) <= {f"{model['fd']:.1f}" for model in rows.values()}
