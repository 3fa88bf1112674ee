"""Evaluators of poses: a small network that finds the 18 OpenPose joints of one
person in an image, and another of the same make for the 21 joints of a hand.

Trained on the world's own renders, so they know bodies of this world and nothing else; their error
on real renders is reported beside every measurement made with them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu
from torch.utils.data import Dataset

from ...models import weights
from ..training.loop import Schedule, fit

BODY_JOINTS, HAND_JOINTS = 18, 21
STRIDE = 4  # pixels per heat map cell
SPREAD = 1.5  # radius of a heat map's blob, cells
EVALUATOR_WEIGHTS = Path(__file__).parent / "weights"
POSENET = EVALUATOR_WEIGHTS / "mini_posenet.safetensors"
HANDNET = EVALUATOR_WEIGHTS / "mini_handnet.safetensors"


class PoseNet(nn.Module):
    """Find joints: images [B,3,H,W] in 0..1 -> heat maps [B,joints,H/4,W/4], logits. `features`
    gives its five levels.
    """

    def __init__(self, joints: int = BODY_JOINTS, width: int = 32) -> None:
        super().__init__()
        sizes = [width, width * 2, width * 2, width * 3, width * 4]
        self.down = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 3, 2, 1, bias=False),
                nn.BatchNorm2d(b),
                nn.ReLU(),
                nn.Conv2d(b, b, 3, 1, 1, bias=False),
                nn.BatchNorm2d(b),
                nn.ReLU(),
            )
            for a, b in zip([3, *sizes], sizes, strict=False)
        )
        self.across = nn.ModuleList(nn.Conv2d(s, width * 2, 1) for s in sizes[1:])
        self.head = nn.Sequential(
            nn.Conv2d(width * 2, width * 2, 3, 1, 1), nn.ReLU(), nn.Conv2d(width * 2, joints, 1)
        )

    def features(self, x: Tensor) -> list[Tensor]:
        """Compute feature maps at strides 2, 4, 8, 16 and 32."""
        levels = []
        for block in self.down:
            x = block(x)
            levels.append(x)
        return levels

    def forward(self, x: Tensor) -> Tensor:
        levels = self.features(x * 2 - 1)
        y = self.across[-1](levels[-1])
        for level, side in zip(levels[-2:0:-1], list(self.across)[-2::-1], strict=True):
            y = relu(side(level) + interpolate(y, size=level.shape[-2:], mode="nearest"))
        return self.head(y)


def heat_maps(joints: Tensor, height: int, width: int) -> Tensor:
    """Draw the targets [B,J,height,width] in 0..1 of joints [B,J,2] in pixels; cells are STRIDE
    pixels.
    """
    y = (torch.arange(height).to(joints) + 0.5) * STRIDE
    x = (torch.arange(width).to(joints) + 0.5) * STRIDE
    dy, dx = (
        y[None, None, :, None] - joints[..., 1, None, None],
        x[None, None, None, :] - joints[..., 0, None, None],
    )
    return torch.exp(-(dx * dx + dy * dy) / (2 * (SPREAD * STRIDE) ** 2))


@torch.no_grad()
def find_joints(net: PoseNet, images: Tensor) -> Tensor:
    """Read joints [B,J,2] in pixels from the heat maps' peaks, refined by the center of mass of
    their 3 x 3 neighborhood.
    """
    heat = net(images).sigmoid()
    b, j, h, w = heat.shape
    peak = heat.flatten(2).argmax(-1)
    y, x = (peak // w).clamp(1, h - 2), (peak % w).clamp(1, w - 2)
    offsets = torch.tensor([-1, 0, 1], device=heat.device)
    rows, columns = y[..., None, None] + offsets[:, None], x[..., None, None] + offsets
    near = heat.flatten(2).gather(2, (rows * w + columns).flatten(2)).view(b, j, 3, 3)
    total = near.sum((-2, -1)).clamp(min=1e-6)
    cx = (near * (columns + 0.5)).sum((-2, -1)) / total
    cy = (near * (rows + 0.5)).sum((-2, -1)) / total
    return torch.stack((cx, cy), -1) * STRIDE


def _loss(net: nn.Module, batch: list[dict], g: torch.Generator) -> Tensor:
    """Cross-entropy of the heat maps, on images blurred, tinted and noised as if generated."""
    device = next(net.parameters()).device
    x = torch.stack([item["rgb"] for item in batch]).float() / 255
    joints = torch.stack([item["joints"] for item in batch])
    soft = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
    x = torch.lerp(x, soft, torch.rand(len(x), 1, 1, 1, generator=g))
    x = x * (0.8 + 0.4 * torch.rand(len(x), 3, 1, 1, generator=g)) + 0.04 * torch.randn(
        x.shape, generator=g
    )
    logits = net(x.to(device)).float()
    target = heat_maps(joints.to(device), *logits.shape[-2:])
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, target) * 10


def train_posenet(
    people: Dataset, schedule: Schedule, out: Path, joints: int = BODY_JOINTS
) -> PoseNet:
    """Train a pose evaluator on items {"rgb" uint8 [3,H,W], "joints" [joints,2] pixels}, one
    person or hand each.
    """
    torch.manual_seed(schedule.seed)
    net = PoseNet(joints)
    fit(net, _loss, people, schedule, out, collate=list)
    return net


def save_posenet(net: PoseNet, path: Path = POSENET) -> None:
    """Write the evaluator's weights, of 8 bits each."""
    facts: dict[str, str | int | float] = {"method": "posenet", "version": 1, "base": "mini"}
    weights.save(path, net.state_dict(), facts, torch.int8)


def load_posenet(path: Path = POSENET) -> PoseNet:
    """Load a pose evaluator, in eval mode."""
    tensors, _ = weights.load(path, method="posenet", base="mini")
    net = PoseNet(joints=len(tensors["head.2.bias"]))
    net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
    return net.eval()
