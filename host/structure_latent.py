"""LATENTs of joint denoising: empty, split, joined; and the pose as a latent in a conditioning."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..models.batches import one_each, paired_count
from ..models.mini import LATENT_CHANNELS
from ..models.plain_words import size
from .structure_unet import CHANNELS, split_modalities

POSE_LATENT = "vitruvian_structure_pose"  # in a conditioning: [B, 4, h, w] as nodes carry latents


def empty_latent(width: int, height: int, batch: int, device: Any) -> dict[str, Any]:
    """Make a LATENT of zeros for images of width x height pixels."""
    return {"samples": torch.zeros(batch, CHANNELS, height // 8, width // 8, device=device)}


def split(latent: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Split a joint LATENT into those of image, depth and normals."""
    samples = latent["samples"]
    if samples.dim() != 4 or samples.shape[1] != CHANNELS:
        raise ValueError(
            f"the input 'latent' has {size(samples.shape)} numbers, expected images x {CHANNELS} "
            "channels x height x width: connect a sampler whose model comes from Load Structure "
            "Model."
        )
    return [{**latent, "samples": part} for part in split_modalities(samples)]


def join(latents: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Join three LATENTs, by the names of their inputs. A single image serves all of the others;
    a mask is taken from the first.
    """
    first, batches = next(iter(latents.values())), []
    count = paired_count({name: len(latent["samples"]) for name, latent in latents.items()})
    for name, latent in latents.items():
        shape, expected = latent["samples"].shape, first["samples"].shape
        if shape[1:] != (LATENT_CHANNELS, *expected[2:]):
            raise ValueError(
                f"the input '{name}' has {size(shape)} numbers, expected "
                f"{size((shape[0], LATENT_CHANNELS, *expected[2:]))} (images x channels x height x "
                "width): encode images of one size with one VAE."
            )
        batches.append(torch.stack(one_each(latent["samples"], count)))
    return {**first, "samples": torch.cat(batches, 1)}


def encode_pose(vae: Any, pose_images: Tensor) -> Tensor:
    """Encode pose images [B, H, W, 3] as latents relative to a black image, so that no pose is
    zero.
    """
    black = torch.zeros_like(pose_images[:1, ..., :3])
    return vae.encode(pose_images[..., :3]) - vae.encode(black)


def with_entries(conditioning: Any, entries: Mapping[str, Any]) -> Any:
    """Add entries to every text of a CONDITIONING."""
    return [[text, {**entry, **entries}] for text, entry in conditioning]
