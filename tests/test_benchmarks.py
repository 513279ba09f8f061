"""The measures of benchmarks/samples.py."""

import importlib.util

import nb
import pytest
import torch


@pytest.fixture(scope="module")
def samples():
    path = nb.ROOT / "benchmarks/samples.py"
    spec = importlib.util.spec_from_file_location("samples", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_frechet_is_the_distance_of_two_gaussians(samples):
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


def test_features_are_those_in_front_of_the_last_layer(samples):
    net = samples.classifier().eval()
    images = torch.rand(1010, 784)
    found, sure = samples.features(net, images)
    with torch.no_grad():
        logits = net(images)
        want = net[-1](found.float())
    assert found.shape == (1010, 64)
    torch.testing.assert_close(want, logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sure, logits.softmax(1).amax(1), rtol=1e-4, atol=1e-5)


def test_the_notebooks_flow_is_the_row_that_the_notebook_answers_with(samples):
    """…and the rows before it leave out what they say."""
    notebook = nb.load("RealNVP.ipynb")
    images = torch.randint(0, 256, (50, 784), dtype=torch.uint8)
    kinds = {}
    for key in ("asked", "gaussianize", "nobend", "flow"):
        model = samples.build_flow(notebook, key, images)
        kinds[key] = [type(layer).__name__ for layer in model.layers]
        assert model.bits_per_dim(images[:2]).isfinite().all()
    pairs = ["Permute", *["AffineCoupling", "Flip"] * 4]
    assert kinds["asked"] == ["Logit", *pairs]
    assert kinds["gaussianize"] == kinds["nobend"] == ["Gaussianize", *pairs]
    assert kinds["flow"] == ["Gaussianize", "Bend", *pairs]
