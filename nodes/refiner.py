"""Pose, depth and normals in one ControlNet: the structure-guided refiner (HyperHuman)."""

from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io
from torch import Tensor

from ..host import refiner as host
from ..models.refiner import CONDITIONS, DEPTH, NORMAL, POSE
from .inputs import check_order, speaking_for, weight_files

CATEGORY = "Vitruvian/structure"


class VitruvianRefinerLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianRefinerLoader",
            display_name="Load Structure Refiner",
            category=CATEGORY,
            description="Loads a structure refiner from models/vitruvian: one ControlNet for pose, "
            "depth and normals together.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=weight_files("refiner"),
                    tooltip="A refiner that was trained for the checkpoint in use.",
                ),
                io.Combo.Input(
                    "single",
                    options=[*CONDITIONS],
                    default=NORMAL,
                    tooltip="What the image shows if the ordinary Apply ControlNet is used, which "
                    "has one. Apply Structure Refiner does not ask.",
                ),
            ],
            outputs=[
                io.ControlNet.Output("refiner", tooltip="To Apply Structure Refiner."),
            ],
        )

    @classmethod
    def execute(cls, file: str, single: str) -> io.NodeOutput:
        with speaking_for("Load Structure Refiner"):
            path = folder_paths.get_full_path_or_raise("vitruvian", file)
            return io.NodeOutput(host.load(Path(path), single))


class VitruvianApplyRefiner(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianApplyRefiner",
            display_name="Apply Structure Refiner",
            category=CATEGORY,
            description="Guides the picture by pose, depth and normals at once, as many of them as "
            "there are (HyperHuman, second stage).",
            inputs=[
                io.Conditioning.Input("positive", tooltip="What is to be seen."),
                io.Conditioning.Input("negative", tooltip="What is not to be seen."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="0: the conditioning as it was.",
                ),
                io.Float.Input(
                    "start",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Share of the sampling when it begins.",
                ),
                io.Float.Input(
                    "end",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="Share of the sampling when it ends.",
                ),
                io.ControlNet.Input(
                    "refiner", optional=True, tooltip="From Load Structure Refiner."
                ),
                io.Image.Input(POSE, optional=True, tooltip="The skeleton, from Draw Pose."),
                io.Image.Input(DEPTH, optional=True, tooltip="A depth map, near is white."),
                io.Image.Input(
                    NORMAL,
                    optional=True,
                    tooltip="A map of surface normals, with the "
                    "colours that the refiner or ControlNet learnt.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="For ControlNets that need one."),
                *(_net_input(condition) for condition in CONDITIONS),
                *(_share_input(condition) for condition in CONDITIONS),
            ],
            outputs=[
                io.Conditioning.Output("guided", "positive", tooltip="To the sampler."),
                io.Conditioning.Output("guided_negative", "negative", tooltip="To the sampler."),
            ],
        )

    @classmethod
    def execute(
        cls,
        positive: Any,
        negative: Any,
        strength: float,
        start: float,
        end: float,
        refiner: Any = None,
        pose: Tensor | None = None,
        depth: Tensor | None = None,
        normal: Tensor | None = None,
        vae: Any = None,
        pose_control_net: Any = None,
        depth_control_net: Any = None,
        normal_control_net: Any = None,
        pose_strength: float = 1.0,
        depth_strength: float = 1.0,
        normal_strength: float = 1.0,
    ) -> io.NodeOutput:
        pictures = {POSE: pose, DEPTH: depth, NORMAL: normal}
        with speaking_for("Apply Structure Refiner"):
            check_order(start, end)
            when = start, end, vae
            if refiner is not None:
                return io.NodeOutput(
                    *host.apply(refiner, positive, negative, pictures, strength, *when)
                )
            nets = {POSE: pose_control_net, DEPTH: depth_control_net, NORMAL: normal_control_net}
            shares = {POSE: pose_strength, DEPTH: depth_strength, NORMAL: normal_strength}
            strengths = {condition: strength * share for condition, share in shares.items()}
            return io.NodeOutput(*host.stack(nets, positive, negative, pictures, strengths, *when))


def _net_input(condition: str) -> io.Input:
    return io.ControlNet.Input(
        f"{condition}_control_net",
        optional=True,
        tooltip=f"Any ControlNet for '{condition}', used when no refiner is connected.",
    )


def _share_input(condition: str) -> io.Input:
    return io.Float.Input(
        f"{condition}_strength",
        optional=True,
        default=1.0,
        min=0.0,
        max=2.0,
        step=0.05,
        tooltip=f"Times the strength: that of {condition}_control_net. A refiner has it from its "
        "training.",
    )


NODES: list[type[io.ComfyNode]] = [VitruvianRefinerLoader, VitruvianApplyRefiner]
