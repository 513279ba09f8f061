"""The notebooks' definitions, as fixtures."""

import os

# before matplotlib is imported: no windows, and the defaults
os.environ["MPLBACKEND"] = "agg"

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
