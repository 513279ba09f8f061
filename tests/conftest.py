"""The notebooks' definitions, as fixtures."""

import os

# before torch and matplotlib are imported: no windows, and one thread, for tensors as
# small as these are no faster with more, and far slower where something else runs
os.environ["MPLBACKEND"] = "agg"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import nb  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402


@pytest.fixture
def vae():
    """The definitions of VAE.ipynb, as a module."""
    return nb.load("VAE.ipynb")


@pytest.fixture
def flow():
    """The definitions of RealNVP.ipynb, as a module."""
    return nb.load("RealNVP.ipynb")


@pytest.fixture(autouse=True)
def seed():
    """Every test draws the same numbers each time, whichever ran before."""
    torch.manual_seed(0)
