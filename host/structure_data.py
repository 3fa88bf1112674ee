"""Save images with depth, normals and pose into a folder for the trainers of joint denoising.

File names and pixel conventions are those of `models/structure_data.py`, which the trainers read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import folder_paths
from torch import Tensor

from ..models import structure_data
from ..models.plain_words import reason
from ..models.structure import DEPTH, NORMAL, image_to_depth
from ..models.structure_data import POSE
from .progress import watched
from .structure_images import channels_first


def output_folder(name: str) -> Path:
    """Return, and create, the folder of this name in ComfyUI's output folder; ValueError if it is
    not inside.
    """
    root = Path(os.path.realpath(folder_paths.get_output_directory()))
    try:
        folder = Path(os.path.realpath(root / name.strip()))
    except ValueError:  # a character that no path has
        folder = root
    if root not in folder.parents:
        raise ValueError(
            f"'{name}' is no folder inside ComfyUI's output folder: write a name such as "
            "structure_data or people/structure_data."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"the folder {folder} can not be created ({reason(error)}): choose another name."
        ) from error
    return folder


def check_lengths(images: Tensor, maps: Mapping[str, Tensor]) -> None:
    """Raise ValueError if a map, by the name of its input, has not as many images as `images`."""
    for name, map_images in maps.items():
        if len(map_images) != len(images):
            raise ValueError(
                f"there are {len(images)} images in 'images' and {len(map_images)} in '{name}': "
                "connect one for every image, in the same order."
            )


def save(
    folder: Path,
    images: Tensor,
    maps: Mapping[str, Tensor],
    caption: str,
    depth_convention: str,
    normal_convention: str,
) -> list[Path]:
    """Write IMAGEs [B,H,W,C] and, for each, its maps by name, resized to it.

    The maps have the given conventions. Numbers continue those in the folder; the run can be
    cancelled between images.
    """
    number, files = structure_data.next_number(folder), list[Path]()
    for i, image in enumerate(watched(images)):
        rgb = _one_image(image)
        resized = {
            name: structure_data.resize(_one_image(map_images[i]), *rgb.shape[2:])
            for name, map_images in maps.items()
        }
        depth = image_to_depth(resized[DEPTH], depth_convention)
        normal = structure_data.stored_normals(resized[NORMAL], normal_convention)
        example = structure_data.AnnotatedImage(
            rgb[0], depth[0], normal[0], resized[POSE][0], caption.strip()
        )
        files.append(structure_data.write(folder, number + i, example))
    return files


def _one_image(image: Tensor) -> Tensor:
    """[H,W,C] -> [1,3,H,W] without transparency."""
    return channels_first(image[None]).float()
