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


def gaussians():
    """Means and variances, small and large, of seven Gaussians, float64, (7, 40)."""
    m = torch.randn(7, 40, dtype=torch.float64)
    v = (3 * torch.randn(7, 40, dtype=torch.float64)).exp()
    return m, v


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
    distance = (u - torch.arange(n)[:, None] / n).abs().max()
    assert distance < 2.7 / math.sqrt(n)
    assert abs(torch.corrcoef(z.T)[0, 1]) < 5 / math.sqrt(n)


def test_log_normal_and_kl_normal_are_those_of_torch(vae):
    m, v = gaussians()
    pm, pv = gaussians()
    x = torch.randn(7, 40, dtype=torch.float64)
    q = D.Normal(m, v.sqrt())
    p = D.Normal(pm, pv.sqrt())
    torch.testing.assert_close(vae.log_normal(x, m, v), q.log_prob(x).sum(-1))
    torch.testing.assert_close(
        vae.kl_normal(m, v, pm, pv), D.kl_divergence(q, p).sum(-1)
    )
    # a distribution's KL to itself
    assert vae.kl_normal(m, v, m, v).abs().max() < 1e-12


def test_log_bernoulli_is_that_of_torch(vae):
    x = (torch.rand(3, 784) < 0.5).double()
    logits = 5 * torch.randn(3, 784, dtype=torch.float64)
    want = D.Bernoulli(logits=logits).log_prob(x).sum(-1)
    torch.testing.assert_close(vae.log_bernoulli_with_logits(x, logits), want)


def test_log_bernoulli_is_exact_at_extreme_logits(vae):
    for logit, want in ((1e6, 0.0), (-1e6, -2e6)):
        logits = torch.full((1, 2), logit, requires_grad=True)
        value = vae.log_bernoulli_with_logits(torch.ones(1, 2), logits)
        value.backward()
        assert value.item() == want
        assert logits.grad.isfinite().all()
    # a pixel that is sure and right costs the others no digits
    x = torch.tensor([1.0, 1.0, 0.0])
    value = vae.log_bernoulli_with_logits(x, torch.tensor([1e8, 0.0, 0.0]))
    assert value.item() == pytest.approx(-2 * math.log(2))


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


def test_the_plain_vae_has_two_hidden_layers_and_others_are_handed_in(vae):
    weights = [tuple(p.shape) for p in vae.VAE(7).parameters() if p.dim() == 2]
    assert weights[:3] == [(300, 784), (300, 300), (14, 300)]
    assert weights[3:] == [(300, 7), (300, 300), (784, 300)]
    encoder, decoder = nn.Linear(784, 4), nn.Linear(2, 784)
    model = vae.VAE(2, encoder, decoder)
    assert model.encoder is encoder and model.decoder is decoder


@pytest.mark.parametrize("kind", ["plain", "full"])
def test_without_a_word_of_the_decoder_the_mean_image_is_said(vae, kind):
    mean = torch.linspace(0.01, 0.99, 784)
    model = vae.full_vae(mean) if kind == "full" else vae.VAE(vae.Z_DIM, x_mean=mean)
    z = torch.randn(4, vae.Z_DIM)
    logits = model.dec(z) - model.decoder(z)
    torch.testing.assert_close(torch.sigmoid(logits), mean.expand(4, 784))
    probabilities = torch.sigmoid(model.dec(torch.zeros(vae.Z_DIM)))
    assert (probabilities - mean).abs().max() < 0.2


def test_a_residual_net_adds_its_blocks(vae):
    net = vae.ResidualNet(5, 8, 3)
    x = torch.randn(4, 5)
    h = net.first(x)
    h = h + net.block1(h * h.sigmoid())
    h = h + net.block2(h * h.sigmoid())
    torch.testing.assert_close(net(x), net.last(h * h.sigmoid()))


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


def test_the_encoder_sees_the_image_less_its_mean(vae):
    mean = torch.linspace(0.01, 0.99, 784)
    model = small(vae, 3, mean)
    m, v = model.enc(mean[None])
    want_m, h = model.encoder(torch.zeros(1, 784)).chunk(2, dim=1)
    torch.testing.assert_close(m, want_m)
    torch.testing.assert_close(v, F.softplus(h), rtol=0, atol=1e-5)


def test_samples_are_drawn_from_the_prior_and_the_decoder(vae):
    """…here one that adds z_1 + z_2 to the logits of every pixel."""
    decoder = nn.Linear(2, 784)
    nn.init.ones_(decoder.weight)
    nn.init.zeros_(decoder.bias)
    mean = torch.linspace(0.1, 0.9, 784)
    model = vae.VAE(2, None, decoder, mean)
    n = 10_000
    with torch.no_grad():
        p = model.sample_sigmoid(n)
        pixels = model.sample_x(n)
    added = torch.logit(p) - torch.logit(mean)
    assert added.mean(0).abs().max() < 5 * math.sqrt(2 / n)
    assert (added.var(0) / 2 - 1).abs().max() < 5 * math.sqrt(2 / n)
    assert set(pixels.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(pixels.mean(0), p.mean(0), rtol=0, atol=0.03)
    # the pixels of an image have one z: it is dark or light as a whole
    ink, want = pixels.mean(1), p.mean(1)
    torch.testing.assert_close(ink.std(), want.std(), rtol=0.05, atol=0)


# 2b: the negative ELBO


@pytest.fixture
def terms(vae, model, x):
    """The ELBO's terms by torch, where every sample is m + 0.7 sqrt(v).

    The KL of each latent, (5,), and the reconstruction loss, once at the sample and
    once at its mirror image: means over the images.
    """
    vae.sample_gaussian = lambda m, v: m + 0.7 * v.sqrt()
    m, v = model.enc(x)
    kl = D.kl_divergence(D.Normal(m, v.sqrt()), D.Normal(0.0, 1.0)).mean(0)
    there = D.Bernoulli(logits=model.dec(m + 0.7 * v.sqrt())).log_prob(x)
    back = D.Bernoulli(logits=model.dec(m - 0.7 * v.sqrt())).log_prob(x)
    return kl, -there.sum(1).mean(), -back.sum(1).mean()


def test_negative_elbo_sums_pixels_and_latents_and_averages_images(model, x, terms):
    """…and IWAE returns its two terms."""
    kl, rec, _ = terms
    want = torch.stack([kl.sum() + rec, kl.sum(), rec])
    torch.testing.assert_close(torch.stack(model.negative_elbo_bound(x)), want)
    _, *got = model.negative_iwae_bound(x, 3)
    torch.testing.assert_close(torch.stack(got), want[1:])


def test_the_training_loss_averages_a_sample_and_its_mirror_image(vae, model, x, terms):
    kl, there, back = terms
    want = kl.sum() + (there + back) / 2
    torch.testing.assert_close(vae.mirrored_loss(model, x), want)


def test_free_bits_stop_the_kl_of_each_latent_from_below(vae, model, x, terms):
    kl, rec, _ = terms
    vae.FREE_BITS = kl.median().item()
    want = rec + kl.clamp(min=vae.FREE_BITS).sum()
    torch.testing.assert_close(vae.free_bits_loss(model, x), want)


# a linear VAE: its p(x) and its posterior are Gaussian

NOISE = 0.6  # standard deviation of a pixel


@pytest.fixture
def linear(vae):
    """Three latents, p(x|z) = N(x; W z + b, NOISE^2 I), and the exact encoder.

    The columns of W are orthogonal: the posterior is diagonal, as q(z|x) is.
    """
    q, _ = torch.linalg.qr(torch.randn(7, 3, dtype=torch.float64))
    W = q * torch.tensor([0.5, 1.0, 2.0])
    b = torch.randn(7, dtype=torch.float64)
    v = 1 / (1 + W.square().sum(0) / NOISE**2)

    class Linear(vae.VAE):
        p_x = D.MultivariateNormal(b, W @ W.T + NOISE**2 * torch.eye(7))

        def enc(self, x):
            return v * ((x - b) @ W) / NOISE**2, v.expand(len(x), 3)

        def log_likelihood(self, x, z):
            return D.Normal(z @ W.T + b, NOISE).log_prob(x).sum(-1)

    return Linear(3)


def rough(x):
    """An encoder that is wrong on purpose."""
    return 0.3 * x[:, :3], 0.2 + 0.1 * x[:, :3].square()


def test_with_the_exact_posterior_every_bound_is_log_px(vae, linear):
    """…whatever is drawn: all weights are p(x)."""
    x = linear.p_x.sample((20,))
    log_px = linear.p_x.log_prob(x)
    log_w = vae.draw_log_weights(linear, x, 6)
    torch.testing.assert_close(log_w.double(), log_px.expand(6, 20), rtol=1e-5, atol=0)
    for iw in (1, 4):
        niwae, _, _ = linear.negative_iwae_bound(x, iw)
        torch.testing.assert_close(niwae, -log_px.mean())


def test_the_elbo_falls_short_by_the_kl_to_the_posterior(linear):
    x = linear.p_x.sample((5,))
    exact_m, exact_v = linear.enc(x)
    linear.enc = rough
    m, v = linear.enc(x)
    q = D.Normal(m, v.sqrt())
    short = D.kl_divergence(q, D.Normal(exact_m, exact_v.sqrt())).sum(1).mean()
    many = x.repeat(500, 1)
    nelbo = [linear.negative_elbo_bound(many)[0] for _ in range(400)]
    nelbo = torch.stack(nelbo)
    error = 5 * nelbo.std() / math.sqrt(400)
    assert short > 20 * error
    assert (nelbo.mean() + linear.p_x.log_prob(x).mean() - short).abs() < error


def test_gradients_are_those_of_finite_differences(linear):
    """…through the samples, the weights and the KL, for the same noise."""
    x = linear.p_x.sample((4,))
    m, v = rough(x)

    def bounds(m, log_v):
        torch.manual_seed(1)
        linear.enc = lambda x: (m, log_v.exp())
        nelbo, _, _ = linear.negative_elbo_bound(x)
        niwae, _, _ = linear.negative_iwae_bound(x, 3)
        return torch.stack([nelbo, niwae])

    torch.autograd.gradcheck(bounds, (m.requires_grad_(), v.log().requires_grad_()))


# 2d and 2e: IWAE


def test_log_weights_image_by_image_and_sample_by_sample(model, x):
    """The whole batch at once against a double loop with torch.distributions."""
    z = torch.randn(4, 6, 5)
    log_w = model.log_weights(x, z)
    want = torch.empty(4, 6)
    for i in range(6):
        m, v = model.enc(x[i : i + 1])
        q = D.Normal(m[0], v[0].sqrt())
        for r in range(4):
            log_p_z = D.Normal(0.0, 1.0).log_prob(z[r, i]).sum()
            log_p_x = D.Bernoulli(logits=model.dec(z[r, i])).log_prob(x[i]).sum()
            want[r, i] = log_p_z + log_p_x - q.log_prob(z[r, i]).sum()
    torch.testing.assert_close(log_w, want, rtol=1e-4, atol=0)


def test_sample_z_draws_from_the_posterior_of_each_image(model, x):
    n = 20_000
    with torch.no_grad():
        z = model.sample_z(x, n)
        m, v = model.enc(x)
    assert z.shape == (n, 6, 5)
    assert ((z.mean(0) - m) / v.sqrt()).abs().max() < 5 / math.sqrt(n)
    assert (z.var(0) / v - 1).abs().max() < 5 * math.sqrt(2 / n)


def test_niwae_is_minus_the_log_of_the_mean_weight_in_batches_of_any_size(model):
    x = (torch.rand(40, 784) < 0.3).float()
    noise = torch.randn(4, 1, 5)

    def sample_z(x, iw):
        # the same noise for each image, whichever it is worked through with
        m, v = model.enc(x)
        return m + v.sqrt() * noise[:iw]

    model.sample_z = sample_z
    niwae, _, _ = model.negative_iwae_bound(x, 4)
    log_w = model.log_weights(x, sample_z(x, 4)).double()
    want = math.log(4) - log_w.logsumexp(0).mean()
    torch.testing.assert_close(niwae.double(), want, rtol=1e-5, atol=0)


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
    assert shares[49] == pytest.approx(0.5, abs=0.01)
    assert shares[250] == pytest.approx(0.5, abs=0.01)
    assert all(a < b for a, b in zip(shares[:100], shares[1:101]))
    assert all(a > b for a, b in zip(shares[100:-1], shares[101:]))
    for vae.WARM_UP_SHARE in (0, 1):
        shares = [vae.share_of_peak(step, 10) for step in range(11)]
        assert all(0 <= share <= 1 for share in shares)
    assert vae.share_of_peak(0, 0) == 1


def test_evaluate_weighs_a_smaller_last_part_by_its_size(vae, model):
    vae.sample_gaussian = lambda m, v: m
    x = (torch.rand(21, 784) < torch.linspace(0.1, 0.9, 21)[:, None]).float()
    got = vae.evaluate(model, x, part=10)
    want = torch.stack(model.negative_elbo_bound(x)).tolist()
    assert list(got) == ["nelbo", "kl", "rec"]
    assert list(got.values()) == pytest.approx(want, rel=1e-5)


def test_a_short_training_lowers_the_bound_and_says_the_last_row(vae):
    vae.STEP_EPOCHS = 3
    vae.sample_gaussian = lambda m, v: m
    bright = torch.rand(256, 784) < torch.linspace(0.0, 0.3, 784)
    images = (255 * bright).to(torch.uint8)
    model, x = small(vae), bright[:50].float()
    before = vae.evaluate(model, x)
    row = vae.short_training(model, images, x, vae.one_sample_loss)
    after = {f"{name}_nats": value for name, value in vae.evaluate(model, x).items()}
    assert row == {"epochs": 3} | after
    assert row["nelbo_nats"] < before["nelbo"]


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
    gradients = []

    def look(p):
        gradients.extend(p.grad.unique().tolist())

    def loss(model, x):
        return sum(p.sum() for p in model.parameters())

    model = small(vae)
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(look)
    images = torch.zeros(3 * vae.BATCH, 784, dtype=torch.uint8)
    vae.train(model, images, {}, 1, loss)
    assert gradients == 3 * len(list(model.parameters())) * [1.0]


def test_training_stops_before_a_step_that_is_not_finite(vae):
    model = small(vae)
    steps = []

    def loss(model, x):
        steps.append(1)
        nelbo, _, _ = model.negative_elbo_bound(x)
        return nelbo * (math.nan if len(steps) == 3 else 1.0)

    images = torch.zeros(2 * vae.BATCH, 784, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="non-finite"):
        vae.train(model, images, {}, 5, loss)
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_stop_by_hand_measures_the_weights_as_they_are(vae):
    """…in the last row of the history, which has a fraction for its epoch."""
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


# Extra


def test_quadrature_finds_log_px(vae, x):
    """…as many new importance samples do, and of a decoder that ignores z."""
    model = small(vae)
    with torch.no_grad():
        log_w = vae.draw_log_weights(model, x, 4000)
        log_px = vae.log_px_quadrature(model, x, points=101)
        model.decoder[-1].weight.zero_()
        flat = vae.log_px_quadrature(model, x, points=101)
        want = model.log_likelihood(x, torch.zeros(2))
    torch.testing.assert_close(flat, want, rtol=0, atol=1e-3)
    # by chance, float32 gives a few of them twice
    assert len(log_w[:, 0].unique()) > 3000
    weights = (log_w - log_px).exp()
    error = weights.std(0) / math.sqrt(4000)
    assert ((weights.mean(0) - 1).abs() < 5 * error + 1e-3).all()


def test_summarize_gap(vae):
    # images 2, 3, 7, and seven times 1
    rest = 7 * [1.0]
    gap = torch.tensor([[1.0, 2.0, 6.0, *rest], [3.0, 4.0, 8.0, *rest]])
    want = {"mean": 1.9, "standard_error": 0.3, "median": 1.0}
    want["share_of_worst_tenth"] = 7 / 19
    assert vae.summarize_gap(gap) == pytest.approx(want)


def test_least_variance(vae, model, x):
    _, v = model.enc(x)
    assert vae.least_variance(model, x).tolist() == [min(row) for row in v.tolist()]


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
