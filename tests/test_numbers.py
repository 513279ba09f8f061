"""Numbers in the text agree with the results, within what machines differ by.

Between two kinds of CPU the VAE differed by 0.000 nats and the flow by 0.0003 bits/dim;
another version of PyTorch or a GPU may differ by more. Minutes are not compared.
"""

import json
import re

import nb
import pytest

TOLERANCE = {"nats": 0.2, "bits/dim": 0.02, "units": 2}
OF_A_DISTANCE = 0.1  # of the Fréchet distance, as a share


def results(name):
    """Returns a file of report/results, the last run's."""
    path = nb.ROOT / f"report/results/{name}.json"
    return json.loads(path.read_text("utf-8"))


def results_of_the_text(name):
    """Returns the same; skips a test if that run was not of the text's parameters.

    The text was written for the committed run.
    """
    last = results(name)
    committed = nb.committed(f"report/results/{name}.json")
    if committed and json.loads(committed)["config"] != last["config"]:
        pytest.skip("the text tells of the committed run, which had other parameters")
    if last["epochs_done"] < last["config"]["epochs"]:
        pytest.skip("the text tells of a whole training, and this one was stopped")
    return last


def close(text, value, unit):
    """Whether a number in a text is `value`, to its own digits and the tolerance."""
    digits = len(text.partition(".")[2])
    return abs(float(text) - value) <= TOLERANCE[unit] + 0.5 * 10**-digits


def decimals(text):
    return re.findall(r"\d+\.\d+", text)


def row(text, begin):
    """Returns the cell of "| begin | cell |" in a table."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {begin}")]
    return line.split("|")[2]


def test_vae_in_the_readme():
    readme = (nb.ROOT / "README.md").read_text("utf-8")
    vae = results_of_the_text("vae")
    (nelbo,) = decimals(row(readme, "VAE, negative ELBO"))
    assert close(nelbo, vae["nelbo_repeats_nats"]["mean"], "nats")
    niwae = decimals(row(readme, "VAE, negative IWAE"))
    for text, m in zip(niwae, ("5", "50", "150"), strict=True):
        assert close(text, vae["niwae_nats"][m]["mean"], "nats")
    nll, error = decimals(row(readme, "VAE, −log p(x)"))
    assert close(nll, vae["nll_nats"], "nats")
    assert close(error, vae["nll_standard_error_nats"], "nats")
    active, latents = re.findall(r"\d+", row(readme, "VAE, active"))
    assert close(active, vae["active_units"], "units")
    assert int(latents) == vae["config"]["z_dim"]


def test_flow_in_the_readme():
    readme = (nb.ROOT / "README.md").read_text("utf-8")
    flow = results_of_the_text("realnvp")
    (mean,) = decimals(row(readme, "RealNVP, bits/dim, mean"))
    assert close(mean, flow["test_bits_per_dim"], "bits/dim")
    (log_mean,) = decimals(row(readme, "RealNVP, bits/dim, log-mean"))
    assert close(log_mean, flow["test_log_mean_bits_per_dim"], "bits/dim")


def what_you_should_see(name):
    text = "".join(nb.cells(name)[0]["source"])
    (line,) = re.findall(r"^\*What you should see:\*.*$", text, flags=re.MULTILINE)
    assert decimals(line), line
    return decimals(line)


def test_what_you_should_see_in_the_vae():
    vae = results_of_the_text("vae")
    known = [vae["nelbo_repeats_nats"]["mean"], vae["nll_nats"]]
    known += [bound["mean"] for bound in vae["niwae_nats"].values()]
    for text in what_you_should_see("VAE.ipynb"):
        assert any(close(text, value, "nats") for value in known), text


def test_what_you_should_see_in_the_flow():
    flow = results_of_the_text("realnvp")
    known = ["test_bits_per_dim", "test_log_mean_bits_per_dim", "train_bits_per_dim"]
    known = [flow[key] for key in known]
    known += [step["bits_per_dim"] for step in flow["steps"]]
    for text in what_you_should_see("RealNVP.ipynb"):
        assert any(close(text, value, "bits/dim") for value in known), text


def test_distances_in_the_texts():
    """benchmarks/README.md has the table of results/samples.json, and README some."""
    rows = results("samples")
    known = [model["fd"] for model in rows.values()]

    def is_known(text):
        return any(abs(float(text) - fd) <= OF_A_DISTANCE * fd for fd in known)

    table = (nb.ROOT / "benchmarks/README.md").read_text("utf-8")
    for model in rows.values():
        # the three last columns
        spread = f"{model['fd_least']:.0f}, {model['fd_most']:.0f}"
        cells = f"| {model['fd']:.1f} | {spread} | {model['sure']:.3f} |"
        assert cells in table, "run benchmarks/samples.py, and copy its table"

    readme = (nb.ROOT / "README.md").read_text("utf-8")
    (text,) = re.findall(r"Fréchet distance.*?\n\n", readme, flags=re.DOTALL)
    quoted = re.findall(r"\b\d+\.\d\b", text)
    assert quoted
    for distance in quoted:
        assert is_known(distance), distance
