"""Read images and masks as other nodes hand them over, in any form that is not in doubt.

Packs and hosts differ in channels, types and dimensions. What can be read in one way only is read;
anything else is refused, because an image read wrongly gives a worse result without a word.
"""

import math
from typing import Any

import torch
from torch import Tensor

from .plain_words import kind, size

CHANNELS = (1, 3, 4)  # gray, RGB, RGB with transparency
OVERSHOOT = 0.5  # enlarging and decoding leave values this far outside of 0..1, and no farther
LARGEST = {torch.bool: 1, torch.uint8: 255, torch.uint16: 65535}


def read_images(value: Any) -> Tensor:
    """Read an IMAGE as [B, H, W, 3] in 0..1, float32 on the CPU.

    Accepts one image without a batch, gray images, transparency, which is left out, and 8-bit and
    16-bit numbers. Values a little outside of 0..1 are clipped. Raises ValueError that says what
    was found and what is expected.
    """
    expected = "images x height x width x channels, with 1, 3 or 4 channels"
    images = _as_tensor(value, "an IMAGE", expected)
    if images.dim() == 3:
        images = images[None]
    if images.dim() != 4 or images.shape[-1] not in CHANNELS:
        raise ValueError(f"{_misfit(value, expected)}. Connect an IMAGE, as of Load Image.")
    images = _as_shares(images)
    return images.expand(-1, -1, -1, 3) if images.shape[-1] == 1 else images[..., :3]


def read_masks(value: Any) -> Tensor:
    """Read a MASK as [B, H, W] in 0..1, float32 on the CPU.

    Accepts one mask without a batch, a dimension of one channel, and 8-bit and 16-bit numbers.
    Values a little outside of 0..1 are clipped. Raises ValueError that says what was found and what
    is expected.
    """
    expected = "masks x height x width"
    masks = _as_tensor(value, "a MASK", expected)
    if masks.dim() == 4 and 1 in (masks.shape[1], masks.shape[3]):
        masks = masks[:, 0] if masks.shape[1] == 1 else masks[..., 0]
    elif masks.dim() == 3 and masks.shape[0] > 4 and masks.shape[2] == 1:
        masks = masks[None, ..., 0]
    elif masks.dim() == 2:
        masks = masks[None]
    if masks.dim() != 3:
        raise ValueError(f"{_misfit(value, expected)}. Connect a MASK, as of Load Image.")
    if masks.shape[0] > 4 and masks.shape[2] in CHANNELS:
        raise ValueError(
            f"it has {size(value.shape)} numbers, which is an image: use Convert Image to Mask."
        )
    return _as_shares(masks)


def _as_tensor(value: Any, wire: str, expected: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise ValueError(f"it is {kind(value)}, expected {wire}. Connect {wire}, as of Load Image.")
    if not value.numel():
        raise ValueError(
            f"it is empty: {_misfit(value, expected)}. Look at what the node before it gives."
        )
    return value


def _misfit(value: Tensor, expected: str) -> str:
    return f"it has {size(value.shape)} numbers, expected {expected}"


def _as_shares(values: Tensor) -> Tensor:
    """float32 in 0..1 on the CPU."""
    largest = LARGEST.get(values.dtype)
    if largest is None and not values.is_floating_point():
        raise ValueError(
            "it holds whole numbers, of which it is not known what is white, expected 0 to 1: "
            "divide them by that of white."
        )
    shares = values.cpu().float()
    if largest is not None:
        return shares / largest
    low, high = (bound.item() for bound in shares.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(
            "it has values that are infinite or not a number. The node that made it overflowed: a "
            "VAE decodes without that in 32 bits."
        )
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        raise ValueError(
            f"its values go from {low:g} to {high:g}, expected 0 to 1: divide those of an 8-bit "
            "image by 255 and those of a 16-bit image by 65535."
        )
    return shares.clamp(0, 1) if low < 0 or high > 1 else shares


def shrink(image: Tensor, largest_side: int) -> Tensor:
    """Scale an image [H, W, 3 or 4] down, as [h, w, 3] float32 on the CPU, so that neither side is
    longer than this many pixels. Every pixel is the mean of those it stands for; a smaller image
    stays as it is.
    """
    import cv2

    height, width = image.shape[:2]
    scale = largest_side / max(height, width)
    pixels = image[..., :3].float().cpu()
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return torch.from_numpy(cv2.resize(pixels.numpy(), size, interpolation=cv2.INTER_AREA))
