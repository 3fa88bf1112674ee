"""Boxes of faces, which say cheaply where people are whom no body has been found for yet.

A `body` is [33, 3], MediaPipe's landmarks as (x px, y px, visibility).
"""

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor

from ..detect import Box

SEEN = 0.7  # score from which a box counts; of those less sure, more are none than are faces
SURE = 0.75  # score from which there is no doubt
EDGE = 0.1  # of its width: how far beyond a box a nose may lie
# of a person, in widths of the face: to each side of its middle, above and below its box
SIDE, ABOVE, BELOW = 3.0, 1.1, 5.5


class FaceBox(NamedTuple):
    """A face's box in pixels, and how sure the network is."""

    x0: float
    y0: float
    x1: float
    y1: float
    score: float  # 0..1


def shifted(face: FaceBox, x: float, y: float) -> FaceBox:
    """Move a box."""
    return FaceBox(face.x0 + x, face.y0 + y, face.x1 + x, face.y1 + y, face.score)


def different_faces(faces: Iterable[FaceBox]) -> list[FaceBox]:
    """The faces that count, without those that a surer one at the same place stands for."""
    kept: list[FaceBox] = []
    for face in sorted(faces, key=lambda face: -face.score):
        if face.score >= SEEN and not any(_are_same(face, other) for other in kept):
            kept.append(face)
    return kept


def _are_same(face: FaceBox, other: FaceBox) -> bool:
    reach = max(face.x1 - face.x0, other.x1 - other.x0)  # twice the distance of their middles
    x, y = face.x0 + face.x1 - other.x0 - other.x1, face.y0 + face.y1 - other.y0 - other.y1
    return max(abs(x), abs(y)) <= reach


def is_on(body: Tensor, face: FaceBox) -> bool:
    """Say whether the nose of a body lies on a face."""
    x, y = body[0, :2].tolist()
    edge = EDGE * (face.x1 - face.x0)
    return face.x0 - edge <= x <= face.x1 + edge and face.y0 - edge <= y <= face.y1 + edge


def sure_face(body: Tensor, faces: Iterable[FaceBox]) -> FaceBox | None:
    """Of the sure faces, the surest one that the nose of a body lies on."""
    fitting = [face for face in faces if face.score >= SURE and is_on(body, face)]
    return max(fitting, key=lambda face: face.score) if fitting else None


def person_box(face: FaceBox) -> Box:
    """The box in which the person is whose face this is, standing upright."""
    middle, width = (face.x0 + face.x1) / 2, face.x1 - face.x0
    x0, x1 = middle - SIDE * width, middle + SIDE * width
    return Box(*(round(v) for v in (x0, face.y0 - ABOVE * width, x1, face.y1 + BELOW * width)))
