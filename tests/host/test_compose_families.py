"""The modes against a slow loop over people, written from the paper's method and sharing no code
with ours, on networks of the shape of SD1.5, SD2 and SDXL: narrow, with random weights.
"""

from typing import NamedTuple

import pytest
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import (
    forward_timestep_embed,
    timestep_embedding,
)
from comfy.patcher_extension import WrappersMP
from vitruvian.models import compose, pose, pose_drawing
from vitruvian.nodes import compose as ours

import nodes as core

SIZE = 128


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def keypoints():
    g = torch.Generator().manual_seed(5)
    people = []
    for center in (0.3, 0.62):
        points = torch.rand(18, 2, generator=g) * torch.tensor([0.35, 0.8])
        points += torch.tensor([center - 0.17, 0.1])
        flat = [v for x, y in points.tolist() for v in (x * SIZE, y * SIZE, 1.0)]
        people.append({"pose_keypoints_2d": flat})
    return [{"people": people, "canvas_width": SIZE, "canvas_height": SIZE}]


class Person(NamedTuple):
    """What one person's stream reads, and where it counts."""

    text: torch.Tensor
    vector: torch.Tensor | None
    hint: torch.Tensor
    share: torch.Tensor


def loop_over_people(mode, networks, x, t, people):
    """Predict the noise of one image, person after person: the mode exact (the paper's h-control)
    or layers (h-all). people: a Person each.
    """
    unet, net = networks
    n = len(people)
    everyone = range(n)

    def mixed(features):
        weights = [resized(person.share, features[0].shape[-2:]) for person in people]
        return sum(w * f for w, f in zip(weights, features, strict=True))

    controls = []
    for person in people:
        extra = {} if person.vector is None else {"y": person.vector}
        hint = person.hint[None]
        controls.append(net(x=x, hint=hint, timesteps=t, context=person.text, **extra))
    embedded = []
    for person in people:
        vector = person.vector
        time = unet.time_embed(timestep_embedding(t, unet.model_channels))
        embedded.append(time if vector is None else time + unet.label_emb(vector))

    def through(block, h, **size):
        return [
            forward_timestep_embed(block, h[i], embedded[i], people[i].text, **size)
            for i in everyone
        ]

    h, skips = [x] * n, []
    for block in unet.input_blocks:
        h = through(block, h)
        if mode == "layers":
            h = [mixed(h)] * n
        skips.append(h)
    h = through(unet.middle_block, h)
    if mode == "layers":
        h = [mixed(h)] * n
    h = [h[i] + controls[i]["middle"][0] for i in everyone]
    coarsest = h[0].shape[-2:]
    for block in unet.output_blocks:
        residuals = [controls[i]["output"].pop() for i in everyone]
        if mode == "exact" and residuals[0].shape[-2:] != coarsest:
            residuals = [mixed(residuals)] * n
        skip = skips.pop()
        h = [torch.cat((h[i], skip[i] + residuals[i]), 1) for i in everyone]
        h = through(block, h, output_shape=skips[-1][0].shape if skips else None)
        if mode == "layers":
            h = [mixed(h)] * n
    return unet.out(mixed(h))


def resized(share, size):
    return torch.nn.functional.interpolate(share[None, None], size, mode="bilinear")


def hints_and_shares(instances):
    """Each person's hint [3, H, W] and share [h, w]."""
    people = compose.instance_people(instances, pose.read_poses(keypoints())[0])
    areas = compose.instance_areas(instances, people, SIZE, SIZE, 0.06)
    occupied = compose.occupancies(areas, SIZE // 8, SIZE // 8)
    shares = compose.hard_shares(occupied, [0, 0])[:, 0, 0]
    hints = [
        pose_drawing.draw_people(pose.pick(people, [i]), SIZE, SIZE).movedim(-1, 0) for i in (0, 1)
    ]
    return hints, shares


@pytest.mark.parametrize("mode", ["exact", "layers"])
def test_equals_a_slow_loop_over_people(family, random_text, mode):
    model, controlnet = family
    prompts, negative = [random_text(model, k) for k in (1, 2)], random_text(model, 3)
    instances = tuple(compose.Instance(p, k) for k, p in enumerate(prompts, 1))
    composed, *conditionings = ours.VitruvianComposeInstances.execute(
        model,
        random_text(model, 4),
        negative,
        instances,
        keypoints(),
        controlnet,
        mode=mode,
        strength=1.0,
        harmony=0.0,
        dilation=0.06,
        start_percent=0.0,
        end_percent=1.0,
        background_prompt=ours.MEAN,
        shared_negative=False,
    ).result[:3]
    calls = []

    def spy(executor, x, t, *args, **kwargs):
        out = executor(x, t, *args, **kwargs)
        calls.append((x, t, out, args[3]["cond_or_uncond"]))
        return out

    composed = composed.clone()
    wrappers = composed.wrappers[WrappersMP.APPLY_MODEL]
    composed.wrappers[WrappersMP.APPLY_MODEL] = {"spy": [spy], **wrappers}  # outside ours
    latent = {"samples": torch.zeros(1, 4, SIZE // 8, SIZE // 8)}
    core.common_ksampler(composed, 3, 1, 4.0, "euler", "normal", *conditionings, latent)

    base = model.model
    sampling = base.model_sampling
    hints, shares = hints_and_shares(instances)
    entries = {
        0: [p[0] for p in prompts],  # cond_or_uncond calls positive 0
        1: [negative[0]] * 2,
    }
    chunks = [
        (*chunk, kind)
        for x, t, out, kinds in calls
        for *chunk, kind in zip(x, t, out, kinds, strict=True)
    ]
    assert sorted(kind for *_, kind in chunks) == [0, 1]
    for x, sigma, denoised, kind in chunks:
        x, sigma = x[None], sigma[None]
        people = [
            Person(text, base.encode_adm(device="cpu", **entry), hint, share)
            for (text, entry), hint, share in zip(entries[kind], hints, shares, strict=True)
        ]
        predicted = loop_over_people(
            mode,
            (base.diffusion_model, controlnet.control_model),
            sampling.calculate_input(sigma, x),
            sampling.timestep(sigma).float(),
            people,
        )
        expected = sampling.calculate_denoised(sigma, predicted, x)
        error = (denoised - expected[0]).norm() / (x - expected).norm()
        assert float(error) < 1e-4


def test_couple_feels_every_text_and_pooled_text(family, random_text):
    model, controlnet = family
    prompts, negative = [random_text(model, k) for k in (1, 2)], random_text(model, 3)

    def sample(prompts):
        instances = tuple(compose.Instance(p, k) for k, p in enumerate(prompts, 1))
        composed = ours.VitruvianComposeInstances.execute(
            model,
            random_text(model, 4),
            negative,
            instances,
            keypoints(),
            controlnet,
            mode="couple",
            strength=1.0,
            harmony=0.0,
            dilation=0.06,
            start_percent=0.0,
            end_percent=1.0,
            background_prompt=ours.SCENE,
            shared_negative=True,
        ).result[:3]
        latent = {"samples": torch.zeros(1, 4, SIZE // 8, SIZE // 8)}
        return core.common_ksampler(
            composed[0], 3, 1, 1.0, "euler", "normal", *composed[1:], latent
        )[0]["samples"]

    first, changed = sample(prompts), sample([prompts[0], random_text(model, 7)])
    swapped = sample(prompts[::-1])
    assert first.isfinite().all()
    assert not torch.allclose(first, changed, atol=1e-3)
    assert not torch.allclose(first, swapped, atol=1e-3)


def test_an_unknown_architecture_is_refused(family, random_text):
    model, controlnet = family
    unknown = model.clone()
    unknown.add_object_patch("diffusion_model", torch.nn.Linear(1, 1))
    text = random_text(model, 1)
    with pytest.raises(
        ValueError, match=r"^Compose Instances knows SD1.5, .* another network \(Linear\)"
    ):
        ours.VitruvianComposeInstances.execute(
            unknown,
            text,
            text,
            (compose.Instance(text, 1), compose.Instance(text, 2)),
            keypoints(),
            controlnet,
            mode="exact",
            strength=1.0,
            harmony=0.5,
            dilation=0.06,
            start_percent=0.0,
            end_percent=1.0,
            background_prompt=ours.MEAN,
            shared_negative=True,
        )
