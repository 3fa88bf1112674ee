"""Choose unseen scenes of the mini world whose hands can be judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ...models import hands
from ..world.renderer import Render, render
from ..world.scenes import ACTIONS, UPPER, Scenes, sample_scenes

SIDES = (hands.RIGHT, hands.LEFT)  # in the order of Render.hands
SEEN = 0.5  # share of a hand's joints that must be visible for it to be judged
MANY, CHUNK = 12, 96  # scenes drawn for each one that is chosen, and rendered at a time
TOUCH = 0.25  # of a hand: hands whose nearest joints are as near touch
# The right arm before the chest, upper arm and forearm (x to the person's left, up, forward)
_BEFORE_CHEST = torch.tensor([[-0.30, -0.85, 0.40], [0.85, 0.40, 0.35]])
_MIRROR = torch.tensor([-1.0, 1.0, 1.0])
_WOBBLE = 0.2  # of each direction


class HandScenes(NamedTuple):
    """Hold scenes, what they look like, and the hands (scene, side) that can be judged."""

    scenes: Scenes
    truth: Render
    judged: list[tuple[int, int]]


def upper_bodies(count: int, seed: int) -> HandScenes:
    """Choose `count` upper bodies with a hand in the image that nothing but itself hides."""
    drawn = sample_scenes(MANY * count, seed, framing=UPPER, people=1)
    return _choose(drawn, count, lambda truth: is_judged(truth).any(1))


def touching_hands(count: int, seed: int) -> HandScenes:
    """Choose `count` upper bodies that hold both hands before the chest, crossed or touching."""
    drawn = sample_scenes(MANY * count, seed, framing=UPPER, people=1)
    return _choose(hold_together(drawn, seed), count, _touch)


def hold_together(scenes: Scenes, seed: int) -> Scenes:
    """Bring both hands of everybody together before the chest, each a little differently."""
    people, g = scenes.people, torch.Generator().manual_seed(seed)
    limbs = people.limbs.clone()
    wobble = _WOBBLE * (2 * torch.rand(len(people), 4, 3, generator=g) - 1)
    arms = torch.cat((_BEFORE_CHEST, _BEFORE_CHEST * _MIRROR)) + wobble
    limbs[:, :4] = normalize(arms, dim=-1)
    standing = torch.full_like(people.action, list(ACTIONS).index("standing"))
    return replace(scenes, people=replace(people, limbs=limbs, action=standing))


def is_judged(truth: Render) -> Tensor:
    """Tell of each hand [scenes, 2] whether it is in the image and hidden by nothing but itself."""
    is_visible = truth.hands_visible.float().mean(-1) >= SEEN
    return is_visible & (truth.hands[..., 2] > 0).all(-1)


def hand_gap(hands_of_person: Tensor) -> float:
    """Measure how far apart two hands [2, 21, 3] are at their nearest joints, in hands."""
    right, left = hands_of_person
    size = max(hands.hand_size(right), hands.hand_size(left))
    return float(torch.cdist(right[:, :2], left[:, :2]).min()) / size


def _touch(truth: Render) -> Tensor:
    is_near = torch.tensor([hand_gap(pair) <= TOUCH for pair in truth.hands])
    return is_judged(truth).all(1) & is_near


def _choose(drawn: Scenes, count: int, suits: Callable[[Render], Tensor]) -> HandScenes:
    """Take the first `count` scenes, of one person each, whose render `suits`."""
    rows: list[int] = []
    for chunk in torch.arange(len(drawn)).split(CHUNK):
        if len(rows) < count:
            rows += chunk[suits(render(drawn.take(chunk)))].tolist()
    if len(rows) < count:
        raise ValueError(f"expected {count} scenes with such hands, found {len(rows)}")
    scenes = drawn.take(torch.tensor(rows[:count]))
    truth = render(scenes)
    return HandScenes(scenes, truth, [(i, side) for i, side in is_judged(truth).nonzero().tolist()])


def first_scenes(subjects: HandScenes, count: int) -> HandScenes:
    """Take the first scenes; each has one person, so its rows of the truth are those of people."""
    truth = Render(**{f.name: getattr(subjects.truth, f.name)[:count] for f in fields(Render)})
    judged = [(i, side) for i, side in subjects.judged if i < count]
    return HandScenes(
        subjects.scenes.take(torch.arange(min(count, len(subjects.scenes)))), truth, judged
    )
