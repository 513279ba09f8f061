"""The functions of RealNVP.ipynb against torch.distributions, autograd, direct formulas and each other."""

import math

import pytest
import torch
import torch.distributions as D
from conftest import code_cells, source
from torch import nn

LAST = 1 - 2**-24  # the largest float32 below 1, and the largest number that torch.rand returns


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def images():
    """500 images of 4 x 4: rows alike, many zeros, some 255, and one pixel that is always 0."""
    ink = torch.rand(500, 4, 1) * torch.linspace(0.2, 1.6, 4) + 0.3 * torch.rand(500, 4, 4)
    images = (300 * (ink - 0.4)).clamp(0, 255).to(torch.uint8).flatten(1)
    images[:, 3] = 0
    return images


@pytest.fixture
def model(flow, images):
    """A small flow behind Gaussianize and Bend, far from the identity, its networks in float64 too."""
    return randomize(default_flow(flow, images)).double()


def default_flow(flow, images):
    """The notebook's model, for images of 4 x 4: four fine blocks in two pairs, a coarse one in the others."""
    networks = [flow.ScaleShift(8, 8, 8, block) for block in (2, 2, 4, 4)]
    return flow.RealNVP(flow.gaussianize_and_bend(images), flow.checkerboard(4), networks)


def mlps(flow, dim, units=8, pairs=4):
    return [flow.MLP(dim // 2, units) for _ in range(pairs)]


def randomize(module, size=0.2):
    with torch.no_grad():
        for p in module.parameters():
            p.add_(size * torch.randn_like(p))
    return module


def inside(n=3, dim=16):
    """Points of [0, 1)^D, float64, clear of the bins' edges, where a piecewise linear CDF has no derivative."""
    return (torch.randint(0, 256, (n, dim)) + 0.05 + 0.9 * torch.rand(n, dim, dtype=torch.float64)) / 256


def values(s, t):
    """A network that returns the same s and t for every x_a."""
    return lambda x_a: (torch.full_like(x_a, s), torch.full_like(x_a, t))


def constant_flow(flow, dim, pairs, s, t, elementwise=()):
    return flow.RealNVP(elementwise, torch.randperm(dim), [values(s, t)] * pairs)


def order_of(flow, model):
    (layer,) = [layer for layer in model.layers if isinstance(layer, flow.Permute)]
    return layer.order


class Zoom(nn.Module):
    """y = (x - 0.5) / 0.03, an elementwise layer of which everything is known."""

    def forward(self, x):
        return (x - 0.5) / 0.03, x.new_full((len(x),), -x.shape[1] * math.log(0.03))

    def inverse(self, y):
        return 0.5 + 0.03 * y


LAYERS = {
    "coupling, fine": lambda flow, images: randomize(flow.AffineCoupling(flow.ScaleShift(8, 8, 8, 2)), 0.5),
    "coupling, coarse": lambda flow, images: randomize(flow.AffineCoupling(flow.ScaleShift(8, 8, 8, 4)), 0.5),
    "coupling, convolutions": lambda flow, images: randomize(flow.AffineCoupling(flow.ScaleShift(8, 8, 0, 2)), 0.5),
    "coupling, MLP": lambda flow, images: randomize(flow.AffineCoupling(flow.MLP(8, 8)), 0.5),
    "flip": lambda flow, images: flow.Flip(),
    "permute": lambda flow, images: flow.Permute(torch.randperm(16)),
    "logit 0.05": lambda flow, images: flow.Logit(0.05),
    "logit 1e-6": lambda flow, images: flow.Logit(1e-6),
    "gaussianize": lambda flow, images: flow.Gaussianize(images),
    "bend": lambda flow, images: randomize(flow.Bend(torch.randn(16))),
    "flow, logit": lambda flow, images: randomize(
        flow.RealNVP([flow.Logit(0.05)], flow.checkerboard(4), mlps(flow, 16))
    ),
    "flow, default": lambda flow, images: randomize(default_flow(flow, images)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_log_det_is_that_of_autograds_jacobian(flow, images, name):
    """Sign and factor; a round trip alone would pass with both wrong. And the inverse is one."""
    layer, x = LAYERS[name](flow, images).double(), inside()
    y, log_det = layer(x)
    assert log_det.shape == (3,)
    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(lambda v: layer(v[None])[0][0], x[i])
        torch.testing.assert_close(log_det[i], torch.linalg.slogdet(jacobian).logabsdet, rtol=1e-9, atol=1e-9)
    if name not in ("flip", "permute"):
        assert (log_det.abs() > 0.1).any()  # the comparison is not of zeros
    torch.testing.assert_close(layer.inverse(y), x, rtol=0, atol=1e-9)


def test_the_notebooks_own_jacobian_check_sees_a_wrong_log_det(flow):
    layer, x = flow.AffineCoupling(values(0.3, 1.0)), torch.randn(2, 6, dtype=torch.float64)
    torch.testing.assert_close(flow.jacobian_log_det(layer, x), torch.full((2,), 3 * 0.3, dtype=torch.float64))


NETWORKS = {
    "fine": lambda flow: flow.ScaleShift(8, 8, 8, 2),
    "coarse": lambda flow: flow.ScaleShift(8, 8, 8, 4),
    "convolutions": lambda flow: flow.ScaleShift(8, 8, 0, 2),
    "MLP": lambda flow: flow.MLP(8, 8),
}
every_network = pytest.mark.parametrize("kind", NETWORKS)


@every_network
def test_coupling_is_the_formula_of_the_assignment(flow, kind):
    layer, x = flow.AffineCoupling(randomize(NETWORKS[kind](flow), 0.5)).double(), torch.randn(7, 16).double()
    y, log_det = layer(x)
    s, t = layer.net(x[:, :8])
    assert torch.equal(y[:, :8], x[:, :8])
    torch.testing.assert_close(y[:, 8:], s.exp() * x[:, 8:] + t)
    torch.testing.assert_close(log_det, s.sum(1))
    assert s.abs().min() > 0 and t.abs().min() > 0
    assert (s - 3 * torch.tanh(t / 3)).abs().max() > 0.1  # each its own output of the network


@every_network
def test_x_b_is_never_seen_by_the_network(flow, kind):
    """s, and t = y_b - exp(s) x_b, stay to the last bit as they are when x_b changes."""
    net = randomize(NETWORKS[kind](flow), 0.2)
    layer, x_a, x_b = flow.AffineCoupling(net), *torch.randn(2, 3, 8)
    y, log_det = layer(torch.cat([x_a, x_b], dim=1))
    other, same = layer(torch.cat([x_a, 0 * x_b], dim=1))
    assert torch.equal(log_det, same)
    torch.testing.assert_close(y[:, 8:] - other[:, 8:], net(x_a)[0].exp() * x_b)
    assert (layer(torch.cat([x_a + 1, x_b], dim=1))[1] != log_det).all()


@every_network
def test_s_stays_bounded_whatever_the_weights(flow, kind):
    net = randomize(NETWORKS[kind](flow), 100.0)
    s, t = net(100 * torch.randn(50, 8))
    assert 2.9 < s.abs().max() <= 3 < t.abs().max() and torch.isfinite(t).all()  # t needs no bound, and has none


@every_network
def test_untrained_networks_return_zeros_and_have_gradients(flow, kind):
    net = NETWORKS[kind](flow)
    s, t = net(torch.randn(5, 8))
    assert s.shape == t.shape == (5, 8) and not s.any() and not t.any()
    (s.sum() + t.sum()).backward()
    assert sum(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters()) >= 2  # it can start


@pytest.mark.parametrize("block", [2, 4])
@pytest.mark.parametrize("colour", [0, 1])
def test_convolutions_see_each_half_where_it_lies_in_the_image(flow, colour, block):
    """A patch moved by 4 pixels moves what it does to s and t by 4 pixels, and reaches no farther than 2 blocks.

    A half packed to the wrong cells, or the flipped half unpacked like the unflipped, would move it elsewhere.
    """
    net, order = flow.ScaleShift(392, 4, 0, block).double(), flow.checkerboard()
    for layer in (net.local, net.last):  # the blocks in between stay the identity: one convolution, SiLU, one more
        randomize(layer, 0.1)
    seen, other = order.flip(0).chunk(2) if colour else order.chunk(2)

    def response(row, column, patch):
        image = torch.zeros(28, 28, dtype=torch.float64)
        image[row : row + 4, column : column + 4] = patch
        found = torch.zeros(2, 784, dtype=torch.float64)
        with torch.no_grad():
            (s, t), (s0, t0) = net(image.flatten()[seen][None]), net(torch.zeros(1, 392))
        found[0, other], found[1, other] = (torch.atanh(s / 3) - torch.atanh(s0 / 3))[0], (t - t0)[0]
        return found.reshape(2, 28, 28)

    patch = torch.randn(4, 4, dtype=torch.float64)
    middle = response(12, 12, patch)
    reach = torch.arange(12 - 2 * block, 16 + 2 * block)
    for axis in (1, 2):
        assert torch.equal(middle.ne(0).any(0).any(axis - 1).nonzero()[:, 0], reach)
    for rows, columns in ((0, 4), (4, 0), (-4, 0), (0, -4), (4, -4)):
        moved = response(12 + rows, 12 + columns, patch)
        torch.testing.assert_close(moved, middle.roll((rows, columns), (1, 2)))


@pytest.mark.parametrize("block", [2, 4])
@pytest.mark.parametrize("units", [0, 8])
def test_the_dense_path_sees_all_of_the_half(flow, units, block):
    """Without it, untrained residual blocks leave an output 2 blocks around; with it, every pixel counts."""
    net = flow.ScaleShift(392, 4, units, block).double()
    randomize(net.last, 0.5)
    x_a = torch.randn(1, 392, dtype=torch.float64, requires_grad=True)
    net(x_a)[1][0, -1].backward()  # the last entry of x_b: in the first row of the image
    assert (x_a.grad.abs() > 0).sum() == (392 if units else 3 * 3 * block**2 // 2)


def test_flip_exchanges_the_halves(flow):
    x = torch.randn(4, 6)
    y, log_det = flow.Flip()(x)
    assert torch.equal(y[:, :3], x[:, 3:].flip(1)) and torch.equal(y[:, 3:], x[:, :3].flip(1))
    assert torch.equal(log_det, torch.zeros(4)) and torch.equal(flow.Flip().inverse(y), x)


def test_question_3a(flow):
    """x = 1.5 z + 3 with z ~ N(0, 1): the density of x by a coupling, by torch.distributions, and as N(3, 2.25)."""
    x = torch.randn(50, 2, dtype=torch.float64) * 2 + 1
    z, log_det = flow.AffineCoupling(values(-math.log(1.5), -2.0))(x)
    got = flow.log_standard_normal(z) + log_det - D.Normal(0.0, 1.0).log_prob(x[:, 0])
    want = D.TransformedDistribution(D.Normal(0.0, 1.0), D.transforms.AffineTransform(3.0, 1.5))
    torch.testing.assert_close(got, want.log_prob(x[:, 1]))
    torch.testing.assert_close(got, D.Normal(3.0, 2.25**0.5).log_prob(x[:, 1]))
    torch.testing.assert_close(got, flow.log_affine(x[:, 1:]))


def test_log_standard_normal_counts_its_constant_once(flow):
    z = torch.randn(5, 30, dtype=torch.float64)
    want = D.MultivariateNormal(torch.zeros(30).double(), torch.eye(30).double()).log_prob(z)
    torch.testing.assert_close(flow.log_standard_normal(z), want)


def test_each_of_four_pairs_transforms_one_half_and_the_flip_exchanges_them(flow):
    """Couplings that only double: z / x = 2^(times the pixel was transformed)."""
    for pairs, times in ((1, {0, 1}), (2, {1}), (3, {1, 2}), (4, {2})):
        model = constant_flow(flow, 12, pairs, math.log(2), 0.0)
        x = torch.rand(2, 12, dtype=torch.float64) + 0.1
        z, log_det = model(x)
        order = order_of(flow, model) if pairs % 2 == 0 else order_of(flow, model).flip(0)
        count = (z / x[:, order]).log2().round()
        assert set(count.unique().tolist()) == times
        assert torch.equal(count.sum(1), torch.full((2,), 6.0 * pairs).double())  # a half, 6 of 12, each time
        torch.testing.assert_close(log_det, count.sum(1) * math.log(2))


def test_the_model_is_one_list_that_ends_in_four_pairs_of_coupling_and_flip(flow):
    nets = mlps(flow, 16)
    model = flow.RealNVP([Zoom()], flow.checkerboard(4), nets)
    kinds = [type(layer) for layer in model.layers]
    assert flow.PAIRS == 4 and kinds == [Zoom, flow.Permute, *[flow.AffineCoupling, flow.Flip] * 4]
    assert [layer.net for layer in model.layers[2::2]] == nets
    assert len(list(model.parameters())) == 4 * len(list(nets[0].parameters()))  # all of them are trained
    weights = [p for net in flow.networks() for p in net.parameters()]
    assert len(set(map(id, flow.networks()))) == 4 and len(set(map(id, weights))) == len(weights)  # nothing is shared
    assert {type(net) for net in flow.networks()} == {flow.ScaleShift}
    assert all(net.whole is None for net in flow.networks(units=0)) and flow.networks()[0].whole is not None
    kinds = [(2, flow.CHANNELS, flow.UNITS)] * 2 + [(4, 2 * flow.CHANNELS, 2 * flow.UNITS)] * 2  # fine, then coarse
    found = [(2 * net.zoom, net.local.out_channels, net.whole[0].out_features) for net in flow.networks()]
    assert found == kinds


@every_network
def test_untrained_pairs_are_the_identity(flow, kind):
    model, x = flow.RealNVP([], flow.checkerboard(4), [NETWORKS[kind](flow) for _ in range(4)]), torch.rand(5, 16)
    z, log_det = model(x)
    assert torch.equal(z, x[:, flow.checkerboard(4)]) and torch.equal(log_det, torch.zeros(5))


def test_every_pixel_reaches_the_latents_and_back(flow, model):
    """Four couplings: each latent of the last half depends on pixels of both colours."""
    jacobian = torch.autograd.functional.jacobian(lambda v: model(v[None])[0][0], inside(1)[0])
    dependent = (jacobian.abs() > 1e-9).sum(1)
    assert (dependent == 16).all()


def test_checkerboard_puts_neighbours_in_opposite_halves(flow):
    order = flow.checkerboard()
    assert torch.equal(order.sort().values, torch.arange(784))
    half = torch.empty(784, dtype=torch.long)
    half[order] = torch.arange(784) // 392
    board = half.reshape(28, 28)
    assert (board[1:] != board[:-1]).all() and (board[:, 1:] != board[:, :-1]).all()


@pytest.mark.parametrize("side", [2, 4, 28])
def test_halves_are_packed_to_where_they_lie_in_the_image(flow, side):
    """What the couplings of the real model see, as rows and columns; and both colours' blocks fill the image."""
    seen, half = [], side // 2
    still = [lambda x_a: seen.append(x_a) or (torch.zeros_like(x_a), torch.zeros_like(x_a))] * 4
    pixels = torch.arange(side**2)[None]
    flow.RealNVP([], flow.checkerboard(side), still)(pixels)
    for k, x_a in enumerate(seen):
        blocks = flow.pack(x_a)
        assert blocks.shape == (1, 2, half, half) and torch.equal(flow.unpack(blocks), x_a)
        for r in range(2):
            for i in range(half):
                for j in range(half):
                    assert blocks[0, r, i, j] == side * (2 * i + r) + 2 * j + (r + k) % 2
    assert torch.equal(torch.cat(seen[:2], dim=1).sort().values, pixels)
    batch = torch.rand(5, side**2 // 2)
    assert torch.equal(flow.pack(batch)[3], flow.pack(batch[3:4])[0])  # images do not mix


def test_log_prob_of_nothing_but_the_base(flow):
    model = flow.RealNVP([], flow.checkerboard(4), [])
    images, u = torch.randint(0, 256, (5, 16)), torch.rand(5, 16)
    want = D.Normal(0.0, 1.0).log_prob((images + u.double()) / 256).sum(1) - 16 * math.log(256)
    torch.testing.assert_close(model.log_prob(images, u), want)
    torch.testing.assert_close(model.bits_per_dim(images, u), -want / 16 / math.log(2))


def test_uniform_images_cost_eight_bits_a_pixel(flow):
    images = torch.randint(0, 256, (20_000, 4), dtype=torch.uint8)
    model = flow.RealNVP([flow.Gaussianize(images)], torch.arange(4), [])
    assert model.bits_per_dim(images).mean().item() == pytest.approx(8, abs=0.02)


@pytest.mark.parametrize("preprocess", ["default", "logit"])
def test_probabilities_of_all_images_sum_to_one(flow, preprocess):
    """Two pixels, 65,536 images: catches every wrong sign, factor and constant at once."""
    images = (256 * torch.rand(2000, 2) ** torch.tensor([1.0, 2.0])).to(torch.uint8)
    layers = flow.gaussianize_and_bend(images) if preprocess == "default" else [flow.Logit(1e-6)]
    nets = mlps(flow, 2)
    model = randomize(flow.RealNVP(layers, torch.tensor([1, 0]), nets)).double()
    for net in nets:  # widen: the latents of [0, 1)^2, edges of bins clamped, must cover N(0, I)
        net.last[-1].bias.data[0] += 0.5
    every = torch.cartesian_prod(torch.arange(256), torch.arange(256))
    with torch.no_grad():
        total = sum(model.log_prob(every, torch.rand(65_536, 2).double()).exp().sum().item() for _ in range(4)) / 4
    assert total == pytest.approx(1, abs=0.01)


def test_log_prob_is_the_base_plus_all_log_dets(flow, model, images):
    u = 0.05 + 0.9 * torch.rand(4, 16, dtype=torch.float64)
    x = (images[:4] + u) / 256
    want = -4 * 16 * math.log(2) * torch.ones(4).double() - 4 * 16 * math.log(2)  # 256 = 2^4 2^4
    for i in range(4):
        jacobian = torch.autograd.functional.jacobian(lambda v: model(v[None])[0][0], x[i])
        want[i] += D.Normal(0.0, 1.0).log_prob(model(x)[0][i]).sum() + torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(model.log_prob(images[:4], u), want)
    torch.testing.assert_close(model.bits_per_dim(images[:4], u), -want / (16 * math.log(2)))


def test_noise_fills_its_bin_and_never_leaves_it(flow):
    pixels = torch.arange(256, dtype=torch.uint8)[:, None]
    for u in (0.0, 1e-6, 0.5, 1 - 2**-10, LAST):
        x = flow.dequantize(pixels, torch.full((256, 1), u))
        assert x.dtype == torch.float64 and x.max() < 1
        assert torch.equal(flow.quantize(x), pixels), u
        torch.testing.assert_close(256 * x - pixels, torch.full((256, 1), u).double(), rtol=0, atol=1e-12)


def test_log_prob_draws_uniform_noise_anew(flow, monkeypatch):
    drawn, images = [], torch.full((3000, 4), 7, dtype=torch.uint8)
    dequantize = flow.dequantize
    monkeypatch.setitem(flow.namespace, "dequantize", lambda i, u: drawn.append(dequantize(i, u)) or drawn[-1])
    model = flow.RealNVP([], torch.arange(4), [])
    model.log_prob(images), model.bits_per_dim(images)
    for x in drawn:
        u = 256 * x - 7
        assert u.min() >= 0 and u.min() < 0.01 and 0.99 < u.max() < 1
        assert (torch.corrcoef(u.T) - torch.eye(4)).abs().max() < 0.1  # its own for each pixel
        assert abs(u.mean() - 0.5) < 0.02 and u.var() * 12 == pytest.approx(1, abs=0.05)
    assert len(drawn) == 2 and not torch.equal(*drawn)


def test_histograms_by_hand(flow, images):
    got = flow.Gaussianize(images, 50.0).p
    ink = torch.tensor([0.0] + [(images == g).sum().item() for g in range(1, 256)], dtype=torch.float64)
    prior = 0.9 * ink / ink.sum() + 0.1 / 256 + torch.eye(256).double()[0]
    for pixel in (0, 3, 15):
        count = torch.tensor([(images[:, pixel] == g).sum().item() for g in range(256)], dtype=torch.float64)
        torch.testing.assert_close(got[pixel], (count + 50 * prior / prior.sum()) / (500 + 50))
    torch.testing.assert_close(got.sum(1), torch.ones(16, dtype=torch.float64))
    assert (got > 0).all()


def test_histograms_of_blank_images(flow):
    got = flow.Gaussianize(torch.zeros(10, 3, dtype=torch.uint8), 128.0).p
    assert (got > 0).all() and got.sum(1).allclose(torch.ones(3).double())


def test_gaussianize_is_the_normal_quantile_of_the_histograms_cdf(flow, images):
    x, p = inside(200), flow.Gaussianize(images, flow.HISTOGRAM_STRENGTH).p
    y, log_det = flow.Gaussianize(images)(x)
    k = (256 * x).long()
    for j in range(16):
        cdf = torch.stack([p[j, :b].sum() for b in k[:, j]]) + p[j, k[:, j]] * (256 * x[:, j] - k[:, j])
        torch.testing.assert_close(D.Normal(0.0, 1.0).cdf(y[:, j]), cdf, rtol=0, atol=1e-12)
    density = torch.stack([(256 * p[j, k[:, j]]).log() for j in range(16)]).sum(0)
    torch.testing.assert_close(D.Normal(0.0, 1.0).log_prob(y).sum(1) + log_det, density, rtol=0, atol=1e-9)


def test_gaussianize_makes_each_pixel_standard_normal(flow):
    images = (255 * torch.rand(20_000, 3) ** torch.tensor([1.0, 3.0, 9.0])).to(torch.uint8)
    y, _ = flow.Gaussianize(images)(flow.dequantize(images, torch.rand(20_000, 3)))
    assert y.mean(0).abs().max() < 0.03 and (y.std(0) - 1).abs().max() < 0.03
    assert (y.pow(4).mean(0) - 3).abs().max() < 0.3


def test_gaussianize_returns_every_grey_level_of_every_pixel(flow, images):
    """…where the CDF has next to no slope too: pixel 3 is 0 in all images."""
    layer, grey = flow.Gaussianize(images), torch.arange(256, dtype=torch.uint8)[:, None].expand(256, 16)
    for u in (0.02, 0.5, 0.98):
        x = flow.dequantize(grey, torch.full((256, 16), u))
        y, _ = layer(x)
        assert (y[1:] > y[:-1]).all()  # increasing
        assert torch.equal(flow.quantize(layer.inverse(y)), grey)


def test_gaussianize_is_accurate_in_the_upper_tail(flow):
    """A pixel that is 255 once in 60,000 images: 1 - F has no digits left in float32."""
    images = torch.zeros(60_000, 1, dtype=torch.uint8)
    images[0] = 255
    u = torch.tensor([[0.5], [0.9], [0.99], [1 - 1e-5]])
    y, log_det = flow.Gaussianize(images)(flow.dequantize(torch.full((4, 1), 255), u))
    upper = (1 - u.double()) * flow.Gaussianize(images).p[0, 255]
    torch.testing.assert_close(y, -torch.special.ndtri(upper), rtol=0, atol=1e-6)
    assert torch.isfinite(log_det).all()


@pytest.mark.parametrize("name", ["logit 0.05", "logit 1e-6", "flow, logit", "flow, default"])
def test_pixels_0_and_255_are_finite_everywhere(flow, images, name):
    layer = LAYERS[name](flow, images)
    for pixel in (0, 255):
        for u in (0.0, 1e-9, 0.5, LAST):
            x = flow.dequantize(torch.full((1, 16), pixel, dtype=torch.uint8), torch.full((1, 16), u))
            y, log_det = layer(x)
            assert torch.isfinite(y).all() and torch.isfinite(log_det).all()
            (y.sum() + log_det.sum()).backward() if list(layer.parameters()) else None
            back = layer.inverse(y.detach())
            assert back.min() >= 0 and back.max() < 1
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters() if p.grad is not None)


def test_logit_against_torch(flow):
    x = torch.rand(5, 4, dtype=torch.float64)
    for alpha in (0.05, 1e-6):
        y, log_det = flow.Logit(alpha)(x)
        chain = [D.AffineTransform(alpha, 1 - 2 * alpha), D.SigmoidTransform().inv]
        want = D.TransformedDistribution(D.Uniform(0.0, 1.0), chain)  # its log density is minus the log-det
        torch.testing.assert_close(y, torch.logit(alpha + (1 - 2 * alpha) * x))
        torch.testing.assert_close(log_det, -want.log_prob(y).sum(1))


def test_bend_is_its_formula_and_increases(flow):
    bend = randomize(flow.Bend(torch.randn(5)), 0.7).double()
    x = torch.linspace(-6, 6, 500).double()[:, None].expand(500, 5)
    y, _ = bend(x)
    want = bend.log_l.exp() * x + bend.o
    for k in range(2):
        want = want + nn.functional.softplus(bend.raw_a[k]) * torch.tanh(bend.log_c[k].exp() * (x - bend.b[k]))
    torch.testing.assert_close(y, want)
    assert (y[1:] > y[:-1]).all()


@pytest.mark.parametrize("size", [1.0, 100.0, 1e4])
def test_bend_is_inverted_however_far_out(flow, size):
    bend = randomize(flow.Bend(torch.randn(5)), 1.0)  # its parameters stay float32
    x = size * torch.randn(200, 5, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(bend.inverse(bend(x)[0]), x, rtol=1e-9, atol=1e-9)


def test_inverse_returns_the_same_pixels_though_the_networks_are_float32(flow, images):
    """…to 1e-9 of a grey level's bin: the networks see the same x_a in both directions, and the rest is float64."""
    model = randomize(default_flow(flow, images))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    u = 0.01 + 0.98 * torch.rand(images.shape)
    with torch.no_grad():
        x = flow.dequantize(images, u)
        z, log_det = model(x)
        back = model.inverse(z)
    assert z.dtype == log_det.dtype == torch.float64 and (z - x).abs().max() > 1
    assert torch.equal(flow.quantize(back), images) and (256 * (back - x)).abs().max() < 1e-5


def test_samples_are_8_bit_images(flow, model):
    samples = model.sample(300)
    assert samples.shape == (300, 16) and samples.dtype == torch.uint8
    assert not torch.equal(samples[:150], samples[150:])
    assert (model.sample(5, temperature=0.0) == model.sample(1, temperature=0)).all()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_of_a_known_flow_have_its_mean_and_variance(flow, temperature):
    """Two couplings a pixel: z = e^2s y + (e^s + 1) t, so y = (z - (e^s + 1) t) e^-2s, and a pixel is 256 x."""
    s, t = -0.3, 0.5
    samples = constant_flow(flow, 8, 4, s, t, [Zoom()]).sample(40_000, temperature).double()
    mean = 256 * (0.5 - 0.03 * (math.exp(s) + 1) * t * math.exp(-2 * s)) - 0.5  # floor: half a level down
    std = 256 * 0.03 * temperature * math.exp(-2 * s)
    assert (samples.mean(0) - mean).abs().max() < 5 * std / 200
    assert (samples.std(0) / std - 1).abs().max() < 0.03
    assert (torch.corrcoef(samples.T) - torch.eye(8)).abs().max() < 0.03


def test_samples_have_the_distribution_that_was_fitted(flow):
    images = torch.tensor([0, 0, 0, 9, 200], dtype=torch.uint8)[torch.randint(0, 5, (20_000, 2))]
    model = flow.RealNVP([flow.Gaussianize(images)], torch.arange(2), mlps(flow, 2))
    samples = model.sample(20_000)
    for grey, rate in ((0, 0.6), (9, 0.2), (200, 0.2)):
        assert ((samples == grey).double().mean(0) - rate).abs().max() < 0.02


def test_evaluate_weighs_a_smaller_last_batch_by_its_size(flow):
    model = flow.RealNVP([Zoom()], torch.arange(4), [])
    images, u = torch.linspace(0, 255, 2100).round()[:, None].expand(2100, 4).to(torch.uint8), torch.rand(2100, 4)
    got, want = flow.evaluate(model, images, u), -model.log_prob(images, u).double().mean().item()
    assert got["nll_nats"] == pytest.approx(want, rel=1e-5)
    assert got["bits_per_dim"] == pytest.approx(want / (4 * math.log(2)), rel=1e-5)


def test_parameter_groups_hold_each_parameter_once(flow, model):
    matrices, vectors, pixels = flow.parameter_groups(model)
    every = [id(p) for group in (matrices, vectors, pixels) for p in group["params"]]
    assert sorted(every) == sorted(id(p) for p in model.parameters())
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)].split(".")[-1] for p in matrices["params"]} == {"weight"}
    assert all(p.dim() > 1 for p in matrices["params"]) and all(p.dim() == 1 for p in vectors["params"])
    own = {"log_l", "o", "b", "raw_a", "log_c", "threshold", "log_steepness", "place", "scale", "shift"}
    assert {names[id(p)].split(".")[-1] for p in pixels["params"]} == own
    assert matrices["weight_decay"] > 0 == vectors["weight_decay"] == pixels["weight_decay"]
    assert pixels["lr"] == flow.PIXEL_RATE * flow.LR and matrices["lr"] == vectors["lr"] == flow.LR


@pytest.mark.parametrize(
    "call",
    [
        lambda v, model, images: model.log_prob(images),
        lambda v, model, images: model.bits_per_dim(images, torch.zeros_like(images, dtype=torch.float)),
        lambda v, model, images: model.sample(3, temperature=0.7),
    ],
)
@pytest.mark.parametrize("elementwise", ["Gaussianize and Bend", "Logit"])
def test_nothing_is_left_on_the_cpu(flow, images, elementwise, call):
    """The meta device stands in for a GPU: tensors without values, which do not mix with the CPU's."""
    flow.namespace["check_images"] = lambda *args: None  # it reads values
    model = default_flow(flow, images)
    if elementwise == "Logit":
        model = flow.RealNVP([flow.Logit(0.05)], flow.checkerboard(4), mlps(flow, 16))
    model = model.to("meta")
    assert call(flow, model, images.to("meta")).device.type == "meta"


def test_training_lowers_the_loss_and_repeats_itself(flow, images, monkeypatch):
    monkeypatch.setitem(flow.namespace, "BATCH", 64)
    runs, u = [], torch.rand(100, 16)
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        model = default_flow(flow, images)
        runs.append(flow.train(model, images, {"test": (images[:100], u)}, epochs=3))
        assert runs[-1][-1]["test_nll_nats"] == flow.evaluate(model, images[:100], u)["nll_nats"]
    assert runs[0] == runs[1] != runs[2]
    assert [row["epoch"] for row in runs[0]] == [0, 1, 2, 3]
    assert set(runs[0][0]) == {"epoch", "test_nll_nats", "test_bits_per_dim"}
    assert runs[0][-1]["test_bits_per_dim"] < runs[0][0]["test_bits_per_dim"] - 0.05


def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero(flow):
    rate = [flow.rise_and_fall(i / 100, 0.2) for i in range(101)]
    assert max(rate) == rate[20] == 1 and rate[0] == pytest.approx(0.04) and rate[100] == pytest.approx(0)
    assert rate[:21] == sorted(rate[:21]) and rate[20:] == sorted(rate[20:], reverse=True)
    assert rate[10] == pytest.approx(0.52) and rate[60] == pytest.approx(0.5)  # half way: up a line, down a cosine


@pytest.mark.parametrize("n, epochs", [(1, 1), (5, 1), (1, 5), (2, 5), (7, 1)])
def test_training_takes_any_number_of_steps(flow, images, monkeypatch, n, epochs):
    monkeypatch.setitem(flow.namespace, "BATCH", 1)
    model = flow.RealNVP([Zoom()], flow.checkerboard(4), mlps(flow, 16, units=4))
    assert len(flow.train(model, images[:n], {}, epochs)) == epochs + 1


def test_the_stop_button_ends_training_and_keeps_the_history(flow, images, monkeypatch, capsys):
    monkeypatch.setitem(flow.namespace, "BATCH", 250)  # two steps an epoch
    model = flow.RealNVP([Zoom()], flow.checkerboard(4), mlps(flow, 16, units=4))
    steps, bits_per_dim = [], model.bits_per_dim

    def interrupted(batch):
        steps.append(len(batch))
        if len(steps) == 4:  # in the middle of the second epoch
            raise KeyboardInterrupt
        return bits_per_dim(batch)

    model.bits_per_dim = interrupted
    history = flow.train(model, images, {}, epochs=9)
    assert [row["epoch"] for row in history] == [0, 1] and steps == [250] * 4
    assert "stopped" in capsys.readouterr().out


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_training_stops_where_the_loss_is_not_finite(flow, images, monkeypatch, bad):
    monkeypatch.setitem(flow.namespace, "BATCH", 250)
    model = flow.RealNVP([Zoom()], flow.checkerboard(4), mlps(flow, 16, units=4))
    steps, bits_per_dim = [], model.bits_per_dim
    model.bits_per_dim = lambda batch: steps.append(1) or bits_per_dim(batch) * (bad if len(steps) == 4 else 1)
    with pytest.raises(FloatingPointError, match=f"loss {bad}.* in epoch 2, step 2"):
        flow.train(model, images, {}, epochs=3)


def small(flow):
    return flow.RealNVP([], torch.arange(4), mlps(flow, 4, pairs=1))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_whole_grey_levels_of_any_type_are_accepted(flow, dtype):
    pixels = torch.tensor([[0, 1, 254, 255]])
    u = torch.full((1, 4), 0.5)
    torch.testing.assert_close(small(flow).log_prob(pixels.to(dtype), u), small(flow).log_prob(pixels, u))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda f: f.RealNVP([], torch.arange(7), mlps(f, 8)).log_prob(torch.zeros(3, 7)), r"even .* got \(3, 7\)"),
        (lambda f: f.AffineCoupling(f.MLP(2, 4))(torch.zeros(3, 5)), r"got \(3, 5\)"),
        (lambda f: f.AffineCoupling(f.MLP(2, 4)).inverse(torch.zeros(3, 5)), r"got \(3, 5\)"),
        (lambda f: f.AffineCoupling(f.MLP(2, 4))(torch.zeros(4)), r"got \(4,\)"),
        (lambda f: small(f).log_prob(torch.zeros(2, 5)), r"\(batch, 4\), got \(2, 5\)"),
        (lambda f: small(f).bits_per_dim(torch.zeros(2, 2, 2)), r"\(batch, 4\), got \(2, 2, 2\)"),
        (lambda f: small(f).log_prob(torch.full((2, 4), -1)), "0..255, got -1"),
        (lambda f: small(f).log_prob(torch.full((2, 4), 256)), "0..255, got 256"),
        (lambda f: small(f).log_prob(torch.full((2, 4), 0.5)), "whole grey levels 0..255, got 0.5"),
        (lambda f: small(f).log_prob(torch.full((2, 4), math.nan)), "got nan"),
        (lambda f: small(f).log_prob(torch.full((2, 4), math.inf)), "got inf"),
        (lambda f: small(f).log_prob(torch.zeros(2, 4), torch.zeros(2, 1)), r"\(2, 1\)"),
        (lambda f: small(f).log_prob(torch.zeros(2, 4), torch.ones(2, 4)), "got 1"),
        (lambda f: small(f).log_prob(torch.zeros(2, 4), -torch.ones(2, 4)), "got -1"),
        (lambda f: small(f).sample(0), "n must be at least 1.*got 0, 1"),
        (lambda f: small(f).sample(-3), "n must be at least 1.*got -3, 1"),
        (lambda f: small(f).sample(1, -0.1), "temperature at least 0 and finite, got 1, -0.1"),
        (lambda f: small(f).sample(1, math.nan), "got 1, nan"),
        (lambda f: small(f).sample(1, math.inf), "got 1, inf"),
        (lambda f: f.Logit(0.0), "got 0"),
        (lambda f: f.Logit(0.5), "got 0.5"),
        (lambda f: f.Logit(-1e-6), "got -1e-06"),
        (lambda f: f.Logit(math.nan), "got nan"),
    ],
)
def test_bad_input_is_refused(flow, call, message):
    with pytest.raises(ValueError, match=message):
        call(flow)


SETUP = """
results, minutes, started, N_TEST, PAIRS, CHANNELS, HIDDEN, BATCH = {}, {}, 0.0, 40, 4, 8, 8, 40
test_images, u_test = torch.randint(0, 256, (80, 784), dtype=torch.uint8), torch.rand(80, 784)
train_images, device = test_images[:40], torch.device("cpu")
checker, forward, gauss, bend = checkerboard, AffineCoupling.forward, Gaussianize.forward, Bend.forward
"""
CHECKS = ["affine_log_density", "blocks = [", "coupling_log_det", "noise_variance", "model = RealNVP("]
CHECKS += ["times_transformed", "flow_log_det", "pixels_off"]


def run_cell(flow, part):
    (cell,) = [source(cell) for cell in code_cells("RealNVP.ipynb") if part in source(cell)]
    exec(cell, flow.namespace)


@pytest.mark.parametrize("pairs", [1, 2, 3, 4, 5])
def test_the_notebooks_checks_pass_with_any_number_of_pairs(flow, pairs, capsys):
    exec(SETUP, flow.namespace)
    flow.namespace["PAIRS"] = pairs
    for part in CHECKS:
        run_cell(flow, part)
    checks = flow.namespace["results"]["checks"]
    assert len(checks) == len({row["name"] for row in checks}) == 10
    assert all(set(row) == {"name", "unit", "expected", "measured", "tolerance"} for row in checks)


NO_FLIP = "Flip.forward = lambda _, x: (x, x.new_zeros(len(x))); Flip.inverse = lambda _, y: y"
ROLL = "Flip.forward = lambda _, x: (x.roll(x.shape[1] // 2, 1), x.new_zeros(len(x)))"
NO_INVERSE = "AffineCoupling.inverse = lambda _, y: forward(_, y)[0]"
BROKEN = [  # what is wrong, the check that must see it, the code that makes it so
    ("no derivative in 3a", "affine_log_density", "log_affine = lambda x: log_standard_normal((x - 3) / 1.5)"),
    ("pack mixes rows", "blocks = [", "pack = lambda half: half.reshape(-1, 2, 14, 14)"),
    ("unpack is not pack's inverse", "blocks = [", "unpack = lambda blocks: blocks.flatten(1)"),
    ("colour 1 in order", "blocks = [", "checkerboard = lambda: torch.cat([(o := checker())[:392], o[392:].flip(0)])"),
    ("no checkerboard", "blocks = [", "checkerboard = lambda: torch.arange(784)"),
    ("a flip that does nothing", "coupling_log_det", NO_FLIP),
    ("a flip that is another permutation", "coupling_log_det", ROLL),
    ("wrong sign", "coupling_log_det", "AffineCoupling.forward = lambda _, x: ((r := forward(_, x))[0], -r[1])"),
    ("a mean", "coupling_log_det", "AffineCoupling.forward = lambda _, x: ((r := forward(_, x))[0], r[1] / 10)"),
    ("x_a changed", "coupling_log_det", "AffineCoupling.forward = lambda _, x: ((r := forward(_, x))[0] + 1, r[1])"),
    ("an inverse that is none", "coupling_log_det", NO_INVERSE),
    ("half a bin", "noise_variance", "dequantize = lambda images, u: (images + u.double() / 2) / 256"),
    ("more than a bin", "noise_variance", "dequantize = lambda images, u: (images + 1.1 * u.double()) / 257"),
    ("not zero at the start", "times_transformed", "nn.init.zeros_ = nn.init.ones_"),
    ("a flip that does nothing, in the model", "times_transformed", NO_FLIP),
    ("no log-det", "flow_log_det", "Gaussianize.forward = lambda _, x: (gauss(_, x)[0], x.new_zeros(len(x)))"),
    ("no slope", "flow_log_det", "Bend.forward = lambda _, x: (bend(_, x)[0], x.new_zeros(len(x)))"),
    ("no inverse, in the model", "flow_log_det", NO_INVERSE),
    ("a grey level off", "pixels_off", "quantize = lambda x: (256 * x + 0.5).floor().to(torch.uint8)"),
    ("no flip on the way back", "pixels_off", "Flip.inverse = lambda _, y: y"),
]


@pytest.mark.parametrize("what, part, breakage", BROKEN, ids=[what for what, _, _ in BROKEN])
def test_the_notebooks_own_checks_fail_when_something_is_broken(flow, what, part, breakage, monkeypatch, capsys):
    monkeypatch.setattr(nn.init, "zeros_", nn.init.zeros_)  # put back afterwards
    exec(SETUP, flow.namespace)
    exec(breakage, flow.namespace)
    if CHECKS.index(part) > CHECKS.index("model = RealNVP("):
        run_cell(flow, "model = RealNVP(")
    if part == "pixels_off":
        randomize(flow.namespace["model"], 0.02)  # as training would
    with pytest.raises(AssertionError):
        run_cell(flow, part)


def test_the_table_of_parts_and_its_nats_in_logit_space(flow, capsys):
    """bits/dim = 8 - (LL_logit + J) / (D ln 2), J the mean of the logit's own log-det."""
    exec(SETUP, flow.namespace)
    run_cell(flow, '("no coupling", ')
    rows = {row["name"]: row for row in flow.namespace["results"]["parts"]}
    assert list(rows) == [
        "no coupling",
        "logit 1e-6, MLP",
        "default without Bend",
        "default with an MLP",
        "default with convolutions only",
        "default",
    ]
    assert [row["pairs"] for row in rows.values()] == [0, 4, 4, 4, 4, 4]
    assert [row["epochs"] for row in rows.values()] == [0, 1, 1, 1, 1, 1]
    p = 1e-6 + (1 - 2e-6) * flow.dequantize(flow.namespace["test_images"], flow.namespace["u_test"])
    j = (math.log(1 - 2e-6) - p.log() - (1 - p).log()).sum(1).mean().item()
    row = rows["logit 1e-6, MLP"]
    assert row["bits_per_dim"] == pytest.approx(8 - (row["logit_space_nats"] + j) / (784 * math.log(2)), rel=1e-9)
