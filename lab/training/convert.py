"""Convert weights between diffusers' key layout and the host's (LDM), both ways; read and write
the mini family's files.

One table of (diffusers place, LDM place) is made from the levels and blocks that the keys show, so
it holds for any channel_mult and number of blocks: the mini family, SD1.5, SD2.x, SDXL. Parity
with the host is tested, not assumed.

Latents. The trainers work on z = (e - latent_shift) * latent_scale, e the VAE encoder's output, so
that z has about unit variance. The host computes z' = 0.18215 * (e / vae_scale + vae_shift) (its
TAESD, then its SD1.5 latent format), and its decoder inverts this. The file therefore carries
    vae_scale = 0.18215 / latent_scale,    vae_shift = -latent_shift / vae_scale,
which makes z' = z and decoder input = z / latent_scale + latent_shift.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from diffusers import AutoencoderTiny, ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel

from ...models import mini, weights
from . import networks

Tensors = dict[str, Tensor]
Names = Callable[[Iterable[str]], dict[str, str]]
Module = TypeVar("Module", bound=nn.Module)
Built = TypeVar("Built")

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT = "cond_stage_model.transformer.text_model."
TOKEN_IDS = TEXT + "embeddings.token_ids"  # CLIP id of each embedding row; see training/tokens.py

_FIXED = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "class_embedding.linear_1": "label_emb.0.0",
    "class_embedding.linear_2": "label_emb.0.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "controlnet_cond_embedding.conv_in": "input_hint_block.0",
    "controlnet_mid_block": "middle_block_out.0",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


class Checkpoint(NamedTuple):
    """What a mini checkpoint holds; `token_ids` has the CLIP id of each row of the text encoder."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    vae: AutoencoderTiny
    token_ids: list[int]
    latent_scale: float
    latent_shift: float


def unet_names(keys: Iterable[str]) -> dict[str, str]:
    """Name the keys of a UNet2DConditionModel or a ControlNetModel: {diffusers key: LDM key}."""
    keys = list(keys)
    levels = _count(keys, r"down_blocks\.(\d+)\.")
    blocks = _count(keys, r"down_blocks\.0\.resnets\.(\d+)\.")
    places = dict(_FIXED)
    for level in range(levels):
        first = level * (blocks + 1)  # each level has its blocks and one change of size
        for block in range(blocks):
            places[f"down_blocks.{level}.resnets.{block}"] = f"input_blocks.{first + block + 1}.0"
            places[f"down_blocks.{level}.attentions.{block}"] = (
                f"input_blocks.{first + block + 1}.1"
            )
        places[f"down_blocks.{level}.downsamplers.0.conv"] = (
            f"input_blocks.{first + blocks + 1}.0.op"
        )
        for block in range(blocks + 1):
            places[f"up_blocks.{level}.resnets.{block}"] = f"output_blocks.{first + block}.0"
            places[f"up_blocks.{level}.attentions.{block}"] = f"output_blocks.{first + block}.1"
        after = 1 + any(key.startswith(f"up_blocks.{level}.attentions.") for key in keys)
        places[f"up_blocks.{level}.upsamplers.0"] = f"output_blocks.{first + blocks}.{after}"
    # a SiLU follows each block of the hint encoder
    hints = _count(keys, r"controlnet_cond_embedding\.blocks\.(\d+)\.")
    for i in range(hints):
        places[f"controlnet_cond_embedding.blocks.{i}"] = f"input_hint_block.{2 * i + 2}"
    places["controlnet_cond_embedding.conv_out"] = f"input_hint_block.{2 * hints + 2}"
    for i in range(_count(keys, r"controlnet_down_blocks\.(\d+)\.")):
        places[f"controlnet_down_blocks.{i}"] = f"zero_convs.{i}.0"
    return {key: _rename(key, places) for key in keys}


def vae_names(keys: Iterable[str]) -> dict[str, str]:
    """Name the keys of an AutoencoderTiny: {diffusers key: host key}. The host's decoder starts
    with a clamp.
    """

    def name(key: str) -> str:
        part, _, layer, parameter = key.split(".", 3)
        return f"taesd_{part}.{int(layer) + (part == 'decoder')}.{parameter}"

    return {key: name(key) for key in keys}


def text_names(keys: Iterable[str]) -> dict[str, str]:
    """Name the keys of a CLIPTextModel: {transformers key: host key}; `text_model.` fell away in
    version 5.
    """
    return {key: key.removeprefix("text_model.") for key in keys}


def unet_to_ldm(unet: nn.Module) -> Tensors:
    """Rename a UNet2DConditionModel's weights, with the prefix they have in a checkpoint."""
    return rename_tensors(unet, unet_names, UNET)


def controlnet_to_ldm(controlnet: nn.Module) -> Tensors:
    """Rename a ControlNetModel's weights, as ControlNet files have them."""
    return rename_tensors(controlnet, unet_names, "")


def vae_to_ldm(vae: nn.Module, latent_scale: float, latent_shift: float) -> Tensors:
    """Rename an AutoencoderTiny's weights and its latents' normalization, with a checkpoint's
    prefix.
    """
    scale = mini.HOST_LATENT_SCALE / latent_scale
    return {
        **rename_tensors(vae, vae_names, VAE),
        VAE + "vae_scale": torch.tensor(scale),
        VAE + "vae_shift": torch.tensor(-latent_shift / scale),
    }


def text_to_ldm(text_encoder: nn.Module, token_ids: Sequence[int]) -> Tensors:
    """Rename a CLIPTextModel's weights and the CLIP ids of its rows, with a checkpoint's prefix."""
    return {
        **rename_tensors(text_encoder, text_names, TEXT),
        TOKEN_IDS: torch.tensor(token_ids, dtype=torch.int32),
    }


def unet_from_ldm(unet: Module, tensors: Mapping[str, Tensor]) -> Module:
    """Fill a UNet2DConditionModel from a checkpoint's tensors."""
    return fill_module(unet, tensors, unet_names, UNET)


def controlnet_from_ldm(controlnet: Module, tensors: Mapping[str, Tensor]) -> Module:
    """Fill a ControlNetModel from a ControlNet file's tensors."""
    return fill_module(controlnet, tensors, unet_names, "")


def text_from_ldm(text_encoder: Module, tensors: Mapping[str, Tensor]) -> Module:
    """Fill a CLIPTextModel from a checkpoint's tensors."""
    return fill_module(text_encoder, tensors, text_names, TEXT)


def save_checkpoint(
    path: str | Path, checkpoint: Checkpoint, dtype: torch.dtype = torch.int8
) -> None:
    """Write a mini checkpoint for the host's stock CheckpointLoaderSimple.

    At 8 bits a weight, which the model family (host/mini_family.py) restores, the UNet predicts
    noise that is off by 1 % of its size.
    """
    tensors = {
        **unet_to_ldm(checkpoint.unet),
        **text_to_ldm(checkpoint.text_encoder, checkpoint.token_ids),
        **vae_to_ldm(checkpoint.vae, checkpoint.latent_scale, checkpoint.latent_shift),
    }
    weights.save(path, tensors, _facts("checkpoint"), dtype)


def save_controlnet(
    path: str | Path, controlnet: nn.Module, dtype: torch.dtype = torch.float16
) -> None:
    """Write a mini ControlNet for the host's stock ControlNetLoader."""
    weights.save(path, controlnet_to_ldm(controlnet), _facts("controlnet"), dtype)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read what `save_checkpoint` wrote, as float32 modules in eval mode. ValueError for other
    files.
    """
    return _built(path, "checkpoint", _checkpoint)


def load_controlnet(path: str | Path) -> ControlNetModel:
    """Read what `save_controlnet` wrote, as float32 module in eval mode. ValueError for other
    files.
    """

    def build(tensors: Tensors) -> ControlNetModel:
        empty = networks.build_controlnet(networks.build_unet())
        return controlnet_from_ldm(empty, tensors).eval()

    return _built(path, "controlnet", build)


def _facts(method: str) -> dict[str, str | int | float]:
    return {"method": method, "version": 1, "base": mini.NAME}


def _checkpoint(tensors: Tensors) -> Checkpoint:
    token_ids = tensors[TOKEN_IDS].tolist()
    text_encoder = networks.build_text_encoder(len(token_ids))
    scale, shift = (tensors[VAE + name].item() for name in ("vae_scale", "vae_shift"))
    return Checkpoint(
        unet=unet_from_ldm(networks.build_unet(), tensors).eval(),
        text_encoder=text_from_ldm(text_encoder, tensors).eval(),
        vae=fill_module(networks.build_vae(), tensors, vae_names, VAE).eval(),
        token_ids=token_ids,
        latent_scale=mini.HOST_LATENT_SCALE / scale,
        latent_shift=-shift * scale,
    )


def _built(path: str | Path, method: str, build: Callable[[Tensors], Built]) -> Built:
    tensors, _ = weights.load(path, method=method, base=mini.NAME)
    try:
        return build(tensors)
    except weights.MISFITS as error:
        raise ValueError(
            f"{path}: expected a {method} with the numbers of models/mini.py, "
            f"found another: {error}"
        ) from error


def _count(keys: Iterable[str], pattern: str) -> int:
    """Count the numbers 0, 1, ... that keys have in the group of `pattern`, from their start."""
    matches = (re.match(pattern, key) for key in keys)
    return 1 + max((int(match[1]) for match in matches if match), default=-1)


def _rename(key: str, places: Mapping[str, str]) -> str:
    parts = key.split(".")
    for n in range(len(parts) - 1, 0, -1):
        place, inner = ".".join(parts[:n]), parts[n:]
        if place in places:
            if ".resnets." in place:
                inner[0] = _RESNET[inner[0]]
            return ".".join([places[place], *inner])
    raise KeyError(f"no LDM name is known for '{key}'")


def rename_tensors(module: nn.Module, names: Names, prefix: str) -> Tensors:
    """Rename a module's tensors: a prefix, and the name that `names` gives each key."""
    tensors = module.state_dict()
    return {prefix + name: tensors[key] for key, name in names(tensors).items()}


def fill_module(module: Module, tensors: Mapping[str, Tensor], names: Names, prefix: str) -> Module:
    """Fill `module` from tensors; ValueError unless each of its own comes in its shape."""
    empty = module.state_dict()
    full = {}
    for key, name in names(empty).items():
        tensor = tensors.get(prefix + name)
        if tensor is None or tensor.shape != empty[key].shape:
            shape = "nothing" if tensor is None else list(tensor.shape)
            raise ValueError(f"'{prefix + name}' should be {list(empty[key].shape)}, is {shape}")
        full[key] = tensor
    module.load_state_dict(full)
    return module
