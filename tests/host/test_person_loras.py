"""A LoRA for each person on tiny random networks: against the host's own LoRA loader, which
changes the weights, and against a slow loop over networks that it has changed.
"""

import functools

import comfy.sd
import pytest
import torch
from torch import nn
from vitruvian.models.compose import PersonLora
from vitruvian.tests.host.test_transformers import as_positive, prompts_of
from vitruvian.tests.host.transformer_compositions import (
    Regions,
    compose,
    distance,
    sample,
)
from vitruvian.tests.host.transformer_networks import NETWORKS, is_known, make_model, text

FAMILIES = [name for name in NETWORKS if is_known(name)]
families = pytest.mark.parametrize("name", FAMILIES)
modes = pytest.mark.parametrize("mode", ["exact", "couple"])
model_of = functools.cache(make_model)
CLOSE = 1e-4
A, B = 0, 1
LAYERS = nn.Linear, nn.Conv2d, nn.Conv3d
ALL_OF = {A: Regions((((0, 12), (0, 0)),)), B: Regions((((0, 0), (0, 12)),))}


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(autouse=True, scope="module")
def forgotten():
    """Let the MODELs go while the host still can."""
    yield
    model_of.cache_clear()


def lora_of(model, seed, strength=1.0, rank=2):
    """Return a LoRA with random factors on every linear layer and convolution of a network."""
    g = torch.Generator().manual_seed(seed)
    tensors = {}
    for path, layer in model.model.diffusion_model.named_modules():
        if not isinstance(layer, LAYERS) or path.startswith("llm_adapter"):
            continue
        rows, *columns = layer.weight.shape
        size = layer.weight[0].numel() ** 0.5
        key = f"diffusion_model.{path}.lora_"
        tensors[key + "down.weight"] = torch.randn(rank, *columns, generator=g) / size
        tensors[key + "up.weight"] = 0.3 * torch.randn(
            rows, rank, *[1] * (len(columns) - 1), generator=g
        )
    return PersonLora(f"{seed}.safetensors", tensors, strength, 1.0)


def loaded(model, lora):
    """Return the MODEL with a LoRA in its weights, as the host's loader puts it there."""
    return comfy.sd.load_lora_for_models(model, None, dict(lora.tensors), lora.strength, 0.0)[0]


@families
@modes
@pytest.mark.parametrize("owner", [A, B])
def test_all_cells_one_persons_are_the_hosts_lora(name, mode, owner):
    model, prompts = model_of(name), prompts_of(name)
    people = text(name, 3), text(name, 4, 33)
    loras = lora_of(model, 5), lora_of(model, 6, 0.7)
    expected = sample(
        loaded(model, loras[owner]), as_positive(prompts[0], people[owner]), prompts[1], cfg=3.0
    )
    composed = compose(
        model, prompts, people, ALL_OF[owner], mode=mode, loras=tuple((lora,) for lora in loras)
    )
    value = sample(*composed, cfg=3.0)
    assert distance(value, expected) < CLOSE
    plain = sample(model, as_positive(prompts[0], people[owner]), prompts[1], cfg=3.0)
    assert distance(value, plain) > 0.01


@families
@modes
def test_the_same_lora_for_everybody_is_that_lora_on_the_model(name, mode):
    model, prompts = model_of(name), prompts_of(name)
    people, lora = (text(name, 3), text(name, 4, 33)), lora_of(model, 5)
    regions = Regions((((0, 8), (4, 12)),))
    value = sample(
        *compose(model, prompts, people, regions, mode=mode, harmony=1.0, loras=((lora,), (lora,))),
        cfg=3.0,
    )
    on_model = compose(loaded(model, lora), prompts, people, regions, mode=mode, harmony=1.0)
    assert distance(value, sample(*on_model, cfg=3.0)) < CLOSE


@families
@modes
def test_strength_0_is_no_lora_bit_for_bit(name, mode):
    model, prompts = model_of(name), prompts_of(name)
    people = text(name, 3), text(name, 4, 33)
    loras = (lora_of(model, 5, 0.0),), ()
    value = sample(*compose(model, prompts, people, mode=mode, loras=loras))
    assert torch.equal(value, sample(*compose(model, prompts, people, mode=mode)))
