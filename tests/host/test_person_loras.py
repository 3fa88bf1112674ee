"""A LoRA for each person on tiny random networks: against the host's own LoRA loader, which
changes the weights, and against a slow loop over networks that it has changed.
"""

import functools

import comfy.sd
import pytest
import torch
from torch import nn
from vitruvian.models.compose import PersonLora
from vitruvian.tests.host import slow_compose
from vitruvian.tests.host.test_transformers import as_positive, prompts_of
from vitruvian.tests.host.transformer_compositions import (
    HALVES,
    Regions,
    check_exact,
    compose,
    distance,
    sample,
    watched,
)
from vitruvian.tests.host.transformer_networks import NETWORKS, is_known, make_model, text

FAMILIES = [name for name in NETWORKS if is_known(name)]
WITH_VECTORS = [  # that tell tokens apart in what all of them read
    name
    for name in FAMILIES
    if name.startswith(("Flux.", "Qwen", "Z-Image", "Lumina", "SD3")) and name != "Flux.1 Fill"
]
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


def changed_model(name, lora):
    """Make the family's model anew, with a LoRA added to its weights."""
    base = make_model(name).model
    for path, layer in base.diffusion_model.named_modules():
        key = f"diffusion_model.{path}.lora_"
        if key + "up.weight" in lora.tensors:
            up, down = (lora.tensors[f"{key}{part}.weight"] for part in ("up", "down"))
            change = (up.flatten(1) @ down.flatten(1)).view_as(layer.weight)
            layer.weight = nn.Parameter(layer.weight + lora.strength * change)
    return base


@families
def test_exact_equals_a_slow_loop_over_networks_that_are_changed(name):
    model, prompts = model_of(name), prompts_of(name)
    people = text(name, 3), text(name, 4, 33)
    loras = lora_of(model, 5), lora_of(model, 6, 0.7)
    # behind the head of Qwen-Image, LoRAs read the mixed features of all people
    regions = Regions((HALVES,) if name == "Qwen-Image" else (((0, 8), (4, 12)),))
    composed, *conds = compose(
        model, prompts, people, regions, harmony=1.0, loras=tuple((lora,) for lora in loras)
    )
    composed, chunks = watched(composed)
    sample(composed, *conds, steps=1)
    changed = [changed_model(name, lora) for lora in loras]
    shares = regions.shares(8)
    assert check_exact(model.model, chunks, prompts, people, shares, changed) < 1e-5


@families
def test_exact_nobody_elses_lora_changes_a_person_before_the_mixing(name):
    model, prompts = model_of(name), prompts_of(name)
    people = text(name, 3), text(name, 4, 33)
    lora, head_inputs = lora_of(model, 5), []
    head = model.model.diffusion_model.get_submodule(slow_compose.layout_of(model.model).head)
    hook = head.register_forward_pre_hook(lambda _, inputs: head_inputs.append(inputs[0].clone()))
    try:
        for seed in (6, 7):
            loras = (lora,), (lora_of(model, seed),)
            sample(*compose(model, prompts, people, loras=loras), steps=1)
    finally:
        hook.remove()
    calls = len(head_inputs) // 2  # of each sampling; the first one has the first person's row
    assert torch.equal(head_inputs[0][0], head_inputs[calls][0])
    assert not torch.equal(head_inputs[calls - 1][-1], head_inputs[-1][-1])


@families
@modes
def test_strength_0_is_no_lora_bit_for_bit(name, mode):
    model, prompts = model_of(name), prompts_of(name)
    people = text(name, 3), text(name, 4, 33)
    loras = (lora_of(model, 5, 0.0),), ()
    value = sample(*compose(model, prompts, people, mode=mode, loras=loras))
    assert torch.equal(value, sample(*compose(model, prompts, people, mode=mode)))


class _Closed:
    """Attention in which nobody sees the tokens of another person: an override of the host's."""

    def __init__(self, texts, cells):
        self.owners = {len(part): part for part in (texts, cells, torch.cat((texts, cells)))}

    def __call__(self, function, q, k, v, heads, *args, **kwargs):
        owners = self.owners[k.shape[-2]]
        apart = owners[:, None] != owners
        closed = torch.zeros(apart.shape).masked_fill_(apart, torch.finfo(torch.float32).min)
        mask = kwargs.get("mask")
        kwargs["mask"] = closed if mask is None else (mask + closed).clamp(min=closed.min())
        return function(q, k, v, heads, **kwargs)

    def of(self, model):
        """Return the MODEL with this attention."""
        model = model.clone()
        options = {"optimized_attention_override": self}
        model.model_options["transformer_options"].update(options)
        return model


@pytest.mark.parametrize("name", WITH_VECTORS)
def test_in_closed_regions_of_couple_each_person_is_alone(name):
    model, (height, width) = model_of(name), (16, 24)
    tokens = 512 if name.startswith("Flux.2") else 32  # the host pads those of Flux.2
    people = text(name, 3, tokens), text(name, 4, tokens)
    prompts = text(name, 1, tokens), text(name, 2, tokens)
    loras = lora_of(model, 5), lora_of(model, 6, 0.7)
    side = 1 if name.startswith("Flux.2") else 2
    cells = (torch.arange(width // side) >= width // side // 2).long().repeat(height // side)
    owners = torch.tensor([A, B]).repeat_interleave(tokens)
    halves = Regions((((0, width // 2), (width // 2, width)),), width)
    composed, *conds = compose(
        model, prompts, people, halves, mode="couple", loras=tuple((lora,) for lora in loras)
    )
    value = sample(_Closed(owners, cells).of(composed), *conds, size=(height, width), steps=1)
    for owner, columns in ((A, slice(None, width // 2)), (B, slice(width // 2, None))):
        alone = _Closed(torch.full((tokens,), owner), cells).of(loaded(model, loras[owner]))
        entry = as_positive(prompts[0], people[owner])
        expected = sample(alone, entry, prompts[1], size=(height, width), steps=1)
        assert distance(value[..., columns], expected[..., columns]) < 1e-5


@families
@modes
def test_it_adds_to_a_lora_on_the_model_and_leaves_no_trace(name, mode):
    model, prompts = model_of(name), prompts_of(name)
    people, loras = (text(name, 3), text(name, 4, 33)), (lora_of(model, 5), lora_of(model, 6))
    plain = sample(model, *prompts)
    on_model = loaded(model, loras[A])
    composed = compose(on_model, prompts, people, ALL_OF[B], mode=mode, loras=((), (loras[B],)))
    value = sample(*composed)
    assert torch.equal(sample(*composed), value)
    with_both = loaded(on_model, loras[B])
    assert (
        distance(value, sample(with_both, as_positive(prompts[0], people[B]), prompts[1])) < CLOSE
    )
    assert torch.equal(sample(model, *prompts), plain)


@families
def test_texts_with_as_many_tokens_as_the_image_in_couple(name):
    model, cells = model_of(name), 96 if name.startswith("Flux.2") else 24
    people = text(name, 3, cells // 2), text(name, 4, cells // 2)
    prompts, lora = prompts_of(name, lengths=(24, cells)), lora_of(model, 5)
    composed = compose(model, prompts, people, ALL_OF[A], mode="couple", loras=((lora,), ()))
    value = sample(*composed, cfg=3.0)
    entry = as_positive(prompts[0], people[A])
    assert distance(value, sample(loaded(model, lora), entry, prompts[1], cfg=3.0)) < CLOSE


@families
@modes
def test_each_image_of_a_batch_has_places_of_its_own(name, mode):
    model, prompts = model_of(name), prompts_of(name)
    people = text(name, 3), text(name, 4, 33)
    loras = lora_of(model, 5), lora_of(model, 6, 0.7)
    frames = Regions((ALL_OF[A].frames[0], ALL_OF[B].frames[0]))
    composed, *conds = compose(
        model, prompts, people, frames, mode=mode, loras=tuple((lora,) for lora in loras)
    )
    composed, chunks = watched(composed)
    sample(composed, *conds, batch=2, steps=1)
    (chunk,) = chunks
    for image, owner in enumerate((A, B)):
        entry = slow_compose.entry_of(as_positive(prompts[0], people[owner]))
        base = changed_model(name, loras[owner])
        expected = slow_compose.plain(base, chunk.x, chunk.sigma, entry)
        assert distance(chunk.denoised[image], expected[image]) < 1e-5


@families
@modes
def test_the_scene_has_no_lora(name, mode):
    model, prompts = model_of(name), prompts_of(name)
    people = text(name, 3), text(name, 4, 33)
    loras = (lora_of(model, 5),), (lora_of(model, 6),)
    nowhere = Regions((((0, 0), (0, 0)),))
    composed = compose(model, prompts, people, nowhere, mode=mode, scene=True, loras=loras)
    assert distance(sample(*composed), sample(model, *prompts)) < CLOSE
