"""Trainer of a ControlNet on a frozen base (Zhang et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch.utils.data import Dataset

from .denoise import Denoiser, DenoisingLoss
from .loop import Schedule, fit


def train_controlnet(
    model: Denoiser,
    latents: Dataset,
    loss: DenoisingLoss,
    schedule: Schedule,
    out: Path,
    *,
    preview: Callable[[Denoiser, Path], None] | None = None,
) -> Denoiser:
    """Train only `model.controlnet`; the UNet and the text encoder stay as they are. Returns
    `model` with EMA weights.
    """
    if model.controlnet is None:
        raise ValueError(
            "train_controlnet needs a Denoiser with a ControlNet (networks.build_controlnet)"
        )
    model.requires_grad_(False)
    model.controlnet.requires_grad_(True)
    fit(model, replace(loss, controlled=1.0), latents, schedule, out, collate=list, preview=preview)
    return model
