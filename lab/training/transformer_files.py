"""The files of the mini transformer: its checkpoint, without an autoencoder, and its ControlNet.

Both are for the host's stock loaders. The checkpoint takes 8 bits a weight, which the model family
(host/mini_family.py) restores; no family has a say in a ControlNet's file. The host reads SD3's
ControlNets in diffusers' key layout only, in which queries, keys and values stand apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import CLIPTextModel

from ...models import mini, weights
from . import convert, networks
from .convert import Tensors
from .mmdit import PoseControl, Transformer
from .preview import WEIGHTS

CHECKPOINT = WEIGHTS / "checkpoints" / "vitruvian_mini_transformer.safetensors"
POSE_CONTROLNET = WEIGHTS / "controlnet" / "vitruvian_mini_transformer_openpose.safetensors"
NETWORK = "model.diffusion_model."
TEXT = "text_encoders.clip_l.transformer.text_model."
TOKEN_IDS = TEXT + "embeddings.token_ids"  # CLIP id of each embedding row
HINT = "pos_embed_input.proj.weight"
HINT_SCALE = mini.POSE_HINT_SCALE / mini.HOST_LATENT_SCALE  # of hints in the host over ours

_DIFFUSERS = {  # places in SD3's networks, and in diffusers'
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "context_block.adaLN_modulation.1": "norm1_context.linear",
    "context_block.attn.proj": "attn.to_add_out",
    "context_block.attn.ln_q": "attn.norm_added_q",
    "context_block.attn.ln_k": "attn.norm_added_k",
    "context_block.mlp.fc1": "ff_context.net.0.proj",
    "context_block.mlp.fc2": "ff_context.net.2",
    "x_block.adaLN_modulation.1": "norm1.linear",
    "x_block.attn.proj": "attn.to_out.0",
    "x_block.attn.ln_q": "attn.norm_q",
    "x_block.attn.ln_k": "attn.norm_k",
    "x_block.mlp.fc1": "ff.net.0.proj",
    "x_block.mlp.fc2": "ff.net.2",
}
_PROJECTIONS = {
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
}


class Bundle(NamedTuple):
    """What the two files hold; `token_ids` has the CLIP id of each row of the text encoder."""

    transformer: Transformer
    text_encoder: CLIPTextModel
    control: PoseControl
    token_ids: list[int]


def build(token_ids: Sequence[int]) -> Bundle:
    """Build the networks of models/mini.py with random weights."""
    text_encoder = networks.build_text_encoder(len(token_ids), mini.TRANSFORMER_TEXT)
    return Bundle(Transformer(), text_encoder, PoseControl(), list(token_ids))


def save(bundle: Bundle, checkpoint: Path = CHECKPOINT, control: Path = POSE_CONTROLNET) -> None:
    """Write both files."""
    tensors = {
        **{NETWORK + name: tensor for name, tensor in bundle.transformer.state_dict().items()},
        **convert.rename_tensors(bundle.text_encoder, convert.text_names, TEXT),
        TOKEN_IDS: torch.tensor(bundle.token_ids, dtype=torch.int32),
    }
    weights.save(checkpoint, tensors, _facts("checkpoint"), torch.int8)
    hinted = dict(bundle.control.state_dict())
    hinted[HINT] = hinted[HINT] / HINT_SCALE
    weights.save(control, to_diffusers(hinted), _facts("controlnet"), torch.float16)


def load(checkpoint: Path = CHECKPOINT, control: Path = POSE_CONTROLNET) -> Bundle:
    """Read what `save` wrote, as float32 modules in eval mode. ValueError for other files."""
    tensors, _ = weights.load(checkpoint, method="checkpoint", base=mini.TRANSFORMER_NAME)
    hinted, _ = weights.load(control, method="controlnet", base=mini.TRANSFORMER_NAME)
    with weights.fitting(checkpoint, "the transformer of models/mini.py and its ControlNet"):
        bundle = build(tensors[TOKEN_IDS].tolist())
        convert.fill_module(bundle.transformer, tensors, _plain_names, NETWORK)
        convert.fill_module(bundle.text_encoder, tensors, convert.text_names, TEXT)
        places = from_diffusers(hinted, list(bundle.control.state_dict()))
        places[HINT] = places[HINT].float() * HINT_SCALE
        convert.fill_module(bundle.control, places, _plain_names, "")
    for module in bundle[:3]:
        module.eval()
    return bundle


def to_diffusers(tensors: Tensors) -> Tensors:
    """Rename the tensors of a ControlNet as diffusers names them."""
    renamed: Tensors = {}
    for key, tensor in tensors.items():
        names = _diffusers_names(key)
        renamed |= dict(zip(names, tensor.chunk(len(names)), strict=True))
    return {name: tensor.clone() for name, tensor in renamed.items()}


def from_diffusers(tensors: Tensors, keys: Sequence[str]) -> Tensors:
    """Give the tensors of a file in diffusers' layout the `keys` of our network."""
    return {key: torch.cat([tensors[name] for name in _diffusers_names(key)]) for key in keys}


def _diffusers_names(key: str) -> list[str]:
    """Name the tensor or, of a joint projection, the three tensors that diffusers has for `key`."""
    place, _, parameter = key.rpartition(".")
    start = ""
    if place.startswith("joint_blocks."):
        _, number, place = place.split(".", 2)
        start = f"transformer_blocks.{number}."
    places = _PROJECTIONS.get(place, (_DIFFUSERS.get(place, place),))
    return [f"{start}{name}.{parameter}" for name in places]


def _plain_names(keys: object) -> dict[str, str]:
    return {key: key for key in keys}  # type: ignore[attr-defined]


def _facts(method: str) -> dict[str, str | int | float]:
    return {"method": method, "version": 1, "base": mini.TRANSFORMER_NAME}
