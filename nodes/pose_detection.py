"""Detect the poses of people in photographs."""

import itertools
from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io, ui

from ..models import detect, pose, pose_drawing
from ..models.batches import one_each
from .inputs import min_confidence_input, named_errors, read_images, write_poses
from .wires import AnyBoundingBox, PoseKeypoint

CATEGORY = "Vitruvian/pose"
IMAGE_PROGRESS = 100  # of one image, in the progress bar's units
TYPICAL_LOOKS = 20  # looks after which an image counts as half searched
STOP, LEAVE_EMPTY = "stop with an error", "leave the frame empty"


class VitruvianDetectPose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianDetectPose",
            display_name="Detect Pose",
            category=CATEGORY,
            description="Finds the people in photographs, with body, hands and face (MediaPipe).",
            inputs=[
                io.Image.Input("image", tooltip="Photographs. Each becomes one frame of the pose."),
                io.Int.Input(
                    "max_people",
                    default=detect.MAX_PEOPLE,
                    min=1,
                    max=detect.MAX_PEOPLE,
                    tooltip="At most this many people per image, the most prominent first. The "
                    "largest number loses nobody and takes no longer.",
                ),
                min_confidence_input(
                    "Points less visible than this are left out. Higher: only what can "
                    "be seen. Lower: also guesses behind objects."
                ),
                io.Boolean.Input(
                    "include_hands", default=True, tooltip="Also find the 21 points of each hand."
                ),
                io.Combo.Input(
                    "if_nobody",
                    options=[STOP, LEAVE_EMPTY],
                    default=STOP,
                    tooltip="What to do with an image in which nobody is found.",
                ),
                AnyBoundingBox.Input(
                    "bboxes",
                    optional=True,
                    extra_dict={"forceInput": True},
                    tooltip="One box per person, from any detector: for crowds and small "
                    "people. Without it the entire image is searched.",
                ),
                io.Boolean.Input(
                    "include_face",
                    default=False,
                    optional=True,
                    tooltip="Also find 70 points of each face: outline, brows, eyes, nose, lips. "
                    "For ControlNets that were trained with faces, and for faces that are large.",
                ),
            ],
            outputs=[
                PoseKeypoint.Output("pose", "pose", tooltip="The people, from left to right."),
                io.Int.Output(
                    "person_count",
                    "person_count",
                    tooltip="Number of people in all images together.",
                ),
            ],
        )

    @classmethod
    @named_errors
    def execute(
        cls,
        image: torch.Tensor,
        max_people: int,
        min_confidence: float,
        include_hands: bool,
        if_nobody: str,
        bboxes: Any = None,
        include_face: bool = False,
    ) -> io.NodeOutput:
        images, boxes = read_images(image), detect.read_boxes(bboxes)
        if len(boxes) not in (1, len(images)):
            raise ValueError(
                f"the input 'image' has {len(images)} images and 'bboxes' the boxes of "
                f"{len(boxes)}: connect a list of boxes for each image, or one for all."
            )
        progress = comfy.utils.ProgressBar(len(images) * IMAGE_PROGRESS)
        folders = folder_paths.get_folder_paths("vitruvian")
        frames, previews = [], []
        with detect.open_detector(folders, hands=include_hands, face=include_face) as detector:
            pairs = zip(images, one_each(boxes, len(images)), strict=True)
            for number, (photograph, photograph_boxes) in enumerate(pairs, 1):
                people = detector.detect(
                    photograph,
                    boxes=photograph_boxes,
                    max_people=max_people,
                    min_confidence=min_confidence,
                    on_look=_watch(progress),
                )
                if not pose.count(people) and if_nobody == STOP:
                    raise ValueError(
                        f"nobody was found in image {number} of {len(images)}. Use an image "
                        "that shows a person, lower 'min_confidence', connect 'bboxes', or "
                        f"set 'if_nobody' to '{LEAVE_EMPTY}'."
                    )
                frames.append(people)
                previews.append(pose_drawing.draw_over(photograph, people))
                progress.update_absolute(number * IMAGE_PROGRESS)
        person_count = sum(pose.count(people) for people in frames)
        return io.NodeOutput(
            write_poses(frames),
            person_count,
            ui=ui.PreviewImage(torch.stack(previews), cls=cls),
        )


def _watch(progress: comfy.utils.ProgressBar) -> Callable[[], None]:
    """Make the function that a detector calls before each look: it ends a canceled search, and
    moves the progress on within one image, whose looks nobody knows beforehand.
    """
    start = progress.current
    looks = itertools.count()

    def on_look() -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        look = next(looks)
        progress.update_absolute(start + look * IMAGE_PROGRESS // (look + TYPICAL_LOOKS))

    return on_look


NODES: list[type[io.ComfyNode]] = [
    VitruvianDetectPose,
]
