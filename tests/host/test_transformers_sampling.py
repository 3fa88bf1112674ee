"""Composition on diffusion transformers in all that a sampling can be: guiders, parts of a
schedule, LoRAs, precisions, other patches, torch.compile, and errors.
"""

import functools

import comfy.hooks
import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import comfy.sd
import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_custom_sampler import Guider_Basic, Guider_DualCFG
from vitruvian.tests.host.transformer_compositions import (
    HALVES,
    Regions,
    check_exact,
    compose,
    distance,
    sample,
    watched,
)
from vitruvian.tests.host.transformer_networks import (
    NETWORKS,
    empty_latent,
    is_known,
    make_model,
    text,
)

import nodes as core

FAMILIES = [name for name in NETWORKS if is_known(name)]
families = pytest.mark.parametrize("name", FAMILIES)
modes = pytest.mark.parametrize("mode", ["exact", "couple"])
model_of = functools.cache(make_model)
SHARES = Regions((HALVES,)).shares(8)
CLOSE = 1e-5


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(autouse=True, scope="module")
def forgotten():
    """Let the MODELs go while the host still can."""
    yield
    model_of.cache_clear()


def cast_of(name):
    """Return positive and negative, and two people with texts of other lengths."""
    return (text(name, 1, 24), text(name, 2, 20)), [text(name, 5, 20), text(name, 6, 33)]


def guided(guider, *, steps=2):
    """Sample with a guider as the host's custom sampler does it."""
    model = guider.model_patcher
    latent = empty_latent(model)["samples"]
    noise = torch.randn(latent.shape, generator=torch.manual_seed(3))
    sigmas = comfy.samplers.calculate_sigmas(
        model.get_model_object("model_sampling"), "simple", steps
    )
    return guider.sample(noise, latent, comfy.samplers.sampler_object("euler"), sigmas)


@families
@modes
def test_guiders(name, mode):
    prompts, people = cast_of(name)
    model, positive, negative = compose(model_of(name), prompts, people, mode=mode)
    for cfg in (1.0, 3.0):
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive, negative)
        guider.set_cfg(cfg)
        assert torch.equal(guided(guider), sample(model, positive, negative, cfg=cfg))
    basic = Guider_Basic(model)
    basic.set_conds(positive)
    assert torch.equal(guided(basic), sample(model, positive, negative))


def dual(model, positive, second, negative):
    """Make a guider with two positives; the host asks for the negative first, then for them."""
    guider = Guider_DualCFG(model)
    guider.set_conds(positive, second, negative)
    guider.set_cfg(3.0, 2.0)
    return guider


@families
def test_guidance_by_two_positives(name):
    """The chunks come in another order and number: of a composed, a plain and a negative prompt."""
    prompts, people = cast_of(name)
    second = text(name, 9, 20)
    model, *conditionings = compose(model_of(name), prompts, people)
    model, chunks = watched(model)
    guided(dual(model, conditionings[0], conditionings[1], conditionings[1]), steps=1)
    assert len(chunks) == 3
    assert check_exact(model.model, chunks, prompts, people, SHARES) < CLOSE

    regions = Regions((((0, 0), (0, 12)),))
    alone = guided(dual(model_of(name), people[1], second, prompts[1]))
    for mode in ("exact", "couple"):
        model, positive, negative = compose(model_of(name), prompts, people, regions, mode=mode)
        assert distance(guided(dual(model, positive, second, negative)), alone) < CLOSE


@families
@modes
def test_two_parts_are_one_sampling(name, mode):
    prompts, people = cast_of(name)
    model, positive, negative = compose(model_of(name), prompts, people, mode=mode, harmony=0.5)
    advanced = core.KSamplerAdvanced()

    def part(latent, noise, first, last, leftover):
        return advanced.sample(
            model, noise, 3, 4, 3.0, "euler", "simple", positive, negative, latent, first, last,
            leftover,
        )[0]  # fmt: skip

    latent = empty_latent(model)
    halfway = part(latent, "enable", 0, 2, "enable")
    parts = part(halfway, "disable", 2, 4, "disable")["samples"]
    entire = part(latent, "enable", 0, 4, "disable")["samples"]
    assert distance(parts, entire) < CLOSE


def lora_of(model):
    """Return a LoRA for some weights of the blocks, under the host's generic names."""
    g, lora = torch.Generator().manual_seed(8), {}
    weights = [
        (key.removesuffix(".weight"), weight.shape)
        for key, weight in model.model.named_parameters()
        if key.endswith(".weight")
        and weight.dim() == 2
        and ("block" in key or ".layers." in key)
        and "llm_adapter" not in key  # runs before the sampling, where no hook reaches
    ]
    for key, (rows, columns) in weights[::3]:
        lora[f"{key}.lora_up.weight"] = torch.randn(rows, 2, generator=g) / columns**0.5
        lora[f"{key}.lora_down.weight"] = torch.randn(2, columns, generator=g) / 2
    return lora


def with_lora(model):
    """Load the LoRA as the host's node does it."""
    return comfy.sd.load_lora_for_models(model, None, lora_of(model), 1.0, 0.0)[0]


def merged(name):
    """Return another MODEL with the LoRA merged into its weights."""
    model = make_model(name)
    lora = lora_of(model)
    for key in lora:
        if key.endswith(".lora_up.weight"):
            change = lora[key] @ lora[key.replace("lora_up", "lora_down")]
            model.model.get_submodule(key.removesuffix(".lora_up.weight")).weight.data += change
    return model


@families
@modes
def test_a_lora_on_the_model_and_as_a_hook(name, mode):
    (positive, negative), people = cast_of(name)

    def composed(model, positive=positive):
        return sample(*compose(model, (positive, negative), people, mode=mode))

    model, expected = model_of(name), composed(merged(name))
    without = composed(model)
    assert distance(without, expected) > 1e-3
    assert distance(composed(with_lora(model)), expected) < CLOSE
    hook = comfy.hooks.create_hook_lora(lora_of(model), 1.0, 1.0)
    hooked = comfy.hooks.set_hooks_for_conditioning(positive, hook)
    assert distance(composed(model, hooked), expected) < CLOSE
    assert torch.equal(composed(model), without)


@families
@modes
def test_low_memory_patches_weights_at_use(name, mode, monkeypatch):
    """Some weights are left where they are, and get the LoRA whenever they are used."""
    prompts, people = cast_of(name)
    expected = sample(*compose(merged(name), prompts, people, mode=mode))
    load, patched_at_use = comfy.model_patcher.ModelPatcher.load, []

    def load_a_part(self, *args, **named):
        load(self, *args, **{**named, "lowvram_model_memory": 1, "full_load": False})
        patched_at_use.append(self.lowvram_patch_counter())

    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "load", load_a_part)
    model = with_lora(make_model(name))
    assert distance(sample(*compose(model, prompts, people, mode=mode)), expected) < CLOSE
    assert max(patched_at_use) > 0


@families
def test_weights_in_fp8(name):
    prompts, people = cast_of(name)
    model = make_model(name, torch.float8_e4m3fn, torch.float32)
    composed, *conditionings = compose(model, prompts, people)
    composed, chunks = watched(composed)
    sample(composed, *conditionings, steps=1, cfg=3.0)
    assert check_exact(model.model, chunks, prompts, people, SHARES) < CLOSE
    regions = Regions((((0, 0), (0, 12)),))
    coupled = sample(*compose(model, prompts, people, regions, mode="couple"))
    assert distance(coupled, sample(model, people[1], prompts[1])) < CLOSE


@families
@modes
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_near_full(name, mode, dtype):
    prompts, people = cast_of(name)
    full = sample(*compose(model_of(name), prompts, people, mode=mode), steps=1, cfg=3.0)
    half = sample(*compose(make_model(name, dtype), prompts, people, mode=mode), steps=1, cfg=3.0)
    plain = sample(make_model(name, dtype), *prompts, steps=1, cfg=3.0)
    rounding = distance(plain, sample(model_of(name), *prompts, steps=1, cfg=3.0))
    assert half.isfinite().all()
    assert distance(half, full) < 3 * rounding + 1e-3


@families
@modes
def test_clones_and_runs_repeat(name, mode):
    prompts, people = cast_of(name)
    model, *conditionings = compose(model_of(name), prompts, people, mode=mode)
    plain = sample(model_of(name), *prompts)
    first = sample(model, *conditionings)
    assert torch.equal(sample(model, *conditionings), first)
    assert torch.equal(sample(model.clone(), *conditionings), first)
    assert torch.equal(sample(model_of(name), *prompts), plain)
    comfy.model_management.unload_all_models()
    assert torch.equal(sample(model, *conditionings), first)
    assert distance(sample(with_lora(model), *conditionings), first) > 1e-3
    assert torch.equal(sample(model, *conditionings), first)


def hook_count(model):
    """Count the hooks on all modules of the network."""
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for module in model.model.modules()
    )


@families
@modes
def test_an_error_leaves_no_hook(name, mode):
    prompts, people = cast_of(name)
    model = model_of(name)
    plain, before = sample(model, *prompts), hook_count(model)
    calls = []

    def fail(function, *args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise RuntimeError("the third attention fails")
        return function(*args, **kwargs)

    composed, *conditionings = compose(model, prompts, people, mode=mode)
    failing = composed.clone()
    failing.model_options["transformer_options"]["optimized_attention_override"] = fail
    with pytest.raises(RuntimeError, match="the third attention fails"):
        sample(failing, *conditionings)
    assert hook_count(model) == before
    assert torch.equal(sample(model, *prompts), plain)


@families
def test_another_packs_attention_counts(name):
    """An attention override on the model, before Compose Instances and behind it."""
    prompts, people = cast_of(name)

    def sharper(function, q, *args, **kwargs):
        return function(q * 1.5, *args, **kwargs)

    def with_override(model):
        model = model.clone()
        model.model_options["transformer_options"]["optimized_attention_override"] = sharper
        return model

    plain = with_override(model_of(name))
    regions = Regions((((0, 0), (0, 12)),))
    alone = sample(plain, people[1], prompts[1])
    for mode in ("exact", "couple"):
        before = sample(*compose(plain, prompts, people, regions, mode=mode))
        model, *conditionings = compose(model_of(name), prompts, people, regions, mode=mode)
        behind = sample(with_override(model), *conditionings)
        assert distance(before, alone) < CLOSE
        assert torch.equal(behind, before)
    assert distance(alone, sample(model_of(name), people[1], prompts[1])) > 1e-3


@families
def test_attention_put_in_the_place_of_ours_is_refused(name):
    """Another pack that replaces the override of a call, and chains none."""
    prompts, people = cast_of(name)

    def attend(function, *args, **kwargs):
        return function(*args, **kwargs)

    model, *conditionings = compose(model_of(name), prompts, people, mode="couple")
    network = model.model.diffusion_model
    plain_forward = network.forward

    def with_another_attention(*args, **kwargs):
        options = {**kwargs["transformer_options"], "optimized_attention_override": attend}
        return plain_forward(*args, **{**kwargs, "transformer_options": options})

    network.forward = with_another_attention
    try:
        with pytest.raises(ValueError, match="Set mode to exact, or remove that node"):
            sample(model, *conditionings)
    finally:
        del network.forward


@modes
def test_a_compiled_network(mode):
    """Compiled by plain calls, which know nothing of the hooks that composing puts on."""
    name = "Qwen-Image"
    prompts, people = cast_of(name)
    expected = sample(*compose(model_of(name), prompts, people, mode=mode), steps=1)
    model = make_model(name)
    set_torch_compile_wrapper(model, backend="eager")
    plain = sample(model, *prompts, steps=1)
    composed = sample(*compose(model, prompts, people, mode=mode), steps=1)
    assert distance(composed, expected) < CLOSE
    assert torch.equal(sample(model, *prompts, steps=1), plain)
    torch._dynamo.reset()


@families
def test_layers_is_refused_in_words(name):
    prompts, people = cast_of(name)
    with pytest.raises(
        ValueError, match=r"the mode 'layers' is not for .* Set mode to exact or couple"
    ):
        compose(model_of(name), prompts, people, mode="layers")


def test_an_unknown_network_is_refused_by_name(transformer):
    prompts, people = cast_of("Qwen-Image")
    with pytest.raises(ValueError, match=r"^Compose Instances knows .*\(Transformer\)"):
        compose(transformer, prompts, people)
