"""Draw poses as skeletons and as masks of the bodies."""

from typing import Any

import torch
from comfy_api.latest import io, ui

from ..host.progress import watched
from ..models import body_masks, pose_drawing
from ..models.pose import People
from .inputs import (
    min_confidence_input,
    named_errors,
    output_size,
    pose_input,
    read_pose,
    size_inputs,
)

CATEGORY = "Vitruvian/pose"


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
                min_confidence_input("Points less certain than this are not drawn."),
            ],
            outputs=[
                io.Image.Output(
                    "pose_image", "pose_image", tooltip="One image per frame, on black."
                )
            ],
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
        frames = read_pose(pose, min_confidence=min_confidence)
        size = output_size(frames, output_width, output_height)
        pose_images = _draw_frames(
            frames, *size, hands=include_hands, face=include_face, line_width=line_width or None
        )
        return io.NodeOutput(pose_images, ui=ui.PreviewImage(pose_images, cls=cls))


def _draw_frames(frames: list[People], width: int, height: int, **style: Any) -> torch.Tensor:
    return torch.stack(
        [pose_drawing.draw_people(people, width, height, **style) for people in watched(frames)]
    )


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
                min_confidence_input("Points less certain than this are not used."),
            ],
            outputs=[
                io.Mask.Output("masks", "masks", tooltip="One mask per person, frame after frame."),
                io.Mask.Output(
                    "union_mask", "union_mask", tooltip="One mask per frame, with all its people."
                ),
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
        frames = read_pose(pose, min_confidence=min_confidence)
        size = output_size(frames, output_width, output_height)
        masks, unions = _frame_masks(frames, *size, dilation=mask_dilation, feather=mask_feather)
        return io.NodeOutput(masks, unions, ui=ui.PreviewMask(masks, cls=cls))


def _frame_masks(
    frames: list[People], width: int, height: int, **edge: float
) -> tuple[torch.Tensor, torch.Tensor]:
    masks = [body_masks.person_masks(people, width, height, **edge) for people in watched(frames)]
    return torch.cat(masks), torch.stack([body_masks.union_mask(mask) for mask in masks])


NODES: list[type[io.ComfyNode]] = [
    VitruvianDrawPose,
    VitruvianDrawPersonMasks,
]
