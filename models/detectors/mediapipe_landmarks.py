"""Detect people with MediaPipe: its landmarks of bodies and hands as OpenPose points.

BlazePose (Bazarevsky et al. 2020) finds the most prominent person of an image. Further people are
found by covering those found so far with a flat color and looking again; then each one is looked
at again alone. Both of MediaPipe's interfaces are used: `solutions` (to 0.10.21, which brings its
weights) and Tasks (later versions, which read .task files).

An `array` here is an image as MediaPipe takes it: [h, w, 3] uint8. Landmarks of a body are [33, 3]
of (x px, y px, visibility).
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .. import body_masks, pixels, pose
from ..detect import MAX_PEOPLE, Box, register_detector
from ..pose import People

# OpenPose body and foot point -> MediaPipe landmark; the neck is made from the shoulders, and
# MediaPipe has no small toe
BODY = (0, None, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7)
FEET = (31, None, 29, 32, None, 30)
NOSE_AND_SHOULDERS = [0, 11, 12]  # MediaPipe landmarks
HEAD_AND_SHOULDERS = [
    pose.NOSE,
    pose.NECK,
    pose.R_SHOULDER,
    pose.L_SHOULDER,
    pose.R_EYE,
    pose.L_EYE,
    pose.R_EAR,
    pose.L_EAR,
]

LARGEST_SIDE = 2048  # larger images are searched at this size; the landmark network sees 256
POSE_TASKS = tuple(f"pose_landmarker_{size}.task" for size in ("full", "heavy", "lite"))
HAND_TASKS = ("hand_landmarker.task",)


class DetectedHand(NamedTuple):
    """A hand's points [21, 2] in pixels, and the side it looks like, which is often wrong."""

    points: Tensor
    side: str  # "left" or "right"


class Landmarker(Protocol):
    """What both interfaces of MediaPipe do; landmarks are in pixels."""

    def body(self, array: Any) -> Tensor | None:
        """Find the landmarks [33, 3] of the most prominent person, or None."""

    def hands(self, array: Any) -> list[DetectedHand]:
        """Find every hand."""


class LandmarkDetector:
    """A Detector on top of a Landmarker, which finds one person at a time."""

    def __init__(self, landmarker: Landmarker, *, hands: bool = True) -> None:
        self.landmarker, self.hands = landmarker, hands

    def detect(
        self,
        image: Tensor,
        *,
        boxes: Sequence[Box] = (),
        max_people: int = 4,
        min_confidence: float = pose.MIN_CONFIDENCE,
        on_look: Callable[[], None] | None = None,
    ) -> People:
        """Find the people in one image [height, width, 3] in 0..1, ordered from left to right.

        As Detector.detect. Points with less MediaPipe visibility than min_confidence are missing;
        the others get confidence 1, as controlnet_aux writes them and, when reading, demands.
        Hands in an image without a body count as one person.
        """
        array, scale = _to_array(image)
        boxes = [Box(*(round(edge * scale) for edge in box)) for box in boxes]
        landmarker = _Watched(self.landmarker, on_look) if on_look else self.landmarker
        bodies = _bodies_in(landmarker, array, boxes) if boxes else _search(landmarker, array)
        large_hands = landmarker.hands(array) if self.hands else []
        bodies = [b for b in bodies if not any(_is_inside(b, hand.points) for hand in large_hands)]
        people = to_people(bodies[:max_people], array, min_confidence)
        if self.hands:
            people = _add_hands(landmarker, array, people, large_hands)
        people = pose.pick(people, pose.left_to_right(people))
        return pose.scale_to_canvas(people, image.shape[1], image.shape[0])


@register_detector("MediaPipe")
@contextmanager
def open_detector(
    model_folders: Sequence[str], *, hands: bool = True
) -> Iterator[LandmarkDetector]:
    """Open MediaPipe: `solutions` where it exists, else Tasks with files from these folders.

    Raises ValueError naming the package or the file that is missing.
    """
    try:
        import mediapipe
    except ImportError as error:
        raise ValueError(
            f"the package mediapipe can not be imported ({error}): install it into ComfyUI's "
            "Python with `pip install mediapipe`, then restart ComfyUI."
        ) from None
    with ExitStack() as stack:
        landmarker: Landmarker
        if hasattr(mediapipe, "solutions"):
            landmarker = _Solutions(mediapipe, stack, hands)
        else:
            landmarker = _Tasks(mediapipe, stack, model_folders, hands)
        yield LandmarkDetector(landmarker, hands=hands)


def assign_hands(hands: Sequence[Tensor], people: People) -> People:
    """Give each hand [21, 2] to the nearest free wrist, closest pairs first.

    A hand's own left/right label is not used: it is wrong for mirrored and crossed hands. A hand
    farther from every wrist than its own length (0.108 of the standing height) stays unused.
    """
    left, right = people.left_hand.clone(), people.right_hand.clone()
    heights = body_masks.standing_heights(people).tolist()
    pairs = []
    for number, body in enumerate(people.body):
        for side, wrist in enumerate((body[pose.L_WRIST], body[pose.R_WRIST])):
            for index, hand in enumerate(hands):
                distance = (hand[0] - wrist[:2]).norm().item()
                if wrist[2] > 0 and distance <= body_masks.HAND_SHARE * heights[number]:
                    pairs.append((distance, index, number, side))
    hand_at: dict[tuple[int, int], int] = {}  # (person, side) -> hand
    for _, index, number, side in sorted(pairs):
        if (number, side) not in hand_at and index not in hand_at.values():
            hand_at[number, side] = index
            (left, right)[side][number] = torch.cat([hands[index], torch.ones(21, 1)], dim=1)
    return people._replace(left_hand=left, right_hand=right)


# from the image to landmarks of bodies


def _to_array(image: Tensor) -> tuple[Any, float]:
    """Copy an image into an array that is at most LARGEST_SIDE wide and high; returns its scale."""
    import numpy as np

    array = pixels.shrink(image, LARGEST_SIDE).mul(255).round().clamp(0, 255).byte().numpy()
    scale = min(1.0, LARGEST_SIDE / max(image.shape[:2]))
    return np.ascontiguousarray(array), scale


def _body_in(landmarker: Landmarker, array: Any, box: Box) -> Tensor | None:
    """The most prominent person within a box, in pixels of the whole image."""
    height, width = array.shape[:2]
    x0, y0 = max(0, box.x0), max(0, box.y0)
    crop = array[y0 : min(height, box.y1), x0 : min(width, box.x1)]
    landmarks = landmarker.body(crop) if crop.size else None
    return None if landmarks is None else landmarks + torch.tensor([x0, y0, 0.0])


def _bodies_in(landmarker: Landmarker, array: Any, boxes: Sequence[Box]) -> list[Tensor]:
    bodies = []
    for x0, y0, x1, y1 in boxes:
        pad = round(0.1 * max(x1 - x0, y1 - y0))  # BlazePose likes some surroundings
        bodies.append(_body_in(landmarker, array, Box(x0 - pad, y0 - pad, x1 + pad, y1 + pad)))
    return [body for body in bodies if body is not None]


def _search(landmarker: Landmarker, array: Any) -> list[Tensor]:
    """Landmarks of all people that are found, the most prominent first.

    Looks at the full image, then at overlapping squares of its short side (small people in wide
    images), and covers each person it finds. When there are several, each is looked at again alone,
    the others covered, with less and more around: a body that is seen only once, such as one in a
    crumpled flag, is dropped, and so is one that stands on its head and is not seen every time.
    A single person in the full image needs no second look.
    """
    canvas = array.copy()
    cover = array.mean((0, 1)).astype(array.dtype)
    candidates: list[Tensor] = []
    full_image, *squares = _windows(*array.shape[:2])
    for window in (full_image, *squares):
        while (
            len(candidates) < MAX_PEOPLE
            and (body := _body_in(landmarker, canvas, window)) is not None
        ):
            candidates.append(body)
            canvas[_silhouette(body, array)] = cover
        if window is full_image:
            most_prominent = candidates[:1]

    if len(candidates) == len(most_prominent):
        return candidates
    silhouettes = [_silhouette(body, array) for body in candidates]
    bodies: list[Tensor] = []
    for number, body in enumerate(candidates):
        canvas = array.copy()
        for index, silhouette in enumerate(silhouettes):
            if index != number:
                canvas[silhouette & ~silhouettes[number]] = cover
        views = [_body_in(landmarker, canvas, _around(body, margin)) for margin in (0.5, 0.35, 0.7)]
        same = [view for view in views if view is not None and _apart(view, body) < 0.5]
        needed = len(views) if _is_upside_down(body) else 2
        if len(same) >= needed and all(_apart(same[0], accepted) > 0.5 for accepted in bodies):
            bodies.append(same[0])
    return bodies or most_prominent


def _is_upside_down(body: Tensor) -> bool:
    """Say whether the nose lies below both shoulders."""
    nose, *shoulders = body[NOSE_AND_SHOULDERS, 1].tolist()
    return nose > max(shoulders)


def _windows(height: int, width: int) -> Iterator[Box]:
    """The full image, then squares along its long side, half a side apart at most."""
    yield Box(0, 0, width, height)
    side, long = sorted((height, width))
    if side == long or long > 8 * side:
        return
    steps = -(-2 * (long - side) // side)
    for start in (i * (long - side) // steps for i in range(steps + 1)):
        x, y = (start, 0) if width > height else (0, start)
        yield Box(x, y, x + side, y + side)


def _around(body: Tensor, margin: float) -> Box:
    """The box of a person's visible points, widened by this share of its longer side."""
    points = body[body[:, 2] > 0.5, :2]
    points = points if len(points) > 3 else body[:13, :2]
    low, high = points.amin(0), points.amax(0)
    margin = margin * (high - low).max().item()
    return Box(*(round(edge) for edge in torch.cat([low - margin, high + margin]).tolist()))


def _apart(body: Tensor, reference: Tensor) -> float:
    """Mean distance of nose and shoulders between two bodies, in units of the reference's size.

    The size is the larger of the distance from neck to nose and that between the shoulders.
    """
    points, expected = body[NOSE_AND_SHOULDERS, :2], reference[NOSE_AND_SHOULDERS, :2]
    neck = expected[1:].mean(0)
    size = torch.stack([expected[1] - expected[2], expected[0] - neck]).norm(dim=1).max()
    return ((points - expected).norm(dim=1).mean() / size.clamp(min=1)).item()


def _silhouette(body: Tensor, array: Any) -> Any:
    """The person's area as a boolean array [h, w]; head and shoulders always belong to it."""
    points = _body_points(body)
    points[:, 2] = (points[:, 2] >= 0.5).float()
    points[HEAD_AND_SHOULDERS, 2] = 1
    height, width = array.shape[:2]
    person = pose.no_people(width, height)
    parts = [torch.zeros(1, *part.shape[1:]) for part in person[:5]]
    person = pose.people_from_points([points[None], *parts[1:]], width, height)
    mask = body_masks.person_masks(person, width, height, dilation=0.04, feather=0)[0]
    return mask.numpy() > 0.5


# from landmarks to people


def to_people(bodies: Sequence[Tensor], array: Any, min_confidence: float) -> People:
    """Turn landmarks of bodies into people without hands, on a canvas of the array's size.

    People of whom no point is confident enough are left out.
    """
    height, width = array.shape[:2]
    if not bodies:
        return pose.no_people(width, height)
    body = _confident(torch.stack([_body_points(b) for b in bodies]), min_confidence)
    foot = _confident(torch.stack([_points(b, FEET) for b in bodies]), min_confidence)
    empty = [torch.zeros(len(bodies), n, 3) for n in (21, 21, 70)]
    people = pose.people_from_points([body, *empty, foot], width, height)
    is_visible = (body[..., 2] > 0).any(1) | (foot[..., 2] > 0).any(1)
    return pose.pick(people, is_visible.nonzero().flatten().tolist())


def _body_points(landmarks: Tensor) -> Tensor:
    """OpenPose body points [18, 3] of MediaPipe's [33, 3]."""
    points = _points(landmarks, BODY)
    shoulders = landmarks[11:13]
    points[pose.NECK] = torch.cat([shoulders[:, :2].mean(0), shoulders[:, 2:].amin(0)])
    return points


def _points(landmarks: Tensor, order: Iterable[int | None]) -> Tensor:
    """The landmarks in this order [n, 3], zeros for None."""
    return torch.stack([torch.zeros(3) if i is None else landmarks[i] for i in order])


def _confident(points: Tensor, min_confidence: float) -> Tensor:
    """Points at least this confident with confidence 1, the others as zeros."""
    is_confident = (points[..., 2:] >= min_confidence) & (points[..., 2:] > 0)
    return torch.cat([points[..., :2], torch.ones_like(points[..., 2:])], dim=-1) * is_confident


def _is_inside(body: Tensor, hand: Tensor) -> bool:
    """Whether nose and shoulders lie within a hand: BlazePose sees bodies in close-ups of hands."""
    points, low, high = body[NOSE_AND_SHOULDERS, :2], hand.amin(0), hand.amax(0)
    return bool(((points >= low) & (points <= high)).all())


def _add_hands(
    landmarker: Landmarker, array: Any, people: People, large_hands: list[DetectedHand]
) -> People:
    """The people with hands at their wrists; without a body the large hands are a person."""
    height, width = array.shape[:2]
    if not pose.count(people):
        return _hands_alone(large_hands, width, height) if large_hands else people
    hands: list[Tensor] = []
    for body, tall in zip(people.body, body_masks.standing_heights(people).tolist(), strict=True):
        for wrist in (body[pose.L_WRIST], body[pose.R_WRIST]):
            if wrist[2] == 0:
                continue
            reach = 1.75 * body_masks.HAND_SHARE * tall
            x0, y0 = (max(0, round(v - reach)) for v in wrist[:2].tolist())
            x1, y1 = (max(0, round(v + reach)) for v in wrist[:2].tolist())
            crop = array[y0:y1, x0:x1]
            for hand in landmarker.hands(crop) if crop.size else ():
                points = hand.points + torch.tensor([x0, y0])
                # the crops of two close wrists contain the same hands
                if all((points - accepted).norm(dim=1).mean() > 0.02 * tall for accepted in hands):
                    hands.append(points)
    return assign_hands(hands, people)


def _hands_alone(hands: Sequence[DetectedHand], width: int, height: int) -> People:
    """One person of up to two hands and no body.

    Of two hands, the one farther left in the image is the right one, as of somebody who faces the
    camera.
    """
    points = [torch.cat([hand.points, torch.ones(21, 1)], dim=1) for hand in hands[:2]]
    points.sort(key=lambda hand: hand[:, 0].mean().item())
    if len(points) == 2:
        right, left = points
    else:
        none = torch.zeros(21, 3)
        right, left = (points[0], none) if hands[0].side == "right" else (none, points[0])
    parts = {name: torch.zeros(1, n, 3) for name, (_, n) in pose.POINT_GROUPS.items()}
    parts["right_hand"], parts["left_hand"] = right[None], left[None]
    return pose.people_from_points(parts.values(), width, height)


# MediaPipe's two interfaces


class _Watched:
    """A Landmarker that calls a function before each look at an image."""

    def __init__(self, landmarker: Landmarker, on_look: Callable[[], None]) -> None:
        self.landmarker, self.on_look = landmarker, on_look

    def body(self, array: Any) -> Tensor | None:
        self.on_look()
        return self.landmarker.body(array)

    def hands(self, array: Any) -> list[DetectedHand]:
        self.on_look()
        return self.landmarker.hands(array)


class _Solutions:
    def __init__(self, mediapipe: Any, stack: ExitStack, hands: bool) -> None:
        solutions = mediapipe.solutions
        # complexity 1 is the one whose weights come with the package
        body = solutions.pose.Pose(static_image_mode=True, model_complexity=1)
        self._body = stack.enter_context(body)
        if hands:
            self._hands = stack.enter_context(solutions.hands.Hands(static_image_mode=True))

    def body(self, array: Any) -> Tensor | None:
        result = self._body.process(_contiguous(array)).pose_landmarks
        return _landmarks(result.landmark, array) if result else None

    def hands(self, array: Any) -> list[DetectedHand]:
        result = self._hands.process(_contiguous(array))
        sides = [side.classification[0].label for side in result.multi_handedness or []]
        hands = [hand.landmark for hand in result.multi_hand_landmarks or []]
        return _detected_hands(hands, sides, array)


class _Tasks:
    def __init__(
        self, mediapipe: Any, stack: ExitStack, folders: Sequence[str], hands: bool
    ) -> None:
        from mediapipe.tasks.python import BaseOptions, vision

        def load(task_name: str, files: Sequence[str], **options: Any) -> Any:
            path = _task_file(files, folders, mediapipe.__version__)
            # as bytes: MediaPipe does not read every path on every platform
            base = BaseOptions(model_asset_buffer=path.read_bytes())
            options_class = getattr(vision, f"{task_name}Options")
            task_class = getattr(vision, task_name)
            try:
                task = task_class.create_from_options(options_class(base_options=base, **options))
            except (RuntimeError, ValueError) as error:
                raise ValueError(f"{path} is not a MediaPipe {task_name} file: {error}") from None
            return stack.enter_context(task)

        self._mediapipe = mediapipe
        self._body = load("PoseLandmarker", POSE_TASKS, num_poses=1)
        if hands:
            self._hands = load("HandLandmarker", HAND_TASKS, num_hands=2)

    def _image(self, array: Any) -> Any:
        image_format = self._mediapipe.ImageFormat.SRGB
        return self._mediapipe.Image(image_format=image_format, data=_contiguous(array))

    def body(self, array: Any) -> Tensor | None:
        result = self._body.detect(self._image(array)).pose_landmarks
        return _landmarks(result[0], array) if result else None

    def hands(self, array: Any) -> list[DetectedHand]:
        result = self._hands.detect(self._image(array))
        sides = [side[0].category_name for side in result.handedness]
        return _detected_hands(result.hand_landmarks, sides, array)


def _detected_hands(hands: Iterable[Any], sides: Iterable[str], array: Any) -> list[DetectedHand]:
    """MediaPipe's sides are those of a mirrored image, as a camera shows one to oneself."""
    return [
        DetectedHand(_landmarks(hand, array)[:, :2], "right" if side == "Left" else "left")
        for hand, side in zip(hands, sides, strict=True)
    ]


def _contiguous(array: Any) -> Any:
    import numpy as np

    return np.ascontiguousarray(array)


def _landmarks(landmarks: Iterable[Any], array: Any) -> Tensor:
    """[n, 3] in pixels of MediaPipe's 0..1 landmarks; Tasks leave a hand's visibility out."""
    height, width = array.shape[:2]
    return torch.tensor([(p.x * width, p.y * height, p.visibility or 0.0) for p in landmarks])


def _task_file(names: Sequence[str], folders: Sequence[str], version: str) -> Path:
    for name in names:
        for folder in folders:
            if (path := Path(folder, name)).is_file():
                return path
    install = (sys.executable, str(Path(__file__).parents[2] / "install.py"))
    command = " ".join(f'"{part}"' if " " in part else part for part in install)
    raise ValueError(
        f"MediaPipe {version} brings no weights, and {names[0]} is not in the folder "
        f"ComfyUI/models/vitruvian. Run this once in a terminal, with a connection: {command}   "
        "Then queue again. Folders searched: " + ", ".join(folders)
    )
