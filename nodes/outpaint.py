"""Generate the body around hands that are already there (Giving a Hand, second stage)."""

from typing import Any

import torch
from comfy_api.latest import io

from ..host.control_net import ControlSettings
from ..host.outpaint import outpaint_body
from .inputs import (
    check_one_size,
    check_order,
    mask_frames,
    named_errors,
    percent_inputs,
    strength_input,
)

CATEGORY = "Vitruvian/hands"


class VitruvianOutpaintBody(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianOutpaintBody",
            display_name="Outpaint Body",
            category=CATEGORY,
            description="Generates the body around hands that are already there, with a "
            "ControlNet that sees the skeleton, the hands and where they are "
            "(Giving a Hand, second stage).",
            inputs=[
                io.Conditioning.Input("positive", tooltip="What the image shows."),
                io.Conditioning.Input("negative", tooltip="What the image must not show."),
                io.ControlNet.Input(
                    "control_net",
                    tooltip="A ControlNet for body outpainting, from Load ControlNet Model.",
                ),
                io.Image.Input(
                    "pose_image", tooltip="The skeleton of the entire body, from Draw Pose."
                ),
                io.Image.Input(
                    "placed_image", tooltip="The image with the hands, from Place Hands."
                ),
                io.Mask.Input("mask", tooltip="Where the hands are, from Place Hands."),
                strength_input(
                    "How strongly the skeleton and the hands guide the image. 0: the "
                    "conditioning is unchanged."
                ),
                *percent_inputs(),
            ],
            outputs=[
                io.Conditioning.Output(
                    "positive_out", "positive", tooltip="To the sampler's positive."
                ),
                io.Conditioning.Output(
                    "negative_out", "negative", tooltip="To the sampler's negative."
                ),
            ],
        )

    @classmethod
    @named_errors
    def execute(
        cls,
        positive: Any,
        negative: Any,
        control_net: Any,
        pose_image: torch.Tensor,
        placed_image: torch.Tensor,
        mask: torch.Tensor,
        strength: float,
        start_percent: float,
        end_percent: float,
    ) -> io.NodeOutput:
        check_order(start_percent, end_percent)
        mask = mask_frames(mask)
        check_one_size({"pose_image": pose_image, "placed_image": placed_image, "mask": mask})
        conditionings = outpaint_body(
            (positive, negative),
            control_net,
            pose_image[..., :3],
            placed_image[..., :3],
            mask,
            ControlSettings(strength, start_percent, end_percent),
        )
        return io.NodeOutput(*conditionings)


NODES: list[type[io.ComfyNode]] = [
    VitruvianOutpaintBody,
]
