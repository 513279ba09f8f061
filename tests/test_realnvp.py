"""The functions of RealNVP.ipynb against autograd, torch, zuko and closed forms."""

import math

import pytest
import torch
import torch.distributions as D
import torch.nn.functional as F
import zuko
from torch import nn

LAST = 1 - 2**-24  # the largest number that torch.rand returns


@pytest.fixture
def images():
    """500 images of 16 pixels: many zeros, some 255, and one pixel that is always 0."""
    ink = torch.rand(500, 1) + 0.5 * torch.rand(500, 16)
    images = (400 * (ink - 0.6)).clamp(0, 255).to(torch.uint8)
    images[:, 3] = 0
    return images


class RandomNet(nn.Module):
    """x_a -> (s, t) by a random network, far from the identity; float64."""

    def __init__(self, half, s_shift=0.0):
        super().__init__()
        self.first = nn.Linear(half, 32).double()
        self.last = nn.Linear(32, 2 * half).double()
        self.s_shift = s_shift

    def forward(self, x_a):
        s, t = self.last(torch.tanh(self.first(x_a))).chunk(2, dim=1)
        return torch.tanh(s) + self.s_shift, t


def random_nets(half, pairs=4, s_shift=0.0):
    return [RandomNet(half, s_shift) for _ in range(pairs)]


def constant_net(s, t):
    return lambda x_a: (torch.full_like(x_a, s), torch.full_like(x_a, t))


def shake(module, size=0.2):
    """Moves a module's parameters away from where they start."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(size * torch.randn_like(p))
    return module


def networks(flow):
    """The notebook's networks: {"what they are": x_a (batch, 392) -> (s, t)}."""
    return {
        "fully connected": flow.FullyConnected(392, 16),
        "cells of 2 x 2": flow.Convolutional(2, 4, 2),
        "cells of 4 x 4, a plan": flow.Convolutional(4, 4, 0, flow.dense_plan(8, 4)),
    }


def inside_bins(n, dim):
    """Points of [0, 1)^dim, float64, clear of the grey levels' edges."""
    u = 0.05 + 0.9 * torch.rand(n, dim, dtype=torch.float64)
    return (torch.randint(0, 256, (n, dim)) + u) / 256


class Zoom(nn.Module):
    """y = (x - 0.5) / 0.03, an elementwise layer of which everything is known."""

    def forward(self, x):
        return (x - 0.5) / 0.03, x.new_full((len(x),), -x.shape[1] * math.log(0.03))

    def inverse(self, y):
        return 0.5 + 0.03 * y


# the layers, one by one

LAYERS = {
    "coupling": lambda flow, images: flow.AffineCoupling(RandomNet(8)),
    "flip": lambda flow, images: flow.Flip(),
    "permutation": lambda flow, images: flow.Permute(torch.randperm(16)),
    "logit 0.05": lambda flow, images: flow.Logit(0.05),
    "logit 1e-6": lambda flow, images: flow.Logit(1e-6),
    "gaussianize": lambda flow, images: flow.Gaussianize(images, 50.0),
    "stretch": lambda flow, images: flow.Stretch(torch.randn(16).double()),
    "a flow with a logit": lambda flow, images: flow.RealNVP(
        [flow.Logit(0.05)], torch.randperm(16), random_nets(8)
    ),
    "a flow with gaussianize and stretch": lambda flow, images: flow.RealNVP(
        flow.stretched_pixels(images), torch.randperm(16), random_nets(8)
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_log_det_is_that_of_autograds_jacobian(flow, images, name):
    """…and the inverse is one. A round trip alone would pass with both wrong."""
    layer = LAYERS[name](flow, images)
    x = inside_bins(3, 16)
    y, log_det = layer(x)
    assert log_det.shape == (3,)
    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(
            lambda row: layer(row[None])[0][0], x[i]
        )
        want = torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(log_det[i], want, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(layer.inverse(y), x, rtol=0, atol=1e-9)
    if name not in ("flip", "permutation"):
        # the comparison is not of zeros
        assert (log_det.abs() > 0.1).all()


def test_log_densities_are_those_of_torch(flow):
    """Of N(0, I), and of question 3a: x = 1.5 z + 3 with z ~ N(0, 1) is N(3, 2.25)."""
    x = 3 + 2 * torch.randn(50, 30, dtype=torch.float64)
    want = D.Normal(0.0, 1.0).log_prob(x).sum(1)
    torch.testing.assert_close(flow.log_standard_normal(x), want)
    want = D.Normal(3.0, 2.25**0.5).log_prob(x[:, 0])
    torch.testing.assert_close(flow.log_affine(x[:, :1]), want)


def test_logit_is_that_of_torch(flow):
    x = torch.rand(5, 4, dtype=torch.float64)
    for alpha in (0.05, 1e-6):
        y, _ = flow.Logit(alpha)(x)
        torch.testing.assert_close(y, torch.logit(alpha + (1 - 2 * alpha) * x))


@pytest.mark.parametrize("size", [1.0, 100.0, 1e4])
def test_stretch_is_inverted_however_far_out(flow, size):
    stretch = flow.Stretch(torch.randn(5, dtype=torch.float64))
    x = size * torch.randn(200, 5, dtype=torch.float64)
    back = stretch.inverse(stretch(x)[0])
    torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-9)


def test_stretch_takes_ink_and_no_ink_apart(flow, images):
    """Around the edge between them, and for every pixel that has both."""
    gaussianize, stretch = flow.stretched_pixels(images)
    black = torch.full((1, 16), 255, dtype=torch.uint8)
    half = torch.full((1, 16), 0.5)
    ends = []
    for grey in (0 * black, black):
        x, _ = gaussianize(flow.dequantize(grey, half))
        ends.append((x, stretch(x)[0]))
    (zero, zero_y), (ink, ink_y) = ends
    # it starts where the bin of zeros ends
    x, _ = gaussianize(flow.dequantize(0 * black, torch.full((1, 16), LAST)))
    torch.testing.assert_close(stretch.b[None], x, rtol=0, atol=1e-3)
    assert (ink_y - zero_y > 0.6 * (ink - zero) + 1).all()


# Gaussianize


def test_histograms_by_hand(flow, images):
    got = flow.Gaussianize(images, 50.0).p
    ink = torch.bincount(images.flatten().long(), minlength=256).double()
    ink[0] = 0
    prior = 0.9 * ink / ink.sum() + 0.1 / 256
    prior[0] += 1
    for pixel in (0, 3, 15):
        count = torch.bincount(images[:, pixel].long(), minlength=256)
        want = (count + 50 * prior / prior.sum()) / (500 + 50)
        torch.testing.assert_close(got[pixel], want)
    # of blank images, too, no grey level is impossible
    blank = flow.Gaussianize(torch.zeros(10, 3, dtype=torch.uint8), 128.0).p
    assert (blank > 0).all()
    torch.testing.assert_close(blank.sum(1), torch.ones(3).double())


def test_gaussianize_is_the_normal_quantile_of_the_histograms_cdf(flow, images):
    layer = flow.Gaussianize(images, 50.0)
    x = inside_bins(200, 16)
    y, _ = layer(x)
    for pixel in range(16):
        p = layer.p[pixel]
        scaled = 256 * x[:, pixel]
        k = scaled.long()
        cdf = p.cumsum(0)[k] - p[k] + p[k] * (scaled - k)
        got = D.Normal(0.0, 1.0).cdf(y[:, pixel])
        torch.testing.assert_close(got, cdf, rtol=0, atol=1e-12)


def test_gaussianize_is_accurate_in_the_upper_tail(flow):
    """A pixel that is 255 once in 60,000 images: float32 has no digits of 1 - F."""
    images = torch.zeros(60_000, 1, dtype=torch.uint8)
    images[0] = 255
    layer = flow.Gaussianize(images, 128.0)
    u = torch.tensor([[0.5], [0.9], [0.99], [1 - 1e-5]])
    y, _ = layer(flow.dequantize(torch.full((4, 1), 255, dtype=torch.uint8), u))
    upper = (1 - u.double()) * layer.p[0, 255]
    torch.testing.assert_close(y, -torch.special.ndtri(upper), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["logit 0.05", "logit 1e-6", "gaussianize"])
def test_every_grey_level_of_every_pixel_is_returned(flow, images, name):
    """…where a CDF has next to no slope, too; finite, whatever the noise."""
    layer = LAYERS[name](flow, images)
    grey = torch.arange(256, dtype=torch.uint8)[:, None].expand(256, 16)
    for u in (0.0, 1e-9, 0.02, 0.5, 0.98, LAST):
        y, log_det = layer(flow.dequantize(grey, torch.full((256, 16), u)))
        assert y.isfinite().all() and log_det.isfinite().all()
        back = layer.inverse(y)
        assert back.min() >= 0 and back.max() < 1
        if 0.01 < u < 0.99:  # clear of the bins' edges
            assert torch.equal(flow.quantize(back), grey)


# the halves of an image


@pytest.mark.parametrize("cell", [2, 4])
@pytest.mark.parametrize("colour", [0, 1])
def test_convolutions_see_each_half_where_it_lies_in_the_image(flow, colour, cell):
    """A patch moved by 4 pixels moves what it does to s and t by 4 pixels.

    A half packed to the wrong cells would move it elsewhere, and so would the flipped
    half, were it unpacked like the unflipped.
    """
    net = flow.Convolutional(cell, 4, 2).double()
    shake(net.last, 0.1)
    order = flow.checkerboard()
    order = order.flip(0) if colour else order
    seen, other = order.chunk(2)

    def response(row, column, patch):
        image = torch.zeros(28, 28, dtype=torch.float64)
        image[row : row + 4, column : column + 4] = patch
        blank = torch.zeros(1, 392, dtype=torch.float64)
        found = torch.zeros(2, 784, dtype=torch.float64)
        with torch.no_grad():
            s, t = net(image.flatten()[seen][None])
            blank_s, blank_t = net(blank)
        # s before it is bounded
        found[0, other] = (torch.atanh(s / 2) - torch.atanh(blank_s / 2))[0]
        found[1, other] = (t - blank_t)[0]
        return found.reshape(2, 28, 28)

    patch = torch.randn(4, 4, dtype=torch.float64)
    middle = response(12, 12, patch)
    assert middle.abs().max() > 0.01
    for down, right in ((0, 4), (4, 0), (-4, 0), (0, -4), (4, -4)):
        moved = response(12 + down, 12 + right, patch)
        torch.testing.assert_close(moved, middle.roll((down, right), (1, 2)))


def test_a_block_is_a_residual_with_two_nonlinearities(flow):
    """Untrained, the identity. How far it looks, the next test sees."""
    block = flow.look_around(3).double()
    h = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    assert torch.equal(block(h), h)
    shake(block, 0.3)
    torch.testing.assert_close(
        block(h) - h, block.second(F.silu(block.first(F.silu(h))))
    )


def test_each_pair_has_the_blocks_that_the_text_says(flow):
    """A pixel reaches as far as first, blocks and last do, each one cell around it."""
    cells = [2, 2, 4, 4]
    reach = [4, 4, 4, 2]
    for net, cell, cells_around in zip(flow.image_nets(False), cells, reach):
        shake(net.double(), 0.2)
        x_a = torch.zeros(1, 392, dtype=torch.float64)
        pixel = 14 * 14 + 7
        changed = x_a.clone()
        changed[0, pixel] = 1
        with torch.no_grad():
            moved = (net(changed)[1] - net(x_a)[1]).abs() > 1e-12
        image = flow.to_grid(moved.double().flip(1), cell).amax((0, 1))
        rows, columns = image.nonzero().T
        size = min(2 * cells_around + 1, 28 // cell)
        assert len(rows.unique()) == len(columns.unique()) == size


def test_the_plan_sees_all_of_a_half_and_stays_within_bounds(flow):
    """…however far out the half is."""
    plan = shake(flow.dense_plan(32, 4), 0.3)
    x_a = torch.randn(100, 392, requires_grad=True)
    near = plan(x_a)
    assert plan(1000 * x_a).abs().max() < 3 * near.abs().max()
    near[0, 0, 0, 0].backward()
    assert (x_a.grad[0] != 0).all()


@pytest.mark.parametrize("cell", [2, 4])
def test_each_number_of_the_plan_is_for_its_own_part_of_the_image(flow, cell):
    """It moves s and t of its 4 x 4 pixels and of the cells around them, no others."""
    numbers = torch.zeros(1, 4, 7, 7, dtype=torch.float64)
    net = flow.Convolutional(cell, 4, 0, lambda x_a: numbers).double()
    shake(net.last, 0.1)
    x_a = torch.randn(1, 392, dtype=torch.float64)
    with torch.no_grad():
        before = torch.stack(net(x_a))
        numbers[0, 0, 3, 5] += 1
        after = torch.stack(net(x_a))

    _, other = flow.checkerboard().chunk(2)
    for found in (after - before)[:, 0].abs():
        moved = torch.zeros(784, dtype=torch.bool)
        moved[other] = found > 1e-9
        rows, columns = moved.reshape(28, 28).nonzero().T
        assert (rows.min(), rows.max()) == (12 - cell, 15 + cell)
        assert (columns.min(), columns.max()) == (20 - cell, 23 + cell)


def test_untrained_networks_return_zeros_and_can_start(flow):
    for net in networks(flow).values():
        s, t = net(torch.randn(5, 392))
        assert s.shape == t.shape == (5, 392)
        assert not s.any() and not t.any()
        (s.sum() + t.sum()).backward()
        moving = [p for p in net.parameters() if p.grad is not None and p.grad.any()]
        assert moving


def test_s_is_bounded_whatever_the_weights_and_t_is_not(flow):
    for net in networks(flow).values():
        shake(net, 100.0)
        s, t = net(100 * torch.randn(5, 392))
        assert 1.9 < s.abs().max() <= 2 < t.abs().max()


# the model


@pytest.mark.parametrize(
    "key", ["logit", "gaussianize", "stretch", "convolution", "plan"]
)
def test_each_steps_flow_is_its_layers_and_then_four_pairs(flow, key):
    images = torch.randint(0, 256, (50, 784), dtype=torch.uint8)
    model = getattr(flow, f"{key}_flow")(images)
    kinds = [type(layer).__name__ for layer in model.layers]
    front = {"logit": ["Logit"], "gaussianize": ["Gaussianize"]}
    front = front.get(key, ["Gaussianize", "Stretch"])
    assert kinds == [*front, "Permute", *["AffineCoupling", "Flip"] * 4]

    # nothing is learned but the pairs' networks, each of which has its own weights
    nets = [pair.net for pair in model.layers if hasattr(pair, "net")]
    weights = [id(p) for net in nets for p in net.parameters()]
    assert len(set(weights)) == len(weights)
    assert set(weights) == {id(p) for p in model.parameters()}
    for net in nets:
        convolutional = isinstance(net, flow.Convolutional)
        assert convolutional == (key in ("convolution", "plan"))
        assert (getattr(net, "plan", None) is not None) == (key == "plan")


@pytest.mark.parametrize("pairs", [1, 2, 4])
def test_coupling_and_flip_are_zukos(flow, pairs):
    """Latents, log-det, inverse and density, to the last digits of float64."""
    order = torch.randperm(16)
    nets = random_nets(8, pairs)
    model = flow.RealNVP([], order, nets)

    def affine(net):
        def given(x_a):
            s, t = net(x_a)
            return D.AffineTransform(t, s.exp(), event_dim=1)

        return given

    first_half = torch.arange(16) < 8
    layers = [zuko.transforms.PermutationTransform(order)]
    for net in nets:
        layers.append(zuko.transforms.CouplingTransform(affine(net), first_half))
        layers.append(zuko.transforms.PermutationTransform(torch.arange(16).flip(0)))
    reference = zuko.transforms.ComposedTransform(*layers)

    x = torch.randn(50, 16, dtype=torch.float64)
    z, log_det = model(x)
    want, want_log_det = reference.call_and_ladj(x)
    torch.testing.assert_close(z, want)
    torch.testing.assert_close(log_det, want_log_det)
    torch.testing.assert_close(model.inverse(z), reference.inv(want))
    base = zuko.distributions.DiagNormal(
        torch.zeros(16).double(), torch.ones(16).double()
    )
    density = zuko.distributions.NormalizingFlow(reference, base).log_prob(x)
    torch.testing.assert_close(flow.log_standard_normal(z) + log_det, density)


@pytest.mark.parametrize("kind", ["logit", "gaussianize and stretch"])
def test_probabilities_of_all_images_sum_to_one(flow, kind):
    """Two pixels, 65,536 images: sees every wrong sign, factor and constant."""
    images = (256 * torch.rand(2000, 2) ** torch.tensor([1.0, 2.0])).to(torch.uint8)
    layers = [flow.Logit(1e-6)]
    if kind != "logit":
        layers = flow.stretched_pixels(images)
    # s above 0: the latents of [0, 1)^2 cover all of N(0, I)
    nets = random_nets(1, s_shift=0.5)
    model = flow.RealNVP(layers, torch.tensor([1, 0]), nets).double()
    grey = torch.arange(256, dtype=torch.uint8)
    every = torch.cartesian_prod(grey, grey)
    total = 0.0
    with torch.no_grad():
        for _ in range(4):
            total += model.log_prob(every).exp().sum().item() / 4
    assert total == pytest.approx(1, abs=0.01)


def test_log_prob_is_the_base_plus_all_log_dets_in_nats_of_the_8_bit_image(flow):
    model = flow.RealNVP([Zoom()], torch.randperm(16), random_nets(8))
    images = torch.randint(0, 256, (5, 16), dtype=torch.uint8)
    u = torch.rand(5, 16)
    z, log_det = model((images + u.double()) / 256)
    want = D.Normal(0.0, 1.0).log_prob(z).sum(1) + log_det - 16 * math.log(256)
    torch.testing.assert_close(model.log_prob(images, u), want)
    torch.testing.assert_close(model.bits_per_dim(images, u), -want / 16 / math.log(2))


def test_log_prob_draws_uniform_noise_anew_for_each_pixel(flow):
    drawn = []
    dequantize = flow.dequantize

    def record(images, u):
        drawn.append(u)
        return dequantize(images, u)

    flow.dequantize = record
    images = torch.full((3000, 4), 7, dtype=torch.uint8)
    model = flow.RealNVP([], torch.arange(4), [])
    model.log_prob(images)
    model.bits_per_dim(images)
    u = torch.cat(drawn, dim=1)  # (3000, 8), all independent
    assert u.min() >= 0 and u.max() < 1
    assert u.mean().item() == pytest.approx(0.5, abs=0.02)
    assert 12 * u.var().item() == pytest.approx(1, abs=0.05)
    assert (torch.corrcoef(u.T) - torch.eye(8)).abs().max() < 0.1


def test_inverse_returns_the_same_pixels_though_the_networks_are_float32(flow):
    """…to 1e-5 of a bin: both directions give the networks the same x_a."""
    images = torch.randint(0, 256, (50, 784), dtype=torch.uint8)
    images[torch.rand(50, 784) < 0.8] = 0
    flow.CHANNELS, flow.UNITS = 4, 8
    model = shake(flow.plan_flow(images), 0.05)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    x = flow.dequantize(images, 0.01 + 0.98 * torch.rand(50, 784))
    with torch.no_grad():
        z, _ = model(x)
        back = model.inverse(z)
    assert z.dtype == torch.float64
    assert torch.equal(flow.quantize(back), images)
    assert (256 * (back - x)).abs().max() < 1e-5


def test_samples_of_a_known_flow_have_its_mean_and_spread(flow):
    """Two couplings a pixel: z = e^2s y + (e^s + 1) t, and y = (x - 0.5) / 0.03."""
    s, t = -0.3, 0.5
    model = flow.RealNVP([Zoom()], torch.randperm(8), [constant_net(s, t)] * 4)
    # a module knows its device by a buffer or a parameter
    samples = model.sample(40_000)
    assert samples.dtype == torch.uint8
    samples = samples.double()
    # floor: half a grey level down
    mean = 256 * (0.5 - 0.03 * (math.exp(s) + 1) * t * math.exp(-2 * s)) - 0.5
    std = 256 * 0.03 * math.exp(-2 * s)
    assert (samples.mean(0) - mean).abs().max() < 5 * std / 200
    assert (samples.std(0) / std - 1).abs().max() < 0.03
    assert (torch.corrcoef(samples.T) - torch.eye(8)).abs().max() < 0.03


def test_mistakes_that_would_go_unseen_are_refused(flow):
    with pytest.raises(ValueError, match=r"even, got \(3, 5\)"):
        flow.AffineCoupling(constant_net(0.0, 0.0))(torch.zeros(3, 5))
    model = flow.RealNVP([], torch.arange(4), [])
    # a tensor of images in [0, 1] would be black, one of -1 white
    for images in (torch.rand(2, 4), torch.full((2, 4), -1)):
        with pytest.raises(ValueError, match=f"must be uint8.*{images.dtype}"):
            model.log_prob(images)
    blank = torch.zeros(2, 4, dtype=torch.uint8)
    # a noise that would be the same for all pixels
    with pytest.raises(ValueError, match=r"\(2, 1\)"):
        model.log_prob(blank, torch.zeros(2, 1))
    # larger images, of which it would take the first pixels
    with pytest.raises(ValueError, match=r"\(batch, 4\), got \(2, 8\)"):
        model.log_prob(blank.repeat(1, 2))


# training


def small_flow(flow):
    return flow.RealNVP([Zoom()], torch.arange(16), random_nets(8))


def test_measure_weighs_a_smaller_last_part_by_its_size(flow):
    model = small_flow(flow)
    grey = torch.linspace(0, 255, 2100).round().to(torch.uint8)
    images = grey[:, None].repeat(1, 16)
    u = torch.rand(2100, 16)
    row = flow.measure(model, {"test": (images, u)}, epoch=0)
    want = -model.log_prob(images, u).mean().item()
    assert row["test_bits_per_dim"] == pytest.approx(want / (16 * math.log(2)))
    worst = max(-model.log_prob(images[i : i + 1], u[i : i + 1]) for i in range(2100))
    assert row["test_worst_nats"] == pytest.approx(worst.item())


@torch.no_grad()
def test_likelihood_is_of_the_mean_of_p_and_of_the_mean_of_log_p(flow):
    model = small_flow(flow)
    images = torch.randint(0, 256, (50, 16), dtype=torch.uint8)
    torch.manual_seed(3)
    got = flow.likelihood(model, images, draws=4)
    torch.manual_seed(3)
    logs = [model.log_prob(images, torch.rand(images.shape)) for _ in range(4)]
    bits = torch.stack(logs) / (-16 * math.log(2))  # (4, 50)
    assert bits.std(0).min() > 1e-3  # the draws differ
    most = -bits.amin(0) * 16 * math.log(2)
    of_mean = most + (torch.stack(logs) - most).exp().mean(0).log()
    of_mean = of_mean / (-16 * math.log(2))
    assert got["mean"] == pytest.approx(bits.mean().item())
    assert got["std"] == pytest.approx(bits.mean(1).std().item())
    assert got["log_mean"] == pytest.approx(of_mean.mean().item())


def test_the_rate_rises_to_its_peak_and_falls_to_zero(flow):
    """More of it is tested in the VAE, which has it in the same words."""
    rates = [flow.share_of_peak(step, 1000) for step in range(1001)]
    assert rates[0] < 0.01 and rates[1000] < 1e-9
    assert rates[200] == max(rates) == 1


def test_held_out_images_are_never_trained_on(flow):
    flow.VALIDATE = True
    train = torch.arange(60_000)
    images, held_out = flow.split(train, -train)
    assert torch.equal(torch.cat([images, held_out]), train)
    assert len(held_out) == 10_000


def test_training_lowers_the_loss_and_repeats_itself(flow, images):
    flow.BATCH = 64
    test_set = (images[:100], torch.rand(100, 16))
    histories = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model = flow.RealNVP(
            flow.stretched_pixels(images), torch.arange(16), random_nets(8)
        )
        history = flow.train(model, images, {"test": test_set}, epochs=3)
        assert history[-1] == flow.measure(model, {"test": test_set}, epoch=3)
        histories.append(history)
    first, again, other = histories
    assert first == again != other
    assert [row["epoch"] for row in first] == [0, 1, 2, 3]
    assert first[3]["test_bits_per_dim"] < first[0]["test_bits_per_dim"] - 0.05


def test_the_gradient_of_a_step_is_its_own(flow, images):
    """…and not added to those of the steps before: of a sum of weights it is 1."""
    flow.BATCH = 200  # three steps
    model = small_flow(flow)
    weights = list(model.parameters())
    gradients = []
    for p in weights:
        p.register_post_accumulate_grad_hook(lambda p: gradients.append(p.grad.mean()))
    model.bits_per_dim = lambda images: sum(p.sum() for p in weights).expand(
        len(images)
    )
    flow.train(model, images, {}, 1)
    assert gradients == [pytest.approx(1.0)] * 3 * len(weights)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_training_stops_before_a_step_that_is_not_finite(flow, images, bad):
    model = small_flow(flow)
    bits_per_dim = model.bits_per_dim
    model.bits_per_dim = lambda images: bad * bits_per_dim(images)
    with pytest.raises(RuntimeError, match="non-finite"):
        flow.train(model, images, {}, epochs=1)
    assert all(p.isfinite().all() for p in model.parameters())
