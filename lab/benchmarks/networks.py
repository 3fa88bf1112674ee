"""The networks of published models, as the host builds them from their weights: with their true
widths and depths, and tiny ones with random weights. networks.json has a row for each; `like` names
the row that it has all else from.

    FAMILIES[key] -> a Published; key begins the names of its numbers
    true_network(key) -> its MODEL, whose weights have shapes and no values
    tiny_network(key) -> its MODEL with few random weights
    prompt(key, tiny, seed) -> a CONDITIONING as the family's text encoder gives it
    empty_latent(model, pixels) -> the latent of one square image
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import comfy.supported_models
import torch
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from torch import Tensor

FILE = Path(__file__).with_suffix(".json")
CPU = torch.device("cpu")
TINY_WIDTH, TINY_POOLED, TINY_TOKENS = 48, 32, 20  # of a text of the tiny networks
TINY_STD = 0.1  # of the tiny networks' weights


class Published(NamedTuple):
    """One published model: the config that the host detects in its weights, and its text.

    Tokens are counted with the host's own tokenizers, after the padding that the host does and the
    cut of its template. Gemma's (Lumina 2) does not come with the host: it is like Qwen's.
    """

    title: str
    supported: str  # a class of comfy.supported_models
    config: Mapping[str, Any]
    tiny: Mapping[str, Any]  # what differs in the config of the tiny network
    tokens: int  # of a sentence of 40 words, see below
    width: int  # of such a token
    tiny_width: int = TINY_WIDTH
    pooled: int = 0  # width of the pooled text; 0: there is none
    tiny_pooled: int = TINY_POOLED
    token_mask: bool = False  # a mask of all tokens comes with them
    extra: Mapping[str, Sequence[int]] = {}  # shapes of what else comes with them, by its name
    tiny_extra: Mapping[str, Sequence[int]] = {}
    head: str = "final_layer"  # the module that reads the image's tokens last
    image_first: bool = False  # there; otherwise they are the last ones
    patch: int = 2  # cells of the latent along a token's side
    pose: str = "none"  # what the host has to hold every person in a pose, for the tables

    @property
    def is_unet(self) -> bool:
        """Whether the network keeps its tokens as an image [rows, C, h, w]."""
        return "use_spatial_transformer" in self.config


def _read_families() -> dict[str, Published]:
    rows = json.loads(FILE.read_text(encoding="utf-8"))

    def complete(key: str) -> dict[str, Any]:
        row = dict(rows[key])
        base = complete(row.pop("like")) if "like" in row else {"config": {}, "tiny": {}}
        merged = {name: {**base[name], **row.get(name, {})} for name in ("config", "tiny")}
        return {**base, **row, **merged}

    return {key: Published(**complete(key)) for key in rows}


FAMILIES = _read_families()


class ShapesPatcher(ModelPatcher):
    """A MODEL whose weights have shapes and no values: there is nothing to load."""

    def get_free_memory(self, device: torch.device) -> float:
        """Say that there is no room for more than the host's own call has."""
        return 0.0

    def load(self, *args, **kwargs) -> None:
        """Leave the weights as they are; the host would fill them with zeros."""


def true_network(key: str) -> ModelPatcher:
    """Make the MODEL at its true size, in bfloat16 without values."""
    family = FAMILIES[key]
    base = _base(family.supported, family.config, torch.bfloat16, torch.device("meta"))
    return ShapesPatcher(base, load_device=CPU, offload_device=CPU)


def tiny_network(key: str, seed: int = 1) -> ModelPatcher:
    """Make a tiny MODEL of the same kind with random float32 weights."""
    family = FAMILIES[key]
    base = _base(family.supported, {**family.config, **family.tiny}, torch.float32, CPU)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in base.diffusion_model.state_dict().items():
            if not name.startswith("llm_adapter"):  # Anima's, large and not in use here
                weight.normal_(0, TINY_STD, generator=generator)
    return ModelPatcher(base, load_device=CPU, offload_device=CPU)


def _base(
    supported: str, config: Mapping[str, Any], dtype: torch.dtype, device: torch.device
) -> BaseModel:
    model_config = getattr(comfy.supported_models, supported)(config)
    model_config.unet_config.update(config)  # the host fixes some settings, for all sizes
    model_config.set_inference_dtype(dtype, None)
    return model_config.get_model({}, device=device)


def prompt(key: str, *, tiny: bool = False, seed: int = 0) -> list[list[Any]]:
    """Make the CONDITIONING of a text as long and as wide as the family's; a tiny one is random."""
    family = FAMILIES[key]
    tokens, width, pooled = (
        (TINY_TOKENS, family.tiny_width, family.tiny_pooled)
        if tiny
        else (family.tokens, family.width, family.pooled)
    )
    generator = torch.Generator().manual_seed(seed)

    def values(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=generator) if tiny else torch.zeros(1, *shape)

    shapes = family.tiny_extra if tiny else family.extra
    extra = {name: values(*shape) for name, shape in shapes.items()}
    if family.pooled:
        extra["pooled_output"] = values(pooled)
    if family.token_mask:
        extra["attention_mask"] = torch.ones(1, tokens, dtype=torch.int64)
    return [[values(tokens, width), extra]]


def empty_latent(model: ModelPatcher, pixels: int) -> dict[str, Tensor]:
    """Make the latent of one square image, as the host's empty latent nodes do."""
    latent = model.get_model_object("latent_format")
    side = pixels // latent.spacial_downscale_ratio
    frames = [1] * (latent.latent_dimensions - 2)
    return {"samples": torch.zeros(1, latent.latent_channels, *frames, side, side)}
