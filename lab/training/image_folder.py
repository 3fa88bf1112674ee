"""Read a folder of photographs, and the captions, pose images and maps that lie beside them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from ...models import detect, pose
from ...models.mini import LATENT_STRIDE
from ...models.structure_data import MAPS, POSE, map_beside
from .bases import Base

CAPTION = "a photo of a person"
TOLERANCE = 0.02  # by how much the proportions of an image and its map may differ
BATCH = 8  # images encoded at a time
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # as Pillow has it
log = logging.getLogger(__name__)


def image_files(folder: Path, size: int, maps: Sequence[str] = MAPS) -> list[Path]:
    """List the images in a folder by name, without hidden ones and maps (name.MAP.png).

    ValueError if there is no such folder, or no image can be `size` pixels wide.
    """
    if size < LATENT_STRIDE or size % LATENT_STRIDE:
        raise ValueError(f"the images' size is {size}: it must be a multiple of {LATENT_STRIDE}.")
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: give one with photographs of people.")
    endings = tuple(f".{name}" for name in maps)
    extensions = Image.registered_extensions()
    return [
        file
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in extensions
        and not file.name.startswith(".")
        and not file.stem.endswith(endings)
    ]


def read_upright(file: Path, mode: str) -> Tensor:
    """Read an image [H,W,C] in 0..1, turned upright; `mode` is Pillow's."""
    with Image.open(file) as image:
        pixels = np.array(ImageOps.exif_transpose(image).convert(mode))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)) / 255


def read_caption(file: Path) -> str:
    """Read the caption name.txt beside an image, "" without a file."""
    text = file.with_suffix(".txt")
    return text.read_text("utf-8-sig").strip() if text.is_file() else ""


def fill_captions(captions: Sequence[str]) -> list[str]:
    """Put CAPTION in the place of empty ones, with a warning if there are any."""
    if lacking := sum(not caption for caption in captions):
        log.warning(
            "%d of %d images have no caption (name.txt beside name.jpg) and get '%s'; words for "
            "what people do are learned from captions only.",
            lacking,
            len(captions),
            CAPTION,
        )
    return [caption or CAPTION for caption in captions]


def pose_file(file: Path) -> Path:
    """Name the pose image beside an image."""
    return map_beside(file, POSE)


@contextmanager
def detector_for(
    files: Sequence[Path], task_folders: Sequence[str] = ()
) -> Iterator[detect.Detector | None]:
    """Open what finds people, or None if every image has a pose image; ValueError if the detector
    is missing.
    """
    if all(pose_file(file).is_file() for file in files):
        yield None
        return
    with detect.open_detector(task_folders, hands=False) as detector:
        yield detector


def same_proportions(image: Tensor, other: Tensor) -> bool:
    """Tell whether two images [H,W,C] have the same proportions, but for rounding."""
    (h, w), (height, width) = image.shape[:2], other.shape[:2]
    return abs(w * height / (h * width) - 1) < TOLERANCE


def people_on_canvas(people: pose.People) -> pose.People:
    """Pick the people of whom at least one point lies on the canvas."""
    x, y, confidence = people.body.unbind(-1)
    inside = (x >= 0) & (y >= 0) & (x < people.width) & (y < people.height)
    rows = ((confidence > 0) & inside).any(1).nonzero().flatten()
    return pose.pick(people, rows.tolist())


def to_bytes(image: Tensor) -> Tensor:
    """Round an image in 0..1 to uint8."""
    return (image.clamp(0, 1) * 255).round().byte()


def encode_images(base: Base, images: Sequence[Tensor], progress: str = "encode") -> Tensor:
    """Encode images uint8 [3,S,S], a few at a time -> latents [N,4,h,w] on the CPU."""
    latents = []
    for start in tqdm(range(0, len(images), BATCH), desc=progress):
        batch = torch.stack(list(images[start : start + BATCH]))
        latents.append(base.encode(batch / 255).cpu())
    return torch.cat(latents)
