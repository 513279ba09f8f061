"""The figures of benchmarks/samples.py, and where they are quoted."""

import importlib.util
import json

import pytest
import torch
from conftest import ROOT


@pytest.fixture(scope="module")
def samples():
    spec = importlib.util.spec_from_file_location(
        "samples", ROOT / "benchmarks/samples.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_frechet_is_the_distance_of_two_gaussians(samples):
    """Of independent coordinates: the squared distance of the means plus that of the standard deviations."""
    torch.manual_seed(0)
    z = torch.randn(5000, 3, dtype=torch.float64)
    z = (z - z.mean(0)) @ torch.linalg.cholesky(
        z.T.cov()
    ).inverse().T  # mean 0 and covariance I to the last digit
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    a = (z * torch.tensor([1.0, 2.0, 0.0]) + torch.tensor([5.0, 0.0, 0.0])) @ turn
    b = (z.flip(0) * torch.tensor([4.0, 2.5, 1.0])) @ turn
    assert samples.frechet(a, b) == pytest.approx(25 + 9 + 0.25 + 1)
    assert samples.frechet(a, a) == pytest.approx(0, abs=1e-6)


def test_features_and_the_classifiers_answer(samples):
    net, images = samples.classifier().eval(), torch.rand(1500, 784)
    found, sure = samples.features(net, images)
    with torch.no_grad():
        probabilities = net(images).softmax(1)
    assert found.shape == (1500, 64)
    torch.testing.assert_close(sure, probabilities.max(1).values)


def test_distances_in_the_readmes_are_those_of_the_last_run(samples):
    rows = json.loads((ROOT / "report/results/samples.json").read_text("utf-8"))
    assert list(rows) == list(samples.ROWS)
    front, table = (
        (ROOT / name).read_text("utf-8")
        for name in ("README.md", "benchmarks/README.md")
    )
    for name in ("flow", "mlp"):
        assert f" {rows[name]['fd']:.1f}" in front
    for name, row in rows.items():
        assert (
            f"| {samples.ROWS[name][0]} |" in table
            and f"| {row['fd']:.1f} | {row['sure']:.3f} |" in table
        )
