"""Samples measured, not praised: how far 10,000 samples of each model are from the
test images, and how they read.

    python benchmarks/samples.py              all rows: an hour on 2 cores
    python benchmarks/samples.py flow vae     these rows

Each flow is trained in full, with RealNVP.ipynb's own functions and parameters: the
flow as asked, and each of the notebook's three steps. A row that is done stays done: it
is kept in benchmarks/build/, and only missing rows are trained. Delete that folder to
start afresh, after a change to a notebook, say.
When all are there, they go to report/results/samples.json, which the report reads, and
16 samples of the flow without Bend to report/figures/realnvp_samples_plain.png.

Two numbers for each row come from a small classifier of digits:

* FD, the Fréchet distance in the space of its 64 features:
  |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) for mean and covariance of the features of
  samples and of test images (Heusel et al. 2017, eq. 6, there with Inception features);
* sure, the share of samples to which it gives a digit with a probability above 0.9.
"""

import json
import math
import sys
from pathlib import Path

import matplotlib
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

matplotlib.use("agg")
ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "benchmarks/build"
SAMPLES = 10_000
sys.path.insert(0, str(ROOT / "tests"))
from nb import load  # noqa: E402

NAMES = {
    "images": "training images (the floor)",
    "asked": "as asked: logit, fully connected s and t",
    "gaussianize": "+ Gaussianize in place of the logit",
    "nobend": "+ s and t that see the half as an image",
    "flow": "+ Bend: RealNVP.ipynb's answer",
    "vae": "VAE.ipynb, pixel probabilities",
    "usual": "VAE 300-300, 10 latents, pixel probabilities",
}


# ------------------------------------------------------------------ the classifier


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


def trained_classifier(kind, epochs=5, batch=200):
    """Returns the classifier, trained once and kept.

    Args:
        kind: "test": trained on all training images, measured on the test images;
            "held out": trained on the first 50,000, measured on the last 10,000.

    Raises:
        RuntimeError: it gets fewer than 99 % of those 10,000 right.
    """
    BUILD.mkdir(exist_ok=True)
    path = BUILD / f"classifier {kind}.pt"
    net = classifier()
    if path.exists():
        net.load_state_dict(torch.load(path, weights_only=True))
        return net.eval()

    images, labels = mnist(train=True)
    other, other_labels = mnist(train=False)
    if kind == "held out":
        other, other_labels = images[-10_000:], labels[-10_000:]
        images, labels = images[:-10_000], labels[:-10_000]

    torch.manual_seed(0)
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
        found = torch.cat([net(part / 255).argmax(1) for part in other.split(1000)])
    accuracy = (found == other_labels).double().mean().item()
    print(f"classifier: {accuracy:.2%} of the {kind} images right", flush=True)
    if accuracy < 0.99:
        raise RuntimeError(f"the classifier must get 99 % right, got {accuracy:.2%}")
    torch.save(net.state_dict(), path)
    return net


@torch.no_grad()
def features(net, images):
    """Features of images (n, 784), (n, 64), and how sure the answer is, (n,)."""
    parts = images.float().split(1000)
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


# ------------------------------------------------------------------ the models


def tflop_per_image(model, images):
    """The cost of a training step for one image, in TFLOP (forward and backward)."""
    batch = images[:32]
    with FlopCounterMode(display=False) as counter:
        model.bits_per_dim(batch).mean().backward()
    model.zero_grad(set_to_none=True)
    return counter.get_total_flops() / len(batch) / 1e12


def build_flow(nb, key, images):
    """Returns an untrained flow of the row `key`, as RealNVP.ipynb builds it."""
    torch.manual_seed(nb["SEED"])
    pairs = range(nb["PAIRS"])
    if key in ("asked", "gaussianize"):
        nets = [nb["FullyConnected"](392, nb["HIDDEN"]) for _ in pairs]
    else:
        nets = nb["convolutional_nets"](nb["PAIRS"], nb["CHANNELS"], nb["UNITS"])

    gaussianize = nb["Gaussianize"](images, nb["HISTOGRAM_STRENGTH"])
    elementwise = [gaussianize]
    if key == "asked":
        elementwise = [nb["Logit"](1e-6)]
    if key == "flow":
        elementwise = [gaussianize, nb["Bend"](nb["zero_edge"](gaussianize))]
    return nb["RealNVP"](elementwise, nb["checkerboard"](), nets)


def flow(key):
    """Trains the flow of the row `key` in full; returns its samples and its row."""
    nb = load("RealNVP.ipynb")
    images, _ = mnist(train=True)
    test_images, _ = mnist(train=False)
    model = build_flow(nb, key, images)
    tflop = tflop_per_image(model, images) * len(images) * nb["EPOCHS"]

    torch.manual_seed(nb["SEED"])
    nb["train"](model, images, {}, nb["EPOCHS"])

    torch.manual_seed(nb["SEED"])
    u = torch.rand(test_images.shape)
    bits = nb["mean_nll"](model, test_images, u) / (784 * math.log(2))
    # the samples depend on the model alone
    torch.manual_seed(nb["SEED"])
    sixteen = model.sample(16)
    if key == "nobend":
        plot_sixteen(nb, sixteen)
    rest = [model.sample(500) for _ in range(SAMPLES // 500)]
    row = {"bits_per_dim": bits, "epochs": nb["EPOCHS"], "tflop": tflop}
    return torch.cat(rest) / 255, row


def plot_sixteen(nb, samples):
    """Draws the 16 samples of the flow without Bend for the report."""
    nb["plt"].rcdefaults()
    nb["plt"].rcParams.update(nb["STYLE"])
    fig, ax = nb["plt"].subplots(figsize=(2.3, 2.45))
    nb["plot_images"](samples / 255, 4, ax, "16 random samples, without Bend")
    fig.savefig(ROOT / "report/figures/realnvp_samples_plain.png", dpi=200)


def vae():
    """Trains the VAE of VAE.ipynb; returns pixel probabilities of samples, its row."""
    nb = load("VAE.ipynb")
    images, _ = mnist(train=True)
    test_images, _ = mnist(train=False)
    # as the notebook: the curves' sets draw random numbers, too
    fixed = torch.Generator().manual_seed(nb["SEED"])
    x_test = nb["binarize"](test_images, fixed)
    x_train = nb["binarize"](images[:10_000], fixed)
    sets = {"train": x_train, "test": x_test}

    model = nb["VAE"](nb["Z_DIM"], images.float().mean(0) / 255)
    torch.manual_seed(nb["SEED"])
    nb["train"](model, images, sets, nb["EPOCHS"], nb["nelbo_loss"])
    samples, row = measure_vae(nb, model, x_test)
    return samples, row | {"epochs": nb["EPOCHS"]}


def usual_vae(iterations=20_000, batch=100):
    """The course's usual network: 784-300-300, ELU, 10 latents, Adam at 1e-3.

    Trained on the one-sample bound; returns pixel probabilities of samples, its row.
    """
    nb = load("VAE.ipynb")
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

    torch.manual_seed(nb["SEED"])
    model = nb["VAE"](10)
    model.encoder = net(784, 20)
    model.decoder = net(10, 784)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(iterations):
        x = nb["binarize"](images[torch.randint(len(images), (batch,))])
        optimizer.zero_grad()
        model.negative_elbo_bound(x)[0].backward()
        optimizer.step()

    x_test = nb["binarize"](test_images, torch.Generator().manual_seed(nb["SEED"]))
    samples, row = measure_vae(nb, model, x_test)
    return samples, row | {"epochs": iterations * batch / len(images)}


@torch.no_grad()
def measure_vae(nb, model, x_test):
    """Returns pixel probabilities of SAMPLES samples, (n, 784), and the row."""
    torch.manual_seed(nb["SEED"])
    nelbo = nb["evaluate"](model, x_test)["nelbo"]
    torch.manual_seed(nb["SEED"])
    return model.sample_sigmoid(SAMPLES), {"nelbo_nats": nelbo}


def floor(key):
    """10,000 training images."""
    images, _ = mnist(train=True)
    return images[:SAMPLES] / 255, {}


# ------------------------------------------------------------------ the table


def make_row(key, net, target):
    """Returns the row `key`: the model's own numbers, FD and sure."""
    if key == "images":
        samples, row = floor(key)
    elif key == "vae":
        samples, row = vae()
    elif key == "usual":
        samples, row = usual_vae()
    else:
        samples, row = flow(key)
    found, sure = features(net, samples)
    row["fd"] = frechet(found, target)
    row["sure"] = (sure > 0.9).double().mean().item()
    return row


def print_table(rows):
    """Prints the rows as a table in Markdown."""
    print("| | on the test images | training | FD | sure |")
    print("| --- | --- | --- | --- | --- |")
    for key, row in rows.items():
        fit = ""
        if "bits_per_dim" in row:
            fit = f"{row['bits_per_dim']:.3f} bits/dim"
        if "nelbo_nats" in row:
            fit = f"negative ELBO {row['nelbo_nats']:.1f} nats"
        cost = ""
        if "epochs" in row:
            cost = f"{row['epochs']:.0f} epochs"
        if "tflop" in row:
            cost += f", {row['tflop']:.0f} TFLOP"
        print(f"| {NAMES[key]} | {fit} | {cost} ", end="")
        print(f"| {row['fd']:.1f} | {row['sure']:.3f} |")


def main(keys):
    unknown = set(keys) - set(NAMES)
    if unknown:
        raise SystemExit(f"rows are {', '.join(NAMES)}; got {', '.join(unknown)}")
    BUILD.mkdir(exist_ok=True)
    net = trained_classifier("test")
    target, _ = features(net, mnist(train=False)[0] / 255)

    for key in keys or NAMES:
        path = BUILD / f"{key}.json"
        if not path.exists():
            path.write_text(json.dumps(make_row(key, net, target)), encoding="utf-8")

    rows = {}
    for key in NAMES:
        path = BUILD / f"{key}.json"
        if path.exists():
            rows[key] = json.loads(path.read_text("utf-8"))
    print_table(rows)
    if len(rows) == len(NAMES):
        text = json.dumps(rows, indent=1) + "\n"
        (ROOT / "report/results/samples.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
