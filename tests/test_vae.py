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
    one = logits[:, :1]  # the same logit for all pixels of an image
    torch.testing.assert_close(
        vae.log_bernoulli_with_logits(x, one), D.Bernoulli(logits=one.expand(3, 784)).log_prob(x).sum(-1)
    )
    for logit, log_p in ((1e6, 0.0), (-1e6, -2e6)):
        extreme = torch.full((1, 2), logit, requires_grad=True)
        value = vae.log_bernoulli_with_logits(torch.ones(1, 2), extreme)
        value.backward()
        assert value.item() == log_p and torch.isfinite(extreme.grad).all()


def test_log_bernoulli_loses_no_digits_beside_a_large_logit(vae):
    value = vae.log_bernoulli_with_logits(torch.tensor([1.0, 1.0, 0.0]), torch.tensor([1e8, 0.0, 0.0]))
    assert value.item() == pytest.approx(-2 * math.log(2))


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
    want = torch.stack(model.negative_elbo_bound(x)).tolist()
    assert list(got) == ["nelbo", "kl", "rec"] and list(got.values()) == pytest.approx(want, rel=1e-5)


def test_log_weights_image_by_image_and_sample_by_sample(vae, model, x):
    """The whole batch at once against a double loop over images and samples with torch.distributions."""
    z = torch.randn(4, 6, 5)
    log_w = model.log_weights(x, z)
    assert log_w.shape == (4, 6)
    for i, image in enumerate(x):
        m, v = model.enc(image[None])
        q = D.Normal(m[0], v[0].sqrt())
        for r in range(4):
            log_p_x = D.Bernoulli(logits=model.dec(z[r, i])).log_prob(image).sum()
            want = D.Normal(0.0, 1.0).log_prob(z[r, i]).sum() + log_p_x - q.log_prob(z[r, i]).sum()
            assert log_w[r, i].item() == pytest.approx(want.item(), rel=1e-4)


def test_log_weights_is_a_pure_function(model, x):
    z = torch.randn(4, 6, 5)
    assert torch.equal(model.log_weights(x, z), model.log_weights(x, z))


def test_sample_z_draws_from_the_posterior_of_each_image(model, x):
    with torch.no_grad():
        z, (m, v) = model.sample_z(x, 20_000), model.enc(x)
    assert z.shape == (20_000, 6, 5)
    assert ((z.mean(0) - m) / v.sqrt()).abs().max() < 5 / math.sqrt(20_000)
    assert (z.var(0) / v - 1).abs().max() < 5 * math.sqrt(2 / 20_000)


def test_niwae_is_minus_the_log_of_the_mean_of_the_weights(model, x, monkeypatch):
    z = torch.randn(4, 6, 5)
    log_w = model.log_weights(x, z)
    monkeypatch.setattr(model, "sample_z", lambda x, iw: z)
    niwae = model.negative_iwae_bound(x, 4)[0]
    torch.testing.assert_close(niwae, -(log_w.double().exp().mean(0).log()).mean().float())
    assert niwae < -log_w.mean()  # the log of the mean, not the mean of the logs


def test_niwae_works_through_a_batch_in_parts_to_the_same_value_and_gradient(vae, model):
    """Memory does not grow with the batch: the decoder never sees more than 16 images' samples at a time."""
    x, rows = (torch.rand(40, 784) < 0.3).float(), []
    model.decoder.register_forward_pre_hook(lambda net, args: rows.append(args[0].numel() // 5))
    torch.manual_seed(1)
    with torch.no_grad():
        niwae = model.negative_iwae_bound(x, 7)[0]
    assert max(rows[:-1]) <= 16 * 7 and sum(rows[:-1]) == 40 * 7
    torch.manual_seed(1)
    parts = [-vae.log_mean_exp(model.log_weights(part, model.sample_z(part, 7)), 0) for part in x.split(16)]
    torch.testing.assert_close(niwae, torch.cat(parts).mean())
    torch.manual_seed(1)
    assert torch.equal(model.negative_iwae_bound(x, 7)[0].detach(), niwae)  # with gradients: the same


def test_niwae_trains_encoder_and_decoder(model, x):
    model.negative_iwae_bound(x, 3)[0].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_niwae_returns_the_two_terms_of_the_elbo(vae, model, x, at_the_mean):
    _, kl, rec = model.negative_iwae_bound(x, 3)
    torch.testing.assert_close(torch.stack([kl, rec]), torch.stack(model.negative_elbo_bound(x)[1:]))


def test_niwae_at_one_sample_is_the_elbo_on_average_and_falls_with_iw(model, x):
    with torch.no_grad():
        bound = {iw: torch.stack([model.negative_iwae_bound(x, iw)[0] for _ in range(120)]) for iw in (1, 8, 64)}
        nelbo = torch.stack([model.negative_elbo_bound(x)[0] for _ in range(120)])

    def differ(a, b):
        return (a.mean() - b.mean()) / ((a.var() + b.var()) / 120).sqrt()  # in standard errors

    assert abs(differ(bound[1], nelbo)) < 5
    assert differ(bound[1], bound[8]) > 5 and differ(bound[8], bound[64]) > 5


def test_images_are_never_mixed(model, x):
    z, order = torch.randn(3, 6, 5), torch.tensor([3, 0, 5, 1, 4, 2])
    log_w = model.log_weights(x, z)
    torch.testing.assert_close(model.log_weights(x[order], z[:, order]), log_w[:, order])
    for i in range(len(x)):
        torch.testing.assert_close(model.log_weights(x[i, None], z[:, i, None]), log_w[:, i, None])


def test_extreme_logits_stay_finite(model, x):
    with torch.no_grad():
        model.decoder.last.weight.mul_(1e7)
    assert torch.isfinite(torch.stack(model.negative_iwae_bound(x, 3))).all()


def test_repeated_bounds_use_the_first_samples_of_each_repeat_and_all_for_the_nll(vae, model, monkeypatch):
    x = (torch.rand(18, 784) < 0.3).float()  # a part of 16 images, and one of 2
    log_w = torch.randn(3, 5, 18)  # repeat, sample, image
    each = iter([w for part in log_w.split(16, dim=2) for w in part])
    monkeypatch.setattr(model, "sample_z", lambda part, iw: iw)
    monkeypatch.setattr(model, "log_weights", lambda part, iw: next(each))
    bounds, nll = vae.repeated_bounds(model, x, [2, 5], repeats=3)
    assert list(bounds) == ["elbo", 2, 5] and bounds["elbo"].shape == (3,)
    for r in range(3):
        assert bounds[2][r] == pytest.approx(-log_w[r, :2].exp().mean(0).log().mean().item(), rel=1e-5)
        assert bounds[5][r] == pytest.approx(-log_w[r].exp().mean(0).log().mean().item(), rel=1e-5)
    torch.testing.assert_close(nll, -log_w.flatten(0, 1).exp().mean(0).log())


def test_repeats_of_the_negative_elbo_are_new_draws_of_all_images(vae, model, x):
    elbo = vae.repeated_bounds(model, x, [1], repeats=400)[0]["elbo"]
    with torch.no_grad():
        direct = torch.stack([model.negative_elbo_bound(x)[0] for _ in range(400)])
    assert abs(elbo.mean() - direct.mean()) < 5 * ((elbo.var() + direct.var()) / 400).sqrt()
    assert 0.5 < elbo.var() / direct.var() < 2


def test_quadrature_finds_log_px(vae, x):
    """A decoder that ignores z has log p(x) = log p(x|z); one that does not agrees with many importance samples."""
    model = vae.VAE(z_dim=2, enc_width=8, dec_width=8)
    with torch.no_grad():
        log_w = model.log_weights(x[:3], model.sample_z(x[:3], 4000))
        found = vae.log_px_quadrature(model, x[:3], points=101)
        error = (log_w - log_w.amax(0)).exp().std(0) / (log_w - log_w.amax(0)).exp().mean(0) / math.sqrt(4000)
        assert ((found - vae.log_mean_exp(log_w, 0)).abs() < 5 * error + 1e-3).all() and error.max() < 0.1
        model.decoder.last.weight.zero_()
        flat = vae.log_bernoulli_with_logits(x[:3], model.dec(torch.zeros(1, 2)))
    torch.testing.assert_close(vae.log_px_quadrature(model, x[:3], points=101), flat, rtol=0, atol=1e-3)


def test_iwae_by_m_gives_every_m_the_same_samples(vae, model, x):
    bounds = vae.iwae_by_m(model, x, [1, 3, 4, 6], 6)
    w = bounds[1].double().exp()
    assert w.shape == (6, len(x))
    for m, bound in bounds.items():
        assert bound.shape == (6 // m, len(x))  # samples that fill no group of m are left out
        want = w[: 6 // m * m].reshape(-1, m, len(x)).mean(1).log()
        torch.testing.assert_close(bound.double(), want, rtol=0, atol=1e-3)


def test_summarize_gap(vae):
    gap = torch.tensor([[1.0, 2.0, 6.0] + 7 * [1.0], [3.0, 4.0, 8.0] + 7 * [1.0]])  # images: 2, 3, 7 and 7 times 1
    got = vae.summarize_gap(gap)
    assert got == pytest.approx({"mean": 1.9, "standard_error": 0.3, "median": 1.0, "share_of_worst_tenth": 7 / 19})


def test_the_training_loss_averages_over_a_sample_and_its_mirror_image(vae, model, x, monkeypatch):
    noise = torch.randn(6, 5)
    monkeypatch.setitem(vae.namespace, "sample_gaussian", lambda m, v: m + v.sqrt() * noise)
    m, v = model.enc(x)
    there, back = (D.Bernoulli(logits=model.dec(m + e * v.sqrt())).log_prob(x).sum(-1) for e in (noise, -noise))
    kl = D.kl_divergence(D.Normal(m, v.sqrt()), D.Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(vae.nelbo_loss(model, x), (kl - (there + back) / 2).mean())


def test_the_training_loss_is_the_negative_elbo_on_average(vae, model, x):
    with torch.no_grad():
        loss = torch.stack([vae.nelbo_loss(model, x) for _ in range(400)])
        nelbo = torch.stack([model.negative_elbo_bound(x)[0] for _ in range(400)])
    assert abs(loss.mean() - nelbo.mean()) < 5 * ((loss.var() + nelbo.var()) / 400).sqrt()
    assert loss.var() < 0.8 * nelbo.var()  # and that is why


def test_free_bits(vae, model, x, at_the_mean):
    nelbo, _, rec = model.negative_elbo_bound(x)
    torch.testing.assert_close(vae.nelbo_loss(model, x), nelbo)
    torch.testing.assert_close(vae.nelbo_loss(model, x, free_bits=100.0), rec + 500)
    m, v = model.enc(x)
    kl = D.kl_divergence(D.Normal(m, v.sqrt()), D.Normal(0.0, 1.0)).mean(0)  # of each dimension, mean of the batch
    between = kl.median().item()
    torch.testing.assert_close(vae.nelbo_loss(model, x, free_bits=between), rec + kl.clamp(min=between).sum())


def test_autoregressive_decoder_sees_only_the_pixels_before(vae, x, at_the_mean):
    model = vae.AutoregressiveVAE(z_dim=3)
    with torch.no_grad():
        model.A.normal_()
    changed, (m, _) = x[:1].clone(), model.enc(x[:1])
    changed[0, 400] = 1 - changed[0, 400]
    difference = (model.logits(changed, m) - model.logits(x[:1], m))[0]
    assert (difference[:401] == 0).all() and (difference[401:] != 0).any()
    want = model.vae.dec(m) + (x[:1] - model.vae.x_mean) @ model.A.triu(1)
    torch.testing.assert_close(model.logits(x[:1], m), want)
    rec = F.binary_cross_entropy_with_logits(want, x[:1], reduction="sum")
    torch.testing.assert_close(model.negative_elbo_bound(x[:1])[2], rec)


def test_autoregressive_model_offers_nothing_that_ignores_its_matrix(vae):
    for name in ("dec", "sample_x", "sample_sigmoid", "negative_iwae_bound"):
        assert not hasattr(vae.AutoregressiveVAE(2), name)


def test_collapse_report(vae, model, x):
    with torch.no_grad():
        model.encoder.last.weight[0].zero_()  # the first mean no longer moves with the image
        m, v = model.enc(x)
    report = vae.collapse_report(model, x, epochs=3)
    kl = D.kl_divergence(D.Normal(m, v.sqrt()), D.Normal(0.0, 1.0)).mean(0)
    assert report["epochs"] == 3 and report["kl_dims_nats"] == pytest.approx(sorted(kl.tolist(), reverse=True))
    assert report["active_units"] == sum(m[:, j].var() > 0.01 for j in range(5))
    assert report["kl_nats"] == pytest.approx(kl.sum().item(), rel=1e-5) and report["nelbo_nats"] > 0


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
    torch.testing.assert_close(torch.sigmoid(vae.VAE(3, mean).decoder.last.bias), mean)


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
    last_line = capsys.readouterr().out.strip().splitlines()[-1]  # below the bar, which counts steps
    assert last_line == "stopped by hand after 1 of 9 epochs; the history so far is kept"


def test_every_weight_is_trained_once_at_its_layers_rate_and_decays_unless_a_bias(vae):
    model = vae.AutoregressiveVAE(2)
    groups = vae.parameter_groups(model)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(rates) == len(list(model.parameters()))
    decoder = model.vae.decoder
    layers = ((model.vae.encoder, 0.5), (decoder.first, 3), (decoder.blocks, 1), (decoder.last, 2))
    for layer, share in layers:
        assert {rates[id(p)] for p in layer.parameters()} == {share * vae.LR}
    assert rates[id(model.A)] == 4 * vae.LR
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert {decays[id(p)] for name, p in model.named_parameters() if name.endswith("bias")} == {0}
    assert {decays[id(p)] for name, p in model.named_parameters() if not name.endswith("bias")} == {vae.WEIGHT_DECAY}


@pytest.mark.parametrize(
    "call",
    [
        lambda v, model, x: v.nelbo_loss(model, x) + v.nelbo_loss(model, x, free_bits=0.5),
        lambda v, model, x: torch.stack(model.negative_elbo_bound(x)),
        lambda v, model, x: torch.stack(model.negative_iwae_bound(x, 3)),
        lambda v, model, x: model.sample_x(3),
        lambda v, model, x: v.binarize(x.to(torch.uint8)),
        lambda v, model, x: torch.cat(list(v.iwae_by_m(model, x, [1, 2], 4).values())),
        lambda v, model, x: v.log_px_quadrature(model, x, points=5),
    ],
)
def test_nothing_is_left_on_the_cpu(vae, x, call):
    """The meta device stands in for a GPU: tensors without values, which do not mix with the CPU's."""
    vae.namespace["check_values"] = lambda *args, **kwargs: None  # it reads values
    vae.namespace["sample_gaussian"] = lambda m, v: m + v.sqrt() * torch.randn_like(m)  # so does its refusal
    model = vae.VAE(2, torch.full((784,), 0.3)).to("meta")
    assert call(vae, model, x.to("meta")).device.type == "meta"


def test_nothing_of_the_autoregressive_model_is_left_on_the_cpu(vae, x):
    vae.namespace["check_values"] = lambda *args, **kwargs: None
    vae.namespace["sample_gaussian"] = lambda m, v: m + v.sqrt() * torch.randn_like(m)
    model = vae.AutoregressiveVAE(2, torch.full((784,), 0.3)).to("meta")
    assert (vae.nelbo_loss(model, x.to("meta")) + model.negative_elbo_bound(x.to("meta"))[0]).device.type == "meta"


def test_training_images_are_binarized_anew_in_every_step(vae):
    """Each image is seen once an epoch, each time with other pixels on, as often as they are grey."""
    seen = []

    def loss(model, x):
        seen.append(x)
        return model.negative_elbo_bound(x)[0]

    grey = torch.full((2 * vae.BATCH, 784), 102, dtype=torch.uint8)  # 0.4 of 255
    vae.train(vae.VAE(2, enc_width=8, dec_width=8), grey, {}, 2, loss)
    assert [len(x) for x in seen] == [vae.BATCH] * 4
    assert len(torch.cat(seen).unique(dim=0)) == 4 * vae.BATCH
    assert set(torch.cat(seen).unique().tolist()) == {0.0, 1.0}
    assert torch.cat(seen).mean().item() == pytest.approx(0.4, abs=5 * 0.5 / (4 * vae.BATCH * 784) ** 0.5)


def test_training_stops_where_the_loss_is_not_finite_before_the_step(vae):
    """Two batches an epoch: the third loss is nan, and no weight has become nan by then."""
    model, steps = vae.VAE(2, enc_width=8, dec_width=8), []

    def loss(model, x):
        steps.append(1)
        return model.negative_elbo_bound(x)[0] * (math.nan if len(steps) == 3 else 1.0)

    images = torch.zeros(2 * vae.BATCH, 784, dtype=torch.uint8)
    with pytest.raises(FloatingPointError, match="loss nan.* epoch 2, step 1"):
        vae.train(model, images, {}, epochs=5, loss=loss)
    assert all(p.isfinite().all() for p in model.parameters())


def test_training_stops_where_only_the_gradient_is_not_finite(vae):
    def loss(model, x):
        nelbo = model.negative_elbo_bound(x)[0]
        return nelbo + 0 * (nelbo - nelbo.detach()).sqrt()  # sqrt at 0: its slope is infinite, times 0 is nan

    with pytest.raises(FloatingPointError, match="norm nan in epoch 1, step 1"):
        vae.train(vae.VAE(2, enc_width=8, dec_width=8), torch.zeros(9, 784, dtype=torch.uint8), {}, 1, loss)


def test_a_figure_is_written_whole_or_not_at_all(vae, tmp_path, monkeypatch):
    import matplotlib.pyplot as plt

    monkeypatch.setitem(vae.namespace, "OUT", str(tmp_path))
    (tmp_path / "figures").mkdir()
    fig = plt.figure()
    vae.save(fig, "whole")
    before = (tmp_path / "figures/whole.svg").read_bytes()

    def full_disk(path, **options):
        with open(path, "w") as file:
            file.write("half of it")
        raise OSError("no space left")

    monkeypatch.setattr(fig, "savefig", full_disk)
    with pytest.raises(OSError, match="no space"):
        vae.save(fig, "whole")
    assert (tmp_path / "figures/whole.svg").read_bytes() == before
    plt.close(fig)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda v: v.sample_gaussian(torch.zeros(2, 3), -torch.ones(2, 3)), "at least -1"),
        (lambda v: v.sample_gaussian(torch.zeros(2, 3), torch.ones(2, 4)), r"\(2, 3\).*\(2, 4\)"),
        (lambda v: v.sample_gaussian(torch.zeros(2, dtype=torch.int64), torch.ones(2)), "torch.int64"),
        (
            lambda v: v.log_normal(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3)),
            r"variances .* got torch.float32, 0 to 0",
        ),
        (lambda v: v.log_normal(torch.zeros(2, 3), torch.zeros(2, 4), torch.ones(2, 4)), r"x \(2, 3\), m \(2, 4\)"),
        (lambda v: v.kl_normal(*[torch.ones(2)] * 3, -torch.ones(2)), "variances pv .*, -1 to -1"),
        (lambda v: v.log_bernoulli_with_logits(torch.full((1, 4), 1.5), torch.zeros(1, 4)), "1.5 to 1.5"),
        (lambda v: v.log_bernoulli_with_logits(torch.zeros(1, 4), torch.zeros(1, 5)), r"logits \(1, 5\)"),
        (lambda v: v.VAE(3).negative_elbo_bound(torch.full((2, 784), -0.1)), ", -0.1 to"),
        (lambda v: v.VAE(3).negative_elbo_bound(torch.full((2, 784), math.nan)), ", nan to nan"),
        (lambda v: v.VAE(3).negative_elbo_bound(torch.zeros(2, 784, dtype=torch.uint8)), "torch.uint8"),
        (lambda v: v.VAE(3).negative_elbo_bound(torch.zeros(2, 28, 28)), r"\(2, 28, 28\)"),
        (lambda v: v.VAE(3).negative_iwae_bound(torch.zeros(2, 784), 0), "at least 1, got 0"),
        (lambda v: v.VAE(0), "z_dim must be at least 1, got 0"),
        (lambda v: v.VAE(3).sample_x(0), "batch must be at least 1, got 0"),
        (lambda v: v.duplicate(torch.zeros(2), 0), "rep must be at least 1, got 0"),
    ],
)
def test_bad_input_is_refused(vae, call, message):
    with pytest.raises(ValueError, match=message):
        call(vae)
