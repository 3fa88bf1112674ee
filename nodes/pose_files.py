"""Load and save poses as OpenPose JSON."""

import hashlib
import os
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io, ui

from ..models import pose
from ..models.pose import People
from .inputs import named_errors, pose_input, read_all_points, require_people, write_poses
from .wires import PoseKeypoint

CATEGORY = "Vitruvian/pose"
EXAMPLES = Path(__file__).parent.parent / "workflows" / "poses"
EXAMPLE_MARK = " [example]"


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
            outputs=[
                PoseKeypoint.Output("pose", "pose", tooltip="All frames of the file, in pixels.")
            ],
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
        with _pose_path(pose_name).open("rb") as file:
            return hashlib.sha256(file.read(pose.LARGEST_FILE)).hexdigest()

    @classmethod
    @named_errors
    def execute(cls, pose_name: str) -> io.NodeOutput:
        frames = pose.load_poses(_pose_path(pose_name))
        require_people(frames, pose_name)
        return io.NodeOutput(write_poses(frames))


def _pose_files() -> list[str]:
    """List all .json files below the input and output folders, as the host writes their names, and
    the examples.
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


def _pose_path(pose_name: str | None) -> Path:
    """Find the file of a name from _pose_files. Raises ValueError if it is missing or outside."""
    name, folder = folder_paths.annotated_filepath(pose_name or "")
    if name.endswith(EXAMPLE_MARK):
        name, folder = name.removesuffix(EXAMPLE_MARK), str(EXAMPLES)
    folder = os.path.abspath(folder or folder_paths.get_input_directory())
    path = Path(os.path.abspath(os.path.join(folder, name.strip())))
    if not path.is_relative_to(folder) or not path.is_file() or path.suffix.lower() != ".json":
        raise ValueError(
            f"the input 'pose_name' is '{pose_name or ''}', but there is no such .json file. Put "
            "the pose into ComfyUI/input, then press R to refresh the list and choose it."
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
        path, subfolder = _save(read_all_points(pose), filename_prefix)
        saved = ui.SavedResult(path.name, subfolder, io.FolderType.output)
        return io.NodeOutput(ui={"poses": [saved], "text": (path.name,)})


def _save(frames: list[People], filename_prefix: str) -> tuple[Path, str]:
    first = frames[0]
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
        filename_prefix, folder_paths.get_output_directory(), first.width, first.height
    )
    return pose.save_poses(frames, Path(folder), name, counter), subfolder


NODES: list[type[io.ComfyNode]] = [
    VitruvianLoadPose,
    VitruvianSavePose,
]
