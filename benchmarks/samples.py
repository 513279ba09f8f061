"""Samples measured, not praised: how far 10,000 samples of each model are from the test images, and how they read.

    python benchmarks/samples.py              all rows: an hour on 2 cores
    python benchmarks/samples.py flow vae     these rows

A row that is done stays done: it is kept in benchmarks/build/, and only missing rows are trained. Delete that folder to
start afresh (after a change to a notebook, say). When all are there, they go to report/results/samples.json, which the
report reads. Two figures for each row, from a small classifier of digits:

* FD, the Fréchet distance in the space of its 64 features: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) for mean and
  covariance of the samples' and the test images' features (Heusel et al. 2017, eq. 6, there with Inception features);
* sure, the share of samples to which it gives a digit with a probability above 0.9.
"""

import contextlib
import json
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "benchmarks/build"
SAMPLES = 10_000
sys.path.insert(0, str(ROOT / "tests"))
from conftest import load_definitions  # noqa: E402


def classifier():
    """Returns an untrained network: images (n, 784) in [0, 1] -> 10 logits (n, 10), by way of 64 features."""
    return nn.Sequential(
        *(nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1)),
        *(nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.1), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.3)),
        *(nn.Linear(3136, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def trained_classifier(data, epochs=5, batch=200):
    """Returns the classifier, trained once and kept; at least 99 % of the test images right, or RuntimeError."""
    net, path = classifier(), BUILD / "classifier.pt"
    if path.exists():
        net.load_state_dict(torch.load(path, weights_only=True))
        return net.eval()
    torch.manual_seed(0)
    (images, labels), (test_images, test_labels) = data[True], data[False]
    optimizer = torch.optim.AdamW(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, epochs * math.ceil(len(images) / batch))
    for _ in range(epochs):
        for index in torch.randperm(len(images)).split(batch):
            optimizer.zero_grad()
            F.cross_entropy(net(images[index] / 255), labels[index]).backward()
            optimizer.step()
            schedule.step()
    net.eval()
    with torch.no_grad():
        found = torch.cat([net(part / 255).argmax(1) for part in test_images.split(1000)])
    accuracy = (found == test_labels).double().mean().item()
    if accuracy < 0.99:
        raise RuntimeError(f"the classifier must get 99 % of the test images right, got {accuracy:.2%}")
    print(f"classifier: {accuracy:.2%} of the test images right", flush=True)
    torch.save(net.state_dict(), path)
    return net


@torch.no_grad()
def features(net, images):
    """Returns features (n, 64), float64, and the probability of the classifier's answer, (n,), of images (n, 784)."""
    found = torch.cat([net[:-1](part) for part in images.float().split(1000)])
    return found.double(), net[-1](found).softmax(1).amax(1)


def frechet(a, b):
    """Returns the Fréchet distance between the Gaussians fitted to features a and b, each (n, k), float64."""
    root = torch.linalg.eigvals(a.T.cov() @ b.T.cov()).real.clamp(min=0).sqrt().sum()  # tr (C1 C2)^(1/2)
    return ((a.mean(0) - b.mean(0)).square().sum() + a.T.cov().trace() + b.T.cov().trace() - 2 * root).item()


def flow(data, elementwise=None, fully_connected=False):
    """Trains a flow as RealNVP.ipynb does, on all training images -> (samples, its test bits/dim)."""
    nb = load_definitions("RealNVP.ipynb")
    images, _ = data[True]
    if fully_connected:
        nb |= {"LR": 3e-3, "BATCH": 256, "EPOCHS": 12}  # what was chosen for this flow, on held-out images
    layers = elementwise(nb, images) if elementwise else nb["gaussianize_and_bend"](images)
    networks = [nb["MLP"](392, nb["HIDDEN"]) for _ in range(nb["PAIRS"])] if fully_connected else nb["networks"]()
    model = nb["RealNVP"](layers, nb["checkerboard"](), networks)
    torch.manual_seed(nb["SEED"])  # as the notebook: the same model
    nb["train"](model, images, {}, nb["EPOCHS"])
    return flow_figures(nb, model, data)


def flow_figures(nb, model, data):
    test_images, _ = data[False]
    u = torch.rand(test_images.shape, generator=torch.Generator().manual_seed(0))
    bits = nb["evaluate"](model, test_images, u)["bits_per_dim"]
    torch.manual_seed(0)  # the samples, too, depend on the model alone
    return torch.cat([model.sample(500) for _ in range(SAMPLES // 500)]) / 255, {"bits_per_dim": bits}


def vae(data):
    """Trains the VAE of VAE.ipynb -> (pixel probabilities of samples, its test negative ELBO)."""
    nb = load_definitions("VAE.ipynb")
    images, _ = data[True]
    fixed = torch.Generator().manual_seed(nb["SEED"])
    sets = {name: nb["binarize"](part[:10_000], fixed) for name, part in (("test", data[False][0]), ("train", images))}
    model = nb["VAE"](nb["Z_DIM"], images.float().mean(0) / 255)
    torch.manual_seed(nb["SEED"])  # as the notebook, with its curves' sets, which draw random numbers: the same model
    nb["train"](model, images, {"train": sets["train"], "test": sets["test"]}, nb["EPOCHS"])
    return vae_figures(nb, model, data)


def usual_vae(data, iterations=20_000, batch=100):
    """The course's usual network, 784-300-300 with ELU and 10 latents, Adam at 1e-3 on the one-sample bound."""
    nb = load_definitions("VAE.ipynb")
    images, _ = data[True]
    model = nb["VAE"](10, torch.full((784,), 0.5))  # every pixel is drawn by the decoder; inputs are x - 0.5

    def net(n_in, n_out):
        return nn.Sequential(nn.Linear(n_in, 300), nn.ELU(), nn.Linear(300, 300), nn.ELU(), nn.Linear(300, n_out))

    model.encoder, model.decoder = net(784, 20), net(10, 784)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(iterations):
        x = nb["binarize"](images[torch.randint(len(images), (batch,))])
        optimizer.zero_grad()
        model.negative_elbo_bound(x)[0].backward()
        optimizer.step()
    return vae_figures(nb, model, data)


@torch.no_grad()
def vae_figures(nb, model, data):
    x = nb["binarize"](data[False][0], torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    return model.sample_sigmoid(SAMPLES), {"nelbo_nats": nb["evaluate"](model, x)["nelbo"]}


ROWS = {  # name: (what it is, data -> (samples (10,000, 784) in [0, 1], figures of the model))
    "images": ("training images (the floor)", lambda data: (data[True][0][:SAMPLES] / 255, {})),
    "flow": ("RealNVP.ipynb", flow),
    "mlp": ("the same, s and t fully connected (512 units)", lambda data: flow(data, fully_connected=True)),
    "nobend": ("without Bend", lambda data: flow(data, lambda nb, images: [nb["Gaussianize"](images)])),
    "logit": ("behind a logit (1e-6)", lambda data: flow(data, lambda nb, images: [nb["Logit"](1e-6)])),
    "vae": ("VAE.ipynb, pixel probabilities", vae),
    "usual": ("VAE 300-300, 10 latents, pixel probabilities", usual_vae),
}


def main(names):
    unknown = set(names) - set(ROWS)
    if unknown:
        raise SystemExit(f"rows are {', '.join(ROWS)}; got {', '.join(sorted(unknown))}")
    BUILD.mkdir(exist_ok=True)
    load = load_definitions("RealNVP.ipynb")["load_mnist"]
    data = {train: load(ROOT / "data", train=train) for train in (True, False)}
    net = trained_classifier(data)
    target, _ = features(net, data[False][0] / 255)
    for name in names or ROWS:
        path = BUILD / f"{name}.json"
        if not path.exists():
            torch.manual_seed(0)
            with contextlib.redirect_stdout(sys.stderr):  # the bars
                samples, row = ROWS[name][1](data)
            found, sure = features(net, samples)
            row |= {"fd": frechet(found, target), "sure": (sure > 0.9).double().mean().item()}
            path.write_text(json.dumps(row), encoding="utf-8")
    paths = {name: BUILD / f"{name}.json" for name in ROWS}
    rows = {name: json.loads(path.read_text("utf-8")) for name, path in paths.items() if path.exists()}
    print("| | test images | FD | sure |\n| --- | --- | --- | --- |")
    for name, row in rows.items():
        bits, nats = row.get("bits_per_dim"), row.get("nelbo_nats")
        fit = f"{bits:.3f} bits/dim" if bits else f"negative ELBO {nats:.1f} nats" if nats else ""
        print(f"| {ROWS[name][0]} | {fit} | {row['fd']:.1f} | {row['sure']:.3f} |")
    if len(rows) == len(ROWS):
        (ROOT / "report/results/samples.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
