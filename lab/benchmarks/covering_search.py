"""Find people one after the other: the search before many looks, kept as the baseline.

MediaPipe's `solutions`, which see the most prominent person only, look at the image and at squares
of its short side; each person found is covered with a flat color before the next look, and looked
at again alone. Needs mediapipe 0.10.21, the last one with `solutions`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ...models import body_masks, pose
from ...models.detect import Box
from ...models.detectors.many_looks import NOSE_AND_SHOULDERS, apart, around
from ...models.detectors.mediapipe_landmarks import body_points

HEAD_AND_SHOULDERS = (
    *(pose.NOSE, pose.NECK, pose.R_SHOULDER, pose.L_SHOULDER),
    *(pose.R_EYE, pose.L_EYE, pose.R_EAR, pose.L_EAR),
)
MOST_CANDIDATES = 32


class CoveringSearch:
    """The search, with one network opened."""

    def __init__(self, network: Any) -> None:
        self.network = network

    def search(self, array: Any) -> list[Tensor]:
        """Find the bodies [33, 3] of the people in an array [h, w, 3] uint8."""
        candidates, most_prominent = self._candidates(array)
        if len(candidates) == len(most_prominent):
            return candidates
        cover = array.mean((0, 1)).astype(array.dtype)
        silhouettes = [_silhouette(body, array) for body in candidates]
        bodies: list[Tensor] = []
        for number, body in enumerate(candidates):
            canvas = array.copy()
            for index, silhouette in enumerate(silhouettes):
                if index != number:
                    canvas[silhouette & ~silhouettes[number]] = cover
            views = [self._look(canvas, around(body, margin)) for margin in (0.5, 0.35, 0.7)]
            same = [view for view in views if view is not None and apart(view, body) < 0.5]
            needed = len(views) if _is_upside_down(body) else 2
            if len(same) >= needed and all(apart(same[0], accepted) > 0.5 for accepted in bodies):
                bodies.append(same[0])
        return bodies or most_prominent

    def _candidates(self, array: Any) -> tuple[list[Tensor], list[Tensor]]:
        """All bodies seen once, and of them the first one in the full image."""
        canvas = array.copy()
        cover = array.mean((0, 1)).astype(array.dtype)
        candidates: list[Tensor] = []
        full_image, *squares = _windows(*array.shape[:2])
        most_prominent: list[Tensor] = []
        for window in (full_image, *squares):
            while (
                len(candidates) < MOST_CANDIDATES
                and (body := self._look(canvas, window)) is not None
            ):
                candidates.append(body)
                canvas[_silhouette(body, array)] = cover
            if window is full_image:
                most_prominent = candidates[:1]
        return candidates, most_prominent

    def _look(self, array: Any, box: Box) -> Tensor | None:
        import numpy as np

        height, width = array.shape[:2]
        x0, y0 = max(0, box.x0), max(0, box.y0)
        crop = array[y0 : min(height, box.y1), x0 : min(width, box.x1)]
        if not crop.size:
            return None
        landmarks = self.network.process(np.ascontiguousarray(crop)).pose_landmarks
        if not landmarks:
            return None
        high, wide = crop.shape[:2]
        return torch.tensor(
            [(p.x * wide + x0, p.y * high + y0, p.visibility) for p in landmarks.landmark]
        )


@contextmanager
def open_search() -> Iterator[CoveringSearch]:
    """Open the network, with the weights that its package brings."""
    import mediapipe

    with mediapipe.solutions.pose.Pose(static_image_mode=True, model_complexity=1) as network:
        yield CoveringSearch(network)


def _is_upside_down(body: Tensor) -> bool:
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


def _silhouette(body: Tensor, array: Any) -> Any:
    """The person's area as a boolean array [h, w]; head and shoulders always belong to it."""
    points = body_points(body)
    points[:, 2] = (points[:, 2] >= 0.5).float()
    points[HEAD_AND_SHOULDERS, 2] = 1
    height, width = array.shape[:2]
    person = pose.no_people(width, height)
    parts = [torch.zeros(1, *part.shape[1:]) for part in person[:5]]
    person = pose.people_from_points([points[None], *parts[1:]], width, height)
    return body_masks.person_masks(person, width, height, dilation=0.04, feather=0)[0].numpy() > 0.5
