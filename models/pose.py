"""Read, write and rearrange people in the OpenPose format.

A frame is the OpenPose JSON object of one image, as the host and other packs exchange it. The
points are in OpenPose's order: COCO-18 for the body, 21 per hand, 70 of the face, 6 of the feet.
"""

import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import torch
from torch import Tensor

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


# field of People -> key in the JSON, number of points
POINT_GROUPS = {
    "body": ("pose_keypoints_2d", 18),
    "left_hand": ("hand_left_keypoints_2d", 21),
    "right_hand": ("hand_right_keypoints_2d", 21),
    "face": ("face_keypoints_2d", 70),
    "foot": ("foot_keypoints_2d", 6),
}
BODY_25 = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)  # without its mid-hip
BODY_25_FEET = slice(19, 25)  # the order of foot_keypoints_2d already

LARGEST_CANVAS = 16384  # the host's own limit
NORMALIZED_REACH = 4.0


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


def keep_confident(people: People, minimum: float) -> People:
    """Drop every point below this confidence: it becomes zeros, which means missing."""
    parts = (points * (points[..., 2:] >= minimum) for points in people[:5])
    return people_from_points(parts, people.width, people.height)


def left_to_right(people: People) -> list[int]:
    """Order the people's numbers (from 0) by the middle of their visible points, leftmost first."""
    points = torch.cat(people[:5], dim=1)
    visible = points[..., 2] > 0
    middle = (points[..., 0] * visible).sum(1) / visible.sum(1).clamp(min=1)
    return middle.argsort(stable=True).tolist()


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
    """Read all frames of a POSE_KEYPOINT value: a list of frames, or a single frame.

    Raises ValueError that says which frame is wrong, what was found and what is expected.
    """
    frames = [poses] if isinstance(poses, dict) else poses
    if not isinstance(frames, list | tuple):
        raise ValueError(f"a pose is a list of OpenPose frames, but this is {_kind(poses)}.")
    if not frames:
        raise ValueError("the pose is an empty list: it needs one OpenPose frame per image.")
    people = []
    for number, frame in enumerate(frames, 1):
        try:
            people.append(read_frame(frame))
        except ValueError as error:
            raise ValueError(f"frame {number} of {len(frames)}: {error}") from None
    return people


def read_frame(frame: Any) -> People:
    """Read one OpenPose frame into tensors in pixels.

    Accepts what the host's SDPose nodes, controlnet_aux and OpenPose write: flat or nested point
    lists, parts that are missing, None, empty or [-1], faces of 68 or 70 points, BODY_25 bodies.
    A point is missing when its confidence is 0 or it lies at (-1, -1). People without one known
    point are left out.

    Coordinates count as 0..1 when none in the frame is farther than 4 from zero: points
    outside the canvas stay possible in both conventions, and no pixel pose is that small.

    Raises ValueError that says what was found and what is expected.
    """
    if not isinstance(frame, dict):
        raise ValueError(f"a frame is an object with 'people', but this is {_kind(frame)}.")
    people = frame.get("people")
    if people is None and frame.get("animals") is not None:
        raise ValueError("this is a pose of animals; only people (OpenPose) can be used.")
    if not isinstance(people, list | tuple):
        raise ValueError(f"'people' must be a list of persons, but it is {_kind(people)}.")
    width, height = (_read_size(frame, key) for key in ("canvas_width", "canvas_height"))
    persons = [_read_person(person, number) for number, person in enumerate(people, 1)]
    persons = [person for person in persons if any((part[:, 2] > 0).any() for part in person)]
    if not persons:
        return no_people(width, height)
    parts = [torch.stack(part) for part in zip(*persons, strict=True)]
    if max(part[..., :2].abs().max().item() for part in parts) <= NORMALIZED_REACH:
        parts = [part * torch.tensor([width, height, 1.0]) for part in parts]
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
    return {"people": persons, "canvas_width": people.width, "canvas_height": people.height}


def load_poses(path: Path) -> list[People]:
    """Load all frames of a JSON file. Raises ValueError that says what is wrong with it."""
    try:
        poses = json.loads(path.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path.name} is not a JSON file ({error}).") from None
    try:
        return read_poses(poses)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


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


def _kind(value: Any) -> str:
    names = {type(None): "nothing", dict: "an object", list: "a list", str: "text"}
    return names.get(type(value), f"of the type {type(value).__name__}")


def _read_size(frame: dict[str, Any], key: str) -> int:
    size = frame.get(key)
    if isinstance(size, bool) or not isinstance(size, int | float) or not math.isfinite(size):
        raise ValueError(f"'{key}' must be the image's size in pixels, but it is {_kind(size)}.")
    if not 1 <= size <= LARGEST_CANVAS:
        raise ValueError(f"'{key}' is {size}: it must be from 1 to {LARGEST_CANVAS} pixels.")
    return round(size)


def _read_person(person: Any, number: int) -> list[Tensor]:
    """[body, left_hand, right_hand, face, foot] of one person, each [n, 3], still unscaled."""
    if not isinstance(person, dict):
        raise ValueError(f"person {number} must be an object, but it is {_kind(person)}.")
    groups = {
        field: _read_points(person.get(key), f"'{key}' of person {number}")
        for field, (key, _) in POINT_GROUPS.items()
    }
    if len(groups["body"]) == 25:
        if not len(groups["foot"]):
            groups["foot"] = groups["body"][BODY_25_FEET]
        groups["body"] = groups["body"][list(BODY_25)]
    if len(groups["face"]) == 68:  # without the two pupils
        groups["face"] = torch.cat([groups["face"], torch.zeros(2, 3)])
    for field, (key, n) in POINT_GROUPS.items():
        if not len(groups[field]):
            groups[field] = torch.zeros(n, 3)
        elif len(groups[field]) != n:
            raise ValueError(
                f"'{key}' of person {number} has {len(groups[field])} points, but OpenPose has {n}."
            )
    return [groups[field] for field in POINT_GROUPS]


def _read_points(values: Any, name: str) -> Tensor:
    """[n, 3] of a flat or nested list; [0, 3] of nothing. Missing points become zeros."""
    if values is None:
        return torch.zeros(0, 3)
    try:
        points = torch.as_tensor(values, dtype=torch.float32)
    except (ValueError, TypeError, RuntimeError):
        raise ValueError(f"{name} must be a list of numbers x, y, confidence.") from None
    if points.numel() == 0 or (points.numel() == 1 and points.item() == -1):
        return torch.zeros(0, 3)
    if points.numel() % 3:
        raise ValueError(f"{name} has {points.numel()} numbers, which is not three per point.")
    points = points.reshape(-1, 3)
    if not points.isfinite().all():
        raise ValueError(f"{name} holds a number that is infinite or not a number.")
    visible = (points[:, 2] > 0) & ~(points[:, :2] == -1).all(1)
    points = torch.where(visible[:, None], points, 0.0)
    return torch.cat([points[:, :2], points[:, 2:].clamp(max=1)], dim=1)
