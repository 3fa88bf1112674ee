"""People in photographs: MediaPipe's body and hand landmarks as OpenPose points.

BlazePose (Bazarevsky et al. 2020) finds the most prominent person of a picture. Others are found by
painting over the people found so far and looking again, then each is looked at again alone.
Both of MediaPipe's interfaces are used: `solutions` (to 0.10.21, brings its weights) and Tasks
(later versions, reads .task files).
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from . import body_masks, pose
from .pose import People

# OpenPose body and foot point -> MediaPipe landmark; the neck is made from the shoulders, and
# MediaPipe has no small toe
BODY = (0, None, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7)
FEET = (31, None, 29, 32, None, 30)
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

LARGEST_SIDE = 2048  # larger pictures are searched at this size; the landmark network sees 256
POSE_TASKS = tuple(f"pose_landmarker_{kind}.task" for kind in ("full", "heavy", "lite"))
HAND_TASKS = ("hand_landmarker.task",)


class Box(NamedTuple):
    """A rectangle in pixels: x0 <= x < x1, y0 <= y < y1."""

    x0: int
    y0: int
    x1: int
    y1: int


class SeenHand(NamedTuple):
    """Points [21, 2] in pixels, and which hand it looks like; beside a body that is often wrong."""

    points: Tensor
    side: str  # "left" or "right"


class Landmarker(Protocol):
    """MediaPipe behind one face; pictures are [h, w, 3] uint8 arrays, landmarks in pixels."""

    def body(self, picture: Any) -> Tensor | None:
        """[33, 3] (x, y, visibility) of the most prominent person, or None."""

    def hands(self, picture: Any) -> list[SeenHand]:
        """Every hand."""


def detect_people(
    landmarker: Landmarker,
    image: Tensor,
    *,
    boxes: Sequence[Box] = (),
    max_people: int = 4,
    min_confidence: float = 0.3,
    hands: bool = True,
) -> People:
    """The people in one picture [height, width, 3] in 0..1, ordered left to right.

    boxes: one rectangle per person; without any the people are searched for. min_confidence: points
    with less MediaPipe visibility are left out; those kept get confidence 1, as controlnet_aux
    writes them and, when reading, demands. Without a body in sight hands alone count as a person.
    The picture is not changed. May return nobody.
    """
    picture, scale = _as_picture(image)
    boxes = [Box(*(round(edge * scale) for edge in box)) for box in boxes]
    bodies = _bodies_in(landmarker, picture, boxes) if boxes else _search(landmarker, picture)
    large_hands = landmarker.hands(picture) if hands else []
    bodies = [b for b in bodies if not any(_inside(b, hand.points) for hand in large_hands)]
    people = _as_people(bodies[:max_people], picture, min_confidence)
    if hands:
        people = _with_hands(landmarker, picture, people, large_hands)
    people = pose.pick(people, pose.left_to_right(people))
    return pose.scale_to_canvas(people, image.shape[1], image.shape[0])


def read_boxes(value: Any, picture: int) -> list[Box]:
    """The rectangles of one picture (from 0) in a BOUNDING_BOX value of the host.

    A value is one box {x, y, width, height} in pixels, a list of them, or a list of such lists, one
    per picture; the last list serves all further pictures. Boxes labelled as another thing than a
    person are left out. Raises ValueError on anything else.
    """
    frames = value if isinstance(value, list) else [value] if value else []
    if frames and not isinstance(frames[0], list):
        frames = [frames]
    if not frames:
        return []
    boxes = []
    for box in frames[min(picture, len(frames) - 1)]:
        try:
            x, y, width, height = (float(box[key]) for key in ("x", "y", "width", "height"))
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"a bounding box has the numbers x, y, width and height, but one is {box!r:.80}."
            ) from None
        if box.get("label", "person") == "person" and width >= 1 and height >= 1:
            boxes.append(Box(round(x), round(y), round(x + width), round(y + height)))
    return boxes


def assign_hands(hands: Sequence[Tensor], people: People) -> People:
    """Gives each hand [21, 2] to the nearest free wrist, closest pairs first.

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
    given: dict[tuple[int, int], int] = {}  # (person, side) -> hand
    for _, index, number, side in sorted(pairs):
        if (number, side) not in given and index not in given.values():
            given[number, side] = index
            (left, right)[side][number] = torch.cat([hands[index], torch.ones(21, 1)], dim=1)
    return people._replace(left_hand=left, right_hand=right)


# from the picture to bodies


def _as_picture(image: Tensor) -> tuple[Any, float]:
    """An own uint8 copy, and its size relative to the original."""
    import cv2
    import numpy as np

    picture = image[..., :3].float().mul(255).round().clamp(0, 255).byte().cpu().numpy()
    height, width = picture.shape[:2]
    scale = min(1.0, LARGEST_SIDE / max(height, width))
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(picture), scale


def _look(landmarker: Landmarker, picture: Any, box: Box) -> Tensor | None:
    """The most prominent person of a part of the picture, in the picture's pixels."""
    height, width = picture.shape[:2]
    x0, y0 = max(0, box.x0), max(0, box.y0)
    crop = picture[y0 : min(height, box.y1), x0 : min(width, box.x1)]
    landmarks = landmarker.body(crop) if crop.size else None
    return None if landmarks is None else landmarks + torch.tensor([x0, y0, 0.0])


def _bodies_in(landmarker: Landmarker, picture: Any, boxes: Sequence[Box]) -> list[Tensor]:
    found = []
    for x0, y0, x1, y1 in boxes:
        pad = round(0.1 * max(x1 - x0, y1 - y0))  # BlazePose likes some surroundings
        found.append(_look(landmarker, picture, Box(x0 - pad, y0 - pad, x1 + pad, y1 + pad)))
    return [body for body in found if body is not None]


MOST = 32  # people searched for in one picture, so that a search always ends


def _search(landmarker: Landmarker, picture: Any) -> list[Tensor]:
    """Landmarks of everybody found, most prominent first.

    Looks at the whole picture, then at overlapping squares of its short side (small people in wide
    pictures), painting over each person found. When there are several, each is looked at again
    alone, the others painted over, with less and more around: what shows only once, such as a
    person seen in a crumpled flag, is dropped. Somebody alone in the whole picture is believed.
    """
    canvas = picture.copy()
    paint = picture.mean((0, 1)).astype(picture.dtype)
    seen: list[Tensor] = []
    whole, *squares = _windows(*picture.shape[:2])
    for window in (whole, *squares):
        while len(seen) < MOST and (body := _look(landmarker, canvas, window)) is not None:
            seen.append(body)
            canvas[_silhouette(body, picture)] = paint
        if window is whole:
            first = seen[:1]

    if len(seen) == len(first):
        return seen
    silhouettes = [_silhouette(body, picture) for body in seen]
    bodies: list[Tensor] = []
    for body, own in zip(seen, silhouettes, strict=True):
        canvas = picture.copy()
        for other in silhouettes:
            if other is not own:
                canvas[other & ~own] = paint
        looks = [_look(landmarker, canvas, _around(body, margin)) for margin in (0.5, 0.35, 0.7)]
        same = [look for look in looks if look is not None and _apart(look, body) < 0.5]
        if len(same) >= 2 and all(_apart(same[0], other) > 0.5 for other in bodies):
            bodies.append(same[0])
    return bodies or first


def _windows(height: int, width: int) -> Iterator[Box]:
    """The whole picture, then squares along its long side, half a side apart at most."""
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


def _apart(one: Tensor, other: Tensor) -> float:
    """Mean distance of nose and shoulders in units of the larger neck-to-nose or shoulder width."""
    points, others = one[[0, 11, 12], :2], other[[0, 11, 12], :2]
    neck = others[1:].mean(0)
    size = torch.stack([others[1] - others[2], others[0] - neck]).norm(dim=1).max()
    return ((points - others).norm(dim=1).mean() / size.clamp(min=1)).item()


def _silhouette(body: Tensor, picture: Any) -> Any:
    """The person's area as a boolean array [h, w]; head and shoulders always belong to it."""
    points = _points(body, BODY)
    points[:, 2] = (points[:, 2] >= 0.5).float()
    points[HEAD_AND_SHOULDERS, 2] = 1
    height, width = picture.shape[:2]
    person = pose.no_people(width, height)
    parts = [torch.zeros(1, *part.shape[1:]) for part in person[:5]]
    person = pose.people_from_points([points[None], *parts[1:]], width, height)
    mask = body_masks.person_masks(person, width, height, dilation=0.04, feather=0)[0]
    return mask.numpy() > 0.5


# from landmarks to people


def _points(landmarks: Tensor, order: Iterable[int | None]) -> Tensor:
    """OpenPose points [n, 3] from MediaPipe's [33, 3]."""
    points = [torch.zeros(3) if i is None else landmarks[i] for i in order]
    if order is BODY:
        shoulders = landmarks[11:13]
        points[pose.NECK] = torch.cat([shoulders[:, :2].mean(0), shoulders[:, 2:].amin(0)])
    return torch.stack(points)


def _as_people(bodies: Sequence[Tensor], picture: Any, min_confidence: float) -> People:
    height, width = picture.shape[:2]
    nobody = pose.no_people(width, height)
    if not bodies:
        return nobody
    body = _sure(torch.stack([_points(landmarks, BODY) for landmarks in bodies]), min_confidence)
    foot = _sure(torch.stack([_points(landmarks, FEET) for landmarks in bodies]), min_confidence)
    empty = [torch.zeros(len(bodies), n, 3) for n in (21, 21, 70)]
    people = pose.people_from_points([body, *empty, foot], width, height)
    shown = (body[..., 2] > 0).any(1) | (foot[..., 2] > 0).any(1)
    return pose.pick(people, shown.nonzero().flatten().tolist())


def _sure(points: Tensor, min_confidence: float) -> Tensor:
    """Points at least this confident with confidence 1, the others zeros."""
    known = (points[..., 2:] >= min_confidence) & (points[..., 2:] > 0)
    return torch.cat([points[..., :2], torch.ones_like(points[..., 2:])], dim=-1) * known


def _inside(body: Tensor, hand: Tensor) -> bool:
    """Whether nose and shoulders lie within a hand: BlazePose sees bodies in close-ups of hands."""
    points, low, high = body[[0, 11, 12], :2], hand.amin(0), hand.amax(0)
    return bool(((points >= low) & (points <= high)).all())


def _with_hands(
    landmarker: Landmarker, picture: Any, people: People, large_hands: list[SeenHand]
) -> People:
    """Looks for hands around each wrist; without a body the hands already seen are a person."""
    height, width = picture.shape[:2]
    if not pose.count(people):
        return _hands_alone(large_hands, width, height) if large_hands else people
    found: list[Tensor] = []
    for body, tall in zip(people.body, body_masks.standing_heights(people).tolist(), strict=True):
        for wrist in (body[pose.L_WRIST], body[pose.R_WRIST]):
            if wrist[2] == 0:
                continue
            reach = 1.75 * body_masks.HAND_SHARE * tall
            x0, y0 = (max(0, round(v - reach)) for v in wrist[:2].tolist())
            x1, y1 = (max(0, round(v + reach)) for v in wrist[:2].tolist())
            crop = picture[y0:y1, x0:x1]
            for hand in landmarker.hands(crop) if crop.size else ():
                points = hand.points + torch.tensor([x0, y0])
                # the crops of two close wrists see the same hands
                if all((points - other).norm(dim=1).mean() > 0.02 * tall for other in found):
                    found.append(points)
    return assign_hands(found, people)


def _hands_alone(hands: Sequence[SeenHand], width: int, height: int) -> People:
    """One person of up to two hands and no body. Of two, the hand farther left counts as the right
    one, as of somebody facing the camera.
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


# MediaPipe


@contextmanager
def open_landmarker(task_folders: Sequence[str], *, hands: bool = True) -> Iterator[Landmarker]:
    """MediaPipe, ready: `solutions` where it exists, else Tasks with files from these folders.

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
        if hasattr(mediapipe, "solutions"):
            yield _Solutions(mediapipe, stack, hands)
        else:
            yield _Tasks(mediapipe, stack, task_folders, hands)


class _Solutions:
    def __init__(self, mediapipe: Any, stack: ExitStack, hands: bool) -> None:
        solutions = mediapipe.solutions
        # complexity 1 is the one whose weights come with the package
        body = solutions.pose.Pose(static_image_mode=True, model_complexity=1)
        self._body = stack.enter_context(body)
        if hands:
            self._hands = stack.enter_context(solutions.hands.Hands(static_image_mode=True))

    def body(self, picture: Any) -> Tensor | None:
        found = self._body.process(_contiguous(picture)).pose_landmarks
        return _visible(found.landmark, picture) if found else None

    def hands(self, picture: Any) -> list[SeenHand]:
        found = self._hands.process(_contiguous(picture))
        sides = [kinds.classification[0].label for kinds in found.multi_handedness or []]
        hands = [hand.landmark for hand in found.multi_hand_landmarks or []]
        return _seen(hands, sides, picture)


class _Tasks:
    def __init__(
        self, mediapipe: Any, stack: ExitStack, folders: Sequence[str], hands: bool
    ) -> None:
        from mediapipe.tasks.python import BaseOptions, vision

        def load(kind: str, names: Sequence[str], **options: Any) -> Any:
            path = _task_file(names, folders, mediapipe.__version__)
            # as bytes: MediaPipe does not read every path on every platform
            base = BaseOptions(model_asset_buffer=path.read_bytes())
            options_class = getattr(vision, f"{kind}Options")
            task_class = getattr(vision, kind)
            try:
                task = task_class.create_from_options(options_class(base_options=base, **options))
            except (RuntimeError, ValueError) as error:
                raise ValueError(f"{path} is not a MediaPipe {kind} file: {error}") from None
            return stack.enter_context(task)

        self._mediapipe = mediapipe
        self._body = load("PoseLandmarker", POSE_TASKS, num_poses=1)
        if hands:
            self._hands = load("HandLandmarker", HAND_TASKS, num_hands=2)

    def _image(self, picture: Any) -> Any:
        kind = self._mediapipe.ImageFormat.SRGB
        return self._mediapipe.Image(image_format=kind, data=_contiguous(picture))

    def body(self, picture: Any) -> Tensor | None:
        found = self._body.detect(self._image(picture)).pose_landmarks
        return _visible(found[0], picture) if found else None

    def hands(self, picture: Any) -> list[SeenHand]:
        found = self._hands.detect(self._image(picture))
        sides = [kinds[0].category_name for kinds in found.handedness]
        return _seen(found.hand_landmarks, sides, picture)


def _seen(hands: Iterable[Any], sides: Iterable[str], picture: Any) -> list[SeenHand]:
    """MediaPipe's sides are those of a mirrored picture, as a camera shows one to oneself."""
    return [
        SeenHand(_visible(hand, picture)[:, :2], "right" if side == "Left" else "left")
        for hand, side in zip(hands, sides, strict=True)
    ]


def _contiguous(picture: Any) -> Any:
    import numpy as np

    return np.ascontiguousarray(picture)


def _visible(landmarks: Iterable[Any], picture: Any) -> Tensor:
    """[n, 3] in pixels of MediaPipe's 0..1 landmarks; Tasks leave a hand's visibility out."""
    height, width = picture.shape[:2]
    return torch.tensor([(p.x * width, p.y * height, p.visibility or 0.0) for p in landmarks])


def _task_file(names: Sequence[str], folders: Sequence[str], version: str) -> Path:
    for name in names:
        for folder in folders:
            if (path := Path(folder, name)).is_file():
                return path
    raise ValueError(
        f"MediaPipe {version} brings no weights, and {names[0]} is not in the folder "
        "ComfyUI/models/vitruvian. Put it there (Google publishes it under this name on the "
        "MediaPipe models page of the Google AI Edge documentation), or install mediapipe 0.10.21, "
        "which brings its weights. Folders searched: " + ", ".join(folders)
    )
