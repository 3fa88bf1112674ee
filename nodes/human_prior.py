"""Improve bodies from text alone, with a human prior beside cross-attention (HcP)."""

from typing import Any

import torch
from comfy_api.latest import io, ui

from ..host import human_prior as host
from ..models import human_prior as core
from .inputs import (
    check_order,
    named_errors,
    percent_inputs,
    read_area,
    read_phrases,
    strength_input,
    weight_input,
    weight_path,
)
from .wires import HumanPrior

CATEGORY = "Vitruvian/human prior"
AS_TRAINED = "as trained"


class VitruvianLoadHumanPrior(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianLoadHumanPrior",
            display_name="Load Human Prior",
            category=CATEGORY,
            description="Loads a human prior from models/vitruvian.",
            inputs=[weight_input("human_prior_name", "human_prior")],
            outputs=[
                HumanPrior.Output("human_prior", "human_prior", tooltip="To Apply Human Prior.")
            ],
        )

    @classmethod
    @named_errors
    def execute(cls, human_prior_name: str) -> io.NodeOutput:
        return io.NodeOutput(host.load(weight_path(human_prior_name)))


class VitruvianEncodeHumanPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianEncodeHumanPrompt",
            display_name="Encode Human Prompt",
            category=CATEGORY,
            description="Encodes a prompt and marks its words for people, actions and "
            "poses, which a human prior attends to. Without a human prior it "
            "works like CLIP Text Encode.",
            inputs=[
                io.Clip.Input("clip", tooltip="The checkpoint's text encoder."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The prompt. Weights and embeddings work as usual.",
                ),
                io.String.Input(
                    "add", default="", tooltip="More words or phrases to mark, separated by commas."
                ),
                io.String.Input(
                    "remove",
                    default="",
                    tooltip="Words or phrases not to mark, separated by commas.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "conditioning",
                    "conditioning",
                    tooltip="To the sampler's positive, or to Add Instance.",
                ),
                io.String.Output(
                    "words", "words", tooltip="The marked words, separated by commas."
                ),
            ],
        )

    @classmethod
    @named_errors
    def execute(cls, clip: Any, text: str, add: str, remove: str) -> io.NodeOutput:
        if clip is None:
            raise ValueError(
                "the checkpoint holds no text encoder. Connect 'clip' from a node that loads one."
            )
        encoded, words = host.encode_prompt(clip, text, read_phrases(add), read_phrases(remove))
        marked = ", ".join(words)
        text_on_node = marked or (
            "No word for a person, an action or a pose was found: add some in 'add'."
        )
        return io.NodeOutput(encoded, marked, ui=ui.PreviewText(text_on_node))


class VitruvianApplyHumanPrior(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianApplyHumanPrior",
            display_name="Apply Human Prior",
            category=CATEGORY,
            description="Improves bodies from text alone: words for people, actions and "
            "poses get an attention of their own beside the ordinary one (HcP).",
            inputs=[
                io.Model.Input(
                    "model", tooltip="The checkpoint that the human prior was trained for."
                ),
                HumanPrior.Input(
                    "human_prior", tooltip="From Load Human Prior or Train Human Prior."
                ),
                strength_input("How strongly the human prior acts. 0: the model is unchanged."),
                io.Float.Input(
                    "gamma",
                    default=-1.0,
                    min=-1.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the ordinary attention. 1: the model is unchanged. 0: "
                    "only the human-centric attention. -1: the value that the human "
                    "prior was trained with.",
                ),
                io.Combo.Input(
                    "mask_tokens",
                    options=[AS_TRAINED, *core.MASKS],
                    default=AS_TRAINED,
                    tooltip="Where words that are not human-centric are left out: before "
                    "attention is shared out (human-centric words get all of it), after "
                    "it, or only in the trained keys.",
                ),
                *percent_inputs(),
                strength_input(
                    "Multiplies strength in the down blocks. 0: no effect there.", "down_strength"
                ),
                strength_input(
                    "Multiplies strength in the middle block. 0: no effect there.",
                    "middle_strength",
                ),
                strength_input(
                    "Multiplies strength in the up blocks. 0: no effect there.", "up_strength"
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where in the image this acts. Without it, everywhere.",
                ),
            ],
            outputs=[io.Model.Output("model_out", "model", tooltip="To the sampler.")],
        )

    @classmethod
    @named_errors
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
            read_area(mask),
        )
        return io.NodeOutput(host.apply(model, human_prior, settings))


NODES: list[type[io.ComfyNode]] = [
    VitruvianLoadHumanPrior,
    VitruvianEncodeHumanPrompt,
    VitruvianApplyHumanPrior,
]
