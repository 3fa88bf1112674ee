"""Read the rectangles of other nodes, and draw their areas as masks.

The host's detectors, its box drawing and its Bounding Box node give a rectangle as {x, y, width,
height} in pixels of an image, often with a label, a score or metadata beside it.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .plain_words import quote

LONGEST_MASK = 2048  # pixels: a mask of a larger image is drawn smaller


class Rectangle(NamedTuple):
    """A rectangle in pixels of an image, which it may leave."""

    x: float
    y: float
    width: float
    height: float
    label: str | None = None  # what a detector takes it for


def read_frames(value: Any) -> list[list[Rectangle]]:
    """Read the rectangles of every image.

    A value is one rectangle, a list of them, or a list of such lists, one per image. Raises
    ValueError on anything else: four numbers in a row may be two corners or a corner and a size.
    """
    frames = value if isinstance(value, list) else [value] if value else []
    if not any(isinstance(frame, list) and not _are_numbers(frame) for frame in frames):
        frames = [frames]
    return [_read_frame(frame) for frame in frames]


def _are_numbers(values: Sequence[Any]) -> bool:
    return len(values) > 0 and all(isinstance(value, int | float) for value in values)


def _read_frame(frame: Any) -> list[Rectangle]:
    if not isinstance(frame, list):
        raise ValueError(f"each image needs a list of bounding boxes, but one has {quote(frame)}.")
    return [_read_rectangle(box) for box in frame]


def _read_rectangle(box: Any) -> Rectangle:
    problem = f"a bounding box has the numbers x, y, width and height, but one is {quote(box)}."
    try:
        x, y, width, height = (float(box[key]) for key in ("x", "y", "width", "height"))
    except (KeyError, TypeError, ValueError):
        raise ValueError(problem) from None
    if not all(map(math.isfinite, (x, y, width, height))):
        raise ValueError(problem)
    return Rectangle(x, y, width, height, box.get("label"))


def left_to_right(boxes: Sequence[Rectangle]) -> list[Rectangle]:
    """Order rectangles by their middles, the leftmost first."""
    return sorted(boxes, key=lambda box: box.x + box.width / 2)


def box_mask(box: Rectangle, width: int, height: int) -> Tensor:
    """Draw the part of a rectangle that is inside an image of this size, as a mask [h, w].

    The mask has the image's size, or its proportions where that exceeds LONGEST_MASK. A pixel that
    the rectangle covers in part has that part as its value. Raises ValueError where the rectangle
    has no place in the image.
    """
    size = f"{box.width:g} x {box.height:g} pixels"
    place = f"x {box.x:g} to {box.x + box.width:g}, y {box.y:g} to {box.y + box.height:g}"
    if box.width < 1 or box.height < 1:
        raise ValueError(
            f"is empty: it has {size}. Draw it larger; its numbers are pixels, not shares of the "
            "image."
        )
    if min(box.x + box.width, width) <= max(box.x, 0) or (
        min(box.y + box.height, height) <= max(box.y, 0)
    ):
        raise ValueError(f"lies outside of the image of {width} x {height} pixels, at {place}.")
    scale = min(1.0, LONGEST_MASK / max(width, height))
    columns = _covered(box.x, box.width, width, scale)
    rows = _covered(box.y, box.height, height, scale)
    return rows[:, None] * columns


def _covered(start: float, length: float, side: int, scale: float) -> Tensor:
    """How much of each pixel of a side an interval covers, [scale * side] in 0..1."""
    count = max(1, round(scale * side))
    pixels = torch.arange(count, dtype=torch.float64)
    first, last = (count / side * edge for edge in (start, start + length))
    return ((pixels + 1).clamp(max=last) - pixels.clamp(min=first)).clamp(0, 1).float()
