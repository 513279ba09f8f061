"""Samples measured, not praised: how far 10,000 samples of each model are from the
test images, and how they read.

    python benchmarks/samples.py              all rows but the longest: three hours
    python benchmarks/samples.py plan vae     these rows
    python benchmarks/samples.py long         two hours: the answer's flow, for longer

Each flow is a step of RealNVP.ipynb, trained in full with the notebook's own functions
and parameters; the last step, "plan", is its answer. Samples that are drawn stay: they
are kept in benchmarks/build/, and only missing ones are made. Delete that folder to
start afresh, after a change to a notebook, say. The table goes to
report/results/samples.json, which the report reads.

Two numbers for each row come from three small classifiers of digits, which differ in
their seed; the row has the mean of the three, and their least and largest FD:

* FD, the Fréchet distance in the space of a classifier's 64 features:
  |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) for mean and covariance of the features of
  samples and of test images (Heusel et al. 2017, eq. 6, there with Inception features);
* sure, the share of samples to which it gives a digit with a probability above 0.9.
"""

import json
import math
import sys
from pathlib import Path

import nb as notebooks
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "benchmarks/build"
SAMPLES = 10_000
HELD_OUT = 10_000  # the last training images
CLASSIFIERS = [100, 101, 102]  # their seeds

NAMES = {
    "images": "held-out training images (the floor)",
    "logit": "the plainest: logit, fully connected s and t",
    "gaussianize": "+ Gaussianize in place of the logit",
    "stretch": "+ Stretch",
    "convolution": "+ convolutional s and t",
    "plan": "+ a plan: RealNVP.ipynb's answer",
    "seed": "the same, with another seed",
    "long": "the same, trained for longer",
    "vae": "VAE.ipynb, pixel probabilities",
    "usual": "VAE 300-300, 10 latents, pixel probabilities",
}
ASKED_FOR = ["long"]  # rows that are made only if they are named
LONG_EPOCHS = 44
USUAL_STEPS = 20_000  # of the course's usual VAE


# ----------------------------------------------------------------- the classifiers


def classifier():
    """Returns an untrained network: images (n, 784) in [0, 1] -> 10 logits (n, 10).

    Its last layer reads 64 features.
    """
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.1),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(3136, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def mnist(train):
    """Returns MNIST's images, uint8 (n, 784), and labels, (n,)."""
    dataset = torchvision.datasets.MNIST(ROOT / "data", train=train, download=True)
    return dataset.data.reshape(-1, 784), dataset.targets


def trained_classifier(seed, epochs=4, batch=200):
    """Returns a classifier, trained once on the first 50,000 training images, and kept.

    Raises:
        RuntimeError: it gets fewer than 99 % of the other 10,000 right.
    """
    BUILD.mkdir(exist_ok=True)
    path = BUILD / f"classifier {seed}.pt"
    torch.manual_seed(seed)
    net = classifier()
    if path.exists():
        net.load_state_dict(torch.load(path, weights_only=True))
        return net.eval()

    images, labels = mnist(train=True)
    held_out, held_out_labels = images[-HELD_OUT:], labels[-HELD_OUT:]
    images, labels = images[:-HELD_OUT], labels[:-HELD_OUT]
    optimizer = torch.optim.AdamW(net.parameters())
    steps = epochs * math.ceil(len(images) / batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    for _ in range(epochs):
        for index in torch.randperm(len(images)).split(batch):
            loss = F.cross_entropy(net(images[index] / 255), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()

    net.eval()
    with torch.no_grad():
        found = torch.cat([net(part / 255).argmax(1) for part in held_out.split(1000)])
    accuracy = (found == held_out_labels).double().mean().item()
    print(f"classifier {seed}: {accuracy:.2%} of the held-out images right", flush=True)
    if accuracy < 0.99:
        raise RuntimeError(f"the classifier must get 99 % right, got {accuracy:.2%}")
    torch.save(net.state_dict(), path)
    return net


@torch.no_grad()
def features(net, images):
    """Features of images (n, 784), uint8, (n, 64), and how sure the answer is, (n,)."""
    parts = (images / 255).split(1000)
    found = torch.cat([net[:-1](part) for part in parts])
    sure = net[-1](found).softmax(1).amax(1)
    return found.double(), sure


def frechet(a, b):
    """The Fréchet distance between Gaussians fitted to a and b, each (n, k)."""
    c_a = a.T.cov()
    c_b = b.T.cov()
    # tr (C_a C_b)^(1/2)
    root = torch.linalg.eigvals(c_a @ c_b).real.clamp(min=0).sqrt().sum()
    distance = (a.mean(0) - b.mean(0)).square().sum()
    return (distance + c_a.trace() + c_b.trace() - 2 * root).item()


def opinions(images):
    """Returns `features` of images, uint8 (n, 784), by each classifier: a list."""
    return [features(trained_classifier(seed), images) for seed in CLASSIFIERS]


def measured(samples, target):
    """Returns FD of `samples`, uint8 (n, 784), from images, and sure: three opinions.

    Args:
        target: `opinions` of the images.

    Returns:
        {"fd": the mean, "fd_least", "fd_most", "sure": the mean}
    """
    distances, shares = [], []
    for (found, sure), (wanted, _) in zip(opinions(samples), target, strict=True):
        distances.append(frechet(found, wanted))
        shares.append((sure > 0.9).double().mean().item())
    return {
        "fd": sum(distances) / len(distances),
        "fd_least": min(distances),
        "fd_most": max(distances),
        "sure": sum(shares) / len(shares),
    }


# ------------------------------------------------------------------ the models


def tflop_per_image(model, images):
    """The cost of a training step for one image, in TFLOP (forward and backward)."""
    batch = images[:32]
    with FlopCounterMode(display=False) as counter:
        model.bits_per_dim(batch).mean().backward()
    model.zero_grad(set_to_none=True)
    return counter.get_total_flops() / len(batch) / 1e12


def untrained(nb, key, images):
    """Returns the untrained flow of the row `key`, as the notebook makes it."""
    steps = {
        "logit": nb.logit_flow,
        "gaussianize": nb.gaussianize_flow,
        "stretch": nb.stretch_flow,
        "convolution": nb.convolution_flow,
        "plan": nb.plan_flow,
        "seed": nb.plan_flow,
        "long": nb.plan_flow,
    }
    return steps[key](images)


def sampled(model, seed):
    """Returns SAMPLES samples of a flow, uint8 (SAMPLES, 784)."""
    torch.manual_seed(seed)
    parts = []
    for start in range(0, SAMPLES, 500):
        parts.append(model.sample(min(500, SAMPLES - start)))
    return torch.cat(parts)


def measure_flow(nb, model, test_images, row):
    """Returns samples, uint8, and the row with bits/dim, as the notebook's last."""
    torch.manual_seed(nb.SEED)
    bits = nb.likelihood(model, test_images, nb.DRAWS)
    row["bits_per_dim"] = bits["mean"]
    row["log_mean_bits_per_dim"] = bits["log_mean"]
    return sampled(model, nb.SEED), row


def flow(key):
    """Trains the flow of the row `key` in full; returns its samples, uint8, its row."""
    nb = notebooks.load("RealNVP.ipynb")
    images, _ = mnist(train=True)
    test_images, _ = mnist(train=False)
    epochs = LONG_EPOCHS if key == "long" else nb.EPOCHS
    if key == "seed":
        nb.SEED += 1
    torch.manual_seed(nb.SEED)
    model = untrained(nb, key, images)
    tflop = tflop_per_image(model, images) * len(images) * epochs
    torch.manual_seed(nb.SEED)
    nb.train(model, images, {}, epochs)
    return measure_flow(nb, model, test_images, {"epochs": epochs, "tflop": tflop})


def vae():
    """Trains the VAE of VAE.ipynb; returns samples in grey, uint8, and its row."""
    nb = notebooks.load("VAE.ipynb")
    images, _ = mnist(train=True)
    test_images, _ = mnist(train=False)
    # as the notebook: the curves' sets draw random numbers, too
    x_test = nb.binarize_once(test_images)
    sets = {"train": nb.binarize_once(images[:10_000]), "test": x_test}

    torch.manual_seed(nb.SEED)
    model = nb.full_vae(images.float().mean(0) / 255)
    nb.train(model, images, sets, nb.EPOCHS, nb.mirrored_loss)
    samples, row = measure_vae(nb, model, x_test)
    return samples, row | {"epochs": nb.EPOCHS}


def usual_vae(batch=100):
    """The course's usual network: 784-300-300, ELU, 10 latents, Adam at 1e-3.

    Trained on the one-sample bound; returns samples in grey, uint8, and its row.
    """
    nb = notebooks.load("VAE.ipynb")
    images, _ = mnist(train=True)
    test_images, _ = mnist(train=False)

    def net(n_in, n_out):
        return nn.Sequential(
            nn.Linear(n_in, 300),
            nn.ELU(),
            nn.Linear(300, 300),
            nn.ELU(),
            nn.Linear(300, n_out),
        )

    torch.manual_seed(nb.SEED)
    model = nb.VAE(10, net(784, 20), net(10, 784))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(USUAL_STEPS):
        x = nb.binarize(images[torch.randint(len(images), (batch,))])
        optimizer.zero_grad()
        model.negative_elbo_bound(x)[0].backward()
        optimizer.step()

    x_test = nb.binarize_once(test_images)
    samples, row = measure_vae(nb, model, x_test)
    return samples, row | {"epochs": USUAL_STEPS * batch / len(images)}


@torch.no_grad()
def measure_vae(nb, model, x_test):
    """Returns pixel probabilities of SAMPLES samples as grey levels, and the row."""
    torch.manual_seed(nb.SEED)
    nelbo = nb.evaluate(model, x_test)["nelbo"]
    torch.manual_seed(nb.SEED)
    grey = (255 * model.sample_sigmoid(SAMPLES)).round().to(torch.uint8)
    return grey, {"nelbo_nats": nelbo}


# ------------------------------------------------------------------ the table


def drawn(key):
    """Returns samples of the row `key`, uint8 (n, 784), and the model's own numbers."""
    if key == "images":
        images, _ = mnist(train=True)
        return images[-HELD_OUT:].clone(), {}
    if key == "vae":
        return vae()
    if key == "usual":
        return usual_vae()
    return flow(key)


def print_table(rows):
    """Prints the rows as a table in Markdown."""
    print("| | on the test images | training | FD | from, to | sure |")
    print("| --- | --- | --- | --- | --- | --- |")
    for key, row in rows.items():
        fit, cost = "", ""
        if "bits_per_dim" in row:
            fit = f"{row['bits_per_dim']:.3f} bits/dim, "
            fit += f"log-mean {row['log_mean_bits_per_dim']:.3f}"
        if "nelbo_nats" in row:
            fit = f"negative ELBO {row['nelbo_nats']:.1f} nats"
        if "epochs" in row:
            cost = f"{row['epochs']:.0f} epochs"
        if "tflop" in row:
            cost += f", {row['tflop']:.0f} TFLOP"
        spread = f"{row['fd_least']:.0f}, {row['fd_most']:.0f}"
        print(f"| {NAMES[key]} | {fit} | {cost} ", end="")
        print(f"| {row['fd']:.1f} | {spread} | {row['sure']:.3f} |")


def main(keys):
    unknown = set(keys) - set(NAMES)
    if unknown:
        raise SystemExit(f"rows are {', '.join(NAMES)}; got {', '.join(unknown)}")
    BUILD.mkdir(exist_ok=True)
    always = [key for key in NAMES if key not in ASKED_FOR]
    for key in keys or always:
        path = BUILD / f"{key}.pt"
        if not path.exists():
            samples, row = drawn(key)
            torch.save({"samples": samples, "row": row}, path)

    target = opinions(mnist(train=False)[0])
    rows = {}
    for key in NAMES:
        path = BUILD / f"{key}.pt"
        if path.exists():
            kept = torch.load(path, weights_only=True)
            rows[key] = kept["row"] | measured(kept["samples"], target)
    print_table(rows)
    if set(always) <= set(rows):
        text = json.dumps(rows, indent=1) + "\n"
        (ROOT / "report/results/samples.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
