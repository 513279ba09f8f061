"""Writes known mistakes into the notebooks, one at a time, and says which test finds each, and after how long.

    python tests/mutants.py [word]    all of them, or those whose name holds `word`

Exits 1 if a mistake is not found, or if the text that it replaces is not in the notebook exactly once.
Not part of the test command: it takes some five minutes, on Linux or macOS.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import hypothesis  # noqa: F401  imported once, before the process is copied for each mistake
import matplotlib.pyplot  # noqa: F401
import pytest
import torch
import torchvision  # noqa: F401
import zuko  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]
DATA_TESTS = [
    "test_missing_or_damaged_data_is_named_with_its_md5_and_folder",
    "test_intact_data_that_cannot_be_used_is_not_called_damaged",
]
TESTS = {  # what may find a mistake, in this order
    "VAE.ipynb": ["test_vae.py", "test_references.py", "test_properties.py"]
    + [
        f"test_notebooks.py::{test}"
        for test in ("test_the_hash_is_of_what_the_code_does", *DATA_TESTS)
    ],
    "RealNVP.ipynb": ["test_realnvp.py", "test_references.py", "test_properties.py"],
}
# fmt: off
# ruff: noqa: E501
MISTAKES = {  # name: (old text, new text), in the notebook's source
    "VAE.ipynb": {
        "the variance used as a standard deviation": ("return m + v.sqrt() * torch.randn_like(m)", "return m + v * torch.randn_like(m)"),
        "a sample without gradient": ("return m + v.sqrt() * torch.randn_like(m)", "return (m + v.sqrt() * torch.randn_like(m)).detach()"),
        "a sample without gradient in the variance": ("return m + v.sqrt() * torch.randn_like(m)", "return m + v.detach().sqrt() * torch.randn_like(m)"),
        "one noise for all latents": ("return m + v.sqrt() * torch.randn_like(m)", "return m + v.sqrt() * torch.randn_like(m[..., :1])"),
        "uniform noise of unit variance": ("return m + v.sqrt() * torch.randn_like(m)", "return m + v.sqrt() * (12**0.5 * (torch.rand_like(m) - 0.5))"),
        "a negative variance let through": (" and v.min() >= 0)", ")"),
        "KL with the wrong sign": ("return 0.5 * (pv.log() - qv.log() +", "return -0.5 * (pv.log() - qv.log() +"),
        "KL without its half": ("return 0.5 * (pv.log() - qv.log() +", "return (pv.log() - qv.log() +"),
        "KL of p to q": ("(qv + (qm - pm).square()) / pv - 1)", "(pv + (qm - pm).square()) / qv - 1)"),
        "KL with the logarithms exchanged": ("(pv.log() - qv.log() +", "(qv.log() - pv.log() +"),
        "KL averaged over latents": ("/ pv - 1).sum(-1)", "/ pv - 1).mean(-1)"),
        "KL to N(0, 1) whatever p is": ("(qv + (qm - pm).square()) / pv - 1)", "(qv + qm.square()) / pv - 1)"),
        "cross entropy averaged over pixels": ("(x * logits - F.softplus(logits)).sum(-1)", "(x * logits - F.softplus(logits)).mean(-1)"),
        "log-likelihood subtracted after the sums": ("(x * logits - F.softplus(logits)).sum(-1)", "(x * logits).sum(-1) - F.softplus(logits).sum(-1)"),
        "the logarithm of a rounded sigmoid": ("(x * logits - F.softplus(logits)).sum(-1)", "(x * torch.sigmoid(logits).log() + (1 - x) * (1 - torch.sigmoid(logits)).log()).sum(-1)"),
        "ink and paper exchanged": ("(x * logits - F.softplus(logits)).sum(-1)", "((1 - x) * logits - F.softplus(logits)).sum(-1)"),
        "pixels outside [0, 1] let through": ('    check_values("pixels", x, 0, 1)\n    return', "    return"),
        "a normal's constant counted once for all dimensions": ("(math.log(2 * math.pi) + v.log() +", "(math.log(2 * math.pi) / v.shape[-1] + v.log() +"),
        "a normal's constant counted D times too often": ("(math.log(2 * math.pi) + v.log() +", "(v.shape[-1] * math.log(2 * math.pi) + v.log() +"),
        "a normal without the logarithm of its variance": ("(math.log(2 * math.pi) + v.log() +", "(math.log(2 * math.pi) +"),
        "a normal's variance squared": ("v.log() + (x - m).square() / v)", "2 * v.log() + (x - m).square() / v.square())"),
        "mean of the exponentials, unstable": ("return torch.logsumexp(x, dim) - math.log(x.shape[dim])", "return x.exp().mean(dim).log()"),
        "log-sum-exp for log-mean-exp": ("return torch.logsumexp(x, dim) - math.log(x.shape[dim])", "return torch.logsumexp(x, dim)"),
        "mean of the logs in log_mean_exp": ("return torch.logsumexp(x, dim) - math.log(x.shape[dim])", "return x.mean(dim)"),
        "duplicate image by image": ("return x.repeat(rep, *[1] * (x.dim() - 1))", "return x.repeat_interleave(rep, 0)"),
        "ELBO: reconstruction from the mean code": ("rec = -self.log_likelihood(x, sample_gaussian(m, v)).mean()", "rec = -self.log_likelihood(x, m).mean()"),
        "ELBO: KL summed over the batch": ("torch.zeros_like(m), torch.ones_like(v)).mean()\n    rec", "torch.zeros_like(m), torch.ones_like(v)).sum()\n    rec"),
        "ELBO: KL subtracted": ("return kl + rec, kl, rec", "return rec - kl, kl, rec"),
        "ELBO: a prior of variance 2": ("torch.zeros_like(m), torch.ones_like(v)).mean()\n    rec", "torch.zeros_like(m), 2 * torch.ones_like(v)).mean()\n    rec"),
        "ELBO: kl and rec exchanged": ("return kl + rec, kl, rec", "return kl + rec, rec, kl"),
        "IWAE: the mean of the logs": ("niwae = [-log_mean_exp(self.log_weights(part, self.sample_z(part, iw)), dim=0)", "niwae = [-self.log_weights(part, self.sample_z(part, iw)).mean(0)"),
        "IWAE: the mean over images, not samples": ("self.sample_z(part, iw)), dim=0)", "self.sample_z(part, iw)), dim=1)"),
        "IWAE: the mean of parts' means": ("return torch.cat(niwae).mean(), kl, rec", "return torch.stack([n.mean() for n in niwae]).mean(), kl, rec"),
        "IWAE: samples mixed up between images": (".reshape(iw, *m.shape)", ".reshape(len(m), iw, -1).transpose(0, 1)"),
        "IWAE: weights without the prior": ("return log_p_z + self.log_likelihood(x, z)", "return self.log_likelihood(x, z)"),
        "IWAE: weights without q": (" - log_normal(z, m, v)", ""),
        "IWAE: weights with q added": (" - log_normal(z, m, v)", " + log_normal(z, m, v)"),
        "IWAE: one image's likelihood for all": ("self.log_likelihood(x, z) - log_normal", "self.log_likelihood(x[:1], z) - log_normal"),
        "IWAE: one sample less": ("self.log_weights(part, self.sample_z(part, iw))", "self.log_weights(part, self.sample_z(part, iw))[: max(1, iw - 1)]"),
        "no gradient through the encoder in log_weights": ("    m, v = self.enc(x)  # (batch, z_dim), broadcast", "    m, v = (t.detach() for t in self.enc(x))  # (batch, z_dim), broadcast"),
        "training: the mirror image of z about 0": ("torch.stack([z, 2 * m - z])", "torch.stack([z, -z])"),
        "training: one sample twice": ("torch.stack([z, 2 * m - z])", "torch.stack([z, z])"),
        "free bits for each image": ("torch.ones_like(v)).mean(0)\n    return kl.clamp(min=free_bits).sum()", "torch.ones_like(v))\n    return kl.clamp(min=free_bits).mean(0).sum()"),
        "free bits for all dimensions together": ("return kl.clamp(min=free_bits).sum() + rec", "return kl.sum().clamp(min=free_bits) + rec"),
        "evaluate: the mean of batch means": ("[len(part) * torch.stack(model.negative_elbo_bound(part)) for part in x.split(2000)])", "[len(x) * torch.stack(model.negative_elbo_bound(part)) for part in x.split(2000)]).mean(0, True)"),
        "repeats: the first samples of all repeats": ("-log_mean_exp(log_w[:, :iw], dim=1)", "-log_mean_exp(log_w[:1, :iw].expand(repeats, -1, -1), dim=1)"),
        "repeats: all samples for every m": ("-log_mean_exp(log_w[:, :iw], dim=1)", "-log_mean_exp(log_w, dim=1)"),
        "repeats: -log p(x) from one repeat": ("nll.append(-log_mean_exp(log_w.flatten(0, 1), dim=0))", "nll.append(-log_mean_exp(log_w[0], dim=0))"),
        "repeats: -log p(x) as a mean over repeats": ("nll.append(-log_mean_exp(log_w.flatten(0, 1), dim=0))", "nll.append(-log_mean_exp(log_w, dim=1).mean(0))"),
        "quadrature without the area of a cell": ("    return total + 2 * math.log(2 * half_width / (points - 1))", "    return total"),
        "quadrature without the prior": ("log_p_x + log_normal(z, 0 * z, 0 * z + 1)", "log_p_x"),
        "the variance is its own softplus input": ("return m, F.softplus(h) + 1e-6", "return m, h"),
        "the variance is exp of half": ("return m, F.softplus(h) + 1e-6", "return m, F.softplus(h).sqrt() * 0"),
        "the decoder does not start at the mean image": ("        self.decoder.last.bias.data.copy_(self.logit_mean[self.drawn])\n", ""),
        "the margin's likelihood left out": ("        return drawn + log_bernoulli_with_logits(x[..., self.blank], self.logit_mean[self.blank])", "        return drawn"),
        "drawn pixels in the order of their ink": ("by_ink[:n_drawn].sort().values", "by_ink[:n_drawn].sort().values.flip(0)"),
        "logits returned as samples' probabilities": ("return torch.sigmoid(self.dec(torch.randn", "return (self.dec(torch.randn"),
        "samples rounded, not drawn": ("return torch.bernoulli(self.sample_sigmoid(batch))", "return self.sample_sigmoid(batch).round()"),
        "samples all from z = 0": ("self.dec(torch.randn(batch, self.z_dim", "self.dec(torch.zeros(batch, self.z_dim"),
        "binarized at a threshold": ("(255 * torch.rand(images.shape, generator=generator, device=images.device) < images)", "(127 < images)"),
        "binarized with 256 levels": ("(255 * torch.rand(images.shape", "(256 * torch.rand(images.shape"),
        "a pixel sees itself": ("self.A.triu(1)", "self.A.triu(0)"),
        "a pixel sees those after it": ("self.A.triu(1)", "self.A.tril(-1)"),
        "biases decay": ("WEIGHT_DECAY if p.dim() > 1 else 0.0", "WEIGHT_DECAY"),
        "one learning rate for all layers": ('"lr": LR * share', '"lr": LR'),
        "the learning rate never falls": ("return 0.5 + 0.5 * math.cos(math.pi * (done - peak) / (1 - peak))", "return 1.0"),
        "one binarization for all epochs": ("value = loss(model, binarize(images[index]))", "value = loss(model, (images[index] > 127).float())"),
        "a loss that is not finite goes on": ("if not torch.isfinite(value + norm):", "if False:"),
        "the stop button throws the history away": ("as bar, suppress(KeyboardInterrupt):", "as bar:"),
        "no row at epoch 0": ("epochs * math.ceil(len(images) / BATCH), [row(0)]", "epochs * math.ceil(len(images) / BATCH), []"),
        "the gap averaged over the wrong axis": ("mean, by_image = gap.mean(1), gap.mean(0)", "mean, by_image = gap.mean(0), gap.mean(1)"),
        "active units by the variance of one image": ("(m.var(0) > 0.01)", "(m.var(1) > 0.01)"),
        "any error called damage": ("    if wanted:\n", "    if wanted or error:\n"),
        "the cause of missing data kept to itself": ('the same names without .gz there.") from error', 'the same names without .gz there.") from None'),
        "comments count in the hash": ("            trees.append(plain(ast.parse(source)))", "            trees.append(source)"),
    },
    "RealNVP.ipynb": {
        "a normal's constant counted once for all dimensions": ("(z.square() + math.log(2 * math.pi)).sum(-1)", "(z.square().sum(-1) + math.log(2 * math.pi))"),
        "a normal's constant counted D times too often": ("(z.square() + math.log(2 * math.pi))", "(z.square() + z.shape[-1] * math.log(2 * math.pi))"),
        "3a: the derivative upside down": ("+ math.log(1 / 1.5)", "+ math.log(1.5)"),
        "3a: 1.5 taken for the variance": ("    z = (x - 3) / 1.5\n", "    z = (x - 3) / 1.5**0.5\n"),
        "the checkerboard's second half not reversed": ("i[colour == 1].flip(0)", "i[colour == 1]"),
        "upper and lower half for a checkerboard": ("colour = (i // side + i % side) % 2", "colour = i * 2 // side**2"),
        "rows for a checkerboard": ("colour = (i // side + i % side) % 2", "colour = i // side % 2"),
        "halves packed to the wrong cell": ("half.reshape(-1, side // 2, 2, side // 2).transpose(1, 2)", "half.reshape(-1, 2, side // 2, side // 2)"),
        "halves packed upside down": ("half.reshape(-1, side // 2, 2, side // 2).transpose(1, 2)", "half.reshape(-1, side // 2, 2, side // 2).transpose(1, 2).flip(2)"),
        "halves unpacked as if they were rows": ("return blocks.transpose(1, 2).flatten(1)", "return blocks.flatten(1)"),
        "the flipped half packed like the unflipped": ("(unpack(part).flip(1) * a + b", "(unpack(part) * a + b"),
        "s and t of x_b": ("s, t = self.net(x_a)\n        return torch.cat([x_a, s.exp()", "s, t = self.net(x_b)\n        return torch.cat([x_a, s.exp()"),
        "the coupling's log-det with the wrong sign": ("s.exp() * x_b + t], dim=1), s.sum(1)", "s.exp() * x_b + t], dim=1), -s.sum(1)"),
        "the coupling's log-det averaged": ("s.exp() * x_b + t], dim=1), s.sum(1)", "s.exp() * x_b + t], dim=1), s.mean(1)"),
        "the coupling's log-det of exp(s)": ("s.exp() * x_b + t], dim=1), s.sum(1)", "s.exp() * x_b + t], dim=1), s.exp().sum(1)"),
        "a wrong factor in both directions": ("s.exp() * x_b + t], dim=1)", "(2 * s).exp() * x_b + t], dim=1)", "(y_b - t) / s.exp()", "(y_b - t) / (2 * s).exp()"),
        "t added before the scale, in both directions": ("s.exp() * x_b + t], dim=1)", "s.exp() * (x_b + t)], dim=1)", "(y_b - t) / s.exp()", "y_b / s.exp() - t"),
        "the inverse shifts after it scales": ("(y_b - t) / s.exp()", "y_b / s.exp() - t"),
        "the first half transformed, too": ("return torch.cat([x_a, s.exp() * x_b + t]", "return torch.cat([2 * x_a, s.exp() * x_b + t]"),
        "the halves exchanged in the coupling": ("        return x.chunk(2, dim=1)", "        return x.chunk(2, dim=1)[::-1]"),
        "odd sizes let through": ("if x.dim() != 2 or x.shape[1] % 2:", "if x.dim() != 2:"),
        "a flip that does nothing": ("return x.flip(1), x.new_zeros(len(x))", "return x, x.new_zeros(len(x))", "return y.flip(1)", "return y"),
        "a flip that keeps the order within the halves": ("return x.flip(1), x.new_zeros(len(x))", "return x.roll(x.shape[1] // 2, 1), x.new_zeros(len(x))", "return y.flip(1)", "return y.roll(y.shape[1] // 2, 1)"),
        "a flip of the batch": ("return x.flip(1), x.new_zeros(len(x))", "return x.flip(0), x.new_zeros(len(x))"),
        "a flip that does not come back": ("return y.flip(1)", "return y"),
        "noise that fills half of a bin": ("return (images + u.double()) / 256", "return (images + u.double() / 2) / 256"),
        "255 for 256": ("return (images + u.double()) / 256", "return (images + u.double()) / 255"),
        "no noise": ("return (images + u.double()) / 256", "return (images + 0.5 + 0 * u.double()) / 256"),
        "float32 where the inverse needs its digits": ("return (images + u.double()) / 256", "return ((images + u) / 256).float()"),
        "grey levels rounded": ("return (256 * x).floor()", "return (256 * x).round()"),
        "Gaussianize: log-det with the wrong sign": ("return y, (256 * p).log().sum(1) - log_standard_normal(y)", "return y, log_standard_normal(y) - (256 * p).log().sum(1)"),
        "Gaussianize: without the width of a bin": ("return y, (256 * p).log().sum(1) - log_standard_normal(y)", "return y, p.log().sum(1) - log_standard_normal(y)"),
        "Gaussianize: without the normal density": ("return y, (256 * p).log().sum(1) - log_standard_normal(y)", "return y, (256 * p).log().sum(1)"),
        "Gaussianize: no smoothing": ("        count += strength * prior / prior.sum()\n", ""),
        "Gaussianize: a prior of grey levels alone": ("        prior[0] += 1\n", ""),
        "Gaussianize: tables in float32": ("images.cpu().long().T]).double()", "images.cpu().long().T]).float()"),
        "Gaussianize: one bin too far": ("self.upto.gather(1, k.T).T - p", "self.upto.gather(1, k.T).T"),
        "Gaussianize: infinite at a bin's edge": ("(256 * x - k).clamp(1e-6, 1 - 1e-6)", "(256 * x - k)"),
        "Bend: a slope without its steepness": ("slope + a * c * (1 - h.square())", "slope + a * (1 - h.square())"),
        "Bend: a slope of tanh that is not its derivative": ("slope + a * c * (1 - h.square())", "slope + a * c * (1 - h)"),
        "Bend: heights that may be negative": ("zip(F.softplus(self.raw_a), self.b", "zip(self.raw_a, self.b"),
        "Bend: an inverse that stops early": ("for _ in range(40):", "for _ in range(14):"),
        "Bend: log-det averaged over pixels": ("return y, slope.log().sum(1)", "return y, slope.log().mean(1)"),
        "s without bounds": ("zip(h, self.scale, self.shift))\n        return 3 * torch.tanh(s / 3), t", "zip(h, self.scale, self.shift))\n        return s, t"),
        "s and t from one output": ("zip(h, self.scale, self.shift))\n        return 3 * torch.tanh(s / 3), t", "zip(h, self.scale, self.shift))\n        return 3 * torch.tanh(s / 3), s"),
        "t within 3, like s": ("zip(h, self.scale, self.shift))\n        return 3 * torch.tanh(s / 3), t", "zip(h, self.scale, self.shift))\n        return 3 * torch.tanh(s / 3), 3 * torch.tanh(t / 3)"),
        "pairs that are not the identity at the start": ("        nn.init.zeros_(self.last.weight)\n        nn.init.zeros_(self.last.bias)\n        self.scale", "        self.scale"),
        "one network for all pairs": ("[ScaleShift(*(fine if k < PAIRS / 2 else coarse)) for k in range(PAIRS)]", "[ScaleShift(*fine)] * PAIRS"),
        "three pairs": ("else coarse)) for k in range(PAIRS)]", "else coarse)) for k in range(PAIRS - 1)]"),
        "convolutions only, whatever is asked for": ("        if units:\n", "        if False:\n"),
        "a permutation that does not come back": ("return y[:, self.order.argsort()]", "return y[:, self.order]"),
        "flip before the coupling": ("for layer in (AffineCoupling(net), Flip())", "for layer in (Flip(), AffineCoupling(net))"),
        "couplings without flips": ("for layer in (AffineCoupling(net), Flip())", "for layer in (AffineCoupling(net),)"),
        "the log-det of the last layer alone": ("total = total + log_det", "total = log_det"),
        "the log-det of the couplings alone": ("total = total + log_det", "total = total + log_det * isinstance(layer, AffineCoupling)"),
        "the inverse in the order of the layers": ("for layer in reversed(self.layers):", "for layer in self.layers:"),
        "log p without the log-det": ("return log_standard_normal(z) + log_det - self.dim", "return log_standard_normal(z) - self.dim"),
        "log p with the log-det subtracted": ("return log_standard_normal(z) + log_det - self.dim", "return log_standard_normal(z) - log_det - self.dim"),
        "bits/dim without log 256": ("+ log_det - self.dim * math.log(256)", "+ log_det"),
        "bits/dim with log 256 for one pixel": ("+ log_det - self.dim * math.log(256)", "+ log_det - math.log(256)"),
        "nats/dim for bits/dim": ("-self.log_prob(images, u) / (self.dim * math.log(2))", "-self.log_prob(images, u) / self.dim"),
        "bits/dim of another number of pixels": ("-self.log_prob(images, u) / (self.dim * math.log(2))", "-self.log_prob(images, u) / (784 * math.log(2))"),
        "one noise for all pixels of an image": ("u = torch.rand(images.shape, device=images.device)", "u = torch.rand(len(images), 1, device=images.device).expand(images.shape)"),
        "normal noise": ("u = torch.rand(images.shape, device=images.device)", "u = (0.5 + 0.1 * torch.randn(images.shape, device=images.device)).clamp(0, 0.999)"),
        "the same noise for every call": ("u = torch.rand(images.shape, device=images.device)", "u = torch.rand(images.shape, device=images.device, generator=torch.Generator(images.device).manual_seed(0))"),
        "grey levels above 255 let through": ("(images >= 0) & (images <= 255) &", "(images >= 0) &"),
        "noise of 1 let through": ("((u >= 0) & (u < 1))", "((u >= 0) & (u <= 1))"),
        "the temperature taken for a variance": ("self.inverse(temperature * z)", "self.inverse(temperature**0.5 * z)"),
        "samples at temperature 1 always": ("self.inverse(temperature * z)", "self.inverse(z)"),
        "samples of uniform noise": ("z = torch.randn(n, self.dim, dtype", "z = torch.rand(n, self.dim, dtype"),
        "evaluate: the mean of batch means": ("nll = -torch.cat([model.log_prob(*batch) for", "nll = -torch.stack([model.log_prob(*batch).mean() for"),
        "biases decay": ('"params": [p for p in layers if p.dim() < 2], "lr": LR, "weight_decay": 0.0', '"params": [p for p in layers if p.dim() < 2], "lr": LR, "weight_decay": WEIGHT_DECAY'),
        "single pixels' parameters learn slowly": ('"lr": PIXEL_RATE * LR', '"lr": LR'),
        "single pixels' parameters decay": ('"lr": PIXEL_RATE * LR, "weight_decay": 0.0', '"lr": PIXEL_RATE * LR, "weight_decay": WEIGHT_DECAY'),
        "the learning rate never falls": ("return 0.5 + 0.5 * math.cos(math.pi * (done - peak) / (1 - peak))", "return 1.0"),
        "a loss that is not finite goes on": ("if not torch.isfinite(loss + norm):", "if False:"),
        "the stop button throws the history away": ("as bar, suppress(KeyboardInterrupt):", "as bar:"),
        "training on the same images in every step": (".split(BATCH), 1):", ".split(BATCH)[:1] * 99, 1):"),
        "Logit: log-det without the shrinking": ("(math.log(1 - 2 * self.alpha) - p.log()", "(-p.log()"),
        "Logit: log-det with the wrong sign": ("(math.log(1 - 2 * self.alpha) - p.log() - (-p).log1p())", "(p.log() + (-p).log1p() - math.log(1 - 2 * self.alpha))"),
        "Logit: an inverse that does not shrink": ("((y.sigmoid() - self.alpha) / (1 - 2 * self.alpha))", "y.sigmoid()"),
    },
}
# fmt: on


def mutate(name, *texts):
    """Returns the notebook with each old text replaced by the new one that follows it, or None.

    None: an old text is not in exactly one place of the code.
    """
    notebook = json.loads((ROOT / name).read_text("utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for cell in code:
        cell["source"], cell["outputs"] = "".join(cell["source"]), []
    for old, new in zip(texts[::2], texts[1::2], strict=True):
        if sum(cell["source"].count(old) for cell in code) != 1:
            return None
        for cell in code:
            cell["source"] = cell["source"].replace(old, new)
    return json.dumps(notebook, ensure_ascii=False)


def workplace(folder):
    """Fills `folder` with what the tests read: copies of the tests and notebooks, the rest linked."""
    shutil.copytree(
        ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in TESTS:
        shutil.copy(ROOT / name, folder)
    for name in ("data", "report", "theory.md", "README.md"):
        (folder / name).symlink_to(ROOT / name)


class FirstFailure:
    """A plugin of pytest that remembers the first test that failed, or that a KeyboardInterrupt went through."""

    found = running = None

    def pytest_runtest_logstart(self, nodeid):
        self.running = nodeid

    def pytest_keyboard_interrupt(self):
        self.found = self.running

    def pytest_runtest_logreport(self, report):
        if report.failed and not self.found:
            self.found = report.nodeid

    def pytest_collectreport(self, report):
        self.pytest_runtest_logreport(report)


def first_failure(folder, name):
    """Returns the first test that fails in `folder`, or None; in a process of its own, which has imported already."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.chdir(folder)
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1), os.dup2(nowhere.fileno(), 2)
        plugin = FirstFailure()
        options = [
            "-x",
            "-q",
            "--tb=no",
            "-p",
            "no:cacheprovider",
            f"--rootdir={folder}",
        ]
        code = pytest.main(
            options + [f"tests/{test}" for test in TESTS[name]], plugins=[plugin]
        )
        os.write(
            write,
            str(plugin.found or ("" if code == 0 else f"pytest: {code}")).encode(),
        )
        os._exit(0)
    os.close(write)
    with open(read, encoding="utf-8") as pipe:
        found = pipe.read()
    os.waitpid(child, 0)
    if found.startswith("pytest"):
        sys.exit(f"the tests did not run, {found}")
    return found.removeprefix("tests/") or None


def main(word=""):
    sys.dont_write_bytecode = True
    torch.set_num_threads(1)
    survived, total, start = [], 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        workplace(folder)
        for name, mistakes in MISTAKES.items():
            chosen = {
                mistake: texts for mistake, texts in mistakes.items() if word in mistake
            }
            if chosen and (failing := first_failure(folder, name)):
                sys.exit(f"{name} as it is fails {failing}")
            for mistake, texts in chosen.items():
                began, total = time.perf_counter(), total + 1
                text = mutate(name, *texts)
                if text:
                    (folder / name).write_text(text, encoding="utf-8")
                test = (
                    first_failure(folder, name)
                    if text
                    else "its text is not found, or more than once"
                )
                if not text or not test:
                    survived.append(mistake)
                print(
                    f"{time.perf_counter() - began:5.1f} s  {name:<13}  {mistake:<56}  {test or 'SURVIVED'}",
                    flush=True,
                )
            shutil.copy(ROOT / name, folder)
    print(
        f"{total - len(survived)} of {total} mistakes found in {time.perf_counter() - start:.0f} s"
    )
    sys.exit(1 if survived else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
