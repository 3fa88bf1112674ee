"""Composition on the real host: against plain ControlNet, beside other patches, and misuse."""

from types import SimpleNamespace

import pytest
import torch
from vitruvian.host import compose as host
from vitruvian.host.registration import register
from vitruvian.models import compose, pose, pose_drawing
from vitruvian.nodes import compose as ours

import nodes as core

register()
SIZE = 128


@pytest.fixture(scope="module")
def loaded(mini_weights):
    with torch.inference_mode():
        model, clip, vae = core.CheckpointLoaderSimple().load_checkpoint(
            "vitruvian_mini.safetensors"
        )[:3]
        controlnet = core.ControlNetLoader().load_controlnet("vitruvian_mini_openpose.safetensors")
    return model, clip, vae, controlnet[0]


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def standing_person(x, tall=0.8, y=0.1):
    """A standing person: 18 points on a 128 x 128 canvas, flat."""
    shape = [
        (0, 0.08),
        (0, 0.2),
        (-0.1, 0.2),
        (-0.13, 0.36),
        (-0.13, 0.5),
        (0.1, 0.2),
        (0.13, 0.36),
        (0.13, 0.5),
        (-0.06, 0.52),
        (-0.06, 0.75),
        (-0.06, 1),
        (0.06, 0.52),
        (0.06, 0.75),
        (0.06, 1),
        (-0.02, 0.06),
        (0.02, 0.06),
        (-0.05, 0.07),
        (0.05, 0.07),
    ]
    points = [(x + tall * a * 0.7, y + tall * b, 1.0) for a, b in shape]
    return {"pose_keypoints_2d": [v for a, b, c in points for v in (a * SIZE, b * SIZE, c)]}


def poses(*places):
    return [
        {
            "people": [standing_person(x) for x in places],
            "canvas_width": SIZE,
            "canvas_height": SIZE,
        }
    ]


def text(loaded, words):
    return core.CLIPTextEncode().encode(loaded[1], words)[0]


def cast(loaded, *prompts):
    return tuple(compose.Instance(text(loaded, p), k) for k, p in enumerate(prompts, 1))


SETTINGS = {
    "mode": "exact", "strength": 1.0, "harmony": 0.5, "dilation": 0.06, "start_percent": 0.0,
    "end_percent": 1.0, "background_prompt": ours.MEAN, "shared_negative": True,
}  # fmt: skip


def composed(loaded, instances, keypoints, **changes):
    model, _, _, controlnet = loaded
    positive, negative = text(loaded, "two people, in a park"), text(loaded, "")
    return ours.VitruvianComposeInstances.execute(
        model,
        changes.pop("positive", positive),
        changes.pop("negative", negative),
        instances,
        keypoints,
        controlnet,
        **{**SETTINGS, **changes},
    ).result[:3]


SAMPLING = {"steps": 2, "cfg": 4.0, "sampler": "euler", "batch": 1, "height": SIZE}


def sample(model, positive, negative, **settings):
    run = SimpleNamespace(**{**SAMPLING, **settings})
    latent = {"samples": torch.zeros(run.batch, 4, run.height // 8, SIZE // 8)}
    return core.common_ksampler(
        model, 7, run.steps, run.cfg, run.sampler, "normal", positive, negative, latent
    )[0]["samples"]


TWO = ("a man with a red top, in a park", "a woman with a blue top, in a park")


@pytest.mark.parametrize("mode", ["exact", "layers", "couple"])
def test_one_person_is_plain_controlnet_bit_for_bit(loaded, mode):
    instances = cast(loaded, TWO[0])
    hint = pose_drawing.draw_people(pose.read_poses(poses(0.5))[0], SIZE, SIZE)[None]
    positive, negative = core.ControlNetApplyAdvanced().apply_controlnet(
        instances[0].conditioning, text(loaded, ""), loaded[3], hint, 1.0, 0.0, 1.0
    )
    plain = sample(loaded[0], positive, negative)
    assert torch.equal(sample(*composed(loaded, instances, poses(0.5), mode=mode)), plain)


@pytest.mark.parametrize("mode", ["exact", "layers", "couple"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"cfg": 1.0}, {"batch": 2}, {"sampler": "dpmpp_2m_sde"}, {"height": 104}],
    ids=["plain", "cfg 1", "batch", "sde", "odd size"],
)
def test_two_people_sample_and_repeat(loaded, mode, settings):
    composition = composed(loaded, cast(loaded, *TWO), poses(0.3, 0.7), mode=mode)
    first = sample(*composition, **settings)
    assert first.isfinite().all() and torch.equal(first, sample(*composition, **settings))
    exchanged = composed(loaded, cast(loaded, *TWO[::-1]), poses(0.3, 0.7), mode=mode)
    assert not torch.equal(first, sample(*exchanged, **settings))


@pytest.mark.parametrize("sampler", ["ddim", "heun", "uni_pc", "lcm", "dpm_adaptive"])
def test_any_sampler(loaded, sampler):
    composition = composed(loaded, cast(loaded, *TWO), poses(0.3, 0.7))
    plain = sample(loaded[0], text(loaded, TWO[0]), text(loaded, ""), sampler=sampler, steps=4)
    people = sample(*composition, sampler=sampler, steps=4)
    assert people.isfinite().all() and not torch.allclose(people, plain, atol=0.1)


def test_misuse_says_what_to_change(loaded):
    instances = cast(loaded, *TWO)
    model, positive, negative = composed(loaded, instances, poses(0.3, 0.7))
    plain = text(loaded, "a park")
    with pytest.raises(ValueError, match="Connect the outputs 'positive' and 'negative'"):
        sample(model, plain, plain)
    with pytest.raises(ValueError, match="already composes"):
        host.compose_model(model, None)
    with pytest.raises(ValueError, match="person 3 of the pose .* has no instance"):
        composed(loaded, instances, poses(0.2, 0.5, 0.8))
    with pytest.raises(ValueError, match="the pose has 1 people"):
        composed(loaded, instances, poses(0.5))
    area = core.ConditioningSetArea().append(positive, 64, 64, 0, 0, 1.0)[0]
    with pytest.raises(ValueError, match="Remove the area"):
        sample(model, area, negative)


@pytest.mark.parametrize("mode", ["exact", "layers", "couple"])
def test_another_packs_attention_patch_sees_whole_chunks(loaded, mode):
    """IPAdapter and its like reckon with rows = latent batch x len(cond_or_uncond)."""
    model, positive, negative = composed(
        loaded, cast(loaded, *TWO), poses(0.3, 0.7), mode=mode, background_prompt=ours.SCENE
    )
    counts = set()

    def patch(n, extra):
        counts.add((len(n), len(extra["cond_or_uncond"])))
        return n

    model = model.clone()
    model.set_model_attn1_output_patch(patch)
    model.set_model_attn2_output_patch(patch)
    sample(model, positive, negative, batch=2, steps=1)
    assert counts and all(rows == 2 * chunks for rows, chunks in counts)


@pytest.mark.parametrize("mode", ["exact", "couple"])
def test_a_second_controlnet_before_or_behind_adds_to_ours(loaded, mode):
    instances, keypoints = cast(loaded, *TWO), poses(0.3, 0.7)
    hint = pose_drawing.draw_people(pose.read_poses(poses(0.5))[0], SIZE, SIZE)[None]
    apply = core.ControlNetApplyAdvanced().apply_controlnet

    def run(strength, before):
        prompts = text(loaded, "a park"), text(loaded, "")
        if before:
            prompts = apply(*prompts, loaded[3], hint, strength, 0.0, 1.0)
        composition = composed(
            loaded, instances, keypoints, mode=mode, positive=prompts[0], negative=prompts[1]
        )
        if not before:
            composition = (
                composition[0],
                *apply(*composition[1:], loaded[3], hint, strength, 0.0, 1.0),
            )
        return sample(*composition)

    without, before, behind = run(0.0, True), run(0.7, True), run(0.7, False)
    torch.testing.assert_close(before, behind)
    assert not torch.allclose(without, before, atol=0.1)


def test_an_inpainting_mask_keeps_what_it_covers_not(loaded):
    composition = composed(loaded, cast(loaded, *TWO), poses(0.3, 0.7))
    mask = torch.zeros(1, SIZE, SIZE)
    mask[..., : SIZE // 2] = 1
    latent = {"samples": torch.randn(1, 4, SIZE // 8, SIZE // 8), "noise_mask": mask}
    sampled = core.common_ksampler(
        composition[0],
        7,
        2,
        4.0,
        "euler",
        "normal",
        composition[1],
        composition[2],
        latent,
        denoise=1.0,
    )[0]["samples"]
    right = (..., slice(SIZE // 16, None))
    torch.testing.assert_close(sampled[right], latent["samples"][right], atol=1e-3, rtol=1e-3)
    assert not torch.allclose(sampled, latent["samples"], atol=0.1)


def test_outside_start_and_end_the_positive_prompt_counts_alone(loaded):
    instances, keypoints = cast(loaded, *TWO), poses(0.3, 0.7)
    model, positive, negative = composed(
        loaded, instances, keypoints, start_percent=0.99, end_percent=1.0
    )
    early = sample(model, positive, negative, steps=1)
    plain = sample(loaded[0], text(loaded, "two people, in a park"), text(loaded, ""), steps=1)
    torch.testing.assert_close(early, plain)


def test_split_batches_give_the_same_image(loaded, monkeypatch):
    composition = composed(loaded, cast(loaded, *TWO), poses(0.3, 0.7))
    together = sample(*composition)
    rows, apply_model = [], composition[0].model.apply_model
    monkeypatch.setattr(composition[0].model, "memory_required", lambda *_, **__: 1e18)
    monkeypatch.setattr(
        composition[0].model,
        "apply_model",
        lambda x, *a, **k: rows.append(len(x)) or apply_model(x, *a, **k),
    )
    torch.testing.assert_close(sample(*composition), together, atol=1e-3, rtol=1e-3)
    assert set(rows) == {1}


def test_a_lora_before_or_behind_is_the_same_and_counts(loaded):
    instances, keypoints = cast(loaded, *TWO), poses(0.3, 0.7)
    key = "diffusion_model.middle_block.1.proj_in.weight"
    shape = loaded[0].model.diffusion_model.middle_block[1].proj_in.weight.shape
    patch = {key: (torch.randn(shape, generator=torch.Generator().manual_seed(0)),)}
    before = loaded[0].clone()
    before.add_patches(patch, 0.2)
    first = composed((before, *loaded[1:]), instances, keypoints)
    behind = composed(loaded, instances, keypoints)
    model = behind[0].clone()
    model.add_patches(patch, 0.2)
    assert torch.equal(sample(*first), sample(model, *behind[1:]))
    assert not torch.allclose(sample(*first), sample(*behind), atol=1e-2)
