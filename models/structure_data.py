"""The folder of training data for joint denoising and the refiner: its file names, and the
conventions of its pixels.

Beside an image `name.png` are `name.depth.png`, near is white, `name.normal.png`, red to the right
and green up, `name.pose.png` in OpenPose's colors, and `name.txt`, the caption.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .atomic_file import write_atomically
from .plain_words import reason
from .structure import DEPTH, NORMAL, RIGHT_UP, image_to_normals, normals_to_image

POSE = "pose"
MAPS = DEPTH, NORMAL, POSE
NOTHING = 0.25  # square length of a normal below which it points nowhere


class AnnotatedImage(NamedTuple):
    """An image with its maps and caption, in the folder's conventions, all of one size."""

    rgb: Tensor  # [3,H,W] in 0..1
    depth: Tensor  # [H,W] in 0..1
    normal: Tensor  # [3,H,W] in 0..1
    pose: Tensor  # [3,H,W] in 0..1
    caption: str


def map_beside(image_file: Path, map_name: str) -> Path:
    """Return the file of an image's map, by its name in MAPS."""
    return image_file.with_name(f"{image_file.stem}.{map_name}.png")


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """Resize [B,C,H,W] -> [B,C,height,width], with antialiasing."""
    if images.shape[2:] == (height, width):
        return images
    return interpolate(images, (height, width), mode="bilinear", antialias=True)


def stored_normals(images: Tensor, convention: str = RIGHT_UP) -> Tensor:
    """Convert normal images [B,3,H,W] in 0..1 to the folder's convention.

    `convention` is one of structure.NORMALS; in the folder red points right and normals have unit
    length. Gray, which points nowhere, faces the viewer.
    """
    points = (images * 2 - 1).square().sum(1, keepdim=True) >= NOTHING
    return normals_to_image(image_to_normals(images, convention) * points)


def next_number(folder: Path) -> int:
    """Return the next free number of a folder: higher than any that a file name begins with.

    Files of incomplete images count, too.
    """
    stems = (file.name.split(".")[0] for file in folder.iterdir())
    return max((int(stem) for stem in stems if stem.isdecimal()), default=0) + 1


def write(folder: Path, number: int, example: AnnotatedImage) -> Path:
    """Write an image with its maps and caption, and return the image's file.

    The image is written last, so that it exists only if all the others do. OSError, naming the
    file, for one that can not be written.
    """
    image_file = folder / f"{number:05d}.png"
    maps = {DEPTH: example.depth, NORMAL: example.normal, POSE: example.pose}
    for map_name, pixels in maps.items():
        _write_image(map_beside(image_file, map_name), pixels)
    if example.caption:
        text_file = image_file.with_suffix(".txt")
        _write_at_once(text_file, lambda part: part.write_text(example.caption, "utf-8"))
    _write_image(image_file, example.rgb)
    return image_file


def _write_image(file: Path, pixels: Tensor) -> None:
    """Write [3,H,W], or gray [H,W], in 0..1."""
    from PIL import Image

    bits = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    bits = bits.movedim(0, -1) if bits.dim() == 3 else bits
    image = Image.fromarray(bits.contiguous().numpy())
    _write_at_once(file, lambda part: image.save(part, "PNG"))


def _write_at_once(file: Path, write_to: Callable[[Path], object]) -> None:
    """Let the file appear complete or not at all."""
    try:
        write_atomically(file, write_to)
    except OSError as failure:
        raise OSError(f"{file} could not be written: {reason(failure)}") from failure
