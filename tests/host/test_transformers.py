"""Composition on diffusion transformers, a tiny random network of each family: the mode exact
against a slow loop over people, the mode couple against plain runs of one person.
"""

import functools

import pytest
import torch
from comfy_extras import nodes_flux
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

import nodes as core

FAMILIES = [name for name in NETWORKS if is_known(name)]
WITH_REFERENCES = [
    name for name in ("Flux.1 dev", "Flux.2 Klein", "Qwen-Image", "Krea 2") if is_known(name)
]
families = pytest.mark.parametrize("name", FAMILIES)
modes = pytest.mark.parametrize("mode", ["exact", "couple"])
model_of = functools.cache(make_model)
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


def inpainting(conditioning, height, width):
    """Add an image to inpaint, as the host's node does for Fill."""
    g = torch.Generator().manual_seed(9)
    extra = {
        "concat_latent_image": torch.randn(1, 16, height, width, generator=g),
        "concat_mask": (torch.rand(1, 1, 8 * height, 8 * width, generator=g) > 0.5).float(),
    }
    return [[tokens, {**entry, **extra}] for tokens, entry in conditioning]


def prompts_of(name, size=(8, 12), lengths=(24, 20)):
    """Return positive and negative; the positive has a guidance of its own."""
    positive, negative = text(name, 1, lengths[0]), text(name, 2, lengths[1])
    positive = [[tokens, {**entry, "guidance": 2.5}] for tokens, entry in positive]
    if name == "Flux.1 Fill":
        return inpainting(positive, *size), inpainting(negative, *size)
    return positive, negative


def as_positive(positive, person):
    """Return the positive prompt with a person's text in its place, to be sampled plainly."""
    without_text = {key: value for key, value in positive[0][1].items() if key not in person[0][1]}
    return [[person[0][0], {**without_text, **person[0][1]}]]


CASES = {  # size, regions, lengths of the people's texts, cfg, what else is composed
    "halves": ((8, 12), Regions((HALVES,)), (20, 20), 1.0, {}),
    "lengths": ((8, 12), Regions((HALVES,)), (20, 41), 3.0, {}),
    "overlap": ((8, 12), Regions((((0, 8), (4, 12)),)), (20, 33), 1.0, {"harmony": 1.0}),
    "three, odd size": (
        (7, 11), Regions((((0, 3), (4, 7), (7, 10)),), 11), (20, 33, 20), 1.0, {},
    ),
    "two images": (
        (8, 12), Regions((HALVES, ((0, 3), (2, 12)))), (20, 33), 3.0, {"harmony": 1.0},
    ),
    "scene": ((6, 12), Regions((((1, 4), (7, 11)),)), (24, 20), 3.0, {"scene": True}),
    "share of the scene": ((8, 12), Regions((HALVES,)), (24, 20), 1.0, {"scene_share": 0.3}),
    "own negatives": ((8, 12), Regions((HALVES,)), (20, 20), 3.0, {"shared_negative": False}),
}  # fmt: skip


@families
@pytest.mark.parametrize("case", CASES)
def test_exact_equals_a_slow_loop_over_people(name, case):
    size, regions, lengths, cfg, changes = CASES[case]
    prompts = prompts_of(name, size)
    people = [text(name, 5 + n, tokens) for n, tokens in enumerate(lengths)]
    model, *conditionings = compose(model_of(name), prompts, people, regions, **changes)
    model, chunks = watched(model)
    sample(model, *conditionings, size=size, cfg=cfg, batch=len(regions.frames), steps=1)
    levers = {key: value for key, value in changes.items() if key.startswith("scene")}
    shares = regions.shares(size[0], **levers)
    assert check_exact(model.model, chunks, prompts, people, shares) < CLOSE
    assert len(chunks) == (1 if cfg == 1 else 2)


@families
@modes
@pytest.mark.parametrize("owner", [0, 1])
def test_all_cells_one_persons_are_that_person_alone(name, mode, owner):
    prompts = prompts_of(name)
    people = [text(name, 5, 20), text(name, 6, 41)]
    spans = [(0, 0), (0, 0)]
    spans[owner] = (0, 12)
    composed = compose(model_of(name), prompts, people, Regions((spans,)), mode=mode)
    alone = sample(model_of(name), as_positive(prompts[0], people[owner]), prompts[1], cfg=3.0)
    assert distance(sample(*composed, cfg=3.0), alone) < CLOSE


@families
@modes
def test_each_image_of_a_batch_has_places_of_its_own(name, mode):
    """An odd size; the first image is the first person's, the second one the other's."""
    size, batch = (7, 11), 2
    prompts = prompts_of(name, size)
    people = [text(name, 5, 20), text(name, 6, 33)]
    regions = Regions((((0, 11), (0, 0)), ((0, 0), (0, 11))), 11)
    composed = compose(model_of(name), prompts, people, regions, mode=mode)
    images = sample(*composed, size=size, batch=batch)
    for number, person in enumerate(people):
        alone = as_positive(prompts[0], person)
        plain = sample(model_of(name), alone, prompts[1], size=size, batch=batch)
        assert distance(images[number], plain[number]) < CLOSE


@families
@modes
def test_equal_people_are_one_plain_run(name, mode):
    prompts = prompts_of(name)
    people = [text(name, 5, 20)] * 3
    regions = Regions((((0, 7), (3, 9), (8, 10)),))  # apart, overlapping, and cells of nobody
    composed = compose(
        model_of(name), prompts, people, regions, mode=mode, harmony=1.0, shared_negative=False
    )
    alone = sample(model_of(name), as_positive(prompts[0], people[0]), prompts[1], cfg=3.0)
    assert distance(sample(*composed, cfg=3.0), alone) < CLOSE


@families
@modes
def test_everybodys_prompt_counts_where_they_are(name, mode):
    prompts, people = prompts_of(name), [text(name, 5, 20), text(name, 6, 33)]
    one_step = functools.partial(sample, steps=1)
    first = one_step(*compose(model_of(name), prompts, people, mode=mode))
    other = one_step(*compose(model_of(name), prompts, [people[0], text(name, 7, 33)], mode=mode))
    change = (first - other).abs()
    assert float(change[..., 6:].max()) > 1e-3
    if mode == "exact":
        assert float(change[..., :6].max()) == 0
    else:  # the image sees itself
        assert float(change[..., :6].max()) > 1e-3


@families
@modes
@pytest.mark.parametrize("window", [{"start_percent": 1.0}, {"end_percent": 0.0}], ids=str)
def test_outside_the_window_it_is_the_plain_model(name, mode, window):
    prompts, people = prompts_of(name), [text(name, 5, 20), text(name, 6, 33)]
    composed = compose(model_of(name), prompts, people, mode=mode, **window)
    plain = sample(model_of(name), *prompts, cfg=3.0)
    assert torch.equal(sample(*composed, cfg=3.0), plain)


@families
@modes
def test_the_whole_scene_is_the_positive_prompt(name, mode):
    prompts, people = prompts_of(name), [text(name, 5, 20), text(name, 6, 33)]

    def sampled(**changes):
        return sample(*compose(model_of(name), prompts, people, mode=mode, **changes), cfg=3.0)

    assert torch.equal(sampled(scene_share=0.0), sampled())
    plain = sample(model_of(name), *prompts, cfg=3.0)
    assert distance(sampled(scene_share=1.0), plain) < CLOSE
    assert distance(sampled(scene_share=0.5), plain) > 1e-3


@families
@modes
def test_soft_borders(name, mode):
    prompts, people = prompts_of(name), [text(name, 5, 20), text(name, 6, 33)]

    def sampled(people, **changes):
        return sample(*compose(model_of(name), prompts, people, mode=mode, **changes))

    hard = sampled(people)
    assert torch.equal(sampled(people, feather=0.0), hard)
    assert distance(sampled(people, feather=0.2), hard) > 1e-3
    alone = sample(model_of(name), as_positive(prompts[0], people[0]), prompts[1])
    assert distance(sampled([people[0]] * 2, feather=0.2), alone) < CLOSE


@families
@modes
def test_a_split_batch_is_the_same(name, mode, monkeypatch):
    """With little memory the host gives the network one chunk at a time."""
    prompts = prompts_of(name, lengths=(20, 20))
    people = [text(name, 5, 20), text(name, 6, 20)]
    composed = compose(model_of(name), prompts, people, mode=mode)
    first = sample(*composed, cfg=3.0, batch=2)
    monkeypatch.setattr(model_of(name).model, "memory_required", lambda *_, **__: 1e18)
    split = sample(*composed, cfg=3.0, batch=2)
    assert distance(split, first) < CLOSE


@modes
def test_a_text_of_which_not_all_tokens_count(mode):
    """Qwen-Image hides tokens by a mask."""
    name, prompts = "Qwen-Image", prompts_of("Qwen-Image")
    people = [text(name, 5, 20), text(name, 6, 20)]
    mask = torch.ones(1, 20, dtype=torch.long)
    mask[:, 15:] = 0
    people[1][0][1]["attention_mask"] = mask
    for owner in (0, 1):
        spans = [(0, 0), (0, 0)]
        spans[owner] = (0, 12)
        composed = compose(model_of(name), prompts, people, Regions((spans,)), mode=mode)
        alone = sample(model_of(name), as_positive(prompts[0], people[owner]), prompts[1])
        assert distance(sample(*composed), alone) < CLOSE


@modes
def test_a_video_is_refused_in_words(mode):
    name, prompts = "Wan 2.1", prompts_of("Wan 2.1")
    composed = compose(model_of(name), prompts, [text(name, 5), text(name, 6)], mode=mode)
    video = {"samples": torch.zeros(1, 16, 3, 8, 12)}
    with pytest.raises(ValueError, match="^Compose Instances: .* a video of 3 frames"):
        core.common_ksampler(*composed[:1], 3, 1, 1.0, "euler", "simple", *composed[1:], video)


@pytest.mark.parametrize("name", WITH_REFERENCES)
@modes
def test_reference_latents_stay_with_everybody(name, mode):
    prompts, people = prompts_of(name), [text(name, 5, 20), text(name, 6, 33)]
    g = torch.Generator().manual_seed(4)
    channels = model_of(name).model.latent_format.latent_channels
    frames = [1] if name in ("Qwen-Image", "Krea 2") else []
    images = [torch.randn(1, channels, *frames, *size, generator=g) for size in ((6, 4), (4, 8))]
    edited = [
        [[tokens, {**entry, "reference_latents": images}] for tokens, entry in prompt]
        for prompt in prompts
    ]
    plain = sample(model_of(name), *prompts)
    if mode == "exact":
        model, *conditionings = compose(model_of(name), edited, people)
        model, chunks = watched(model)
        sample(model, *conditionings, steps=1)
        shares = Regions((HALVES,)).shares(8)
        assert check_exact(model.model, chunks, edited, people, shares) < CLOSE
    regions = Regions((((0, 0), (0, 12)),))
    composed = sample(*compose(model_of(name), edited, people, regions, mode=mode))
    alone = sample(model_of(name), as_positive(edited[0], people[1]), edited[1])
    assert distance(composed, alone) < CLOSE
    assert distance(alone, plain) > 1e-3


@pytest.mark.skipif(not hasattr(nodes_flux, "FluxKVCache"), reason="this host has no such node")
def test_a_cache_of_reference_images_is_for_one_pass():
    name = "Flux.2 Klein"
    channels = model_of(name).model.latent_format.latent_channels
    image = torch.randn(1, channels, 6, 4, generator=torch.Generator().manual_seed(4))
    people = [text(name, 5, 20), text(name, 6, 33)]
    edited = [
        [[tokens, {**entry, "reference_latents": [image]}] for tokens, entry in prompt]
        for prompt in prompts_of(name)
    ]
    cached = nodes_flux.FluxKVCache.execute(model_of(name)).result[0]
    with pytest.raises(ValueError, match="Flux KV Cache would give everybody .* mode to couple"):
        sample(*compose(cached, edited, people))
    regions = Regions((((0, 0), (0, 12)),))
    composed = sample(*compose(cached, edited, people, regions, mode="couple"), cfg=1.0)
    alone = sample(cached, as_positive(edited[0], people[1]), edited[1], cfg=1.0)
    assert distance(composed, alone) < CLOSE
