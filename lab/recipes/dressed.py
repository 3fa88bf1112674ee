"""The world of dressed people: which clothes no training sees, semantic maps, phrases and crops.

Some combinations of color, pattern and garment are held out (HELD_OUT): neither encoder nor
alignment ever sees one, nor does the memory that the alignment is trained with. The base has seen
them all.
"""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...models import part_crops, semantic_map
from ..world.body import BOTTOM, LABELS
from ..world.captions import scene_caption
from ..world.dataset import WorldDataset
from ..world.renderer import Render, render
from ..world.scenes import BOTTOMS, COLORS, PATTERNS, Scenes
from .worlds import write_dressed

CROP = 48  # pixels
CHUNK = 64  # scenes that are rendered at once
GARMENTS = ("top", *BOTTOMS)
HELD_OUT = {  # a fifth of all: every color, pattern and garment is in some that are trained on
    (color, pattern, garment)
    for (a, color), (b, pattern), (c, garment) in product(
        enumerate(COLORS), enumerate(PATTERNS), enumerate(GARMENTS)
    )
    if (a + 2 * b + 3 * c) % 5 == 0
}
_COMBINATION = re.compile(
    rf"\b({'|'.join(COLORS)}) (?:({'|'.join(PATTERNS[1:])}) )?({'|'.join(GARMENTS)})\b"
)
_CAPTION = re.compile(
    r"(?P<who>an? \w+) with (?P<skin>\w+ skin) and (?P<hair>\w+ \w+ hair) wearing an? "
    r"(?P<top>[\w ]+ top), (?:an? )?(?P<bottom>[\w ]+ (?:trousers|skirt))(?:,| and) "
    r"(?P<shoes>\w+ shoes)(?: and an? (?P<hat>\w+ hat))?, (?P<scene>.*)"
)


def is_held_out(caption: str) -> bool:
    """Tell whether a caption names a combination of HELD_OUT."""
    return not HELD_OUT.isdisjoint(
        (color, pattern or PATTERNS[0], garment)
        for color, pattern, garment in _COMBINATION.findall(caption)
    )


def part_phrases(caption: str) -> dict[int, str]:
    """Read the phrase of each part, by class, from the whole caption of one person."""
    words = _read(caption)
    bottom = semantic_map.SKIRT if words["bottom"].endswith("skirt") else semantic_map.PANTS
    phrases = {
        semantic_map.TOP: words["top"],
        bottom: words["bottom"],
        semantic_map.FOOTWEAR: words["shoes"],
        semantic_map.HEADWEAR: words["hat"],
        semantic_map.HAIR: words["hair"],
        semantic_map.FACE: words["skin"],
        semantic_map.SKIN: words["skin"],
    }
    return {part: phrase for part, phrase in phrases.items() if phrase}


def without_appearance(caption: str) -> str:
    """Shorten a caption by what the person looks like."""
    words = _read(caption)
    return f"{words['who']}, {words['scene']}"


def _read(caption: str) -> re.Match:
    match = _CAPTION.match(caption)
    if match is None:
        raise ValueError(f"'{caption}' is no whole caption of one person.")
    return match


def class_table(skirt: Tensor) -> Tensor:
    """List the semantic class [P, labels] of each of the world's labels.

    `skirt`, bool [P], says which people wear a skirt; the others wear trousers.
    """
    parts = torch.tensor([part for _, part in LABELS], dtype=torch.uint8)
    table = parts.repeat(len(skirt), 1)
    table[:, BOTTOM] = torch.where(skirt, semantic_map.SKIRT, semantic_map.PANTS).byte()
    return table


def semantic_maps(scenes: Scenes, truth: Render) -> Tensor:
    """Make the semantic maps uint8 [B, H, W] of renders; the bottom is a skirt or trousers."""
    skirt = scenes.people.bottom_kind == BOTTOMS.index("skirt")
    table = class_table(torch.cat((skirt, torch.zeros(1, dtype=torch.bool))))  # last row: nobody
    return table[truth.instance, truth.parsing]


def map_of_single(labels: Tensor, caption: str) -> Tensor:
    """Make the semantic map [H, W] of a scene of one person from the world's labels [H, W]."""
    skirt = torch.tensor([semantic_map.SKIRT in part_phrases(caption)])
    return class_table(skirt)[0][labels.long()]


class Crops(NamedTuple):
    """Parts cut out of images of one person each."""

    images: Tensor  # uint8 [M, 3, S, S]
    parts: Tensor  # [M], classes
    scenes: Tensor  # [M], which image each is of
    phrases: list[str]  # of each


def cut_scenes(scenes: Scenes) -> Crops:
    """Render scenes of one whole person each, and cut all parts out of them."""
    images, parts, numbers, phrases = list[Tensor](), list[int](), list[int](), list[str]()
    for rows in torch.arange(len(scenes)).split(CHUNK):
        chunk = scenes.take(rows)
        truth = render(chunk)
        maps = semantic_maps(chunk, truth)
        for k, number in enumerate(rows.tolist()):
            looks = part_phrases(scene_caption(chunk, k))
            for part, crop in _cut(truth.rgb[k].movedim(0, -1), maps[k]):
                images.append(crop)
                parts.append(part)
                numbers.append(number)
                phrases.append(looks[part])
    return Crops(torch.stack(images), torch.tensor(parts), torch.tensor(numbers), phrases)


def _cut(image: Tensor, labels: Tensor) -> list[tuple[int, Tensor]]:
    """The parts of an image [H, W, 3] in 0..1, each uint8 [3, CROP, CROP] and its class."""
    crops = part_crops.crop_parts(image, labels, CROP)
    return [(part, (crop.movedim(-1, 0) * 255).round().byte()) for part, crop in crops]


def read_crops(work: Path) -> Crops:
    """Cut all parts out of the dressed world without held-out combinations; the crops stay in
    `work` for the next time.
    """
    file = work / "dressed-crops.npz"
    world = WorldDataset(write_dressed(work), names=("rgb", "parsing"))
    if not file.is_file():
        _write_crops(world, file)
    arrays = np.load(file)
    phrases = [
        part_phrases(world.captions[scene]["full"])[part]
        for scene, part in zip(arrays["scenes"].tolist(), arrays["parts"].tolist(), strict=True)
    ]
    images, parts, scenes = (torch.from_numpy(arrays[name]) for name in Crops._fields[:3])
    return Crops(images, parts, scenes, phrases)


def _write_crops(world: WorldDataset, file: Path) -> None:
    images, classes, rows = [], [], []
    for i in training_rows(world):
        item = world[i]
        labels = map_of_single(item["parsing"], item["captions"]["full"])
        image = item["rgb"].movedim(0, -1) / 255
        for part, crop in _cut(image, labels):
            images.append(crop)
            classes.append(part)
            rows.append(i)
    incomplete = file.with_suffix(".part.npz")  # savez adds the ending if it is not there
    np.savez(incomplete, images=torch.stack(images).numpy(), parts=classes, scenes=rows)
    incomplete.replace(file)


def training_rows(world: WorldDataset) -> list[int]:
    """List the scenes whose captions name no held-out combination."""
    captions = (caption["full"] for caption in world.captions)
    return [i for i, caption in enumerate(captions) if not is_held_out(caption)]
