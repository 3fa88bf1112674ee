"""Better anatomy from text alone: a human-centric prior beside cross-attention (HcP)."""

from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io, ui

from ..host import human_prior as host
from ..models import human_prior
from .inputs import check_order, read_phrases, speaking_for, weight_files

Prior = io.Custom("VITRUVIAN_HCP")
CATEGORY = "Vitruvian/anatomy"
AS_TRAINED = "as trained"


class VitruvianHumanPriorLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianHumanPriorLoader",
            display_name="Load Human Prior",
            category=CATEGORY,
            description="Loads a human-centric prior from models/vitruvian.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=weight_files("hcp"),
                    tooltip="A file that was trained for the checkpoint in use.",
                )
            ],
            outputs=[Prior.Output("prior", tooltip="To Apply Human Prior.")],
        )

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        with speaking_for("Load Human Prior"):
            path = folder_paths.get_full_path_or_raise("vitruvian", file)
            return io.NodeOutput(host.load(Path(path)))


class VitruvianHumanPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        words = "Separated by commas."
        return io.Schema(
            node_id="VitruvianHumanPrompt",
            display_name="Human-Centric Prompt",
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
                    "encoded", "conditioning", tooltip="To the sampler's positive, or an Instance."
                ),
                io.String.Output("words", tooltip="The words that were marked."),
            ],
        )

    @classmethod
    def execute(cls, clip: Any, text: str, add: str, remove: str) -> io.NodeOutput:
        if clip is None:
            raise ValueError(
                "Human-Centric Prompt: the checkpoint holds no text encoder. Connect 'clip' from a "
                "node that loads one."
            )
        encoded, words = host.encode(clip, text, read_phrases(add), read_phrases(remove))
        shown = ", ".join(words)
        told = shown or "No word for a person, an action or a pose was found: add some in 'add'."
        return io.NodeOutput(encoded, shown, ui=ui.PreviewText(told))


class VitruvianApplyHumanPrior(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        share: dict[str, Any] = {"default": 1.0, "min": 0.0, "max": 2.0, "step": 0.05}
        return io.Schema(
            node_id="VitruvianApplyHumanPrior",
            display_name="Apply Human Prior",
            category=CATEGORY,
            description="Lets the words for people, actions and poses shape the picture through "
            "attention of their own, for better bodies from text alone (HcP).",
            inputs=[
                io.Model.Input("model", tooltip="The checkpoint that the prior was made for."),
                Prior.Input("prior", tooltip="From Load Human Prior."),
                io.Float.Input("strength", tooltip="0: the model as it was.", **share),
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
                    options=[AS_TRAINED, *human_prior.MASKS],
                    default=AS_TRAINED,
                    tooltip="Where other words are left out: before attention is shared out (human-"
                    "centric words get all of it), after, or only of the keys that were learnt.",
                ),
                io.Float.Input(
                    "start",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the sampling when it begins.",
                ),
                io.Float.Input(
                    "end",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the sampling when it ends.",
                ),
                io.Float.Input("down", tooltip="Strength in the down blocks.", **share),
                io.Float.Input("middle", tooltip="Strength in the middle block.", **share),
                io.Float.Input("up", tooltip="Strength in the up blocks.", **share),
                io.Mask.Input("mask", optional=True, tooltip="Where in the picture; else all."),
            ],
            outputs=[io.Model.Output("with_prior", "model", tooltip="To the sampler.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        prior: Any,
        strength: float,
        gamma: float,
        mask_tokens: str,
        start: float,
        end: float,
        down: float,
        middle: float,
        up: float,
        mask: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        with speaking_for("Apply Human Prior"):
            check_order(start, end)
            settings = host.Settings(
                prior.gamma if gamma < 0 else gamma,
                prior.mask if mask_tokens == AS_TRAINED else mask_tokens,
                {
                    human_prior.DOWN: strength * down,
                    human_prior.MID: strength * middle,
                    human_prior.UP: strength * up,
                },
                start,
                end,
                None if mask is None else mask.reshape(-1, 1, *mask.shape[-2:])[:1].float().cpu(),
            )
            return io.NodeOutput(host.apply(model, prior, settings))


NODES: list[type[io.ComfyNode]] = [
    VitruvianHumanPriorLoader,
    VitruvianHumanPrompt,
    VitruvianApplyHumanPrior,
]
