"""Compute features of pose images, with which the maps of the human-centric prior are aligned.

HcP (Wang et al. 2024, arXiv 2403.05239) names a pretrained, frozen ResNet-50 as one such encoder.
Which of its stages it takes is not known, so all four are returned.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from .plain_words import size
from .weights import load_any

MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colors
STRIDES = (
    8,
    16,
    32,
    64,
)  # of `image_features`: a UNet's four grids, from 8 pixels a latent cell on

Features = Callable[[Tensor], Sequence[Tensor]]


def image_features(images: Tensor) -> list[Tensor]:
    """Average images [B,3,H,W] to H and W divided by each of STRIDES: features without weights."""
    height, width = images.shape[2:]
    return [interpolate(images, (-(-height // s), -(-width // s)), mode="area") for s in STRIDES]


def resnet50(path: Path) -> Features:
    """Load a ResNet-50 (He et al. 2016) as a function that computes features.

    path: a .safetensors file of weights with the names of torchvision and timm. The function maps
    images [B,3,H,W] in 0..1 to [B,256,H/4,W/4], [B,512,H/8,W/8], [B,1024,H/16,W/16] and
    [B,2048,H/32,W/32], and moves the network to their device. Raises ValueError for another file.
    """
    from torchvision.models import resnet50 as build

    net = build()
    net.fc = nn.Identity()  # only classes come after the features
    net.load_state_dict(_fitting(path, net.state_dict()), strict=False)
    net.eval().requires_grad_(False)

    def features(images: Tensor) -> list[Tensor]:
        net.to(images.device)
        return _levels(net, images)

    return features


def _levels(net: Any, images: Tensor) -> list[Tensor]:
    mean, spread = (images.new_tensor(c).view(3, 1, 1) for c in (MEAN, SPREAD))
    x = net.maxpool(net.relu(net.bn1(net.conv1((images - mean) / spread))))
    levels = []
    for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
        x = layer(x)
        levels.append(x)
    return levels


def _fitting(path: Path, layout: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The file's tensors, if they are those of the layout; batch norm counters may be missing."""
    expected = f"{path}: expected the weights of a ResNet-50 as .safetensors"
    tensors = load_any(path, "the weights of a ResNet-50")
    weights = {key: t for key, t in tensors.items() if not key.startswith("fc.")}
    for key in sorted({*layout, *weights}):
        expected_size = f"{size(layout[key].shape)} numbers" if key in layout else "nothing"
        size_there = f"{size(weights[key].shape)} numbers" if key in weights else "nothing"
        if expected_size != size_there and not key.endswith("num_batches_tracked"):
            raise ValueError(f"{expected}, with {expected_size} at '{key}', found {size_there}.")
    return weights


@torch.no_grad()
def feature_differences(features: Features, images: Tensor) -> list[Tensor]:
    """Subtract the features of an empty image from those of pose images.

    The remaining features are large where the pose is.
    """
    empty = features(torch.zeros_like(images[:1]))
    return [level - none for level, none in zip(features(images), empty, strict=True)]
