"""The masks of the people against the places that they have while an image is sampled."""

from types import SimpleNamespace

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from torch.nn.functional import avg_pool2d
from vitruvian.host import compose as host
from vitruvian.host.registration import register
from vitruvian.models import compose, pose
from vitruvian.nodes import compose as ours

import nodes as core

register()
SIDE, CELL = 128, 8
DILATION = 0.06


@pytest.fixture(scope="module")
def loaded(mini_weights):
    with torch.inference_mode():
        model, clip = core.CheckpointLoaderSimple().load_checkpoint("vitruvian_mini.safetensors")[
            :2
        ]
    return SimpleNamespace(model=model, prompt=core.CLIPTextEncode().encode(clip, "a man")[0])


def standing(x):
    """Describe a person from head to feet at this place of the width, in OpenPose's 18 points."""
    shape = [
        (0, 8),
        (0, 20),
        (-10, 20),
        (-13, 36),
        (-13, 50),
        (10, 20),
        (13, 36),
        (13, 50),
        (-6, 52),
        (-6, 75),
        (-6, 100),
        (6, 52),
        (6, 75),
        (6, 100),
        (-2, 6),
        (2, 6),
        (-5, 7),
        (5, 7),
    ]
    points = [(SIDE * x + 0.7 * a, 10 + 0.9 * b, 1.0) for a, b in shape]
    return {"pose_keypoints_2d": [value for point in points for value in point]}


def poses(*frames):
    return [
        {"people": [standing(x) for x in xs], "canvas_width": SIDE, "canvas_height": SIDE}
        for xs in frames
    ]


def shares_while_sampling(loaded, instances, keypoints, images):
    """Sample, and return the hard shares [people, frames, 1, h, w] and who has any place."""
    model, positive, negative = ours.VitruvianComposeInstances.execute(
        loaded.model,
        loaded.prompt,
        loaded.prompt,
        instances,
        keypoints,
        None,
        mode="exact",
        strength=1.0,
        harmony=0.0,
        dilation=DILATION,
        start_percent=0.0,
        end_percent=1.0,
        background_prompt=ours.MEAN,
        shared_negative=True,
    ).result[:3]
    hard_shares = []

    def note(executor, x, t, c_concat, c_crossattn, control, options, **extra):
        hard_shares.append(options[host.KEY].shares.hard)
        return executor(x, t, c_concat, c_crossattn, control, options, **extra)

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "note", note)
    latent = {"samples": torch.zeros(images, 4, SIDE // CELL, SIDE // CELL)}
    core.common_ksampler(model, 7, 1, 1.0, "euler", "normal", positive, negative, latent)
    return hard_shares[0]


@pytest.mark.parametrize(
    "xs, order", [((0.3, 0.7), (0, 0)), ((0.45, 0.6), (0, 0)), ((0.45, 0.6), (1, 0))], ids=str
)
def test_they_are_the_places_that_people_have_while_sampling(loaded, xs, order):
    instances = tuple(
        compose.Instance(loaded.prompt, k, order=order[k - 1]) for k in range(1, len(xs) + 1)
    )
    keypoints = poses(xs, xs[::-1])
    frames = compose.instance_frames(instances, pose.read_poses(keypoints))
    with torch.inference_mode():
        shares = shares_while_sampling(loaded, instances, keypoints, images=2)
        masks = frames.person_masks(DILATION)
    assert masks.shape == (2 * len(xs), SIDE, SIDE)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    pooled = avg_pool2d(masks[:, None], CELL)[:, 0].unflatten(0, (2, len(xs)))
    for frame in range(2):
        for person in range(len(xs)):
            share, mask = shares[person, frame, 0], pooled[frame, person]
            assert mask.any()
            assert (share[mask == 1] == 1).all()  # cells inside a mask are this person's
            elsewhere = pooled[frame].sum(0) - mask
            assert (share[elsewhere == 1] == 0).all()
            assert (mask[share == 1] > 0).all()


def test_masks_of_instances_give_the_size_and_nobody_is_refused():
    left = torch.zeros(1, 24, 40)
    left[..., :20] = 1
    hidden = torch.zeros(1, 12, 20)
    hidden[..., 1:3] = 1  # all of it is behind the others
    instances = (
        compose.Instance([], 0, left, order=1),
        compose.Instance([], 0, 1 - left),
        compose.Instance([], 0, hidden),
    )
    masks = compose.instance_frames(instances).person_masks(DILATION)
    assert torch.equal(masks, torch.cat((left, 1 - left, torch.zeros_like(left))))
