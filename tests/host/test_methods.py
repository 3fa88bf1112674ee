"""Laws that every method except compose keeps: see methods.py for the methods."""

import pytest
import torch
from vitruvian.host.registration import register
from vitruvian.tests.host import methods
from vitruvian.tests.host.methods import METHODS, Inputs, sample

register()


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(params=METHODS)
def name(request):
    return request.param


@pytest.fixture
def applied(loaded, name):
    """strength -> the method's inputs of a sampler."""
    model, conds = methods.base(name, loaded), methods.prompts(loaded[1])
    return lambda strength=1.0: METHODS[name](model, *conds, strength)


def alone(loaded, name, latent):
    """The inputs of a sampler without the method."""
    return Inputs(methods.base(name, loaded), *methods.prompts(loaded[1]), latent)


def test_strength_0_is_not_there(loaded, name, applied):
    off, full = applied(0.0), applied()
    plain = sample(alone(loaded, name, off.latent))
    assert torch.equal(sample(off), plain)
    assert float((sample(full) - plain).norm() / plain.norm()) > 0.01
