"""Evaluator of anatomy: a small network that tells a body of the right make from one with a limb
too many, too few, too long or too short.

Trained on renders of the world, and on the same with a body broken on purpose; some of both after
the autoencoder, all blurred and noised as if generated.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits
from torch.utils.data import Dataset

from ..training.loop import Schedule, fit
from . import stored
from .posenet import EVALUATOR_WEIGHTS, PoseNet, load_posenet

ANATOMYNET = EVALUATOR_WEIGHTS / "mini_anatomynet.safetensors"
BLUR, NOISE, TINT = 1.0, 0.04, 0.2  # at most


class AnatomyNet(nn.Module):
    """Judge bodies: images [B,3,H,W] in 0..1 of one person each -> logits [B], above 0 of the right
    make.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.body = PoseNet(width=width)
        del self.body.across, self.body.head
        self.head = nn.Sequential(
            nn.Linear(width * 11, width * 2), nn.ReLU(), nn.Linear(width * 2, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        *_, middle, last = self.body.features(images * 2 - 1)
        pooled = (last.mean((2, 3)), last.amax((2, 3)), middle.amax((2, 3)))
        return self.head(torch.cat(pooled, 1))[:, 0]


class MadeRightOrNot(Dataset):
    """Serve images uint8 [N,3,H,W] with whether their bodies are of the right make [N]."""

    def __init__(self, images: Tensor, is_right: Tensor) -> None:
        self.images, self.is_right = images, is_right

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict:
        return {"image": self.images[i], "right": self.is_right[i]}


def _loss(net: nn.Module, batch: list[dict], g: torch.Generator) -> Tensor:
    """Cross-entropy of images mirrored, blurred, tinted and noised as if generated."""
    device = next(net.parameters()).device
    x = torch.stack([item["image"] for item in batch]).float() / 255
    n = len(x)
    x = torch.where(torch.rand(n, 1, 1, 1, generator=g) < 0.5, x.flip(-1), x)
    x = torch.lerp(x, avg_pool2d(x, 3, 1, 1), BLUR * torch.rand(n, 1, 1, 1, generator=g))
    x = x * (1 - TINT + 2 * TINT * torch.rand(n, 3, 1, 1, generator=g))
    x = x + NOISE * torch.randn(x.shape, generator=g)
    right = torch.stack([item["right"] for item in batch]).float().to(device)
    return binary_cross_entropy_with_logits(net(x.to(device)).float(), right)


def train_anatomynet(data: Dataset, schedule: Schedule, out: Path) -> AnatomyNet:
    """Train the anatomy evaluator on MadeRightOrNot; it begins as the pose network, which knows
    limbs.
    """
    torch.manual_seed(schedule.seed)
    net = AnatomyNet()
    net.body.load_state_dict(load_posenet().state_dict(), strict=False)
    fit(net, _loss, data, schedule, out, collate=list)
    return net


def save_anatomynet(net: AnatomyNet, path: Path = ANATOMYNET) -> None:
    """Write the evaluator's weights, of 8 bits each."""
    stored.save(net, path, "anatomynet")


def load_anatomynet(path: Path = ANATOMYNET) -> AnatomyNet:
    """Load the anatomy evaluator, in eval mode."""
    return stored.load(AnatomyNet(), path, "anatomynet")
