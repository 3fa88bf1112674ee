"""Frozen features of pose images, which the human-centric prior's maps are aligned with (HcP, Wang
et al. 2024, arXiv 2403.05239). The paper names a pretrained ResNet-50 as one such encoder; which of
its stages it takes is not known, so all four are given.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours
STRIDES = (
    8,
    16,
    32,
    64,
)  # of `image_features`: a UNet's four grids, from 8 pixels a latent cell on

Features = Callable[[Tensor], Sequence[Tensor]]


def image_features(pictures: Tensor) -> list[Tensor]:
    """Pictures [B,3,H,W] themselves, averaged to H and W over STRIDES: features without weights."""
    height, width = pictures.shape[2:]
    return [interpolate(pictures, (-(-height // s), -(-width // s)), mode="area") for s in STRIDES]


def resnet50(path: Path) -> Features:
    """Features by a ResNet-50 (He et al. 2016) whose weights lie in a .safetensors file, named as
    torchvision and timm name them: pictures [B,3,H,W] in 0..1 -> [B,256,H/4,W/4], [B,512,H/8,W/8],
    [B,1024,H/16,W/16] and [B,2048,H/32,W/32].

    The network follows the pictures to their device. ValueError for any other file.
    """
    from torchvision.models import resnet50 as build

    net = build()
    net.fc = nn.Identity()  # only classes come after the features
    net.load_state_dict(_fitting(path, net.state_dict()), strict=False)
    net.eval().requires_grad_(False)

    def features(pictures: Tensor) -> list[Tensor]:
        net.to(pictures.device)
        return _levels(net, pictures)

    return features


def _levels(net: Any, pictures: Tensor) -> list[Tensor]:
    mean, spread = (pictures.new_tensor(c).view(3, 1, 1) for c in (MEAN, SPREAD))
    x = net.maxpool(net.relu(net.bn1(net.conv1((pictures - mean) / spread))))
    levels = []
    for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
        x = layer(x)
        levels.append(x)
    return levels


def _fitting(path: Path, layout: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The file's tensors, if they are those of the layout; counts of batches may be missing."""
    expected = f"{path}: expected the weights of a ResNet-50 as .safetensors"
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as trouble:
        raise ValueError(f"{expected}, found a file that can not be read: {trouble}") from trouble
    found = {key: t for key, t in tensors.items() if not key.startswith("fc.")}
    for key in sorted({*layout, *found}):
        own = list(layout[key].shape) if key in layout else "nothing"
        given = list(found[key].shape) if key in found else "nothing"
        if own != given and not key.endswith("num_batches_tracked"):
            raise ValueError(f"{expected}, with {own} at '{key}', found {given} there.")
    return found


@torch.no_grad()
def feature_differences(features: Features, pictures: Tensor) -> list[Tensor]:
    """Features of pose images less those of an empty picture, which most of any picture's are: H is
    to be where the pose is.
    """
    empty = features(torch.zeros_like(pictures[:1]))
    return [level - none for level, none in zip(features(pictures), empty, strict=True)]
