"""The base that a trainer works on, from the checkpoint file that artists use: the mini family's or
an SD1.5's. Sizes are read from the tensors, so fine-tunes and shrunk copies load alike; nothing is
downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from ...models import mini, weights
from . import convert, networks, preview
from .tokens import WordTokenizer, word_pieces

SD15 = "sd15"
HEADS = 8  # of SD1.5's UNet, at every level; no tensor tells
HEAD_WIDTH = 64  # of CLIP
LAYERS = convert.TEXT + "encoder.layers."
TOKENIZER = Path("comfy", "sd1_tokenizer")  # in a ComfyUI folder

Tokenizer = Callable[[Sequence[str]], Tensor]
Pieces = Callable[[Sequence[int]], Sequence[str | None]]


class Base(NamedTuple):
    """Frozen networks, float32 in eval mode, and how texts and images come to them. UNet and text
    encoder lie on the CPU, from where a trainer takes them.
    """

    name: str  # mini or sd15, as `vitruvian.base` has it
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: Tokenizer  # -> ids [B, 77]
    pieces: Pieces  # token ids as CLIP's vocabulary spells them; None: begin, end and padding
    encode: Callable[[Tensor], Tensor]  # images [B,3,8h,8w] in 0..1 -> latents [B,4,h,w]
    decode: Callable[[Tensor], Tensor]
    size: int  # of its images, pixels


def open_base(path: str | Path) -> Base:
    """Open the base of a checkpoint file; ValueError, naming the file, if it is no mini or SD1.5
    one.

    SD1.5's tokenizer is taken from the ComfyUI folder that COMFYUI_PATH names.
    """
    tensors = weights.load_any(path, "a checkpoint of the mini family or of SD1.5's kind")
    if convert.TOKEN_IDS in tensors:
        return _open_mini(path)
    try:
        unet, text = _unet(tensors), _text_encoder(tensors)
        vae = _autoencoder(tensors)
    except weights.MISFITS as error:
        raise ValueError(f"{path} is not a checkpoint of SD1.5's kind: {error}") from error
    tokenizer, pieces = _clip_tokenizer()
    return Base(
        SD15, unet, text, tokenizer, pieces, partial(_encode, vae), partial(_decode, vae), 512
    )


def _open_mini(path: str | Path) -> Base:
    checkpoint = convert.load_checkpoint(path)
    tokenizer = WordTokenizer.from_file(token_ids=checkpoint.token_ids)
    return Base(
        mini.NAME,
        checkpoint.unet,
        checkpoint.text_encoder,
        tokenizer,
        word_pieces(tokenizer.words),
        partial(preview.encode, checkpoint),
        partial(preview.decode, checkpoint),
        mini.IMAGE_SIZE,
    )


def unet_layout(tensors: convert.Tensors) -> mini.UNet:
    """Read the numbers of an SD1.5-like UNet from its tensors' shapes."""
    unet = {key.removeprefix(convert.UNET): t for key, t in tensors.items()}
    channels = len(unet["input_blocks.0.0.weight"])
    levels: list[list[tuple[int, bool]]] = [[]]  # of each block: width, whether it attends
    blocks = {int(key.split(".")[1]) for key in unet if key.startswith("input_blocks.")}
    for block in range(1, len(blocks)):
        weight = unet.get(f"input_blocks.{block}.0.out_layers.3.weight")
        if weight is None:  # a downsampling
            levels.append([])
        else:
            attends = f"input_blocks.{block}.1.norm.weight" in unet
            levels[-1].append((len(weight) // channels, attends))
    return mini.UNet(
        model_channels=channels,
        channel_mult=tuple(level[0][0] for level in levels),
        res_blocks=len(levels[0]),
        attention=tuple(level[0][1] for level in levels),
        heads=HEADS,
        context_dim=unet["middle_block.1.transformer_blocks.0.attn2.to_k.weight"].shape[1],
    )


def _unet(tensors: convert.Tensors) -> UNet2DConditionModel:
    return convert.unet_from_ldm(networks.build_unet(unet_layout(tensors)), tensors).eval()


def _text_encoder(tensors: convert.Tensors) -> CLIPTextModel:
    rows, width = tensors[convert.TEXT + "embeddings.token_embedding.weight"].shape
    layers = {key.removeprefix(LAYERS).split(".")[0] for key in tensors if key.startswith(LAYERS)}
    layout = mini.TextEncoder(
        hidden=width,
        layers=len(layers),
        heads=max(1, width // HEAD_WIDTH),
        intermediate=len(tensors[LAYERS + "0.mlp.fc1.weight"]),
    )
    return convert.text_from_ldm(networks.build_text_encoder(rows, layout), tensors).eval()


def _autoencoder(tensors: convert.Tensors) -> AutoencoderKL:
    """Build SD1.5's autoencoder, of any width."""
    down = f"{convert.VAE}encoder.down."
    widths = [
        len(tensors[f"{down}{level}.block.0.conv1.weight"])
        for level in range(8)
        if f"{down}{level}.block.0.conv1.weight" in tensors
    ]
    if not widths:
        raise ValueError(f"it has no '{down}...', the autoencoder of SD1.5")
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=tuple(widths),
        layers_per_block=2,
        latent_channels=mini.LATENT_CHANNELS,
    )
    vae.load_state_dict(convert_ldm_vae_checkpoint(tensors, vae.config))
    return vae.eval().to("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def _encode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    device = next(vae.parameters()).device
    latents = vae.encode(images.to(device) * 2 - 1).latent_dist.mode()
    return latents.cpu() * mini.HOST_LATENT_SCALE


@torch.no_grad()
def _decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    device = next(vae.parameters()).device
    x = vae.decode(latents.to(device) / mini.HOST_LATENT_SCALE).sample
    return (x / 2 + 0.5).clamp(0, 1).cpu()


def _clip_tokenizer() -> tuple[Tokenizer, Pieces]:
    folder = Path(os.environ.get("COMFYUI_PATH", ".")) / TOKENIZER
    if not (folder / "vocab.json").is_file():
        raise ValueError(
            f"SD1.5's tokenizer is not in {folder}: set COMFYUI_PATH to your ComfyUI folder."
        )
    clip: Any = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    marks = frozenset(clip.all_special_ids)  # padding is the end mark

    def tokenize(texts: Sequence[str]) -> Tensor:
        return clip(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=mini.TEXT.positions,
            return_tensors="pt",
        ).input_ids

    def pieces(ids: Sequence[int]) -> list[str | None]:
        spelled = zip(ids, clip.convert_ids_to_tokens(list(ids)), strict=True)
        return [None if number in marks else piece for number, piece in spelled]

    return tokenize, pieces
