"""Depth and normal IMAGEs in other conventions, and relighting by normals."""

import comfy.utils
import torch
from torch import Tensor

from ..models import structure
from ..models.batches import one_each, paired_count


def convert_depth(
    images: Tensor, from_convention: str, to_convention: str, stretch: bool
) -> Tensor:
    """Convert depth IMAGEs [B, H, W, C] between conventions; `stretch`: each to its full range."""
    near = structure.image_to_depth(channels_first(images), from_convention)
    if stretch:
        return _channels_last(structure.depth_to_image(near, to_convention))
    white = 1 - near if to_convention == structure.METRIC else near
    return white[..., None].expand(-1, -1, -1, 3)


def convert_normals(images: Tensor, from_convention: str, to_convention: str) -> Tensor:
    """Convert normal IMAGEs [B, H, W, C] between conventions; the result has unit length."""
    normals = structure.image_to_normals(channels_first(images), from_convention)
    return _channels_last(structure.normals_to_image(normals, to_convention))


def relight(
    images: Tensor, normal_images: Tensor, convention: str, light: Tensor, ambient: float
) -> Tensor:
    """Relight IMAGEs [B, H, W, C] by a lamp in the direction `light` [3]. A single image or normal
    image serves for all; ValueError for other counts.
    """
    count = paired_count({"image": len(images), "normal_image": len(normal_images)})
    rgb, normal = channels_first(images), channels_first(normal_images)
    normal = comfy.utils.common_upscale(
        normal, rgb.shape[-1], rgb.shape[-2], "bilinear", "disabled"
    )
    rgb, normal = (
        torch.stack(one_each(batch, count))
        for batch in (rgb, structure.image_to_normals(normal, convention))
    )
    return _channels_last(structure.relight(rgb, normal, light, ambient))


def channels_first(images: Tensor) -> Tensor:
    """Turn IMAGEs [B, H, W, C] into [B, 3, H, W] without transparency."""
    return images[..., :3].movedim(-1, 1)


def _channels_last(images: Tensor) -> Tensor:
    return images.movedim(1, -1)
