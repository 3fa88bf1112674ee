"""What exists in the mini world: names, colors and the random draw of scenes.

A batch of scenes is a `Scenes`: one row per scene, one row per person (`People`), every attribute
an index into the tables below, so that captions, renderer and evaluation read the same facts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.82, 0.10, 0.12),
    "orange": (0.96, 0.50, 0.08),
    "yellow": (0.97, 0.86, 0.16),
    "green": (0.13, 0.58, 0.20),
    "blue": (0.12, 0.27, 0.80),
    "purple": (0.48, 0.17, 0.62),
    "pink": (0.97, 0.55, 0.72),
    "brown": (0.42, 0.25, 0.13),
    "white": (0.94, 0.94, 0.94),
    "black": (0.09, 0.09, 0.10),
}
PATTERNS = ("plain", "striped", "dotted", "checked", "zigzag", "camouflage")
SKINS = {
    "light": (0.96, 0.79, 0.68),
    "tan": (0.84, 0.62, 0.45),
    "brown": (0.60, 0.40, 0.27),
    "dark": (0.34, 0.22, 0.16),
}
HAIRS = {
    "black": (0.08, 0.07, 0.07),
    "brown": (0.33, 0.19, 0.10),
    "blond": (0.90, 0.76, 0.42),
    "red": (0.66, 0.26, 0.09),
    "grey": (0.62, 0.62, 0.64),
}
HAIR_LENGTHS = ("short", "long")
SEXES = ("woman", "man")
BOTTOMS = ("trousers", "skirt")
BACKGROUNDS = {
    "park": "in a park",
    "beach": "on a beach",
    "street": "on a street",
    "room": "in a room",
    "snow": "in the snow",
    "desert": "in a desert",
    "studio": "in a studio",
    "night": "at night",
}
FRAMINGS = ("full body", "upper body", "close-up of a hand")
FULL, UPPER, HAND = range(3)

# Directions of the limbs in the body's own frame (out from the body's middle, up, forward), for the
# side that acts
# and for the other one: upper arm, forearm, thigh, shin. Lengths do not matter.
_REST_ARM = ((0.20, -1.0, 0.0), (0.08, -1.0, 0.18))
_REST_LEG = ((0.08, -1.0, 0.02), (0.03, -1.0, -0.03))


@dataclass(frozen=True)
class Action:
    """Describe one named action: limb directions per side, the torso's lean (side, forward), its
    caption and hand gestures.
    """

    phrase: str
    arm: tuple = _REST_ARM
    other_arm: tuple = _REST_ARM
    leg: tuple = _REST_LEG
    other_leg: tuple = _REST_LEG
    lean: tuple[float, float] = (0.0, 0.0)
    lift: float = 0.0
    gesture: str = "relaxed"
    seat: bool = False


_RAISED = ((0.40, 1.0, 0.05), (0.12, 1.0, 0.05))
_SPREAD = ((1.0, 0.05, 0.05), (1.0, 0.08, 0.05))
_ON_HIP = ((0.75, -0.70, -0.20), (-0.78, -0.55, 0.40))
_SIT_ARM = ((0.22, -1.0, 0.30), (-0.05, -0.35, 1.0))
_SIT_LEG = ((0.22, -0.10, 1.0), (0.03, -1.0, 0.05))
_KNEEL = ((0.15, -1.0, 0.15), (0.0, -0.12, -1.0))
_CROUCH = ((0.42, -0.10, 0.90), (0.05, -1.0, -0.45))

ACTIONS: dict[str, Action] = {
    "standing": Action("standing"),
    "walking": Action(
        "walking",
        arm=((0.15, -1.0, -0.45), (0.05, -1.0, 0.10)),
        other_arm=((0.15, -1.0, 0.45), (0.0, -0.75, 0.65)),
        leg=((0.06, -1.0, 0.50), (0.02, -1.0, -0.10)),
        other_leg=((0.06, -1.0, -0.35), (0.02, -1.0, -0.60)),
    ),
    "running": Action(
        "running",
        arm=((0.25, -0.8, -0.75), (0.05, -0.35, 0.90)),
        other_arm=((0.25, -0.8, 0.60), (-0.15, 0.65, 0.75)),
        leg=((0.06, -0.45, 0.90), (0.02, -0.95, -0.35)),
        other_leg=((0.06, -1.0, -0.55), (0.02, -0.25, -1.0)),
        lean=(0.0, 0.22),
        lift=0.05,
        gesture="fist",
    ),
    "waving": Action("waving", arm=((0.95, 0.30, 0.15), (0.30, 1.0, 0.15)), gesture="open"),
    "jumping": Action(
        "jumping",
        arm=((0.60, 0.9, 0.05), (0.45, 1.0, 0.05)),
        other_arm=((0.60, 0.9, 0.05), (0.45, 1.0, 0.05)),
        leg=((0.45, -0.80, 0.40), (0.15, -0.75, -0.70)),
        other_leg=((0.45, -0.80, 0.40), (0.15, -0.75, -0.70)),
        lift=0.28,
        gesture="open",
    ),
    "sitting": Action("sitting", _SIT_ARM, _SIT_ARM, _SIT_LEG, _SIT_LEG, seat=True),
    "arms raised": Action("with arms raised", _RAISED, _RAISED, gesture="open"),
    "dancing": Action(
        "dancing",
        arm=((0.95, 0.45, 0.0), (0.15, 1.0, 0.20)),
        other_arm=((0.95, -0.15, 0.0), (0.60, -0.80, 0.30)),
        leg=((0.50, -0.85, 0.25), (-0.25, -1.0, -0.30)),
        other_leg=((0.20, -1.0, 0.0), (0.10, -1.0, -0.05)),
        lean=(0.18, 0.0),
        gesture="open",
    ),
    "kneeling": Action("kneeling", _REST_ARM, _REST_ARM, _KNEEL, _KNEEL),
    "pointing": Action("pointing", arm=((1.0, 0.10, 0.30), (1.0, 0.15, 0.25)), gesture="pointing"),
    "bowing": Action(
        "bowing",
        arm=((0.20, -0.55, 0.85), (0.05, -0.65, 0.80)),
        other_arm=((0.20, -0.55, 0.85), (0.05, -0.65, 0.80)),
        lean=(0.0, 0.95),
    ),
    "crouching": Action("crouching", _SIT_ARM, _SIT_ARM, _CROUCH, _CROUCH, lean=(0.0, 0.25)),
    "kicking": Action(
        "kicking",
        arm=((0.85, -0.35, 0.25), (0.80, 0.15, 0.45)),
        other_arm=((0.85, -0.35, 0.25), (0.80, 0.15, 0.45)),
        leg=((0.35, -0.25, 0.95), (0.35, -0.15, 0.95)),
        lean=(0.0, -0.15),
        gesture="fist",
    ),
    "hands on hips": Action("with hands on hips", _ON_HIP, _ON_HIP),
    "arms outstretched": Action("with arms outstretched", _SPREAD, _SPREAD, gesture="open"),
}

UPPER_ACTIONS = (
    "standing",
    "waving",
    "sitting",
    "arms raised",
    "dancing",
    "pointing",
    "hands on hips",
    "arms outstretched",
)

# Curl of thumb, index, middle, ring and little finger: 0 straight, 1 closed.
GESTURES: dict[str, tuple[float, float, float, float, float]] = {
    "relaxed": (0.25, 0.28, 0.32, 0.36, 0.40),
    "open": (0.0, 0.02, 0.02, 0.02, 0.02),
    "fist": (0.75, 1.0, 1.0, 1.0, 1.0),
    "pointing": (0.7, 0.0, 1.0, 1.0, 1.0),
    "peace": (0.7, 0.0, 0.0, 1.0, 1.0),
    "thumb": (0.0, 1.0, 1.0, 1.0, 1.0),
}
GESTURE_PHRASES = {
    "relaxed": "a relaxed hand",
    "open": "an open hand",
    "fist": "a fist",
    "pointing": "a pointing hand",
    "peace": "a hand making a peace sign",
    "thumb": "a hand with the thumb up",
}
LIMBS = (
    "right upper arm",
    "right forearm",
    "left upper arm",
    "left forearm",
    "right thigh",
    "right shin",
    "left thigh",
    "left shin",
)


@dataclass(frozen=True)
class People:
    """Hold P people: indices into the tables above (int64 [P]) and parameters of bodies
    (float32).
    """

    scene: Tensor
    sex: Tensor
    skin: Tensor
    hair: Tensor
    hair_length: Tensor
    top: Tensor
    top_pattern: Tensor
    long_sleeves: Tensor
    bottom_kind: Tensor
    bottom: Tensor
    bottom_pattern: Tensor
    shoes: Tensor
    hat: Tensor  # index into COLORS, or -1: no hat
    pointed: Tensor  # bool: the hat is a tall cone, which no caption says
    action: Tensor
    gesture: Tensor  # [P, 2] right and left hand
    limbs: (
        Tensor  # [P, 8, 3] directions (x to the person's left, up, forward), in the order of LIMBS
    )
    lean: Tensor  # [P, 2] sideways and forward, radians
    yaw: Tensor  # [P] radians, 0 faces the camera
    head: Tensor  # [P, 2] turn and nod, radians
    palm: Tensor  # [P, 2] roll of right and left palm about the forearm, radians
    build: Tensor  # [P] girth, 1 = average
    stature: Tensor  # [P] meters
    place: Tensor  # [P, 3] x (px at size 1), y of the ground, distance rank z

    def __len__(self) -> int:
        return self.scene.shape[0]

    def take(self, rows: Tensor) -> People:
        """Select the people of `rows` (indices or a boolean mask), in that order."""
        return People(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def to(self, device: torch.device | str) -> People:
        return People(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True)
class Scenes:
    """Hold B scenes and all their people, ordered by scene and from left to right inside one."""

    background: Tensor  # [B]
    framing: Tensor  # [B]
    scale: Tensor  # [B] images' heights per meter
    light: Tensor  # [B, 3] unit vector towards the light
    decor: Tensor  # [B, 16] uniform numbers that place what stands in the background
    hand: Tensor  # [B] which hand a hand close-up shows: 0 right, 1 left
    people: People

    def __len__(self) -> int:
        return self.background.shape[0]

    def take(self, rows: Tensor) -> Scenes:
        """Select the scenes of `rows` (indices, ascending) and their people."""
        people = self.people.take(torch.isin(self.people.scene, rows))
        number = torch.searchsorted(rows, people.scene)
        each = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "people"}
        return Scenes(people=replace(people, scene=number), **each)

    def to(self, device: torch.device | str) -> Scenes:
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self)}
        return Scenes(**moved)


def sample_scenes(
    count: int,
    seed: int,
    *,
    framing: int | None = None,
    people: int | None = None,
    framing_share: tuple[float, float, float] = (0.66, 0.22, 0.12),
    people_share: tuple[float, float, float, float] = (0.62, 0.22, 0.10, 0.06),
    alone: float = 0.0,
) -> Scenes:
    """Draw `count` scenes; the same arguments give the same scenes on every machine.

    `framing` (an index into FRAMINGS) and `people` (1..4) fix what is else drawn by the given
    shares. Upper bodies show one or two people, hand close-ups one. From a share `alone` of the
    scenes everybody but one leaves, who then stands anywhere, as small as in company.
    """
    g = torch.Generator().manual_seed(seed)

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=g)

    def choose(n: int, options: int) -> Tensor:
        return torch.randint(options, (n,), generator=g)

    frames = torch.multinomial(torch.tensor(framing_share), count, replacement=True, generator=g)
    frames = frames if framing is None else torch.full_like(frames, framing)
    counts = 1 + torch.multinomial(torch.tensor(people_share), count, replacement=True, generator=g)
    counts = counts if people is None else torch.full_like(counts, people)
    counts = torch.where(frames == UPPER, counts.clamp(max=2), counts)
    counts = torch.where(frames == HAND, torch.ones_like(counts), counts)

    scene = torch.repeat_interleave(torch.arange(count), counts)
    n = len(scene)
    rank = torch.arange(n) - (counts.cumsum(0) - counts)[scene]  # left to right inside the scene
    upright = torch.tensor([list(ACTIONS).index(name) for name in UPPER_ACTIONS])
    action = torch.where(
        frames[scene] == UPPER, upright[choose(n, len(upright))], choose(n, len(ACTIONS))
    )
    side = choose(n, 2)  # which side acts
    gesture, limbs, lean = _act(
        action, side, uniform(n, 8, 3, low=-1, high=1), uniform(n, 2, low=-1, high=1), uniform(n, 2)
    )
    close = (frames == HAND)[scene]
    gesture = torch.where(close[:, None], choose(n, len(GESTURES))[:, None], gesture)
    limbs = torch.where(
        close[:, None, None], _hold_up(limbs, uniform(n, 2, 3, low=-1, high=1)), limbs
    )

    crowd = counts[scene]
    spread = torch.where(crowd > 1, 0.88 / crowd, torch.full((n,), 0.30))
    x = (
        torch.where(crowd > 1, (rank + 0.5) / crowd, torch.full((n,), 0.5))
        + (uniform(n) - 0.5) * spread * 0.45
    )
    depth = uniform(n)
    ground = torch.where(crowd > 1, 0.97 - 0.12 * depth, 0.97 - 0.06 * depth)
    scale = torch.where(
        frames == FULL,
        torch.where(
            counts == 1, uniform(count, low=0.45, high=0.56), uniform(count, low=0.33, high=0.43)
        ),
        torch.where(
            frames == UPPER, uniform(count, low=1.12, high=1.30), uniform(count, low=2.6, high=3.6)
        ),
    )
    light = torch.stack(
        (uniform(count, low=-0.8, high=0.8), uniform(count, low=0.35, high=0.9), torch.ones(count)),
        -1,
    )
    hats = choose(n, len(COLORS))
    drawn = Scenes(
        background=choose(count, len(BACKGROUNDS)),
        framing=frames,
        scale=scale,
        light=torch.nn.functional.normalize(light, dim=-1),
        decor=uniform(count, 16),
        hand=choose(count, 2),
        people=People(
            scene=scene,
            sex=choose(n, len(SEXES)),
            skin=choose(n, len(SKINS)),
            hair=choose(n, len(HAIRS)),
            hair_length=choose(n, len(HAIR_LENGTHS)),
            top=choose(n, len(COLORS)),
            top_pattern=torch.where(
                uniform(n) < 0.45, torch.zeros(n, dtype=torch.long), choose(n, len(PATTERNS))
            ),
            long_sleeves=choose(n, 2),
            bottom_kind=choose(n, len(BOTTOMS)),
            bottom=choose(n, len(COLORS)),
            bottom_pattern=torch.where(
                uniform(n) < 0.7, torch.zeros(n, dtype=torch.long), choose(n, len(PATTERNS))
            ),
            shoes=choose(n, len(COLORS)),
            hat=torch.where(uniform(n) < 0.35, hats, torch.full_like(hats, -1)),
            pointed=torch.zeros(n, dtype=torch.bool),
            action=action,
            gesture=gesture,
            limbs=limbs,
            lean=lean,
            yaw=uniform(n, low=-1, high=1) * math.radians(55),
            head=uniform(n, 2, low=-1, high=1) * torch.tensor([0.45, 0.18]),
            palm=uniform(n, 2, low=-1, high=1) * 0.6,
            build=uniform(n, low=0.88, high=1.18),
            stature=uniform(n, low=1.55, high=1.85),
            place=torch.stack((x, ground, -depth), -1),
        ),
    )
    if alone == 0:
        return drawn
    stays = (uniform(count) * counts).long()  # by rank
    leaves = (uniform(count) < alone)[scene] & (rank != stays[scene])
    return replace(drawn, people=drawn.people.take(~leaves))


def _act(
    action: Tensor, side: Tensor, wobble: Tensor, sway: Tensor, chance: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gesture indices [P, 2], limb directions [P, 8, 3] and lean [P, 2] of the actions, with
    natural variation.
    """
    acts = list(ACTIONS.values())
    names = list(GESTURES)
    table = torch.tensor(
        [[*a.arm, *a.other_arm, *a.leg, *a.other_leg] for a in acts]
    )  # [A, 8, 3] acting side first
    out = torch.nn.functional.normalize(table, dim=-1)[action]
    # The acting side is the right (0) or the left (1): sides swap by reordering the limbs.
    order = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7], [2, 3, 0, 1, 6, 7, 4, 5]])[side]
    out = out.gather(1, order[..., None].expand(-1, -1, 3))
    right = torch.tensor([-1, -1, 1, 1, -1, -1, 1, 1.0])  # "out" points to -x on the person's right
    limbs = torch.stack((out[..., 0] * right, out[..., 1], out[..., 2]), -1) + wobble * 0.16
    lean = torch.tensor([a.lean for a in acts])[action] * torch.stack(
        (1 - 2.0 * side, torch.ones_like(sway[:, 0])), -1
    )

    acting = torch.tensor([names.index(a.gesture) for a in acts])[action]
    is_symmetric = torch.tensor([a.arm == a.other_arm for a in acts])[action]
    idle = torch.where(chance[:, 0] < 0.5, names.index("relaxed"), names.index("open")).long()
    first = torch.where((chance[:, 1] < 0.25) & (acting == 0), names.index("open"), acting)
    second = torch.where(is_symmetric, first, idle)
    gesture = torch.where(
        side[:, None] == 0, torch.stack((first, second), -1), torch.stack((second, first), -1)
    )
    return gesture, torch.nn.functional.normalize(limbs, dim=-1), lean + sway * 0.06


def _hold_up(limbs: Tensor, wobble: Tensor) -> Tensor:
    """The forearms [P, 8, 3] of a hand close-up come from below, so that the hand is seen whole."""
    up = torch.nn.functional.normalize(
        torch.tensor([0.0, 1.0, 0.15]) + wobble * torch.tensor([0.9, 0.35, 0.35]), dim=-1
    )
    held = limbs.clone()
    held[:, [1, 3]] = up
    return held
