"""Semantic pose maps: which part of a person or of their clothes every pixel shows.

HumanDiffusion (Zhang et al. 2022, arXiv 2211.06235) paints people over such a map, with the 24
classes of DeepFashion-MultiModal. Its internals were not published; how a map is made here,
by hand or from a skeleton, is ours. A map is uint8 [B, H, W] of numbers of CLASSES.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from . import body_masks, pose
from .pose import People

CLASSES = (
    "background", "top", "outer", "skirt", "dress", "pants", "leggings", "headwear", "eyeglass",
    "neckwear", "belt", "footwear", "bag", "hair", "face", "skin", "ring", "wrist wearing", "socks",
    "gloves", "necklace", "rompers", "earrings", "tie",
)  # fmt: skip
(
    BACKGROUND,
    TOP,
    OUTER,
    SKIRT,
    DRESS,
    PANTS,
    LEGGINGS,
    HEADWEAR,
    EYEGLASS,
    NECKWEAR,
    BELT,
    FOOTWEAR,
    BAG,
    HAIR,
    FACE,
    SKIN,
    RING,
    WRIST,
    SOCKS,
    GLOVES,
    NECKLACE,
    ROMPERS,
    EARRINGS,
    TIE,
) = range(24)
WHOLE_PERSON = tuple(range(1, 24))
CLOTHING = tuple(part for part in WHOLE_PERSON if part not in (HAIR, FACE, SKIN))

# thirds of the full level, so that any two are at least 85 levels apart
PALETTE = torch.tensor([
    (0, 0, 0), (0, 170, 255), (0, 0, 170), (255, 0, 170), (170, 0, 85), (0, 85, 255),
    (85, 170, 170), (255, 255, 0), (255, 255, 255), (0, 170, 0), (255, 85, 0), (255, 0, 0),
    (85, 85, 0), (170, 85, 0), (255, 170, 170), (255, 170, 85), (255, 255, 170), (0, 255, 255),
    (170, 170, 255), (170, 0, 255), (0, 255, 85), (85, 0, 170), (170, 255, 0), (0, 85, 85),
], dtype=torch.uint8)  # fmt: skip
GREY_LEVELS = torch.arange(24, dtype=torch.uint8)[:, None].repeat(1, 3)  # DeepFashion's own files


def part_named(name: str) -> int:
    """The number of a class. Raises ValueError that lists all names."""
    plain = " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
    if plain not in CLASSES:
        raise ValueError(f"there is no part '{name.strip()}'. The parts are {', '.join(CLASSES)}.")
    return CLASSES.index(plain)


# made of pictures and masks


def from_colours(
    pictures: Tensor,
    palette: Tensor,
    tolerance: float,
    parts: Sequence[int] = range(24),
    *,
    background: bool = False,
) -> Tensor:
    """Pictures [B, H, W, 3] in 0..1 -> labels [B, H, W]: the part of the nearest colour.

    palette [n, 3] in 0..255, of the `parts`; two colours may have the same one. A pixel farther
    than `tolerance` levels (Euclidean) from every colour is background if that is True.
    Raises ValueError saying how many there are if it is not.
    """
    numbers = torch.tensor(list(parts), dtype=torch.uint8)
    labels, strange = [], 0
    for picture in pictures.cpu().float():
        levels = 255 * picture[..., :3].reshape(-1, 3)
        exact = "donot_use_mm_for_euclid_dist"  # grey levels of neighbours lie close together
        distance, nearest = torch.cdist(levels, palette.float(), compute_mode=exact).min(1)
        far = distance > tolerance
        strange += int(far.sum())
        flat = torch.where(far, BACKGROUND, numbers[nearest])
        labels.append(flat.view(picture.shape[:2]).to(torch.uint8))
    if strange and not background:
        total = len(labels) * labels[0].numel()
        raise ValueError(
            f"{strange} of {total} pixels have a colour that is more than {tolerance:g} levels "
            "from every colour of the palette. Choose the palette the picture was painted with, "
            "save it as PNG and enlarge it without smoothing, raise the tolerance, or let such "
            "pixels be background."
        )
    return torch.stack(labels)


def read_palette(text: str) -> tuple[Tensor, list[int]]:
    """Lines "part: #rrggbb" -> colours [n, 3] uint8 and their parts; black is the background
    unless a line says otherwise.

    Raises ValueError that quotes the line.
    """
    colours: dict[bytes, int] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, code = line.replace("=", ":").partition(":")
        try:
            colour = bytes.fromhex(code.strip().removeprefix("#"))
        except ValueError:
            colour = b""
        if len(colour) != 3:
            raise ValueError(f"'{line}' is not a part and its colour, such as top: #ff0000.")
        part = part_named(name)
        if colours.setdefault(colour, part) != part:
            raise ValueError(
                f"'{line}': {CLASSES[colours[colour]]} has that colour already. Give every part "
                "a colour of its own."
            )
    if not colours:
        raise ValueError("no colours are given: write a line such as top: #ff0000 for each part.")
    if BACKGROUND not in colours.values():
        colours.setdefault(bytes(3), BACKGROUND)
    return torch.tensor([*map(list, colours)], dtype=torch.uint8), [*colours.values()]


def empty(mask: Tensor) -> Tensor:
    """A map [B, H, W] of nothing but background, of the size of a mask."""
    return torch.zeros(mask.shape, dtype=torch.uint8)


def add_part(labels: Tensor, mask: Tensor, part: int) -> Tensor:
    """The map with a part painted over it where the mask [B, H, W] is 0.5 or more.

    A batch of one goes with any other. Raises ValueError naming both sizes if they differ.
    """
    return over(labels, torch.where(mask.cpu() >= 0.5, part, -1))


def over(labels: Tensor, above: Tensor) -> Tensor:
    """The map, and over it what is not negative in `above` [B, H, W].

    Raises ValueError naming both sizes if they differ.
    """
    sizes = [tuple(one.shape[-2:]) for one in (labels, above)]
    if sizes[0] != sizes[1]:
        (h, w), (high, wide) = sizes
        raise ValueError(
            f"the map is {w} x {h} pixels and what is painted over it {wide} x {high}: scale one "
            "of them to the size of the other."
        )
    batches = {len(labels), len(above)}
    if len(batches) > 1 and 1 not in batches:
        raise ValueError(
            f"there are {len(labels)} maps and {len(above)} masks: give equally many, or one."
        )
    return torch.where(above >= 0, above, labels).to(torch.uint8)


# shown and measured


def colour_picture(labels: Tensor) -> Tensor:
    """[B, H, W] -> [B, H, W, 3] in 0..1, in the colours of PALETTE: from_colours reads it back."""
    return PALETTE[labels.long()].float() / 255


def with_legend(labels: Tensor) -> Tensor:
    """The coloured maps with the names of all parts that occur in them beside: [B, h, w, 3].

    Maps less than 384 pixels high are enlarged by a whole number, so that the names can be read.
    """
    times = -(-384 // labels.shape[1])
    large = labels.repeat_interleave(times, 1).repeat_interleave(times, 2)
    legend = _draw_legend(labels.unique().tolist(), large.shape[1])
    return torch.cat((colour_picture(large), legend.expand(len(labels), -1, -1, -1)), dim=2)


def _draw_legend(parts: Sequence[int], height: int) -> Tensor:
    """[height, width, 3]: a square of the part's colour and its name, one below the other."""
    import cv2
    import numpy as np

    row = min(height // 24, 40)
    scale, side = row / 40, row // 2
    canvas = np.full((height, 9 * row, 3), 32, np.uint8)
    for number, part in enumerate(parts):
        y = number * row + row // 4
        canvas[y : y + side, side : 2 * side] = PALETTE[part].numpy()
        edge = (side - 1, y - 1), (2 * side, y + side)
        cv2.rectangle(canvas, *edge, (128, 128, 128), 1)
        place = (3 * side, y + side - max(1, side // 8))
        cv2.putText(
            canvas,
            CLASSES[part],
            place,
            cv2.FONT_HERSHEY_SIMPLEX,
            scale,
            (255, 255, 255),
            1,
            cv2.LINE_AA,
        )
    return torch.from_numpy(canvas).float() / 255


def shares(labels: Tensor, grid: tuple[int, int]) -> Tensor:
    """Share of every class in the area of each cell: [B, H, W] -> [B, 24, h, w], sums to 1 over
    the classes. Pixels on the border of two cells count in both by area; cells may be smaller
    than pixels.
    """
    rows, columns = (_overlap(*pair) for pair in zip(labels.shape[-2:], grid, strict=True))
    rows, columns = rows.to(labels.device), columns.to(labels.device)
    return torch.stack([rows @ (labels == k).float() @ columns.mT for k in range(24)], dim=1)


def _overlap(pixels: int, cells: int) -> Tensor:
    """[cells, pixels]: which share of each cell lies in each pixel, along one side of the map."""
    edges = torch.arange(cells + 1, dtype=torch.float64)[:, None] * pixels / cells
    pixel = torch.arange(pixels, dtype=torch.float64)
    inside = torch.minimum(edges[1:], pixel + 1) - torch.maximum(edges[:-1], pixel)
    return (inside.clamp(min=0) * cells / pixels).float()


def part_mask(labels: Tensor, parts: Collection[int], grow: int = 0) -> Tensor:
    """Where any of the parts is: [B, H, W], 0 or 1, grown by so many pixels, or shrunk if negative.

    Pixels `grow` away from the parts still belong to the mask. Nothing shrinks from the border
    of the picture.
    """
    there = torch.isin(labels, torch.tensor(list(parts), dtype=labels.dtype, device=labels.device))
    if grow:
        there = torch.stack([_grown(one ^ (grow < 0), abs(grow)) for one in there]) ^ (grow < 0)
    return there.float()


def _grown(mask: Tensor, reach: int) -> Tensor:
    """The pixels of a bool mask [H, W] and those at most `reach` away from one."""
    import cv2
    import numpy as np

    if not mask.any():
        return mask
    outside = (~mask).cpu().numpy().astype(np.uint8)
    distance = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return torch.from_numpy(distance <= reach + 1e-3).to(mask.device)


# made of a skeleton

NOTHING, OPEN = "nothing", "outer over top"
UPPERS = (CLASSES[TOP], CLASSES[OUTER], OPEN, CLASSES[DRESS], CLASSES[ROMPERS], NOTHING)
LOWERS = (CLASSES[PANTS], CLASSES[SKIRT], CLASSES[LEGGINGS], NOTHING)
SHORT, LONG, NONE = HAIRS = ("short", "long", "none")


class Outfit(NamedTuple):
    """What somebody wears."""

    upper: str = CLASSES[TOP]  # of UPPERS
    lower: str = CLASSES[PANTS]  # of LOWERS; hidden by rompers and behind a dress
    hair: str = SHORT  # of HAIRS
    long_sleeves: bool = True  # to the wrist, else above the elbow
    long_legs: bool = True  # pants to the ankle, skirts to the shin, else above the knee
    shoes: bool = True
    hat: bool = False
    glasses: bool = False


class Stroke(NamedTuple):
    """What a part covers: the polygon around the corners [n, 2] and all within radius of its edges.

    One corner makes a disc, two make a limb. In standing heights of the person, (x, y).
    """

    part: int
    corners: Tensor
    radius: float


ARMS = (  # right, left
    (pose.R_SHOULDER, pose.R_ELBOW, pose.R_WRIST),
    (pose.L_SHOULDER, pose.L_ELBOW, pose.L_WRIST),
)
CORNERS = (pose.R_SHOULDER, pose.L_SHOULDER, pose.L_HIP, pose.R_HIP)
HEAD = (pose.NOSE, pose.R_EYE, pose.L_EYE, pose.R_EAR, pose.L_EAR)
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
Points = dict[int, Tensor]  # known points by their number, in standing heights


def map_from_pose(people: People, outfit: Outfit, width: int, height: int) -> Tensor:
    """A coarse map [1, height, width] of people in this outfit, scaled from their canvas.

    Parts whose joints are missing are left out; hips out of sight are guessed. Smaller people are
    in front of larger ones, as when instances are composed.
    """
    labels = torch.zeros(height, width, dtype=torch.uint8)
    people = pose.scale_to_canvas(people, width, height)
    heights = body_masks.standing_heights(people)
    for number in heights.argsort(descending=True, stable=True).tolist():
        tall = min(heights[number].item(), 2.0 * max(width, height))  # a stray point is no giant
        if tall > 0:
            for stroke in strokes(pose.pick(people, [number]), outfit, tall):
                _paint(labels, stroke.corners * tall, stroke.radius * tall, stroke.part)
    return labels[None]


def strokes(person: People, outfit: Outfit, tall: float) -> Iterator[Stroke]:
    """The parts of one person of this standing height, from behind to the front."""
    at = _points(body_masks.guess_hips(person.body[0]), tall)
    hands = [_points(hand[0], tall) for hand in (person.right_hand, person.left_hand)]
    feet = _points(person.foot[0], tall)
    sides = _far_first(at)
    behind = int((pose.R_EAR in at) != (pose.L_EAR in at))  # arms; of a profile, the far one
    arms = [list(_arm(at, hands[side], ARMS[side], outfit)) for side in sides]
    trunk, below = _trunk(at, outfit), _below(at, outfit)
    tucked = outfit.upper in (CLASSES[TOP], NOTHING) and outfit.lower != NOTHING
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
    """Sides (0 is the right one), first the one that is turned away: of which no ear is seen."""
    return (0, 1) if pose.L_EAR in at else (1, 0)


def _path(at: Points, joints: Sequence[int], reach: float) -> Iterator[Tensor]:
    """The bones [2, 2] through these joints as far as `reach`, without those that miss an end."""
    for k, (a, b) in enumerate(pairwise(joints)):
        if a in at and b in at and reach > k:
            yield torch.stack((at[a], at[a].lerp(at[b], min(1.0, reach - k))))


def _beyond(at: Points, joints: Sequence[int], length: float) -> Tensor | None:
    """[2, 2]: from the last joint on as the last bone points."""
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
    if outfit.upper in (OPEN, NOTHING):
        return OUTER if outfit.upper == OPEN else SKIN
    return CLASSES.index(outfit.upper)


def _lower(outfit: Outfit) -> int:
    """The part that covers the hips."""
    if outfit.upper == CLASSES[ROMPERS]:
        return ROMPERS
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
    if part not in (SKIN, SKIRT):
        for bone in _path(at, joints, TROUSERS[outfit.long_legs]):
            yield Stroke(part, bone, LEGGING if part == LEGGINGS else TROUSER)


def _trunk(at: Points, outfit: Outfit) -> Iterator[Stroke]:
    """Shoulders to hips, and the skirt of a dress."""
    corners = [at[joint] for joint in CORNERS if joint in at]
    if len(corners) > 2:
        yield Stroke(_upper(outfit), torch.stack(corners), TRUNK)
    if outfit.upper == OPEN and len(corners) == 4:
        right, left = torch.stack(corners)[[0, 3]], torch.stack(corners)[[1, 2]]
        front = torch.cat((right.lerp(left, 0.38), right.lerp(left, 0.62)))
        yield Stroke(TOP, front, 0.01)
    if outfit.upper == CLASSES[DRESS]:
        yield from _skirt(at, DRESS, HEMS[outfit.long_legs])


def _below(at: Points, outfit: Outfit) -> Iterator[Stroke]:
    """The hips, and a skirt."""
    if pose.R_HIP in at and pose.L_HIP in at:
        yield Stroke(_lower(outfit), torch.stack((at[pose.R_HIP], at[pose.L_HIP])), PELVIS)
    if _lower(outfit) == SKIRT:
        yield from _skirt(at, SKIRT, HEMS[outfit.long_legs])


def _skirt(at: Points, part: int, hem: float) -> Iterator[Stroke]:
    """A trapezium from the hips to the hem, wider there."""
    legs = [list(_path(at, joints, hem)) for joints in LEGS]
    hips = [at[joint] for joint in (pose.R_HIP, pose.L_HIP) if joint in at]
    ends = torch.stack([bones[-1][1] for bones in legs if bones]) if any(legs) else None
    if ends is not None and len(hips) + len(ends) > 2:
        ends = ends.mean(0) + FLARE * (ends - ends.mean(0))
        yield Stroke(part, torch.cat((torch.stack(hips), ends)), PELVIS)


def _head(at: Points, outfit: Outfit) -> Iterator[Stroke]:
    """Neck, hair, face, glasses and hat, upright as the neck says. Seen from behind: no face."""
    seen = [at[joint] for joint in HEAD if joint in at]
    if not seen:
        return
    middle = torch.stack(seen).mean(0)
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


def _paint(labels: Tensor, corners: Tensor, radius: float, part: int) -> None:
    """Sets what a stroke covers in a map [H, W], in place; corners and radius in pixels.

    The corners are joined around their middle, so that a twisted trunk is no bow tie.
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
    for start, end in zip(corners, corners.roll(-1, 0), strict=True):
        body_masks.fill_capsule(covered, start, end, radius)
    labels[y0:y1, x0:x1][covered > 0] = part


def _inside(corners: Tensor, width: int, height: int) -> Tensor:
    """[height, width], 1 inside the polygon: a ray to the right meets its edges an odd number of
    times.
    """
    y, x = torch.arange(height)[:, None, None], torch.arange(width)[:, None]
    start, end = corners, corners.roll(-1, 0)
    meets = (start[:, 1] > y) != (end[:, 1] > y)  # [h, 1, n]
    edge = start[:, 0] + (y - start[:, 1]) * (end - start)[:, 0] / (end - start)[:, 1]
    return (meets & (x < edge)).sum(-1).remainder(2).float()
