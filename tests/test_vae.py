"""The functions of VAE.ipynb against torch.distributions, direct formulas and each other."""

import math

import pytest
import torch
import torch.distributions as D
from torch.nn import functional as F


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def model(vae):
    """A small untrained VAE whose posterior and decoder are far from trivial."""
    model = vae.VAE(z_dim=5, enc_width=16, dec_width=16)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.eval()


@pytest.fixture
def x():
    return (torch.rand(6, 784) < 0.3).float()


@pytest.fixture
def at_the_mean(vae, monkeypatch):
    """Replaces the sample of q(z|x) by its mean, so that results no longer depend on noise."""
    monkeypatch.setitem(vae.namespace, "sample_gaussian", lambda m, v: m)


def gaussians(k=40):
    return torch.randn(7, k, dtype=torch.float64), torch.rand(7, k, dtype=torch.float64) + 0.1


def test_sample_gaussian_has_the_mean_and_the_variance_asked_for(vae):
    m, v = torch.tensor([-3.0, 0.5]), torch.tensor([4.0, 0.25])
    z = vae.sample_gaussian(m.repeat(200_000, 1), v.repeat(200_000, 1))
    assert torch.allclose(z.mean(0), m, atol=0.03)
    assert torch.allclose(z.var(0), v, rtol=0.03)
    assert abs(torch.corrcoef(z.T)[0, 1]) < 0.02  # a noise of its own for each dimension


def test_sample_gaussian_is_differentiable_in_both(vae):
    m, v = (t.requires_grad_() for t in gaussians())
    z = vae.sample_gaussian(m, v)
    grad_m, grad_v = torch.autograd.grad(z.sum(), (m, v))
    assert torch.allclose(grad_m, torch.ones_like(m))
    assert torch.allclose(grad_v, ((z - m) / (2 * v)).detach())  # d sqrt(v) eps / dv


def test_densities_agree_with_torch_distributions(vae):
    (m, v), (pm, pv), z = gaussians(), gaussians(), torch.randn(7, 40, dtype=torch.float64)
    q, p = D.Normal(m, v.sqrt()), D.Normal(pm, pv.sqrt())
    torch.testing.assert_close(vae.log_normal(z, m, v), q.log_prob(z).sum(-1))
    torch.testing.assert_close(vae.kl_normal(m, v, pm, pv), D.kl_divergence(q, p).sum(-1))
    assert (vae.kl_normal(m, v, pm, pv) > 0).all() and vae.kl_normal(m, v, m, v).abs().max() < 1e-12


def test_kl_is_the_formula_of_the_assignment(vae):
    m, v = gaussians()
    formula = 0.5 * (v + m**2 - 1 - v.log()).sum(-1)
    torch.testing.assert_close(vae.kl_normal(m, v, torch.zeros_like(m), torch.ones_like(v)), formula)


def test_log_bernoulli(vae):
    x, logits = (torch.rand(3, 784) < 0.5).double(), 5 * torch.randn(3, 784, dtype=torch.float64)
    want = D.Bernoulli(logits=logits).log_prob(x).sum(-1)
    torch.testing.assert_close(vae.log_bernoulli_with_logits(x, logits), want)
    for logit, log_p in ((1e6, 0.0), (-1e6, -2e6)):
        extreme = torch.full((1, 2), logit, requires_grad=True)
        value = vae.log_bernoulli_with_logits(torch.ones(1, 2), extreme)
        value.backward()
        assert value.item() == log_p and torch.isfinite(extreme.grad).all()


def test_log_mean_exp(vae):
    x = torch.randn(4, 9, dtype=torch.float64)
    torch.testing.assert_close(vae.log_mean_exp(x, 1), x.exp().mean(1).log())
    torch.testing.assert_close(vae.log_mean_exp(x - 5000, 0), x.exp().mean(0).log() - 5000)


def test_duplicate_keeps_the_batch_together(vae):
    x = torch.arange(6.0).reshape(3, 2)
    assert torch.equal(vae.duplicate(x, 4), torch.cat([x] * 4))
    assert vae.duplicate(torch.zeros(2, 3, 4), 5).shape == (10, 3, 4)


def test_negative_elbo_sums_pixels_and_latents_and_averages_the_batch(vae, model, x, at_the_mean):
    nelbo, kl, rec = model.negative_elbo_bound(x)
    m, v = model.enc(x)
    want_rec = F.binary_cross_entropy_with_logits(model.dec(m), x, reduction="sum") / len(x)
    want_kl = D.kl_divergence(D.Normal(m, v.sqrt()), D.Normal(0.0, 1.0)).sum() / len(x)
    torch.testing.assert_close(torch.stack([nelbo, kl, rec]), torch.stack([want_kl + want_rec, want_kl, want_rec]))
    assert nelbo.shape == kl.shape == rec.shape == ()


def test_negative_elbo_gives_gradients_to_encoder_and_decoder(model, x):
    model.negative_elbo_bound(x)[0].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_evaluate_weighs_a_smaller_last_batch_by_its_size(vae, model, at_the_mean):
    x = (torch.rand(2100, 784) < torch.linspace(0.1, 0.9, 2100)[:, None]).float()
    got = vae.evaluate(model, x)
    kl, rec = model.elbo_terms(x)
    assert got["kl"] == pytest.approx(kl.mean().item(), rel=1e-5)
    assert got["rec"] == pytest.approx(rec.mean().item(), rel=1e-5)
    assert got["nelbo"] == pytest.approx(got["kl"] + got["rec"])


def test_log_weights_image_by_image_with_the_same_noise(vae, model, x, monkeypatch):
    """The whole batch at once against a double loop over images and samples with torch.distributions."""
    iw, noise = 4, torch.randn(4, 6, 5)
    monkeypatch.setitem(vae.namespace, "sample_gaussian", lambda m, v: m + v.sqrt() * (noise if m.dim() == 3 else 0))
    log_w = model.log_weights(x, iw)
    for i, image in enumerate(x):
        m, v = model.enc(image[None])
        q = D.Normal(m[0], v[0].sqrt())
        for r in range(iw):
            z = q.mean + q.stddev * noise[r, i]
            log_p_x = D.Bernoulli(logits=model.dec(z[None])[0]).log_prob(image).sum()
            want = D.Normal(0.0, 1.0).log_prob(z).sum() + log_p_x - q.log_prob(z).sum()
            assert log_w[r, i].item() == pytest.approx(want.item(), rel=1e-4)
    niwae, kl, rec = model.negative_iwae_bound(x, iw)
    torch.testing.assert_close(niwae, -(log_w.double().exp().mean(0).log()).mean().float())
    assert niwae < -log_w.mean()  # the log of the mean, not the mean of the logs


def test_niwae_returns_the_two_terms_of_the_elbo(vae, model, x, at_the_mean):
    _, kl, rec = model.negative_iwae_bound(x, 3)
    torch.testing.assert_close(torch.stack([kl, rec]), torch.stack(model.negative_elbo_bound(x)[1:]))


def test_niwae_at_one_sample_is_the_elbo_on_average_and_falls_with_iw(model, x):
    with torch.no_grad():
        bound = {iw: torch.stack([model.negative_iwae_bound(x, iw)[0] for _ in range(400)]) for iw in (1, 8, 64)}
        nelbo = torch.stack([model.negative_elbo_bound(x)[0] for _ in range(400)])
    error = ((bound[1].var() + nelbo.var()) / 400).sqrt()
    assert abs(bound[1].mean() - nelbo.mean()) < 5 * error
    assert bound[64].mean() < bound[8].mean() < bound[1].mean()


def test_images_are_never_mixed(vae, model, x, at_the_mean):
    bound = vae.log_mean_exp(model.log_weights(x, 3), 0)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(vae.log_mean_exp(model.log_weights(x[order], 3), 0), bound[order])
    for i in range(len(x)):
        torch.testing.assert_close(vae.log_mean_exp(model.log_weights(x[i : i + 1], 3), 0), bound[i : i + 1])


def test_extreme_logits_stay_finite(model, x):
    with torch.no_grad():
        model.decoder[-1].weight.mul_(1e7)
    assert torch.isfinite(torch.stack(model.negative_iwae_bound(x, 3))).all()


def test_repeated_niwae_uses_the_first_samples_of_each_repeat_and_all_for_the_nll(vae, model, x, monkeypatch):
    log_w = torch.randn(len(x), 3, 5)  # image, repeat, sample
    each = iter(log_w.flatten(1))
    monkeypatch.setattr(model, "log_weights", lambda image, iw: next(each)[:, None])
    niwae, nll = vae.repeated_niwae(model, x, [2, 5], repeats=3)
    for r in range(3):
        assert niwae[2][r] == pytest.approx(-log_w[:, r, :2].exp().mean(1).log().mean().item(), rel=1e-5)
        assert niwae[5][r] == pytest.approx(-log_w[:, r].exp().mean(1).log().mean().item(), rel=1e-5)
    torch.testing.assert_close(nll, -log_w.flatten(1).exp().mean(1).log())


def test_quadrature_finds_log_px(vae, x):
    """A decoder that ignores z has log p(x) = log p(x|z); one that does not agrees with many importance samples."""
    model = vae.VAE(z_dim=2, enc_width=8, dec_width=8).eval()
    with torch.no_grad():
        big = vae.log_mean_exp(model.log_weights(x, 50_000), 0)
        torch.testing.assert_close(vae.log_px_quadrature(model, x, points=201), big, rtol=0, atol=0.05)
        model.decoder[-1].weight.zero_()
        flat = vae.log_bernoulli_with_logits(x, model.dec(torch.zeros(1, 2)))
    torch.testing.assert_close(vae.log_px_quadrature(model, x, points=201), flat, rtol=0, atol=1e-3)


def test_iwae_by_m_gives_every_m_the_same_samples(vae, model, x):
    bounds = vae.iwae_by_m(model, x, [1, 3, 6], 6)
    for m, bound in bounds.items():
        assert bound.shape == (6 // m, len(x))
        w = bounds[1].double().exp().reshape(-1, m, len(x))
        torch.testing.assert_close(bound.double(), w.mean(1).log(), rtol=0, atol=1e-3)


def test_summarize_gap(vae):
    gap = torch.tensor([[1.0, 2.0, 6.0] + 7 * [1.0], [3.0, 4.0, 8.0] + 7 * [1.0]])  # images: 2, 3, 7 and 7 times 1
    got = vae.summarize_gap(gap)
    assert got == pytest.approx({"mean": 1.9, "standard_error": 0.3, "median": 1.0, "share_of_worst_tenth": 7 / 19})


def test_antithetic_terms_average_over_a_sample_and_its_mirror_image(vae, model, x, monkeypatch):
    noise = torch.randn(6, 5)
    monkeypatch.setitem(vae.namespace, "sample_gaussian", lambda m, v: m + v.sqrt() * noise)
    kl, rec = vae.antithetic_terms(model, x)
    m, v = model.enc(x)
    there, back = (D.Bernoulli(logits=model.dec(m + e * v.sqrt())).log_prob(x).sum(-1) for e in (noise, -noise))
    torch.testing.assert_close(rec, -(there + back) / 2)
    assert kl.shape == (6, 5)
    torch.testing.assert_close(kl, D.kl_divergence(D.Normal(m, v.sqrt()), D.Normal(0.0, 1.0)))


def test_the_training_loss_is_the_negative_elbo_on_average(vae, model, x):
    with torch.no_grad():
        loss = torch.stack([vae.nelbo_loss(model, x) for _ in range(400)])
        nelbo = torch.stack([model.negative_elbo_bound(x)[0] for _ in range(400)])
    assert abs(loss.mean() - nelbo.mean()) < 5 * ((loss.var() + nelbo.var()) / 400).sqrt()
    assert loss.var() < nelbo.var() / 2  # and that is why


def test_free_bits(vae, model, x, at_the_mean):
    nelbo, _, rec = model.negative_elbo_bound(x)
    torch.testing.assert_close(vae.free_bits_loss(model, x, free=0.0), nelbo)
    torch.testing.assert_close(vae.free_bits_loss(model, x, free=100.0), rec + 500)


def test_autoregressive_decoder_sees_only_the_pixels_before(vae, x, at_the_mean):
    model = vae.AutoregressiveVAE(z_dim=3).eval()
    with torch.no_grad():
        model.A.normal_()
    logits = 4 * (x[:1] - model.x_mean) @ model.A.triu(diagonal=1)
    changed = x[:1].clone()
    changed[0, 400] = 1 - changed[0, 400]
    difference = (4 * (changed - model.x_mean) @ model.A.triu(diagonal=1) - logits)[0]
    assert (difference[:401] == 0).all() and (difference[401:] != 0).any()
    _, rec = model.elbo_terms(x[:1])
    want = F.binary_cross_entropy_with_logits(model.dec(model.enc(x[:1])[0]) + logits, x[:1], reduction="sum")
    torch.testing.assert_close(rec[0], want)


def test_samples(vae, model):
    assert model.sample_sigmoid(4).shape == (4, 784)
    pixels = model.sample_x(50)
    assert pixels.shape == (50, 784) and set(pixels.unique().tolist()) == {0.0, 1.0}


def test_binarize_switches_a_pixel_on_with_probability_grey_over_255(vae):
    grey = torch.tensor([0, 51, 128, 255], dtype=torch.uint8).repeat(100_000, 1)
    rate = vae.binarize(grey).mean(0)
    assert rate[0] == 0 and rate[3] == 1
    assert torch.allclose(rate, torch.tensor([0, 51, 128, 255]) / 255, atol=0.01)


def test_the_decoder_starts_at_the_mean_image(vae):
    mean = torch.linspace(0.01, 0.99, 784)
    torch.testing.assert_close(torch.sigmoid(vae.VAE(3, mean).decoder[-1].bias), mean)


def test_blank_pixels_have_a_constant_probability_and_the_likelihood_is_the_whole_one(vae, x):
    mean = torch.linspace(0.0, 0.5, 784)
    mean[:100] = 1e-4
    model = vae.VAE(3, mean, enc_width=8, dec_width=8)
    z = torch.randn(2, 6, 3)
    logits = model.dec(z)
    assert model.blank.tolist() == list(range(4, 100))  # the drawn ones are filled up to a multiple of 16: 688
    torch.testing.assert_close(torch.sigmoid(logits[..., 4:100]), torch.full((2, 6, 96), 1e-4))
    assert (logits[0, 0, model.drawn] != logits[0, 1, model.drawn]).all()
    torch.testing.assert_close(model.log_likelihood(x, z), D.Bernoulli(logits=logits).log_prob(x).sum(-1))


def test_training_lowers_the_bound_and_repeats_itself(vae):
    images = (255 * (torch.rand(256, 784) < torch.linspace(0.0, 0.3, 784))).to(torch.uint8)
    runs = []
    for _ in range(2):
        torch.manual_seed(1)
        model = vae.VAE(4, enc_width=16, dec_width=16)
        runs.append(vae.train(model, images, {"test": vae.binarize(images[:50])}, epochs=3))
    assert runs[0] == runs[1]
    assert [row["epoch"] for row in runs[0]] == [0, 1, 2, 3]
    assert runs[0][-1]["test_nelbo_nats"] < runs[0][0]["test_nelbo_nats"]


def test_the_stop_button_ends_training_and_keeps_the_history(vae, capsys):
    steps = []

    def loss(model, x):
        steps.append(1)
        if len(steps) == 4:  # two steps an epoch: in the middle of the second
            raise KeyboardInterrupt
        return vae.nelbo_loss(model, x)

    images = torch.zeros(2 * vae.BATCH, 784, dtype=torch.uint8)
    history = vae.train(vae.VAE(2, enc_width=8, dec_width=8), images, {}, epochs=9, loss=loss)
    assert [row["epoch"] for row in history] == [0, 1]
    assert "stopped" in capsys.readouterr().out


def test_every_weight_is_trained_once_at_its_layers_rate_and_decays_unless_a_bias(vae):
    model = vae.AutoregressiveVAE(2)
    groups = vae.parameter_groups(model)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(rates) == len(list(model.parameters()))
    first, *blocks, _, last = model.decoder
    for layers, share in (([model.encoder], 0.5), ([first], 3), (blocks, 1), ([last], 2)):
        assert {rates[id(p)] for layer in layers for p in layer.parameters()} == {share * vae.LR}
    assert rates[id(model.A)] == vae.LR
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert {decays[id(p)] for name, p in model.named_parameters() if name.endswith("bias")} == {0}
    assert {decays[id(p)] for name, p in model.named_parameters() if not name.endswith("bias")} == {vae.WEIGHT_DECAY}


@pytest.mark.parametrize(
    "call",
    [
        lambda v, model, x: v.nelbo_loss(model, x) + v.free_bits_loss(model, x),
        lambda v, model, x: torch.stack(model.negative_elbo_bound(x) + model.negative_iwae_bound(x, 3)),
        lambda v, model, x: model.sample_x(3),
        lambda v, model, x: v.binarize(x.to(torch.uint8)),
        lambda v, model, x: torch.cat(list(v.iwae_by_m(model, x, [1, 2], 4).values())),
        lambda v, model, x: v.log_px_quadrature(model, x, points=5),
        lambda v, model, x: v.reconstruct(model, x) + v.interpolate(model, x[0], x[1], len(x)),
        lambda v, model, x: v.manifold(model, 3),
    ],
)
@pytest.mark.parametrize("name", ["VAE", "AutoregressiveVAE"])
def test_nothing_is_left_on_the_cpu(vae, x, name, call):
    """The meta device stands in for a GPU: tensors without values, which do not mix with the CPU's."""
    for check in ("check_gaussian", "check_pixels"):  # they read values
        vae.namespace[check] = lambda *args, **kwargs: None
    model = getattr(vae, name)(2, torch.full((784,), 0.3)).to("meta")
    assert call(vae, model, x.to("meta")).device.type == "meta"


def test_training_stops_where_the_loss_is_not_finite(vae):
    with pytest.raises(FloatingPointError, match="epoch 1"):
        vae.train(
            vae.VAE(2, enc_width=8, dec_width=8),
            torch.zeros(10, 784, dtype=torch.uint8),
            {},
            epochs=2,
            loss=lambda model, x: model.negative_elbo_bound(x)[0] * math.nan,
        )


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda v: v.sample_gaussian(torch.zeros(2, 3), -torch.ones(2, 3)), "at least 0, got -1"),
        (lambda v: v.sample_gaussian(torch.zeros(2, 3), torch.ones(2, 4)), r"\(2, 3\) and \(2, 4\)"),
        (lambda v: v.sample_gaussian(torch.zeros(2, dtype=torch.int64), torch.ones(2)), "torch.int64"),
        (lambda v: v.log_normal(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3)), "positive, got 0"),
        (lambda v: v.log_normal(torch.zeros(2, 3), torch.zeros(2, 4), torch.ones(2, 4)), r"x \(2, 3\), m \(2, 4\)"),
        (lambda v: v.kl_normal(*[torch.ones(2)] * 3, -torch.ones(2)), "positive, got -1"),
        (lambda v: v.log_bernoulli_with_logits(torch.full((1, 4), 1.5), torch.zeros(1, 4)), "got 1.5 to 1.5"),
        (lambda v: v.log_bernoulli_with_logits(torch.zeros(1, 4), torch.zeros(1, 5)), r"logits \(1, 5\)"),
        (lambda v: v.VAE(3).negative_elbo_bound(torch.full((2, 784), -0.1)), "got -0.1"),
        (lambda v: v.VAE(3).negative_elbo_bound(torch.full((2, 784), math.nan)), "got nan"),
        (lambda v: v.VAE(3).negative_elbo_bound(torch.zeros(2, 784, dtype=torch.uint8)), "torch.uint8"),
        (lambda v: v.VAE(3).negative_elbo_bound(torch.zeros(2, 28, 28)), r"\(2, 28, 28\)"),
        (lambda v: v.VAE(3).negative_iwae_bound(torch.zeros(2, 784), 0), "iw must be at least 1, got 0"),
        (lambda v: v.VAE(0), "z_dim must be at least 1, got 0"),
        (lambda v: v.VAE(3).sample_x(0), "batch must be at least 1, got 0"),
        (lambda v: v.duplicate(torch.zeros(2), 0), "rep must be at least 1, got 0"),
    ],
)
def test_bad_input_is_refused(vae, call, message):
    with pytest.raises(ValueError, match=message):
        call(vae)
