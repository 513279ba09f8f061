"""The measures of benchmarks/samples.py; and every script of benchmarks/, run small."""

import json
import re

import flow as parts
import nb
import norm
import pytest
import samples
import torch
import vae as vae_script


def test_frechet_is_the_distance_of_two_gaussians():
    """Of independent coordinates: that of the means plus that of the deviations."""
    z = torch.randn(5000, 3, dtype=torch.float64)
    # mean 0 and covariance I to the last digit
    z = z - z.mean(0)
    z = z @ torch.linalg.cholesky(z.T.cov()).inverse().T
    turn, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    a = (z * torch.tensor([1.0, 2.0, 0.0]) + torch.tensor([5.0, 0.0, 0.0])) @ turn
    b = (z.flip(0) * torch.tensor([4.0, 2.5, 1.0])) @ turn
    assert samples.frechet(a, b) == pytest.approx(25 + 9 + 0.25 + 1)
    assert samples.frechet(a, a) == pytest.approx(0, abs=1e-6)


def test_features_are_those_in_front_of_the_last_layer():
    net = samples.classifier().eval()
    images = torch.randint(0, 256, (1010, 784), dtype=torch.uint8)
    found, sure = samples.features(net, images)
    with torch.no_grad():
        logits = net(images / 255)
        want = net[-1](found.float())
    assert found.shape == (1010, 64)
    torch.testing.assert_close(want, logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sure, logits.softmax(1).amax(1), rtol=1e-4, atol=1e-5)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The scripts with 300 images, one epoch and untrained classifiers."""
    images = torch.randint(0, 256, (300, 784), dtype=torch.uint8)
    images[torch.rand(images.shape) < 0.8] = 0
    right_load = nb.load

    def load(name):
        module = right_load(name)
        module.EPOCHS, module.DRAWS, module.CHANNELS, module.UNITS = 1, 2, 4, 8
        return module

    monkeypatch.setattr(nb, "load", load)
    for script in (samples, parts, norm):
        monkeypatch.setattr(script, "HELD_OUT", 100)
        monkeypatch.setattr(script, "mnist", lambda train: (images, images[:, 0] % 10))
    monkeypatch.setattr(samples, "SAMPLES", 100)
    monkeypatch.setattr(samples, "LONG_EPOCHS", 2)
    monkeypatch.setattr(samples, "USUAL_STEPS", 2)
    net = samples.classifier().eval()
    monkeypatch.setattr(samples, "trained_classifier", lambda seed: net)
    monkeypatch.setattr(samples, "BUILD", tmp_path)
    monkeypatch.setattr(parts, "BUILD", tmp_path)
    monkeypatch.setattr(parts, "ROWS_FILE", tmp_path / "flow.json")
    monkeypatch.setattr(norm, "FILE", tmp_path / "norm.json")
    (tmp_path / "report/results").mkdir(parents=True)
    monkeypatch.setattr(samples, "ROOT", tmp_path)


def test_every_row_of_the_samples_is_made_and_measured(small, tmp_path, capsys):
    """A name that a notebook no longer has is found here, not after an hour."""
    samples.main(list(samples.NAMES))
    table = capsys.readouterr().out
    for name in samples.NAMES.values():
        assert f"| {name} | " in table
    rows = json.loads((tmp_path / "report/results/samples.json").read_text("utf-8"))
    assert set(rows) == set(samples.NAMES)
    assert all(row["fd"] >= 0 and 0 <= row["sure"] <= 1 for row in rows.values())
    # more training of the same flow: another model
    assert rows["plan"]["bits_per_dim"] != rows["long"]["bits_per_dim"]
    assert rows["long"]["tflop"] == pytest.approx(2 * rows["plan"]["tflop"])
    # made once: a second call draws nothing
    samples.drawn = None
    samples.main([])


def test_every_part_of_the_flow_is_changed_trained_and_measured(small, capsys):
    parts.main([], tflop=2e-3)
    rows = json.loads(parts.ROWS_FILE.read_text("utf-8"))
    assert [row["name"] for row in rows] == list(parts.ROWS)
    # each change makes another flow, which costs about what it was given
    bits = {row["name"]: row["bits_per_dim"] for row in rows}
    assert len(set(bits.values())) == len(rows), bits
    # kept: no row is trained again
    parts.trained_row = None
    parts.main([], tflop=2e-3)
    assert "| no plan | 0.002 | " in capsys.readouterr().out


def test_the_flow_is_trained_with_the_norm_and_without(small, capsys):
    norm.main()
    found = json.loads(norm.FILE.read_text("utf-8"))
    (with_norm, trained), (without, trained_without) = found.values()
    # untrained, a plan says nothing, with a norm or without
    assert with_norm == without
    assert trained["held_out_worst_nats"] != trained_without["held_out_worst_nats"]
    # kept: nothing is trained again
    norm.history = None
    norm.main()
    line = f"| 1 | {trained['train_worst_nats']:,.0f} | "
    assert capsys.readouterr().out.count(line) == 2


def test_the_kept_histories_are_in_the_readme(capsys):
    text = (nb.ROOT / "benchmarks/README.md").read_text("utf-8")
    norm.main()
    lines = capsys.readouterr().out.splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert "\n".join(["", *table, ""]) in text


def test_the_kept_rows_of_the_flow_are_in_the_readme():
    text = (nb.ROOT / "benchmarks/README.md").read_text("utf-8")
    for row in json.loads((nb.ROOT / "benchmarks/flow.json").read_text("utf-8")):
        line = f"| {row['name']} | {row['tflop']:g} "
        assert line in text
        assert f"| {row['bits_per_dim']:.4f} | " in text


def test_the_vaes_costs_are_those_in_the_readme():
    images = torch.randint(0, 256, (128, 784), dtype=torch.uint8)
    costs = vae_script.costs(nb.load("VAE.ipynb"), images)
    if nb.is_committed("VAE.ipynb"):
        text = (nb.ROOT / "benchmarks/README.md").read_text("utf-8")
        (table,) = re.findall(
            r"^By `benchmarks/vae.py`:.*?\n\n\|.*?\n\n", text, re.M | re.S
        )
        assert re.findall(r"[\d.]+(?= \|$)", table, re.M) == [
            f"{cost:.1f}" for cost in costs.values()
        ]
