"""Load LoRAs that change one person of an image only."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..host.lora_files import text_encoder_patched
from ..models import lora_tags, weights
from ..models.compose import PersonLora
from .inputs import named_errors
from .wires import PersonLoras

CATEGORY = "Vitruvian/compose"
FOLDER = "loras"
KEPT_FILES = 4  # that were loaded last: their tensors stay on the disk until they are read


class VitruvianLoadPersonLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        strongest = lora_tags.STRONGEST
        strength: dict[str, Any] = {
            "default": 1.0,
            "min": -strongest,
            "max": strongest,
            "step": 0.01,
        }
        return io.Schema(
            node_id="VitruvianLoadPersonLoRA",
            display_name="Load Person LoRA",
            category=CATEGORY,
            description="Loads a LoRA from models/loras for one person of the image: it changes "
            "that person only. Chain several of these nodes for several LoRAs.",
            inputs=[
                io.Combo.Input(
                    "lora_name",
                    options=lora_names(),
                    tooltip="A .safetensors file in models/loras, trained for the model you use.",
                ),
                io.Float.Input(
                    "strength_model",
                    tooltip="How strongly the LoRA changes this person. 0: not at all. Negative: "
                    "the other way.",
                    **strength,
                ),
                io.Float.Input(
                    "strength_clip",
                    tooltip="How strongly the LoRA changes the text encoder, if it has such a "
                    "part. 0: not at all. It needs the input clip.",
                    **strength,
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="The checkpoint's text encoder, or the clip of the LoRA before this "
                    "one. Needed only for a LoRA that changes the text encoder, too.",
                ),
                PersonLoras.Input(
                    "lora",
                    optional=True,
                    tooltip="LoRAs of the same person that come before this one.",
                ),
            ],
            outputs=[
                PersonLoras.Output(
                    "lora_out", "lora", tooltip="To Add Instance, or to one more Load Person LoRA."
                ),
                io.Clip.Output(
                    "clip_out",
                    "clip",
                    tooltip="Encodes the prompt of this person, and of nobody else.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name: str, **_: Any) -> str:
        path = folder_paths.get_full_path(FOLDER, lora_name or "")
        return str(path and _stamp(Path(path)))

    @classmethod
    @named_errors
    def execute(
        cls,
        lora_name: str,
        strength_model: float,
        strength_clip: float,
        clip: Any | None = None,
        lora: tuple[PersonLora, ...] = (),
    ) -> io.NodeOutput:
        person_lora = load_lora(lora_name, strength_model, strength_clip)
        if clip is None:
            patched: Any = ExecutionBlocker(
                "the clip of Load Person LoRA is connected, but its input clip is not. Connect "
                "the checkpoint's clip to it, or encode the prompt with that."
            )
        else:
            patched = text_encoder_patched(clip, (person_lora,))
        return io.NodeOutput((*lora, person_lora), patched)


def lora_names() -> list[str]:
    """List the files in models/loras, as the host's loaders do."""
    return folder_paths.get_filename_list(FOLDER)


def load_lora(name: str, strength: float, strength_clip: float) -> PersonLora:
    """Load a file of models/loras by the name that the menu shows.

    ValueError, naming the file, if it is missing, no .safetensors file, or damaged.
    """
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        raise ValueError(
            f"there is no file {name} in models/loras. Put it there, then press R to refresh the "
            "list and choose it."
        )
    if not lora_tags.is_loaded(name):
        raise ValueError(
            f"{name} is no .safetensors file. Other kinds may hold programs and are not loaded: "
            "convert it, or take one that is published as .safetensors."
        )
    return PersonLora(name, _load(path, _stamp(Path(path))), strength, strength_clip)


def _stamp(path: Path) -> tuple[int, int]:
    """Return when a file was changed, and its size."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=KEPT_FILES)
def _load(path: str, _: tuple[int, int]) -> Mapping[str, torch.Tensor]:
    return weights.load_any(path, "a LoRA")


NODES: list[type[io.ComfyNode]] = [VitruvianLoadPersonLoRA]
