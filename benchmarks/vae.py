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
    model = vae.full_vae(images.float().mean(0) / 255)
    rate = matmul_rate()
    print(f"matrix products: {rate / 1e9:.0f} GFLOP/s")

    def step(model, loss):
        model.zero_grad()
        loss(model, x[:batch]).backward()

    def step_cost(model, loss):
        return flops(lambda: step(model, loss)) / batch

    def ten_steps():
        for _ in range(10):
            step(model, vae.mirrored_loss)

    def part_e():
        # the first image of 2e: all its samples
        samples = vae.REPEATS * max(vae.IWAE_M)
        vae.draw_log_weights(model, x[:1], samples)

    def evaluation(model=model):
        vae.evaluate(model, x)

    n, epochs = vae.N_TRAIN, vae.EPOCHS
    full = step_cost(model, vae.mirrored_loss)
    plain = step_cost(vae.VAE(vae.Z_DIM), vae.one_sample_loss)
    residual = residual_vae(vae)
    short = 2 * plain + full
    short += step_cost(residual, vae.one_sample_loss)
    short += step_cost(residual, vae.mirrored_loss)
    around = step_cost(vae.AutoregressiveVAE(vae.Z_DIM), vae.one_sample_loss)
    flat = vae.VAE(2)
    grid = 9 * vae.GRID_POINTS**2  # log p(x) on two grids, and the posteriors
    decoder = flops(lambda: flat.dec(torch.zeros(1, 2)))
    tightness = (grid + 50 * vae.TIGHTNESS_SAMPLES) * decoder
    tightness += n * vae.EPOCHS_2D * step_cost(flat, vae.one_sample_loss)
    curve = vae.N_TEST / len(x) * flops(evaluation)
    parts = {
        "short trainings": n * vae.STEP_EPOCHS * short,
        "full training": n * epochs * full,
        "its curves": 2 * (epochs + 1) * curve,
        "part 2e": vae.N_TEST * flops(part_e) + vae.REPEATS * curve,
        "extra: 2-D": tightness,
        "extra: collapse": n * vae.EXTRA_EPOCHS * (plain + 3 * around),
    }
    for name, cost in parts.items():
        print(f"{name:<16}{cost / 1e12:>6.1f} TFLOP")
    print(f"{'total':<16}{sum(parts.values()) / 1e12:>6.1f} TFLOP")

    for name, function in (("training", ten_steps), ("part 2e", part_e)):
        spent = seconds(function)
        share = flops(function) / spent / rate
        print(f"{name}: {share:.0%} of the rate of matrix products")


def residual_vae(vae, x_mean=None, dec_width=None):
    """Returns the notebook's VAE without patches: one last layer for all pixels."""
    encoder = vae.ResidualNet(784, vae.ENC_WIDTH, 2 * vae.Z_DIM)
    decoder = vae.ResidualNet(vae.Z_DIM, dec_width or vae.DEC_WIDTH, 784)
    return vae.VAE(vae.Z_DIM, encoder, decoder, x_mean)


CHANGES = {  # what is said of it: what changes in the notebook's parameters
    "as it is": {},
    "one sample of z, not a pair": {},
    "no weight decay": {"WEIGHT_DECAY": 0.0},
    "plain networks": {},
    "without the mean image": {},
    "one last layer for all pixels": {},
    "peak rate 3e-3": {"LR": 3e-3},
    "peak rate 5e-3": {"LR": 5e-3},
    "240 wide, 24 units for each patch": {"DEC_WIDTH": 240, "PATCH_UNITS": 24},
    "240 wide, 16 units for each patch": {"DEC_WIDTH": 240, "PATCH_UNITS": 16},
    "batches of 64": {"BATCH": 64},
    "batches of 192": {"BATCH": 192},
    "weight decay 0.03": {"WEIGHT_DECAY": 0.03},
    "weight decay 0.1": {"WEIGHT_DECAY": 0.1},
}


def changed_vae(vae, name, x_mean):
    """Returns the untrained model of a row of CHANGES, and its loss."""
    loss = vae.mirrored_loss
    if name == "one sample of z, not a pair":
        loss = vae.one_sample_loss
    if name == "plain networks":
        return vae.VAE(vae.Z_DIM, x_mean=x_mean), loss
    if name == "without the mean image":
        x_mean = None
    if name == "one last layer for all pixels":
        # 200 wide: as many operations
        return residual_vae(vae, x_mean, dec_width=200), loss
    return vae.full_vae(x_mean), loss


def ablation(name, epochs, images_for_nll=2000, samples=200):
    """Prints what a training with one choice changed reaches on held-out images."""
    vae = nb.load("VAE.ipynb")
    vars(vae).update(CHANGES[name])
    images = vae.load_mnist(ROOT / "data", train=True)
    x = vae.binarize(images[-HELD_OUT:], torch.Generator().manual_seed(0))
    images = images[:-HELD_OUT]

    torch.manual_seed(0)
    model, loss = changed_vae(vae, name, images.float().mean(0) / 255)
    start = time.perf_counter()
    quiet(vae.train, model, images, {}, epochs, loss)
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
