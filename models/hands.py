"""Mask, cut out and insert hands, around which the body is generated afterwards.

The steps are those of "Giving a Hand" (Pelykh et al. 2024, arXiv 2403.10731). The paper gives few
numbers; what is a parameter here is our choice.
"""

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, interpolate, pad

from . import body_masks, pose

LEFT, RIGHT = "left", "right"
SIDES = {LEFT: pose.L_WRIST, RIGHT: pose.R_WRIST}
PALM = (0, 1, 5, 9, 13, 17)  # wrist, base of the thumb, four knuckles
FINGERS = tuple(range(1 + 4 * k, 5 + 4 * k) for k in range(5))  # thumb to little finger
FINGER_THICKNESS = 0.08  # of a finger, half of it, as a share of the hand's size
SMALLEST_HAND = 8.0  # pixels; smaller hands are left out
GRAY = 0.5  # fills what no image covers


class Hand(NamedTuple):
    """Hold one hand: its person (from 0), its side (LEFT or RIGHT), points [21, 3] in pixels."""

    person: int
    side: str
    points: Tensor


def find_hands(people: pose.People, side: str | None = None) -> list[Hand]:
    """Find every hand that can be worked on, the largest first.

    Such a hand has at least a wrist and two more points and is SMALLEST_HAND pixels or larger.
    side: LEFT or RIGHT, to find only these. A missing wrist is taken from the body.
    """
    hands: list[Hand] = []
    for person in range(pose.count(people)):
        by_side = {LEFT: people.left_hand[person], RIGHT: people.right_hand[person]}
        for name, points in untangle_hands(by_side, people.body[person]).items():
            if points[0, 2] == 0:
                points = torch.cat((people.body[person, SIDES[name]][None], points[1:]))
            enough = points[0, 2] > 0 and (points[1:, 2] > 0).sum() >= 2
            if enough and side in (None, name) and hand_size(points) >= SMALLEST_HAND:
                hands.append(Hand(person, name, points))
    return sorted(hands, key=lambda hand: -hand_size(hand.points))


def untangle_hands(by_side: dict[str, Tensor], body: Tensor) -> dict[str, Tensor]:
    """Move each hand of one person to the wrist it is nearer to: detectors confuse left and right.

    by_side: LEFT and RIGHT -> points [21, 3]; body: [18, 3]. Of two hands at one wrist, the one
    that was already on this side stays.
    """
    if not all(body[wrist, 2] > 0 for wrist in SIDES.values()):
        return by_side
    opposite = {LEFT: RIGHT, RIGHT: LEFT}
    untangled = {name: torch.zeros_like(points) for name, points in by_side.items()}
    ranks: dict[str, tuple[bool, float]] = {}
    for name, points in by_side.items():
        visible = points[points[:, 2] > 0, :2]
        if len(visible):
            root = points[0, :2] if points[0, 2] > 0 else visible.mean(0)
            away = {side: float((root - body[wrist, :2]).norm()) for side, wrist in SIDES.items()}
            side = name if away[name] <= away[opposite[name]] else opposite[name]
            changed = side != name
            if side not in ranks or (changed, away[side]) < ranks[side]:
                untangled[side], ranks[side] = points, (changed, away[side])
    return untangled


def hand_size(points: Tensor) -> float:
    """Estimate a hand's size in pixels: from the wrist to the tip of the middle finger, if open.

    points: [21, 3]. Every visible bone divided by its share of that length is an estimate; the
    largest one counts.
    """
    shares = {(0, 5): 0.5, (0, 9): 0.5, (0, 13): 0.48, (0, 17): 0.46, (5, 17): 0.42, (9, 10): 0.26}
    lengths = [
        float((points[a, :2] - points[b, :2]).norm()) / share
        for (a, b), share in shares.items()
        if points[a, 2] > 0 and points[b, 2] > 0
    ]
    visible = points[points[:, 2] > 0, :2]
    return max(lengths, default=float((visible.amax(0) - visible.amin(0)).norm()))


def hand_mask(
    points: Tensor,
    width: int,
    height: int,
    *,
    thickness: float = FINGER_THICKNESS,
    wrist: float = 0.0,
) -> Tensor:
    """Draw a hand's mask from its keypoints [21, 3]: [height, width], 0 or 1.

    Fingers are thick lines, the palm is filled. thickness: half of a finger's; wrist: how far the
    mask goes on below the wrist. Both are shares of the hand's size.
    """
    mask = torch.zeros(height, width)
    size = hand_size(points)
    radius = max(1.0, thickness * size)
    bones = [*pose.BONES, *zip(PALM[1:], PALM[2:], strict=False)]
    capsules = [
        (points[a, :2], points[b, :2], radius)
        for a, b in bones
        if points[a, 2] > 0 and points[b, 2] > 0
    ]
    capsules += [(point, point, radius) for point in points[points[:, 2] > 0, :2]]
    palm = points[list(PALM)]
    knuckles = palm[1:][palm[1:, 2] > 0, :2]
    if wrist > 0 and points[0, 2] > 0 and len(knuckles):
        down = points[0, :2] - knuckles.mean(0)
        end = points[0, :2] + down / down.norm().clamp(min=1e-6) * wrist * size
        capsules.append((points[0, :2], end, 1.6 * radius))
    body_masks.fill_capsules(mask, capsules)
    _fill_polygon(mask, palm[palm[:, 2] > 0, :2])
    return mask


def _fill_polygon(mask: Tensor, corners: Tensor) -> None:
    """Set the pixels inside the polygon to 1, in place."""
    import cv2

    if len(corners) >= 3:
        filled = mask.numpy().copy()
        cv2.fillPoly(filled, [corners.round().int().numpy()], (1.0,))
        mask.copy_(torch.from_numpy(filled))


def clean_mask(mask: Tensor, smallest: float = 0.1) -> Tensor:
    """Clean a predicted mask [h, w] in 0..1: round it to 0 or 1, fill holes, drop small parts.

    Small are parts with less than `smallest` times the area of the largest.
    """
    import cv2

    binary: Any = (mask > 0.5).byte().numpy()
    outlines, _ = cv2.findContours(binary, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    sizes = [cv2.contourArea(outline) for outline in outlines]
    large = [o for o, s in zip(outlines, sizes, strict=True) if s >= smallest * max(sizes)]
    filled = cv2.drawContours(binary * 0, large, -1, (1,), cv2.FILLED)
    return torch.from_numpy(filled).float()


def distance_map(inside: Tensor, reach: int) -> Tensor:
    """Measure each cell's Euclidean distance to the nearest one of `inside` (bool [..., h, w]).

    In cells. Beyond `reach` the result is only some number larger than it.
    """
    return (_distance_by_opencv if inside.device.type == "cpu" else _distance)(inside, reach)


def _distance(inside: Tensor, reach: int) -> Tensor:
    far = 2.0 * (reach + 1) ** 2
    square = torch.where(inside, 0.0, far)
    for axis, sides in ((-1, (reach, reach, 0, 0)), (-2, (0, 0, reach, reach))):
        size, padded = square.shape[axis], pad(square, sides, value=far)
        square = reduce(
            torch.minimum,
            (padded.narrow(axis, reach + k, size) + k * k for k in range(-reach, reach + 1)),
        )
    return square.sqrt()


def _distance_by_opencv(inside: Tensor, reach: int) -> Tensor:
    """Do the same on the processor, in a time that does not grow with the reach."""
    import cv2

    outside = (~inside).reshape(-1, *inside.shape[-2:]).byte().numpy()
    exact = cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    distances = [
        np.full(frame.shape, 2.0 * (reach + 1), np.float32)  # nothing is inside
        if frame.all()
        else cv2.distanceTransform(frame, *exact)
        for frame in outside
    ]
    return torch.from_numpy(np.stack(distances)).view(inside.shape)


def border_width(progress: float, expansion: float, start: float, end: float) -> float:
    """Return how wide a border around the hand is still preserved at this progress of a sampling.

    It is `expansion` until `start`, then falls linearly to 0 at `end`. Progress, start and end are
    shares of the sampling, 0..1.
    """
    done = (progress - start) / (end - start)
    return expansion * (1 - min(1.0, max(0.0, done)))


def expand_mask(mask: Tensor, width: float | Tensor, widest: float) -> Tensor:
    """Preserve a border as well: `width` cells, `widest` at most, around what a denoise mask
    [..., h, w] preserves. It is 1 where the image is inpainted.
    """
    away = _distance(mask < 0.5, math.ceil(widest))  # small, and the same on every device
    return torch.where((away > 0) & (away <= width), 0.0, mask)


def expansion_strip(
    mask: Tensor, below: Tensor | None, expansion: float, start: float, end: float, count: int
) -> Tensor:
    """Draw how the preserved border shrinks: `count` images side by side [H, count * W, 3].

    From the first to the last step: what a denoise mask [H, W] inpaints is white, the preserved
    border orange, the hands `below` [H, W, 3], or dark without it. expansion: in the mask's pixels.
    """
    ground = torch.full((*mask.shape, 3), 0.15) if below is None else below
    white, orange = torch.ones(3), torch.tensor([1.0, 0.55, 0.1])
    images = []
    for k in range(count):
        width = border_width(k / (count - 1), expansion, start, end)
        inpainted = expand_mask(mask, width, expansion)
        inpainted = inpainted[..., None]
        border = mask[..., None] - inpainted
        tinted = 0.6 * orange + 0.4 * ground
        images.append(ground * (1 - mask[..., None]) + inpainted * white + border * tinted)
    return torch.cat(images, 1)


class Square(NamedTuple):
    """Hold a square of an image around a hand: center and side in pixels.

    It is turned by `angle` radians, clockwise on the screen.
    """

    x: float
    y: float
    side: float
    angle: float = 0.0


def square_around(points: Tensor, margin: float, *, upright: bool = False) -> Square:
    """Place a square around a hand's points [21, 3], wider by `margin` times its size on each side.

    upright: turn it so that the fingers point up.
    """
    visible = points[points[:, 2] > 0, :2]
    angle = 0.0
    if upright and len(visible) > 1:
        x, y = (visible[1:].mean(0) - visible[0]).tolist()
        angle = math.atan2(x, -y)
    turned = visible @ _rotation(angle)  # into the square's own axes
    low, high = turned.amin(0), turned.amax(0)
    x, y = (((low + high) / 2) @ _rotation(angle).mT).tolist()
    side = float((high - low).max()) * (1 + 2 * margin)
    return Square(x, y, max(side, 1.0), angle)


def _rotation(angle: float) -> Tensor:
    """Row vectors times this: from the image's axes into those of a square turned by angle."""
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s], [s, c]])


def isolate_hand(hand: Hand, square: Square, size: int) -> pose.People:
    """Build people of nothing but this hand, on a canvas of the square cut out at size x size."""
    parts = {name: torch.zeros(1, n, 3) for name, (_, n) in pose.POINT_GROUPS.items()}
    parts[f"{hand.side}_hand"] = to_square(hand.points, square, size)[None]
    return pose.people_from_points(parts.values(), size, size)


def to_square(points: Tensor, square: Square, size: int) -> Tensor:
    """Move points [N, 3] of the image into the pixels of the square cut out at size x size."""
    center = torch.tensor([square.x, square.y])
    moved = (points[:, :2] - center) @ _rotation(square.angle) * size / square.side + size / 2
    return torch.cat((moved, points[:, 2:]), 1) * (points[:, 2:] > 0)


def cut_square(image: Tensor, square: Square, size: int) -> Tensor:
    """Cut the square out of an image [H, W, C] as [size, size, C]; edge pixels repeat outside."""
    finer = max(1, math.ceil(square.side / size))  # averaged, so that nothing is left out
    n = finer * size
    across = (torch.arange(n) + 0.5) / n - 0.5
    v, u = torch.meshgrid(across, across, indexing="ij")
    at = torch.stack((u, v), -1) * square.side @ _rotation(square.angle).mT
    at = at + torch.tensor([square.x, square.y])
    grid = 2 * at / torch.tensor([image.shape[1], image.shape[0]]) - 1
    source = image.movedim(-1, 0)[None].float()
    samples = grid_sample(source, grid[None], padding_mode="border", align_corners=False)
    return avg_pool2d(samples, finer)[0].movedim(0, -1)


class HandCutout(NamedTuple):
    """Hold one hand that was cut out of its image."""

    square: Square
    image: Tensor  # [size, size, 3]
    people: pose.People  # the hand alone, in the image's pixels


def cut_hands(
    hands: Sequence[Hand], source: Tensor | None, size: int, margin: float, *, upright: bool = False
) -> list[HandCutout]:
    """Cut each hand out of the source image [H, W, 3]; without one the cutouts are gray."""
    cutouts = []
    for hand in hands:
        square = square_around(hand.points, margin, upright=upright)
        image = (
            torch.full((size, size, 3), GRAY)
            if source is None
            else cut_square(source, square, size)
        )
        cutouts.append(HandCutout(square, image, isolate_hand(hand, square, size)))
    return cutouts


def write_box(hand: Hand, square: Square, canvas: tuple[int, int]) -> dict[str, Any]:
    """Write the square as a BOUNDING_BOX value, with its angle and the size of the image.

    canvas: width and height of the image in pixels.
    """
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
    """Read the squares of every frame from a BOUNDING_BOX value, placed in an image of this size.

    The canvas of a box covers the image, as that of a pose does (pose.cover_canvas). A list of
    boxes that are in no list of their own is one frame. Raises ValueError for anything else.
    """
    frames = boxes if isinstance(boxes, list) else [boxes]
    if not any(isinstance(frame, list) for frame in frames):
        frames = [frames]  # the boxes of a single image

    def square(box: dict[str, Any]) -> Square:
        canvas = box.get("canvas_width", width), box.get("canvas_height", height)
        scale, right, down = pose.cover(canvas, (width, height))
        return Square(
            scale * (box["x"] + box["width"] / 2) + right,
            scale * (box["y"] + box["height"] / 2) + down,
            scale * max(box["width"], box["height"]),
            box.get("angle", 0.0),
        )

    try:
        return [[square(box) for box in frame] for frame in frames]
    except (KeyError, TypeError, AttributeError):
        raise ValueError(
            "the input 'hand_bboxes' can not be read: connect the output 'hand_bboxes' of "
            "Cut Hands."
        ) from None


def place_square(image: Tensor, square: Square, width: int, height: int) -> Tensor:
    """Place an image [h, w, C] where its square lies on a canvas of zeros [height, width, C].

    The inverse of `cut_square`.
    """
    canvas = torch.zeros(height, width, image.shape[-1])
    rows, columns = _box_around(square, width, height)
    if not (rows and columns):
        return canvas
    source = image.movedim(-1, 0)[None].float()
    target = max(1, round(square.side))
    if target < max(source.shape[-2:]):
        source = interpolate(source, (target, target), mode="bilinear", antialias=True)
    x, y = torch.tensor(columns) + 0.5, torch.tensor(rows) + 0.5
    at = torch.stack((x.expand(len(rows), -1), y[:, None].expand(-1, len(columns))), -1)
    at = (at - torch.tensor([square.x, square.y])) @ _rotation(square.angle)
    grid = 2 * at / square.side
    inside = (grid.abs() <= 1).all(-1, keepdim=True)  # pixels on the border count fully
    samples = grid_sample(source, grid[None], padding_mode="border", align_corners=False)
    box = slice(rows.start, rows.stop), slice(columns.start, columns.stop)
    canvas[box] = samples[0].movedim(0, -1) * inside
    return canvas


def _box_around(square: Square, width: int, height: int) -> tuple[range, range]:
    """Find the rows and columns that a turned square reaches into."""
    reach = square.side / 2 * (abs(math.cos(square.angle)) + abs(math.sin(square.angle))) + 1

    def within(middle: float, size: int) -> range:
        return range(max(0, math.floor(middle - reach)), min(size, math.ceil(middle + reach)))

    return within(square.y, height), within(square.x, width)


def hand_surroundings(squares: Sequence[Square], images: Tensor, width: int, height: int) -> Tensor:
    """Place images of hands [N, h, w, 3] with their backgrounds on gray [height, width, 3].

    A preserved border around a hand, and latent cells on its outline, then hold what was generated
    together with the hand.
    """
    canvas = torch.full((height, width, 3), GRAY)
    for square, image in reversed([*zip(squares, images, strict=True)]):
        inside = place_square(torch.ones(1, 1, 1), square, width, height) > 0
        canvas = torch.where(inside, place_square(image, square, width, height), canvas)
    return canvas


def insert_hands(
    canvas: Tensor, squares: Sequence[Square], images: Tensor, masks: Tensor, room: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Insert hands [N, h, w, 3] with masks [N, h, w] into an image [H, W, 3], the first on top.

    Returns the image, the mask of the hands [H, W], and the mask of what is to be inpainted around
    them: a ring of `room` times their square's side, or for 0 all that is not a hand. Without hands
    both masks are empty.
    """
    height, width = canvas.shape[:2]
    hand_area, ring = torch.zeros(height, width), torch.zeros(height, width)
    for square, image, mask in reversed([*zip(squares, images, masks, strict=True)]):
        shape = place_square(mask[..., None], square, width, height)
        canvas = canvas + shape * (place_square(image, square, width, height) - canvas)
        inside = shape[..., 0] > 0.5
        hand_area = torch.where(inside, 1.0, hand_area)
        reach = round(room * square.side)
        ring = torch.where(distance_map(inside, reach) <= reach, 1.0, ring)
    if squares and room == 0:
        ring = torch.ones_like(ring)
    return canvas, hand_area, ring * (1 - hand_area)


def paste_over(base: Tensor, top: Tensor, mask: Tensor, *, feather: float, color: float) -> Tensor:
    """Paste `top` over `base` [H, W, C] where the mask [H, W] is 1.

    feather: the edge is softened inwards by so many pixels. color: how far, from 0 to 1, top's mean
    color along the edge is moved to base's, for each hand by itself: each part of the mask that is
    not connected with the others.
    """
    soft_mask = mask
    if feather > 0:
        depth = distance_map(mask < 0.5, math.ceil(feather) + 1)  # how deep inside the mask
        soft_mask = mask * (depth / (feather + 1)).clamp(0, 1)
    if color > 0 and (mask > 0.5).any():
        top = (top + color * _edge_difference(base, top, mask > 0.5)).clamp(0, 1)
    return base + soft_mask[..., None] * (top - base)


def _edge_difference(base: Tensor, top: Tensor, inside: Tensor) -> Tensor:
    """The mean of base - top [H, W, C] along the edge of the nearest connected part of `inside`."""
    import cv2

    edge = (distance_map(inside, 3) <= 3) & (distance_map(~inside, 3) <= 3)
    outside: Any = (~inside).byte().numpy()
    _, nearest = cv2.distanceTransformWithLabels(
        outside, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_CCOMP
    )
    labels = torch.from_numpy(nearest).long()  # from 1
    differences = torch.zeros(int(labels.max()) + 1, base.shape[-1])
    counts = torch.zeros(len(differences), 1)
    differences.index_add_(0, labels[edge], (base - top)[edge])
    counts.index_add_(0, labels[edge], torch.ones(int(edge.sum()), 1))
    return (differences / counts.clamp(min=1))[labels]
