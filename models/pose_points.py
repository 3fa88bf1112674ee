"""Read lists of keypoints as tensors, and decide whether they are pixels or fractions.

Tools write points in many ways: flat or nested, with or without confidence, as null, as text, as
-1 where a point is missing. What is read here is what can mean one thing only, and what cannot is
refused. The few guesses are those that web/docs/VitruvianLoadPose.md lists.
"""

from collections.abc import Collection, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from .plain_words import kind, quote

AGAIN = "Make the pose again, or save it as OpenPose JSON."  # of errors
MIN_CONFIDENCE = 0.3  # points below it are not taken for a part of a body, by any node
REACH = 2.5  # canvases; a point farther from the canvas's corner is in another unit
CONFIDENCES = ("confidence", "score", "visibility", "c", "v")  # keys of a point written as object
MISSING = (0.0, 0.0, 0.0)


def read_points(
    values: Any, counts: Collection[int], name: str, scores: Sequence[Any] | None = None
) -> Tensor:
    """Read points as [n, 3] of x, y, confidence in 0..1; [0, 3] if there are none.

    values: flat numbers x, y, confidence, or only x, y; or one list or object {x, y, confidence}
    per point. counts: how many points there may be. scores: confidences that are listed apart.
    A point without confidence counts as seen. A point with null, with confidence 0, at (-1, -1) or
    at (0, 0) is missing and becomes zeros.

    Raises ValueError, which begins with `name`, for anything else.
    """
    values = _unwrap(values)
    if values is None or _is_list(values) and (not values or list(values) == [-1]):
        return torch.zeros(0, 3)
    if not _is_list(values):
        raise ValueError(f"{name} must be a list of numbers x, y, confidence. {AGAIN}")
    if any(_is_list(value) or isinstance(value, dict) for value in values):
        rows = [_point(value, name) for value in values]
    else:
        rows = _flat_points(values, counts, name)
    if len(rows) not in counts:
        raise ValueError(
            f"{name} has {len(rows)} points, but {_listed(counts)} are expected. {AGAIN}"
        )
    if scores is not None:
        rows = _with_scores(rows, scores, name)
    points = torch.tensor(rows, dtype=torch.float64)
    finite = points.isfinite().all(1)
    if not finite[~(points[:, 2] < MIN_CONFIDENCE)].all():
        raise ValueError(f"{name} holds a number that is infinite or not a number. {AGAIN}")
    nowhere = (points[:, :2] == -1).all(1) | (points[:, :2] == 0).all(1)
    visible = (points[:, 2] > 0) & ~nowhere & finite
    points = torch.where(visible[:, None], points, 0.0)
    return torch.cat([points[:, :2], points[:, 2:].clamp(max=1)], dim=1).float()


def are_fractions(points: Tensor) -> bool:
    """Say whether the points [n, 3] are fractions of the canvas: all lie near 0..1."""
    return _reach(_deciding_points(points)) <= REACH


def to_pixels(
    points: Tensor, size: tuple[int, int] | None, name: str, *, outside: bool = False
) -> Tensor:
    """Bring the points [n, 3] of one part of a person to pixels of a canvas (width, height).

    Points at (-1, -1) that were scaled by the canvas are missing. Only points of MIN_CONFIDENCE
    speak against a unit. size: None if it is unknown. outside: whether points may lie at any
    distance from the canvas.
    Raises ValueError, which begins with `name`, if they are neither fractions nor pixels of it.
    """
    if not points[:, 2].any():
        return points
    if size is not None:
        points = _drop_scaled_missing(points, size)
    if are_fractions(points):
        return _scale_fractions(points, size, name)
    if size is not None and are_far_away(points, size) and not outside:
        raise ValueError(
            f"{name} reaches to {_reach(_certain_points(points)):g}: these are neither pixels of a "
            f"canvas of {size[0]} x {size[1]} nor fractions of it (0 to 1). {AGAIN}"
        )
    if (_certain_points(points)[:, :2].abs() <= 1).all(1).any():
        raise ValueError(
            f"{name} mixes points in fractions (0 to 1) with points in pixels. {AGAIN}"
        )
    return points


def are_far_away(points: Tensor, size: tuple[int, int]) -> bool:
    """Say whether points [n, 3] lie too far from a canvas (width, height) to be in its pixels."""
    return _reach(_certain_points(points)) > REACH * max(size)


def extent(parts: Sequence[Tensor]) -> tuple[int, int] | None:
    """Measure the smallest canvas (width, height) that begins at (0, 0) and holds these points.

    parts: [n, 3] each, in pixels. None without a visible point right of and below (0, 0).
    """
    points = _deciding_points(torch.cat([torch.zeros(0, 3), *parts]))
    if not len(points) or (points[:, :2].amax(0) <= 0).any():
        return None
    width, height = points[:, :2].amax(0).ceil().int().tolist()
    return width, height


def look_swapped(points: Tensor, size: tuple[int, int]) -> bool:
    """Say whether width and height of the canvas look swapped: the points [n, 3] in pixels lie far
    outside it, but fit into a canvas of `height` x `width`.
    """
    certain = _certain_points(points)[:, :2]
    if not len(certain) or size[0] == size[1]:
        return False
    canvas = torch.tensor(size, dtype=torch.float32)
    far_outside = bool((certain > 1.2 * canvas).any())  # detectors guess feet below an image's edge
    return far_outside and bool(((certain >= 0) & (certain <= canvas.flip(0))).all())


def _unwrap(values: Any) -> Any:
    """Turn arrays into lists, and [[...]] with a single list in it into that list."""
    while True:
        if hasattr(values, "tolist"):
            values = values.tolist()
        if not (_is_list(values) and len(values) == 1 and _is_list(values[0])):
            return values
        values = values[0]


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) or hasattr(value, "tolist") and bool(value.shape)


def _flat_points(values: Sequence[Any], counts: Collection[int], name: str) -> list[Any]:
    """Split flat numbers into points of three or two numbers, whichever gives a possible count."""
    for columns in (3, 2):
        count, remainder = divmod(len(values), columns)
        if not remainder and count in counts:
            starts = range(0, len(values), columns)
            return [_numbers(values[start : start + columns], name) for start in starts]
    raise ValueError(
        f"{name} has {len(values)} numbers, but {_listed(counts)} points of x, y, confidence, or "
        f"of x, y, are expected. {AGAIN}"
    )


def _point(value: Any, name: str) -> tuple[float, ...]:
    if value is None:
        return MISSING
    if isinstance(value, dict):
        if "x" not in value or "y" not in value:
            raise ValueError(f"{name} holds a point without 'x' and 'y'. {AGAIN}")
        confidence = next((value[key] for key in CONFIDENCES if key in value), 1)
        return _numbers((value["x"], value["y"], confidence), name)
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, list | tuple) or len(value) not in (0, 2, 3):
        raise ValueError(
            f"{name} must be a list of numbers x, y, confidence for every point. {AGAIN}"
        )
    return _numbers(value, name) if value else MISSING


def _numbers(values: Sequence[Any], name: str) -> tuple[float, ...]:
    """Read x, y and, if it is there, confidence. null makes the point a missing one."""
    if any(value is None for value in values):
        return MISSING
    numbers = tuple(_number(value, name) for value in values)
    return numbers if len(numbers) == 3 else (*numbers, 1.0)


def _number(value: Any, name: str) -> float:
    if hasattr(value, "item"):
        value = value.item()
    try:
        if isinstance(value, bool) or not isinstance(value, Real | str):
            raise ValueError
        return float(value)
    except OverflowError:
        return float("inf")
    except ValueError:
        what = quote(value) if isinstance(value, bool | str) else kind(value)
        raise ValueError(
            f"{name} must be a list of numbers x, y, confidence, but it holds {what}. {AGAIN}"
        ) from None


def _with_scores(rows: list[Any], scores: Any, name: str) -> list[Any]:
    scores = _unwrap(scores)
    if not _is_list(scores) or len(scores) != len(rows):
        raise ValueError(f"{name} needs one score per point. {AGAIN}")
    confidences = [0.0 if score is None else _number(score, name) for score in scores]
    return [(*row[:2], min(row[2], score)) for row, score in zip(rows, confidences, strict=True)]


def _listed(counts: Collection[int]) -> str:
    numbers = sorted(counts)
    if len(numbers) > 6:
        return f"{numbers[0]} to {numbers[-1]}"
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}" if most else last


def _certain_points(points: Tensor) -> Tensor:
    return points[points[:, 2] >= MIN_CONFIDENCE]


def _deciding_points(points: Tensor) -> Tensor:
    """The points that are seen, or, where none is, all that are not missing."""
    certain = _certain_points(points)
    return certain if len(certain) else points[points[:, 2] > 0]


def _reach(points: Tensor) -> float:
    return points[:, :2].abs().amax().item() if len(points) else 0.0


def _scale_fractions(points: Tensor, size: tuple[int, int] | None, name: str) -> Tensor:
    if size is None:
        raise ValueError(
            f"{name} is in fractions of a canvas whose size is not known: add 'canvas_width' and "
            "'canvas_height' in pixels."
        )
    certain = _certain_points(points)[:, :2]
    if len(certain) and (certain < -0.05).any(0).all() and certain.abs().max() <= 1:
        raise ValueError(
            f"{name} seems to run from -1 to 1, but only pixels and fractions from 0 to 1 can be "
            f"read. {AGAIN}"
        )
    return points * torch.tensor([*size, 1.0])


def _drop_scaled_missing(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Zero what was (-1, -1) before it was multiplied or divided by the canvas."""
    canvas = torch.tensor(size, dtype=torch.float32)
    for factor in (canvas, 1 / canvas):
        missing = (points[:, :2] / -factor).sub(1).abs().amax(1) < 1e-3
        points = torch.where(missing[:, None], 0.0, points)
    return points
