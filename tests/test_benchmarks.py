"""The measures of benchmarks/samples.py, and what benchmarks/flow.py changes."""

import importlib
import math

import nb
import pytest
import torch


@pytest.fixture(scope="module")
def samples():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(nb.ROOT / "benchmarks")
        return importlib.import_module("samples")


@pytest.fixture(scope="module")
def parts():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(nb.ROOT / "benchmarks")
        return importlib.import_module("flow")


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
    images = torch.randint(0, 256, (1010, 784), dtype=torch.uint8)
    found, sure = samples.features(net, images)
    with torch.no_grad():
        logits = net(images / 255)
        want = net[-1](found.float())
    assert found.shape == (1010, 64)
    torch.testing.assert_close(want, logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sure, logits.softmax(1).amax(1), rtol=1e-4, atol=1e-5)


def test_the_notebooks_flow_is_the_row_that_the_notebook_answers_with(samples):
    """…and the rows before it leave out what they say."""
    notebook = nb.load("RealNVP.ipynb")
    images = torch.randint(0, 256, (50, 784), dtype=torch.uint8)
    kinds = {}
    for key in ("asked", "gaussianize", "nobend", "flow", "long"):
        model = samples.build_flow(notebook, key, images)
        kinds[key] = [type(layer).__name__ for layer in model.layers]
        assert model.bits_per_dim(images[:2]).isfinite().all()
    pairs = ["Permute", *["AffineCoupling", "Flip"] * 4]
    assert kinds["asked"] == ["Logit", *pairs]
    assert kinds["gaussianize"] == kinds["nobend"] == ["Gaussianize", *pairs]
    assert kinds["flow"] == kinds["long"] == ["Gaussianize", "Bend", *pairs]


@torch.no_grad()
def test_log_mean_is_of_the_mean_of_p_over_the_draws(samples):
    notebook = nb.load("RealNVP.ipynb")
    images = torch.randint(0, 256, (50, 784), dtype=torch.uint8)
    model = samples.build_flow(notebook, "gaussianize", images)
    for p in model.parameters():
        p.add_(0.01 * torch.randn_like(p))

    torch.manual_seed(notebook.SEED)
    logs = [model.log_prob(images, torch.rand(images.shape)) for _ in range(8)]
    logs = torch.stack(logs)
    most = logs.amax(0)
    nats = -(most + (logs - most).exp().mean(0).log()).mean().item()
    assert logs.std(0).min() > 0.01  # the draws differ
    got = samples.log_mean(notebook, model, images)
    assert got == pytest.approx(nats / (784 * math.log(2)), abs=1e-9)


def test_squares_of_two_by_two_pixels_lie_in_the_cells_of_the_grid(parts):
    notebook = nb.load("RealNVP.ipynb")
    order = parts.checkerboard_of_squares(notebook)
    assert torch.equal(order.sort().values, torch.arange(784))
    for colour, half in enumerate((order[:392], order[392:].flip(0))):
        grid = notebook.to_grid(half[None, None], 4)[0]  # (8, 7, 7)
        row, column = grid // 28, grid % 28
        cell = torch.arange(7)
        assert torch.equal(row // 4, cell[:, None].expand(8, 7, 7))
        assert torch.equal(column // 4, cell.expand(8, 7, 7))
        assert ((row // 2 + column // 2) % 2 == colour).all()


def without_runs(change):
    """A row's options, less those of its training."""
    return {k: v for k, v in change.items() if k not in ("seed", "parameters")}


def test_every_row_of_the_flows_parts_is_a_flow_that_can_be_undone(parts, samples):
    notebook = nb.load("RealNVP.ipynb")
    images = torch.randint(0, 256, (50, 784), dtype=torch.uint8)
    x = notebook.dequantize(images[:2], torch.rand(2, 784))
    kinds = set()
    for change in parts.ROWS.values():
        model = parts.build(notebook, images, **without_runs(change))
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.01 * torch.randn_like(p))
            z, _ = model(x)
            torch.testing.assert_close(model.inverse(z), x, rtol=0, atol=1e-6)
        shapes = tuple(tuple(p.shape) for p in model.parameters() if p.requires_grad)
        kinds.add((shapes, len(model.layers)))
    # the first is the notebook's own
    own = samples.build_flow(notebook, "flow", images)
    first = parts.build(notebook, images)
    assert [p.shape for p in first.parameters()] == [p.shape for p in own.parameters()]
    # apart from seeds and parameters of the notebook, each row is another model
    models = {str(without_runs(change)) for change in parts.ROWS.values()}
    assert len(kinds) == len(models)


def test_the_plot_has_all_rows_of_the_tables(parts):
    rows = parts.tried()
    text = (nb.ROOT / "benchmarks/README.md").read_text("utf-8")
    section = text.split("## What each part of s and t is worth")[1].split("\n## ")[0]
    lines = section.splitlines()
    assert len(rows) == sum(line.startswith("| ") for line in lines) - 2 * 3
    # the first is the notebook's, 52 TFLOP; short trainings cost 15
    assert rows[0][0] == 52 and rows[0][3] == "residual blocks in the dense path"
    assert {row[0] for row in rows} >= {15, 52}
    assert {row[3] for row in rows} == set(parts.KINDS)
    for tflop, bits, fd, _ in rows:
        assert 10 < tflop < 100 and 1.1 < bits < 1.3 and 100 < fd < 400
