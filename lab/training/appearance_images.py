"""A folder of photographs with semantic maps as the alignment of parts learns it: images, maps,
captions, and what every part of the photographs looks like to an image encoder.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset
from tqdm import tqdm

from ...models import memory, part_crops, semantic_map
from ...models.memory import Memory
from ...models.phrases import split_phrases
from ...models.structure_data import map_beside
from .bases import Base
from .image_folder import (
    CAPTION,
    UNREADABLE,
    encode_images,
    fill_captions,
    image_files,
    opened_upright,
    read_caption,
    read_upright,
    same_proportions,
    to_bytes,
    warn_of_left_out,
)
from .structure_images import Cut
from .vision_files import Vision

MAP = "map"
ENDINGS = (f".{MAP}", "_segm", "")  # behind an image's name; the second: DeepFashion-MultiModal's
TOLERANCE = 30.0  # levels between a color and the palette's
HIGHEST = len(semantic_map.CLASSES) - 1
log = logging.getLogger(__name__)


class DressedImage(NamedTuple):
    """A square cut out of one photograph and of its map, S pixels wide, and the K parts that the
    uncut photograph shows.
    """

    rgb: Tensor  # uint8 [3,S,S]
    labels: Tensor  # uint8 [S,S]
    caption: str
    parts: Tensor  # long [K], classes
    features: Tensor  # [K,D], unit length
    thumbnails: Tensor  # uint8 [K,s,s,3]


def collect_dressed(
    folder: Path, size: int, vision: Vision, maps: Path | None = None
) -> list[DressedImage]:
    """Read every image in `folder` that has a semantic map, at size x size.

    The map of `name.jpg` is `name.map.png` beside it, or `name.png`, `name.map.png` or
    `name_segm.png` in the folder `maps`; see `read_map`. `name.txt` may lie beside the image, its
    caption. Both are resized until the image's shorter side is `size`, and cut where a part is.
    Images that are left out are named in a warning. ValueError if none is left.
    """
    if maps is not None and not maps.is_dir():
        raise ValueError(
            f"--maps {maps} is no folder: give the one with the images' semantic maps."
        )
    files = [file for file in image_files(folder, size) if not file.stem.endswith(f".{MAP}")]
    read = [
        _read_image(file, number, size, vision, maps)
        for number, file in enumerate(tqdm(files, desc="look at parts"))
    ]
    images = [image for image in read if image]
    if not images:
        raise ValueError(
            f"--images {folder}: none of {len(files)} images can be learned from. Put the semantic "
            "map, name.map.png, beside name.jpg, or name.png into the folder of --maps."
        )
    warn_of_left_out(files, len(images))
    captions = fill_captions([image.caption for image in images])
    return [
        image._replace(caption=caption) for image, caption in zip(images, captions, strict=True)
    ]


def map_file(image: Path, maps: Path | None) -> Path | None:
    """Find the semantic map of an image; None if there is none."""
    if maps is None:
        candidates = [map_beside(image, MAP)]
    else:
        candidates = [maps / f"{image.stem}{ending}.png" for ending in ENDINGS]
    return next((file for file in candidates if file.is_file() and file != image), None)


def read_map(file: Path) -> Tensor:
    """Read a semantic map uint8 [H,W], upright, of each part's number (as those of
    DeepFashion-MultiModal, nearly black to the eye) or of its color in semantic_map.PALETTE.

    Its pixels tell which: gray images hold numbers, and so do the indices of an image with a
    palette that is not ours. ValueError, naming the file, for any other.
    """
    with opened_upright(file) as upright:
        upright = upright.convert("L") if upright.mode == "1" else upright
        numbers, indexed = np.array(upright), upright.mode == "P"
        if numbers.ndim == 2 and not indexed:
            return _checked(numbers, file)
        colors = np.array(upright.convert("RGB"))
    if (colors == colors[..., :1]).all():
        levels = colors[..., 0]
        return _checked(numbers if indexed and levels.max() > HIGHEST else levels, file)
    try:
        color_image = torch.from_numpy(colors)[None] / 255
        return semantic_map.from_colors(color_image, semantic_map.PALETTE, TOLERANCE)[0]
    except ValueError as error:
        if indexed and numbers.max() <= HIGHEST:
            return _checked(numbers, file)
        raise ValueError(f"{file.name}: {error}") from error


def _checked(numbers: np.ndarray, file: Path) -> Tensor:
    if not (numbers.min() >= 0 and numbers.max() <= HIGHEST):  # nor NaN
        raise ValueError(
            f"{file.name} has gray levels up to {numbers.max()}, and parts have numbers from 0 to "
            f"{HIGHEST}. Save the number of each part itself, or its color in Vitruvian's palette."
        )
    return torch.from_numpy(numbers.astype(np.uint8))


def _read_image(
    file: Path, number: int, size: int, vision: Vision, maps: Path | None
) -> DressedImage | None:
    """Read one image and its map; None, and a warning, if it teaches nothing."""
    map_path = map_file(file, maps)
    if map_path is None:
        expected = f"{map_beside(file, MAP).name} beside it" if maps is None else f"map in {maps}"
        log.warning("%s has no %s; left out.", file.name, expected)
        return None
    try:
        rgb, labels = read_upright(file, "RGB"), read_map(map_path)
        caption = read_caption(file)
    except UNREADABLE as error:
        log.warning("%s or its map %s can not be read: %s", file.name, map_path.name, error)
        return None
    if not same_proportions(rgb, labels[..., None]):
        log.warning("%s and %s differ in proportions; left out.", file.name, map_path.name)
        return None
    labels = resize_map(labels, *rgb.shape[:2])
    parts = part_crops.crop_parts(rgb, labels, vision.side)
    if not parts:
        smallest = part_crops.MIN_PIXELS
        log.warning("%s shows no part of %d pixels; left out.", map_path.name, smallest)
        return None
    crops = torch.stack([crop for _, crop in parts])
    cut = cut_around(labels, size, number)
    square = to_bytes(cut.of(rgb)[0])
    rows, columns = (slice(start, start + size) for start in (cut.top, cut.left))
    return DressedImage(
        square,
        resize_map(labels, cut.height, cut.width)[rows, columns].clone(),
        caption,
        torch.tensor([part for part, _ in parts]),
        vision(round_to_bytes(crops).movedim(-1, 1)),
        part_crops.thumbnails(crops),
    )


def round_to_bytes(images: Tensor) -> Tensor:
    """Round images in 0..1 to 256 levels, as the host shows crops to the same encoder."""
    return (images.clamp(0, 1) * 255).round() / 255


def resize_map(labels: Tensor, height: int, width: int) -> Tensor:
    """Resize a map [H,W] to [height,width]: each pixel is the one nearest to it."""
    return interpolate(labels[None, None], (height, width), mode="nearest-exact")[0, 0]


def cut_around(labels: Tensor, size: int, seed: int) -> Cut:
    """Choose a square, `size` pixels wide, of an image whose shorter side becomes as long: around a
    random pixel of a part, as far as the image goes.
    """
    scale = size / min(labels.shape)
    tall, wide = (max(size, round(side * scale)) for side in labels.shape)
    g, on_part = torch.Generator().manual_seed(seed), labels != semantic_map.BACKGROUND

    def begin(across: int, length: int) -> int:
        """Choose the first row or column."""
        middle = int(torch.multinomial(on_part.sum(across).float(), 1, generator=g)) + 0.5
        return min(max(0, round(middle * scale - size / 2)), length - size)

    return Cut(tall, wide, begin(1, tall), begin(0, wide), size)


def build_memory(images: Sequence[DressedImage], vision: Vision, slots: int) -> Memory:
    """Build a memory of all parts of the images, of at most `slots` slots of each class."""
    features, parts, thumbnails = (
        torch.cat([getattr(image, name) for image in images])
        for name in ("features", "parts", "thumbnails")
    )
    with tqdm(desc="fill the memory") as bar:

        def step(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        banks = memory.build_banks(features, parts, thumbnails, slots, step)
    return Memory(banks, vision.name, vision.text_projection)


def refresh_parts(garments: Memory, parts: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Read the features [M,D] of crops of classes `parts` [M] back out of a memory [M,D], and tell
    for which of them it has slots, bool [M].
    """
    refreshed = torch.zeros_like(features)
    has_slots = torch.isin(parts, torch.tensor(garments.parts, dtype=torch.long))
    for part in parts[has_slots].unique().tolist():
        of_part = parts == part
        refreshed[of_part] = memory.refresh(garments.banks[part], features[of_part]).features
    return refreshed, has_slots


def without_appearance(caption: str) -> str:
    """Shorten a caption by what is worn, and by hair."""
    phrases = split_phrases(caption, unknown=True)
    other = [phrase.text for phrase in phrases if phrase.part is None]
    return caption if len(other) == len(phrases) else ", ".join(other) or CAPTION


class DressedDataset(Dataset):
    """Images as AppearanceLoss takes them, without hints, encoded once by `base`, their parts
    refreshed by the memory `garments`. ValueError if that knows none of the parts.
    """

    def __init__(self, images: Sequence[DressedImage], base: Base, garments: Memory) -> None:
        self.images = images
        parts, features = (
            torch.cat([getattr(image, name) for image in images]) for name in ("parts", "features")
        )
        refreshed, has_slots = refresh_parts(garments, parts, features)
        if not has_slots.any():
            in_images, in_memory = (
                ", ".join(semantic_map.CLASSES[part] for part in sorted(classes)) or "nothing"
                for classes in (set(parts.tolist()), garments.parts)
            )
            raise ValueError(
                f"the memory holds {in_memory}, and the images show {in_images}: nothing is to be "
                "learned. Give a memory of such parts, or --memory-out to make one of these images."
            )
        counts = [len(image.parts) for image in images]
        self.refreshed, self.has_slots = refreshed.split(counts), has_slots.split(counts)
        self.latents = encode_images(base, [image.rgb for image in images])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict:
        image, has_slots = self.images[i], self.has_slots[i]
        parts = image.parts[has_slots]
        features = torch.zeros(2, len(semantic_map.CLASSES), image.features.shape[1])
        features[:, parts] = torch.stack((image.features, self.refreshed[i]))[:, has_slots]
        visible = torch.zeros(len(semantic_map.CLASSES), dtype=torch.bool)
        visible[parts] = True
        texts = {"full": image.caption, "brief": without_appearance(image.caption)}
        return {
            "latent": self.latents[i],
            "labels": image.labels,
            "features": features[0],
            "refreshed": features[1],
            "has_feature": visible,
            "captions": {**texts, "bodies": []},
        }
