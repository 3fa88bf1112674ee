"""Measure whether a forearm goes on where its hand ends: what mask expansion is for.

The ring around a hand is a fifth of the hand wide. Of the ring only the forearm counts, bare or in
its sleeve, and of the hand what is as near to it: there a hand that was generated first meets the
body that was generated around it. What is behind them differs from image to image.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ...models import body_masks, hands, pose
from ..world.body import LEFT_HAND, RIGHT_HAND, SKIN, TOP
from ..world.renderer import Render

WIDTH = 0.2  # of the ring, in hands
ARM = 0.3  # half of what a forearm may be wide, in hands; a sleeve is .26
LEAST_PIXELS = 12  # a smaller piece of a forearm, one that points at us, is not judged
ARMS = ((pose.R_ELBOW, pose.R_WRIST), (pose.L_ELBOW, pose.L_WRIST))  # right and left
NAMES = ("ring_error", "ring_color", "ring_edge")
BEYOND, REACH = "around_error", 1.0  # what a wide border spoils; hands from the hand


class Ring(NamedTuple):
    """Mark the pixels [H, W] on both sides of a wrist."""

    forearm: Tensor
    hand: Tensor
    beyond: Tensor  # all else of the person, up to REACH


def find_ring(truth: Render, scene: int, side: int) -> Ring | None:
    """Mark the wrist of one person's right (0) or left (1) hand; None where the forearm is hidden.

    `scene` is also the row of its only person.
    """
    size = hands.hand_size(truth.hands[scene, side])
    width = WIDTH * size
    label = (RIGHT_HAND, LEFT_HAND)[side]
    hand = (truth.parsing[scene] == label) & (truth.instance[scene] == scene)
    arm = torch.zeros(hand.shape)
    elbow, wrist = (truth.body[scene, joint, :2] for joint in ARMS[side])
    body_masks.fill_capsules(arm, [(elbow, wrist, ARM * size)])
    is_arm = (truth.parsing[scene] == SKIN) | (truth.parsing[scene] == TOP)
    is_person = truth.instance[scene] == scene
    forearm = is_arm & is_person & (arm > 0) & _near(hand, width)
    if forearm.sum() < LEAST_PIXELS:
        return None
    beyond = is_person & _near(hand, REACH * size) & ~(hand | forearm)
    return Ring(forearm, hand & _near(forearm, width), beyond)


def _near(pixels: Tensor, width: float) -> Tensor:
    return hands.distance_map(pixels, math.ceil(width)) <= width


def read_ring(image: Tensor, true: Tensor, ring: Ring) -> dict[str, float]:
    """Compare an image [3,H,W] in 0..1 with the true one around a wrist; 0 is the true image.

    ring_error: mean distance of the forearm's pixels. ring_color: how far the step of mean color
    from hand to forearm is from the true step. ring_edge: by how much neighboring pixels of both
    differ more than in the true image, so that a smooth image has no edge. around_error:
    mean distance of all else of the person, up to REACH; NaN where hardly any is seen.
    """
    distances = (image - true).abs().mean(0)
    color = (_step(image, ring) - _step(true, ring)).abs().mean()
    wrist_area = ring.forearm | ring.hand
    excess = []
    for axis in (-2, -1):
        inside = wrist_area.unfold(axis, 2, 1).all(-1)
        contrast, true_contrast = (x.diff(dim=axis).abs().mean(0) for x in (image, true))
        excess.append((contrast - true_contrast).clamp(min=0)[inside])
    figures = distances[ring.forearm].mean(), color, torch.cat(excess).mean()
    is_seen = ring.beyond.sum() >= LEAST_PIXELS
    return {
        **{name: float(figure) for name, figure in zip(NAMES, figures, strict=True)},
        BEYOND: float(distances[ring.beyond].mean()) if is_seen else math.nan,
    }


def _step(image: Tensor, ring: Ring) -> Tensor:
    return image[:, ring.forearm].mean(1) - image[:, ring.hand].mean(1)


def read_rings(images: Tensor, truth: Render, judged: list[tuple[int, int]]) -> dict[str, Tensor]:
    """Read the rings of all judged hands (scene, side) in images [B,3,H,W]: name -> values [hands],
    NaN where the forearm is hidden.
    """
    values, names = [], (*NAMES, BEYOND)
    for scene, side in judged:
        ring = find_ring(truth, scene, side)
        hidden = dict.fromkeys(names, math.nan)
        values.append(hidden if ring is None else read_ring(images[scene], truth.rgb[scene], ring))
    return {name: torch.tensor([of_hand[name] for of_hand in values]) for name in names}
