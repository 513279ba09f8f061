"""What the parts of VAE.ipynb cost, counted; and how long reading the images takes.

python benchmarks/vae.py    # a minute
"""

import contextlib
import os
import time
from pathlib import Path

import nb
import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision import datasets, transforms

ROOT = Path(__file__).resolve().parents[1]


def seconds(function):
    """The best of two wall-clock times of function(), after one to warm up."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times[1:])


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

    ratio = seconds(by_loader) / seconds(by_tensor)
    print(f"reading: DataLoader takes {ratio:.0f} times as long as one tensor")


def flops(function):
    """Returns the floating-point operations of the matrix products in function()."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        # without its progress bar
        with FlopCounterMode(display=False) as counter:
            function()
    return counter.get_total_flops()


def residual_vae(vae):
    """Returns the notebook's VAE without patches: one last layer for all pixels."""
    encoder = vae.ResidualNet(784, vae.ENC_WIDTH, 2 * vae.Z_DIM)
    decoder = vae.ResidualNet(vae.Z_DIM, vae.DEC_WIDTH, 784)
    return vae.VAE(vae.Z_DIM, encoder, decoder)


def costs(vae, images):
    """Returns what the notebook's parts cost: {part: TFLOP}."""
    x = vae.binarize(images[: vae.BATCH])
    model = vae.full_vae(images.float().mean(0) / 255)

    def of_training(model, loss, epochs):
        cost = flops(lambda: loss(model, x).backward()) / len(x)
        return vae.N_TRAIN * epochs * cost

    residual = residual_vae(vae)
    short = of_training(vae.VAE(vae.Z_DIM), vae.one_sample_loss, 2 * vae.STEP_EPOCHS)
    short += of_training(residual, vae.one_sample_loss, vae.STEP_EPOCHS)
    short += of_training(residual, vae.mirrored_loss, vae.STEP_EPOCHS)
    short += of_training(model, vae.mirrored_loss, vae.STEP_EPOCHS)
    # of the test set, once
    curve = vae.N_TEST * flops(lambda: vae.evaluate(model, x)) / len(x)
    samples = vae.REPEATS * max(vae.IWAE_M)
    weights = flops(lambda: vae.draw_log_weights(model, x[:1], samples))

    flat = vae.VAE(2)
    # log p(x) on two grids, and two posteriors
    points = 9 * vae.GRID_POINTS**2 + 50 * vae.TIGHTNESS_SAMPLES
    two = points * flops(lambda: flat.dec(torch.zeros(1, 2)))
    two += of_training(flat, vae.one_sample_loss, vae.EPOCHS_2D)
    around = vae.AutoregressiveVAE(vae.Z_DIM)
    collapse = of_training(around, vae.one_sample_loss, 3 * vae.EXTRA_EPOCHS)
    collapse += of_training(vae.VAE(vae.Z_DIM), vae.one_sample_loss, vae.EXTRA_EPOCHS)
    parts = {
        "short trainings": short,
        "full training": of_training(model, vae.mirrored_loss, vae.EPOCHS),
        "its curves": 2 * (vae.EPOCHS + 1) * curve,
        "part 2e": vae.N_TEST * weights + vae.REPEATS * curve,
        "extra: two latents": two,
        "extra: collapse": collapse,
    }
    return {name: cost / 1e12 for name, cost in parts.items()}


if __name__ == "__main__":
    notebook = nb.load("VAE.ipynb")
    test_images = notebook.load_mnist(ROOT / "data", train=False)
    parts = costs(notebook, test_images)
    for name, cost in (parts | {"total": sum(parts.values())}).items():
        print(f"{name:<20}{cost:>6.1f} TFLOP")
    reading(notebook, test_images)
