"""What each part of the flow's networks s and t is worth, on held-out images.

    python benchmarks/flow.py                     all rows: half an hour on 2 cores
    python benchmarks/flow.py "one ink" "no ink"  these rows

Each row is RealNVP.ipynb's model with one change, trained with the same number of
floating-point operations (BUDGET) on the first 50,000 training images, and measured on
the last 10,000: bits/dim; and with SAMPLES samples, FD and sure (see samples.py). The
test images are not touched. Rows that are done are kept in benchmarks/build/flow.jsonl,
a table of all is printed at the end, and drawn to benchmarks/flow.svg. Delete that file
to start afresh.
"""

import json
import math
import sys

import matplotlib.pyplot as plt
import torch
from samples import BUILD, ROOT, features, frechet, tflop_per_image, trained_classifier
from torch import nn

sys.path.insert(0, str(ROOT / "tests"))
from nb import load  # noqa: E402

BUDGET = 5.0  # TFLOP of each training
SAMPLES = 5_000
DONE = BUILD / "flow.jsonl"


class NoInk(nn.Module):
    """x_a alone: (batch, D/2) -> (batch, 1, D/2)."""

    def forward(self, x_a):
        return x_a[:, None]


class OneInk(nn.Module):
    """x_a and one ink: (batch, D/2) -> (batch, 2, D/2)."""

    def __init__(self, half):
        super().__init__()
        self.b = nn.Parameter(torch.full((half,), 0.5))
        self.log_c = nn.Parameter(torch.full((half,), math.log(3.0)))

    def forward(self, x_a):
        ink = torch.tanh(self.log_c.exp() * (x_a - self.b))
        return torch.stack([x_a, ink], dim=1)


class Zero(nn.Module):
    """In place of the dense path: (batch, n, D/2) -> 0, (batch, 1, 7, 7)."""

    def forward(self, f):
        return f.new_zeros(len(f), 1, 7, 7)


ROWS = {  # what is read: its options, see `networks` and `trained`
    "as it is": {},
    "as it is, seed 1": {"seed": 1},
    "as it is, seed 2": {"seed": 2},
    "one ink": {"inks": 1},
    "no ink": {"inks": 0},
    "no dense path": {"dense": False},
    "no numbers of cells and pixels": {"own": False},
    "14 x 14 cells everywhere": {"cells": [2, 2, 2, 2]},
    "14 x 14 cells in the first pair only": {"cells": [2, 4, 4, 4]},
    "two residual blocks": {"blocks": 2},
    "one rate for all parameters": {"parameters": {"PIXEL_RATE": 1.0}},
    "batch 32": {"parameters": {"BATCH": 32}},
    "batch 128": {"parameters": {"BATCH": 128}},
}


def convolutional(nb, cell, inks=2, dense=True, own=True, blocks=1):
    """Returns the notebook's network for cells of cell x cell pixels, changed."""
    channels = nb["CHANNELS"] * cell // 2
    units = nb["UNITS"] * cell // 2
    net = nb["Convolutional"](392, cell, channels, units)
    if inks < 2:
        net.ink = OneInk(392) if inks else NoInk()
        maps = inks + 1
        net.local = nn.Conv2d(maps * cell**2 // 2, channels, 3, padding=1)
        net.whole = nb["Whole"](maps * 392, units, channels)
    if not dense:
        net.whole = Zero()
    if not own:
        # they stay as they start, and change nothing
        for parameter in (net.place, net.scale, net.shift):
            parameter.requires_grad_(False)
    if blocks == 2:
        net.block = nn.Sequential(net.block, nb["Residual"](channels))
    return net.to(memory_format=torch.channels_last)


def networks(nb, cells=(2, 2, 4, 4), **change):
    """Returns the networks of a row, one for each of the four pairs."""
    return [convolutional(nb, cell, **change) for cell in cells]


def trained(nb, images, seed=0, parameters=None, **change):
    """Trains the flow of a row; returns it with its cost, TFLOP an image."""
    nb.update(parameters or {})
    torch.manual_seed(seed)
    gaussianize = nb["Gaussianize"](images, nb["HISTOGRAM_STRENGTH"])
    elementwise = [gaussianize, nb["Bend"](nb["zero_edge"](gaussianize))]
    nets = networks(nb, **change)
    model = nb["RealNVP"](elementwise, nb["checkerboard"](), nets)
    cost = tflop_per_image(model, images)

    # as many images, one epoch after another, as the budget pays for
    count = round(BUDGET / cost)
    epochs = math.ceil(count / len(images))
    order = torch.cat([torch.randperm(len(images)) for _ in range(epochs)])
    nb["train"](model, images[order[:count]], {}, epochs=1)
    return model, cost


def measured(name, net, target, images, held_out):
    """Trains the row `name` and returns it, measured on `held_out`."""
    # fresh definitions: a row may change a parameter
    nb = load("RealNVP.ipynb")
    model, cost = trained(nb, images, **ROWS[name])
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(held_out.shape, generator=generator)
    nll = nb["mean_nll"](model, held_out, u)

    torch.manual_seed(0)
    samples = torch.cat([model.sample(500) for _ in range(SAMPLES // 500)]) / 255
    found, sure = features(net, samples)
    return {
        "name": name,
        "weights": sum(p.numel() for p in model.parameters()),
        "mflop": 1e6 * cost,
        "bits_per_dim": nll / (784 * math.log(2)),
        "fd": frechet(found, target),
        "sure": (sure > 0.9).double().mean().item(),
    }


def read_rows():
    """Returns the rows that are done, {name: row}."""
    rows = {}
    if DONE.exists():
        for line in DONE.read_text("utf-8").splitlines():
            row = json.loads(line)
            rows[row["name"]] = row
    return rows


def print_table(rows):
    """Prints the rows as a table in Markdown, in the order of ROWS."""
    print("| | weights, M | MFLOP an image | bits/dim | FD | sure |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in ROWS:
        if name in rows:
            row = rows[name]
            print(
                f"| {name} | {row['weights'] / 1e6:.2f} | {row['mflop']:.0f} ", end=""
            )
            print(f"| {row['bits_per_dim']:.4f} | {row['fd']:.0f} ", end="")
            print(f"| {row['sure']:.3f} |")


def plot(rows):
    """Draws FD against bits/dim of all rows to benchmarks/flow.svg."""
    fig, ax = plt.subplots(figsize=(6.3, 3.5), constrained_layout=True)
    # names stand left and right of their points in turn, so that fewer collide
    names = sorted(rows.keys() & ROWS.keys(), key=lambda name: rows[name]["fd"])
    for number, name in enumerate(names):
        point = rows[name]["bits_per_dim"], rows[name]["fd"]
        color = "#D55E00" if name.startswith("as it is") else "#0072B2"
        ax.plot(*point, "o", color=color)
        side, shift = [("left", 5), ("right", -5)][number % 2]
        ax.annotate(
            name,
            point,
            (shift, 0),
            textcoords="offset points",
            fontsize=7,
            ha=side,
            va="center",
        )
    ax.margins(x=0.35)
    ax.set(xlabel="bits/dim, held-out images", ylabel="FD of samples")
    ax.set_title(f"every training costs {BUDGET:g} TFLOP; down and left is better")
    fig.savefig(ROOT / "benchmarks/flow.svg", metadata={"Date": None})


def main(names):
    unknown = set(names) - set(ROWS)
    if unknown:
        raise SystemExit(f"rows are {', '.join(ROWS)}; got {', '.join(unknown)}")
    images = load("RealNVP.ipynb")["load_mnist"](ROOT / "data", train=True)
    images, held_out = images[:-10_000], images[-10_000:]
    net = trained_classifier("held out")
    target, _ = features(net, held_out / 255)
    for name in names or ROWS:
        if name not in read_rows():
            row = measured(name, net, target, images, held_out)
            with DONE.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    print_table(read_rows())
    plot(read_rows())


if __name__ == "__main__":
    main(sys.argv[1:])
