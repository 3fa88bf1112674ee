"""The hand generator of "Giving a Hand" (Pelykh et al. 2024, arXiv 2403.10731), stage 1: a denoiser
that sees the hand's keypoints as further input channels and says where in its picture the hand is.

The paper names heat maps, a mask and a multi-task loss; their layout and weights are ours. Input
channels that a first convolution is widened by are a second network added to its output, so they
fit any UNet without changing its shape, and may be finer than its latents: a finger is as wide as
one or two latent cells.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from .hands import FINGERS

VERSION = 2  # of the file
FINE, MIDDLE, COARSE = 32, 64, 96  # channels of a hint
SPREAD = 1.5  # of a heat map's line, heat cells
CHANNELS = 2 * (1 + len(FINGERS))  # per hand, left first: wrist, thumb to little finger
STRIDE = 8  # pixels per latent cell
DETAIL = 4  # heat cells per latent cell, each way


def heat_maps(left: Tensor, right: Tensor, cell: float, height: int, width: int) -> Tensor:
    """Keypoints [21, 3] of both hands in pixels -> [CHANNELS, DETAIL height, DETAIL width] in 0..1
    for height x width latent cells of `cell` pixels: a channel per finger per hand, so that neither
    fingers nor hands can swap.
    """
    lines = [hand[list(part)] for hand in (left, right) for part in ((0,), *FINGERS)]
    size = DETAIL * height, DETAIL * width
    return torch.stack([_line(points, cell / DETAIL, *size) for points in lines])


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


class KeypointFeatures(NamedTuple):
    """What a generator makes of heat maps, at the sides of heat cells, half of them, a quarter."""

    fine: Tensor  # [B, FINE, 4h, 4w]
    middle: Tensor  # [B, MIDDLE, 2h, 2w]
    first: Tensor  # [B, channels, h, w], what the UNet's first features get


class HandGenerator(nn.Module):
    """What is added to a UNet whose first and last features have `channels` channels: a hint made
    of the heat maps, and the head that reads the mask from features and hint. The keypoints say
    to the pixel where the hand should be, the features what became of it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.fine = nn.Sequential(nn.Conv2d(CHANNELS, FINE, 3, padding=1), nn.SiLU())
        self.middle = nn.Sequential(nn.Conv2d(FINE, MIDDLE, 4, 2, 1), nn.SiLU())
        self.coarse = nn.Sequential(nn.Conv2d(MIDDLE, COARSE, 4, 2, 1), nn.SiLU())
        self.first = nn.Conv2d(COARSE, channels, 3, padding=1)
        nn.init.zeros_(self.first.weight)
        nn.init.zeros_(self.first.bias)  # type: ignore[arg-type]
        self.seen = nn.Sequential(
            nn.GroupNorm(32, channels), nn.SiLU(), nn.ConvTranspose2d(channels, MIDDLE, 4, 2, 1)
        )
        self.finer = nn.Sequential(nn.SiLU(), nn.ConvTranspose2d(MIDDLE, FINE, 4, 2, 1))
        self.finest = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(FINE, FINE, 3, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(FINE, 1, 4, 2, 1),
        )

    def forward(self, heat: Tensor) -> KeypointFeatures:
        """Heat maps [B, CHANNELS, 4h, 4w] -> what they give to the UNet and to the mask."""
        fine = self.fine(heat)
        middle = self.middle(fine)
        return KeypointFeatures(fine, middle, self.first(self.coarse(middle)))

    def predict_mask(self, features: Tensor, hint: KeypointFeatures) -> Tensor:
        """The UNet's last features [B, C, h, w], before its head -> logits [B, 8h, 8w]."""
        x = self.seen(features) + hint.middle
        return self.finest(self.finer(x) + hint.fine)[:, 0]


class LoadedHandGenerator(NamedTuple):
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
