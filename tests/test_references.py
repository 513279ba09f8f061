"""The notebooks' functions against independent references: zuko's flows, and models whose bounds have closed forms."""

import math

import numpy as np
import pytest
import torch
import torch.distributions as D
import zuko
from torch import nn


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_sample_gaussian_is_normal(vae):
    """The largest distance of the distribution functions, below the 1e-6 quantile of Kolmogorov's distribution."""
    m, v = torch.tensor([1.0, -2.0]).repeat(50_000, 1), torch.tensor([0.1, 30.0]).repeat(50_000, 1)
    u = D.Normal(m, v.sqrt()).cdf(vae.sample_gaussian(m, v)).sort(0).values
    steps = torch.arange(50_001)[:, None] / 50_000
    distance = torch.maximum(steps[1:] - u, u - steps[:-1]).amax(0)
    assert (distance * math.sqrt(50_000) < 2.7).all()


def test_samples_are_drawn_from_the_prior_and_the_decoder(vae):
    """Probabilities have the decoder's mean and spread at z ~ N(0, I), binary pixels its rates and correlations."""
    model = vae.VAE(2, torch.linspace(0.1, 0.9, 784), enc_width=8, dec_width=8)
    with torch.no_grad():
        model.decoder.last.weight.mul_(5)
        want = torch.sigmoid(model.dec(torch.randn(20_000, 2)))
        probabilities, pixels = model.sample_sigmoid(20_000), model.sample_x(20_000)
    error = 6 * want.std(0) / math.sqrt(10_000)
    assert (probabilities.mean(0) - want.mean(0)).abs().lt(error).all()
    assert (probabilities.std(0) / want.std(0) - 1).abs().max() < 0.1 and want.std(0).max() > 0.1
    rate = want.mean(0)
    assert ((pixels.mean(0) - rate).abs() < 6 * (rate * (1 - rate) / 10_000).sqrt()).all()
    together, covariance = (pixels.T @ pixels / 20_000).fill_diagonal_(0), torch.cov(want.T)
    expected = (covariance + rate[:, None] * rate).fill_diagonal_(0)  # E[x_i x_j] = E[p_i p_j]
    assert (together - expected).abs().max() < 0.03


# --------------------------------------------------------------------------------------------------- RealNVP and zuko


def as_zuko(order, networks):
    """Returns the same flow, data to latents, made of zuko's transforms and torch's, with the same networks."""

    def affine(net):
        def given(x_a):
            s, t = net(x_a)
            return D.AffineTransform(t, s.exp(), event_dim=1)

        return given

    size = len(order)
    first, reverse = torch.arange(size) < size // 2, torch.arange(size).flip(0)
    layers = [zuko.transforms.PermutationTransform(order)]
    for net in networks:
        layers += [zuko.transforms.CouplingTransform(affine(net), first), zuko.transforms.PermutationTransform(reverse)]
    return zuko.transforms.ComposedTransform(*layers)


def random_network(half):
    net = nn.Sequential(nn.Linear(half, 32), nn.Tanh(), nn.Linear(32, 2 * half)).double()
    return lambda x_a: net(x_a).chunk(2, dim=1)


@pytest.mark.parametrize("pairs", [1, 2, 4])
def test_coupling_and_flip_are_zukos(flow, pairs):
    """Values, log-det, inverse, and the density of what comes out, each to the last digits of float64."""
    order, networks = torch.randperm(16), [random_network(8) for _ in range(pairs)]
    model, reference = flow.RealNVP([], order, networks), as_zuko(order, networks)
    x = torch.randn(50, 16, dtype=torch.float64)
    (z, log_det), (want, want_log_det) = model(x), reference.call_and_ladj(x)
    torch.testing.assert_close(z, want)
    torch.testing.assert_close(log_det, want_log_det)
    torch.testing.assert_close(model.inverse(z), reference.inv(want))
    assert (z - x[:, order]).abs().max() > 0.1 and log_det.std() > 0.1  # the comparison is not of the identity
    base = zuko.distributions.DiagNormal(torch.zeros(16).double(), torch.ones(16).double())
    density = zuko.distributions.NormalizingFlow(reference, base).log_prob(x)
    torch.testing.assert_close(flow.log_standard_normal(z) + log_det, density)


@pytest.mark.parametrize("units", [0, 8])
def test_the_notebooks_own_flow_of_images_is_zukos(flow, units):
    """The default order, and networks far from the identity that they start as: log p of images."""
    model = flow.RealNVP([], flow.checkerboard(), [flow.ScaleShift(392, 8, units, block) for block in (2, 2, 4, 4)])
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn_like(p))
        images, u = torch.randint(0, 256, (3, 784)), torch.rand(3, 784)
        networks = [layer.net for layer in model.layers if isinstance(layer, flow.AffineCoupling)]
        z, log_det = as_zuko(flow.checkerboard(), networks).call_and_ladj((images + u.double()) / 256)
        want = D.Normal(0.0, 1.0).log_prob(z).sum(1) + log_det - 784 * math.log(256)
        assert len(networks) == 4 and log_det.abs().min() > 1
        torch.testing.assert_close(model.log_prob(images, u), want, rtol=1e-6, atol=0)


# -------------------------------------------------------------------------------------------- the linear-Gaussian VAE

K, PIXELS, NOISE = 3, 7, 0.6  # latents, pixels, standard deviation of a pixel


class Linear:
    """p(z) = N(0, I), p(x|z) = N(x; W z + b, NOISE^2 I): log p(x) and the posterior are Gaussian, in closed form."""

    def __init__(self, W):
        self.W, self.b = W, torch.randn(PIXELS, dtype=torch.float64)
        self.marginal = D.MultivariateNormal(self.b, W @ W.T + NOISE**2 * torch.eye(PIXELS).double())
        self.precision = torch.eye(K).double() + W.T @ W / NOISE**2

    def posterior(self, x):
        mean = torch.linalg.solve(self.precision, self.W.T @ (x - self.b).T / NOISE**2).T
        return D.MultivariateNormal(mean, precision_matrix=self.precision)

    def vae(self, namespace, enc):
        """Returns a VAE with the notebook's bounds, this model's likelihood, and `enc` as its encoder."""
        this = self

        class LinearVAE(namespace.VAE):
            def __init__(self):
                nn.Module.__init__(self)
                self.z_dim = K

            def enc(self, x):
                return enc(x)

            def log_likelihood(self, x, z):
                return D.Normal(z @ this.W.T + this.b, NOISE).log_prob(x).sum(-1)

        return LinearVAE()


@pytest.fixture
def diagonal():
    """A model whose posterior is diagonal: the columns of W are orthogonal."""
    q, _ = torch.linalg.qr(torch.randn(PIXELS, K, dtype=torch.float64))
    return Linear(q * torch.tensor([0.5, 1.0, 2.0]))


@pytest.fixture
def correlated():
    return Linear(torch.randn(PIXELS, K, dtype=torch.float64))


def exact(model):
    return lambda x: (model.posterior(x).mean, (1 / model.precision.diagonal()).expand(len(x), K))


def rough(x):
    """An encoder that is wrong on purpose."""
    return 0.3 * x[:, :K], 0.2 + 0.1 * x[:, :K].square()


def test_with_the_exact_posterior_every_bound_is_log_px_whatever_is_drawn(vae, diagonal):
    x = diagonal.marginal.sample((20,))
    model, want = diagonal.vae(vae, exact(diagonal)), -diagonal.marginal.log_prob(x)
    torch.testing.assert_close(-model.log_weights(x, model.sample_z(x, 5)), want.expand(5, 20))
    for iw in (1, 4):
        torch.testing.assert_close(model.negative_iwae_bound(x, iw)[0], want.mean())
    bounds, nll = vae.repeated_bounds(model, x, [1, 3], repeats=2)
    torch.testing.assert_close(nll, want)
    for iw in (1, 3):
        torch.testing.assert_close(bounds[iw].double(), want.mean().expand(2))


def test_the_elbo_falls_short_by_the_kl_to_the_posterior(vae, correlated):
    x = correlated.marginal.sample((5,))
    model, (m, v) = correlated.vae(vae, rough), rough(x)
    with torch.no_grad():
        many = x.repeat(500, 1)
        nelbo, kl, rec = torch.tensor([model.negative_elbo_bound(many) for _ in range(400)]).double().T
    q = D.MultivariateNormal(m, torch.diag_embed(v))
    short = D.kl_divergence(q, correlated.posterior(x)).mean()
    error = 5 * nelbo.std() / math.sqrt(len(nelbo))
    assert short > 20 * error
    assert (nelbo.mean() + correlated.marginal.log_prob(x).mean() - short).abs() < error
    prior = D.MultivariateNormal(torch.zeros(K).double(), torch.eye(K).double())
    torch.testing.assert_close(kl.mean(), D.kl_divergence(q, prior).mean(), rtol=1e-6, atol=0)
    torch.testing.assert_close(nelbo, kl + rec, rtol=1e-6, atol=0)


def test_the_best_diagonal_elbo_is_where_its_gradient_says_it_is(vae, correlated):
    """Among diagonal q, the best has the posterior's mean and v_j = 1 / precision_jj, and its gap is known.

    So the gradients through sample_gaussian must vanish there, on average, and nowhere near it.
    """
    x, precision = correlated.marginal.sample((1,)), correlated.precision
    best_m, best_v = exact(correlated)(x)
    gap = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    for shift, scale, at_best in ((0.0, 1.0, True), (0.2, 1.0, False), (0.0, 1.3, False)):
        m, log_v = (best_m + shift).requires_grad_(), (best_v * scale).log().requires_grad_()
        model = correlated.vae(vae, lambda x, m=m, log_v=log_v: (m.expand(len(x), K), log_v.exp().expand(len(x), K)))
        many = x.expand(200_000, PIXELS)
        nelbo = model.negative_elbo_bound(many)[0]
        gradient = torch.cat(torch.autograd.grad(nelbo, (m, log_v)), dim=1)
        assert (gradient.abs().max() < 0.05) == at_best, gradient
        assert ((nelbo + correlated.marginal.log_prob(x) - gap).abs() < 0.02) == at_best
    assert gap > 0.1


def test_the_bounds_gradients_are_those_of_finite_differences(vae, correlated):
    """…through the samples, the weights and the KL alike, for the same noise."""
    x = correlated.marginal.sample((4,))
    m, log_v = (t.requires_grad_() for t in (rough(x)[0], rough(x)[1].log()))
    for bound in (lambda model: model.negative_elbo_bound(x), lambda model: model.negative_iwae_bound(x, 3)):

        def value(m, log_v, bound=bound):
            torch.manual_seed(1)
            return bound(correlated.vae(vae, lambda x: (m, log_v.exp())))[0]

        torch.autograd.gradcheck(value, (m, log_v))


def test_iwae_of_two_samples_is_the_integral(vae):
    """One latent, one pixel: E log((w_1 + w_2) / 2) by Gauss-Hermite quadrature over both samples."""
    noise, x, m, v = 0.5, 1.2, 0.3, 0.4

    class Scalar(vae.VAE):
        def __init__(self):
            nn.Module.__init__(self)
            self.z_dim = 1

        def enc(self, x):
            return torch.full_like(x, m), torch.full_like(x, v)

        def log_likelihood(self, x, z):
            return D.Normal(z, noise).log_prob(x).sum(-1)

    node, weight = np.polynomial.hermite_e.hermegauss(120)
    z, weight = torch.tensor(m + math.sqrt(v) * node), torch.tensor(weight / weight.sum())
    log_w = D.Normal(0.0, 1.0).log_prob(z) + D.Normal(z, noise).log_prob(torch.tensor(x).double())
    log_w = log_w - D.Normal(m, math.sqrt(v)).log_prob(z)
    both = torch.logaddexp(log_w[:, None], log_w) - math.log(2)
    want = {1: weight @ log_w, 2: weight @ both @ weight}
    many = torch.full((400_000, 1), x, dtype=torch.float64)
    with torch.no_grad():
        for iw, value in want.items():
            estimates = -vae.log_mean_exp(Scalar().log_weights(many, Scalar().sample_z(many, iw)), 0)
            assert (estimates.mean() + value).abs() < 5 * estimates.std() / math.sqrt(len(many))
            assert (Scalar().negative_iwae_bound(many[:2000], iw)[0] + value).abs() < 0.1
    assert want[2] - want[1] > 0.05
