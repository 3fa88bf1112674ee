"""Say in words what the joints of people show: standing or sitting, raised arms, who touches whom.

Only what the points show clearly is said, as a wrong word is worse than none. Lengths are measured
in torsos, from the neck to the middle of the hips, so that the size of a person does not matter.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from . import pose
from .pose import People

UPRIGHT, LEVEL = 30.0, 55.0  # degrees from the vertical: at most for upright, at least for level
STRAIGHT = 150.0  # degrees at an elbow or a knee
FRONTAL = 0.55  # torsos between the shoulders of somebody who faces the viewer, at least
TOUCH = 0.14  # torsos from a wrist or a hand to another person's limb
OWN_TOUCH = 0.25  # torsos; a hand this close to its owner's trunk may lie there
SIZES = 0.6  # the smallest ratio of the torsos of two people who can touch
SIDES = (  # shoulder, elbow, wrist, hip, knee, ankle of the right and of the left side
    (pose.R_SHOULDER, pose.R_ELBOW, pose.R_WRIST, pose.R_HIP, pose.R_KNEE, pose.R_ANKLE),
    (pose.L_SHOULDER, pose.L_ELBOW, pose.L_WRIST, pose.L_HIP, pose.L_KNEE, pose.L_ANKLE),
)
PARTS = {  # what a hand touches, by the limb that is nearest
    "arm": {(2, 3), (3, 4), (5, 6), (6, 7)},
    "shoulder": {(1, 2), (1, 5)},
    "body": {(1, 8), (1, 11)},
    "leg": {(8, 9), (9, 10), (11, 12), (12, 13)},
    "head": {(1, 0), (0, 14), (14, 16), (0, 15), (15, 17)},
}
NEAR_HAND = 0.2  # torsos; a touch this close to a wrist is one of the hand


class Touch(NamedTuple):
    """Say that a hand of one person touches a part of another one; numbers are from 0."""

    person: int
    other: int
    part: str  # hand, arm, shoulder, body, leg or head


class Posture(NamedTuple):
    """Describe one person; a text is empty where the points do not show it clearly."""

    stance: str
    arms: str
    facing: str
    view: str  # how much of the person is seen


def describe(people: People) -> list[Posture]:
    """Describe every person by their points; missing ones are zeros (pose.keep_confident)."""
    return [
        Posture(_stance(body), _arms(body), _facing(body), _view(body))
        for body in people.body.double()
    ]


def text(posture: Posture) -> str:
    """Join what is known of a posture: 'sitting, one arm raised, seen from behind'."""
    return ", ".join(filter(None, posture))


# one person: body [18, 3]


def _are_seen(body: Tensor, *points: int) -> bool:
    return bool((body[list(points), 2] > 0).all())


def _torso(body: Tensor) -> Tensor | None:
    """Return the way from the neck to the middle of the hips in pixels [2]; None if unknown."""
    if not _are_seen(body, pose.NECK, pose.R_HIP, pose.L_HIP):
        return None
    torso = body[[pose.R_HIP, pose.L_HIP], :2].mean(0) - body[pose.NECK, :2]
    return torso if float(torso.norm()) > 0 else None


def _tilt(way: Tensor) -> float:
    """Return the angle of a way downwards from the vertical in degrees: 0 down, 180 up."""
    return math.degrees(math.atan2(abs(float(way[0])), float(way[1])))


def _bend(body: Tensor, first: int, joint: int, last: int) -> float:
    """Return the angle at a joint in degrees: 180 for a straight limb."""
    one, two = body[first, :2] - body[joint, :2], body[last, :2] - body[joint, :2]
    cosine = (one @ two) / (one.norm() * two.norm()).clamp(min=1e-9)
    return math.degrees(math.acos(float(cosine.clamp(-1, 1))))


def _stance(body: Tensor) -> str:
    torso = _torso(body)
    if torso is None:
        return ""
    legs = [side[3:] for side in SIDES if _are_seen(body, *side[3:])]
    stances = {_leg_stance(body, torso, *leg) for leg in legs}
    tilt = _tilt(torso)
    if tilt >= LEVEL:
        level = all(_tilt(body[ankle, :2] - body[hip, :2]) >= LEVEL for hip, _, ankle in legs)
        if legs and level:
            return "lying"
        return "bending over" if stances == {"standing"} and tilt < 120 else ""
    if len(legs) == 2 and len(stances) == 1 and tilt <= UPRIGHT:
        return stances.pop()
    return ""


def _leg_stance(body: Tensor, torso: Tensor, hip: int, knee: int, ankle: int) -> str:
    """Say what one leg shows, or nothing: a thigh towards the viewer is short."""
    length = float(torso.norm())
    thigh, shin = body[knee, :2] - body[hip, :2], body[ankle, :2] - body[knee, :2]
    drop, shin_drop = float(thigh[1]) / length, float(shin[1]) / length
    if drop > 0.55 and _tilt(thigh) < 25 and _tilt(shin) < 25 and shin_drop > 0.55:
        return "standing"
    if drop > 0.5 and _tilt(thigh) < 40 and shin_drop < 0.3:
        return "kneeling"
    if drop < 0.4 and shin_drop > 0.55 and _tilt(shin) < 30:
        return "sitting or crouching"
    return ""


def _arms(body: Tensor) -> str:
    torso = _torso(body)
    if torso is None or _tilt(torso) > UPRIGHT:
        return ""
    length = float(torso.norm())
    sides = [side for side in SIDES if _are_seen(body, *side[:4])]
    arms = [_arm(body, length, *side[:4]) for side in sides]
    if arms.count("raised"):
        return f"{'both arms' if arms.count('raised') == 2 else 'one arm'} raised"
    reaches = sorted(_sideways_reach(body, length, *side[:3]) for side in sides)
    if reaches and reaches[-1] > 0.7:
        return f"{'both arms' if reaches[0] > 0.4 and reaches[1:] else 'one arm'} stretched out"
    return "hands on the hips" if arms == ["hip", "hip"] else ""


def _arm(body: Tensor, length: float, shoulder: int, elbow: int, wrist: int, hip: int) -> str:
    if float(body[wrist, 1] - body[shoulder, 1]) < -0.4 * length:
        return "raised"
    outward = 1 if body[hip, 0] > body[[pose.R_HIP, pose.L_HIP], 0].mean() else -1
    from_hip = (body[wrist, :2] - body[hip, :2]) / length
    at_hip = -0.45 < float(from_hip[1]) < 0.05 and abs(float(from_hip[0])) < 0.35
    elbow_out = outward * float(body[elbow, 0] - body[wrist, 0]) > 0.25 * length
    return "hip" if at_hip and elbow_out and _bend(body, shoulder, elbow, wrist) < 125 else ""


def _sideways_reach(body: Tensor, length: float, shoulder: int, elbow: int, wrist: int) -> float:
    """Measure how far a straight, level arm reaches to a side, in torsos; 0 for another one."""
    reach = (body[wrist, :2] - body[shoulder, :2]).abs() / length
    straight = _bend(body, shoulder, elbow, wrist) >= STRAIGHT
    return float(reach[0]) if straight and float(reach[1]) < 0.35 else 0.0


def _facing(body: Tensor) -> str:
    """Read where somebody looks from the face, and from the order of the shoulders."""
    shoulders = float(body[pose.L_SHOULDER, 0] - body[pose.R_SHOULDER, 0])
    torso = _torso(body)
    if (
        torso is None
        or _tilt(torso) > UPRIGHT
        or not _are_seen(body, pose.R_SHOULDER, pose.L_SHOULDER)
    ):
        return ""
    breadth = shoulders / float(torso.norm())
    eyes = _are_seen(body, pose.R_EYE, pose.L_EYE, pose.NOSE)
    if eyes and breadth > FRONTAL:
        right, nose, left = (float(body[k, 0]) for k in (pose.R_EYE, pose.NOSE, pose.L_EYE))
        return "facing the viewer" if right < nose < left else ""
    if not body[[pose.NOSE, pose.R_EYE, pose.L_EYE], 2].any() and breadth < -FRONTAL:
        return "seen from behind"
    if abs(breadth) < 0.3 and _are_seen(body, pose.NOSE) and not eyes:
        ahead = float(body[pose.NOSE, 0] - body[pose.NECK, 0]) / float(torso.norm())
        if abs(ahead) > 0.15:
            return f"in profile, looking to the {'right' if ahead > 0 else 'left'}"
    return ""


def _view(body: Tensor) -> str:
    lower = body[[pose.R_KNEE, pose.R_ANKLE, pose.L_KNEE, pose.L_ANKLE], 2]
    if lower.any() or not _are_seen(body, pose.NECK):
        return ""
    hips = body[[pose.R_HIP, pose.L_HIP], 2]
    return "seen from the waist up" if hips.all() else ""


# several people


def touches(people: People) -> list[Touch]:
    """List whose hands touch whom, each pair and part once: two hands touch each other."""
    bodies = people.body.double()
    torsos = [_torso(body) for body in bodies]
    listed: dict[Touch, None] = {}
    for person, torso in enumerate(torsos):
        for other, second in enumerate(torsos):
            if torso is None or second is None or person == other:
                continue
            lengths = sorted((float(torso.norm()), float(second.norm())))
            if lengths[0] < SIZES * lengths[1]:
                continue
            for points in _hands(people, person):
                part = _touched(points, bodies[person], bodies[other], lengths[0])
                if part and Touch(other, person, part) not in listed:
                    listed[Touch(person, other, part)] = None
    return list(listed)


def _hands(people: People, person: int) -> list[Tensor]:
    """List the points [n, 2] of each hand that is seen; the wrist alone where no finger is."""
    hands = []
    wrists = (pose.R_WRIST, pose.L_WRIST)
    for hand, wrist in zip((people.right_hand, people.left_hand), wrists, strict=True):
        points = torch.cat([hand[person].double(), people.body[person, wrist].double()[None]])
        if points[:, 2].any():
            hands.append(points[points[:, 2] > 0, :2])
    return hands


def _touched(points: Tensor, body: Tensor, other: Tensor, length: float) -> str:
    """Name the part of the other body [18, 3] that points of a hand lie on, if any do."""
    trunk = _limb_distances(points, body, PARTS["body"])
    if trunk is not None and float(trunk.min()) < OWN_TOUCH * length:
        return ""
    nearest, name = TOUCH * length, ""
    for part, limbs in PARTS.items():
        distances = _limb_distances(points, other, limbs)
        if distances is not None and float(distances.min()) < nearest:
            nearest, name = float(distances.min()), part
    wrists = other[[pose.R_WRIST, pose.L_WRIST]]
    wrists = wrists[wrists[:, 2] > 0, :2]
    if name == "arm" and len(wrists):
        if float(torch.cdist(points, wrists).min()) < NEAR_HAND * length:
            return "hand"
    return name


def _limb_distances(points: Tensor, body: Tensor, limbs: set[tuple[int, int]]) -> Tensor | None:
    """Measure how far points [n, 2] lie from the nearest of these limbs, in pixels [n]."""
    ends = [body[[first, last], :2] for first, last in limbs if _are_seen(body, first, last)]
    if not ends:
        return None
    start, way = torch.stack(ends)[:, 0], torch.stack(ends)[:, 1] - torch.stack(ends)[:, 0]
    along = ((points[:, None] - start) * way).sum(-1) / way.square().sum(-1).clamp(min=1e-9)
    nearest = start + along.clamp(0, 1)[..., None] * way
    return (points[:, None] - nearest).norm(dim=-1).amin(1)
