"""Judgements of generated bodies against true ones: what the pose network reads in an image,
compared with what it reads in images of the world.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from ...models import body_masks, pose
from .anatomynet import AnatomyNet, load_anatomynet
from .frechet import frechet, frechet_error, frechet_unbiased
from .posenet import STRIDE, PoseNet, find_joints

__all__ = ["frechet", "frechet_error", "frechet_unbiased"]  # also read from here

# what a body must show: neck, shoulders, elbows, wrists, hips, knees, ankles
LIMBS = (
    pose.NECK,
    pose.R_SHOULDER,
    pose.R_ELBOW,
    pose.R_WRIST,
    pose.L_SHOULDER,
    pose.L_ELBOW,
    pose.L_WRIST,
    pose.R_HIP,
    pose.R_KNEE,
    pose.R_ANKLE,
    pose.L_HIP,
    pose.L_KNEE,
    pose.L_ANKLE,
)
BONES = (
    (pose.R_SHOULDER, pose.R_ELBOW),
    (pose.R_ELBOW, pose.R_WRIST),
    (pose.L_SHOULDER, pose.L_ELBOW),
    (pose.L_ELBOW, pose.L_WRIST),
    (pose.R_HIP, pose.R_KNEE),
    (pose.R_KNEE, pose.R_ANKLE),
    (pose.L_HIP, pose.L_KNEE),
    (pose.L_KNEE, pose.L_ANKLE),
    (pose.NECK, pose.R_HIP),
    (pose.NECK, pose.L_HIP),
)
MIDDLE = (pose.NECK, pose.R_HIP, pose.L_HIP)
NEIGHBORS = 7  # whose most frequent action names a body's
FALSE_ALARMS = 0.05  # share of true bodies that are taken for broken
READING_ALARMS = 0.01  # of them for what the pose network reads, the others by the anatomy network
USUAL = 0.05, 0.5, 0.95  # quantiles of what is read in true bodies of one action
NARROWEST = 0.02  # reach that any reading has at least, as a logarithm
# of certainties, doubles and bones: what may be too little, and what too much
LEAST_COUNTS = torch.tensor([True] * 13 + [False] * 13 + [True] * 10)
MOST_COUNTS = torch.tensor([False] * 13 + [True] * 23)
ELSEWHERE = 5  # cells between a joint and another like it
AROUND = 0.06  # of the person's height: what still counts for the body, not for its surroundings


class Read(NamedTuple):
    """Hold what the pose network reads in B images."""

    joints: Tensor  # [B,18,2] pixels
    certainty: Tensor  # [B,13] how high the heat maps of LIMBS are
    double: Tensor  # [B,13] how high they are once more, elsewhere, as a share of that
    bones: Tensor  # [B,10] lengths over their sum
    features: Tensor  # [B,F] means of the last level
    make: Tensor  # [B] logit of the anatomy network: above 0 of a body of the right make


class Limits(NamedTuple):
    """Say between which limits whole bodies of A actions are read."""

    low: Tensor  # [A,36] of `_readings`
    high: Tensor  # [A,36]
    make: Tensor  # [] least logit of the anatomy network


class TrueBodies(NamedTuple):
    """Hold what generated bodies are compared with."""

    limits: Limits
    shapes: Tensor  # [N,36] of their true joints
    actions: Tensor  # [N]
    features: Tensor  # [N,F] of true images, as rendered


@torch.no_grad()
def read(net: PoseNet, images: Tensor, batch: int = 50) -> Read:
    """Read the bodies in images [B,3,H,W] in 0..1 of one person each."""
    parts = [_read(net, chunk) for chunk in images.split(batch)]
    return Read(*(torch.cat(each) for each in zip(*parts, strict=True)))


def _read(net: PoseNet, images: Tensor) -> Read:
    joints = find_joints(net, images)
    heat = net(images).sigmoid()[:, list(LIMBS)]
    certainty = heat.amax((2, 3))
    lengths = _lengths(joints)
    features = net.features(images * 2 - 1)[-1].mean((2, 3))
    double = _elsewhere(heat, joints[:, list(LIMBS)]) / certainty
    bones = lengths / lengths.sum(1, keepdim=True)
    return Read(joints, certainty, double, bones, features, _anatomy()(images))


@cache
def _anatomy() -> AnatomyNet:
    return load_anatomynet()


def _elsewhere(heat: Tensor, joints: Tensor) -> Tensor:
    """The highest peak [B,J] of heat maps [B,J,h,w] away from the joints [B,J,2]."""
    y, x = (torch.arange(n).to(heat) + 0.5 for n in heat.shape[2:])
    off = torch.hypot(
        x - joints[..., 0, None, None] / STRIDE,
        y[:, None] - joints[..., 1, None, None] / STRIDE,
    )
    peak = heat == max_pool2d(heat, 3, 1, 1)
    return (heat * peak * (off > ELSEWHERE)).amax((2, 3))


def _lengths(joints: Tensor) -> Tensor:
    one, other = zip(*BONES, strict=True)
    return (joints[:, one] - joints[:, other]).norm(dim=-1)


def shape_of(joints: Tensor) -> Tensor:
    """Normalize joints [B,18,2] for place and size, [B,36]."""
    centered = joints - joints[:, list(MIDDLE)].mean(1, keepdim=True)
    return (centered / centered.norm(dim=-1).amax(1)[:, None, None]).flatten(1)


def limits_of(read: Read, actions: Tensor) -> Limits:
    """Choose the limits that FALSE_ALARMS of true bodies of these actions [N] exceed: usual
    readings of an action reach from its median so far that READING_ALARMS of all bodies lie beyond,
    and the anatomy network takes the rest for broken.
    """
    readings, count = _readings(read), int(actions.max()) + 1
    usual = torch.tensor(USUAL)
    everywhere = readings.quantile(usual, dim=0)
    by_action = torch.stack(
        [
            readings[actions == k].quantile(usual, dim=0) if (actions == k).any() else everywhere
            for k in range(count)
        ],
        1,
    )
    low, middle, high = by_action
    reach = (middle - low).clamp(min=NARROWEST), (high - middle).clamp(min=NARROWEST)
    off = readings - middle[actions]
    below, above = (
        -off / reach[0][actions] * LEAST_COUNTS,
        off / reach[1][actions] * MOST_COUNTS,
    )
    stretch = torch.maximum(below, above).amax(1)
    most = stretch.quantile(1 - READING_ALARMS)
    rest = FALSE_ALARMS - READING_ALARMS
    least = read.make[stretch <= most].quantile(rest / (1 - READING_ALARMS))
    return Limits(middle - most * reach[0], middle + most * reach[1], least)


def _readings(read: Read) -> Tensor:
    """Put certainties, doubles and bones [B,36] on scales on which true ones lie evenly."""
    sure = read.certainty.float().clamp(1e-3, 1 - 1e-3).logit()
    double = read.double.float().clamp(min=1e-3).log()
    return torch.cat((sure, double, read.bones.float().clamp(min=1e-3).log()), 1)


def are_complete(generated: Read, true: TrueBodies, actions: Tensor | None = None) -> Tensor:
    """Decide whether each body has every limb once and in human proportions, bool [B], as all but
    FALSE_ALARMS of the true bodies have.

    `actions` [B] are what the bodies do; without them, what they look like.
    """
    limits, readings = true.limits, _readings(generated)
    rows = name_actions(generated.joints, true) if actions is None else actions
    enough = (readings >= limits.low[rows]) | ~LEAST_COUNTS
    not_too_much = (readings <= limits.high[rows]) | ~MOST_COUNTS
    return (enough & not_too_much).all(1) & (generated.make >= limits.make)


def name_actions(joints: Tensor, true: TrueBodies) -> Tensor:
    """Name the action [B] that most of the nearest true bodies do."""
    off = torch.cdist(shape_of(joints), true.shapes)
    return true.actions[off.topk(NEIGHBORS, largest=False).indices].mode(1).values


def surroundings(joints: Tensor, size: int) -> Tensor:
    """Mark the pixels where no body is, bool [B,size,size], for joints [B,18,2]."""
    with_confidence = torch.cat((joints, torch.ones_like(joints[..., :1])), -1)
    empty_parts = (
        torch.zeros(len(with_confidence), n, 3) for _, n in list(pose.POINT_GROUPS.values())[1:]
    )
    people = pose.people_from_points((with_confidence, *empty_parts), size, size)
    masks = [
        body_masks.person_masks(pose.pick(people, [k]), size, size, dilation=AROUND, feather=0.0)[0]
        for k in range(len(with_confidence))
    ]
    return torch.stack(masks) == 0


def drift(images: Tensor, before: Tensor, joints: Tensor, joints_before: Tensor) -> float:
    """Average the difference of images [B,3,H,W] outside both the bodies."""
    size = images.shape[-1]
    free = surroundings(joints, size) & surroundings(joints_before, size)
    off = (images - before).abs().mean(1)
    return float((off * free).sum() / free.sum())
