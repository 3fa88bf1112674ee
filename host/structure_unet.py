"""The network of joint denoising: the host's own UNet with three copies of its outer layers
(HyperHuman; `models/structure.py`).

An outer layer keeps the host's class and its own weights, the image's, under their usual names, so
that whatever changes the base by name changes the trunk and the image's branch. Its `copies` work
for depth and normals. Between outer layers the features of the branches are concatenated along the
channels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor, nn

from ..models import structure
from ..models.mini import LATENT_CHANNELS
from ..models.structure import EXPERT, FUSE, LEARNED, MODALITIES

COUNT = len(MODALITIES)
CHANNELS = COUNT * LATENT_CHANNELS
RGB, COPIES = "rgb", "copies"  # in module names: the image's layer, those of the other modalities
Split = Callable[[Tensor], Sequence[Tensor]]  # a layer's input -> the input of each branch


def split_modalities(x: Tensor) -> Sequence[Tensor]:
    """Split [B, 3 * C, h, w] into the features of image, depth and normals."""
    return x.chunk(COUNT, 1)


def split_with_pose(x: Tensor) -> Sequence[Tensor]:
    """Split [noisy latents of all | the pose's] into each latent with the pose's."""
    noisy, pose = x[:, :CHANNELS], x[:, CHANNELS:]
    return [torch.cat((latent, pose), 1) for latent in split_modalities(noisy)]


def split_after_trunk(width: int, x: Tensor) -> Sequence[Tensor]:
    """Split [the trunk's `width` channels | skips of all] into the trunk's with each skip."""
    return [torch.cat((x[:, :width], skip), 1) for skip in split_modalities(x[:, width:])]


def split_after_branches(width: int, x: Tensor) -> Sequence[Tensor]:
    """Split [features of all, `width` channels each | skips of all] into features with skip."""
    features, skips = x[:, : COUNT * width], x[:, COUNT * width :]
    pairs = zip(split_modalities(features), split_modalities(skips), strict=True)
    return [torch.cat(pair, 1) for pair in pairs]


class Branched:
    """Runs a layer of any class on the image's features and its `copies` on the others'.

    A mixin that stands before the layer's own class.
    """

    copies: nn.ModuleList
    split: Split

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        rgb, *others = self.split(x)
        outputs = [super().forward(rgb, *args, **kwargs)]  # type: ignore[misc]
        pairs = zip(self.copies, others, strict=True)
        return torch.cat(outputs + [layer(part, *args, **kwargs) for layer, part in pairs], 1)


def branch(layer: nn.Module, split: Split = split_modalities) -> None:
    """Turn a layer of the network into an outer one, in place."""
    copies = nn.ModuleList(copy.deepcopy(layer) for _ in MODALITIES[1:])
    layer.__class__ = type(f"Branched{type(layer).__name__}", (Branched, type(layer)), {})
    layer.copies, layer.split = copies, split  # type: ignore[assignment]


class BranchedWrapper(nn.Module):
    """Does what `Branched` does around a layer that can not have submodules of its own."""

    def __init__(self, rgb: nn.Module, split: Split = split_modalities) -> None:
        super().__init__()
        self.rgb, self.split = rgb, split
        self.copies = nn.ModuleList(copy.deepcopy(rgb) for _ in MODALITIES[1:])

    def forward(self, x: Tensor) -> Tensor:
        pairs = zip((self.rgb, *self.copies), self.split(x), strict=True)
        return torch.cat([layer(part) for layer, part in pairs], 1)


class Fuse(nn.Module):
    """Merges the features of all branches into the trunk's input."""

    def __init__(self, mode: str, mix: nn.Module | None) -> None:
        super().__init__()
        self.mode, self.mix = mode, mix

    def forward(self, x: Tensor) -> Tensor:
        return structure.fuse(split_modalities(x), self.mode, self.mix)


class StructureUNet(UNetModel):
    """Predicts all modalities together.

    Noisy latents of image, depth and normals and the pose's latent [B, 16, h, w] -> predictions
    [B, 12, h, w]. The skips of the first `experts` blocks stay within their branch; `fusion` is one
    of structure.FUSIONS.
    """

    def __init__(self, *args: Any, experts: int, fusion: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        blocks: Any = self.input_blocks
        widths = [block[0].out_channels for block in blocks]  # of the skips
        for block in blocks[1 : experts + 1]:
            for layer in block:
                branch(layer)
        blocks[0][0] = BranchedWrapper(blocks[0][0], split_with_pose)
        operations = kwargs["operations"]
        placement = {"dtype": kwargs.get("dtype"), "device": kwargs.get("device")}
        width, mix = widths[experts], None
        if fusion == LEARNED:
            mix = operations.Conv2d(COUNT * width, width, 1, bias=False, **placement)
        blocks[experts].add_module("fuse", Fuse(fusion, mix))
        outer_blocks: Any = self.output_blocks[len(blocks) - experts :]
        for k, block in enumerate(outer_blocks):
            width = block[0].channels - widths[experts - 1 - k]
            branch(block[0], partial(split_after_branches if k else split_after_trunk, width))
            for layer in block[1:]:
                branch(layer)
        unet: Any = self
        unet.out = BranchedWrapper(unet.out)


def module_name(key: str, experts: int) -> str:
    """Translate a tensor's name in a file to its name in StructureUNet; "" for marks."""
    if key in (structure.EPSILON_MARK, *(FUSE + fusion for fusion in structure.FUSIONS)):
        return ""
    if key.startswith(FUSE):
        return f"input_blocks.{experts}.fuse.mix.weight"
    modality = MODALITIES[0]
    if key.startswith(EXPERT):
        _, modality, key = key.split(".", 2)
    names = key.split(".")
    depth = 1 if names[0] == "out" else 3  # list, block and layer
    layer, inner = ".".join(names[:depth]), names[depth:]
    if modality != MODALITIES[0]:
        inner = [COPIES, str(MODALITIES.index(modality) - 1), *inner]
    elif layer in ("out", "input_blocks.0.0"):
        inner = [RGB, *inner]
    return ".".join([layer, *inner])


def file_name(name: str) -> str:
    """Translate a tensor's name in StructureUNet to its name in a file."""
    if ".fuse." in name:
        return f"{FUSE}{LEARNED}.weight"
    if f".{COPIES}." not in name:
        return name.replace(f".{RGB}.", ".")
    layer, inner = name.split(f".{COPIES}.")
    number, inner = inner.split(".", 1)
    return f"{EXPERT}{MODALITIES[1 + int(number)]}.{layer}.{inner}"
