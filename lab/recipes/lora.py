"""The mini LoRA: as many numbers as the human prior, trained on the same data for as many steps."""

from __future__ import annotations

import re

import torch
from torch import nn

from ...models import weights
from ..training import low_rank, preview
from ..training.denoise import Denoiser, DenoisingLoss
from ..training.loop import fit
from . import human_prior
from .recipe import Recipe, Run

LORA = preview.WEIGHTS / "loras" / "vitruvian_mini_lora.safetensors"
LAYERS = r".*attn[12]\.to_(q|k|v|out\.0)"  # those that are changed


def train(run: Run) -> None:
    """Train low-rank changes of the UNet's attention."""
    checkpoint, data, tokenizer = human_prior.text_data(run)
    torch.manual_seed(run.schedule.seed)
    low_rank.add_low_rank(checkpoint.unet, _equal_rank(checkpoint.unet), LAYERS)
    model = Denoiser(checkpoint.unet, checkpoint.text_encoder.requires_grad_(False))
    fit(model, DenoisingLoss(tokenizer), data, run.schedule, run.work / "lora", collate=list)
    facts = {"method": "lora", "base": "mini"}
    tensors = low_rank.low_rank_tensors(checkpoint.unet)
    weights.save(LORA, tensors, {**facts, "version": 1}, torch.float16)


def _equal_rank(unet: nn.Module) -> int:
    """The rank at which the changes of LAYERS have about as many numbers as the human prior."""
    prior, _ = weights.load(human_prior.HUMAN_PRIOR, method="human_prior")
    prior_size = sum(tensor.numel() for tensor in prior.values())
    matrices = [m.weight for n, m in unet.named_modules() if re.fullmatch(LAYERS, n)]
    size_per_rank = sum(sum(matrix.shape) for matrix in matrices)  # type: ignore[misc, arg-type]
    return max(1, round(prior_size / size_per_rank))


RECIPE = Recipe("lora", human_prior.SCHEDULE, train)
