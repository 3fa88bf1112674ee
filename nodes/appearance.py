"""Give garments their look on a semantic map (inspired by HumanDiffusion)."""

from typing import Any

import torch
from comfy_api.latest import io

from ..host import appearance as host
from ..host.part_instances import instances_from_parts
from .inputs import (
    check_order,
    named_errors,
    percent_inputs,
    read_area,
    strength_input,
    weight_input,
    weight_path,
)
from .instances import read_prompt
from .wires import Appearance, Instances, Memory, Parts, SemanticMap

CATEGORY = "Vitruvian/appearance"


class VitruvianLoadAppearance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianLoadAppearance",
            display_name="Load Appearance",
            category=CATEGORY,
            description="Loads the layers that give parts their look, from models/vitruvian.",
            inputs=[weight_input("appearance_name", "appearance")],
            outputs=[Appearance.Output("appearance", "appearance", tooltip="To Apply Appearance.")],
        )

    @classmethod
    @named_errors
    def execute(cls, appearance_name: str) -> io.NodeOutput:
        return io.NodeOutput(host.load(weight_path(appearance_name)))


class VitruvianApplyAppearance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianApplyAppearance",
            display_name="Apply Appearance",
            category=CATEGORY,
            description="Gives every garment its look on its own part of a semantic map "
            "while the image is sampled. A reconstruction inspired by "
            "HumanDiffusion.",
            inputs=[
                io.Model.Input(
                    "model", tooltip="The checkpoint that the appearance was trained for."
                ),
                Appearance.Input("appearance", tooltip="From Load Appearance."),
                Parts.Input("parts", tooltip="From Retrieve Appearance or Appearance from Image."),
                SemanticMap.Input(
                    "semantic_map",
                    tooltip="Where the parts are: one map, or one per image of the batch. Any "
                    "size.",
                ),
                strength_input(
                    "How strongly the parts look as retrieved. 0: their look is left to "
                    "the prompt. The strength of a single part is written in its words, "
                    "as (red shoes:0.5)."
                ),
                strength_input(
                    "How strongly the image follows the shapes of the map. 0: shapes "
                    "come from the prompt, the pose and the noise alone.",
                    "map_strength",
                ),
                *percent_inputs(),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where in the image this acts. Without it, everywhere. With several "
                    "people who have a map and an Apply Appearance each: the area of "
                    "one person.",
                ),
            ],
            outputs=[io.Model.Output("model_out", "model", tooltip="To the sampler.")],
        )

    @classmethod
    @named_errors
    def execute(
        cls,
        model: Any,
        appearance: Any,
        parts: Any,
        semantic_map: torch.Tensor,
        strength: float,
        map_strength: float,
        start_percent: float,
        end_percent: float,
        mask: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        check_order(start_percent, end_percent)
        area = read_area(mask)
        settings = host.Settings(strength, map_strength, start_percent, end_percent, area)
        return io.NodeOutput(host.apply(model, appearance, parts, semantic_map, settings))


class VitruvianInstancesFromParts(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianInstancesFromParts",
            display_name="Instances from Parts",
            category=CATEGORY,
            description="Makes one instance per part, for Compose Instances in mode couple: "
            "the words of the part and what was retrieved for them act in the "
            "area of the part alone. Works with every checkpoint, without "
            "trained weights.",
            inputs=[
                Parts.Input("parts", tooltip="From Retrieve Appearance."),
                SemanticMap.Input(
                    "semantic_map",
                    tooltip="Where the parts are: one map, or one per image of the batch.",
                ),
                io.Clip.Input("clip", tooltip="The checkpoint's text encoder."),
                Memory.Input("memory", tooltip="The memory that the parts came from."),
                io.Int.Input(
                    "token_count",
                    default=4,
                    min=0,
                    max=64,
                    tooltip="How many tokens with the retrieved look follow the words. 0: only "
                    "the words.",
                ),
                Instances.Input(
                    "instances",
                    optional=True,
                    tooltip="Instances that come before these. These are added after them.",
                ),
            ],
            outputs=[
                Instances.Output(
                    "instances_out", "instances", tooltip="To Compose Instances, mode couple."
                )
            ],
        )

    @classmethod
    @named_errors
    def execute(
        cls,
        parts: Any,
        semantic_map: torch.Tensor,
        clip: Any,
        memory: Any,
        token_count: int,
        instances: tuple = (),
    ) -> io.NodeOutput:
        part_instances = []
        for part in instances_from_parts(parts, semantic_map, clip, memory, token_count):
            conditioning, loras = read_prompt(part.conditioning, "clip")
            part_instances.append(part._replace(conditioning=conditioning, loras=loras))
        return io.NodeOutput((*instances, *part_instances))


NODES: list[type[io.ComfyNode]] = [
    VitruvianLoadAppearance,
    VitruvianApplyAppearance,
    VitruvianInstancesFromParts,
]
