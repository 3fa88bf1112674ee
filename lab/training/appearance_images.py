"""A folder of photographs with semantic maps as the alignment of parts learns it: pictures, maps,
captions, and what every part of the photographs looks like to an image encoder.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset
from tqdm import tqdm

from ...models import memory, part_crops, semantic_map
from ...models.memory import Memory
from ...models.phrases import split_phrases
from ...models.structure_data import beside
from .bases import Base
from .hand_images import read_upright
from .person_images import BATCH, CAPTION, UNREADABLE, alike, pictures_in, read_caption
from .structure_images import Cut
from .vision_files import Vision

MAP = "map"
ENDINGS = (f".{MAP}", "_segm", "")  # behind a picture's name; the second: DeepFashion-MultiModal's
TOLERANCE = 30.0  # levels between a colour and the palette's
HIGHEST = len(semantic_map.CLASSES) - 1
log = logging.getLogger(__name__)


class DressedPicture(NamedTuple):
    """A square cut out of one photograph and of its map, S pixels wide, and the K parts that the
    whole photograph shows.
    """

    rgb: Tensor  # uint8 [3,S,S]
    labels: Tensor  # uint8 [S,S]
    caption: str
    parts: Tensor  # long [K], classes
    features: Tensor  # [K,D], unit length
    thumbnails: Tensor  # uint8 [K,s,s,3]


def collect_dressed(
    folder: Path, size: int, vision: Vision, maps: Path | None = None
) -> list[DressedPicture]:
    """Every picture in `folder` that has a semantic map, at size x size.

    The map of `name.jpg` is `name.map.png` beside it, or `name.png`, `name.map.png` or
    `name_segm.png` in the folder `maps`; see `read_map`. `name.txt` may lie beside the picture, its
    caption. Both are resized until the picture's shorter side is `size`, and cut where a part is.
    Pictures that are left out are named in a warning. ValueError if none is left.
    """
    if maps is not None and not maps.is_dir():
        raise ValueError(f"{maps} is no folder: give the one with the pictures' semantic maps.")
    files = [file for file in pictures_in(folder, size) if not file.stem.endswith(f".{MAP}")]
    tried = [
        _picture_in(file, number, size, vision, maps)
        for number, file in enumerate(tqdm(files, desc="look at parts"))
    ]
    found = [picture for picture in tried if picture]
    if not found:
        raise ValueError(
            f"{folder}: none of {len(files)} pictures can be learnt from. Put the semantic map, "
            "name.map.png, beside name.jpg, or name.png into the folder of --maps."
        )
    return found


def map_file(picture: Path, maps: Path | None) -> Path | None:
    """Where the semantic map of a picture lies; None if there is none."""
    if maps is None:
        tried = [beside(picture, MAP)]
    else:
        tried = [maps / f"{picture.stem}{ending}.png" for ending in ENDINGS]
    return next((file for file in tried if file.is_file() and file != picture), None)


def read_map(file: Path) -> Tensor:
    """A semantic map uint8 [H,W], upright, from a picture of each part's number (as those of
    DeepFashion-MultiModal, nearly black to the eye) or of its colour in parsing.PALETTE.

    Its pixels tell which: grey pictures hold numbers, and so do the indices of a picture with a
    palette that is not ours. ValueError, naming the file, for any other.
    """
    with Image.open(file) as picture:
        upright = ImageOps.exif_transpose(picture)
        upright = upright.convert("L") if upright.mode == "1" else upright
        numbers, indexed = np.array(upright), upright.mode == "P"
        if numbers.ndim == 2 and not indexed:
            return _checked(numbers, file)
        colours = np.array(upright.convert("RGB"))
    if (colours == colours[..., :1]).all():
        levels = colours[..., 0]
        return _checked(numbers if indexed and levels.max() > HIGHEST else levels, file)
    try:
        shown = torch.from_numpy(colours)[None] / 255
        return semantic_map.from_colors(shown, semantic_map.PALETTE, TOLERANCE)[0]
    except ValueError as wrong:
        if indexed and numbers.max() <= HIGHEST:
            return _checked(numbers, file)
        raise ValueError(f"{file.name}: {wrong}") from wrong


def _checked(numbers: np.ndarray, file: Path) -> Tensor:
    if numbers.max() > HIGHEST:
        raise ValueError(
            f"{file.name} has grey levels up to {numbers.max()}, and parts have numbers from 0 to "
            f"{HIGHEST}. Save the number of each part itself, or its colour in Vitruvian's palette."
        )
    return torch.from_numpy(numbers.astype(np.uint8))


def _picture_in(
    file: Path, number: int, size: int, vision: Vision, maps: Path | None
) -> DressedPicture | None:
    """None, and a warning, for a picture that teaches nothing."""
    drawn = map_file(file, maps)
    if drawn is None:
        where = f"{beside(file, MAP).name} beside it" if maps is None else f"map in {maps}"
        log.warning("%s has no %s; left out.", file.name, where)
        return None
    try:
        rgb, labels = read_upright(file, "RGB"), read_map(drawn)
        caption = read_caption(file) or CAPTION
    except UNREADABLE as trouble:
        log.warning("%s or its map %s can not be read: %s", file.name, drawn.name, trouble)
        return None
    if not alike(rgb, labels[..., None]):
        log.warning("%s and %s differ in proportions; left out.", file.name, drawn.name)
        return None
    labels = scaled(labels, *rgb.shape[:2])
    parts = part_crops.crop_parts(rgb, labels, vision.side)
    if not parts:
        log.warning("%s shows no part of %d pixels; left out.", drawn.name, part_crops.MIN_PIXELS)
        return None
    crops = torch.stack([crop for _, crop in parts])
    cut = cut_around(labels, size, number)
    square = (cut.of(rgb)[0].clamp(0, 1) * 255).round().byte()
    rows, columns = (slice(start, start + size) for start in (cut.top, cut.left))
    return DressedPicture(
        square,
        scaled(labels, cut.height, cut.width)[rows, columns].clone(),
        caption,
        torch.tensor([part for part, _ in parts]),
        vision(in_bytes(crops).movedim(-1, 1)),
        part_crops.thumbnails(crops),
    )


def in_bytes(pictures: Tensor) -> Tensor:
    """Rounded to 256 levels, as the host shows crops to the same encoder."""
    return (pictures.clamp(0, 1) * 255).round() / 255


def scaled(labels: Tensor, height: int, width: int) -> Tensor:
    """A map [H,W] -> [height,width], each pixel as the one nearest to it."""
    return interpolate(labels[None, None], (height, width), mode="nearest-exact")[0, 0]


def cut_around(labels: Tensor, size: int, seed: int) -> Cut:
    """The square, `size` pixels wide, of a picture whose shorter side becomes as long: around a
    random pixel of a part, as far as the picture goes.
    """
    scale = size / min(labels.shape)
    tall, wide = (max(size, round(side * scale)) for side in labels.shape)
    g, there = torch.Generator().manual_seed(seed), labels != semantic_map.BACKGROUND

    def begin(across: int, length: int) -> int:
        """The first row or column."""
        middle = int(torch.multinomial(there.sum(across).float(), 1, generator=g)) + 0.5
        return min(max(0, round(middle * scale - size / 2)), length - size)

    return Cut(tall, wide, begin(1, tall), begin(0, wide), size)


def memory_of(found: Sequence[DressedPicture], vision: Vision, slots: int) -> Memory:
    """A memory of all their parts, of at most `slots` slots of each class."""
    features, parts, thumbnails = (
        torch.cat([getattr(picture, name) for picture in found])
        for name in ("features", "parts", "thumbnails")
    )
    with tqdm(desc="fill the memory") as bar:

        def step(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        banks = memory.build_banks(features, parts, thumbnails, slots, step)
    return Memory(banks, vision.name, vision.text_projection)


def remembered(kept: Memory, parts: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """For crops [M,D] of classes [M] what the memory makes of them [M,D], and of which of them it
    has slots, bool [M].
    """
    refreshed = torch.zeros_like(features)
    known = torch.isin(parts, torch.tensor(kept.parts, dtype=torch.long))
    for part in parts[known].unique().tolist():
        own = parts == part
        refreshed[own] = memory.refresh(kept.banks[part], features[own]).features
    return refreshed, known


def plain(caption: str) -> str:
    """A caption without what is worn, and without hair."""
    phrases = split_phrases(caption, unknown=True)
    kept = [phrase.text for phrase in phrases if phrase.part is None]
    return caption if len(kept) == len(phrases) else ", ".join(kept) or CAPTION


class DressedPictures(Dataset):
    """What AppearanceLoss takes, without hints, of pictures encoded once by `base` and parts
    refreshed by `kept`. ValueError if that knows none of the parts.
    """

    def __init__(self, found: Sequence[DressedPicture], base: Base, kept: Memory) -> None:
        self.found = found
        parts, features = (
            torch.cat([getattr(picture, name) for picture in found])
            for name in ("parts", "features")
        )
        refreshed, known = remembered(kept, parts, features)
        if not known.any():
            there, held = (
                ", ".join(semantic_map.CLASSES[k] for k in sorted(some)) or "nothing"
                for some in (set(parts.tolist()), kept.parts)
            )
            raise ValueError(
                f"the memory holds {held}, and the pictures show {there}: nothing is to be learnt. "
                "Give a memory of such parts, or --memory-out to make one of these pictures."
            )
        counts = [len(picture.parts) for picture in found]
        self.refreshed, self.known = refreshed.split(counts), known.split(counts)
        self.latents = _encoded(found, base)

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, i: int) -> dict:
        picture, known = self.found[i], self.known[i]
        parts = picture.parts[known]
        features = torch.zeros(2, len(semantic_map.CLASSES), picture.features.shape[1])
        features[:, parts] = torch.stack((picture.features, self.refreshed[i]))[:, known]
        told = torch.zeros(len(semantic_map.CLASSES), dtype=torch.bool)
        told[parts] = True
        return {
            "latent": self.latents[i],
            "labels": picture.labels,
            "features": features[0],
            "refreshed": features[1],
            "known": told,
            "captions": {"full": picture.caption, "brief": plain(picture.caption), "bodies": []},
        }


def _encoded(found: Sequence[DressedPicture], base: Base) -> Tensor:
    """Latents [N,4,h,w]."""
    latents = []
    for start in tqdm(range(0, len(found), BATCH), desc="encode"):
        rgb = torch.stack([picture.rgb for picture in found[start : start + BATCH]])
        latents.append(base.encode(rgb / 255).cpu())
    return torch.cat(latents)
