"""No method waits for the GPU in a step where the plain model does not."""

import pytest
import torch
from vitruvian.host.registration import register
from vitruvian.lab.benchmarks.counting import Waits, waits_per_step
from vitruvian.lab.neighbors import strengths as methods
from vitruvian.lab.neighbors.strengths import METHODS, sample
from vitruvian.tests.host import test_compose as composing
from vitruvian.tests.host import transformer_compositions as transformers
from vitruvian.tests.host.transformer_networks import make_model, text

import nodes as core

register()
FAMILY = "Flux.1 dev"  # any transformer that every host has
HOSTS = {"refiner": 2.0}  # the host's ControlNet asks twice whether its range contains a step


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def plain(loaded):
    prompts = methods.prompts(loaded[1])
    return waits_per_step(lambda steps: composing.sample(loaded[0], *prompts, steps=steps))


@pytest.mark.parametrize("name", METHODS)
def test_methods_never_wait_in_a_step(loaded, name, plain):
    model = methods.base(name, loaded)
    inputs = METHODS[name](model, *methods.prompts(loaded[1]), 1.0)
    waits = waits_per_step(lambda steps: sample(inputs, steps=steps))
    assert waits == plain + HOSTS.get(name, 0.0)


@pytest.mark.parametrize("harmony", [0.0, 0.5])
@pytest.mark.parametrize("mode", ["exact", "layers", "couple"])
def test_people_never_wait_in_a_step(loaded, mode, harmony, plain):
    name = "vitruvian_mini_openpose.safetensors"
    networks = (*loaded[:2], None, core.ControlNetLoader().load_controlnet(name)[0])
    people, poses = composing.cast(networks, *composing.TWO), composing.poses(0.3, 0.7)
    composition = composing.composed(networks, people, poses, mode=mode, harmony=harmony)
    assert waits_per_step(lambda steps: composing.sample(*composition, steps=steps)) == plain


@pytest.mark.parametrize("mode", ["exact", "couple"])
def test_people_on_a_transformer_never_wait_in_a_step(mode):
    model = make_model(FAMILY)
    prompts = [text(FAMILY, seed) for seed in range(4)]
    composition = transformers.compose(model, tuple(prompts[:2]), prompts[2:], mode=mode)
    alone = waits_per_step(lambda steps: transformers.sample(model, *prompts[:2], steps=steps))
    ours = waits_per_step(lambda steps: transformers.sample(*composition, steps=steps))
    assert ours == alone


def test_waits_are_counted():
    values = torch.arange(3.0)
    with Waits() as waits:
        float(values[0])
        bool(values[1] > 0)
        values[values > 1]
        values.nonzero()
        torch.tensor(1.0)
        values[values.long()]
    assert waits.count == 5
