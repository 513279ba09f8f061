"""What the choices of VAE.ipynb buy, measured in one run.

`python benchmarks/vae.py` compares speeds, as ratios: two minutes on 2 cores.
`python benchmarks/vae.py --ablations` trains without one choice at a time, on held-out images: 10 minutes.
"""

import contextlib
import os
import sys
import time
from pathlib import Path

import torch
from torchvision import datasets, transforms

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from conftest import load_definitions  # noqa: E402


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


def matmul_rate(n=2048, repeats=10):
    """Returns the float32 matrix-product rate, FLOP/s: the best of `repeats` products of n x n."""
    a = torch.randn(n, n)
    return 2 * n**3 / seconds(lambda: (a @ a).sum().item(), repeats)


def forward_flops(net):
    """Returns the FLOPs of one forward pass of one example through the linear layers of `net`."""
    return sum(2 * layer.weight.numel() for layer in net.modules() if isinstance(layer, torch.nn.Linear))


def speeds(vae):
    torch.manual_seed(0)
    images, _ = vae["load_mnist"](ROOT / "data", train=False)
    x_mean = images.float().mean(0) / 255
    model, whole = vae["VAE"](vae["Z_DIM"], x_mean), vae["VAE"](vae["Z_DIM"])  # `whole` has no margin
    x, batch = vae["binarize"](images), vae["BATCH"]

    # reading an epoch: one uint8 tensor, binarized a batch at a time, against DataLoader with per-image transforms
    dataset = datasets.MNIST(ROOT / "data", train=False, transform=transforms.ToTensor())
    loader = torch.utils.data.DataLoader(dataset, batch_size=batch, shuffle=True)

    def by_tensor():
        for index in torch.randperm(len(images)).split(batch):
            vae["binarize"](images[index])

    def by_loader():
        for pixels, _ in loader:
            torch.bernoulli(pixels)

    print(f"reading: DataLoader takes {seconds(by_loader, 1) / seconds(by_tensor):.0f} times as long as one tensor")

    def step(model):
        model.zero_grad()
        vae["nelbo_loss"](model, x[:batch]).backward()

    # pixels of the margin, with a constant probability, against a decoder of all 784
    few = x[:32]
    steps = [seconds(lambda m=m: [step(m) for _ in range(20)]) for m in (model, whole)]
    print(f"training: without the margin's saving a step takes {steps[1] / steps[0]:.2f} times as long")
    part_e = [seconds(lambda m=m: vae["repeated_bounds"](m, few, [150], 10)) for m in (model, whole)]
    print(f"part e: without the margin's saving it takes {part_e[1] / part_e[0]:.2f} times as long")

    # one pass of 150 samples serves m = 5, 50 and 150; against one pass for each
    passes = sum(seconds(lambda iw=iw: vae["repeated_bounds"](model, few, [iw], 10)) for iw in (5, 50, 150))
    one_pass = seconds(lambda: vae["repeated_bounds"](model, few, [5, 50, 150], 10))
    print(f"part e: a pass for each m takes {passes / one_pass:.2f} times as long as one pass for all")

    flops, rate = forward_flops(model.decoder) * 150 * 10 * len(few), matmul_rate()
    print(f"part e: {flops / part_e[0] / rate:.0%} of the machine's matrix-product rate, {rate / 1e9:.0f} GFLOP/s")
    # forward, gradient by inputs, gradient by weights; the decoder runs twice, for z and its mirror image
    flops = 3 * (forward_flops(model) + forward_flops(model.decoder)) * batch * 20
    print(f"training: {flops / steps[0] / rate:.0%} of it")


def ablations(epochs=10, images_for_nll=2000, samples=200):
    """Prints the negative ELBO of 10,000 held-out images, and -log p(x) of some, without one choice at a time."""
    choices = {  # name: what changes in the notebook
        "as it is": {},
        "one sample of z, not a pair": {"nelbo_loss": lambda model, x: model.negative_elbo_bound(x)[0]},
        "one learning rate for all layers": {"LR_SHARES": {}},
        "no weight decay": {"WEIGHT_DECAY": 0.0},
        "last bias 0, inputs not centred": {},
    }
    print(f"{'held-out images, ' + str(epochs) + ' epochs, nats':<36}{'nelbo':>8}{'nll':>8}{'training':>9}")
    for name, change in choices.items():
        vae = load_definitions("VAE.ipynb")
        vae.update(change)
        images, _ = vae["load_mnist"](ROOT / "data", train=True)
        images, held_out = images[:-10_000], images[-10_000:]
        x = vae["binarize"](held_out, torch.Generator().manual_seed(0))
        torch.manual_seed(0)
        model = vae["VAE"](vae["Z_DIM"], images.float().mean(0) / 255)
        if name.startswith("last bias"):
            model.decoder.last.bias.data.zero_()
            model.x_mean.zero_()
        start = time.perf_counter()
        quiet(vae["train"], model, images, {}, epochs, vae["nelbo_loss"])
        spent = time.perf_counter() - start
        torch.manual_seed(0)
        nelbo = torch.tensor([vae["evaluate"](model, x)["nelbo"] for _ in range(5)]).mean()
        with torch.no_grad():
            nll = model.negative_iwae_bound(x[:images_for_nll], samples)[0]
        print(f"{name:<36}{nelbo:>8.2f}{nll:>8.2f}{spent:>7.0f} s", flush=True)


if __name__ == "__main__":
    if "--ablations" in sys.argv[1:]:
        ablations()
    else:
        speeds(load_definitions("VAE.ipynb"))
