"""Trainer of the base model: UNet and text encoder together, from scratch or further."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch.utils.data import Dataset

from .denoise import Denoiser, DenoisingLoss
from .loop import Schedule, fit


def train_base(
    model: Denoiser,
    latents: Dataset,
    loss: DenoisingLoss,
    schedule: Schedule,
    out: Path,
    *,
    preview: Callable[[Denoiser, Path], None] | None = None,
) -> Denoiser:
    """Train UNet and text encoder, and the ControlNet beside them if `model` has one and
    `loss.controlled` > 0.

    Learning with control from the start costs a third more per step and spares a second run; the
    share of each batch that runs free keeps the base usable alone. Return `model` with EMA
    weights.
    """
    model.requires_grad_(True)
    fit(model, loss, latents, schedule, out, collate=list, preview=preview)
    return model
