"""Images of single people that travel in their conditioning: Redux on Flux.1, unCLIP on SD2.1 and
SDXL; tiny random networks.
"""

import functools
from types import SimpleNamespace

import comfy.model_base
import comfy.model_patcher
import comfy.supported_models
import pytest
import torch
from vitruvian.tests.host.conftest import SD1_OUT, SD2, SDXL, SDXL_OUT, randomize
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
from vitruvian.tests.host.transformer_networks import WIDTH, make_model, text

import nodes as core

CLOSE = 1e-5
FLUX = "Flux.1 dev"
modes = pytest.mark.parametrize("mode", ["exact", "couple"])
styles = pytest.mark.parametrize("strength_type", ["multiply", "attn_bias"])


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def only(number):
    spans = [(0, 0), (0, 0)]
    spans[number] = (0, 12)
    return Regions((spans,))


# ---- Redux: style tokens behind those of the text


@pytest.fixture(scope="module")
def flux():
    return make_model(FLUX)


def styled(conditioning, seed, strength_type, tokens=9):
    """Return a CONDITIONING behind Apply Style Model."""
    style = torch.randn(1, tokens, WIDTH, generator=torch.Generator().manual_seed(seed))
    style_model = SimpleNamespace(get_cond=lambda _: style.clone())
    return core.StyleModelApply().apply_stylemodel(
        conditioning, style_model, None, 0.4, strength_type
    )[0]


def styled_people(strength_type, seeds=(1, 2)):
    """Return two people, of whom the second one has a longer text and fewer style tokens."""
    return [
        styled(text(FLUX, 5, 20), seeds[0], strength_type),
        styled(text(FLUX, 6, 33), seeds[1], strength_type, 4),
    ]


@styles
def test_redux_in_exact_is_a_slow_loop_over_people(flux, strength_type):
    prompts, people = prompts_of(FLUX), styled_people(strength_type)
    model, *conditionings = compose(flux, prompts, people)
    model, chunks = watched(model)
    sample(model, *conditionings, steps=1)
    shares = Regions((HALVES,)).shares(8)
    assert check_exact(model.model, chunks, prompts, people, shares) < CLOSE


@modes
@styles
@pytest.mark.parametrize("owner", [0, 1])
def test_redux_on_all_cells_is_that_person_alone(flux, mode, strength_type, owner):
    prompts, people = prompts_of(FLUX), styled_people(strength_type)
    composed = compose(flux, prompts, people, only(owner), mode=mode)
    plain = sample(flux, as_positive(prompts[0], people[owner]), prompts[1])
    assert distance(sample(*composed), plain) < CLOSE
    unstyled = as_positive(prompts[0], text(FLUX, 5 + owner, (20, 33)[owner]))
    assert distance(plain, sample(flux, unstyled, prompts[1])) > 1e-3


@modes
def test_redux_of_only_one_person(flux, mode):
    prompts = prompts_of(FLUX)
    people = [text(FLUX, 5, 20), styled(text(FLUX, 6, 33), 2, "attn_bias")]
    for owner in (0, 1):
        composed = compose(flux, prompts, people, only(owner), mode=mode)
        plain = sample(flux, as_positive(prompts[0], people[owner]), prompts[1])
        assert distance(sample(*composed), plain) < CLOSE


@modes
def test_redux_counts_where_the_person_is(flux, mode):
    prompts = prompts_of(FLUX)
    images = [
        sample(*compose(flux, prompts, styled_people("multiply", (1, seed)), mode=mode), steps=1)
        for seed in (2, 3)
    ]
    change = (images[0] - images[1]).abs()
    assert float(change[..., 6:].mean()) > 2 * float(change[..., :6].mean())
    assert mode == "couple" or float(change[..., :6].max()) == 0


def test_redux_with_a_strength_beside_reference_latents_is_refused(flux):
    (person,) = styled(text(FLUX, 5), 1, "attn_bias")
    with_images = [[person[0], {**person[1], "reference_latents": [torch.zeros(1, 16, 4, 4)]}]]
    with pytest.raises(ValueError, match="^instance 2 carries .* attn_bias, .* multiply"):
        compose(flux, prompts_of(FLUX), [text(FLUX, 4), with_images])


# ---- unCLIP: an image in the pooled text


@pytest.fixture(autouse=True, scope="module")
def forgotten():
    """Let the MODELs go while the host still can."""
    yield
    unet.cache_clear()


UNCLIP = {"timestep_dim": 1024, "noise_schedule_config": {"timesteps": 1000}}
MODELS = ("SD2.1 unCLIP", "SDXL")


@functools.cache
def unet(name):
    """Return a narrow MODEL with random weights."""
    if name == "SDXL":
        config_class, config = comfy.supported_models.SDXL, {**SDXL, **SDXL_OUT}
    else:
        config_class = comfy.supported_models.SD21UnclipL
        config = {**SD2, **SD1_OUT, "num_classes": "sequential", "adm_in_channels": 1536}
    model_config = config_class({**config, "out_channels": 4})
    model_config.unet_config.update(num_heads=-1, num_head_channels=16)
    model_config.custom_operations = comfy.ops.disable_weight_init
    base = model_config.get_model({})
    randomize(base.diffusion_model, 1)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(base, load_device=cpu, offload_device=cpu)


def prompt(name, seed):
    g = torch.Generator().manual_seed(seed)
    width = unet(name).model.model_config.unet_config["context_dim"]
    return [
        [
            torch.randn(1, 77, width, generator=g),
            {"pooled_output": torch.randn(1, 1280, generator=g), "width": 256, "height": 512},
        ]
    ]


def with_image(name, seed, image):
    """Return a CONDITIONING behind unCLIP Conditioning."""
    width = 768 if name == "SD2.1 unCLIP" else 1280
    embeds = torch.randn(1, width, generator=torch.Generator().manual_seed(image))
    output = SimpleNamespace(image_embeds=embeds)
    return core.unCLIPConditioning().apply_adm(prompt(name, seed), output, 0.8, 0.1)[0]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("mode", ["exact", "layers", "couple"])
def test_unclip_images_belong_to_people(name, mode):
    prompts = prompt(name, 1), prompt(name, 2)
    people = [with_image(name, 5, 10), with_image(name, 6, 11)]
    settings = {"size": (16, 24), "cfg": 3.0}
    images = {}
    for owner in (0, 1):
        spans = [(0, 0), (0, 0)]
        spans[owner] = (0, 24)
        regions = Regions((spans,), 24)
        composed = compose(unet(name), prompts, people, regions, mode=mode)
        images[owner] = sample(unet(name), people[owner], prompts[1], **settings)
        assert distance(sample(*composed, **settings), images[owner]) < CLOSE
    assert distance(images[0], sample(unet(name), prompt(name, 5), prompts[1], **settings)) > 1e-3
    other = [people[0], with_image(name, 6, 12)]
    halves = Regions((((0, 12), (12, 24)),), 24)
    first, second = (
        sample(*compose(unet(name), prompts, each, halves, mode=mode), size=(16, 24), steps=1)
        for each in (people, other)
    )
    change = (first - second).abs()
    assert float(change[..., 12:].max()) > 1e-3
