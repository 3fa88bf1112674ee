"""Open MediaPipe's networks for bodies, hands and faces, in every version of the package.

All of them read .task files (MediaPipe's Tasks). Version 0.10.21 brings the weights, from which the
files are assembled in memory; for later versions they lie in a folder, where install.py puts them.
"""

import sys
import zipfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .face_boxes import FaceBox
from .mediapipe_files import (
    FACE_DETECTOR,
    FACE_TASK,
    HAND_TASK,
    POSE_TASK,
    assemble,
    network_in,
)

Kind = tuple[str, Sequence[str]]  # a class of MediaPipe's, and the files that it reads
BODY: Kind = (
    "PoseLandmarker",
    (POSE_TASK, "pose_landmarker_heavy.task", "pose_landmarker_lite.task"),
)
HAND: Kind = "HandLandmarker", (HAND_TASK,)
FACE: Kind = "FaceLandmarker", (FACE_TASK,)
# in one look
MOST_BODIES, MOST_HANDS, MOST_FACES = 6, 2, 2
MESH_POINTS = 468  # of a face; those of the irises behind them are not there


class DetectedHand(NamedTuple):
    """A hand's points [21, 2] in pixels, and the side it looks like, which is often wrong."""

    points: Tensor
    side: str  # "left" or "right"


class Landmarks:
    """MediaPipe's networks; points are in pixels.

    An array is an image as MediaPipe takes it: [h, w, 3] uint8. `on_look` is called before each
    look at one. Opening raises ValueError that names the package or the file that is missing.
    """

    def __init__(
        self, stack: ExitStack, folders: Sequence[str], *, hands: bool = True, face: bool = False
    ) -> None:
        try:
            import mediapipe
        except ImportError as error:
            raise ValueError(
                f"the package mediapipe can not be imported ({error}): install it into ComfyUI's "
                "Python with `pip install mediapipe`, then restart ComfyUI."
            ) from None
        self._mediapipe = mediapipe
        self.on_look: Callable[[], None] = lambda: None
        self._tasks: dict[str, Any] = {}
        self._face_detector = _open_face_detector(stack, mediapipe, folders)
        tasks = [(BODY, {"num_poses": MOST_BODIES})]
        tasks += [(HAND, {"num_hands": MOST_HANDS})] * hands
        tasks += [(FACE, {"num_faces": MOST_FACES})] * face
        for (task_name, files), options in tasks:
            self._tasks[task_name] = stack.enter_context(
                _open(mediapipe, task_name, files, folders, options)
            )

    def bodies(self, array: Any) -> list[Tensor]:
        """Find bodies [33, 3] (x px, y px, visibility), the most prominent first."""
        return [_points(body, array) for body in self._look(BODY[0], array).pose_landmarks]

    def hands(self, array: Any) -> list[DetectedHand]:
        """Find hands."""
        result = self._look(HAND[0], array)
        # unlike the older `solutions`, whose sides are those of a mirrored image
        sides = [side[0].category_name.lower() for side in result.handedness]
        hands = [_points(hand, array)[:, :2] for hand in result.hand_landmarks]
        return [DetectedHand(*pair) for pair in zip(hands, sides, strict=True)]

    def faces(self, array: Any) -> list[Tensor]:
        """Find faces, as the points of MediaPipe's mesh [468, 2]."""
        result = self._look(FACE[0], array)
        return [_points(face, array)[:MESH_POINTS, :2] for face in result.face_landmarks]

    def face_boxes(self, array: Any) -> list[FaceBox]:
        """Find the boxes of faces, none where the network's weights are not there.

        This does not count as a look, of which it takes a tenth.
        """
        if self._face_detector is None or not array.size:
            return []
        faces = self._face_detector.detect(self._image(array)).detections
        boxes = [(face.bounding_box, face.categories[0].score) for face in faces]
        return [
            FaceBox(b.origin_x, b.origin_y, b.origin_x + b.width, b.origin_y + b.height, score)
            for b, score in boxes
        ]

    def _look(self, task_name: str, array: Any) -> Any:
        self.on_look()
        return self._tasks[task_name].detect(self._image(array))

    def _image(self, array: Any) -> Any:
        import numpy as np

        image_format = self._mediapipe.ImageFormat.SRGB
        return self._mediapipe.Image(image_format=image_format, data=np.ascontiguousarray(array))


def _open(
    mediapipe: Any,
    task_name: str,
    files: Sequence[str],
    folders: Sequence[str],
    options: dict[str, Any],
) -> Any:
    from mediapipe.tasks.python import BaseOptions, vision

    name, content = _task_file(mediapipe, files, folders)
    # as bytes: MediaPipe does not read every path on every platform
    base = BaseOptions(model_asset_buffer=content)
    task_options = getattr(vision, f"{task_name}Options")(base_options=base, **options)
    try:
        return getattr(vision, task_name).create_from_options(task_options)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{name} is not a MediaPipe {task_name} file: {error}") from None


def _open_face_detector(stack: ExitStack, mediapipe: Any, folders: Sequence[str]) -> Any:
    """MediaPipe's FaceDetector of the network in FACE_TASK, or None without that file."""
    from mediapipe.tasks.python import BaseOptions, vision

    try:
        _, content = _task_file(mediapipe, (FACE_TASK,), folders)
        base = BaseOptions(model_asset_buffer=network_in(content, FACE_DETECTOR))
        options = vision.FaceDetectorOptions(base_options=base)
        return stack.enter_context(vision.FaceDetector.create_from_options(options))
    except (KeyError, RuntimeError, ValueError, zipfile.BadZipFile):
        return None  # bodies are found without, only fewer of them


def _task_file(mediapipe: Any, names: Sequence[str], folders: Sequence[str]) -> tuple[str, bytes]:
    """The name and the bytes of the first of these files: of the package, or in these folders."""
    package = Path(mediapipe.__path__[0])
    try:
        return names[0], assemble(names[0], lambda path: (package / path).read_bytes())
    except FileNotFoundError:
        pass  # a version without weights
    for name in names:
        for folder in folders:
            if (path := Path(folder, name)).is_file():
                return str(path), path.read_bytes()
    install = (sys.executable, str(Path(__file__).parents[2] / "install.py"))
    command = " ".join(f'"{part}"' if " " in part else part for part in install)
    raise ValueError(
        f"MediaPipe {mediapipe.__version__} brings no weights, and {names[0]} is not in the folder "
        f"ComfyUI/models/vitruvian. Run this once in a terminal, with a connection: {command}   "
        "Then queue again. Folders searched: " + ", ".join(folders)
    )


def _points(landmarks: Iterable[Any], array: Any) -> Tensor:
    """[n, 3] in pixels of MediaPipe's 0..1 landmarks; only those of bodies have a visibility."""
    height, width = array.shape[:2]
    return torch.tensor([(p.x * width, p.y * height, p.visibility or 0.0) for p in landmarks])
