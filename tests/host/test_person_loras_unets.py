"""A LoRA for each person on networks of the shape of SD1.5, SD2 and SDXL: against the host's own
LoRA loader, which changes the weights.
"""

import collections
import contextlib
import functools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from vitruvian.lab.neighbors import stand_ins
from vitruvian.tests.host.test_person_loras import ALL_OF, CLOSE, loaded, lora_of
from vitruvian.tests.host.transformer_compositions import Regions, compose, distance, sample

modes = pytest.mark.parametrize("mode", ["exact", "layers", "couple"])
LATENT = {"size": (8, 12), "cfg": 3.0}


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture
def prompts(family, random_text):
    return random_text(family[0], 1), random_text(family[0], 2)


@pytest.fixture
def people(family, random_text):
    return random_text(family[0], 3), random_text(family[0], 4)


@modes
@pytest.mark.parametrize("shared_negative", [True, False])
@pytest.mark.parametrize("owner", [0, 1])
def test_all_cells_one_persons_are_the_hosts_lora(
    family, prompts, people, mode, owner, shared_negative
):
    model = family[0]
    loras = lora_of(model, 5), lora_of(model, 6, 0.7)
    composed = compose(
        model,
        prompts,
        people,
        ALL_OF[owner],
        mode=mode,
        shared_negative=shared_negative,
        loras=tuple((lora,) for lora in loras),
    )
    value = sample(*composed, **LATENT)
    expected = sample(loaded(model, loras[owner]), people[owner], prompts[1], **LATENT)
    assert distance(value, expected) < CLOSE
    assert distance(value, sample(model, people[owner], prompts[1], **LATENT)) > 0.01


@modes
def test_the_same_lora_for_everybody_is_that_lora_on_the_model(family, prompts, people, mode):
    model, lora = family[0], lora_of(family[0], 5)
    settings = {"regions": Regions((((0, 8), (4, 12)),)), "mode": mode, "harmony": 1.0}
    value = sample(*compose(model, prompts, people, **settings, loras=((lora,), (lora,))), **LATENT)
    on_model = compose(loaded(model, lora), prompts, people, **settings)
    assert distance(value, sample(*on_model, **LATENT)) < CLOSE


@modes
def test_strength_0_is_no_lora_bit_for_bit(family, prompts, people, mode):
    model = family[0]
    composed = compose(model, prompts, people, mode=mode, loras=((lora_of(model, 5, 0.0),), ()))
    plain = compose(model, prompts, people, mode=mode)
    assert torch.equal(sample(*composed, **LATENT), sample(*plain, **LATENT))


@pytest.mark.parametrize("family", ["SDXL"], indirect=True)
def test_couple_every_person_has_their_own_pooled_text_and_loras_of_the_time(
    family, prompts, people
):
    """With attention closed and kernels of one cell, nothing flows between the halves."""
    model = family[0]
    loras = [_of_vectors(lora_of(model, seed)) for seed in (5, 6)]
    halves = Regions((((0, 8), (8, 16)),), 16)
    composed, *conds = compose(
        model, prompts, people, halves, mode="couple", loras=tuple((lora,) for lora in loras)
    )
    with _alone_in_every_cell(model):
        value = sample(composed, *conds, size=(8, 16), steps=1)
        for owner, columns in ((0, slice(None, 8)), (1, slice(8, None))):
            merged = loaded(model, loras[owner])
            expected = sample(merged, people[owner], prompts[1], size=(8, 16), steps=1)
            assert distance(value[..., columns], expected[..., columns]) < 1e-5


def _of_vectors(lora):
    """Keep what a LoRA changes in the layers of the time and the pooled text."""
    names = "time_embed", "label_emb", "emb_layers"
    vector_layers = {k: v for k, v in lora.tensors.items() if any(name in k for name in names)}
    return lora._replace(tensors=vector_layers)


@contextlib.contextmanager
def _alone_in_every_cell(model):
    """Let every cell see itself only: no attention, no norm over cells, no change of the size."""
    network = model.model.diffusion_model

    def nothing(_, __, output):
        return torch.zeros_like(output)

    def centers(layer, inputs, _):
        weight = layer.weight.sum((2, 3), keepdim=True)
        return torch.nn.functional.conv2d(inputs[0], weight, layer.bias)

    def as_it_is(_, inputs, __):
        return inputs[0]

    hooks = []
    for path, layer in network.named_modules():
        if path.endswith(("attn1", "attn2")):
            hooks.append(layer.register_forward_hook(nothing))
        elif isinstance(layer, torch.nn.GroupNorm):
            hooks.append(layer.register_forward_hook(as_it_is))
        elif isinstance(layer, torch.nn.Conv2d) and layer.stride == (1, 1):
            hooks.append(layer.register_forward_hook(centers))
        elif isinstance(layer, torch.nn.Conv2d):
            hooks.append(layer.register_forward_hook(_first_of_four))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _first_of_four(layer, inputs, _):
    weight = layer.weight.sum((2, 3), keepdim=True)
    return torch.nn.functional.conv2d(inputs[0], weight, layer.bias, stride=2)


def _counted(operations, call):
    """Count how often operations run in a call."""
    counts = collections.Counter()

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            counts[func._schema.name] += 1
            return func(*args, **(kwargs or {}))

    with Counting():
        call()
    return sum(counts[name] for name in operations)


@modes
def test_a_step_waits_no_more_often_with_loras(family, prompts, people, mode):
    """What makes a device wait is done once per sampling."""
    waiting = ["aten::nonzero", "aten::_local_scalar_dense", "aten::is_nonzero", "aten::item"]
    counts = []
    for loras in ((), ((lora_of(family[0], 5),), (lora_of(family[0], 6),))):
        composed = compose(family[0], prompts, people, mode=mode, loras=loras)
        few, more = (
            _counted(waiting, functools.partial(sample, *composed, **LATENT, steps=steps))
            for steps in (2, 5)
        )
        counts.append(more - few)
    assert counts[1] == counts[0]


def test_tiles_of_another_node(family, prompts, people):
    """In the mode exact, all tiles are their person's; couple refuses them in words."""
    tiled = stand_ins.tiled_self_attention(family[0])
    lora, settings = lora_of(family[0], 5), {**LATENT, "steps": 1}
    exact, couple = (
        compose(
            tiled, prompts, people, ALL_OF[0], loras=((lora,), ()), shared_negative=False, mode=mode
        )
        for mode in ("exact", "couple")
    )
    expected = sample(loaded(tiled, lora), people[0], prompts[1], **settings)
    assert distance(sample(*exact, **settings), expected) < CLOSE
    plain = sample(loaded(family[0], lora), people[0], prompts[1], **settings)
    assert distance(expected, plain) > 1e-3  # or else there were no tiles
    with pytest.raises(ValueError, match="^Compose Instances: .* reads the image in parts"):
        sample(*couple, **settings)
