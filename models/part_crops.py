"""Crops of the parts of an image, as the image encoder of a memory sees them.

A semantic map says where each part is; a crop shows one part alone on blank ground, as
HumanDiffusion (arXiv 2211.06235) does it.
Shapes: images [H, W, 3] in 0..1, labels [H, W].
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .semantic_map import BACKGROUND, CLASSES, part_mask

THUMBNAIL = 40  # pixels, of the image that stands for a slot
MIN_PIXELS = 24  # a smaller part is left out
GRAY = 0.5  # of the blank ground
MARGIN = 0.08  # around a part, as a share of its longer side


def parts_in(labels: Tensor, min_pixels: int = 1) -> frozenset[int]:
    """List the classes with `min_pixels` or more in one of the maps [B, H, W], but background."""
    most = torch.stack([_pixels(frame) for frame in labels]).amax(0)
    return frozenset((most >= min_pixels).nonzero().flatten().tolist()) - {BACKGROUND}


def _pixels(labels: Tensor) -> Tensor:
    """How many pixels each class has, long [classes]."""
    return torch.bincount(labels.flatten().long(), minlength=len(CLASSES))


def crop_parts(
    image: Tensor, labels: Tensor, size: int, min_pixels: int = MIN_PIXELS, shrink: int = 0
) -> list[tuple[int, Tensor]]:
    """Cut out every class that has `min_pixels` or more, alone on gray ground [size, size, 3].

    The outermost `shrink` pixels are left out, unless fewer than `min_pixels` remain. The
    background is no class.
    """
    min_pixels = max(1, min_pixels)
    parts = sorted(parts_in(labels[None], min_pixels))
    return [(k, _crop(image, _core(labels, k, min_pixels, shrink), size)) for k in parts]


def _core(labels: Tensor, part: int, min_pixels: int, shrink: int) -> Tensor:
    """bool [H, W]: a part without its border, where a coarse map is wrong most often."""
    core = part_mask(labels[None], [part], -shrink)[0] > 0
    return core if core.sum() >= min_pixels else labels == part


def _crop(image: Tensor, mask: Tensor, size: int) -> Tensor:
    """The square around a bool mask [H, W], its middle in the square's."""
    (top, bottom), (left, right) = (
        (int(filled[0]), int(filled[-1]) + 1)
        for filled in (mask.any(1).nonzero(), mask.any(0).nonzero())
    )
    height, width = bottom - top, right - left
    side = math.ceil(max(height, width) * (1 + 2 * MARGIN))
    y, x = (side - height) // 2, (side - width) // 2
    inside = mask[top:bottom, left:right, None]
    square = torch.full((side, side, 3), GRAY)
    window = image[top:bottom, left:right].float()
    square[y : y + height, x : x + width] = torch.where(inside, window, GRAY)
    return _resize(square[None], size)[0]


def thumbnails(crops: Tensor) -> Tensor:
    """Scale crops [N, S, S, 3] in 0..1 to uint8 [N, THUMBNAIL, THUMBNAIL, 3]."""
    return (_resize(crops, THUMBNAIL) * 255).round().clamp(0, 255).byte()


def _resize(images: Tensor, size: int) -> Tensor:
    """[N, S, S, 3] -> [N, size, size, 3]"""
    if images.shape[1] == size:
        return images
    channels = images.movedim(-1, 1)
    return interpolate(channels, (size, size), mode="bilinear", antialias=True).movedim(1, -1)
