"""What the choices of VAE.ipynb buy, as ratios measured in one run: `python benchmarks/vae.py`, a minute on 2 cores."""

import sys
import time
from functools import partial
from pathlib import Path

import torch
from torchvision import datasets, transforms

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from conftest import load_definitions  # noqa: E402


def seconds(function, repeats=3):
    """The best of `repeats` wall-clock times of function(), after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def main():
    vae = load_definitions("VAE.ipynb")
    vae["tqdm"] = partial(vae["tqdm"], disable=True)
    torch.manual_seed(0)
    images, _ = vae["load_mnist"](ROOT / "data", train=False)
    model = vae["VAE"]()
    x = vae["binarize"](images)

    # reading an epoch: one uint8 tensor, binarized a batch at a time, against DataLoader with per-image transforms
    dataset = datasets.MNIST(ROOT / "data", train=False, transform=transforms.ToTensor())
    loader = torch.utils.data.DataLoader(dataset, batch_size=vae["BATCH"], shuffle=True)

    def by_tensor():
        for index in torch.randperm(len(images)).split(vae["BATCH"]):
            vae["binarize"](images[index])

    def by_loader():
        for batch, _ in loader:
            torch.bernoulli(batch)

    print(f"reading: DataLoader takes {seconds(by_loader, 1) / seconds(by_tensor):.0f} times as long as one tensor")

    # part e: one pass of 150 samples serves m = 5, 50 and 150; against one pass for each
    some = x[:160]
    one_pass = seconds(lambda: vae["repeated_niwae"](model, some, [5, 50, 150], 2))
    passes = sum(seconds(lambda iw=iw: vae["repeated_niwae"](model, some, [iw], 2)) for iw in (5, 50, 150))
    print(f"part e: a pass for each m takes {passes / one_pass:.2f} times as long as one pass for all")

    # part e: one image's 7,500 samples at a time, against four images' at once
    four = x[:4]
    with torch.no_grad():
        small = seconds(lambda: [model.log_weights(image[None], 7_500) for image in four])
        large = seconds(lambda: model.log_weights(four, 7_500))
    print(f"part e: four images at once take {large / small:.2f} times as long as one by one")

    rate = vae["forward_flops"](model.decoder) * 7_500 * len(four) / small / vae["matmul_rate"](torch.device("cpu"))
    print(f"part e: {rate:.0%} of the machine's matrix-product rate")


if __name__ == "__main__":
    main()
