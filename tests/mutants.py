"""Puts one known mistake at a time into a notebook, and says which test finds it.

    python tests/mutants.py          # all, two at a time: under two minutes
    python tests/mutants.py flip     # those with this word in their name

A mistake is code that runs after the notebook's definitions and replaces one of them,
by the names that the assignment gives; so it does not depend on how they are written.
Where it has to, an `Edit` changes the source of a function, a class, or a method
("Class.method"). The exit status is 1 where a mistake is found by no test, or an edit
no longer fits.
"""

import contextlib
import multiprocessing
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import nb  # noqa: E402


class Edit(NamedTuple):
    """Replaces what matches `pattern`, once, in the source of a definition."""

    name: str
    pattern: str
    replacement: str


VAE = {
    "v taken for the standard deviation": """
def sample_gaussian(m, v):
    return m + v * torch.randn_like(m)
""",
    "a sample without a gradient": """
def sample_gaussian(m, v):
    return torch.normal(m, v.sqrt()).detach() + 0 * (m + v)
""",
    "one noise for all latents": """
def sample_gaussian(m, v):
    return m + v.sqrt() * torch.randn_like(m[..., :1])
""",
    "log_normal: the constant once for all dimensions": """
def log_normal(x, m, v):
    rest = (v.log() + (x - m).square() / v).sum(-1)
    return -0.5 * (math.log(2 * math.pi) + rest)
""",
    "KL the other way round": """
right_kl = kl_normal
def kl_normal(qm, qv, pm, pv):
    return right_kl(pm, pv, qm, qv)
""",
    "KL without its -1": """
right_kl = kl_normal
def kl_normal(qm, qv, pm, pv):
    return right_kl(qm, qv, pm, pv) + 0.5 * qm.shape[-1]
""",
    "pixels averaged, not summed": """
right_log_bernoulli = log_bernoulli_with_logits
def log_bernoulli_with_logits(x, logits):
    return right_log_bernoulli(x, logits) / x.shape[-1]
""",
    "the log of a sigmoid": """
def log_bernoulli_with_logits(x, logits):
    p = torch.sigmoid(logits)
    return (x * p.log() + (1 - x) * (1 - p).log()).sum(-1)
""",
    "log_mean_exp overflows": """
def log_mean_exp(x, dim):
    return x.exp().mean(dim).log()
""",
    "duplicate interleaves the images": """
def duplicate(x, rep):
    return x.repeat_interleave(rep, dim=0)
""",
    "pixels 0..255 go through": Edit("VAE", r"x\.max\(\) > 1", "x.max() > 255"),
    "patches laid out column by column": Edit(
        "Patches", r"permute\(2, 0, 3, 1, 4\)", "permute(2, 1, 3, 0, 4)"
    ),
    "binarized by a threshold": """
def binarize(images, generator=None):
    return (images > 127).float()
""",
    "sample_x draws the likelier pixel": """
VAE.sample_x = lambda self, batch: self.sample_sigmoid(batch).round()
""",
    "the ELBO at the mean, not at a sample": """
def negative_elbo_bound(self, x):
    m, v = self.enc(x)
    kl = kl_normal(m, v, torch.zeros_like(m), torch.ones_like(v)).mean()
    rec = -self.log_likelihood(x, m).mean()
    return kl + rec, kl, rec
VAE.negative_elbo_bound = negative_elbo_bound
""",
    "the sign of the KL in the ELBO": """
right_elbo = VAE.negative_elbo_bound
def negative_elbo_bound(self, x):
    _, kl, rec = right_elbo(self, x)
    return rec - kl, kl, rec
VAE.negative_elbo_bound = negative_elbo_bound
""",
    "IWAE: the mean of the logs": """
def negative_iwae_bound(self, x, iw):
    _, kl, rec = self.negative_elbo_bound(x)
    return -self.log_weights(x, self.sample_z(x, iw)).mean(), kl, rec
VAE.negative_iwae_bound = negative_iwae_bound
""",
    "IWAE with the KL in closed form": """
def log_weights(self, x, z):
    m, v = self.enc(x)
    kl = kl_normal(m, v, torch.zeros_like(m), torch.ones_like(v))
    return self.log_likelihood(x, z) - kl
VAE.log_weights = log_weights
""",
    "IWAE: images' samples mixed up": """
def sample_z(self, x, iw):
    m, v = self.enc(x)
    z = sample_gaussian(m.repeat_interleave(iw, 0), v.repeat_interleave(iw, 0))
    return z.reshape(iw, len(x), self.z_dim)
VAE.sample_z = sample_z
""",
    "the mean of the parts' means": """
def evaluate(model, x, part=2000):
    terms = [torch.stack(model.negative_elbo_bound(some)) for some in x.split(part)]
    return dict(zip(("nelbo", "kl", "rec"), torch.stack(terms).mean(0).tolist()))
""",
    "the mirror image of z about 0": Edit("mirrored_loss", r"2 \* m - z", "-z"),
    "free bits of the sum": """
def free_bits_loss(model, x):
    m, v = model.enc(x)
    kl = kl_by_latent(m, v).sum().clamp(min=FREE_BITS)
    return kl - model.log_likelihood(x, sample_gaussian(m, v)).mean()
""",
    "a pixel that sees itself": """
AutoregressiveVAE.logits = (
    lambda self, x, z: self.dec(z) + (x - self.x_mean) @ self.A.triu(0)
)
""",
    "gradients that add up": Edit("train", r"optimizer\.zero_grad\(\)", "None"),
    "training images binarized once": Edit(
        "train", r"binarize\(images\[index\]\)", "(images[index] > 101).float()"
    ),
    "a loss that is not finite goes on": Edit(
        "train", "nonfinite=True", "nonfinite=False"
    ),
    "a stop by hand is not measured": Edit(
        "train",
        r"(suppress\(KeyboardInterrupt\):\n\s+)history\.append.*",
        r"\1pass",
    ),
    "held-out images are trained on": Edit("split", r"\[:-10_000\]", "[:]"),
    "the test images binarized without a seed": Edit(
        "binarize_once", r", torch\.Generator\(\)\.manual_seed\(SEED\)", ""
    ),
    "half of the binarization's entropy": Edit(
        "binarization_entropy", r" \+ torch\.special\.entr\(1 - p\)", ""
    ),
    "the mean image at one end only": Edit(
        "VAE", r" \+ torch\.logit\(self\.x_mean, eps=1e-5\)", ""
    ),
    "networks that are handed in are not used": Edit("VAE", "encoder or ", ""),
    "a block that replaces what comes in": Edit(
        "ResidualNet", r"h = h \+ self\.block1", "h = self.block1"
    ),
    "a rate that does not fall": """
right_share = share_of_peak
def share_of_peak(step, steps):
    return right_share(min(step, WARM_UP_SHARE * steps), steps)
""",
    "2e: all samples of a repeat, whatever m": Edit(
        "iwae_estimates", r"log_w\[:, :m\]", "log_w"
    ),
    "2e: repeats of m samples": Edit(
        "iwae_bounds", r"log_w, m, max\(iwae_m\)", "log_w, m, m"
    ),
    "-log p(x) from one repeat": Edit(
        "iwae_bounds",
        r"-log_mean_exp\(log_w, dim=0\)",
        "-log_mean_exp(log_w[: max(iwae_m)], dim=0)",
    ),
    "the grid without the prior": Edit("log_joint", r"log_p_z\[:, None\] \+ ", ""),
}
FLOW = {
    "3a: the derivative upside down": """
right_affine = log_affine
def log_affine(x):
    return right_affine(x) + 2 * math.log(1.5)
""",
    "a normal's constant once for all dimensions": """
def log_standard_normal(z):
    return -0.5 * (z.square().sum(-1) + math.log(2 * math.pi))
""",
    "the coupling's log-det with the wrong sign": """
right_forward = AffineCoupling.forward
def forward(self, x):
    y, log_det = right_forward(self, x)
    return y, -log_det
AffineCoupling.forward = forward
""",
    "the coupling's log-det averaged": """
right_forward = AffineCoupling.forward
def forward(self, x):
    y, log_det = right_forward(self, x)
    return y, log_det / (x.shape[1] // 2)
AffineCoupling.forward = forward
""",
    "a wrong factor in both directions": """
def forward(self, x):
    x_a, x_b = x.chunk(2, dim=1)
    s, t = self.net(x_a)
    return torch.cat([x_a, (2 * s).exp() * x_b + t], dim=1), s.sum(1)
def inverse(self, y):
    y_a, y_b = y.chunk(2, dim=1)
    s, t = self.net(y_a)
    return torch.cat([y_a, (y_b - t) * (-2 * s).exp()], dim=1)
AffineCoupling.forward, AffineCoupling.inverse = forward, inverse
""",
    "a flip that does nothing": """
Flip.forward = lambda self, x: (x, x.new_zeros(len(x)))
Flip.inverse = lambda self, y: y
""",
    "a flip that keeps the order in the halves": """
Flip.forward = lambda self, x: (x.roll(x.shape[1] // 2, 1), x.new_zeros(len(x)))
Flip.inverse = lambda self, y: y.roll(y.shape[1] // 2, 1)
""",
    "noise that fills half of a bin": """
def dequantize(images, u):
    return (images + u.double() / 2) / 256
""",
    "255 for 256": """
def dequantize(images, u):
    return (images + u.double()) / 255
""",
    "one noise for all pixels of an image": Edit(
        "RealNVP",
        r"torch\.rand\(images\.shape",
        "torch.rand(len(images), 1).expand(images.shape) + torch.zeros(images.shape",
    ),
    "log p without the log-det": Edit("RealNVP", r"\+ log_det", ""),
    "bits/dim without log 256": Edit("RealNVP", r"- self\.dim \* math\.log\(256\)", ""),
    "nats/dim for bits/dim": """
right_bits = RealNVP.bits_per_dim
RealNVP.bits_per_dim = lambda self, images, u=None: (
    right_bits(self, images, u) * math.log(2)
)
""",
    "couplings without flips": Edit(
        "RealNVP", r"\[AffineCoupling\(net\), Flip\(\)\]", "[AffineCoupling(net)]"
    ),
    "images in [0, 1] go through": Edit(
        "dequantize", r"images\.dtype != torch\.uint8 or", ""
    ),
    "larger images go through": Edit("Permute", r"x\.shape\[1:\] != self.*:", "False:"),
    "the worst image is the best": Edit("measure", r"nats\.max\(\)", "nats.min()"),
    "the mean of the logs for the log-mean": Edit(
        "likelihood",
        r"torch\.logsumexp\(-nats, dim=0\) - math\.log\(draws\)",
        "-nats.mean(0)",
    ),
    "one draw of the noise for all": Edit(
        "likelihood",
        r"for _ in range\(draws\):\n(\s+)(u = .*)",
        r"u = torch.rand(images.shape)\n    for _ in range(draws):\n\1pass",
    ),
    "held-out images trained on": Edit(
        "split", r"train_images\[:-10_000\]", "train_images"
    ),
    "a rate that does not come down": Edit(
        "share_of_peak", r"0\.5 \* math\.cos\(.*\)", "0.5"
    ),
    "the logit's log-det without its shrinking": """
right_logit = Logit.forward
def forward(self, x):
    y, log_det = right_logit(self, x)
    return y, log_det - x.shape[1] * math.log(1 - 2 * self.alpha)
Logit.forward = forward
""",
    "Gaussianize: the log-det without the normal density": """
right_gaussianize = Gaussianize.forward
def forward(self, x):
    y, log_det = right_gaussianize(self, x)
    return y, log_det + log_standard_normal(y)
Gaussianize.forward = forward
""",
    "Gaussianize: histograms without smoothing": """
right_histograms = smoothed_histograms
def smoothed_histograms(images, strength):
    return right_histograms(images, 1e-9)
""",
    "Stretch: a slope without its steepness": Edit(
        "Stretch", r"\+ a \* c \* \(1", "+ a * (1"
    ),
    "Stretch: an inverse that stops early": Edit(
        "Stretch", r"range\(40\)", "range(14)"
    ),
    "Stretch: where ink ends, not zeros": Edit(
        "stretched_pixels", r"gaussianize\.p\[:, 0\]", "1 - gaussianize.p[:, 255]"
    ),
    "no checkerboard": """
def checkerboard(side=28):
    return torch.arange(side * side)
""",
    "halves packed to the wrong cells": """
def pack(half):
    side = math.isqrt(2 * half.shape[1])
    return half.reshape(-1, 2, side // 2, side // 2)
def from_grid(image, cell):
    return F.pixel_shuffle(image, cell // 2).flatten(1)
""",
    "the flipped half unpacked like the unflipped": Edit(
        "Convolutional", r"s\.flip\(1\)\), t\.flip\(1\)", "s), t"
    ),
    "a block that forgets a nonlinearity": Edit(
        "Residual", r"self\.first\(F\.silu\(h\)\)", "self.first(h)"
    ),
    "one block, however many are asked for": Edit(
        "Convolutional", r"range\(blocks\)", "range(1)"
    ),
    "blocks in the last pair, too": Edit(
        "image_nets", r"if pair < PAIRS - 1 else 0", ""
    ),
    "a plan without its norm": Edit("dense_plan", r"nn\.LayerNorm\(units\),\n", "\n"),
    "a plan that nobody follows": Edit(
        "Convolutional", r"h \+ F\.interpolate\(.*\)", "h"
    ),
    "the plan laid out as tiles": Edit(
        "Convolutional",
        r"F\.interpolate\(self\.plan\(x_a\), h\.shape\[2:\]\)",
        "self.plan(x_a).repeat(1, 1, h.shape[2] // 7, h.shape[3] // 7)",
    ),
    "s without a bound": """
def bounded(s):
    return s
""",
    "networks that do not start at the identity": """
def starts_at_zero(layer):
    return layer
""",
    "one network for all pairs": """
right_nets = image_nets
def image_nets(with_plan):
    return right_nets(with_plan)[:1] * PAIRS
""",
    "gradients that add up": Edit("train", r"optimizer\.zero_grad\(\)", "None"),
    "a loss that is not finite goes on": Edit(
        "train", "error_if_nonfinite=True", "error_if_nonfinite=False"
    ),
}
MISTAKES = {"VAE.ipynb": VAE, "RealNVP.ipynb": FLOW}
TESTS = {"VAE.ipynb": "tests/test_vae.py", "RealNVP.ipynb": "tests/test_realnvp.py"}
definitions = nb.load_script("build").definitions


def edited(name, edit):
    """Returns the source of a definition of the notebook `name`, edited."""
    for text in nb.code_cells(name):
        for found, source in definitions(text):
            if found == edit.name:
                source, count = re.subn(edit.pattern, edit.replacement, source)
                if count != 1:
                    raise ValueError(f"{edit.pattern} is there {count} times")
                return source
    raise ValueError(f"there is no definition {edit.name}")


def put_in(namespace, name, mistake):
    """Puts a mistake into a notebook's definitions."""
    if isinstance(mistake, str):
        exec(mistake, namespace)
        return
    source = edited(name, mistake)
    owner, _, own = mistake.name.rpartition(".")
    if owner and "super()" in source:
        raise ValueError(f"{mistake.name} uses super(): edit {owner}")
    old = namespace.get(own)
    exec(source, namespace)
    new = namespace[own]
    if owner:
        setattr(namespace[owner], own, new)
    for value in list(namespace.values()):
        # functions that a class was given, here by another cell
        if isinstance(value, type) and vars(value).get(own) is old is not None:
            setattr(value, own, new)
    if isinstance(new, type):
        for key in vars(old).keys() - vars(new).keys():
            setattr(new, key, vars(old)[key])


class FirstFailure:
    """A plugin of pytest: remembers the first test that fails."""

    test = None

    def pytest_runtest_logreport(self, report):
        if report.failed and self.test is None:
            self.test = report.nodeid.partition("::")[2]


def find(job):
    """Returns the first test that fails with a mistake (None: without), and whether."""
    name, what = job
    right_load = nb.load

    def load(loaded):
        module = right_load(loaded)
        if loaded == name and what is not None:
            put_in(vars(module), name, MISTAKES[name][what])
        return module

    nb.load = load
    first = FirstFailure()
    options = ["-x", "-q", "--tb=no", "-p", "no:cacheprovider", TESTS[name]]
    try:
        load(name)
    except ValueError as error:
        return f"DOES NOT FIT: {error}", False
    # nobody reads what the tests print
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        pytest.main(options, plugins=[first])
    return first.test or "FOUND BY NO TEST", first.test is not None


def main(word=""):
    os.chdir(nb.ROOT)
    jobs = []
    for name, mistakes in MISTAKES.items():
        # imports what the notebooks import: the processes below have it then
        nb.load(name)
        jobs += [(name, what) for what in [None, *mistakes] if word in (what or word)]
    total = len(jobs) - len(MISTAKES)
    bad = 0
    # a process for each: a mistake leaves nothing behind
    with multiprocessing.Pool(max(2, os.cpu_count()), maxtasksperchild=1) as pool:
        for (name, what), (said, found) in zip(jobs, pool.imap(find, jobs)):
            if what is not None:
                bad += not found
                print(f"{name:<13}  {what:<52}  {said}", flush=True)
            elif found:
                sys.exit(f"{name} as it is fails {said}")
    print(f"{total - bad} of {total} mistakes found")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
