"""The hand generator of "Giving a Hand" (Pelykh et al. 2024, arXiv 2403.10731), stage 1: a denoiser
that sees the hand's keypoints as further input channels and says where in its picture the hand is.

The paper names heat maps, a mask and a multi-task loss; their layout and weights are ours. Input
channels that a first convolution is widened by are a second convolution added to it, so the
network fits any UNet without changing its shape.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from .hands import FINGERS

SPREAD = 0.7  # of a heat map's line, latent cells
CHANNELS = 2 * (1 + len(FINGERS))  # per hand, left first: wrist, thumb to little finger
STRIDE = 8  # pixels per latent cell


def heat_maps(left: Tensor, right: Tensor, cell: float, height: int, width: int) -> Tensor:
    """Keypoints [21, 3] of both hands in pixels -> [CHANNELS, height, width] in 0..1 on cells of
    `cell` pixels: a channel per finger per hand, so that neither fingers nor hands can swap.
    """
    lines = [hand[list(part)] for hand in (left, right) for part in ((0,), *FINGERS)]
    return torch.stack([_line(points, cell, height, width) for points in lines])


def _line(points: Tensor, cell: float, height: int, width: int) -> Tensor:
    """exp(-d^2 / 2 SPREAD^2), d the distance to the line through the known points [K, 3]."""
    known = points[points[:, 2] > 0, :2] / cell
    if not len(known):
        return torch.zeros(height, width)
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    at = torch.stack((x, y), -1)
    starts, ends = known[: max(1, len(known) - 1)], known[-max(1, len(known) - 1) :]
    axis = ends - starts  # [segments, 2]
    offset = at[..., None, :] - starts  # [h, w, segments, 2]
    along = (offset * axis).sum(-1) / axis.square().sum(-1).clamp(min=1e-6)
    square = (offset - along.clamp(0, 1)[..., None] * axis).square().sum(-1)
    return torch.exp(-square.amin(-1) / (2 * SPREAD**2))


class HandGenerator(nn.Module):
    """What is added to a UNet whose first and last features have `channels` channels."""

    def __init__(self, channels: int, widths: tuple[int, int] = (48, 24)) -> None:
        super().__init__()
        first, second = widths
        self.hint = nn.Conv2d(CHANNELS, channels, 3, padding=1)
        nn.init.zeros_(self.hint.weight)
        nn.init.zeros_(self.hint.bias)  # type: ignore[arg-type]
        self.mask = nn.Sequential(
            nn.GroupNorm(32, channels), nn.SiLU(),
            nn.ConvTranspose2d(channels, first, 4, 2, 1), nn.SiLU(),
            nn.ConvTranspose2d(first, second, 4, 2, 1), nn.SiLU(),
            nn.ConvTranspose2d(second, 1, 4, 2, 1),
        )  # fmt: skip

    def predict_mask(self, features: Tensor) -> Tensor:
        """The UNet's last features [B, C, h, w], before its head -> logits [B, 8h, 8w]."""
        return self.mask(features)[:, 0]


class Loaded(NamedTuple):
    """A hand generator from its file."""

    network: HandGenerator
    low_rank: dict[str, Tensor]  # what it changes in the UNet, in the keys of LoRA files
    name: str


def mask_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy plus Dice (Milletari et al. 2016) per picture: [B, H, W] -> [B]."""
    entropy = binary_cross_entropy_with_logits(logits, target, reduction="none").mean((1, 2))
    found = logits.sigmoid()
    both = (found * target).sum((1, 2))
    dice = 1 - (2 * both + 1) / (found.sum((1, 2)) + target.sum((1, 2)) + 1)
    return entropy + dice
