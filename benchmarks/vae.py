"""What the choices of VAE.ipynb cost and buy, measured.

python benchmarks/vae.py              cost and speed: two minutes on 2 cores
python benchmarks/vae.py --ablations  trains with one choice changed at a time, on
                                      held-out images: a quarter of an hour
"""

import contextlib
import os
import sys
import time
from pathlib import Path

import nb
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision import datasets, transforms

ROOT = Path(__file__).resolve().parents[1]

HELD_OUT = 10_000  # the last training images


def quiet(function, *args):
    """Returns function(*args), without its progress bar."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        return function(*args)


def seconds(function, repeats=3):
    """The best of `repeats` wall-clock times of function(), after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        quiet(function)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def flops(function):
    """Returns the floating-point operations of the matrix products in function()."""
    with FlopCounterMode(display=False) as counter:
        quiet(function)
    return counter.get_total_flops()


def matmul_rate(n=2048):
    """Returns the float32 matrix-product rate, FLOP/s, for matrices of n x n."""
    a = torch.randn(n, n)
    return 2 * n**3 / seconds(lambda: a @ a, repeats=10)


def reading(vae, images):
    """Prints how long an epoch's reading takes, two ways."""
    dataset = datasets.MNIST(
        ROOT / "data", train=False, transform=transforms.ToTensor()
    )
    loader = torch.utils.data.DataLoader(dataset, vae.BATCH, shuffle=True)

    def by_loader():
        for pixels, _ in loader:
            torch.bernoulli(pixels)

    def by_tensor():
        for index in torch.randperm(len(images)).split(vae.BATCH):
            vae.binarize(images[index])

    ratio = seconds(by_loader, repeats=1) / seconds(by_tensor)
    print(f"reading: DataLoader takes {ratio:.0f} times as long as one tensor")


def costs(vae):
    """Prints what the notebook's parts cost, in TFLOP, and how fast they run."""
    torch.manual_seed(0)
    images = vae.load_mnist(ROOT / "data", train=False)
    reading(vae, images)

    batch = vae.BATCH
    x = vae.binarize(images)
    model = vae.VAE(vae.Z_DIM, images.float().mean(0) / 255)
    rate = matmul_rate()
    print(f"matrix products: {rate / 1e9:.0f} GFLOP/s")

    def step(model, loss):
        model.zero_grad()
        loss(model, x[:batch]).backward()

    def ten_steps():
        for _ in range(10):
            step(model, vae.nelbo_loss)

    def part_e():
        # the first image of 2e: all its samples
        samples = vae.REPEATS * max(vae.IWAE_M)
        vae.draw_log_weights(model, x[:1], samples)

    def evaluation():
        vae.evaluate(model, x)

    n, n_test, epochs = vae.N_TRAIN, vae.N_TEST, vae.EPOCHS
    shares = n_test / len(x)
    small = vae.AutoregressiveVAE(vae.Z_DIM)
    ar_step = flops(lambda: step(small, vae.nelbo_loss)) / batch
    vae_step = flops(ten_steps) / 10 / batch
    # the 2-D model, two brief VAEs, and the autoregressive ones
    trainings = 3 * vae_step + 2 * vae.EXTRA_SEEDS * ar_step
    points = vae.GRID_POINTS**2 * 2  # two grids
    decoder = flops(lambda: model.dec(torch.zeros(1, vae.Z_DIM)))
    tightness = (points + 50 * vae.TIGHTNESS_SAMPLES) * decoder
    parts = {
        "training": n * epochs * vae_step,
        "curves": 2 * (epochs + 1) * shares * flops(evaluation),
        "part 2e": n_test * flops(part_e) + vae.REPEATS * shares * flops(evaluation),
        "extra": n * vae.EXTRA_EPOCHS * trainings + tightness,
    }
    for name, cost in parts.items():
        print(f"{name:<10}{cost / 1e12:>6.1f} TFLOP")
    print(f"{'total':<10}{sum(parts.values()) / 1e12:>6.1f} TFLOP")

    for name, function in (("training", ten_steps), ("part 2e", part_e)):
        spent = seconds(function)
        share = flops(function) / spent / rate
        print(f"{name}: {share:.0%} of the rate of matrix products")


class PlainNet(torch.nn.Module):
    """The notebook's ResidualNet without the paths around its blocks."""

    def __init__(self, n_in, width, n_out):
        super().__init__()
        self.first = torch.nn.Linear(n_in, width)
        self.block1 = torch.nn.Linear(width, width)
        self.block2 = torch.nn.Linear(width, width)
        self.last = torch.nn.Linear(width, n_out)

    def forward(self, x):
        h = F.silu(self.first(x))
        h = F.silu(self.block1(h))
        h = F.silu(self.block2(h))
        return self.last(h)


def one_sample(model, x):
    """The plainest loss: the negative ELBO by one sample of z."""
    return model.negative_elbo_bound(x)[0]


CHANGES = {  # what is said of it: what changes in the notebook's names
    "as it is": {},
    "one sample of z, not a pair": {"nelbo_loss": one_sample},
    "one learning rate, 5e-3": {"ENC_LR": 5e-3, "DEC_LR": 5e-3},
    "no weight decay": {"WEIGHT_DECAY": 0.0},
    "no residual paths": {"ResidualNet": PlainNet},
    "last bias 0, inputs not centred": {},
    "one last layer for all pixels": {},
    "240 wide, 24 units for each patch": {"DEC_WIDTH": 240, "PATCH_UNITS": 24},
    "240 wide, 16 units for each patch": {"DEC_WIDTH": 240, "PATCH_UNITS": 16},
    "batches of 64": {"BATCH": 64},
    "batches of 192": {"BATCH": 192},
    "weight decay 0.03": {"WEIGHT_DECAY": 0.03},
    "weight decay 0.1": {"WEIGHT_DECAY": 0.1},
    "both rates times 0.7": {"ENC_LR": 2e-3, "DEC_LR": 5e-3},
}


def ablation(name, epochs, images_for_nll=2000, samples=200):
    """Prints what a training with one choice changed reaches on held-out images."""
    vae = nb.load("VAE.ipynb")
    vars(vae).update(CHANGES[name])
    if name == "one last layer for all pixels":
        # 200 wide: as many operations
        vae.Decoder = lambda z_dim, *_: vae.ResidualNet(z_dim, 200, 784)
    images = vae.load_mnist(ROOT / "data", train=True)
    x = vae.binarize(images[-HELD_OUT:], torch.Generator().manual_seed(0))
    images = images[:-HELD_OUT]

    torch.manual_seed(0)
    model = vae.VAE(vae.Z_DIM, images.float().mean(0) / 255)
    if name.startswith("last bias"):
        model.decoder.last.bias.data.zero_()
        model.x_mean.zero_()
    start = time.perf_counter()
    quiet(vae.train, model, images, {}, epochs, vae.nelbo_loss)
    spent = time.perf_counter() - start

    torch.manual_seed(0)
    nelbo = [vae.evaluate(model, x)["nelbo"] for _ in range(5)]
    with torch.no_grad():
        nll, _, _ = model.negative_iwae_bound(x[:images_for_nll], samples)
    print(f"{name:<36}{sum(nelbo) / 5:>8.2f}{nll:>8.2f}{spent:>7.0f} s", flush=True)


if __name__ == "__main__":
    if "--ablations" in sys.argv[1:]:
        # python benchmarks/vae.py --ablations [epochs] [names]
        epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 10
        print(f"{'held-out images, nats, epochs: ' + str(epochs):<36}", end="")
        print(f"{'nelbo':>8}{'nll':>8}{'training':>9}")
        for name in sys.argv[3:] or CHANGES:
            ablation(name, epochs)
    else:
        costs(nb.load("VAE.ipynb"))
