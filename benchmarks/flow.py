"""What each part of the flow is worth, on held-out images.

    python benchmarks/flow.py                         all rows, 5 minutes each, one core
    python benchmarks/flow.py "no plan" "no Stretch"  these rows
    python benchmarks/flow.py --tflop 52 "as it is"   10 epochs, as the notebook

Each row is RealNVP.ipynb's answer with one change, trained with the same number of
floating-point operations (8 TFLOP, if nothing else is asked for) on the first 50,000
training images, and measured on the last 10,000: bits/dim, the nats of the worst image;
and with 10,000 samples, FD and sure (see samples.py). The test images are not touched.
Rows that are done are kept in benchmarks/flow.json, and a table of them is printed.
"""

import argparse
import json
import math

import nb as notebooks
import torch
from samples import (
    BUILD,
    HELD_OUT,
    ROOT,
    measured,
    mnist,
    opinions,
    sampled,
    tflop_per_image,
)
from torch import nn

ROWS_FILE = ROOT / "benchmarks/flow.json"
ROWS = {  # what is read: parameters of the notebook, or a change of this script
    "as it is": {},
    "as it is, seed 1": {"SEED": 1},
    "no Stretch": {"change": "no stretch"},
    "Stretch of one curve": {"STRETCH_CURVES": [(1.2, 3.0, 0.25)]},
    "Stretch learned for each pixel": {"change": "learned"},
    "no plan": {"change": "no plan"},
    "a plan without its norm": {"change": "no norm"},
}


class LearnedStretch(nn.Module):
    """The notebook's Stretch with constants of its own for each pixel, all learned."""

    def __init__(self, nb, b):
        super().__init__()
        self.b = b
        constants = [nb.STRETCH_SLOPE, *[x for abc in nb.STRETCH_CURVES for x in abc]]
        start = torch.tensor(constants)[:, None].repeat(1, len(b))
        # the places may have any sign, the others stay above 0
        self.log_start = start.log()
        self.move = nn.Parameter(torch.zeros_like(start))

    def forward(self, x):
        # moves are learned ten times faster than weights: each is of one pixel only
        slope, *curves = (self.log_start + 10 * self.move).exp().double()
        y = slope * x
        for a, c, d in zip(*[iter(curves)] * 3):
            h = torch.tanh(c * (x - self.b - d))
            y = y + a * h
            slope = slope + a * c * (1 - h.square())
        return y, slope.log().sum(1)

    def inverse(self, y):
        low, high = torch.full_like(y, -100.0), torch.full_like(y, 100.0)
        for _ in range(50):
            middle = (low + high) / 2
            smaller = self(middle)[0] < y
            low = torch.where(smaller, middle, low)
            high = torch.where(smaller, high, middle)
        return (low + high) / 2


def build(nb, images, change=None):
    """Returns the untrained flow of a row; `nb` is the notebook's module."""
    elementwise = nb.stretched_pixels(images)
    if change == "no stretch":
        elementwise = elementwise[:1]
    if change == "learned":
        elementwise[1] = LearnedStretch(nb, elementwise[1].b)
    nets = nb.image_nets(with_plan=change != "no plan")
    if change == "no norm":
        for net in nets:
            for i, layer in enumerate(net.plan):
                if isinstance(layer, nn.LayerNorm):
                    net.plan[i] = nn.Identity()
    return nb.RealNVP(elementwise, nb.checkerboard(), nets)


def trained_row(name, tflop, images, held_out, target):
    """Trains the row `name` for `tflop`; returns it, measured on `held_out`.

    `target` are the classifiers' opinions of `held_out`.
    """
    # fresh definitions: a row may change a parameter
    nb = notebooks.load("RealNVP.ipynb")
    parameters = dict(ROWS[name])
    change = parameters.pop("change", None)
    vars(nb).update(parameters)
    torch.manual_seed(nb.SEED)
    model = build(nb, images, change)
    cost = tflop_per_image(model, images)

    # as many images, one epoch after another, as the budget pays for
    count = round(tflop / cost)
    epochs = math.ceil(count / len(images))
    order = torch.cat([torch.randperm(len(images)) for _ in range(epochs)])
    nb.train(model, images[order[:count]], {}, epochs=1)

    u = torch.rand(held_out.shape, generator=torch.Generator().manual_seed(0))
    row = nb.measure(model, {"held_out": (held_out, u)}, epoch=count / len(images))
    return {
        "name": name,
        "tflop": tflop,
        "weights": sum(p.numel() for p in model.parameters()),
        "mflop_an_image": 1e6 * cost,
        "bits_per_dim": row["held_out_bits_per_dim"],
        "worst_nats": row["held_out_worst_nats"],
    } | measured(sampled(model, seed=0), target)


def print_table(rows):
    """Prints the rows as a table in Markdown."""
    print("| | TFLOP | weights, M | MFLOP an image | bits/dim ", end="")
    print("| worst image, nats | FD | sure |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print(f"| {row['name']} | {row['tflop']:g} ", end="")
        print(f"| {row['weights'] / 1e6:.2f} ", end="")
        print(f"| {row['mflop_an_image']:.0f} | {row['bits_per_dim']:.4f} ", end="")
        print(f"| {row['worst_nats']:,.0f} | {row['fd']:.0f} | {row['sure']:.3f} |")


def main(names, tflop):
    unknown = set(names) - set(ROWS)
    if unknown:
        raise SystemExit(f"rows are {', '.join(ROWS)}; got {', '.join(unknown)}")
    images, _ = mnist(train=True)
    images, held_out = images[:-HELD_OUT], images[-HELD_OUT:]
    BUILD.mkdir(exist_ok=True)
    rows = []
    if ROWS_FILE.exists():
        rows = json.loads(ROWS_FILE.read_text("utf-8"))
    done = {(row["name"], row["tflop"]) for row in rows}
    target = opinions(held_out)
    for name in names or ROWS:
        if (name, tflop) not in done:
            rows.append(trained_row(name, tflop, images, held_out, target))
            rows.sort(key=lambda row: (list(ROWS).index(row["name"]), row["tflop"]))
            text = json.dumps(rows, indent=1) + "\n"
            ROWS_FILE.write_text(text, encoding="utf-8")
    print_table(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--tflop", type=float, default=8.0)
    arguments = parser.parse_args()
    main(arguments.names, arguments.tflop)
