"""A folder of pictures with their depth, normals and pose beside them, which trainers of joint
denoising and of the refiner read: how its files are called, and what their pixels mean.

Beside `name.png` lie `name.depth.png`, near is white, `name.normal.png`, red to the right and green
up, `name.pose.png` in OpenPose's colours, and `name.txt`, the caption.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .structure import DEPTH, MIDAS, NORMAL, RIGHT_UP, depth_of, normal_of, normal_picture

POSE = "pose"
MAPS = DEPTH, NORMAL, POSE
NOTHING = 0.25  # square length of a normal below which it points nowhere


class Annotated(NamedTuple):
    """One picture and what belongs to it, in the folder's conventions, all of one size."""

    rgb: Tensor  # [3,H,W] in 0..1
    depth: Tensor  # [H,W] in 0..1
    normal: Tensor  # [3,H,W] in 0..1
    pose: Tensor  # [3,H,W] in 0..1
    caption: str


def beside(picture: Path, what: str) -> Path:
    """Where a picture's map of this name, one of MAPS, lies."""
    return picture.with_name(f"{picture.stem}.{what}.png")


def resized(pictures: Tensor, height: int, width: int) -> Tensor:
    """[B,C,H,W] -> [B,C,height,width]."""
    if pictures.shape[2:] == (height, width):
        return pictures
    return interpolate(pictures, (height, width), mode="bilinear", antialias=True)


def our_depth(pictures: Tensor, convention: str = MIDAS) -> Tensor:
    """Depth pictures [B,C,H,W] in 0..1 of one of structure.DEPTHS -> [B,H,W], near is white."""
    return depth_of(pictures, convention)


def our_normal(pictures: Tensor, convention: str = RIGHT_UP) -> Tensor:
    """Normal pictures [B,3,H,W] in 0..1 of one of structure.NORMALS -> red to the right, of unit
    length; grey, which points nowhere, faces the viewer.
    """
    somewhere = (pictures * 2 - 1).square().sum(1, keepdim=True) >= NOTHING
    return normal_picture(normal_of(pictures, convention) * somewhere)


def next_number(folder: Path) -> int:
    """The one after all that files in a folder begin with, complete pictures or not."""
    begun = (file.name.split(".")[0] for file in folder.iterdir())
    return max((int(name) for name in begun if name.isdecimal()), default=0) + 1


def write(folder: Path, number: int, one: Annotated) -> Path:
    """Write a picture and what belongs to it, the picture last: if it is there, all is. Returns
    its file. OSError, naming the file, for one that can not be written.
    """
    picture = folder / f"{number:05d}.png"
    for what, pixels in ((DEPTH, one.depth), (NORMAL, one.normal), (POSE, one.pose)):
        _write_picture(beside(picture, what), pixels)
    if one.caption:
        text = picture.with_suffix(".txt")
        _write_whole(text, lambda part: part.write_text(one.caption, "utf-8"))
    _write_picture(picture, one.rgb)
    return picture


def _write_picture(file: Path, pixels: Tensor) -> None:
    """[3,H,W] or grey [H,W], in 0..1."""
    from PIL import Image

    bits = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    bits = bits.movedim(0, -1) if bits.dim() == 3 else bits
    made = Image.fromarray(bits.contiguous().numpy())
    _write_whole(file, lambda part: made.save(part, "PNG"))


def _write_whole(file: Path, write_to: Callable[[Path], object]) -> None:
    """The file appears at once or not at all."""
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        write_to(part)
        os.replace(part, file)
    except OSError as failure:
        raise OSError(f"{file} could not be written: {failure}") from failure
    finally:
        part.unlink(missing_ok=True)
