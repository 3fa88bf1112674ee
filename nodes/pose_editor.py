"""Pose people by hand, with a prompt each."""

from typing import Any

import torch
from comfy_api.latest import io, ui

from ..models import body_masks, pose, pose_drawing, pose_editor
from ..models.pose import People
from .inputs import named_errors, read_images
from .wires import PoseKeypoint

CATEGORY = "Vitruvian/pose"
WIDGET = "VITRUVIAN_POSE_EDITOR"  # as web/pose_editor.js calls it
MASK_EDGE: dict[str, Any] = {"dilation": 0.03, "feather": 0.01}  # as Draw Person Masks has them


class VitruvianPoseEditor(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        side: dict[str, Any] = {"default": 512, "min": 16, "max": pose.LARGEST_CANVAS, "step": 8}
        return io.Schema(
            node_id="VitruvianPoseEditor",
            display_name="Pose Editor",
            category=CATEGORY,
            description="Poses people by hand, over a photograph if you like, and gives "
            "each a prompt.",
            is_output_node=True,  # so that what is connected arrives with every run
            inputs=[
                io.Int.Input("canvas_width", tooltip="Width of the canvas in pixels.", **side),
                io.Int.Input(
                    "canvas_height",
                    tooltip="Height of the canvas in pixels. People keep their proportions when "
                    "it changes.",
                    **side,
                ),
                _people_input(),
                PoseKeypoint.Input(
                    "pose",
                    optional=True,
                    tooltip="Fills the editor as long as nobody has been edited. Later, its "
                    "button Take the connected pose loads the pose of the last run.",
                ),
                io.Image.Input(
                    "background_image",
                    optional=True,
                    tooltip="A photograph to pose over. It is shown behind the canvas after a run.",
                ),
            ],
            outputs=[
                PoseKeypoint.Output("pose_out", "pose", tooltip="The people, from left to right."),
                io.Image.Output(
                    "pose_image", "pose_image", tooltip="The skeletons, for a pose ControlNet."
                ),
                io.Mask.Output(
                    "masks",
                    "masks",
                    tooltip="One mask per person, from left to right, as Draw Person Masks "
                    "draws them.",
                ),
                io.String.Output(
                    "prompts",
                    "prompts",
                    tooltip="One line per person, from left to right, for the prompts of "
                    "Compose People or Instances from Text.",
                ),
            ],
        )

    @classmethod
    @named_errors
    def execute(
        cls,
        canvas_width: int,
        canvas_height: int,
        people: str,
        pose: Any = None,
        background_image: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        connected = _connected_frame(pose)
        scene = pose_editor.editor_scene(people, connected, canvas_width, canvas_height)
        return _outputs(
            scene,
            {
                "vitruvian_canvas": [canvas_width, canvas_height],  # the widget's, if connected
                **_pose_for_widget(connected),
                **_photograph_for_widget(background_image, cls),
            },
        )


def _people_input() -> io.Input:
    people = io.String.Input(
        "people",
        default=pose_editor.UNTOUCHED,
        tooltip="The people and their prompts, as the editor saves them. A person "
        f"without a prompt counts as '{pose_editor.DEFAULT_PROMPT}'.",
    )
    people.extra_dict["widgetType"] = WIDGET  # a text to the server, the editor to the front end
    return people


def _connected_frame(keypoints: Any) -> People | None:
    """Read the one frame that a connected pose offers to the editor. It may be empty."""
    if keypoints is None:
        return None
    try:
        frames = pose.read_poses(keypoints)
    except ValueError as error:
        raise ValueError(f"the input 'pose' can not be used: {error}") from None
    if len(frames) > 1:
        raise ValueError(
            f"the input 'pose' has {len(frames)} frames, but the editor edits one: connect a pose "
            "of one image."
        )
    return pose.keep_confident(frames[0])


def _outputs(scene: pose_editor.Scene, widget_data: dict[str, list]) -> io.NodeOutput:
    size = scene.people.width, scene.people.height
    image = pose_drawing.draw_people(scene.people, *size)  # the foremost last
    numbered = pose_editor.left_to_right(scene)
    masks = body_masks.person_masks(numbered.people, *size, **MASK_EDGE)
    frame = pose.write_frame(numbered.people)
    return io.NodeOutput([frame], image[None], masks, "\n".join(numbered.prompts), ui=widget_data)


def _pose_for_widget(connected: People | None) -> dict[str, list]:
    """Pass the connected pose of this run to the widget."""
    return {} if connected is None else {"vitruvian_pose": [pose.write_frame(connected)]}


def _photograph_for_widget(
    background: torch.Tensor | None, cls: type[io.ComfyNode]
) -> dict[str, list]:
    """Pass the connected photograph to the widget, as a file in the host's temporary folder."""
    if background is None:
        return {}
    images = read_images(background, "background_image")
    if len(images) > 1:
        raise ValueError(
            f"the input 'background_image' has {len(images)} images, but the editor shows one: "
            "choose it with Image From Batch."
        )
    return {"vitruvian_background": ui.PreviewImage(images, cls=cls).as_dict()["images"]}


NODES: list[type[io.ComfyNode]] = [VitruvianPoseEditor]
