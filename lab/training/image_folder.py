"""Read a folder of photographs, and the captions, pose images and maps that lie beside them."""

from __future__ import annotations

import logging
import warnings
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
from .fingerprint import digest_files

CAPTION = "a photo of a person"
TOLERANCE = 0.02  # by how much the proportions of an image and its map may differ
BATCH = 8  # images encoded at a time
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError)  # as Pillow has it
TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)
STILL = ("MPO",)  # a camera's JPEG with other views of the same image behind it
ALL_MAPS = (*MAPS, "mask", "map")  # of all trainers
WHITE_16 = 65535  # in a gray image of 16 bits
SHOWN = 3  # names in a warning
CAPTIONS, IMAGES = "captions", "images"  # groups of files beside the maps
log = logging.getLogger(__name__)


def image_files(folder: Path, size: int, maps: Sequence[str] = MAPS) -> list[Path]:
    """List the images in a folder by name, without hidden ones and maps (name.MAP.png). Captions
    without an image are named in a warning.

    ValueError if there is no such folder, no image in it, or no image can be `size` pixels wide.
    """
    if size < LATENT_STRIDE or size % LATENT_STRIDE:
        raise ValueError(f"the images' size is {size}: it must be a multiple of {LATENT_STRIDE}.")
    if not folder.is_dir():
        raise ValueError(f"--images {folder} is no folder: give one with photographs of people.")
    endings = tuple(f".{name}" for name in maps)
    files = [file for file in _visible(folder) if _is_image(file)]
    files = [file for file in files if not file.stem.endswith(endings)]
    if not files:
        raise ValueError(
            f"--images {folder} has no image in it: give a folder with photographs in .jpg, .png "
            "or .webp, not those in folders below it."
        )
    _warn_of_lone_captions(folder, files)
    return files


def digest_images(folder: Path) -> dict[str, str]:
    """Digest the images, captions and maps of a folder, each kind by itself."""
    groups: dict[str, list[Path]] = {}
    for file in _visible(folder):
        if file.is_file() and (_is_image(file) or file.suffix == ".txt"):
            last = file.stem.rpartition(".")[2]
            kind = f"{last} maps" if last in ALL_MAPS else IMAGES
            groups.setdefault(CAPTIONS if file.suffix == ".txt" else kind, []).append(file)
    return {kind: digest_files(files) for kind, files in sorted(groups.items())}


def _visible(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.iterdir()) if not file.name.startswith(".")]


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in Image.registered_extensions()


def _warn_of_lone_captions(folder: Path, files: Sequence[Path]) -> None:
    stems = {file.stem for file in files}
    lone = [file.name for file in _visible(folder) if file.suffix == ".txt"]
    if lone := [name for name in lone if name.removesuffix(".txt") not in stems]:
        names = ", ".join(lone[:SHOWN]) + (" ..." if len(lone) > SHOWN else "")
        log.warning(
            "%d captions belong to no image and are not read: %s. name.txt is the caption of "
            "name.jpg.",
            len(lone),
            names,
        )


def read_upright(file: Path, mode: str) -> Tensor:
    """Read an image [H,W,C] in 0..1, turned upright; `mode` is Pillow's, RGB or L.

    Gray images of 16 bits are read in all their levels. ValueError for an image that moves or has
    too many pixels, and what Pillow raises for others that can not be read.
    """
    with opened_upright(file) as image:
        if image.mode.startswith(("I", "F")):
            gray = gray_levels(file, image)
            return gray.expand(-1, -1, len(mode)) if mode == "RGB" else gray
        pixels = np.array(image.convert(mode))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)) / 255


@contextmanager
def opened_upright(file: Path) -> Iterator[Image.Image]:
    """Open a still image, turned upright."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            opened = Image.open(file)
        except TOO_LARGE:
            raise ValueError(
                f"{file.name} has more than {Image.MAX_IMAGE_PIXELS} pixels: scale it down"
            ) from None
    with opened as image:
        if getattr(image, "is_animated", False) and image.format not in STILL:
            raise ValueError(
                f"{file.name} has {getattr(image, 'n_frames', 'several')} frames: save the one "
                "that is meant as an image of its own"
            )
        yield ImageOps.exif_transpose(image)


def gray_levels(file: Path, image: Image.Image) -> Tensor:
    """Read an opened gray image of 16 bits, or of numbers in 0..1, as [H,W,1] in 0..1."""
    levels = np.array(image).astype(np.float32)
    if not image.mode.startswith("F"):
        levels /= WHITE_16
    if not (levels.min() >= 0 and levels.max() <= 1):  # nor NaN
        raise ValueError(
            f"{file.name} has levels beyond those of 16 bits: save it as an image of 8 or 16 bits"
        )
    return torch.from_numpy(levels)[..., None]


def read_caption(file: Path) -> str:
    """Read the caption name.txt beside an image, "" without a file; ValueError unless it is UTF-8,
    with or without a mark of it.
    """
    text = file.with_suffix(".txt")
    try:
        return text.read_text("utf-8-sig").strip() if text.is_file() else ""
    except UnicodeDecodeError as error:
        raise ValueError(f"the caption {text.name} is not UTF-8: save it as UTF-8") from error


def fill_captions(captions: Sequence[str], substitute: str = CAPTION) -> list[str]:
    """Put `substitute` in the place of empty ones, with a warning if there are any."""
    if lacking := sum(not caption for caption in captions):
        log.warning(
            "%d of %d images have no caption (name.txt beside name.jpg) and get '%s'; words for "
            "what people do are learned from captions only.",
            lacking,
            len(captions),
            substitute,
        )
    return [caption or substitute for caption in captions]


def warn_of_left_out(files: Sequence[Path], used: int) -> None:
    """Warn if some images teach nothing; lines before say why, each for its image."""
    if lacking := len(files) - used:
        log.warning(
            "%d of %d images in --images are left out, as the lines above say: mend them, or take "
            "them out of the folder.",
            lacking,
            len(files),
        )


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
