"""Read, write and rearrange people in the OpenPose format.

A frame is the OpenPose JSON object of one image, as the host and other packs exchange it. The
points are in OpenPose's order: COCO-18 for the body, 21 per hand, 70 of the face, 6 of the feet.
"""

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import torch
from torch import Tensor

from . import pose_formats
from .plain_words import json_place, reason
from .pose_formats import LARGEST_CANVAS as LARGEST_CANVAS
from .pose_formats import POINT_GROUPS
from .pose_formats import POINTS_OUTSIDE as POINTS_OUTSIDE
from .pose_points import MIN_CONFIDENCE, are_far_away, look_swapped

# body points
(
    NOSE,
    NECK,
    R_SHOULDER,
    R_ELBOW,
    R_WRIST,
    L_SHOULDER,
    L_ELBOW,
    L_WRIST,
    R_HIP,
    R_KNEE,
    R_ANKLE,
    L_HIP,
    L_KNEE,
    L_ANKLE,
    R_EYE,
    L_EYE,
    R_EAR,
    L_EAR,
) = range(18)

LIMBS = (
    (NECK, R_SHOULDER),
    (NECK, L_SHOULDER),
    (R_SHOULDER, R_ELBOW),
    (R_ELBOW, R_WRIST),
    (L_SHOULDER, L_ELBOW),
    (L_ELBOW, L_WRIST),
    (NECK, R_HIP),
    (R_HIP, R_KNEE),
    (R_KNEE, R_ANKLE),
    (NECK, L_HIP),
    (L_HIP, L_KNEE),
    (L_KNEE, L_ANKLE),
    (NECK, NOSE),
    (NOSE, R_EYE),
    (R_EYE, R_EAR),
    (NOSE, L_EYE),
    (L_EYE, L_EAR),
)
BONES = tuple((0 if i % 4 == 1 else i - 1, i) for i in range(1, 21))  # five fingers from the wrist


LARGEST_FILE = 256_000_000  # bytes; an hour of video at 24 images a second


class People(NamedTuple):
    """Hold the people of one image as points (x px, y px, confidence), zeros where missing.

    body [N, 18, 3], left_hand and right_hand [N, 21, 3], face [N, 70, 3], foot [N, 6, 3], float32;
    width and height of the canvas in pixels. Points may lie outside the canvas.
    """

    body: Tensor
    left_hand: Tensor
    right_hand: Tensor
    face: Tensor
    foot: Tensor
    width: int
    height: int


def people_from_points(parts: Iterable[Tensor], width: int, height: int) -> People:
    """Build People from (body, left_hand, right_hand, face, foot) and the canvas size in pixels."""
    body, left_hand, right_hand, face, foot = parts
    return People(body, left_hand, right_hand, face, foot, width, height)


def no_people(width: int, height: int) -> People:
    """Build a canvas of this size without people."""
    return people_from_points(
        (torch.zeros(0, n, 3) for _, n in POINT_GROUPS.values()), width, height
    )


def count(people: People) -> int:
    """Count the people."""
    return people.body.shape[0]


def scale_to_canvas(people: People, width: int, height: int) -> People:
    """Scale the people to another canvas size, each axis by its own factor."""
    scale = torch.tensor([width / people.width, height / people.height, 1.0])
    return people_from_points((points * scale for points in people[:5]), width, height)


def cover(canvas: tuple[float, float], target: tuple[float, float]) -> tuple[float, float, float]:
    """Return the scale, and the shift to the right and down in pixels, with which a canvas of this
    width and height covers the target, centered on it.
    """
    scale = max(new / old for old, new in zip(canvas, target, strict=True))
    right, down = ((new - scale * old) / 2 for old, new in zip(canvas, target, strict=True))
    return scale, right, down


def cover_canvas(people: People, width: int, height: int) -> People:
    """Scale the people by one factor so that their canvas covers another one, centered on it.

    This is how a pose is placed on every image of other proportions: drawn, as masks, merged and
    composed. The host does the same with a control image.
    """
    scale, right, down = cover((people.width, people.height), (width, height))
    grow, shift = torch.tensor([scale, scale, 1.0]), torch.tensor([right, down, 0.0])
    parts = (points * grow + shift for points in people[:5])
    parts = (points * (old[..., 2:] > 0) for points, old in zip(parts, people[:5], strict=True))
    return people_from_points(parts, width, height)


def pick(people: People, numbers: Sequence[int]) -> People:
    """Pick the people of these numbers (from 0), in this order."""
    index = torch.as_tensor(numbers, dtype=torch.long)
    return people_from_points((points[index] for points in people[:5]), people.width, people.height)


def merge(first: People, second: People) -> People:
    """Put two groups of people onto the first one's canvas, which the second one's covers."""
    second = cover_canvas(second, first.width, first.height)
    parts = (torch.cat(pair) for pair in zip(first[:5], second[:5], strict=True))
    return people_from_points(parts, first.width, first.height)


def keep_confident(people: People, minimum: float = MIN_CONFIDENCE) -> People:
    """Drop every point below this confidence: it becomes zeros, which means missing.

    People without a remaining point are left out.
    """
    parts = (points * (points[..., 2:] >= minimum) for points in people[:5])
    confident = people_from_points(parts, people.width, people.height)
    remaining = torch.cat(confident[:5], dim=1)[..., 2].any(1)
    return pick(confident, remaining.nonzero().flatten().tolist())


def left_to_right(people: People, minimum: float = 0.0) -> list[int]:
    """Order the people's numbers (from 0) by the middle of their points, leftmost first.

    Points below the minimum confidence do not count; people without another point are left out.
    """
    points = torch.cat(people[:5], dim=1)
    certain = (points[..., 2] > 0) & (points[..., 2] >= minimum)
    middle = (points[..., 0] * certain).sum(1) / certain.sum(1).clamp(min=1)
    order = middle.argsort(stable=True).tolist()
    return [number for number in order if certain[number].any()]


def parse_numbers(text: str, people: int) -> list[int]:
    """Read a text such as "1, 3" or "2-4", which counts from 1, as numbers from 0, each once.

    people: how many there are. Raises ValueError when the text is not of this form or names a
    person who does not exist.
    """
    numbering = f"the pose has {people} people, numbered 1 to {people} from left to right"
    numbers: dict[int, None] = {}
    for item in text.replace(";", ",").split(","):
        match = re.fullmatch(r"\s*(\d{1,6})\s*(?:-\s*(\d{1,6})\s*)?", item)
        if not match:
            raise ValueError(f"'{text}' is not a list of numbers such as 1, 3 or 2-4; {numbering}.")
        first, last = int(match[1]), int(match[2] or match[1])
        if not 1 <= first <= last <= people:
            raise ValueError(f"there is no person {item.strip()}: {numbering}.")
        numbers |= dict.fromkeys(range(first - 1, last))
    return list(numbers)


# reading and writing


def read_poses(poses: Any) -> list[People]:
    """Read all frames of a POSE_KEYPOINT value, or of a file's content, into tensors in pixels.

    pose_formats.py lists the formats, pose_points.py the ways to write points. People without one
    known point are left out; points of low confidence are kept (keep_confident drops them).

    Raises ValueError that says which frame is wrong, what was found and what is expected.
    """
    return [_stack(people, *size) for people, size in pose_formats.read_frames(poses)]


def read_frame(frame: Any) -> People:
    """Read one OpenPose frame, as read_poses does."""
    return read_poses([frame])[0]


def _stack(people: list[list[Tensor]], width: int, height: int) -> People:
    if not people:
        return no_people(width, height)
    parts = (torch.stack(part) for part in zip(*people, strict=True))
    return people_from_points(parts, width, height)


def write_frame(people: People) -> dict[str, Any]:
    """Write the people as an OpenPose frame in pixels; the inverse of read_frame.

    Body, hands and face are always written, as zeros where missing: the host's SDPose nodes need
    the keys, and controlnet_aux takes zero confidence for missing. Feet are written where visible.
    """
    persons = []
    for number in range(count(people)):
        person = {
            key: getattr(people, field)[number].flatten().tolist()
            for field, (key, _) in POINT_GROUPS.items()
        }
        if not people.foot[number, :, 2].any():
            del person["foot_keypoints_2d"]
        persons.append(person)
    frame = {"people": persons, "canvas_width": people.width, "canvas_height": people.height}
    # points far outside are meant here, and must not be taken for a mistake in the canvas
    size = people.width, people.height
    swapped = look_swapped(people.body.flatten(0, 1), size)
    outside = swapped or any(are_far_away(part, size) for field in people[:5] for part in field)
    return frame | ({POINTS_OUTSIDE: True} if outside else {})


def load_poses(path: Path) -> list[People]:
    """Load all frames of a JSON file. Raises ValueError that says what is wrong with it."""
    try:
        return read_poses(_read_json(path))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def _read_json(path: Path) -> Any:
    """Read a JSON file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark."""
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= LARGEST_FILE else b""
    except OSError as error:
        raise ValueError(f"the file can not be read ({reason(error)}).") from None
    if size > LARGEST_FILE:
        sizes = f"{size / 1e6:.0f} MB; a pose has at most {LARGEST_FILE / 1e6:.0f} MB"
        raise ValueError(f"the file has {sizes}.")
    try:
        return json.loads(content)
    except UnicodeDecodeError:
        raise ValueError(
            "this is not a JSON file in UTF-8, but holds other bytes: an image or an archive? "
            "Choose the .json file of a pose."
        ) from None
    except RecursionError:
        raise ValueError("this is not a pose: its lists are nested too deep.") from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"this is not a JSON file: it can be read to {json_place(error)}. It may have been cut "
            "short, or edited by hand: save the pose again."
        ) from None


def save_poses(poses: Sequence[People], folder: Path, name: str, counter: int) -> Path:
    """Save the frames as folder/name_counter_.json and return the path.

    The counter goes on to the first free number. Nothing is ever overwritten, and no half-written
    file is left behind.
    """
    text = json.dumps([write_frame(people) for people in poses])
    while True:
        path = folder / f"{name}_{counter:05}_.json"
        try:
            path.touch(exist_ok=False)  # reserves the name
            break
        except FileExistsError:
            counter += 1
    partial_path = folder / f".{path.name}.{uuid4().hex}"
    try:
        partial_path.write_text(text, encoding="utf-8")
        os.replace(partial_path, path)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        partial_path.unlink(missing_ok=True)
    return path
