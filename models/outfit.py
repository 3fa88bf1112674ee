"""A semantic map from a pose: draw an outfit around the skeletons of people.

HumanDiffusion (Zhang et al. 2022, arXiv 2211.06235) takes its maps from a parser; drawing a coarse
one from a pose is ours. Which garments there are, and how each is drawn, says the table in
semantic_map.py.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import body_masks, pose
from .pose import People
from .semantic_map import (
    CLASSES,
    EYEGLASS,
    FACE,
    FOOTWEAR,
    HAIR,
    HEADWEAR,
    OUTER,
    PANTS,
    SKIN,
    TABLE,
    TOP,
    Shape,
)

UPPER_SHAPES = (Shape.SHIRT, Shape.JACKET, Shape.DRESS, Shape.OVERALL)
NOTHING, OPEN = "nothing", "outer over top"


def _names(*, upper: bool) -> list[str]:
    """The garments of the table that cover the trunk, or that cover the legs alone."""
    return [row.name for row in TABLE if row.shape and (row.shape in UPPER_SHAPES) == upper]


def _uppers() -> tuple[str, ...]:
    names = _names(upper=True)
    names.insert(names.index(CLASSES[OUTER]) + 1, OPEN)
    return (*names, NOTHING)


def _lowers() -> tuple[str, ...]:
    """Pants first: they are the default."""
    names = _names(upper=False)
    return (*sorted(names, key=lambda name: name != CLASSES[PANTS]), NOTHING)


UPPERS, LOWERS = _uppers(), _lowers()
SHORT, LONG, NONE = HAIRS = ("short", "long", "none")


class Outfit(NamedTuple):
    """What a person wears."""

    upper: str = CLASSES[TOP]  # of UPPERS
    lower: str = CLASSES[PANTS]  # of LOWERS; hidden by an overall and behind a dress
    hair: str = SHORT  # of HAIRS
    long_sleeves: bool = True  # to the wrist, else above the elbow
    long_legs: bool = True  # pants to the ankle, skirts to the shin, else above the knee
    shoes: bool = True
    hat: bool = False
    glasses: bool = False


class Stroke(NamedTuple):
    """What a part covers: the polygon around the corners [n, 2] and all within radius of its edges.

    One corner is a disc, two are a limb. Lengths are in standing heights of the person.
    """

    part: int
    corners: Tensor  # [n, 2], x and y
    radius: float


ARMS = (  # right, left
    (pose.R_SHOULDER, pose.R_ELBOW, pose.R_WRIST),
    (pose.L_SHOULDER, pose.L_ELBOW, pose.L_WRIST),
)
TRUNK_JOINTS = (pose.R_SHOULDER, pose.L_SHOULDER, pose.L_HIP, pose.R_HIP)
HEAD_JOINTS = (pose.NOSE, pose.R_EYE, pose.L_EYE, pose.R_EAR, pose.L_EAR)
LEGS = ((pose.R_HIP, pose.R_KNEE, pose.R_ANKLE), (pose.L_HIP, pose.L_KNEE, pose.L_ANKLE))
TOES = ((3, 4, 5), (0, 1, 2))  # big toe, small toe, heel among the points of the feet
# half thickness as a share of the standing height
BARE_ARM, SLEEVE, HAND, FINGER = 0.024, 0.034, 0.022, 0.012
BARE_LEG, LEGGING, TROUSER, FOOT = 0.034, 0.037, 0.048, 0.028
TRUNK, PELVIS, NECK_WIDTH = 0.032, 0.052, 0.028
# how far a garment goes down a limb: 1 is the elbow or knee, 2 the wrist or ankle
SLEEVES = {True: 1.95, False: 0.6}
TROUSERS = {True: 1.92, False: 0.7}
HEMS = {True: 1.6, False: 0.8}
FLARE = 1.3  # of a skirt's hem
Points = dict[int, Tensor]  # visible points by their number, in standing heights


def map_from_pose(people: People, outfit: Outfit, width: int, height: int) -> Tensor:
    """Draw a coarse semantic map [1, height, width] of people who all wear this outfit.

    The people's canvas covers width x height pixels (cover_canvas). Parts whose joints are missing
    are left out; hips out of sight are guessed. Smaller people are in front of larger ones, as when
    instances are composed.
    """
    labels = torch.zeros(height, width, dtype=torch.uint8)
    people = pose.cover_canvas(people, width, height)
    heights = body_masks.standing_heights(people)
    for number in heights.argsort(descending=True, stable=True).tolist():
        tall = min(heights[number].item(), 2.0 * max(width, height))  # a stray point makes no giant
        if tall > 0:
            for stroke in strokes(pose.pick(people, [number]), outfit, tall):
                _fill(labels, stroke.corners * tall, stroke.radius * tall, stroke.part)
    return labels[None]


def strokes(person: People, outfit: Outfit, tall: float) -> Iterator[Stroke]:
    """Yield the parts of one person, from behind to the front.

    `tall` is the person's standing height in the pixels of `person`.
    """
    at = _points(body_masks.guess_hips(person.body[0]), tall)
    hands = [_points(hand[0], tall) for hand in (person.right_hand, person.left_hand)]
    feet = _points(person.foot[0], tall)
    sides = _far_first(at)
    is_profile = (pose.R_EAR in at) != (pose.L_EAR in at)
    behind = 1 if is_profile else 0  # arms behind the trunk: of a profile, the far one
    arms = [list(_arm(at, hands[side], ARMS[side], outfit)) for side in sides]
    trunk, below = _trunk(at, outfit), _below(at, outfit)
    tucked = TABLE[_upper(outfit)].shape in (Shape.SHIRT, None) and outfit.lower != NOTHING
    for side in sides:
        yield from _leg(at, feet, side, outfit)
    for arm in arms[:behind]:
        yield from arm
    yield from (*trunk, *below) if tucked else (*below, *trunk)
    yield from _head(at, outfit)
    for arm in arms[behind:]:
        yield from arm


def _points(points: Tensor, tall: float) -> Points:
    return {n: point[:2] / tall for n, point in enumerate(points) if point[2] > 0}


def _far_first(at: Points) -> tuple[int, int]:
    """Both sides (0 is the right one), first the one turned away, whose ear is not visible."""
    return (0, 1) if pose.L_EAR in at else (1, 0)


def _path(at: Points, joints: Sequence[int], reach: float) -> Iterator[Tensor]:
    """The bones [2, 2] through these joints as far as `reach`, without those that miss an end."""
    for k, (a, b) in enumerate(pairwise(joints)):
        if a in at and b in at and reach > k:
            yield torch.stack((at[a], at[a].lerp(at[b], min(1.0, reach - k))))


def _beyond(at: Points, joints: Sequence[int], length: float) -> Tensor | None:
    """[2, 2]: from the last joint on, in the direction of the last bone."""
    *_, before, last = joints
    if before not in at or last not in at:
        return None
    axis = at[last] - at[before]
    return torch.stack((at[last], at[last] + axis / axis.norm().clamp(min=1e-6) * length))


def _arm(at: Points, hand: Points, joints: Sequence[int], outfit: Outfit) -> Iterator[Stroke]:
    for bone in _path(at, joints, 2):
        yield Stroke(SKIN, bone, BARE_ARM)
    bones = [torch.stack((hand[a], hand[b])) for a, b in pose.BONES if a in hand and b in hand]
    for bone in bones:
        yield Stroke(SKIN, bone, FINGER)
    if not bones and (palm := _beyond(at, joints, 0.05)) is not None:
        yield Stroke(SKIN, palm, HAND)
    if outfit.upper != NOTHING:
        for bone in _path(at, joints, SLEEVES[outfit.long_sleeves]):
            yield Stroke(_upper(outfit), bone, SLEEVE)


def _upper(outfit: Outfit) -> int:
    """The part that covers trunk and arms."""
    if outfit.upper == NOTHING:
        return SKIN
    return OUTER if outfit.upper == OPEN else CLASSES.index(outfit.upper)


def _lower(outfit: Outfit) -> int:
    """The part that covers the hips."""
    if TABLE[_upper(outfit)].shape == Shape.OVERALL:
        return _upper(outfit)
    return SKIN if outfit.lower == NOTHING else CLASSES.index(outfit.lower)


def _leg(at: Points, feet: Points, side: int, outfit: Outfit) -> Iterator[Stroke]:
    joints = LEGS[side]
    for bone in _path(at, joints, 2):
        yield Stroke(SKIN, bone, BARE_LEG)
    toes = [feet[n] for n in TOES[side] if n in feet]
    foot = _beyond(at, joints, 0.05)
    if toes and joints[-1] in at:
        foot = torch.stack((at[joints[-1]], *toes))
    if foot is not None:
        yield Stroke(FOOTWEAR if outfit.shoes else SKIN, foot, FOOT)
    part = _lower(outfit)
    shape = TABLE[part].shape
    if shape not in (None, Shape.SKIRT):
        for bone in _path(at, joints, TROUSERS[outfit.long_legs]):
            yield Stroke(part, bone, LEGGING if shape == Shape.TIGHTS else TROUSER)


def _trunk(at: Points, outfit: Outfit) -> Iterator[Stroke]:
    """Shoulders to hips, and the skirt of a dress."""
    corners = [at[joint] for joint in TRUNK_JOINTS if joint in at]
    if len(corners) > 2:
        yield Stroke(_upper(outfit), torch.stack(corners), TRUNK)
    if outfit.upper == OPEN and len(corners) == 4:
        right, left = torch.stack(corners)[[0, 3]], torch.stack(corners)[[1, 2]]
        front = torch.cat((right.lerp(left, 0.38), right.lerp(left, 0.62)))
        yield Stroke(TOP, front, 0.01)
    if TABLE[_upper(outfit)].shape == Shape.DRESS:
        yield from _skirt(at, _upper(outfit), HEMS[outfit.long_legs])


def _below(at: Points, outfit: Outfit) -> Iterator[Stroke]:
    """The hips, and a skirt."""
    part = _lower(outfit)
    if pose.R_HIP in at and pose.L_HIP in at:
        yield Stroke(part, torch.stack((at[pose.R_HIP], at[pose.L_HIP])), PELVIS)
    if TABLE[part].shape == Shape.SKIRT:
        yield from _skirt(at, part, HEMS[outfit.long_legs])


def _skirt(at: Points, part: int, hem: float) -> Iterator[Stroke]:
    """A trapezoid from the hips to the hem, wider there."""
    legs = [list(_path(at, joints, hem)) for joints in LEGS]
    hips = [at[joint] for joint in (pose.R_HIP, pose.L_HIP) if joint in at]
    ends = torch.stack([bones[-1][1] for bones in legs if bones]) if any(legs) else None
    if ends is not None and len(hips) + len(ends) > 2:
        ends = ends.mean(0) + FLARE * (ends - ends.mean(0))
        yield Stroke(part, torch.cat((torch.stack(hips), ends)), PELVIS)


def _head(at: Points, outfit: Outfit) -> Iterator[Stroke]:
    """Neck, hair, face, glasses and hat, in the direction of the neck; from behind, no face."""
    points = [at[joint] for joint in HEAD_JOINTS if joint in at]
    if not points:
        return
    middle = torch.stack(points).mean(0)
    up = middle - at[pose.NECK] if pose.NECK in at else torch.tensor([0.0, -1.0])
    up = up / up.norm().clamp(min=1e-6)
    across = torch.stack((-up[1], up[0]))

    def place(*places: tuple[float, float]) -> Tensor:
        """Corners [n, 2] of (across, up) from the middle of the face."""
        return torch.stack([middle + a * across + u * up for a, u in places])

    front = pose.NOSE in at or pose.R_EYE in at or pose.L_EYE in at
    if pose.NECK in at:
        yield Stroke(SKIN, torch.stack((at[pose.NECK], middle)), NECK_WIDTH)
    if outfit.hair == LONG:
        strands = [place((side, 0.03), (1.2 * side, -0.13)) for side in (-0.047, 0.047)]
        hanging = strands if front else [torch.cat(strands)]
        yield from (Stroke(HAIR, strand, 0.018) for strand in hanging)
    yield Stroke(FACE if front else SKIN, place((0, -0.02), (0, 0.03)), 0.042)
    if outfit.hair != NONE:
        yield Stroke(HAIR, place((0, 0.012 if front else -0.015), (0, 0.03)), 0.056)
    if front:
        yield Stroke(FACE, place((0, -0.02), (0, 0)), 0.042)
    eyes = [at[joint] for joint in (pose.R_EYE, pose.L_EYE) if joint in at]
    if outfit.glasses and eyes:
        corners = torch.stack(eyes)
        corners = corners.mean(0) + 1.3 * (corners - corners.mean(0))
        yield Stroke(EYEGLASS, corners, 0.013)
    if outfit.hat:
        yield Stroke(HEADWEAR, place((-0.06, 0.05), (0.06, 0.05)), 0.012)
        crown = place((-0.035, 0.05), (0.035, 0.05), (0.03, 0.09), (-0.03, 0.09))
        yield Stroke(HEADWEAR, crown, 0.015)


def _fill(labels: Tensor, corners: Tensor, radius: float, part: int) -> None:
    """Set what a stroke covers in a map [H, W], in place; corners and radius in pixels.

    The corners are joined around their middle, so that the outline of a twisted trunk does not
    cross itself.
    """
    low, high = (corners.amin(0) - radius).tolist(), (corners.amax(0) + radius).tolist()
    x0, y0 = (max(0, int(value)) for value in low)
    height, width = labels.shape
    x1, y1 = min(width, int(high[0]) + 2), min(height, int(high[1]) + 2)
    if x0 >= x1 or y0 >= y1:
        return
    offset = corners - corners.mean(0)
    corners = corners[torch.atan2(offset[:, 1], offset[:, 0]).argsort()]
    corners = corners - torch.tensor([x0, y0])
    covered = _inside(corners, x1 - x0, y1 - y0)
    edges = zip(corners, corners.roll(-1, 0), strict=True)
    body_masks.fill_capsules(covered, [(start, end, radius) for start, end in edges])
    labels[y0:y1, x0:x1][covered > 0] = part


def _inside(corners: Tensor, width: int, height: int) -> Tensor:
    """[height, width], 1 inside the polygon: a ray from the left crosses an odd number of edges."""
    y, start = np.arange(height)[:, None], corners.numpy()
    end = np.roll(start, -1, 0)
    crosses = (start[:, 1] > y) != (end[:, 1] > y)  # [h, n]
    with np.errstate(divide="ignore", invalid="ignore"):
        edge = start[:, 0] + (y - start[:, 1]) * (end - start)[:, 0] / (end - start)[:, 1]
    row, number = crosses.nonzero()
    column = np.clip(np.ceil(edge[row, number]), 0, width).astype(int)
    crossed = np.zeros((height, width + 1), np.int8)
    np.add.at(crossed, (row, column), 1)
    return torch.from_numpy(crossed.cumsum(1, dtype=np.int8)[:, :width] % 2).float()
