"""Depth and normal IMAGEs in other conventions, and relighting by normals."""

import comfy.utils
import torch
from torch import Tensor

from ..models import structure
from ..models.batches import one_each, paired_count
from .progress import watched


def convert_depth(
    images: Tensor, from_convention: str, to_convention: str, stretch: bool
) -> Tensor:
    """Convert depth IMAGEs [B, H, W, C] between conventions; `stretch`: each to its full range."""

    def convert(image: Tensor) -> Tensor:
        near = structure.image_to_depth(channels_first(image[None]), from_convention)
        if stretch:
            return _channels_last(structure.depth_to_image(near, to_convention))
        white = 1 - near if to_convention == structure.METRIC else near
        return white[..., None].expand(-1, -1, -1, 3)

    return torch.cat([convert(image) for image in watched(images)])


def convert_normals(images: Tensor, from_convention: str, to_convention: str) -> Tensor:
    """Convert normal IMAGEs [B, H, W, C] between conventions; the result has unit length."""

    def convert(image: Tensor) -> Tensor:
        normals = structure.image_to_normals(channels_first(image[None]), from_convention)
        return _channels_last(structure.normals_to_image(normals, to_convention))

    return torch.cat([convert(image) for image in watched(images)])


def relight(
    images: Tensor, normal_images: Tensor, convention: str, light: Tensor, ambient: float
) -> Tensor:
    """Relight IMAGEs [B, H, W, C] by a lamp in the direction `light` [3]. A single image or normal
    image serves for all; ValueError for other counts.
    """
    count = paired_count({"image": len(images), "normal_image": len(normal_images)})
    height, width = images.shape[1:3]

    def relight_one(image: Tensor, normal_image: Tensor) -> Tensor:
        rgb, normal = channels_first(image[None]), channels_first(normal_image[None])
        normal = comfy.utils.common_upscale(normal, width, height, "bilinear", "disabled")
        normal = structure.image_to_normals(normal, convention)
        return _channels_last(structure.relight(rgb, normal, light, ambient))

    pairs = zip(one_each(images, count), one_each(normal_images, count), strict=True)
    return torch.cat([relight_one(*pair) for pair in watched(pairs)])


def channels_first(images: Tensor) -> Tensor:
    """Turn IMAGEs [B, H, W, C] into [B, 3, H, W] without transparency."""
    return images[..., :3].movedim(-1, 1)


def _channels_last(images: Tensor) -> Tensor:
    return images.movedim(1, -1)
