"""Better anatomy from text alone: a human-centric prior beside cross-attention (HcP)."""

from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io, ui

from ..host import human_prior as host
from ..models import human_prior as core
from .inputs import (
    check_order,
    percent_inputs,
    read_phrases,
    speaking_for,
    strength_input,
    weight_files,
)

Prior = io.Custom("VITRUVIAN_HUMAN_PRIOR")
CATEGORY = "Vitruvian/anatomy"
AS_TRAINED = "as trained"


class VitruvianLoadHumanPrior(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianLoadHumanPrior",
            display_name="Load Human Prior",
            category=CATEGORY,
            description="Loads a human-centric prior from models/vitruvian.",
            inputs=[
                io.Combo.Input(
                    "human_prior_name",
                    options=weight_files("human_prior"),
                    tooltip="A file that was trained for the checkpoint in use.",
                )
            ],
            outputs=[Prior.Output("human_prior", tooltip="To Apply Human Prior.")],
        )

    @classmethod
    def execute(cls, human_prior_name: str) -> io.NodeOutput:
        with speaking_for("Load Human Prior"):
            path = folder_paths.get_full_path_or_raise("vitruvian", human_prior_name)
            return io.NodeOutput(host.load(Path(path)))


class VitruvianEncodeHumanPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        words = "Separated by commas."
        return io.Schema(
            node_id="VitruvianEncodeHumanPrompt",
            display_name="Encode Human Prompt",
            category=CATEGORY,
            description="Encodes a prompt and marks its words for people, actions and poses, which "
            "a human-centric prior attends to. Without a prior it is CLIP Text Encode.",
            inputs=[
                io.Clip.Input("clip", tooltip="The checkpoint's."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The prompt; weights and embeddings work as usual.",
                ),
                io.String.Input(
                    "add", default="", tooltip=f"More words or phrases to mark. {words}"
                ),
                io.String.Input(
                    "remove", default="", tooltip=f"Words or phrases not to mark. {words}"
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "conditioning", tooltip="To the sampler's positive, or an Instance."
                ),
                io.String.Output("words", tooltip="The words that were marked."),
            ],
        )

    @classmethod
    def execute(cls, clip: Any, text: str, add: str, remove: str) -> io.NodeOutput:
        if clip is None:
            raise ValueError(
                "Encode Human Prompt: the checkpoint holds no text encoder. Connect 'clip' from a "
                "node that loads one."
            )
        encoded, words = host.encode(clip, text, read_phrases(add), read_phrases(remove))
        shown = ", ".join(words)
        told = shown or "No word for a person, an action or a pose was found: add some in 'add'."
        return io.NodeOutput(encoded, shown, ui=ui.PreviewText(told))


class VitruvianApplyHumanPrior(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianApplyHumanPrior",
            display_name="Apply Human Prior",
            category=CATEGORY,
            description="Lets the words for people, actions and poses shape the picture through "
            "attention of their own, for better bodies from text alone (HcP).",
            inputs=[
                io.Model.Input("model", tooltip="The checkpoint that the prior was made for."),
                Prior.Input("human_prior", tooltip="From Load Human Prior."),
                strength_input("0: the model as it was."),
                io.Float.Input(
                    "gamma",
                    default=-1.0,
                    min=-1.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the ordinary attention. 1: the model as it was, 0: the human-"
                    "centric attention alone, -1: as the prior was trained.",
                ),
                io.Combo.Input(
                    "mask_tokens",
                    options=[AS_TRAINED, *core.MASKS],
                    default=AS_TRAINED,
                    tooltip="Where other words are left out: before attention is shared out (human-"
                    "centric words get all of it), after, or only of the keys that were learnt.",
                ),
                *percent_inputs(),
                strength_input("Strength in the down blocks.", "down_strength"),
                strength_input("Strength in the middle block.", "middle_strength"),
                strength_input("Strength in the up blocks.", "up_strength"),
                io.Mask.Input("mask", optional=True, tooltip="Where in the picture; else all."),
            ],
            outputs=[io.Model.Output("model_out", "model", tooltip="To the sampler.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        human_prior: Any,
        strength: float,
        gamma: float,
        mask_tokens: str,
        start_percent: float,
        end_percent: float,
        down_strength: float,
        middle_strength: float,
        up_strength: float,
        mask: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        with speaking_for("Apply Human Prior"):
            check_order(start_percent, end_percent)
            settings = host.Settings(
                human_prior.gamma if gamma < 0 else gamma,
                human_prior.mask if mask_tokens == AS_TRAINED else mask_tokens,
                {
                    core.DOWN: strength * down_strength,
                    core.MID: strength * middle_strength,
                    core.UP: strength * up_strength,
                },
                start_percent,
                end_percent,
                None if mask is None else mask.reshape(-1, 1, *mask.shape[-2:])[:1].float().cpu(),
            )
            return io.NodeOutput(host.apply(model, human_prior, settings))


NODES: list[type[io.ComfyNode]] = [
    VitruvianLoadHumanPrior,
    VitruvianEncodeHumanPrompt,
    VitruvianApplyHumanPrior,
]
