"""Pictures with depth, normals and pose into a folder that the trainers of joint denoising read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import comfy.utils
import folder_paths
from torch import Tensor

from ..models import structure_data
from ..models.structure import DEPTH, NORMAL
from ..models.structure_data import POSE


def output_folder(name: str) -> Path:
    """The folder of this name in ComfyUI's output folder, made if need be; ValueError if it is none
    inside.
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
    except OSError as trouble:
        raise ValueError(
            f"the folder {folder} can not be made ({trouble}): choose another name."
        ) from trouble
    return folder


def check_lengths(images: Tensor, maps: Mapping[str, Tensor]) -> None:
    """ValueError, naming the input, for maps that are not as many as the images."""
    for name, pictures in maps.items():
        if len(pictures) != len(images):
            raise ValueError(
                f"there are {len(images)} pictures in 'images' and {len(pictures)} in '{name}': "
                "connect one for every picture, in the same order."
            )


def save(
    folder: Path,
    images: Tensor,
    maps: Mapping[str, Tensor],
    caption: str,
    depth_convention: str,
    normal_convention: str,
) -> list[Path]:
    """Write IMAGEs [B,H,W,C] and, for each, those of MAPS in these conventions, resized to it.
    Numbers go on after those that are there; it can be cancelled between pictures.
    """
    progress, saved = comfy.utils.ProgressBar(len(images)), list[Path]()
    number = structure_data.next_number(folder)
    for i, image in enumerate(images):
        rgb = _first(image)
        own = {
            name: structure_data.resized(_first(pictures[i]), *rgb.shape[2:])
            for name, pictures in maps.items()
        }
        depth = structure_data.our_depth(own[DEPTH], depth_convention)
        normal = structure_data.our_normal(own[NORMAL], normal_convention)
        one = structure_data.Annotated(rgb[0], depth[0], normal[0], own[POSE][0], caption.strip())
        saved.append(structure_data.write(folder, number + i, one))
        progress.update_absolute(i + 1, len(images))
    return saved


def _first(image: Tensor) -> Tensor:
    """[H,W,C] -> [1,3,H,W] without transparency."""
    return image[None, ..., :3].movedim(-1, 1).float()
