"""Generate hands from keypoints: the network that is added to a UNet, its input and its loss.

This is stage 1 of "Giving a Hand" (Pelykh et al. 2024, arXiv 2403.10731): a denoiser that reads the
hand's keypoints as further input channels and predicts the hand's mask. The paper names heat maps,
a mask and a multi-task loss; their layout and weights are our choice.

Further input channels of the first convolution equal a second network that is added to its output.
Here they are that second network. So they fit any UNet without changing its shape, and may be finer
than its latents: a finger is as wide as one or two latent cells.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from .hands import FINGERS

VERSION = 2  # of the file
FINE, MIDDLE, COARSE = 32, 64, 96  # channels of KeypointFeatures
SPREAD = 1.5  # of a heat map's line, heat cells
CHANNELS = 2 * (1 + len(FINGERS))  # per hand, left first: wrist, thumb to little finger
STRIDE = 8  # pixels per latent cell
DETAIL = 4  # heat cells per latent cell, each way


def heat_maps(left: Tensor, right: Tensor, cell: float, height: int, width: int) -> Tensor:
    """Draw keypoints [21, 3] of both hands as [CHANNELS, DETAIL height, DETAIL width] in 0..1.

    height and width count latent cells, cell is their side in pixels. Each finger of each hand has
    its own channel, so that neither fingers nor hands can be confused.
    """
    lines = [hand[list(part)] for hand in (left, right) for part in ((0,), *FINGERS)]
    size = DETAIL * height, DETAIL * width
    return torch.stack([_line(points, cell / DETAIL, *size) for points in lines])


def _line(points: Tensor, cell: float, height: int, width: int) -> Tensor:
    """exp(-d^2 / 2 SPREAD^2), d the distance to the line through the visible points [K, 3]."""
    visible = points[points[:, 2] > 0, :2] / cell
    if not len(visible):
        return torch.zeros(height, width)
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    at = torch.stack((x, y), -1)
    starts, ends = visible[: max(1, len(visible) - 1)], visible[-max(1, len(visible) - 1) :]
    axis = ends - starts  # [segments, 2]
    offset = at[..., None, :] - starts  # [h, w, segments, 2]
    along = (offset * axis).sum(-1) / axis.square().sum(-1).clamp(min=1e-6)
    square = (offset - along.clamp(0, 1)[..., None] * axis).square().sum(-1)
    return torch.exp(-square.amin(-1) / (2 * SPREAD**2))


class KeypointFeatures(NamedTuple):
    """Hold features of heat maps at their resolution, at half and at a quarter of it."""

    fine: Tensor  # [B, FINE, 4h, 4w]
    middle: Tensor  # [B, MIDDLE, 2h, 2w]
    first: Tensor  # [B, channels, h, w], added to the UNet's first features


class HandGenerator(nn.Module):
    """Add keypoints to a UNet, and predict the hand's mask.

    channels: of the UNet's first and last features. The mask is predicted from both the keypoints,
    which say to the pixel where the hand should be, and the last features, which say where it is.
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
        """Encode heat maps [B, CHANNELS, 4h, 4w] for the UNet and for the mask."""
        fine = self.fine(heat)
        middle = self.middle(fine)
        return KeypointFeatures(fine, middle, self.first(self.coarse(middle)))

    def predict_mask(self, features: Tensor, keypoints: KeypointFeatures) -> Tensor:
        """Predict the mask's logits [B, 8h, 8w] from the UNet's last features [B, C, h, w]."""
        x = self.seen(features) + keypoints.middle
        return self.finest(self.finer(x) + keypoints.fine)[:, 0]


class LoadedHandGenerator(NamedTuple):
    """Hold a hand generator as loaded from its file."""

    network: HandGenerator
    low_rank: dict[str, Tensor]  # its LoRA of the UNet, with the keys of LoRA files
    name: str


def mask_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Compute cross-entropy plus Dice loss (Milletari et al. 2016) per image: [B, H, W] -> [B]."""
    entropy = binary_cross_entropy_with_logits(logits, target, reduction="none").mean((1, 2))
    predicted = logits.sigmoid()
    overlap = (predicted * target).sum((1, 2))
    dice = 1 - (2 * overlap + 1) / (predicted.sum((1, 2)) + target.sum((1, 2)) + 1)
    return entropy + dice
