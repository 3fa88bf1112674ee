"""How long artists wait for what nodes draw, each at its largest usual input, on one core.

<case>_seconds: processor time, the least of REPEATS; <case>_bytes: of the result; <case>_copies:
the time over that of a plain numpy copy of the result. Cases:
  masks_N_SIDE           Draw Person Masks and Compose: N people in SIDE x SIDE pixels
  masks_feathered_N_SIDE the same with a feather of .03 of a person's height
  masks_slow_8_1024      as masks_8_1024, pixel by pixel: the distance to every limb (the baseline)
  hand_masks_1024        Draw Hand Masks: 16 hands
  skeletons_SIDE         Draw Pose, eight people
  cut_hands_1024         Cut Hands: 16 hands from an image
  insert_hands_1024      Place Hands: four of them
  semantic_map_1024      Semantic Map from Pose, eight people
  colors_1024            Semantic Map from Colors
  shares_1024            Preview Instances, eight people
  poses_32               Load Pose: a frame of 32 people
  detect_2048            Detect Pose: one person
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...models import (
    body_masks,
    compose_drawing,
    detect,
    hands,
    outfit,
    pose,
    pose_drawing,
    semantic_map,
)
from ...tools.paths import ROOT

REPEATS, QUICK_REPEATS = 5, 1
FEATHER, DILATION, SEED = 0.03, 0.06, 0
# a standing person: 18 points in heights, from the middle of the head's top
STANDING = (
    (0.0, 0.08), (0.0, 0.2), (-0.1, 0.2), (-0.13, 0.36), (-0.13, 0.5), (0.1, 0.2),
    (0.13, 0.36), (0.13, 0.5), (-0.06, 0.52), (-0.06, 0.75), (-0.06, 1.0), (0.06, 0.52),
    (0.06, 0.75), (0.06, 1.0), (-0.02, 0.06), (0.02, 0.06), (-0.05, 0.07), (0.05, 0.07),
)  # fmt: skip
HAND = torch.tensor(
    [(0.0, 0.0)] + [(0.14 * (f - 2), 0.35 + 0.16 * k) for f in range(5) for k in range(4)]
)  # 21 points in sizes of a hand, fingers down
Draw = Callable[[], Tensor]


def run(quick: bool) -> dict[str, float]:
    """Time all cases; the numbers of results/nodes.json."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        repeats = QUICK_REPEATS if quick else REPEATS
        numbers: dict[str, float] = {}
        for name, draw in cases().items():
            numbers |= timed(name, draw, repeats)
        return numbers | _detection(repeats)
    finally:
        torch.set_num_threads(threads)


def timed(name: str, draw: Draw, repeats: int) -> dict[str, float]:
    """Time a case, and a copy of what it gives."""
    result = draw()
    array = result.numpy()
    seconds, copy = _least(draw, repeats), _least(lambda: array.copy(), repeats)
    return {
        f"{name}_seconds": seconds,
        f"{name}_bytes": float(array.nbytes),
        f"{name}_copies": seconds / max(copy, 1e-9),
    }


def _least(call: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def standing_people(count: int, side: int) -> pose.People:
    """Stand people side by side, each a little different, with both hands."""
    g = torch.Generator().manual_seed(SEED)
    shape, tall = torch.tensor(STANDING), 0.8 * side
    bodies: list[Tensor] = []
    hands_by_side: tuple[list[Tensor], list[Tensor]] = ([], [])
    for number in range(count):
        points = shape + 0.006 * torch.randn(shape.shape, generator=g)
        at = torch.tensor([(0.5 + number) / count * side, 0.1 * side])
        body = at + tall * torch.tensor([0.7, 1.0]) * points
        bodies.append(body)
        for wrist, of_side in zip((pose.L_WRIST, pose.R_WRIST), hands_by_side, strict=True):
            of_side.append(body[wrist] + body_masks.HAND_SHARE * tall * HAND)
    left, right = (_certain(torch.stack(each)) for each in hands_by_side)
    unseen = (torch.zeros(count, points, 3) for points in (70, 6))
    return pose.people_from_points(
        (_certain(torch.stack(bodies)), left, right, *unseen), side, side
    )


def _certain(points: Tensor) -> Tensor:
    return torch.cat((points, torch.ones_like(points[..., :1])), -1)


def cases() -> dict[str, Draw]:
    """List what is timed, ready to be called."""
    g = torch.Generator().manual_seed(SEED)
    eight, twelve = standing_people(8, 1024), standing_people(12, 2048)
    sixteen = hands.find_hands(eight)
    image, labels = (
        torch.rand(1024, 1024, 3, generator=g),
        outfit.map_from_pose(eight, outfit.Outfit(), 1024, 1024),
    )
    cutouts = hands.cut_hands(sixteen[:4], image, 256, 1.5)
    masks = body_masks.person_masks(eight, 1024, 1024, dilation=DILATION, feather=0.0)
    skeletons = pose_drawing.draw_people(eight, 1024, 1024)
    colored = semantic_map.color_image(labels)
    crowd = [pose.write_frame(standing_people(32, 1024))]
    squares = [cutout.square for cutout in cutouts]
    large = torch.stack([cutout.image for cutout in cutouts])
    return {
        "masks_8_1024": lambda: _masks(eight, 0.0),
        "masks_feathered_8_1024": lambda: _masks(eight, FEATHER),
        "masks_slow_8_1024": lambda: slow_masks(eight),
        "masks_12_2048": lambda: _masks(twelve, 0.0),
        "masks_feathered_12_2048": lambda: _masks(twelve, FEATHER),
        "hand_masks_1024": lambda: torch.stack(
            [hands.hand_mask(hand.points, 1024, 1024) for hand in sixteen]
        ),
        **{f"skeletons_{side}": partial(_skeletons, eight, side) for side in (512, 1024, 2048)},
        "cut_hands_1024": lambda: torch.stack(
            [cutout.image for cutout in hands.cut_hands(sixteen, image, 256, 1.5)]
        ),
        "insert_hands_1024": lambda: hands.insert_hands(
            image, squares, large, torch.ones(large.shape[:-1]), 0.3
        )[0],
        "semantic_map_1024": lambda: outfit.map_from_pose(eight, outfit.Outfit(), 1024, 1024),
        "colors_1024": lambda: semantic_map.from_colors(colored, semantic_map.PALETTE, 4.0),
        "shares_1024": lambda: compose_drawing.draw_shares(masks, skeletons, ["somebody"] * 8),
        "poses_32": lambda: pose.read_poses(crowd)[0].body,
    }


def _masks(people: pose.People, feather: float) -> Tensor:
    side = people.width
    return body_masks.person_masks(people, side, side, dilation=DILATION, feather=feather)


def _skeletons(people: pose.People, side: int) -> Tensor:
    return pose_drawing.draw_people(pose.cover_canvas(people, side, side), side, side)


def slow_masks(people: pose.People) -> Tensor:
    """Draw masks by the distance of every pixel to every limb."""
    height, width = people.height, people.width
    y, x = torch.arange(float(height))[:, None], torch.arange(float(width))
    masks = torch.zeros(pose.count(people), height, width)
    for number, tall in enumerate(body_masks.standing_heights(people).tolist()):
        for start, end, thickness in body_masks.capsules_of(pose.pick(people, [number])):
            axis = end - start
            along = (x - start[0]) * axis[0] + (y - start[1]) * axis[1]
            along = (along / axis.square().sum().clamp(min=1e-6)).clamp(0, 1)
            across = torch.hypot(x - start[0] - along * axis[0], y - start[1] - along * axis[1])
            masks[number][across <= (thickness + DILATION) * tall] = 1
    return masks


def _detection(repeats: int) -> dict[str, float]:
    """Time the search of one person in an image of 2048 x 2048."""
    with Image.open(ROOT / "workflows" / "images" / "waving.jpg") as file:
        pixels = np.asarray(file.convert("RGB").resize((2048, 2048)))
    large = torch.from_numpy(pixels / np.float32(255))
    with detect.open_detector([], hands=True) as detector:
        return timed("detect_2048", lambda: detector.detect(large).body, repeats)
