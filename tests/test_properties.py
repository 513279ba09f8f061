"""What must hold for any input: finite values and gradients, equal to float64's, or the documented ValueError."""

import math

import numpy as np
import pytest
import torch
from conftest import as_fixture
from hypothesis import given, settings
from hypothesis import strategies as st

VAE, FLOW = as_fixture("VAE.ipynb"), as_fixture("RealNVP.ipynb")
few = settings(max_examples=25, deadline=None, derandomize=True)
batches = st.integers(1, 7)
moderate = st.floats(-50, 50)
variances = st.floats(-30, 30).map(lambda power: 10.0**power)
seeds = st.integers(0, 2**31)
SIDE = 4


def column(*values):
    """Returns each number as a float64 leaf of shape (1, 1)."""
    return [torch.full((1, 1), float(value), dtype=torch.float64, requires_grad=True) for value in values]


def finite_gradients(value, inputs):
    gradients = torch.autograd.grad(value.sum(), inputs)
    return all(g.isfinite().all() for g in (value, *gradients))


@few
@given(x=moderate, m=moderate, v=variances)
def test_log_normal(x, m, v):
    inputs = column(x, m, v)
    assert finite_gradients(VAE.log_normal(*inputs), inputs)
    want = -0.5 * ((x - m) / v**0.5) ** 2 - 0.5 * math.log(v) - 0.5 * math.log(2 * math.pi)
    assert VAE.log_normal(*inputs).item() == pytest.approx(want, rel=1e-9, abs=1e-9)
    single = VAE.log_normal(*(t.detach().float() for t in column(x - m, 0, v)))
    assert single.item() == pytest.approx(want, rel=1e-5, abs=1e-4)


@few
@given(m=moderate, v=variances, other=moderate, pv=variances)
def test_kl_is_finite_and_never_negative(m, v, other, pv):
    inputs = column(m, v, other, pv)
    value = VAE.kl_normal(*inputs)
    assert finite_gradients(value, inputs)
    assert value.item() >= -1e-9 * (1 + value.abs().item())
    same = VAE.kl_normal(*column(m, v, m, v))
    torch.testing.assert_close(same, torch.zeros(1).double(), rtol=0, atol=1e-9)


@few
@given(m=moderate, v=variances, batch=batches, seed=seeds)
def test_sample_gaussian(m, v, batch, seed):
    torch.manual_seed(seed)
    mean, variance = (torch.full((batch, 3), value, requires_grad=True) for value in (m, v))
    z = VAE.sample_gaussian(mean, variance)
    assert z.shape == (batch, 3) and finite_gradients(z, (mean, variance))
    assert ((z - mean).abs() <= 7 * variance.sqrt() + 1e-5 * abs(m)).all()


@few
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(-1e6, 1e6)), min_size=1, max_size=9))
def test_log_bernoulli(pairs):
    """Finite at any logit, never positive, and x - sigmoid(logit) as gradient, in float32."""
    x, logits = torch.tensor(pairs).T[:, None]
    logits.requires_grad_()
    value = VAE.log_bernoulli_with_logits(x, logits)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    x, logits, zero = x.double(), logits.detach().double(), torch.zeros(1).double()
    want = -(x * torch.logaddexp(zero, -logits) + (1 - x) * torch.logaddexp(zero, logits))
    torch.testing.assert_close(value.double(), want.sum(-1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient.double(), x - torch.sigmoid(logits), rtol=1e-5, atol=1e-6)


@few
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9), st.floats(-1e6, 1e6))
def test_log_mean_exp(values, shift):
    x = torch.tensor(values, dtype=torch.float64)
    got = VAE.log_mean_exp(x, 0)
    assert x.max() - math.log(len(x)) - 1e-9 <= got <= x.max() + 1e-9
    torch.testing.assert_close(got, torch.tensor(np.logaddexp.reduce(values) - math.log(len(x))), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(VAE.log_mean_exp(x + shift, 0), got + shift, rtol=1e-9, atol=1e-6)


@few
@given(batch=batches, rep=st.integers(1, 5), shape=st.lists(st.integers(1, 3), max_size=2))
def test_duplicate(batch, rep, shape):
    x = torch.randn(batch, *shape)
    got = VAE.duplicate(x, rep)
    assert got.shape == (rep * batch, *shape)
    assert all(torch.equal(got[r * batch + i], x[i]) for r in range(rep) for i in range(batch))


@few
@given(
    batch=batches,
    ink=st.sampled_from(["black", "white", "grey", "noise"]),
    iw=st.integers(1, 4),
    z_dim=st.integers(1, 5),
)
def test_bounds_of_any_images(batch, ink, iw, z_dim):
    x = {"black": torch.ones, "white": torch.zeros, "noise": torch.rand}.get(ink, lambda *s: torch.full(s, 0.5))(
        batch, 784
    )
    torch.manual_seed(0)
    model = VAE.VAE(z_dim, enc_width=8, dec_width=8)
    for bound in (model.negative_elbo_bound(x), model.negative_iwae_bound(x, iw)):
        value, kl, rec = bound
        assert finite_gradients(value, list(model.parameters())) and kl >= 0 <= rec


@few
@given(peak=st.floats(0.01, 0.99), done=st.lists(st.floats(0, 1), min_size=2, max_size=5).map(sorted))
def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero(peak, done):
    for namespace in (VAE, FLOW):
        rates = [namespace.rise_and_fall(d, peak) for d in done]
        assert all(0 <= rate <= 1 for rate in rates)
        for (a, b), (rate_a, rate_b) in zip(zip(done, done[1:]), zip(rates, rates[1:])):
            assert rate_a <= rate_b + 1e-9 if b <= peak else a < peak or rate_a >= rate_b - 1e-9
        assert namespace.rise_and_fall(peak, peak) == pytest.approx(1)
        assert (
            namespace.rise_and_fall(1.0, peak) == pytest.approx(0, abs=1e-9) and namespace.rise_and_fall(0, peak) < 0.1
        )


@few
@given(value=st.one_of(st.floats(1.001, 1e30), st.floats(-1e30, -0.001), st.just(math.nan)), batch=batches)
def test_pixels_outside_their_range_are_refused(value, batch):
    x = torch.zeros(batch, 784)
    x[-1, -1] = value
    model = VAE.VAE(2, enc_width=4, dec_width=4)
    with pytest.raises(ValueError, match="pixels"):
        model.negative_elbo_bound(x)
    with pytest.raises(ValueError):
        FLOW.RealNVP([], torch.arange(784), []).log_prob(255 * x)


# ----------------------------------------------------------------------------------------------------------- RealNVP


class Random(torch.nn.Linear):
    """x_a -> (s, t), by one random layer; |s| < 1."""

    def forward(self, x_a):
        s, t = super().forward(x_a.to(self.weight.dtype)).chunk(2, dim=1)
        return torch.tanh(s), t


def random_flow(seed, order, pairs=4):
    """A random flow behind Gaussianize and Bend, fitted on images half of whose pixels are blank."""
    torch.manual_seed(seed)
    half, shape = len(order) // 2, (20, len(order))
    images = torch.randint(0, 256, shape, dtype=torch.uint8) * (torch.rand(shape) < 0.5)
    return FLOW.RealNVP(FLOW.gaussianize_and_bend(images), order, [Random(half, 2 * half) for _ in range(pairs)])


IMAGES = {
    "black": lambda n, d: torch.full((n, d), 255),
    "white": lambda n, d: torch.zeros((n, d), dtype=torch.long),
    "noise": lambda n, d: torch.randint(0, 256, (n, d)),
}


@few
@given(
    batch=batches,
    order=st.permutations(range(SIDE * SIDE)),
    kind=st.sampled_from(list(IMAGES)),
    u=st.one_of(st.floats(0, 1, exclude_max=True, width=32), st.none()),
    seed=seeds,
)
def test_any_image_in_any_order_goes_forward_and_back(batch, order, kind, u, seed):
    model = random_flow(seed, torch.tensor(order))
    images = IMAGES[kind](batch, SIDE * SIDE)
    noise = torch.rand(images.shape) if u is None else torch.full(images.shape, u)
    bits = model.bits_per_dim(images, noise)
    assert bits.shape == (batch,) and finite_gradients(bits, list(model.parameters()))
    with torch.no_grad():
        z, log_det = model(FLOW.dequantize(images, noise))
        back = model.inverse(z)
    assert z.isfinite().all() and log_det.shape == (batch,)
    assert torch.equal(FLOW.quantize(back), images.to(torch.uint8))


@few
@given(batch=batches, half=st.integers(1, 9), seed=seeds)
def test_a_coupling_of_any_size(batch, half, seed):
    torch.manual_seed(seed)
    coupling, x = FLOW.AffineCoupling(Random(half, 2 * half).double()), torch.randn(batch, 2 * half).double()
    y, log_det = coupling(x)
    torch.testing.assert_close(coupling.inverse(y), x)
    torch.testing.assert_close(log_det, coupling.net(x[:, :half])[0].sum(1))
    for odd in (x[:, 1:], x[0]):
        with pytest.raises(ValueError, match="even"):
            coupling(odd)


@few
@given(half_side=st.integers(1, 8))
def test_the_checkerboards_halves_are_packed_where_they_lie(half_side):
    side = 2 * half_side
    first, second = FLOW.checkerboard(side)[None].chunk(2, dim=1)
    for colour, half in enumerate((first, second.flip(1))):
        blocks = FLOW.pack(half)[0]
        for r in range(2):
            for i in range(half_side):
                for j in range(half_side):
                    assert blocks[r, i, j] == side * (2 * i + r) + 2 * j + (r + colour) % 2
        assert torch.equal(FLOW.unpack(FLOW.pack(half)), half)


@few
@given(x=st.floats(0, 1, exclude_max=True), alpha=st.floats(1e-9, 0.49))
def test_logit(x, alpha):
    (value,) = column(x)
    y, log_det = FLOW.Logit(alpha)(value)
    (slope,) = torch.autograd.grad(y.sum(), value)
    torch.testing.assert_close(log_det, slope.log().sum(1))
    back = FLOW.Logit(alpha).inverse(y)
    torch.testing.assert_close(back, value, rtol=0, atol=1e-6)
