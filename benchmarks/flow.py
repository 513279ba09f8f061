"""What each part of the flow's networks s and t is worth, on held-out images.

    python benchmarks/flow.py                        all: 5 minutes a row, one core
    python benchmarks/flow.py "one ink" "no ink"     these rows
    python benchmarks/flow.py --tflop 58 "as it is"  10 epochs, as the notebook
    python benchmarks/flow.py --plot                 the rows in README.md, as flow.svg

Each row is RealNVP.ipynb's model with one change, trained with the same number of
floating-point operations (15 TFLOP, if nothing else is asked for) on the first 50,000
training images, and measured on the last 10,000: bits/dim; and with 10,000 samples, FD
and sure (see samples.py). The test images are not touched. Rows that are done are kept
in benchmarks/build/flow N TFLOP.jsonl, and a table of them is printed; delete that file
to start afresh.
"""

import argparse
import json
import math
import re

import matplotlib.pyplot as plt
import nb as notebooks
import torch
from samples import BUILD, ROOT, SAMPLES, measured, opinions, tflop_per_image
from torch import nn


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


ROWS = {  # what is read: its options, see `convolutional`, `build`, `trained`
    "as it is": {},
    "as it is, seed 1": {"seed": 1},
    "one ink": {"inks": 1},
    "no ink": {"inks": 0},
    "no residual blocks in the dense path": {"deep": False},
    "no dense path": {"dense": False},
    "no numbers of cells and pixels": {"own": False},
    "no ink, no numbers": {"inks": 0, "own": False},
    "blocks in the last pair, too": {"blocks": [2, 2, 2, 2]},
    "blocks in no coarse pair": {"blocks": [2, 2, 0, 0]},
    "one block": {"blocks": [1, 1, 1, 0]},
    "three blocks": {"blocks": [3, 3, 3, 0]},
    "both convolutions of a block 3 x 3": {"second": 3},
    "14 x 14 cells everywhere": {"cells": [2, 2, 2, 2]},
    "14 x 14 cells in the first pair only": {"cells": [2, 4, 4, 4]},
    "squares of 2 x 2 pixels for two pairs": {"squares": True},
    "a Bend behind each coupling, too": {"behind": True},
    "no Bend": {"bend": False},
    "no Bend, no ink": {"bend": False, "inks": 0},
    "no Bend, no numbers of cells and pixels": {"bend": False, "own": False},
    "no Bend, no ink, no numbers": {"bend": False, "inks": 0, "own": False},
    "one rate for all parameters": {"parameters": {"PIXEL_RATE": 1.0}},
    "batch 32": {"parameters": {"BATCH": 32}},
    "batch 128": {"parameters": {"BATCH": 128}},
}
KINDS = {  # of flows in the plot: their markers and colours
    "residual blocks in the dense path": ("o", "#D55E00"),
    "the same, no Bend": ("^", "#009E73"),
    "none": ("x", "#0072B2"),
}


def convolutional(nb, cell, blocks, inks=2, dense=True, deep=True, own=True, second=1):
    """Returns the notebook's network for cells of cell x cell pixels, changed."""
    channels = nb.CHANNELS * cell // 2
    units = nb.UNITS * cell // 2
    net = nb.Convolutional(392, cell, channels, units, blocks)
    if inks < 2:
        net.ink = OneInk(392) if inks else NoInk()
        maps = inks + 1
        net.local = nn.Conv2d(maps * cell**2 // 2, channels, 3, padding=1)
        net.whole = nb.Whole(maps * 392, units, channels)
    if not deep:
        layers = net.whole.net
        layers = [layer for layer in layers if not isinstance(layer, nb.Residual)]
        net.whole.net = nn.Sequential(*layers)
    if not dense:
        net.whole = Zero()
    if not own:
        # they stay as they start, and change nothing
        for parameter in (net.place, net.scale, net.shift):
            parameter.requires_grad_(False)
    if second == 3:
        for block in net.blocks:
            conv = nn.Conv2d(channels, channels, 3, padding=1)
            block.second = nb.starts_at_zero(conv)
    return net.to(memory_format=torch.channels_last)


def checkerboard_of_squares(nb):
    """The order of the pixels for squares of 2 x 2: a colour, then the other, reversed.

    Its halves are those that the notebook's grids of 4 x 4 cells can read.
    """
    cells = torch.arange(784).reshape(7, 4, 7, 4).transpose(1, 2)
    i, j = torch.meshgrid(torch.arange(4) // 2, torch.arange(4) // 2, indexing="ij")
    halves = []
    for colour in range(2):
        image = cells[:, :, (i + j) % 2 == colour]  # (7, 7, 8): eight pixels of a cell
        halves.append(nb.from_grid(image.permute(2, 0, 1)[None], 4).flatten())
    return torch.cat([halves[0], halves[1].flip(0)])


def build(
    nb,
    images,
    cells=(2, 2, 4, 4),
    blocks=(2, 2, 2, 0),
    bend=True,
    squares=False,
    behind=False,
    **change,
):
    """Returns the untrained flow of a row; `cells` and `blocks` are of each pair."""
    gaussianize = nb.Gaussianize(images, nb.HISTOGRAM_STRENGTH)
    elementwise = [gaussianize]
    if bend:
        elementwise.append(nb.Bend(nb.zero_edge(gaussianize)))
    nets = []
    for cell, number in zip(cells, blocks, strict=True):
        nets.append(convolutional(nb, cell, number, **change))
    order = nb.checkerboard()
    model = nb.RealNVP(elementwise, order, nets)
    if squares:
        # behind two pairs the order is the first again
        other = order.argsort()[checkerboard_of_squares(nb)]
        model.layers.insert(7, nb.Permute(other))
    if behind:
        # the couplings are layers 3, 5, 7 and 9
        for place in (10, 8, 6, 4):
            model.layers.insert(place, nb.Bend(torch.full((784,), -0.35)))
    return model


def trained(nb, images, tflop, seed=0, parameters=None, **change):
    """Trains the flow of a row for `tflop`; returns it and its cost, TFLOP an image."""
    vars(nb).update(parameters or {})
    torch.manual_seed(seed)
    model = build(nb, images, **change)
    cost = tflop_per_image(model, images)

    # as many images, one epoch after another, as the budget pays for
    count = round(tflop / cost)
    epochs = math.ceil(count / len(images))
    order = torch.cat([torch.randperm(len(images)) for _ in range(epochs)])
    nb.train(model, images[order[:count]], {}, epochs=1)
    return model, cost


def trained_row(name, tflop, images, held_out, target):
    """Trains the row `name` for `tflop`; returns it, measured on `held_out`.

    `target` are the classifiers' opinions of `held_out`.
    """
    # fresh definitions: a row may change a parameter
    nb = notebooks.load("RealNVP.ipynb")
    model, cost = trained(nb, images, tflop, **ROWS[name])
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(held_out.shape, generator=generator)
    nll = nb.mean_nll(model, held_out, u)

    torch.manual_seed(0)
    samples = torch.cat([model.sample(500) for _ in range(SAMPLES // 500)])
    return {
        "name": name,
        "weights": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "mflop": 1e6 * cost,
        "bits_per_dim": nll / (784 * math.log(2)),
    } | measured(samples, target)


def read_rows(path):
    """Returns the rows that are done and kept in `path`, {name: row}."""
    rows = {}
    if path.exists():
        for line in path.read_text("utf-8").splitlines():
            row = json.loads(line)
            rows[row["name"]] = row
    return rows


def print_table(rows):
    """Prints the rows as a table in Markdown, in the order of ROWS."""
    print("| | in the dense path | weights, M | MFLOP an image ", end="")
    print("| bits/dim | FD | sure |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, change in ROWS.items():
        if name in rows:
            row = rows[name]
            # residual blocks
            deep = change.get("deep", True) and change.get("dense", True)
            print(f"| {name} | {3 if deep else 0} ", end="")
            print(f"| {row['weights'] / 1e6:.2f} | {row['mflop']:.0f} ", end="")
            print(f"| {row['bits_per_dim']:.4f} | {row['fd']:.0f} ", end="")
            print(f"| {row['sure']:.3f} |")


def tried():
    """Returns the rows of README.md's tables of flows: (TFLOP, bits/dim, FD, kind).

    The kind is one of KINDS. A table without a column of TFLOP is of trainings with 15;
    one without a column of the dense path is of networks without residual blocks in it.
    """
    text = (ROOT / "benchmarks/README.md").read_text("utf-8")
    (section,) = re.findall(
        r"\n## What each part of s and t is worth\n.*?\n## ", text, flags=re.DOTALL
    )
    rows = []
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if "bits/dim" in cells:
            head = cells
        if line.startswith("|") and cells[-1].startswith("0."):
            row = dict(zip(head, cells, strict=True))
            tflop = float(row.get("TFLOP", 15))
            kind = "none"
            if row.get("in the dense path", "0") != "0":
                kind = "residual blocks in the dense path"
            if "no Bend" in cells[0]:
                kind = "the same, no Bend"
            rows.append((tflop, float(row["bits/dim"]), float(row["FD"]), kind))
    return rows


def plot():
    """Draws bits/dim and FD against TFLOP of all that was tried to flow.svg."""
    fig, axes = plt.subplots(1, 2, figsize=(6.3, 2.8), constrained_layout=True)
    labels = ["bits/dim, held-out images", "FD of samples"]
    for ax, column, label in zip(axes, (1, 2), labels):
        for kind, (marker, color) in KINDS.items():
            rows = [row for row in tried() if row[3] == kind]
            x = [row[0] for row in rows]
            y = [row[column] for row in rows]
            ax.plot(x, y, marker, ms=4, color=color, label=kind)
        # the first row of the first table
        default = tried()[0]
        ring = {"ms": 9, "mfc": "none", "color": "k", "label": "as it is"}
        ax.plot(default[0], default[column], "o", **ring)
        ax.set(xlabel="TFLOP of the training", ylabel=label, xlim=(0, None))
    handles, names = axes[0].get_legend_handles_labels()
    fig.legend(handles, names, loc="outside upper center", ncols=4, fontsize=7)
    fig.savefig(ROOT / "benchmarks/flow.svg", metadata={"Date": None})


def main(names, tflop):
    unknown = set(names) - set(ROWS)
    if unknown:
        raise SystemExit(f"rows are {', '.join(ROWS)}; got {', '.join(unknown)}")
    images = notebooks.load("RealNVP.ipynb").load_mnist(ROOT / "data", train=True)
    images, held_out = images[:-10_000], images[-10_000:]
    BUILD.mkdir(exist_ok=True)
    kept = BUILD / f"flow {tflop:g} TFLOP.jsonl"
    target = opinions(held_out)
    for name in names or ROWS:
        if name not in read_rows(kept):
            row = trained_row(name, tflop, images, held_out, target)
            with kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    print_table(read_rows(kept))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--tflop", type=float, default=15.0)
    parser.add_argument("--plot", action="store_true")
    arguments = parser.parse_args()
    if arguments.plot:
        plot()
    else:
        main(arguments.names, arguments.tflop)
