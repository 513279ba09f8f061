"""The functions of VAE.ipynb against torch.distributions and closed forms."""

import math

import pytest
import torch
import torch.distributions as D
import torch.nn.functional as F
from torch import nn


def small(vae, z_dim=2, x_mean=None, width=8):
    """A plain VAE with few units."""
    encoder = vae.plain_net(784, 2 * z_dim, width)
    decoder = vae.plain_net(z_dim, 784, width)
    return vae.VAE(z_dim, encoder, decoder, x_mean)


@pytest.fixture
def model(vae):
    """A small VAE whose posterior and decoder are far from trivial."""
    model = small(vae, 5, width=16)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


@pytest.fixture
def x():
    """Six binary images."""
    return (torch.rand(6, 784) < 0.3).float()


# 2a: densities and samples


def test_sample_gaussian_draws_from_the_normal_distribution(vae):
    """Mean m and variance v, in all quantiles, and a noise of its own for each latent.

    The distance of the distribution functions is below the 1e-6 quantile of
    Kolmogorov's distribution.
    """
    n = 50_000
    m = torch.tensor([1.0, -2.0]).repeat(n, 1)
    v = torch.tensor([0.1, 30.0]).repeat(n, 1)
    z = vae.sample_gaussian(m, v)
    u = D.Normal(m, v.sqrt()).cdf(z).sort(0).values
    steps = torch.arange(n + 1)[:, None] / n
    distance = torch.maximum(steps[1:] - u, u - steps[:-1]).amax(0)
    assert (distance * math.sqrt(n) < 2.7).all()
    assert abs(torch.corrcoef(z.T)[0, 1]) < 5 / math.sqrt(n)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_log_normal_and_kl_normal_are_those_of_torch(vae, size):
    """…however small or large the variances, float64."""
    m, pm, x = math.sqrt(size) * torch.randn(3, 7, 40, dtype=torch.float64)
    v, pv = size * (torch.rand(2, 7, 40, dtype=torch.float64) + 0.1)
    q = D.Normal(m, v.sqrt())
    p = D.Normal(pm, pv.sqrt())
    torch.testing.assert_close(vae.log_normal(x, m, v), q.log_prob(x).sum(-1))
    torch.testing.assert_close(
        vae.kl_normal(m, v, pm, pv), D.kl_divergence(q, p).sum(-1)
    )


def test_log_bernoulli_is_that_of_torch(vae):
    """…at extreme logits, too; those that are right cost the others no digits."""
    x = (torch.rand(3, 784) < 0.5).float()
    logits = 5 * torch.randn(3, 784)
    x[:, :2] = torch.tensor([1.0, 0.0])
    logits[:, :2] = torch.tensor([1e8, -1e8])
    logits.requires_grad_()
    value = vae.log_bernoulli_with_logits(x, logits)
    torch.testing.assert_close(value, D.Bernoulli(logits=logits).log_prob(x).sum(-1))
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    torch.testing.assert_close(gradient, x - logits.sigmoid())
    # one that is sure and wrong
    wrong = vae.log_bernoulli_with_logits(torch.zeros(1), torch.tensor([1e6]))
    assert wrong == -1e6


def test_log_mean_exp(vae):
    x = torch.randn(4, 9, dtype=torch.float64)
    torch.testing.assert_close(vae.log_mean_exp(x, 1), x.exp().mean(1).log())
    far = vae.log_mean_exp(x - 5000, 0)
    torch.testing.assert_close(far, x.exp().mean(0).log() - 5000)


def test_duplicate_keeps_the_batch_together(vae):
    x = torch.arange(6.0).reshape(3, 2)
    assert torch.equal(vae.duplicate(x, 4), torch.cat([x, x, x, x]))
    assert vae.duplicate(torch.zeros(2, 3, 4), 5).shape == (10, 3, 4)


def test_mistakes_that_would_go_unseen_are_refused(vae, model):
    zeros = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(1, 3\)"):
        vae.sample_gaussian(zeros, torch.ones(1, 3))
    with pytest.raises(ValueError, match="-1"):
        vae.sample_gaussian(zeros, -torch.ones(2, 3))
    for pixel in (-0.1, 1.1, 255.0):
        with pytest.raises(ValueError, match="pixels"):
            model.negative_elbo_bound(torch.full((2, 784), pixel))


# the model


def test_binarize_switches_a_pixel_on_with_probability_grey_over_255(vae):
    grey = torch.tensor([0, 51, 128, 255], dtype=torch.uint8)
    rate = vae.binarize(grey.repeat(100_000, 1)).mean(0)
    assert rate[0] == 0 and rate[3] == 1
    torch.testing.assert_close(rate, grey / 255, rtol=0, atol=0.01)


def test_the_images_of_validation_are_not_trained_on(vae):
    numbers = torch.arange(60_000)
    vae.N_TRAIN, vae.N_TEST = 55_000, 7
    train_images, test_images = vae.split(numbers, -numbers)
    assert torch.equal(train_images, numbers[:55_000])
    assert torch.equal(test_images, -numbers[:7])
    vae.VALIDATE = True
    train_images, test_images = vae.split(numbers, -numbers)
    assert torch.equal(train_images, numbers[:50_000])
    assert torch.equal(test_images, numbers[50_000:50_007])


def test_the_test_images_are_binarized_the_same_way_every_time(vae):
    grey = torch.full((3, 784), 102, dtype=torch.uint8)
    x = vae.binarize_once(grey)
    torch.manual_seed(1)
    assert torch.equal(vae.binarize_once(grey), x)
    assert x.mean().item() == pytest.approx(0.4, abs=0.05)
    assert len(x.unique(dim=0)) == 3


def test_binarization_entropy_is_that_of_torch(vae):
    grey = torch.randint(256, (4, 784), dtype=torch.uint8)
    want = D.Bernoulli(grey.double() / 255).entropy().sum(1)
    torch.testing.assert_close(vae.binarization_entropy(grey), want)
    assert vae.binarization_entropy(grey[:1] * 0) == 0


def test_the_mean_image_is_taken_off_and_put_back(vae):
    """The encoder sees the image less its mean; to the decoder's logits it is added."""
    mean = torch.linspace(0.01, 0.99, 784)
    model = small(vae, 3, mean)
    m, v = model.enc(mean[None])
    want_m, h = model.encoder(torch.zeros(1, 784)).chunk(2, dim=1)
    torch.testing.assert_close(m, want_m)
    torch.testing.assert_close(v, F.softplus(h), rtol=0, atol=1e-5)
    z = torch.randn(4, 3)
    logits = model.dec(z) - model.decoder(z)
    torch.testing.assert_close(torch.sigmoid(logits), mean.expand(4, 784))


def test_a_residual_net_adds_its_blocks(vae):
    net = vae.ResidualNet(5, 8, 3)
    x = torch.randn(4, 5)
    h = net.first(x)
    h = h + net.block1(h * h.sigmoid())
    h = h + net.block2(h * h.sigmoid())
    torch.testing.assert_close(net(x), net.last(h * h.sigmoid()))


def test_the_full_model_has_all_steps(vae):
    mean = torch.linspace(0.01, 0.99, 784)
    model = vae.full_vae(mean)
    assert torch.equal(model.x_mean, mean) and model.z_dim == vae.Z_DIM
    parts = [type(part) for part in model.modules()]
    assert parts.count(vae.ResidualNet) == 2 and parts.count(vae.Patches) == 1
    assert model.dec(torch.zeros(2, vae.Z_DIM)).shape == (2, 784)


def test_patches_are_linear_layers_of_the_images_squares(vae):
    """Against torch's linear layers, laid out by torch's fold."""
    patches = vae.Patches(3)
    h = torch.randn(2, 5, 48)
    with torch.no_grad():
        got = patches(h)
        squares = []
        for w, units in zip(patches.weight, h.split(3, dim=-1), strict=True):
            squares.append(F.linear(units, w.T).flatten(0, 1))  # (10, 49)
        want = F.fold(torch.stack(squares, dim=2), 28, 7, stride=7)
    torch.testing.assert_close(got, want.reshape(2, 5, 784))


def test_samples_are_drawn_from_the_prior_and_the_decoder(vae):
    """Means, spreads and correlations of pixels where all of them depend on z."""
    model = small(vae, 2, torch.linspace(0.1, 0.9, 784))
    n = 20_000
    with torch.no_grad():
        model.decoder[-1].weight.mul_(5)
        want = torch.sigmoid(model.dec(torch.randn(n, 2)))
        probabilities = model.sample_sigmoid(n)
        pixels = model.sample_x(n)
    rate = want.mean(0)
    assert want.std(0).max() > 0.1
    error = 6 * want.std(0) * math.sqrt(2 / n)
    assert ((probabilities.mean(0) - rate).abs() < error).all()
    assert (probabilities.std(0) / want.std(0) - 1).abs().max() < 0.1
    assert set(pixels.unique().tolist()) == {0.0, 1.0}
    error = 6 * (rate * (1 - rate) * 2 / n).sqrt()
    assert ((pixels.mean(0) - rate).abs() < error).all()
    # E[x_i x_j] = E[p_i p_j]: the pixels of an image have one z
    pixels, want = pixels[:, ::8], want[:, ::8]
    together = (pixels.T @ pixels / n).fill_diagonal_(0)
    expected = (want.T @ want / n).fill_diagonal_(0)
    assert (together - expected).abs().max() < 0.03


# 2b: the negative ELBO


# the linear-Gaussian VAE: its log p(x) and its posterior are Gaussian

K, PIXELS, NOISE = 3, 7, 0.6  # latents, pixels, standard deviation of a pixel


class Linear:
    """p(z) = N(0, I), p(x|z) = N(x; W z + b, NOISE^2 I)."""

    def __init__(self, W):
        self.W = W
        self.b = torch.randn(PIXELS, dtype=torch.float64)
        covariance = W @ W.T + NOISE**2 * torch.eye(PIXELS).double()
        self.marginal = D.MultivariateNormal(self.b, covariance)
        # of p(z|x)
        self.precision = torch.eye(K).double() + W.T @ W / NOISE**2

    def posterior(self, x):
        scaled = self.W.T @ (x - self.b).T / NOISE**2
        mean = torch.linalg.solve(self.precision, scaled).T
        return D.MultivariateNormal(mean, precision_matrix=self.precision)

    def best_diagonal(self, x):
        """Mean and variance of the diagonal q(z|x) with the largest ELBO."""
        v = 1 / self.precision.diagonal()
        return self.posterior(x).mean, v.expand(len(x), K)

    def vae(self, notebook, enc):
        """The notebook's VAE with this likelihood, and `enc` as its encoder."""
        W, b = self.W, self.b

        class LinearVAE(notebook.VAE):
            def __init__(self):
                nn.Module.__init__(self)
                self.z_dim = K

            def enc(self, x):
                return enc(x)

            def log_likelihood(self, x, z):
                return D.Normal(z @ W.T + b, NOISE).log_prob(x).sum(-1)

        return LinearVAE()


@pytest.fixture
def diagonal():
    """A model whose posterior is diagonal: the columns of W are orthogonal."""
    q, _ = torch.linalg.qr(torch.randn(PIXELS, K, dtype=torch.float64))
    return Linear(q * torch.tensor([0.5, 1.0, 2.0]))


@pytest.fixture
def correlated():
    return Linear(torch.randn(PIXELS, K, dtype=torch.float64))


def rough(x):
    """An encoder that is wrong on purpose."""
    return 0.3 * x[:, :K], 0.2 + 0.1 * x[:, :K].square()


def test_with_the_exact_posterior_every_bound_is_log_px(vae, diagonal):
    """…whatever is drawn: all weights are p(x)."""
    x = diagonal.marginal.sample((20,))
    model = diagonal.vae(vae, diagonal.best_diagonal)
    log_px = diagonal.marginal.log_prob(x)
    log_w = vae.draw_log_weights(model, x, 6)
    torch.testing.assert_close(log_w.double(), log_px.expand(6, 20), rtol=1e-5, atol=0)
    for iw in (1, 4):
        niwae, _, _ = model.negative_iwae_bound(x, iw)
        torch.testing.assert_close(niwae, -log_px.mean())


def test_the_elbo_falls_short_by_the_kl_to_the_posterior(vae, correlated):
    x = correlated.marginal.sample((5,))
    m, v = rough(x)
    model = correlated.vae(vae, rough)
    many = x.repeat(500, 1)
    terms = [torch.stack(model.negative_elbo_bound(many)) for _ in range(400)]
    nelbo, kl, rec = torch.stack(terms, dim=1)
    q = D.MultivariateNormal(m, torch.diag_embed(v))
    short = D.kl_divergence(q, correlated.posterior(x)).mean()
    error = 5 * nelbo.std() / math.sqrt(400)
    assert short > 20 * error
    log_px = correlated.marginal.log_prob(x).mean()
    assert (nelbo.mean() + log_px - short).abs() < error
    # and its terms are what they are called
    prior = D.MultivariateNormal(torch.zeros(K).double(), torch.eye(K).double())
    torch.testing.assert_close(kl[0], D.kl_divergence(q, prior).mean())
    torch.testing.assert_close(nelbo, kl + rec)


def test_gradients_are_those_of_finite_differences(vae, correlated):
    """…through the samples, the weights and the KL, for the same noise."""
    x = correlated.marginal.sample((4,))
    m, v = rough(x)

    def elbo(model):
        return model.negative_elbo_bound(x)[0]

    def iwae(model):
        return model.negative_iwae_bound(x, 3)[0]

    for bound in (elbo, iwae):

        def value(m, log_v, bound=bound):
            torch.manual_seed(1)
            return bound(correlated.vae(vae, lambda x: (m, log_v.exp())))

        torch.autograd.gradcheck(value, (m.requires_grad_(), v.log().requires_grad_()))


# 2d and 2e: IWAE


def test_sample_z_draws_from_the_posterior_of_each_image(model, x):
    n = 20_000
    with torch.no_grad():
        z = model.sample_z(x, n)
        m, v = model.enc(x)
    assert z.shape == (n, 6, 5)
    assert ((z.mean(0) - m) / v.sqrt()).abs().max() < 5 / math.sqrt(n)
    assert (z.var(0) / v - 1).abs().max() < 5 * math.sqrt(2 / n)


def test_niwae_is_minus_the_log_of_the_mean_weight_in_batches_of_any_size(vae, model):
    """…and beside it are the two terms of the ELBO."""
    x = (torch.rand(40, 784) < 0.3).float()
    z = torch.randn(4, 40, 5)
    parts = []

    def sample_z(part, iw):
        # the batch may be worked through in parts, in order
        seen = sum(parts)
        parts.append(len(part))
        return z[:iw, seen : seen + len(part)]

    model.sample_z = sample_z
    vae.sample_gaussian = lambda m, v: m
    got = torch.stack(model.negative_iwae_bound(x, 4)).double()
    log_w = model.log_weights(x, z).double()
    largest = log_w.max(0).values
    want = largest + (log_w - largest).exp().mean(0).log()
    _, kl, rec = model.negative_elbo_bound(x)
    want = torch.stack([-want.mean(), kl, rec])
    torch.testing.assert_close(got, want.double(), rtol=1e-5, atol=0)


def test_iwae_bounds_are_of_all_repeats_and_all_samples(vae):
    """Each m: the first m samples of each of three repeats; -log p(x): all of them."""
    # the thirteenth sample fills no repeat
    log_w = 3 * torch.randn(13, 5)
    niwae, nll = vae.iwae_bounds(log_w, [2, 4])
    for m in (2, 4):
        want = [-log_w[r : r + m].exp().mean(0).log().mean() for r in (0, 4, 8)]
        want = torch.stack(want).double()
        assert niwae[m]["mean"] == pytest.approx(want.mean().item(), rel=1e-5)
        assert niwae[m]["std"] == pytest.approx(want.std().item(), rel=1e-4)
        assert niwae[m]["repeats"] == 3
    torch.testing.assert_close(nll, -log_w.exp().mean(0).log())


# training


def test_the_rate_rises_along_a_line_and_falls_along_half_a_cosine(vae):
    vae.WARM_UP_SHARE = 0.25
    shares = [vae.share_of_peak(step, 400) for step in range(401)]
    assert max(shares) == shares[100] == 1 and shares[400] < 1e-9
    # half way up and half way down
    assert shares[49] == pytest.approx(0.5, abs=0.01)
    assert shares[250] == pytest.approx(0.5, abs=0.01)
    assert shares[:101] == sorted(shares[:101])
    assert shares[100:] == sorted(shares[100:], reverse=True)
    for vae.WARM_UP_SHARE in (0, 1):
        shares = [vae.share_of_peak(step, 10) for step in range(11)]
        assert all(0 <= share <= 1 for share in shares)


def test_a_short_training_says_the_last_row(vae):
    vae.STEP_EPOCHS = 2
    images = torch.zeros(50, 784, dtype=torch.uint8)
    model, x = small(vae), torch.zeros(5, 784)
    vae.sample_gaussian = lambda m, v: m
    row = vae.short_training(model, images, x, vae.one_sample_loss)
    terms = {f"{name}_nats": value for name, value in vae.evaluate(model, x).items()}
    assert row == {"epochs": 2} | terms


def test_the_training_loss_averages_a_sample_and_its_mirror_image(vae, model, x):
    noise = torch.randn(6, 5)
    vae.sample_gaussian = lambda m, v: m + v.sqrt() * noise
    m, v = model.enc(x)
    kl = D.kl_divergence(D.Normal(m, v.sqrt()), D.Normal(0.0, 1.0)).sum(-1)
    there = D.Bernoulli(logits=model.dec(m + v.sqrt() * noise)).log_prob(x).sum(-1)
    back = D.Bernoulli(logits=model.dec(m - v.sqrt() * noise)).log_prob(x).sum(-1)
    torch.testing.assert_close(
        vae.mirrored_loss(model, x), (kl - (there + back) / 2).mean()
    )


def test_free_bits_stop_the_kl_of_each_latent_from_below(vae, model, x):
    vae.sample_gaussian = lambda m, v: m
    m, v = model.enc(x)
    # of each latent, the mean of the batch
    kl = D.kl_divergence(D.Normal(m, v.sqrt()), D.Normal(0.0, 1.0)).mean(0)
    _, _, rec = model.negative_elbo_bound(x)
    vae.FREE_BITS = kl.median().item()
    want = rec + kl.clamp(min=vae.FREE_BITS).sum()
    torch.testing.assert_close(vae.free_bits_loss(model, x), want)


def test_evaluate_weighs_a_smaller_last_part_by_its_size(vae, model):
    vae.sample_gaussian = lambda m, v: m
    x = (torch.rand(21, 784) < torch.linspace(0.1, 0.9, 21)[:, None]).float()
    got = vae.evaluate(model, x, part=10)
    want = torch.stack(model.negative_elbo_bound(x)).tolist()
    assert list(got) == ["nelbo", "kl", "rec"]
    assert list(got.values()) == pytest.approx(want, rel=1e-5)


def test_training_lowers_the_bound_and_repeats_itself(vae):
    bright = torch.rand(256, 784) < torch.linspace(0.0, 0.3, 784)
    images = (255 * bright).to(torch.uint8)
    histories = []
    for _ in range(2):
        torch.manual_seed(1)
        model = small(vae, 4, width=16)
        sets = {"test": vae.binarize(images[:50])}
        histories.append(vae.train(model, images, sets, 3, vae.mirrored_loss))
    history, again = histories
    assert history == again
    assert [row["epoch"] for row in history] == [0, 1, 2, 3]
    assert history[3]["test_nelbo_nats"] < history[0]["test_nelbo_nats"]


def test_training_images_are_binarized_anew_in_every_step(vae):
    seen = []

    def loss(model, x):
        seen.append(x)
        return model.negative_elbo_bound(x)[0]

    # 102 is 0.4 of 255; two steps an epoch
    grey = torch.full((2 * vae.BATCH, 784), 102, dtype=torch.uint8)
    vae.train(small(vae), grey, {}, 2, loss)
    assert [len(x) for x in seen] == [vae.BATCH] * 4
    pixels = torch.cat(seen)
    assert len(pixels.unique(dim=0)) == 4 * vae.BATCH
    assert set(pixels.unique().tolist()) == {0.0, 1.0}
    assert pixels.mean().item() == pytest.approx(0.4, abs=0.01)


def test_the_gradient_of_a_step_is_its_own(vae):
    """…and not added to those of the steps before: of a sum of weights it is 1."""
    model = small(vae)
    gradients = []
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(lambda p: gradients.append(p.grad.mean()))

    def loss(model, x):
        return sum(p.sum() for p in model.parameters())

    images = torch.zeros(3 * vae.BATCH, 784, dtype=torch.uint8)
    vae.train(model, images, {}, 1, loss)
    assert gradients == [pytest.approx(1.0)] * 3 * len(list(model.parameters()))


def test_training_stops_before_a_step_that_is_not_finite(vae):
    def loss(model, x):
        return math.nan * model.negative_elbo_bound(x)[0]

    model = small(vae)
    images = torch.zeros(5, 784, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="non-finite"):
        vae.train(model, images, {}, 1, loss)
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_stop_by_hand_measures_the_weights_as_they_are(vae, capsys):
    """…and says so: the last row of the history has a fraction for its epoch."""
    steps = []

    def loss(model, x):
        steps.append(1)
        if len(steps) == 4:  # in the middle of the second epoch
            raise KeyboardInterrupt
        return model.negative_elbo_bound(x)[0]

    images = torch.zeros(2 * vae.BATCH, 784, dtype=torch.uint8)
    model = small(vae)
    vae.sample_gaussian = lambda m, v: m
    x = torch.zeros(5, 784)
    history = vae.train(model, images, {"test": x}, 9, loss)
    assert [row["epoch"] for row in history] == [0, 1, 1.5]
    assert history[2]["test_nelbo_nats"] == vae.evaluate(model, x)["nelbo"]
    assert "stopped by hand after 1.50 of 9 epochs" in capsys.readouterr().out


# Extra


def test_summarize_gap(vae):
    # images 2, 3, 7, and seven times 1
    rest = 7 * [1.0]
    gap = torch.tensor([[1.0, 2.0, 6.0, *rest], [3.0, 4.0, 8.0, *rest]])
    want = {"mean": 1.9, "standard_error": 0.3, "median": 1.0}
    want["share_of_worst_tenth"] = 7 / 19
    assert vae.summarize_gap(gap) == pytest.approx(want)


def test_least_variance_is_that_of_each_image(vae, model, x):
    _, v = model.enc(x)
    want = torch.stack([of_image.min() for of_image in v])
    assert torch.equal(vae.least_variance(model, x), want)


def test_log_joint_is_the_density_of_z_and_x(vae, x):
    """…at every z of a grid of two axes, which may differ."""
    model = small(vae)
    axis_1, axis_2 = torch.linspace(-1, 2, 4), torch.linspace(-3, 0, 3)
    got = vae.log_joint(model, x, axis_1, axis_2)
    assert got.shape == (4, 3, 6)
    for i in range(4):
        for j in range(3):
            z = torch.stack([axis_1[i], axis_2[j]])
            want = D.Normal(0.0, 1.0).log_prob(z).sum() + model.log_likelihood(x, z)
            torch.testing.assert_close(got[i, j], want, rtol=0, atol=1e-3)


def test_collapse_report(vae, model, x):
    with torch.no_grad():
        # the first mean no longer moves with the image
        model.encoder[-1].weight[0].zero_()
        m, v = model.enc(x)
    report = vae.collapse_report(model, x)
    kl = D.kl_divergence(D.Normal(m, v.sqrt()), D.Normal(0.0, 1.0)).mean(0)
    assert report["kl_dims_nats"] == pytest.approx(sorted(kl.tolist(), reverse=True))
    assert report["kl_above_tenth"] == (kl > 0.1).sum()
    assert report["kl_nats"] == pytest.approx(kl.sum().item(), rel=1e-5)
    assert m[:, 0].var() < 0.01
    assert report["active_units"] == (m.var(0) > 0.01).sum()


def test_the_autoregressive_decoder_sees_the_pixels_before_and_no_others(vae, x):
    model = vae.AutoregressiveVAE(3, x_mean=torch.linspace(0.01, 0.99, 784))
    model.A.data.normal_()
    z = torch.randn(6, 3)
    want = model.dec(z) + (x - model.x_mean) @ model.A.triu(1)
    torch.testing.assert_close(model.logits(x, z), want)
    log_p = D.Bernoulli(logits=want).log_prob(x).sum(-1)
    torch.testing.assert_close(model.log_likelihood(x, z), log_p)
