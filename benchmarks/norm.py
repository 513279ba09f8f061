"""What the plan's norm is for: single images, while the learning rate is high.

    python benchmarks/norm.py        half an hour each, one core

Trains RealNVP.ipynb's answer in full, with its norm and without, on the first 50,000
training images, and prints for every epoch what the worst image costs, in nats: of
10,000 that it is trained on, and of the 10,000 held out. The test images are not
touched. A training that is done is kept in benchmarks/norm.json.
"""

import json

import nb as notebooks
import torch
from flow import build
from samples import HELD_OUT, ROOT, mnist

FILE = ROOT / "benchmarks/norm.json"
NAMES = {"norm": None, "no norm": "no norm"}  # and the change of flow.py's `build`


def history(change):
    """Returns a row of measures, see the notebook's `measure`, for every epoch."""
    nb = notebooks.load("RealNVP.ipynb")
    images, _ = mnist(train=True)
    images, held_out = images[:-HELD_OUT], images[-HELD_OUT:]
    sets = {"train": images[:HELD_OUT], "held_out": held_out}
    noise = torch.Generator().manual_seed(0)
    for name, part in sets.items():
        sets[name] = part, torch.rand(part.shape, generator=noise)
    torch.manual_seed(nb.SEED)
    return nb.train(build(nb, images, change), images, sets, nb.EPOCHS)


def print_table(found):
    """Prints a line for every epoch, as a table in Markdown."""
    print("| epoch | norm: trained on | held out | no norm: trained on | held out |")
    print("| --- | --- | --- | --- | --- |")
    for rows in zip(*[found[name] for name in NAMES]):
        print(f"| {rows[0]['epoch']} |", end="")
        for row in rows:
            print(f" {row['train_worst_nats']:,.0f} |", end="")
            print(f" {row['held_out_worst_nats']:,.0f} |", end="")
        print()
    for name in NAMES:
        last = found[name][-1]["held_out_bits_per_dim"]
        print(f"{name}: {last:.4f} bits/dim in the end, held out")


def main():
    found = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}
    for name, change in NAMES.items():
        if name not in found:
            found[name] = history(change)
            FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print_table(found)


if __name__ == "__main__":
    main()
