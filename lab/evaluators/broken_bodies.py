"""Bodies that are broken on purpose: what an evaluator of anatomy learns from and must find."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ...models import pose
from ..world.body import BASE_STATURE, Bodies, build_bodies
from ..world.renderer import render
from ..world.scenes import People, Scenes

LONGER, SHORTER = 1.6, 0.5  # times as long as it was: both bones of an arm or a leg
TOO_LONG = 1.15  # times as long as the limb is: what is seen of it, else it could be foreshortened
ASIDE = 0.75  # radians by which the limb that is too many is turned outwards
LEAST_PIXELS = 200  # of 192 x 192 that an arm or a leg covers, so that one sees what is wrong
HIPS = [pose.R_HIP, pose.L_HIP]
MARKED = 99  # a label of no part
MOVED = 0.01  # meters


class Limb(NamedTuple):
    """Name an arm or a leg."""

    first: int  # row of People.limbs
    joints: tuple[int, int, int]
    meters: float  # length of both bones of a person of BASE_STATURE
    outwards: float  # sign of the angle that turns it away from the body


ARMS = (
    Limb(0, (pose.R_SHOULDER, pose.R_ELBOW, pose.R_WRIST), 0.55, -1.0),
    Limb(2, (pose.L_SHOULDER, pose.L_ELBOW, pose.L_WRIST), 0.55, 1.0),
)
LEGS = (
    Limb(4, (pose.R_HIP, pose.R_KNEE, pose.R_ANKLE), 0.85, -1.0),
    Limb(6, (pose.L_HIP, pose.L_KNEE, pose.L_ANKLE), 0.85, 1.0),
)


class Broken(NamedTuple):
    """Hold images of bodies that are broken, where it can be seen."""

    images: Tensor  # [N,3,H,W]
    rows: Tensor  # [N] of the scenes that they are of


class Parts(NamedTuple):
    """Mark the parts [P,K] of a limb, and those of them that lie beyond its first bone; and the
    limb turned outwards, at the same joint.
    """

    all: Tensor
    beyond: Tensor
    turned: Bodies


def break_bodies(scenes: Scenes, ways: Sequence[Callable[[Scenes], Broken]]) -> Broken:
    """Break one-person scenes in these ways in turn, and keep those in which it is seen."""
    images, rows = [], []
    for k, way in enumerate(ways):
        turn = torch.arange(k, len(scenes), len(ways))
        if len(turn):
            drawn, kept = way(scenes.take(turn))
            images.append(drawn)
            rows.append(turn[kept])
    return Broken(torch.cat(images), torch.cat(rows))


def _lengthen(scenes: Scenes, limb: Limb) -> Broken:
    drawn = _scaled(scenes, limb, LONGER)
    joints = drawn.body[:, list(limb.joints), :2]
    length = joints.diff(dim=1).norm(dim=-1).sum(1)
    return _keep(drawn.rgb, length > TOO_LONG * limb.meters / BASE_STATURE * drawn.height)


def _shorten(scenes: Scenes, limb: Limb) -> Broken:
    return _keep(_scaled(scenes, limb, SHORTER).rgb, _covers(scenes, limb))


def _scaled(scenes: Scenes, limb: Limb, factor: float):
    limbs = scenes.people.limbs.clone()
    limbs[:, limb.first : limb.first + 2] *= factor
    return render(replace(scenes, people=replace(scenes.people, limbs=limbs)))


def _remove(scenes: Scenes, limb: Limb) -> Broken:
    def remove(people: People, bodies: Bodies) -> Bodies:
        return replace(bodies, r=bodies.r * ~_parts(people, bodies, limb).all[..., None])

    return _keep(render(scenes, change=remove).rgb, _covers(scenes, limb))


def _double(scenes: Scenes, limb: Limb) -> Broken:
    def double(people: People, bodies: Bodies) -> Bodies:
        parts = _parts(people, bodies, limb)
        other = parts.turned
        label = other.label.masked_fill(parts.beyond, MARKED)
        return _joined(bodies, replace(other, r=other.r * parts.all[..., None], label=label))

    drawn = render(scenes, change=double)
    return _keep(drawn.rgb, (drawn.parsing == MARKED).sum((1, 2)) >= LEAST_PIXELS)


def _covers(scenes: Scenes, limb: Limb) -> Tensor:
    """Tell in which scenes the limb covers LEAST_PIXELS."""

    def mark(people: People, bodies: Bodies) -> Bodies:
        is_limb = _parts(people, bodies, limb).all
        return replace(bodies, label=bodies.label.masked_fill(is_limb, MARKED))

    return (render(scenes, change=mark).parsing == MARKED).sum((1, 2)) >= LEAST_PIXELS


def _keep(images: Tensor, is_seen: Tensor) -> Broken:
    return Broken(images[is_seen], is_seen)


def _parts(people: People, bodies: Bodies, limb: Limb) -> Parts:
    """Find a limb's parts: those that move when it is turned outwards."""
    turned = build_bodies(_turn(people, limb))
    move = (bodies.body[:, HIPS] - turned.body[:, HIPS]).mean(1, keepdim=True)
    a, b = turned.a + move, turned.b + move
    beyond = (a - bodies.a).norm(dim=-1) > MOVED
    is_limb = beyond | ((b - bodies.b).norm(dim=-1) > MOVED)
    is_limb[:, -1] = False  # the stool
    return Parts(is_limb, beyond & is_limb, replace(turned, a=a, b=b))


def _turn(people: People, limb: Limb) -> People:
    """Turn both bones of a limb outwards about the axis that points forward."""
    c, s = math.cos(ASIDE), limb.outwards * math.sin(ASIDE)
    rotation = torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    limbs = people.limbs.clone()
    limbs[:, limb.first : limb.first + 2] = limbs[:, limb.first : limb.first + 2] @ rotation.mT
    return replace(people, limbs=limbs)


def _joined(bodies: Bodies, more: Bodies) -> Bodies:
    """Add the parts of other bodies of the same people."""
    joined = {}
    for field in fields(Bodies):
        one, other = getattr(bodies, field.name), getattr(more, field.name)
        if field.name not in ("body", "hands"):
            one = torch.cat((one, other), 0 if field.name == "limb" else 1)
        joined[field.name] = one
    return Bodies(**joined)


# What is tested, and what else is learned from
WAYS: dict[str, list[Callable[[Scenes], Broken]]] = {
    "lengthened": [partial(_lengthen, limb=limb) for limb in (*ARMS, *LEGS)],
    "armless": [partial(_remove, limb=limb) for limb in ARMS],
    "three_legged": [partial(_double, limb=limb) for limb in LEGS],
}
OTHER_WAYS: dict[str, list[Callable[[Scenes], Broken]]] = {
    "shortened": [partial(_shorten, limb=limb) for limb in (*ARMS, *LEGS)],
    "legless": [partial(_remove, limb=limb) for limb in LEGS],
    "three_armed": [partial(_double, limb=limb) for limb in ARMS],
}
