"""Hands first, the body painted around them: masks, boxes and the expanding border of "Giving a
Hand" (Pelykh et al. 2024, arXiv 2403.10731).

The paper names the steps and few numbers; what is a parameter here is ours.
"""

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate, pad

from . import body_masks, pose

LEFT, RIGHT = "left", "right"
SIDES = {LEFT: pose.L_WRIST, RIGHT: pose.R_WRIST}
PALM = (0, 1, 5, 9, 13, 17)  # wrist, base of the thumb, four knuckles
FINGERS = tuple(range(1 + 4 * k, 5 + 4 * k) for k in range(5))  # thumb to little finger
FINGER_THICKNESS = 0.08  # of a finger, half of it, as a share of the hand's size
SMALLEST_HAND = 8.0  # pixels; a smaller hand is not looked at
GRAY = 0.5  # where there is no picture


class Hand(NamedTuple):
    """One hand of one person: who (from 0), LEFT or RIGHT, points [21, 3] in pixels."""

    person: int
    side: str
    points: Tensor


def find_hands(people: pose.People, side: str | None = None) -> list[Hand]:
    """Every hand that can be worked on, the largest first: at least a wrist and two more points,
    SMALLEST_HAND pixels or more. `side`: only these.

    A missing wrist is taken from the body. Hands nearer to the body's other wrist change sides, and
    of two in one place the one on its own side stays: detectors take left for right.
    """
    found: list[Hand] = []
    for person in range(pose.count(people)):
        both = {LEFT: people.left_hand[person], RIGHT: people.right_hand[person]}
        for name, points in untangle_hands(both, people.body[person]).items():
            if points[0, 2] == 0:
                points = torch.cat((people.body[person, SIDES[name]][None], points[1:]))
            enough = points[0, 2] > 0 and (points[1:, 2] > 0).sum() >= 2
            if enough and side in (None, name) and hand_size(points) >= SMALLEST_HAND:
                found.append(Hand(person, name, points))
    return sorted(found, key=lambda hand: -hand_size(hand.points))


def untangle_hands(both: dict[str, Tensor], body: Tensor) -> dict[str, Tensor]:
    """The hands of one person, each at the wrist it is nearer to; `both` by side, [21, 3]."""
    if not all(body[wrist, 2] > 0 for wrist in SIDES.values()):
        return both
    other = {LEFT: RIGHT, RIGHT: LEFT}
    placed = {name: torch.zeros_like(points) for name, points in both.items()}
    distances: dict[str, tuple[bool, float]] = {}
    for name, points in both.items():
        there = points[points[:, 2] > 0, :2]
        if len(there):
            root = points[0, :2] if points[0, 2] > 0 else there.mean(0)
            away = {side: float((root - body[wrist, :2]).norm()) for side, wrist in SIDES.items()}
            side = name if away[name] <= away[other[name]] else other[name]
            own = side != name  # a hand on its own side comes before one that changed sides
            if side not in distances or (own, away[side]) < distances[side]:
                placed[side], distances[side] = points, (own, away[side])
    return placed


def hand_size(points: Tensor) -> float:
    """Wrist to the tip of the middle finger of an open hand, in pixels, from whatever points are
    there: the longest of the bones, each over its share of that length.
    """
    shares = {(0, 5): 0.5, (0, 9): 0.5, (0, 13): 0.48, (0, 17): 0.46, (5, 17): 0.42, (9, 10): 0.26}
    lengths = [
        float((points[a, :2] - points[b, :2]).norm()) / share
        for (a, b), share in shares.items()
        if points[a, 2] > 0 and points[b, 2] > 0
    ]
    there = points[points[:, 2] > 0, :2]
    return max(lengths, default=float((there.amax(0) - there.amin(0)).norm()))


def hand_mask(
    points: Tensor,
    width: int,
    height: int,
    *,
    thickness: float = FINGER_THICKNESS,
    wrist: float = 0.0,
) -> Tensor:
    """The hand around its keypoints [height, width], 0 or 1: fingers as thick lines, the palm
    filled. `wrist`: how far it goes on below the wrist. Both are shares of the hand's size.
    """
    mask = torch.zeros(height, width)
    size = hand_size(points)
    radius = max(1.0, thickness * size)
    bones = [*pose.BONES, *zip(PALM[1:], PALM[2:], strict=False)]
    for a, b in bones:
        if points[a, 2] > 0 and points[b, 2] > 0:
            body_masks.fill_capsule(mask, points[a, :2], points[b, :2], radius)
    for point in points[points[:, 2] > 0, :2]:
        body_masks.fill_capsule(mask, point, point, radius)
    palm = points[list(PALM)]
    _fill_polygon(mask, palm[palm[:, 2] > 0, :2])
    if wrist > 0 and points[0, 2] > 0:
        knuckles = palm[1:][palm[1:, 2] > 0, :2]
        if len(knuckles):
            down = points[0, :2] - knuckles.mean(0)
            end = points[0, :2] + down / down.norm().clamp(min=1e-6) * wrist * size
            body_masks.fill_capsule(mask, points[0, :2], end, 1.6 * radius)
    return mask


def _fill_polygon(mask: Tensor, corners: Tensor) -> None:
    """Sets the pixels inside the polygon to 1, in place."""
    import cv2

    if len(corners) >= 3:
        filled = mask.numpy().copy()
        cv2.fillPoly(filled, [corners.round().int().numpy()], (1.0,))
        mask.copy_(torch.from_numpy(filled))


def clean_mask(mask: Tensor, least: float = 0.1) -> Tensor:
    """A predicted mask [h, w] in 0..1 as 0 or 1, holes filled, parts smaller than `least` times the
    largest dropped.
    """
    import cv2

    binary: Any = (mask > 0.5).byte().numpy()
    outlines, _ = cv2.findContours(binary, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    sizes = [cv2.contourArea(outline) for outline in outlines]
    kept = [o for o, s in zip(outlines, sizes, strict=True) if s >= least * max(sizes)]
    filled = cv2.drawContours(binary * 0, kept, -1, (1,), cv2.FILLED)
    return torch.from_numpy(filled).float()


def distance_map(inside: Tensor, reach: int) -> Tensor:
    """Euclidean distance of each cell to the nearest one of `inside` (bool [..., h, w]), in cells;
    beyond `reach` it is only known to be more.
    """
    far = 2.0 * (reach + 1) ** 2
    square = torch.where(inside, 0.0, far)
    for axis, sides in ((-1, (reach, reach, 0, 0)), (-2, (0, 0, reach, reach))):
        size, padded = square.shape[axis], pad(square, sides, value=far)
        square = reduce(
            torch.minimum,
            (padded.narrow(axis, reach + k, size) + k * k for k in range(-reach, reach + 1)),
        )
    return square.sqrt()


def border_width(progress: float, expansion: float, start: float, end: float) -> float:
    """How wide a border around the hand is still preserved: all of `expansion` until `start`, then
    less and less until `end`. Progress, start and end are shares of the sampling.
    """
    done = (progress - start) / (end - start)
    return expansion * (1 - min(1.0, max(0.0, done)))


def expand_mask(mask: Tensor, width: float) -> Tensor:
    """Denoise mask [..., h, w] (1: painted anew) with a border of `width` cells around what it
    preserves preserved as well. Width 0 is the mask itself; the narrower, the more is painted.
    """
    if width <= 0:
        return mask
    away = distance_map(mask < 0.5, math.ceil(width))
    return torch.where((away > 0) & (away <= width), 0.0, mask)


def expansion_strip(
    mask: Tensor, below: Tensor | None, expansion: float, start: float, end: float, count: int
) -> Tensor:
    """`count` pictures side by side [H, count * W, 3], from the first to the last step: what a
    denoise mask [H, W] paints is white, the border still preserved orange, the rest `below`
    [H, W, 3] or dark. `expansion` in the mask's own pixels.
    """
    kept = torch.full((*mask.shape, 3), 0.15) if below is None else below
    white, orange = torch.ones(3), torch.tensor([1.0, 0.55, 0.1])
    shown = []
    for k in range(count):
        now = expand_mask(mask, border_width(k / (count - 1), expansion, start, end))[..., None]
        held = mask[..., None] - now  # by the border
        seen = 0.6 * orange + 0.4 * kept
        shown.append(kept * (1 - mask[..., None]) + now * white + held * seen)
    return torch.cat(shown, 1)


class Square(NamedTuple):
    """A square of a picture around a hand: centre and side in pixels, turned by `angle` radians
    (clockwise on the screen).
    """

    x: float
    y: float
    side: float
    angle: float = 0.0


def square_around(points: Tensor, margin: float, *, upright: bool = False) -> Square:
    """The square around a hand's points, larger by `margin` times its size on every side; upright:
    turned so that the fingers point up.
    """
    there = points[points[:, 2] > 0, :2]
    angle = 0.0
    if upright and len(there) > 1:
        x, y = (there[1:].mean(0) - there[0]).tolist()
        angle = math.atan2(x, -y)
    turned = there @ _rotation(angle)  # into the square's own axes
    low, high = turned.amin(0), turned.amax(0)
    x, y = (((low + high) / 2) @ _rotation(angle).mT).tolist()
    side = float((high - low).max()) * (1 + 2 * margin)
    return Square(x, y, max(side, 1.0), angle)


def _rotation(angle: float) -> Tensor:
    """Row vectors times this: from the picture's axes into those of a square turned by angle."""
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s], [s, c]])


def isolate_hand(hand: Hand, square: Square, size: int) -> pose.People:
    """One person who is nothing but this hand, on the square's own canvas."""
    parts = {name: torch.zeros(1, n, 3) for name, (_, n) in pose.POINT_GROUPS.items()}
    parts[f"{hand.side}_hand"] = to_square(hand.points, square, size)[None]
    return pose.people_from_points(parts.values(), size, size)


def to_square(points: Tensor, square: Square, size: int) -> Tensor:
    """Points [N, 3] of the picture in the pixels of the square cut out at size x size."""
    centre = torch.tensor([square.x, square.y])
    moved = (points[:, :2] - centre) @ _rotation(square.angle) * size / square.side + size / 2
    return torch.cat((moved, points[:, 2:]), 1) * (points[:, 2:] > 0)


def cut_square(picture: Tensor, square: Square, size: int) -> Tensor:
    """The square of a picture [H, W, C] as [size, size, C]; beyond the edge its border goes on."""
    finer = max(1, math.ceil(square.side / size))  # averaged, so that nothing is left out
    n = finer * size
    across = (torch.arange(n) + 0.5) / n - 0.5
    v, u = torch.meshgrid(across, across, indexing="ij")
    at = torch.stack((u, v), -1) * square.side @ _rotation(square.angle).mT
    at = at + torch.tensor([square.x, square.y])
    grid = 2 * at / torch.tensor([picture.shape[1], picture.shape[0]]) - 1
    source = picture.movedim(-1, 0)[None].float()
    found = grid_sample(source, grid[None], padding_mode="border", align_corners=False)
    return avg_pool2d(found, finer)[0].movedim(0, -1)


class HandCutout(NamedTuple):
    """One hand, cut out of its picture."""

    square: Square
    picture: Tensor  # [size, size, 3]
    people: pose.People  # the hand alone, in the picture's pixels


def cut_hands(
    found: Sequence[Hand], source: Tensor | None, size: int, margin: float, *, upright: bool = False
) -> list[HandCutout]:
    """Each hand in its square of the picture [H, W, 3], or, without one, of grey."""
    made = []
    for hand in found:
        square = square_around(hand.points, margin, upright=upright)
        picture = (
            torch.full((size, size, 3), GRAY)
            if source is None
            else cut_square(source, square, size)
        )
        made.append(HandCutout(square, picture, isolate_hand(hand, square, size)))
    return made


def write_box(hand: Hand, square: Square, canvas: tuple[int, int]) -> dict[str, Any]:
    """The square in the form of a BOUNDING_BOX wire, its angle and the picture's size beside."""
    half = square.side / 2
    return {
        "x": square.x - half,
        "y": square.y - half,
        "width": square.side,
        "height": square.side,
        "angle": square.angle,
        "label": f"{hand.side} hand",
        "canvas_width": canvas[0],
        "canvas_height": canvas[1],
    }


def read_squares(boxes: Any, width: int, height: int) -> list[list[Square]]:
    """The squares of every frame of a BOUNDING_BOX wire, in a picture of this size; ValueError for
    another wire's value.
    """
    frames = boxes if isinstance(boxes, list) else [boxes]
    frames = [frame if isinstance(frame, list) else [frame] for frame in frames]

    def square(box: dict[str, Any]) -> Square:
        wide = width / box.get("canvas_width", width)
        tall = height / box.get("canvas_height", height)
        return Square(
            wide * (box["x"] + box["width"] / 2),
            tall * (box["y"] + box["height"] / 2),
            max(wide * box["width"], tall * box["height"]),
            box.get("angle", 0.0),
        )

    try:
        return [[square(box) for box in frame] for frame in frames]
    except (KeyError, TypeError, AttributeError):
        raise ValueError(
            "the input 'boxes' can not be read: connect the output 'boxes' of Cut Hands."
        ) from None


def place_square(picture: Tensor, square: Square, width: int, height: int) -> Tensor:
    """The inverse of `cut_square`: a picture [h, w, C] where its square lies on an empty canvas of zeros
    [height, width, C].
    """
    shown = picture.movedim(-1, 0)[None].float()
    target = max(1, round(square.side))
    if target < max(shown.shape[-2:]):
        shown = interpolate(shown, (target, target), mode="bilinear", antialias=True)
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    at = torch.stack((x.expand(height, -1), y[:, None].expand(-1, width)), -1)
    at = (at - torch.tensor([square.x, square.y])) @ _rotation(square.angle)
    grid = 2 * at / square.side
    inside = (grid.abs() <= 1).all(-1, keepdim=True)  # a border pixel is whole, not half empty
    found = grid_sample(shown, grid[None], padding_mode="border", align_corners=False)
    return found[0].movedim(0, -1) * inside


def hand_surroundings(
    squares: Sequence[Square], pictures: Tensor, width: int, height: int
) -> Tensor:
    """A picture [height, width, 3] of what was painted around hands [N, h, w, 3], and beyond their
    squares grey: a border that is preserved for a while, and latent cells on a hand's outline, then
    hold what belongs to the hand.
    """
    canvas = torch.full((height, width, 3), GRAY)
    for square, picture in reversed([*zip(squares, pictures, strict=True)]):
        inside = place_square(torch.ones(1, 1, 1), square, width, height) > 0
        canvas = torch.where(inside, place_square(picture, square, width, height), canvas)
    return canvas


def insert_hands(
    canvas: Tensor, squares: Sequence[Square], pictures: Tensor, masks: Tensor, room: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Hands [N, h, w, 3] with masks [N, h, w] put into a picture [H, W, 3], the first ones above.

    Returns the picture, the hands' places [H, W], and what is to be painted around them: a ring of
    `room` times their square, for 0 all the rest. Without hands that is nothing.
    """
    height, width = canvas.shape[:2]
    where, ring = torch.zeros(height, width), torch.zeros(height, width)
    for square, picture, mask in reversed([*zip(squares, pictures, masks, strict=True)]):
        shape = place_square(mask[..., None], square, width, height)
        canvas = canvas + shape * (place_square(picture, square, width, height) - canvas)
        inside = shape[..., 0] > 0.5
        where = torch.where(inside, 1.0, where)
        reach = round(room * square.side)
        ring = torch.where(distance_map(inside, reach) <= reach, 1.0, ring)
    if squares and room == 0:
        ring = torch.ones_like(ring)
    return canvas, where, ring * (1 - where)


def body_control_image(picture: Tensor, mask: Tensor) -> Tensor:
    """What a body outpainter sees beside the skeleton: a picture [B, H, W, 3] where its hands
    [B, H, W] are, and where that is, [B, 4, H, W].
    """
    where = mask[:, None]
    return torch.cat((picture.movedim(-1, 1) * where, where), 1)


def paste_over(base: Tensor, top: Tensor, mask: Tensor, *, feather: float, color: float) -> Tensor:
    """`top` over `base` [H, W, C] where the mask [H, W] is, its edge softened inwards by `feather`
    pixels. `color` 0..1: how far top's mean color along the edge is drawn to base's.
    """
    soft = mask
    if feather > 0:
        inner = distance_map(mask < 0.5, math.ceil(feather) + 1)  # how deep inside
        soft = mask * (inner / (feather + 1)).clamp(0, 1)
    edge = (distance_map(mask > 0.5, 3) <= 3) & (distance_map(mask <= 0.5, 3) <= 3)
    if color > 0 and edge.any():
        top = (top + color * (base[edge].mean(0) - top[edge].mean(0))).clamp(0, 1)
    return base + soft[..., None] * (top - base)
