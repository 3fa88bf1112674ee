"""Guide an image by pose, depth and normals in one ControlNet (HyperHuman, second stage)."""

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..host import refiner as host
from ..host.control_net import ControlSettings
from ..host.prompt_entries import check_entire_image
from ..models.refiner import CONDITIONS, DEPTH, NORMAL, POSE
from .inputs import (
    check_order,
    named_errors,
    percent_inputs,
    read_images,
    strength_input,
    weight_input,
    weight_path,
)

CATEGORY = "Vitruvian/structure"


class VitruvianLoadStructureRefiner(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianLoadStructureRefiner",
            display_name="Load Structure Refiner",
            category=CATEGORY,
            description="Loads a structure refiner from models/vitruvian: one ControlNet "
            "for pose, depth and normals together.",
            inputs=[
                weight_input("refiner_name", "refiner"),
                io.Combo.Input(
                    "single_condition",
                    options=[*CONDITIONS],
                    default=NORMAL,
                    tooltip="What the image shows when you use the ordinary Apply ControlNet, "
                    "which takes one image. Apply Structure Refiner ignores this.",
                ),
            ],
            outputs=[
                io.ControlNet.Output("refiner", "refiner", tooltip="To Apply Structure Refiner."),
            ],
        )

    @classmethod
    @named_errors
    def execute(cls, refiner_name: str, single_condition: str) -> io.NodeOutput:
        return io.NodeOutput(host.load(weight_path(refiner_name), single_condition))


class VitruvianApplyStructureRefiner(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianApplyStructureRefiner",
            display_name="Apply Structure Refiner",
            category=CATEGORY,
            description="Guides the image by pose, depth and normals at once, or by any of "
            "them (HyperHuman, second stage).",
            inputs=[
                io.Conditioning.Input("positive", tooltip="What the image shows."),
                io.Conditioning.Input("negative", tooltip="What the image must not show."),
                strength_input(
                    "How strongly the maps guide the image. 0: the conditioning is unchanged."
                ),
                *percent_inputs(),
                io.ControlNet.Input(
                    "refiner",
                    optional=True,
                    tooltip="From Load Structure Refiner. Without it, a ControlNet per map is "
                    "used.",
                ),
                io.Image.Input(
                    "pose_image", optional=True, tooltip="The skeleton, from Draw Pose."
                ),
                io.Image.Input("depth_image", optional=True, tooltip="A depth map. Near is white."),
                io.Image.Input(
                    "normal_image",
                    optional=True,
                    tooltip="A map of surface normals, in the colors that the refiner or "
                    "ControlNet was trained with.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="For ControlNets that need one."),
                *(_net_input(condition) for condition in CONDITIONS),
                *(_strength_input(condition) for condition in CONDITIONS),
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
        strength: float,
        start_percent: float,
        end_percent: float,
        refiner: Any = None,
        pose_image: Tensor | None = None,
        depth_image: Tensor | None = None,
        normal_image: Tensor | None = None,
        vae: Any = None,
        pose_control_net: Any = None,
        depth_control_net: Any = None,
        normal_control_net: Any = None,
        pose_strength: float = 1.0,
        depth_strength: float = 1.0,
        normal_strength: float = 1.0,
    ) -> io.NodeOutput:
        images = {
            condition: read_images(image, f"{condition}_image")
            for condition, image in zip(
                CONDITIONS, (pose_image, depth_image, normal_image), strict=True
            )
            if image is not None
        }
        settings = ControlSettings(strength, start_percent, end_percent)
        check_order(start_percent, end_percent)
        conditionings = positive, negative
        if strength != 0:
            check_entire_image({"positive": positive, "negative": negative})
        if refiner is not None:
            return io.NodeOutput(*host.apply(conditionings, refiner, images, settings, vae))
        nets = {POSE: pose_control_net, DEPTH: depth_control_net, NORMAL: normal_control_net}
        factors = {POSE: pose_strength, DEPTH: depth_strength, NORMAL: normal_strength}
        return io.NodeOutput(
            *host.apply_control_nets(conditionings, nets, images, factors, settings, vae)
        )


def _net_input(condition: str) -> io.Input:
    return io.ControlNet.Input(
        f"{condition}_control_net",
        optional=True,
        tooltip=f"A ControlNet for the {condition}_image. Used when no refiner is connected.",
    )


def _strength_input(condition: str) -> io.Input:
    tooltip = (
        f"Multiplies strength for the {condition}_control_net. 0: that ControlNet is off. "
        "A refiner ignores this."
    )
    return strength_input(tooltip, f"{condition}_strength", optional=True)


NODES: list[type[io.ComfyNode]] = [VitruvianLoadStructureRefiner, VitruvianApplyStructureRefiner]
