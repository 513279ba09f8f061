"""Numbers in the text agree with the results, within what machines differ by.

Between two kinds of CPU the VAE differed by 0.000 nats and the flow by 0.0003 bits/dim;
another version of PyTorch or a GPU may differ by more. Minutes are not compared.
"""

import json
import re

import nb
import pytest

build = nb.load_script("build")
README = (nb.ROOT / "README.md").read_text("utf-8")
NOTEBOOKS = {"vae": "VAE.ipynb", "realnvp": "RealNVP.ipynb"}
TOLERANCES = {  # the first that is in a number's key
    "standard_error": 0.015,
    "nats": 0.1,
    "bits_per_dim": 0.006,
    "active_units": 2,
}
NELBO = "nelbo_repeats_nats mean"
IWAE = [f"niwae_nats {m} mean" for m in (5, 50, 150)]
STEPS = [f"steps {i} bits_per_dim" for i in range(5)]
FLOW = ["test_bits_per_dim", "test_log_mean_bits_per_dim"]
FLOW += ["history -1 train_bits_per_dim"]
LINES = [  # how a line begins, the results, its numbers' keys in their order
    ("| VAE, negative ELBO", "vae", [NELBO]),
    ("| VAE, negative IWAE", "vae", IWAE),
    ("| VAE, −log p(x)", "vae", ["nll_nats", "nll_standard_error_nats"]),
    ("| VAE, active", "vae", ["active_units"]),
    ("*What you should see:*", "vae", [NELBO, IWAE[2], "nll_nats"]),
    ("| RealNVP, bits/dim, mean", "realnvp", [FLOW[0]]),
    ("| RealNVP, bits/dim, log-mean", "realnvp", [FLOW[1]]),
    ("*What you should see:*", "realnvp", [*STEPS, *FLOW]),
]


def results(name):
    """Returns a file of report/results; skips where it is not of the text's run.

    The text was written for the committed notebook's parameters and a whole training.
    """
    notebook = NOTEBOOKS[name]
    last = json.loads((nb.ROOT / f"report/results/{name}.json").read_text("utf-8"))
    now = build.parameters(json.loads((nb.ROOT / notebook).read_text("utf-8")))
    before = nb.committed(notebook)
    if before and build.parameters(json.loads(before)) != now:
        pytest.skip("the text tells of the committed run, which had other parameters")
    if last["history"][-1]["epoch"] < now["EPOCHS"]:
        pytest.skip("the text tells of a whole training, and this one was stopped")
    return last


@pytest.mark.parametrize(("begin", "name", "keys"), LINES)
def test_numbers_of_a_line(begin, name, keys):
    """…of README's table, or at a notebook's top."""
    text = README + "".join(nb.cells(NOTEBOOKS[name])[0]["source"])
    (line,) = [line for line in text.splitlines() if line.startswith(begin)]
    # of the table, the second column
    line = line.split("|")[2] if "|" in line else line
    numbers = re.findall(r"\d+\.\d+|\d+(?= of)", line)
    for number, key in zip(numbers, keys, strict=True):
        value = results(name)
        for part in key.split():
            value = value[int(part) if isinstance(value, list) else part]
        # of the committed run, rounded; of one's own, as machines differ
        digits = len(number.partition(".")[2])
        tolerance = 0.5 * 10**-digits + 1e-9
        if not nb.is_committed(f"report/results/{name}.json"):
            tolerance = next(TOLERANCES[unit] for unit in TOLERANCES if unit in key)
        assert float(number) == pytest.approx(value, abs=tolerance), key


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
