"""People as joints and solid parts: forward kinematics from limb directions, and the round cones of
a clothed body.

Camera space: x to the right of the image, y up, z towards the viewer, meters; the person's left
is +x when facing us.
A part is a sphere swept from `a` to `b` while its radius goes from `r[0]` to `r[1]` (a round cone).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ...models import semantic_map
from .scenes import ACTIONS, COLORS, GESTURES, HAIRS, SKINS, People

PITCH = 0.12  # the camera looks down by this angle, radians
LABELS: list[tuple[str, int]] = []  # the name of each label and the semantic class that it is


def _add(name: str, part: int) -> int:
    LABELS.append((name, part))
    return len(LABELS) - 1


BACKGROUND = _add("background", semantic_map.BACKGROUND)
FACE = _add("face", semantic_map.FACE)
HAIR = _add("hair", semantic_map.HAIR)
HAT = _add("hat", semantic_map.HEADWEAR)
TOP = _add("top", semantic_map.TOP)
BOTTOM = _add("bottom", semantic_map.PANTS)  # or a skirt, as People.bottom_kind says
SHOES = _add("shoes", semantic_map.FOOTWEAR)
SKIN = _add("skin", semantic_map.SKIN)
RIGHT_HAND = _add("right hand", semantic_map.SKIN)
LEFT_HAND = _add("left hand", semantic_map.SKIN)
SEAT = _add("seat", semantic_map.BACKGROUND)
BASE_STATURE = 1.75
HAND_LENGTH = 0.21

# Finger bases in the palm and the lengths of the three bones beyond, in hand lengths: (along,
# towards the thumb).
_BASES = torch.tensor([[0.16, 0.14], [0.48, 0.13], [0.50, 0.035], [0.47, -0.055], [0.41, -0.135]])
_BONES = torch.tensor(
    [
        [0.20, 0.16, 0.13],
        [0.20, 0.13, 0.10],
        [0.22, 0.15, 0.11],
        [0.20, 0.13, 0.10],
        [0.15, 0.10, 0.085],
    ]
)
_FAN = torch.tensor(
    [0.75, 0.14, 0.02, -0.11, -0.27]
)  # angle of each straight finger towards the thumb, radians
_FINGER_RADIUS = torch.tensor([0.068, 0.058, 0.060, 0.057, 0.050])


@dataclass(frozen=True)
class Bodies:
    """Hold P bodies of K parts each. A part with radius 0 is not there."""

    body: Tensor  # [P, 18, 3] OpenPose joints
    hands: Tensor  # [P, 2, 21, 3] right and left hand
    a: Tensor  # [P, K, 3]
    b: Tensor  # [P, K, 3]
    r: Tensor  # [P, K, 2]
    label: Tensor  # [P, K] index into LABELS
    albedo: Tensor  # [P, K, 2, 3] first and second color of the pattern
    pattern: Tensor  # [P, K] index into PATTERNS
    side: Tensor  # [P, K, 3] texture's u axis; v runs along b - a
    limb: Tensor  # [K] which hand a part belongs to: 0 right arm, 1 left arm, -1 neither


def build_bodies(p: People) -> Bodies:
    """Build the people's joints and parts, feet on y = 0 (or above it by the action's lift)."""
    j = _joints(p)
    parts = _Parts(p)
    _dress(p, j, parts)
    bodies = parts.stack(j)
    lowest = (bodies.a[..., 1] - bodies.r[..., 0]).minimum(bodies.b[..., 1] - bodies.r[..., 1])
    lowest = lowest.masked_fill(bodies.r.amax(-1) == 0, float("inf")).amin(1)
    lift = torch.tensor([a.lift for a in ACTIONS.values()]).to(lowest)[p.action]
    return _seat(p, _tilt(bodies, lift - lowest))


def _rotation(axis: int, angle: Tensor) -> Tensor:
    """Rotation matrices [P, 3, 3] about one axis (0 x, 1 y, 2 z) by `angle` [P]."""
    c, s = angle.cos(), angle.sin()
    i, k = [(1, 2), (2, 0), (0, 1)][axis]
    m = torch.eye(3).to(angle).repeat(len(angle), 1, 1)
    m[:, i, i], m[:, i, k], m[:, k, i], m[:, k, k] = c, -s, s, c
    return m


def _apply(m: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("pij,p...j->p...i", m, v)


def _joints(p: People) -> dict[str, Tensor]:
    """Named points [P, 3] before the feet are put on the ground, and the frames "turn", "torso",
    "skull" [P, 3, 3].
    """
    size = (p.stature / BASE_STATURE)[:, None]
    turn = _rotation(1, p.yaw)
    torso = turn @ _rotation(2, -p.lean[:, 0]) @ _rotation(0, p.lean[:, 1])
    skull = turn @ _rotation(0, p.lean[:, 1] * 0.5 + p.head[:, 1]) @ _rotation(1, p.head[:, 0])
    limbs = _apply(turn, p.limbs)
    man = (p.sex == 1).to(size)[:, None]

    def at(frame: Tensor, x: float | Tensor, y: float | Tensor, z: float | Tensor) -> Tensor:
        parts = [
            torch.as_tensor(c).to(size).expand(len(p), 1) if not isinstance(c, Tensor) else c
            for c in (x, y, z)
        ]
        return _apply(frame, torch.cat(parts, -1) * size)

    shoulder, hip = 0.165 + 0.03 * man, 0.105 - 0.012 * man
    j = {"turn": turn, "torso": torso, "skull": skull, "pelvis": torch.zeros(len(p), 3).to(size)}
    j["neck"] = at(torso, 0.0, 0.50, 0.0)
    j["head"] = j["neck"] + at(skull, 0.0, 0.215, 0.02)
    for name, x, y, z in (
        ("nose", 0, -0.025, 0.125),
        ("mouth", 0, -0.07, 0.105),
        ("crown", 0, 0.06, -0.01),
    ):
        j[name] = j["head"] + at(skull, x, y, z)
    for side, sign, first in (("r", -1.0, 0), ("l", 1.0, 2)):
        j[side + "eye"] = j["head"] + at(skull, sign * 0.045, 0.02, 0.104)
        j[side + "ear"] = j["head"] + at(skull, sign * 0.118, -0.01, 0.0)
        j[side + "shoulder"] = at(torso, sign * shoulder, 0.50, 0.0)
        j[side + "elbow"] = j[side + "shoulder"] + limbs[:, first] * 0.29 * size
        j[side + "wrist"] = j[side + "elbow"] + limbs[:, first + 1] * 0.26 * size
        j[side + "hip"] = at(turn, sign * hip, 0.0, 0.0)
        j[side + "knee"] = j[side + "hip"] + limbs[:, first + 4] * 0.43 * size
        j[side + "ankle"] = j[side + "knee"] + limbs[:, first + 5] * 0.42 * size
        j[side + "heel"], j[side + "toe"] = _foot(
            turn, limbs[:, first + 5], j[side + "ankle"], size
        )
        palm = p.palm[:, 0 if side == "r" else 1]
        gesture = p.gesture[:, 0 if side == "r" else 1]
        hand = _hand(turn, limbs[:, first + 1], palm, gesture, size, sign)
        j[side + "hand"] = j[side + "wrist"][:, None] + hand
    return j


def _foot(turn: Tensor, shin: Tensor, ankle: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Heel and toe: the foot is square to the shin and points forward as far as that allows."""
    ahead = turn[:, :, 2] + 0.35 * shin
    along = normalize(ahead - shin * (ahead * shin).sum(-1, keepdim=True) * 0.8, dim=-1)
    return ankle + (0.045 * shin - 0.02 * along) * size, ankle + (0.05 * shin + 0.16 * along) * size


def _hand(
    turn: Tensor, arm: Tensor, roll: Tensor, gesture: Tensor, size: Tensor, sign: float
) -> Tensor:
    """21 joints [P, 21, 3] relative to the wrist: the palm faces the viewer when raised and turns
    away when hanging.
    """
    ahead, up = turn[:, :, 2], turn[:, :, 1]
    facing = torch.where((arm * up).sum(-1, keepdim=True) > -0.25, 1.0, -1.0)
    wish = facing * ahead - 1.3 * up * (arm * ahead).sum(-1, keepdim=True).clamp(min=0)
    normal = normalize(wish - arm * (wish * arm).sum(-1, keepdim=True), dim=-1)
    across = torch.linalg.cross(arm, normal)
    c, s = roll.cos()[:, None], roll.sin()[:, None]
    normal, thumbward = normal * c + across * s, (across * c - normal * s) * (-sign)

    curl = torch.tensor(list(GESTURES.values())).to(size)[gesture]  # [P, 5]
    bases, bones, fan = _BASES.to(size), _BONES.to(size), _FAN.to(size)
    base = arm[:, None] * bases[:, :1] + thumbward[:, None] * bases[:, 1:]  # [P, 5, 3]
    straight = arm[:, None] * fan.cos()[:, None] + thumbward[:, None] * fan.sin()[:, None]
    inward = normal[:, None].expand(-1, 5, -1).clone()
    inward[:, 0] = normalize(0.8 * normal - 0.75 * thumbward + 0.2 * arm, dim=-1)
    bend = curl[..., None] * torch.tensor([[0.45, 0.75, 0.6], *[[1.35, 1.6, 0.9]] * 4]).to(size)
    angle = bend.cumsum(-1)[..., None]  # [P, 5, 3, 1]
    steps = (straight[:, :, None] * angle.cos() + inward[:, :, None] * angle.sin()) * bones[
        ..., None
    ]
    fingers = torch.cat((base[:, :, None], base[:, :, None] + steps.cumsum(2)), 2)  # [P, 5, 4, 3]
    joints = torch.cat((torch.zeros_like(fingers[:, 0, :1]), fingers.flatten(1, 2)), 1)
    return joints * HAND_LENGTH * size[..., None]


_BODY = (
    *("nose", "neck", "rshoulder", "relbow", "rwrist", "lshoulder", "lelbow", "lwrist", "rhip"),
    *("rknee", "rankle", "lhip", "lknee", "lankle", "reye", "leye", "rear", "lear"),
)


def second_color(first: Tensor) -> Tensor:
    """Choose the other tone of a patterned cloth: a darker one of light colors, a lighter one of
    dark colors.
    """
    luma = (first * torch.tensor([0.299, 0.587, 0.114]).to(first)).sum(-1, keepdim=True)
    return torch.where(luma > 0.5, first * 0.62, first + (1 - first) * 0.48)


class _Parts:
    """Collects the parts of all people; each call adds one part to every person."""

    def __init__(self, p: People) -> None:
        self.count, self.size = len(p), p.stature / BASE_STATURE
        self.device = p.stature.device
        self.rows: list[tuple[Tensor, ...]] = []
        self.limbs: list[int] = []

    def add(
        self,
        a: Tensor,
        b: Tensor,
        ra: float | Tensor,
        rb: float | Tensor,
        label: int,
        albedo: Tensor,
        *,
        pattern: Tensor | None = None,
        side: Tensor | None = None,
        limb: int = -1,
        here: Tensor | None = None,
    ) -> None:
        """Add one part from `a` to `b` [P, 3]; radii are meters at average stature, numbers or [P];
        `here` [P] bool.
        """
        n, dev = self.count, self.device
        radii = torch.stack(
            [torch.as_tensor(r, dtype=torch.float32, device=dev).expand(n) for r in (ra, rb)], -1
        )
        radii = radii * self.size[:, None] * (1.0 if here is None else here[:, None])
        colors = torch.stack((albedo, second_color(albedo)), 1)
        labels = torch.full((n,), label, device=dev)
        pattern = torch.zeros_like(labels) if pattern is None else pattern
        if side is None:
            side = torch.linalg.cross(b - a, torch.tensor([0.0, 0.0, 1.0], device=dev).expand_as(a))
        self.rows.append((a, b, radii, labels, colors, pattern, side))
        self.limbs.append(limb)

    def stack(self, j: dict[str, Tensor]) -> Bodies:
        a, b, r, label, albedo, pattern, side = (
            torch.stack(column, 1) for column in zip(*self.rows, strict=True)
        )
        limb = torch.tensor(self.limbs, device=self.device)
        body = torch.stack([j[name] for name in _BODY], 1)
        hands = torch.stack((j["rhand"], j["lhand"]), 1)
        return Bodies(
            body, hands, a, b, r, label, albedo, pattern, normalize(side + 1e-9, dim=-1), limb
        )


def _dress(p: People, j: dict[str, Tensor], parts: _Parts) -> None:
    """Add every part of the clothed bodies."""
    dev = p.stature.device

    def palette(table: dict, index: Tensor) -> Tensor:
        return torch.tensor(list(table.values()), device=dev)[index.clamp(min=0)]

    skin, hair, top = palette(SKINS, p.skin), palette(HAIRS, p.hair), palette(COLORS, p.top)
    bottom, shoes, hat = (
        palette(COLORS, p.bottom),
        palette(COLORS, p.shoes),
        palette(COLORS, p.hat),
    )
    white, dark, lips = (
        torch.ones_like(skin) * 0.95,
        torch.ones_like(skin) * 0.06,
        skin * torch.tensor([0.75, 0.35, 0.38], device=dev),
    )
    g, man, skirt = p.build, (p.sex == 1), (p.bottom_kind == 1)
    torso, turn, skull = j["torso"], j["turn"], j["skull"]
    right = torso[:, :, 0]

    def on(frame: Tensor, origin: Tensor, x: float, y: float, z: float) -> Tensor:
        offset = torch.tensor([x, y, z], device=dev).expand(len(p), 3) * parts.size[:, None]
        return origin + _apply(frame, offset)

    # Head
    head, zero = j["head"], j["pelvis"]
    parts.add(
        on(skull, head, 0, -0.035, 0.015), on(skull, head, 0, 0.02, 0), 0.092, 0.118, FACE, skin
    )
    parts.add(on(skull, head, 0, -0.01, 0.112), j["nose"], 0.012, 0.017, FACE, skin * 0.94)
    for sign, s in ((-1, "r"), (1, "l")):
        parts.add(j[s + "eye"], j[s + "eye"], 0.021, 0.021, FACE, white)
        pupil = on(skull, j[s + "eye"], 0, 0, 0.012)
        parts.add(pupil, pupil, 0.0135, 0.0135, FACE, dark)
        brow = on(skull, j[s + "eye"], 0, 0.038, 0.0)
        parts.add(
            on(skull, brow, -0.018, 0, 0),
            on(skull, brow, 0.018, 0, 0),
            0.008,
            0.008,
            FACE,
            hair * 0.8,
        )
        parts.add(j[s + "ear"], j[s + "ear"], 0.026, 0.026, FACE, skin * 0.95)
        fall = on(skull, head, sign * 0.105, -0.17, -0.035)
        parts.add(
            on(skull, head, sign * 0.085, 0.05, -0.03),
            fall,
            0.058,
            0.05,
            HAIR,
            hair,
            here=p.hair_length == 1,
        )
    parts.add(
        on(skull, j["mouth"], -0.028, 0, 0),
        on(skull, j["mouth"], 0.028, 0, 0),
        0.010,
        0.010,
        FACE,
        lips,
    )
    parts.add(
        on(skull, head, 0, 0.035, -0.028),
        on(skull, head, 0, 0.055, -0.012),
        0.121,
        0.112,
        HAIR,
        hair,
    )
    parts.add(
        on(skull, head, 0, 0, -0.07),
        on(skull, head, 0, -0.17, -0.08),
        0.09,
        0.085,
        HAIR,
        hair,
        here=p.hair_length == 1,
    )
    worn = p.hat >= 0
    parts.add(
        on(skull, head, 0, 0.075, -0.012),
        on(skull, head, 0, 0.125, -0.015),
        0.122,
        0.09,
        HAT,
        hat,
        here=worn,
    )
    parts.add(
        on(skull, head, 0, 0.09, -0.012),
        on(skull, head, 0, 0.42, -0.03),
        0.118,
        0.012,
        HAT,
        hat,
        here=worn & p.pointed,
    )
    for x in (-0.07, 0.0, 0.07):  # the brim
        parts.add(
            on(skull, head, x, 0.075, 0.09),
            on(skull, head, x * 0.8, 0.07, 0.165),
            0.022,
            0.016,
            HAT,
            hat * 0.9,
            here=worn,
        )
    parts.add(
        on(torso, j["neck"], 0, -0.02, 0),
        on(skull, head, 0, -0.08, -0.01),
        0.058,
        0.055,
        SKIN,
        skin,
    )

    # Torso: cones side by side, so many that no crease shows.
    cloth: dict[str, Any] = {"pattern": p.top_pattern, "side": right}
    width = 0.081 + 0.018 * man.float()
    for k in (-1.0, -0.5, 0.0, 0.5, 1.0):
        shoulder = (
            on(torso, zero, 0, 0.425 + 0.03 * k * k, 0.012)
            + right * (k * width * parts.size)[:, None]
        )
        waist = on(torso, zero, k * 0.062, 0.05 + 0.02 * k * k, 0.01)
        parts.add(
            waist,
            shoulder,
            (0.112 - 0.016 * k * k) * g,
            (0.105 - 0.022 * k * k) * g,
            TOP,
            top,
            **cloth,
        )
    parts.add(j["rshoulder"], j["lshoulder"], 0.062, 0.062, TOP, top, **cloth)

    # Hips and legs
    cloth = {"pattern": p.bottom_pattern, "side": turn[:, :, 0]}
    parts.add(
        j["rhip"],
        j["lhip"],
        0.105 * g,
        0.105 * g,
        BOTTOM,
        bottom,
        pattern=p.bottom_pattern,
        side=turn[:, :, 1],
    )
    for s in ("r", "l"):
        hip, knee, ankle = j[s + "hip"], j[s + "knee"], j[s + "ankle"]
        hem = hip + (knee - hip) * 0.86
        parts.add(hip, knee, 0.088 * g, 0.066 * g, BOTTOM, bottom, **cloth, here=~skirt)
        parts.add(knee, ankle, 0.066 * g, 0.052, BOTTOM, bottom, **cloth, here=~skirt)
        parts.add(hip, hem, 0.100 * g, 0.128 * g, BOTTOM, bottom, **cloth, here=skirt)
        parts.add(hip, knee, 0.075, 0.054, SKIN, skin, here=skirt)
        parts.add(knee, ankle, 0.054, 0.038, SKIN, skin, here=skirt)
        parts.add(j[s + "heel"], j[s + "toe"], 0.052, 0.043, SHOES, shoes)
        parts.add(ankle, j[s + "heel"], 0.050, 0.052, SHOES, shoes)
    middle = (j["rknee"] + j["lknee"] - j["rhip"] - j["lhip"]) * 0.38
    parts.add(zero, zero + middle, 0.11 * g, 0.125 * g, BOTTOM, bottom, **cloth, here=skirt)

    # Arms and hands
    long = p.long_sleeves == 1
    for limb, s in enumerate(("r", "l")):
        shoulder, elbow, wrist = j[s + "shoulder"], j[s + "elbow"], j[s + "wrist"]
        cloth = {"pattern": p.top_pattern, "limb": limb}
        parts.add(shoulder, elbow, 0.066 * g, 0.054 * g, TOP, top, **cloth)
        parts.add(elbow, wrist, 0.054 * g, 0.042, TOP, top, **cloth, here=long)
        parts.add(elbow, wrist, 0.046 * g, 0.032, SKIN, skin, limb=limb, here=~long)
        hand, label = j[s + "hand"], (RIGHT_HAND, LEFT_HAND)[limb]
        for finger in range(5):
            radius = float(_FINGER_RADIUS[finger]) * HAND_LENGTH
            chain = [0, *range(1 + 4 * finger, 5 + 4 * finger)]
            radii = [
                0.125 * HAND_LENGTH,
                (0.115 if finger else 0.10) * HAND_LENGTH,
                radius,
                radius * 0.95,
                radius * 0.85,
            ]
            for k in range(4):
                start = radius * 1.06 if k == 1 else radii[k]
                shade = skin * (1.0, 0.97, 1.0, 0.97)[k]
                parts.add(
                    hand[:, chain[k]],
                    hand[:, chain[k + 1]],
                    start,
                    radii[k + 1],
                    label,
                    shade,
                    limb=limb,
                )
    parts.add(
        zero, zero, 0.0, 0.0, SEAT, torch.tensor([0.45, 0.36, 0.30], device=dev).expand(len(p), 3)
    )


def _tilt(f: Bodies, rise: Tensor) -> Bodies:
    """Raise every person by `rise` [P] meters and look down on it by PITCH."""
    look = _rotation(0, torch.full_like(rise, PITCH))

    def move(points: Tensor) -> Tensor:
        up = torch.zeros_like(points)
        up[..., 1] = rise.view(-1, *[1] * (points.dim() - 2))
        return _apply(look, points + up)

    return Bodies(
        move(f.body),
        move(f.hands),
        move(f.a),
        move(f.b),
        f.r,
        f.label,
        f.albedo,
        f.pattern,
        _apply(look, f.side),
        f.limb,
    )


def _seat(p: People, f: Bodies) -> Bodies:
    """Put the stool, the last part, under those who sit."""
    sits = torch.tensor([a.seat for a in ACTIONS.values()], device=p.action.device)[p.action]
    hips = f.body[:, [8, 11]].mean(1)
    a, b, r = f.a.clone(), f.b.clone(), f.r.clone()
    drop = torch.tensor([0.0, 0.24, 0.0], device=hips.device)
    a[:, -1], b[:, -1] = (
        hips - drop,
        hips * torch.tensor([1.0, 0.0, 1.0], device=hips.device) + drop * 0.6,
    )
    r[:, -1] = sits[:, None] * 0.15
    return Bodies(f.body, f.hands, a, b, r, f.label, f.albedo, f.pattern, f.side, f.limb)
