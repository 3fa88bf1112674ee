"""Read the files and values in which tools keep poses, and bring each to the points of OpenPose.

Read are OpenPose's own files (BODY_25, COCO-18 and the older key names), what controlnet_aux, the
host's SDPose nodes and the pose editors write, COCO's and COCO-WholeBody's annotations and
results, AlphaPose's results (17 and 26 points) and MMPose's instances. Anything else is refused.
"""

import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .body_layouts import BODIES, fill, split_body
from .plain_words import kind
from .pose_points import AGAIN, are_fractions, extent, look_swapped, read_points, to_pixels

log = logging.getLogger(__name__)

LARGEST_CANVAS = 16384  # the host's own limit
POINTS_OUTSIDE = "points_outside"  # key of a frame: true if points far outside are meant

# part of a person -> its key, its number of points
POINT_GROUPS = {
    "body": ("pose_keypoints_2d", 18),
    "left_hand": ("hand_left_keypoints_2d", 21),
    "right_hand": ("hand_right_keypoints_2d", 21),
    "face": ("face_keypoints_2d", 70),
    "foot": ("foot_keypoints_2d", 6),
}
# part -> the keys it has in other tools: OpenPose up to 1.2, COCO and MMPose, COCO-WholeBody
OTHER_KEYS = {
    "body": ("pose_keypoints", "keypoints"),
    "left_hand": ("hand_left_keypoints", "lefthand_kpts"),
    "right_hand": ("hand_right_keypoints", "righthand_kpts"),
    "face": ("face_keypoints", "face_kpts"),
    "foot": ("foot_kpts",),
}
PERSON_KEYS = {key for key, _ in POINT_GROUPS.values()}.union(*OTHER_KEYS.values())
FRAME_KEYS = {"people", "animals", "canvas_width", "canvas_height", "width", "height"}

COUNTS = {
    "body": BODIES,
    "left_hand": (21,),
    "right_hand": (21,),
    "face": range(56, 72),
    "foot": (6,),
}


class Frame(NamedTuple):
    """Hold the people of one frame as the parts of POINT_GROUPS [n, 3] each, in pixels, and the
    canvas (width, height), or None where it is not named.
    """

    people: list[list[Tensor]]
    size: tuple[int, int] | None


def read_frames(poses: Any) -> list[tuple[list[list[Tensor]], tuple[int, int]]]:
    """Read a value or a file's content as frames of (people, canvas); see Frame.

    Frames without a canvas share one, the extent of their points, and a warning says so.
    Raises ValueError that says which frame is wrong, what was found and what is expected.
    """
    objects = list_frames(poses)
    frames = []
    for number, value in enumerate(objects, 1):
        try:
            frames.append(_read_frame(value))
        except ValueError as error:
            place = f"frame {number} of {len(objects)}: " if len(objects) > 1 else ""
            raise ValueError(f"{place}{error}") from None
    shared = (0, 0) if all(frame.size for frame in frames) else _shared_canvas(frames)
    return [(frame.people, frame.size or shared) for frame in frames]


# which frames a value holds


def list_frames(poses: Any) -> list[Any]:
    """List the frames of a value: objects with 'people' and, mostly, a canvas.

    Raises ValueError if it is neither such an object nor a list.
    """
    if isinstance(poses, dict):
        return _frames_of_object(poses)
    if not isinstance(poses, list | tuple):
        raise ValueError(f"a pose is a list of OpenPose frames, but this is {kind(poses)}. {AGAIN}")
    if not poses:
        raise ValueError(f"the pose is an empty list, without a frame for an image. {AGAIN}")
    if all(_is_person(value) for value in poses):
        return _group_by_image(poses)
    frames: list[Any] = []
    for value in poses:
        if isinstance(value, list | tuple):
            is_people = all(_is_person(item) for item in value)
            frames.extend([{"people": value}] if is_people else value)
        else:
            frames.append(value)
    return frames


def _frames_of_object(poses: dict[str, Any]) -> list[Any]:
    if isinstance(poses.get("annotations"), list):
        return _coco_frames(poses["annotations"], poses.get("images"))
    for key in ("instance_info", "predictions"):  # of MMPose's files, and of its inferencer
        if isinstance(poses.get(key), list):
            return [_mmpose_frame(frame) for frame in list_frames(poses[key])]
    if _is_person(poses):
        return [{"people": [poses]}]
    return [poses]


def _mmpose_frame(frame: Any) -> Any:
    instances = frame.get("instances") if isinstance(frame, dict) else None
    return frame if instances is None else {"people": instances}


def _is_person(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and not FRAME_KEYS & value.keys()
        and bool(PERSON_KEYS & value.keys())
    )


def _group_by_image(people: Iterable[dict[str, Any]]) -> list[Any]:
    """Make one frame per 'image_id' of a flat list of people, and a single one without it."""
    frames: dict[Any, list[Any]] = {}
    for person in people:
        frames.setdefault(str(person.get("image_id")), []).append(person)
    return [{"people": persons} for persons in frames.values()]


def _coco_frames(annotations: list[Any], images: Any) -> list[Any]:
    """Make one frame per image of COCO's annotations, with the image's size as canvas."""
    people = [a for a in annotations if isinstance(a, dict) and "keypoints" in a]
    if annotations and not people:
        raise ValueError(
            "these COCO annotations have no 'keypoints': only those of people do. Save the "
            "annotations of people's keypoints."
        )
    if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
        return _group_by_image(people)
    unknown = {str(a.get("image_id")) for a in people} - {str(i.get("id")) for i in images}
    if unknown:
        raise ValueError(
            f"the annotations name an image {min(unknown)}, which 'images' lacks. {AGAIN}"
        )
    by_image: dict[str, list[Any]] = {str(image.get("id")): [] for image in images}
    for annotation in people:
        by_image[str(annotation.get("image_id"))].append(annotation)
    return [
        {
            "people": by_image[str(image.get("id"))],
            "canvas_width": image.get("width"),
            "canvas_height": image.get("height"),
        }
        for image in images
    ]


# one frame


def _read_frame(frame: Any) -> Frame:
    if not isinstance(frame, dict):
        raise ValueError(f"a frame is an object with 'people', but this is {kind(frame)}. {AGAIN}")
    people = [_read_person(person, n) for n, person in enumerate(_list_people(frame), 1)]
    size = _read_size(frame)
    outside = frame.get(POINTS_OUTSIDE) is True
    if size and not outside:
        _refuse_swapped([parts[0] for parts in people], size)
    people = [_to_pixels(parts, size, number, outside) for number, parts in enumerate(people, 1)]
    return Frame([parts for parts in people if _is_visible(parts)], size)


def _is_visible(parts: Iterable[Tensor]) -> bool:
    return any((part[:, 2] > 0).any() for part in parts)


def _list_people(frame: dict[str, Any]) -> list[Any]:
    people = frame.get("people")
    if not people and frame.get("animals") is not None:
        raise ValueError("this is a pose of animals; only people (OpenPose) can be used.")
    if "people" not in frame and isinstance(frame.get("keypoints"), list):
        return _people_of_points(frame["keypoints"])
    if "people" in frame and people is None:
        return []
    if not isinstance(people, list | tuple):
        problem = f"it is {kind(people)}" if people is not None else _keys_instead(frame)
        raise ValueError(f"'people' must be a list of persons, but {problem}. {AGAIN}")
    return list(people)


def _keys_instead(frame: dict[str, Any]) -> str:
    """Say what an object without 'people' has instead."""
    if "bodies" in frame:
        return (
            "there are 'bodies': DWPose's own form has no canvas; connect the POSE_KEYPOINT output "
            "of its node, or save that"
        )
    keys = ", ".join(f"'{key:.20}'" for key in list(frame)[:5])
    return f"it is missing; there are {keys}" if keys else "the object is empty"


def _people_of_points(keypoints: list[Any]) -> list[Any]:
    """Split the 'keypoints' of the older pose editors: 18 points per person, or a list of them."""
    first = next((value for value in keypoints if value), None)
    if isinstance(first, list) and first and isinstance(first[0], list | dict | None):
        return keypoints
    if isinstance(first, list | dict) and len(keypoints) % 18 == 0:
        return [keypoints[start : start + 18] for start in range(0, len(keypoints), 18)]
    return [keypoints] if keypoints else []


def _read_size(frame: dict[str, Any]) -> tuple[int, int] | None:
    """Read the canvas (width, height); None without one."""
    names = ("canvas_width", "canvas_height"), ("width", "height")
    sizes = []
    for pair in names:
        values = [frame.get(key) for key in pair]
        if values == [None, None]:
            continue
        width, height = (_read_side(value, key) for value, key in zip(values, pair, strict=True))
        sizes.append((width, height))
    if len(set(sizes)) > 1:
        raise ValueError(
            f"'canvas_width' and 'canvas_height' are {sizes[0][0]} x {sizes[0][1]}, but 'width' "
            f"and 'height' are {sizes[1][0]} x {sizes[1][1]}: leave one pair out."
        )
    return sizes[0] if sizes else None


def _read_side(value: Any, key: str) -> int:
    if hasattr(value, "item"):
        value = value.item()
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        side = float(value)
        if not abs(side) < float("inf"):
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError(
            f"'{key}' must be the image's size in pixels, but it is {kind(value)}."
        ) from None
    if not 1 <= side <= LARGEST_CANVAS:
        raise ValueError(f"'{key}' is {side:g}: it must be from 1 to {LARGEST_CANVAS} pixels.")
    return round(side)


# one person


def _read_person(person: Any, number: int) -> list[Tensor]:
    """Read the parts of one person, zeros where missing, in the file's own units."""
    if isinstance(person, list | tuple):
        person = {"keypoints": person}
    if not isinstance(person, dict):
        raise ValueError(f"person {number} must be an object, but it is {kind(person)}. {AGAIN}")
    if person and not PERSON_KEYS & person.keys():
        keys = ", ".join(f"'{key:.20}'" for key in list(person)[:5])
        raise ValueError(f"person {number} has {keys}, but no 'pose_keypoints_2d'. {AGAIN}")
    parts = {field: _read_part(person, field, number) for field in POINT_GROUPS}
    separate = {field: part for field, part in parts.items() if field != "body" and len(part)}
    parts = split_body(parts["body"]) | separate
    return [fill(parts.get(field), count) for field, (_, count) in POINT_GROUPS.items()]


def _read_part(person: dict[str, Any], field: str, number: int) -> Tensor:
    keys = (POINT_GROUPS[field][0], *OTHER_KEYS[field])
    key = next((key for key in keys if person.get(key) is not None), keys[0])
    scores = person.get("keypoint_scores") if key == "keypoints" else None
    return read_points(person.get(key), COUNTS[field], f"'{key}' of person {number}", scores)


# canvas and units


def _to_pixels(
    parts: Iterable[Tensor], size: tuple[int, int] | None, number: int, outside: bool
) -> list[Tensor]:
    """Bring every part of a person to pixels, each from its own unit."""
    keys = [key for key, _ in POINT_GROUPS.values()]
    return [
        to_pixels(part, size, f"'{key}' of person {number}", outside=outside)
        for part, key in zip(parts, keys, strict=True)
    ]


def _refuse_swapped(bodies: Iterable[Tensor], size: tuple[int, int]) -> None:
    in_pixels = [body for body in bodies if (body[:, 2] > 0).any() and not are_fractions(body)]
    if not in_pixels or not look_swapped(torch.cat(in_pixels), size):
        return
    raise ValueError(
        f"the canvas is {size[0]} x {size[1]}, but the bodies fit into {size[1]} x {size[0]}: its "
        f"width and height are swapped. Swap them, or, if the points outside are meant, add "
        f'"{POINTS_OUTSIDE}": true to the frame.'
    )


def _shared_canvas(frames: Iterable[Frame]) -> tuple[int, int]:
    """Take the canvas of the frames that do not name one from their points."""
    unknown = [frame for frame in frames if frame.size is None]
    parts = [part for frame in unknown for person in frame.people for part in person]
    size = extent(parts) or next((frame.size for frame in frames if frame.size), None)
    if size is None:
        raise ValueError(
            "there is no 'canvas_width' and 'canvas_height', and no point to take them from: add "
            "the image's size in pixels."
        )
    if max(size) > LARGEST_CANVAS:
        raise ValueError(
            f"there is no 'canvas_width' and 'canvas_height', and the points reach to {size[0]} x "
            f"{size[1]}, but a canvas has at most {LARGEST_CANVAS} pixels. {AGAIN}"
        )
    log.warning(
        "Vitruvian: the pose has no 'canvas_width' and 'canvas_height', so its canvas is the "
        "extent of its points, %d x %d.",
        *size,
    )
    return size
