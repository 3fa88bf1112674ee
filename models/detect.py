"""Find the people in images: what a detector does, and the table of the detectors.

Another detector is one new file in detectors/ and one line in detectors/__init__.py. The file has a
function `open_detector(model_folders, *, hands, face)`, a context manager that gives a Detector,
under `@register_detector(NAME)`.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, TypeVar

from torch import Tensor

from . import boxes
from .pose import MIN_CONFIDENCE, People

OpenDetector = Callable[..., AbstractContextManager["Detector"]]
Function = TypeVar("Function", bound=OpenDetector)
DETECTORS: dict[str, OpenDetector] = {}  # by name; the first one is what Detect Pose uses
MAX_PEOPLE = 32  # at most, of one image


class Box(NamedTuple):
    """A rectangle in pixels: x0 <= x < x1, y0 <= y < y1."""

    x0: int
    y0: int
    x1: int
    y1: int


class Detector(Protocol):
    """A network, or several, that finds people in an image."""

    def detect(
        self,
        image: Tensor,
        *,
        boxes: Sequence[Box] = (),
        max_people: int = MAX_PEOPLE,
        min_confidence: float = MIN_CONFIDENCE,
        on_look: Callable[[], None] | None = None,
    ) -> People:
        """Find the people in one image [height, width, 3] in 0..1, ordered from left to right.

        boxes: one rectangle per person; without any the detector searches the image itself.
        max_people: at most so many, the most prominent first. min_confidence: points below it are
        missing. on_look: called now and then during the search; what it raises ends the search.
        The image is not changed. The result may be nobody.
        """


def register_detector(name: str) -> Callable[[Function], Function]:
    """Enter the function below into DETECTORS under this name."""

    def register(function: Function) -> Function:
        DETECTORS[name] = function
        return function

    return register


def open_detector(
    model_folders: Sequence[str],
    *,
    hands: bool = True,
    face: bool = False,
    name: str | None = None,
) -> AbstractContextManager[Detector]:
    """Open a detector of DETECTORS by its name, by default the first one.

    model_folders: where files of weights may lie. hands, face: whether it also finds their points.
    Raises ValueError for an unknown name, or naming the package or the file that is missing.
    """
    from . import detectors  # noqa: F401  here, because its files import this one

    name = name or next(iter(DETECTORS))
    if name not in DETECTORS:
        raise ValueError(f"there is no detector '{name}', only {', '.join(DETECTORS)}.")
    return DETECTORS[name](model_folders, hands=hands, face=face)


def read_boxes(value: Any) -> list[list[Box]]:
    """Read the rectangles of every image from a BOUNDING_BOX value of the host, in any form that
    `boxes.read_frames` reads. Boxes that are labeled as something else than a person are left out,
    and so are empty ones.
    """
    return [
        [
            Box(round(x), round(y), round(x + width), round(y + height))
            for x, y, width, height, label in frame
            if label in (None, "person") and width >= 1 and height >= 1
        ]
        for frame in boxes.read_frames(value)
    ]
