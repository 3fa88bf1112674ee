"""Detect people with MediaPipe: its landmarks of bodies, hands and faces as OpenPose points.

BlazePose (Bazarevsky et al. 2020) sees a few people at a time; `many_looks` finds all of them with
it. Hands are looked for at the wrists, faces at the noses.

An `array` here is an image as MediaPipe takes it: [h, w, 3] uint8. Landmarks of a body are [33, 3]
of (x px, y px, visibility).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from .. import body_masks, pixels, pose
from ..detect import MAX_PEOPLE, Box, register_detector
from ..pose import People
from .face_boxes import FaceBox
from .face_points import face_points
from .many_looks import NOSE_AND_SHOULDERS, look, search
from .mediapipe_tasks import DetectedHand, Landmarks

# OpenPose body and foot point -> MediaPipe landmark; the neck is made from the shoulders, and
# MediaPipe has no small toe
BODY = (0, None, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7)
FEET = (31, None, 29, 32, None, 30)
LARGEST_SIDE = 2048  # larger images are searched at this size; the landmark network sees 256


class Landmarker(Protocol):
    """What MediaPipe's networks do; points are in pixels."""

    on_look: Callable[[], None]  # called before each look at an array

    def bodies(self, array: Any) -> list[Tensor]:
        """Find the landmarks [33, 3] of a few people, the most prominent first."""

    def hands(self, array: Any) -> list[DetectedHand]:
        """Find a few hands."""

    def faces(self, array: Any) -> list[Tensor]:
        """Find a few faces [468, 2]."""

    def face_boxes(self, array: Any) -> list[FaceBox]:
        """Find the boxes of all faces; none without the weights for it."""


class LandmarkDetector:
    """A Detector on top of a Landmarker, which sees a few people at a time."""

    def __init__(self, landmarker: Landmarker, *, hands: bool = True, face: bool = False) -> None:
        self.landmarker, self.hands, self.face = landmarker, hands, face

    def detect(
        self,
        image: Tensor,
        *,
        boxes: Sequence[Box] = (),
        max_people: int = MAX_PEOPLE,
        min_confidence: float = pose.MIN_CONFIDENCE,
        on_look: Callable[[], None] | None = None,
    ) -> People:
        """Find the people in one image [height, width, 3] in 0..1, ordered from left to right.

        As Detector.detect. Points with less MediaPipe visibility than min_confidence are missing;
        the others get confidence 1, as controlnet_aux writes them and, when reading, demands.
        Hands in an image without a body count as one person.
        """
        array, scale = to_array(image)
        boxes = [Box(*(round(edge * scale) for edge in box)) for box in boxes]
        landmarker = self.landmarker
        landmarker.on_look = on_look or (lambda: None)
        bodies = self.find_bodies(array, boxes)
        large_hands = landmarker.hands(array) if self.hands else []
        bodies = [b for b in bodies if not any(_is_inside(b, hand.points) for hand in large_hands)]
        people = to_people(bodies[:max_people], array, min_confidence)
        if self.hands:
            people = _add_hands(landmarker, array, people, large_hands)
        if self.face:
            people = _add_faces(landmarker, array, people)
        people = pose.pick(people, pose.left_to_right(people))
        return pose.scale_to_canvas(people, image.shape[1], image.shape[0])

    def find_bodies(self, array: Any, boxes: Sequence[Box] = ()) -> list[Tensor]:
        """Find the landmarks [33, 3] of all people in an array, or of one in each box."""
        if boxes:
            return _bodies_in(self.landmarker, array, boxes)
        return search(self.landmarker, array)


@register_detector("MediaPipe")
@contextmanager
def open_detector(
    model_folders: Sequence[str], *, hands: bool = True, face: bool = False
) -> Iterator[LandmarkDetector]:
    """Open MediaPipe, with weights of its package or .task files in these folders.

    Raises ValueError naming the package or the file that is missing.
    """
    with ExitStack() as stack:
        landmarker = Landmarks(stack, model_folders, hands=hands, face=face)
        yield LandmarkDetector(landmarker, hands=hands, face=face)


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


def to_array(image: Tensor) -> tuple[Any, float]:
    """Copy an image into an array that is at most LARGEST_SIDE wide and high; returns its scale."""
    import numpy as np

    array = pixels.shrink(image, LARGEST_SIDE).mul(255).round().clamp(0, 255).byte().numpy()
    scale = min(1.0, LARGEST_SIDE / max(image.shape[:2]))
    return np.ascontiguousarray(array), scale


def _bodies_in(landmarker: Landmarker, array: Any, boxes: Sequence[Box]) -> list[Tensor]:
    """The most prominent person of each box."""
    bodies = []
    for x0, y0, x1, y1 in boxes:
        pad = round(0.1 * max(x1 - x0, y1 - y0))  # BlazePose likes some surroundings
        bodies += look(landmarker, array, Box(x0 - pad, y0 - pad, x1 + pad, y1 + pad))[:1]
    return bodies


# from landmarks to people


def to_people(bodies: Sequence[Tensor], array: Any, min_confidence: float) -> People:
    """Turn landmarks of bodies into people without hands, on a canvas of the array's size.

    People of whom no point is confident enough are left out.
    """
    height, width = array.shape[:2]
    if not bodies:
        return pose.no_people(width, height)
    body = _confident(torch.stack([body_points(b) for b in bodies]), min_confidence)
    foot = _confident(torch.stack([_points(b, FEET) for b in bodies]), min_confidence)
    empty = [torch.zeros(len(bodies), n, 3) for n in (21, 21, 70)]
    people = pose.people_from_points([body, *empty, foot], width, height)
    is_visible = (body[..., 2] > 0).any(1) | (foot[..., 2] > 0).any(1)
    return pose.pick(people, is_visible.nonzero().flatten().tolist())


def body_points(landmarks: Tensor) -> Tensor:
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


def _add_faces(landmarker: Landmarker, array: Any, people: People) -> People:
    """The people with the points of their faces, where the face is seen at the nose."""
    faces = people.face.clone()
    for number, body in enumerate(people.body):
        nose, neck = body[pose.NOSE], body[pose.NECK]
        if nose[2] == 0 or neck[2] == 0:
            continue
        shoulders = body[[pose.R_SHOULDER, pose.L_SHOULDER], :2]
        width = (shoulders[0] - shoulders[1]).norm()
        reach = 1.25 * torch.maximum((nose - neck)[:2].norm(), 0.4 * width)
        x0, y0 = (max(0, round(v)) for v in (nose[:2] - reach).tolist())
        x1, y1 = (max(0, round(v)) for v in (nose[:2] + reach).tolist())
        crop = array[y0:y1, x0:x1]
        for mesh in landmarker.faces(crop) if crop.size else ():
            mesh = mesh + torch.tensor([x0, y0])
            low, high = mesh.amin(0), mesh.amax(0)
            if ((nose[:2] > low) & (nose[:2] < high)).all():
                faces[number] = face_points(mesh)
                break
    return people._replace(face=faces)
