"""Evaluator of surfaces: a small network that sees where bodies are in an image,
how near they are and where they face.

Trained on the world's own renders and on the same after the autoencoder, for images, depth
images and normal images alike; its error on true images is reported beside every measurement
made with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits, normalize
from torch.utils.data import Dataset

from ...models import structure
from ..training.loop import Schedule, fit
from ..world.dataset import WorldDataset
from . import stored
from .posenet import EVALUATOR_WEIGHTS, STRIDE, PoseNet

SURFACENET = EVALUATOR_WEIGHTS / "mini_surfacenet.safetensors"
KINDS = ("rgb", "depth", "normal")
READ = 5  # where, how near, three of where it faces


class Surfaces(NamedTuple):
    """Hold what is read in images, at STRIDE pixels per cell."""

    presence: Tensor  # [B, h, w] in 0..1: how surely a body is there
    depth: Tensor  # [B, h, w] in 0..1, near is 1
    normal: Tensor  # [B, 3, h, w] unit


class SurfaceImages(Dataset):
    """Serve each scene as image, depth and normals, as the surface evaluator learns them.

    `passed` [kind][N,3,H,W]: the first scenes after the autoencoder, which come beside the rendered
    ones. Items: {"image" uint8 [3,H,W], "present" bool [H,W], "depth" uint8 [H,W], "normal" uint8
    [3,H,W]}.
    """

    def __init__(self, world: Path, passed: dict[str, np.ndarray]) -> None:
        self.world = WorldDataset(world, names=KINDS)
        self.passed, self.count = passed, len(passed[KINDS[0]])

    def __len__(self) -> int:
        return len(KINDS) * (len(self.world) + self.count)

    def __getitem__(self, i: int) -> dict:
        row, turn = divmod(i, len(KINDS))
        kind = KINDS[turn]
        item = self.world[row % len(self.world)]
        image = item[kind] if item[kind].dim() == 3 else item[kind].expand(3, -1, -1)
        if row >= len(self.world):
            image = torch.from_numpy(self.passed[kind][row - len(self.world)])
        depth = item["depth"]
        return {"image": image, "present": depth > 0, "depth": depth, "normal": item["normal"]}


def coarse(image: Tensor) -> Tensor:
    """Average images [B, C, H, W] over the evaluator's cells."""
    return avg_pool2d(image, STRIDE)


def read(net: PoseNet, images: Tensor) -> Surfaces:
    """Read the surfaces in images [B, 3, H, W] in 0..1, of any of KINDS."""
    with torch.no_grad():
        channels = torch.cat([net(chunk) for chunk in images.split(32)])
    return Surfaces(
        channels[:, 0].sigmoid(), channels[:, 1].clamp(0, 1), normalize(channels[:, 2:], dim=1)
    )


def _loss(net: nn.Module, batch: list[dict], g: torch.Generator) -> Tensor:
    """Cross-entropy of where, and on bodies the errors of depth and direction, of images blurred
    and noised as if generated.
    """
    device = next(net.parameters()).device
    x = torch.stack([item["image"] for item in batch]).float() / 255
    x = torch.lerp(x, avg_pool2d(x, 3, 1, 1), torch.rand(len(x), 1, 1, 1, generator=g))
    x = x + 0.03 * torch.randn(x.shape, generator=g)
    presence = coarse(torch.stack([item["present"] for item in batch])[:, None].float()).to(device)
    depth = coarse(torch.stack([item["depth"] for item in batch])[:, None].float() / 255).to(device)
    normal = coarse(torch.stack([item["normal"] for item in batch]).float() / 255).to(device)
    channels = net(x.to(device)).float()
    inside = presence > 0.5
    share = inside.float().sum().clamp(min=1)
    near = (channels[:, 1:2] - depth).abs() * inside
    facing = (channels[:, 2:] - structure.image_to_normals(normal)).abs().mean(
        1, keepdim=True
    ) * inside
    where = binary_cross_entropy_with_logits(channels[:, :1], presence)
    return where + (near.sum() + facing.sum()) / share


def train_surfacenet(data: Dataset, schedule: Schedule, out: Path) -> PoseNet:
    """Train the surface evaluator on SurfaceImages."""
    torch.manual_seed(schedule.seed)
    net = PoseNet(READ)
    fit(net, _loss, data, schedule, out, collate=list)
    return net


def save_surfacenet(net: PoseNet, path: Path = SURFACENET) -> None:
    stored.save(net, path, "surfacenet")


def load_surfacenet(path: Path = SURFACENET) -> PoseNet:
    """Load the surface evaluator, in eval mode."""
    return stored.load(PoseNet(READ), path, "surfacenet")
