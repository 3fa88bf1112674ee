"""Poses: found in photographs, loaded, saved, drawn, made into masks, picked and merged."""

import hashlib
import os
from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io, ui

from ..models import body_masks, detect, pose, pose_drawing
from ..models.pose import People
from .inputs import (
    PoseKeypoint,
    named_errors,
    picture_size,
    pose_input,
    read_pose,
    require_people,
    size_inputs,
)

BoundingBox = io.Custom("BOUNDING_BOX")  # an own class in newer hosts only
CATEGORY = "Vitruvian/pose"
EXAMPLES = Path(__file__).parent.parent / "workflows" / "poses"
EXAMPLE_MARK = " [example]"
STOP, LEAVE_EMPTY = "stop with an error", "leave the frame empty"


def _confident(frames: list[People], minimum: float) -> list[People]:
    frames = [pose.keep_confident(people, minimum) for people in frames]
    if not any(part[..., 2].any() for people in frames for part in people[:5]):
        raise ValueError(
            f"no point of the pose has a confidence of {minimum:g}: lower 'min_confidence'."
        )
    return frames


def _write(frames: list[People]) -> list[dict[str, Any]]:
    return [pose.write_frame(people) for people in frames]


def _confidence_input(tooltip: str) -> io.Input:
    return io.Float.Input("min_confidence", default=0.3, min=0, max=1, step=0.01, tooltip=tooltip)


class VitruvianDetectPose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianDetectPose",
            display_name="Detect Pose",
            category=CATEGORY,
            description="Finds the people in photographs, with body and both hands (MediaPipe).",
            inputs=[
                io.Image.Input("image", tooltip="Photographs. Each becomes one frame of the pose."),
                io.Int.Input(
                    "max_people",
                    default=4,
                    min=1,
                    max=detect.MAX_PEOPLE,
                    tooltip="At most this many people per image, the most prominent first.",
                ),
                _confidence_input(
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
                BoundingBox.Input(
                    "bboxes",
                    optional=True,
                    extra_dict={"forceInput": True},
                    tooltip="One box per person, from any detector: for crowds and small "
                    "people. Without it the entire image is searched.",
                ),
            ],
            outputs=[
                PoseKeypoint.Output("pose", tooltip="The people, from left to right."),
                io.Int.Output("person_count", tooltip="Number of people in all images together."),
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
    ) -> io.NodeOutput:
        progress = comfy.utils.ProgressBar(len(image))
        folders = folder_paths.get_folder_paths("vitruvian")
        frames = []
        with (
            named_errors("Detect Pose"),
            detect.open_detector(folders, hands=include_hands) as detector,
        ):
            for number, picture in enumerate(image):
                people = detector.detect(
                    picture,
                    boxes=detect.read_boxes(bboxes, number),
                    max_people=max_people,
                    min_confidence=min_confidence,
                )
                if not pose.count(people) and if_nobody == STOP:
                    raise ValueError(
                        f"nobody was found in picture {number + 1} of {len(image)}. Use a picture "
                        "that shows a person, lower 'min_confidence', connect 'bboxes', or "
                        f"set 'if_nobody' to '{LEAVE_EMPTY}'."
                    )
                frames.append(people)
                progress.update(1)
        preview = torch.stack(
            [pose_drawing.draw_over(*pair) for pair in zip(image, frames, strict=True)]
        )
        found = sum(pose.count(people) for people in frames)
        return io.NodeOutput(_write(frames), found, ui=ui.PreviewImage(preview, cls=cls))


class VitruvianLoadPose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianLoadPose",
            display_name="Load Pose",
            category=CATEGORY,
            description="Loads OpenPose JSON from ComfyUI's input folder, a pose that Save "
            "Pose saved, or an example.",
            inputs=[
                io.Combo.Input(
                    "pose_name",
                    options=_pose_files(),
                    tooltip="A .json file in ComfyUI/input, one in ComfyUI/output (marked "
                    "[output]), or an example of Vitruvian (marked [example]).",
                ),
            ],
            outputs=[PoseKeypoint.Output("pose", tooltip="All frames of the file, in pixels.")],
        )

    @classmethod
    def validate_inputs(cls, pose_name: str) -> bool | str:
        try:
            _pose_path(pose_name)
        except ValueError as error:
            return f"Load Pose: {error}"
        return True

    @classmethod
    def fingerprint_inputs(cls, pose_name: str) -> str:
        return hashlib.sha256(_pose_path(pose_name).read_bytes()).hexdigest()

    @classmethod
    @named_errors
    def execute(cls, pose_name: str) -> io.NodeOutput:
        frames = pose.load_poses(_pose_path(pose_name))
        require_people(frames, pose_name)
        return io.NodeOutput(_write(frames))


def _pose_files() -> list[str]:
    """Names of all .json files below the input and output folders, as the host writes them, and
    of the examples.
    """
    places = (
        (folder_paths.get_input_directory(), ""),
        (folder_paths.get_output_directory(), " [output]"),
        (EXAMPLES, EXAMPLE_MARK),
    )
    return [
        path.relative_to(folder).as_posix() + mark
        for folder, mark in places
        for path in sorted(Path(folder).rglob("*.json"))
        if not path.name.startswith(".")
    ]


def _pose_path(file: str | None) -> Path:
    """The file of a name from _pose_files. Raises ValueError if it is not there or outside."""
    name, folder = folder_paths.annotated_filepath(file or "")
    if name.endswith(EXAMPLE_MARK):
        name, folder = name.removesuffix(EXAMPLE_MARK), str(EXAMPLES)
    folder = os.path.abspath(folder or folder_paths.get_input_directory())
    path = Path(os.path.abspath(os.path.join(folder, name.strip())))
    if not path.is_relative_to(folder) or not path.is_file() or path.suffix.lower() != ".json":
        raise ValueError(
            f"the input 'pose_name' is '{file or ''}', but there is no such .json file. Put the pose "
            "into ComfyUI/input, then press R to refresh the list and choose it."
        )
    return path


class VitruvianSavePose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianSavePose",
            display_name="Save Pose",
            category=CATEGORY,
            description="Saves all frames as one OpenPose JSON file in ComfyUI's output folder.",
            inputs=[
                pose_input(),
                io.String.Input(
                    "filename_prefix",
                    default="poses/pose",
                    tooltip="Folder and beginning of the file name; a counter follows. No file "
                    "is overwritten.",
                ),
            ],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    @named_errors
    def execute(cls, pose: Any, filename_prefix: str) -> io.NodeOutput:
        path, subfolder = _save(read_pose(pose), filename_prefix)
        saved = ui.SavedResult(path.name, subfolder, io.FolderType.output)
        return io.NodeOutput(ui={"poses": [saved], "text": (path.name,)})


def _save(frames: list[People], filename_prefix: str) -> tuple[Path, str]:
    first = frames[0]
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
        filename_prefix, folder_paths.get_output_directory(), first.width, first.height
    )
    return pose.save_poses(frames, Path(folder), name, counter), subfolder


class VitruvianDrawPose(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianDrawPose",
            display_name="Draw Pose",
            category=CATEGORY,
            description="Draws the people as skeletons in OpenPose colors, for a pose ControlNet.",
            inputs=[
                pose_input(),
                *size_inputs(),
                io.Boolean.Input(
                    "include_hands", default=True, tooltip="Also draw the bones of the hands."
                ),
                io.Boolean.Input(
                    "include_face", default=True, tooltip="Also draw the points of the face."
                ),
                io.Float.Input(
                    "line_width",
                    default=0,
                    min=0,
                    max=100,
                    step=0.5,
                    tooltip="Half the width of a limb in pixels. 0: grows with the image, 4 at "
                    "512 pixels, as ControlNets were trained.",
                ),
                _confidence_input("Points less certain than this are not drawn."),
            ],
            outputs=[io.Image.Output("pose_image", tooltip="One image per frame, on black.")],
        )

    @classmethod
    @named_errors
    def execute(
        cls,
        pose: Any,
        output_width: int,
        output_height: int,
        include_hands: bool,
        include_face: bool,
        line_width: float,
        min_confidence: float,
    ) -> io.NodeOutput:
        frames = _confident(read_pose(pose), min_confidence)
        size = picture_size(frames, output_width, output_height)
        drawn = _draw(
            frames, *size, hands=include_hands, face=include_face, line_width=line_width or None
        )
        return io.NodeOutput(drawn, ui=ui.PreviewImage(drawn, cls=cls))


def _draw(frames: list[People], width: int, height: int, **look: Any) -> torch.Tensor:
    progress = comfy.utils.ProgressBar(len(frames))
    drawn = []
    for people in frames:
        drawn.append(pose_drawing.draw_people(people, width, height, **look))
        progress.update(1)
    return torch.stack(drawn)


class VitruvianDrawPersonMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        share: dict[str, Any] = {"min": 0.0, "max": 0.25, "step": 0.005}
        return io.Schema(
            node_id="VitruvianDrawPersonMasks",
            display_name="Draw Person Masks",
            category=CATEGORY,
            description="Draws one mask per person: the body, thick around its limbs.",
            inputs=[
                pose_input(),
                *size_inputs(),
                io.Float.Input(
                    "mask_dilation",
                    default=0.03,
                    **share,
                    tooltip="How far the mask reaches beyond the body, as a share of the "
                    "person's standing height. 0: the body only.",
                ),
                io.Float.Input(
                    "mask_feather",
                    default=0.01,
                    **share,
                    tooltip="Softness of the edge, as a share of the person's standing height. "
                    "0: a hard edge.",
                ),
                _confidence_input("Points less certain than this are not used."),
            ],
            outputs=[
                io.Mask.Output("masks", tooltip="One mask per person, frame after frame."),
                io.Mask.Output("union_mask", tooltip="One mask per frame, with all its people."),
            ],
        )

    @classmethod
    @named_errors
    def execute(
        cls,
        pose: Any,
        output_width: int,
        output_height: int,
        mask_dilation: float,
        mask_feather: float,
        min_confidence: float,
    ) -> io.NodeOutput:
        frames = _confident(read_pose(pose), min_confidence)
        size = picture_size(frames, output_width, output_height)
        each, union = _masks(frames, *size, dilation=mask_dilation, feather=mask_feather)
        return io.NodeOutput(each, union, ui=ui.PreviewMask(each, cls=cls))


def _masks(
    frames: list[People], width: int, height: int, **edge: float
) -> tuple[torch.Tensor, torch.Tensor]:
    progress = comfy.utils.ProgressBar(len(frames))
    masks = []
    for people in frames:
        masks.append(body_masks.person_masks(people, width, height, **edge))
        progress.update(1)
    return torch.cat(masks), torch.stack([body_masks.union_mask(mask) for mask in masks])


class VitruvianPickPeople(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianPickPeople",
            display_name="Pick People",
            category=CATEGORY,
            description="Keeps only the people with these numbers, counted from the left.",
            inputs=[
                pose_input(),
                io.String.Input(
                    "person_numbers",
                    default="1",
                    tooltip="Numbers from the left; the leftmost person is 1. Examples: 1, 3 or "
                    "2-4.",
                ),
            ],
            outputs=[
                # older hosts want output ids that no input has
                PoseKeypoint.Output(
                    "pose_out", "pose", tooltip="The chosen people, in the order of the numbers."
                ),
            ],
        )

    @classmethod
    @named_errors
    def execute(cls, pose: Any, person_numbers: str) -> io.NodeOutput:
        return io.NodeOutput(_write([_pick(people, person_numbers) for people in read_pose(pose)]))


def _pick(people: People, which: str) -> People:
    order = pose.left_to_right(people)
    if not order:
        return people  # an empty frame among others
    try:
        numbers = pose.parse_numbers(which, len(order))
    except ValueError as error:
        raise ValueError(f"the input 'person_numbers': {error}") from None
    return pose.pick(people, [order[number] for number in numbers])


class VitruvianMergePeople(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianMergePeople",
            display_name="Merge People",
            category=CATEGORY,
            description="Puts the people of two poses into one pose.",
            inputs=[
                pose_input("pose_1", "People, and the canvas of the result."),
                pose_input("pose_2", "More people. Their canvas is scaled to that of pose_1."),
            ],
            outputs=[
                PoseKeypoint.Output("pose", tooltip="The people of pose_1, then those of pose_2.")
            ],
        )

    @classmethod
    @named_errors
    def execute(cls, pose_1: Any, pose_2: Any) -> io.NodeOutput:
        ones, others = read_pose(pose_1, "first"), read_pose(pose_2, "second")
        if len(ones) != len(others) and 1 not in (len(ones), len(others)):
            raise ValueError(
                f"'pose_1' has {len(ones)} frames and 'pose_2' {len(others)}: they need equally "
                "many, or one of them a single frame."
            )
        longest = max(len(ones), len(others))
        ones, others = (frames * (longest // len(frames)) for frames in (ones, others))
        return io.NodeOutput(_write([pose.merge(*pair) for pair in zip(ones, others, strict=True)]))


NODES: list[type[io.ComfyNode]] = [
    VitruvianDetectPose,
    VitruvianLoadPose,
    VitruvianSavePose,
    VitruvianDrawPose,
    VitruvianDrawPersonMasks,
    VitruvianPickPeople,
    VitruvianMergePeople,
]
