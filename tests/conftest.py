"""The notebooks' definitions, as fixtures."""

import os

# before matplotlib is imported: no windows, and the defaults
os.environ["MPLBACKEND"] = "agg"

import nb  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402


class Definitions:
    """A notebook's functions, classes and constants, as attributes.

    One that a test replaces (monkeypatch.setattr) is replaced for the notebook's own
    functions, too.
    """

    def __init__(self, name):
        self.__dict__ = nb.load(name)


@pytest.fixture
def vae():
    """The definitions of VAE.ipynb."""
    return Definitions("VAE.ipynb")


@pytest.fixture
def flow():
    """The definitions of RealNVP.ipynb."""
    return Definitions("RealNVP.ipynb")


@pytest.fixture(autouse=True)
def seed():
    """Every test draws the same numbers each time, whichever ran before."""
    torch.manual_seed(0)
