"""OpenPose people: reading and writing frames, the picture a ControlNet reads, a mask per person.

A frame is the ecosystem's OpenPose JSON object. Point order and colours are OpenPose's (COCO-18
body, 21 points per hand, 70 of the face, 6 of the feet), as pose ControlNets were trained on.
"""

import colorsys
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


def hues(n: int) -> list[tuple[int, ...]]:
    """n colours around the circle, 0..255."""
    return [tuple(round(255 * c) for c in colorsys.hsv_to_rgb(i / n, 1, 1)) for i in range(n)]


JOINT_COLORS = hues(18)
LIMB_COLORS = [tuple(int(0.6 * c) for c in color) for color in JOINT_COLORS[:17]]
BONE_COLORS = hues(20)
HAND_COLOR = (0, 0, 255)
FACE_COLOR = (255, 255, 255)

# field of People -> key in the JSON, number of points
PARTS = {
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
    """The people of one picture: points of (x px, y px, confidence), zeros where missing.

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


def people_of(parts: Iterable[Tensor], width: int, height: int) -> People:
    """People from (body, left_hand, right_hand, face, foot) and the canvas."""
    body, left_hand, right_hand, face, foot = parts
    return People(body, left_hand, right_hand, face, foot, width, height)


def no_people(width: int, height: int) -> People:
    """An empty canvas."""
    return people_of((torch.zeros(0, n, 3) for _, n in PARTS.values()), width, height)


def count(people: People) -> int:
    """The number of people."""
    return people.body.shape[0]


def on_canvas(people: People, width: int, height: int) -> People:
    """The same people with their points scaled to another canvas size."""
    scale = torch.tensor([width / people.width, height / people.height, 1.0])
    return people_of((points * scale for points in people[:5]), width, height)


def covering(people: People, width: int, height: int) -> People:
    """The same people scaled to cover another canvas, and centred on it: what the host does with a
    hint whose proportions are not the picture's.
    """
    scale = max(width / people.width, height / people.height)
    middle = torch.tensor([people.width, people.height, 0.0]) / 2
    shift = torch.tensor([width, height, 0.0]) / 2
    grow = torch.tensor([scale, scale, 1.0])
    parts = ((points - middle) * grow + shift for points in people[:5])
    parts = (points * (old[..., 2:] > 0) for points, old in zip(parts, people[:5], strict=True))
    return people_of(parts, width, height)


def pick(people: People, which: Sequence[int]) -> People:
    """The people of these numbers (from 0), in this order."""
    index = torch.as_tensor(which, dtype=torch.long)
    return people_of((points[index] for points in people[:5]), people.width, people.height)


def merge(first: People, second: People) -> People:
    """Both groups on the first one's canvas; the second group is scaled to it."""
    second = on_canvas(second, first.width, first.height)
    parts = (torch.cat(pair) for pair in zip(first[:5], second[:5], strict=True))
    return people_of(parts, first.width, first.height)


def confident(people: People, minimum: float) -> People:
    """The people with every point below this confidence made missing."""
    parts = (points * (points[..., 2:] >= minimum) for points in people[:5])
    return people_of(parts, people.width, people.height)


def left_to_right(people: People) -> list[int]:
    """The people's numbers ordered by the middle of their known points, leftmost first."""
    points = torch.cat(people[:5], dim=1)
    known = points[..., 2] > 0
    middle = (points[..., 0] * known).sum(1) / known.sum(1).clamp(min=1)
    return middle.argsort(stable=True).tolist()


def parse_numbers(text: str, people: int) -> list[int]:
    """Numbers from 0 of a text such as "1, 3" or "2-4" counting from 1; each number once.

    Raises ValueError when it is not such a text or names a person who is not there.
    """
    there = f"the pose has {people} people, numbered 1 to {people} from left to right"
    numbers: dict[int, None] = {}
    for item in text.replace(";", ",").split(","):
        match = re.fullmatch(r"\s*(\d{1,6})\s*(?:-\s*(\d{1,6})\s*)?", item)
        if not match:
            raise ValueError(f"'{text}' is not a list of numbers such as 1, 3 or 2-4; {there}.")
        first, last = int(match[1]), int(match[2] or match[1])
        if not 1 <= first <= last <= people:
            raise ValueError(f"there is no person {item.strip()}: {there}.")
        numbers |= dict.fromkeys(range(first - 1, last))
    return list(numbers)


# reading and writing


def read_poses(poses: Any) -> list[People]:
    """All frames of a POSE_KEYPOINT value (a list of frames, or one frame alone).

    Raises ValueError saying which frame is wrong, what was found and what is expected.
    """
    frames = [poses] if isinstance(poses, dict) else poses
    if not isinstance(frames, list | tuple):
        raise ValueError(f"a pose is a list of OpenPose frames, but this is {_kind(poses)}.")
    if not frames:
        raise ValueError("the pose is an empty list: it needs one OpenPose frame per picture.")
    people = []
    for number, frame in enumerate(frames, 1):
        try:
            people.append(read_frame(frame))
        except ValueError as error:
            raise ValueError(f"frame {number} of {len(frames)}: {error}") from None
    return people


def read_frame(frame: Any) -> People:
    """One OpenPose frame as tensors in pixels.

    Reads what the host's SDPose nodes, controlnet_aux and OpenPose write: flat or nested point
    lists, parts that are missing, None, empty or [-1], faces of 68 or 70 points, BODY_25 bodies.
    A point is missing when its confidence is 0 or it lies at (-1, -1). People without one known
    point are left out.

    Coordinates count as 0..1 when none in the whole frame is farther than 4 from zero: points
    outside the canvas stay possible in both conventions, and no pixel pose is that small.

    Raises ValueError saying what was found and what is expected.
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
    return people_of(parts, width, height)


def write_frame(people: People) -> dict[str, Any]:
    """The people as an OpenPose frame in pixels; the inverse of read_frame.

    Body, hands and face are always written, as zeros where missing: the host's SDPose nodes need
    the keys, and controlnet_aux takes zero confidence for missing. Feet only where known.
    """
    persons = []
    for number in range(count(people)):
        person = {
            key: getattr(people, field)[number].flatten().tolist()
            for field, (key, _) in PARTS.items()
        }
        if not people.foot[number, :, 2].any():
            del person["foot_keypoints_2d"]
        persons.append(person)
    return {"people": persons, "canvas_width": people.width, "canvas_height": people.height}


def load_poses(path: Path) -> list[People]:
    """All frames of a JSON file. Raises ValueError saying what is wrong with it."""
    try:
        poses = json.loads(path.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path.name} is not a JSON file ({error}).") from None
    try:
        return read_poses(poses)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def save_poses(poses: Sequence[People], folder: Path, name: str, counter: int) -> Path:
    """Writes the frames to folder/name_counter_.json, counting on to the first free number.

    Nothing is ever overwritten, and no half-written file is left behind.
    """
    text = json.dumps([write_frame(people) for people in poses])
    while True:
        path = folder / f"{name}_{counter:05}_.json"
        try:
            path.touch(exist_ok=False)  # reserves the name
            break
        except FileExistsError:
            counter += 1
    part = folder / f".{path.name}.{uuid4().hex}"
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        part.unlink(missing_ok=True)
    return path


def _kind(value: Any) -> str:
    names = {type(None): "nothing", dict: "an object", list: "a list", str: "text"}
    return names.get(type(value), f"of the type {type(value).__name__}")


def _read_size(frame: dict[str, Any], key: str) -> int:
    size = frame.get(key)
    if isinstance(size, bool) or not isinstance(size, int | float) or not math.isfinite(size):
        raise ValueError(f"'{key}' must be the picture's size in pixels, but it is {_kind(size)}.")
    if not 1 <= size <= LARGEST_CANVAS:
        raise ValueError(f"'{key}' is {size}: it must be from 1 to {LARGEST_CANVAS} pixels.")
    return round(size)


def _read_person(person: Any, number: int) -> list[Tensor]:
    """[body, left_hand, right_hand, face, foot] of one person, each [n, 3], still unscaled."""
    if not isinstance(person, dict):
        raise ValueError(f"person {number} must be an object, but it is {_kind(person)}.")
    found = {
        field: _read_points(person.get(key), f"'{key}' of person {number}")
        for field, (key, _) in PARTS.items()
    }
    if len(found["body"]) == 25:
        if not len(found["foot"]):
            found["foot"] = found["body"][BODY_25_FEET]
        found["body"] = found["body"][list(BODY_25)]
    if len(found["face"]) == 68:  # without the two pupils
        found["face"] = torch.cat([found["face"], torch.zeros(2, 3)])
    for field, (key, n) in PARTS.items():
        if not len(found[field]):
            found[field] = torch.zeros(n, 3)
        elif len(found[field]) != n:
            raise ValueError(
                f"'{key}' of person {number} has {len(found[field])} points, but OpenPose has {n}."
            )
    return [found[field] for field in PARTS]


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
    known = (points[:, 2] > 0) & ~(points[:, :2] == -1).all(1)
    points = torch.where(known[:, None], points, 0.0)
    return torch.cat([points[:, :2], points[:, 2:].clamp(max=1)], dim=1)


# drawing


def auto_line_width(width: int, height: int) -> float:
    """Half width of a limb in pixels: 4 at a short side of 512, as in training; at least 1.5."""
    return max(1.5, 4 * min(width, height) / 512)


def draw_people(
    people: People,
    width: int,
    height: int,
    *,
    hands: bool = True,
    face: bool = True,
    line_width: float | None = None,
) -> Tensor:
    """The OpenPose picture of these people: [height, width, 3] in 0..1 on black.

    Limbs are ellipses in the joints' colours times 0.6, joints full-colour discs over them, hands
    hue-ramped bones with blue dots, faces white dots (Cao et al. 2019, as drawn for ControlNet).
    line_width: half the width of a limb in pixels of this picture; None: auto_line_width.
    Points are scaled from the people's canvas to width x height.
    """
    import cv2
    import numpy as np

    half = line_width or auto_line_width(width, height)
    canvas = np.zeros((height, width, 3), np.uint8)
    subpixels = 4  # bits: at 192 pixels a half pixel is a sixth of a limb
    unit = 1 << subpixels
    far = float(1 << 24)  # keeps points far outside within OpenCV's integers

    def disc(point: Any, radius: float, color: tuple[int, ...]) -> None:
        x, y = (point * unit).clip(-far, far).astype(int).tolist()
        cv2.circle(canvas, (x, y), round(radius * unit), color, -1, shift=subpixels)

    def ellipses(points: Any, known: Any) -> None:
        ends = points[LIMBS, :]  # [17, 2, 2]
        center, axis = ends.mean(1, keepdims=True), (ends[:, 1:] - ends[:, :1]) / 2
        length = np.maximum(np.linalg.norm(axis, axis=2, keepdims=True), 1e-6)
        across = np.stack([-axis[..., 1], axis[..., 0]], -1) / length * half
        outline = center + axis * circle[:, :1] + across * circle[:, 1:]  # [17, steps, 2]
        outline = (outline * unit).round().clip(-far, far).astype(np.int32)
        for limb, (a, b) in enumerate(LIMBS):
            if known[a] and known[b]:
                cv2.fillConvexPoly(canvas, outline[limb], LIMB_COLORS[limb], shift=subpixels)

    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False, dtype=np.float32)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    parts = [points.cpu().numpy() for points in on_canvas(people, width, height)[:5]]
    for body, left, right, features, _ in zip(*parts, strict=True):
        ellipses(body[:, :2], body[:, 2] > 0)
        for point, color in zip(body, JOINT_COLORS, strict=True):
            if point[2] > 0:
                disc(point[:2], half, color)
        for hand in (left, right) if hands else ():
            ends = (hand[:, :2] * unit).clip(-far, far).astype(int).tolist()
            for (a, b), color in zip(BONES, BONE_COLORS, strict=True):
                if hand[a, 2] > 0 and hand[b, 2] > 0:
                    thick = max(1, round(half / 2))
                    cv2.line(canvas, ends[a], ends[b], color, thick, shift=subpixels)
            for point in hand[hand[:, 2] > 0]:
                disc(point[:2], half, HAND_COLOR)
        for point in features[features[:, 2] > 0] if face else ():
            disc(point[:2], 0.75 * half, FACE_COLOR)
    return torch.from_numpy(canvas).float().div(255)


def draw_over(image: Tensor, people: People) -> Tensor:
    """The people drawn over a darkened copy of a picture [height, width, 3 or more] in 0..1."""
    drawn = draw_people(people, image.shape[1], image.shape[0])
    return torch.where(drawn.amax(-1, keepdim=True) > 0, drawn, 0.6 * image[..., :3].cpu().float())


# masks

# Length of a limb as a share of the standing height (Drillis and Contini 1966; head after OpenPose)
SHARES = {
    (R_SHOULDER, L_SHOULDER): 0.22,
    (NECK, R_HIP): 0.29,
    (NECK, L_HIP): 0.29,
    (R_SHOULDER, R_ELBOW): 0.186,
    (L_SHOULDER, L_ELBOW): 0.186,
    (R_ELBOW, R_WRIST): 0.146,
    (L_ELBOW, L_WRIST): 0.146,
    (R_HIP, R_KNEE): 0.245,
    (L_HIP, L_KNEE): 0.245,
    (R_KNEE, R_ANKLE): 0.246,
    (L_KNEE, L_ANKLE): 0.246,
    (NECK, NOSE): 0.13,
    (R_EAR, L_EAR): 0.09,
    (R_EYE, L_EYE): 0.04,
}
HAND_SHARE = 0.108  # wrist to the tip of the middle finger
TORSO = (
    (R_SHOULDER, L_SHOULDER),
    (R_SHOULDER, R_HIP),
    (L_SHOULDER, L_HIP),
    (R_HIP, L_HIP),
    (NECK, R_HIP),
    (NECK, L_HIP),
    (R_SHOULDER, L_HIP),
    (L_SHOULDER, R_HIP),
)
HEAD = ((NECK, NOSE), (NOSE, R_EYE), (NOSE, L_EYE), (R_EYE, R_EAR), (L_EYE, L_EAR))
# half thickness as a share of the standing height
FEET = ((R_ANKLE, 18), (L_ANKLE, 19))  # the points that _with_feet adds
FOOT_SHARE = 0.2  # of the shin, how far a foot goes on below the ankle
THICKNESS = {"head": 0.065, "torso": 0.05, "limb": 0.035, "foot": 0.04, "hand": 0.012}


def figure_heights(people: People) -> Tensor:
    """Standing height of each person in pixels [N], from the visible limbs.

    Foreshortening only shortens a limb, so the largest of the limbs' estimates is taken: seated,
    cropped and turned people get the height they would stand at. 0 for people without two points.
    """
    pairs = torch.tensor(list(SHARES))
    shares = torch.tensor(list(SHARES.values()))
    ends = people.body[:, pairs]  # [N, pairs, 2, 3]
    known = (ends[..., 2] > 0).all(-1)
    heights = (ends[:, :, 0, :2] - ends[:, :, 1, :2]).norm(dim=-1) / shares * known
    estimates = [heights]
    for hand in (people.left_hand, people.right_hand):
        known = (hand[:, 0, 2] > 0) & (hand[:, 12, 2] > 0)
        length = (hand[:, 0, :2] - hand[:, 12, :2]).norm(dim=-1)
        estimates.append((length / HAND_SHARE * known)[:, None])
    return torch.cat(estimates, dim=1).amax(1)


def person_masks(
    people: People, width: int, height: int, *, dilation: float, feather: float
) -> Tensor:
    """One mask per person: [N, height, width] in 0..1, the body thick around its limbs.

    dilation: how far the mask reaches beyond the body; feather: standard deviation of the Gaussian
    that softens its edge. Both are shares of that person's standing height (figure_heights), so a
    figure far away gets a narrow margin. Masks of people who overlap overlap.
    """
    people = on_canvas(people, width, height)
    heights = figure_heights(people).tolist()
    masks = torch.zeros(count(people), height, width)
    for number, tall in enumerate(heights):
        tall = tall or 0.2 * min(width, height)  # a lone point still shows
        tall = min(tall, 2.0 * max(width, height))  # a stray point makes nobody a giant
        margin = math.ceil(3 * feather * tall)  # the blur sees the body beyond the picture's edge
        shape = torch.zeros(height + 2 * margin, width + 2 * margin)
        for start, end, thickness in _capsules(pick(people, [number])):
            fill_capsule(shape, start + margin, end + margin, (thickness + dilation) * tall)
        shape = _blur(shape, feather * tall)
        masks[number] = shape[margin : margin + height, margin : margin + width]
    return masks.clamp(0, 1)


def everybody(masks: Tensor) -> Tensor:
    """The union [height, width] of person masks [N, height, width]."""
    return masks.amax(0) if len(masks) else masks.new_zeros(masks.shape[1:])


def _capsules(person: People) -> list[tuple[Tensor, Tensor, float]]:
    """(end, end, half thickness as a share of the height) of every visible limb of one person."""
    body = with_hips(person.body[0])
    limbs = [limb for limb in LIMBS if limb not in HEAD]
    groups = [(body, HEAD, "head"), (body, TORSO, "torso"), (body, limbs, "limb")]
    groups += [(hand[0], BONES, "hand") for hand in (person.left_hand, person.right_hand)]
    groups += [(_with_feet(person.body[0]), FEET, "foot")]
    capsules = [
        (points[a, :2], points[b, :2], THICKNESS[kind])
        for points, pairs, kind in groups
        for a, b in pairs
        if points[a, 2] > 0 and points[b, 2] > 0
    ]
    points = torch.cat([body, person.left_hand[0], person.right_hand[0], person.foot[0]])
    points = points[points[:, 2] > 0]
    return capsules + [(point[:2], point[:2], THICKNESS["hand"]) for point in points]


def _with_feet(body: Tensor) -> Tensor:
    """The body with both ankles' points followed by where the feet end: skeletons of 18 points end
    at the ankles, and shoes would be nobody's.
    """
    ankles, knees = body[[R_ANKLE, L_ANKLE]], body[[R_KNEE, L_KNEE]]
    ends = ankles + FOOT_SHARE * (ankles - knees)
    ends[:, 2] = torch.minimum(ankles[:, 2], knees[:, 2])
    return torch.cat((body, ends))


def with_hips(body: Tensor) -> Tensor:
    """The body with hips guessed where both are missing, so that a half figure keeps its chest."""
    if (body[[R_HIP, L_HIP], 2] > 0).any() or not (body[[R_SHOULDER, L_SHOULDER], 2] > 0).all():
        return body
    right, left = body[R_SHOULDER, :2], body[L_SHOULDER, :2]
    down = torch.stack([right[1] - left[1], left[0] - right[0]])  # across the shoulders
    up = body[NOSE, :2] - (right + left) / 2 if body[NOSE, 2] > 0 else torch.tensor([0.0, -1.0])
    down = torch.where((down * up).sum() > 0, -down, down)
    down = down * (SHARES[NECK, R_HIP] / SHARES[R_SHOULDER, L_SHOULDER])
    body = body.clone()
    body[R_HIP, :2], body[L_HIP, :2] = right + down, left + down
    body[[R_HIP, L_HIP], 2] = 1
    return body


def fill_capsule(shape: Tensor, start: Tensor, end: Tensor, radius: float) -> None:
    """Sets the pixels within radius of the segment to 1, in place; [h, w], points (x, y)."""
    low = (torch.minimum(start, end) - radius).floor().tolist()
    high = (torch.maximum(start, end) + radius).ceil().tolist()
    x0, x1 = max(0, int(low[0])), min(shape.shape[1], int(high[0]) + 1)
    y0, y1 = max(0, int(low[1])), min(shape.shape[0], int(high[1]) + 1)
    if x0 >= x1 or y0 >= y1:
        return
    grid_y, grid_x = torch.meshgrid(torch.arange(y0, y1), torch.arange(x0, x1), indexing="ij")
    offset = torch.stack([grid_x, grid_y], -1) - start  # [y, x, 2]
    axis = end - start
    along = ((offset @ axis) / axis.square().sum().clamp(min=1e-6)).clamp(0, 1)
    distance = (offset - along[..., None] * axis).norm(dim=-1)
    shape[y0:y1, x0:x1][distance <= radius] = 1


def _blur(image: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian of an image [h, w], edges repeated."""
    radius = math.ceil(3 * sigma)
    if radius == 0:
        return image
    steps = torch.arange(-radius, radius + 1) / sigma
    kernel = torch.exp(-0.5 * steps.square())
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    image = image[None, None]
    for weight, pad in ((kernel, (radius, radius, 0, 0)), (kernel.mT, (0, 0, radius, radius))):
        image = torch.nn.functional.conv2d(
            torch.nn.functional.pad(image, pad, mode="replicate"), weight
        )
    return image[0, 0]
