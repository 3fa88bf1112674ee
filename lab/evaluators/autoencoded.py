"""Pass images through the autoencoder, which all generated ones have passed."""

from __future__ import annotations

import torch
from torch import Tensor

from ..training import convert, preview
from ..training.loop import native_precision

CHUNK = 16  # images


def round_trip(images: Tensor) -> Tensor:
    """Encode and decode images [B,3,H,W]; the error of bf16 is far below the autoencoder's own."""
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    checkpoint.vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fast = native_precision() == "bf16"
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=fast):
        chunks = (preview.encode(checkpoint, chunk) for chunk in images.split(CHUNK))
        return torch.cat([preview.decode(checkpoint, latents).float() for latents in chunks])
