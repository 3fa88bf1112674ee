"""Evaluator of clothes: a small network that reads color and pattern of a garment
in an image, given where the garment truly is.

Trained on the world's own renders and on the same after the autoencoder; what it gets right on
unseen images of that kind is reported beside every measurement made with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, interpolate, pad
from torch.utils.data import Dataset

from ..training import convert, preview
from ..training.loop import Schedule, fit
from ..world.renderer import Render, render
from ..world.scenes import COLORS, FULL, PATTERNS, People, Scenes, sample_scenes
from . import stored
from .measurements import GARMENTS, LEAST_PIXELS
from .posenet import EVALUATOR_WEIGHTS

CLOTHNET = EVALUATOR_WEIGHTS / "mini_clothnet.safetensors"
SIDE = 80  # pixels of the square that the network sees
GREY = 0.5  # of what is not the garment
FAINTEST = 0.02  # difference in brightness that can be a pattern
BLUR = 0.3  # at most: more of it takes the patterns away
ASTRAY = 2  # pixels by which a generated garment may lie beside its place
PATTERNED = ("top", "bottom")  # others are plain and teach nothing about patterns
UNKNOWN_PATTERN = -100  # of a pattern: not trained on
SHARD = 256  # scenes
SEEDS = {1: range(80_000, 80_008), 2: range(90_000, 90_005)}  # of shards, by people in an image


class Reading(NamedTuple):
    """Hold what was read of a garment in an image: indices into COLORS and PATTERNS."""

    person: int  # row of scenes.people
    garment: str  # of GARMENTS
    color: int
    pattern: int
    named_color: int
    named_pattern: int
    others: tuple[int, ...]  # the colors named for the person's other garments


class Place(NamedTuple):
    """Say whose garment it is, and which."""

    person: int
    garment: str


class ClothNet(nn.Module):
    """Classify garments [N,4,S,S], image and mask in 0..1 -> logits of colors [N,10], patterns
    [N,6].
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        sizes = [width, width * 2, width * 3]
        self.down = nn.ModuleList(
            nn.Sequential(*_convolution(a, b, 2), *_convolution(b, b))
            for a, b in zip([5, *sizes], sizes, strict=False)
        )
        self.color = nn.Linear(sum(sizes), len(COLORS))
        self.pattern = nn.Linear(sum(sizes), len(PATTERNS))

    def forward(self, garments: Tensor) -> tuple[Tensor, Tensor]:
        mask = garments[:, 3:]
        x = torch.cat(((garments[:, :3] - GREY) * mask, contrast(garments), mask), 1)
        means = []
        for block in self.down:
            x, mask = block(x), avg_pool2d(mask, 2)
            total = mask.sum((2, 3)).clamp(min=1e-3)
            means.append((x * mask).sum((2, 3)) / total)
        features = torch.cat(means, 1)
        return self.color(features), self.pattern(features)


def _convolution(before: int, after: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(before, after, 3, stride, 1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )


def contrast(garments: Tensor) -> Tensor:
    """Compute where a garment [N,4,S,S] is lighter or darker than it is on average, [N,1,S,S],
    in standard deviations: patterns look alike in all colors.
    """
    mask = garments[:, 3:]
    light = garments[:, :3].mean(1, keepdim=True)
    total = mask.sum((2, 3), keepdim=True).clamp(min=1)
    off = (light - (light * mask).sum((2, 3), keepdim=True) / total) * mask
    spread = (off.square().sum((2, 3), keepdim=True) / total).sqrt()
    return off / spread.clamp(min=FAINTEST)


def cut(image: Tensor, mask: Tensor) -> Tensor:
    """Crop the garment [4,SIDE,SIDE] in the middle of its square: image [3,H,W] in 0..1 and mask
    bool [H,W]. Larger ones are shrunk; nothing is enlarged, so that patterns keep their size.
    """
    (top, bottom), (left, right) = (
        (int(lines_with_garment[0]) - ASTRAY, int(lines_with_garment[-1]) + 1 + ASTRAY)
        for lines_with_garment in (mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0])
    )
    side = max(bottom - top, right - left, SIDE)
    y, x = (top + bottom - side) // 2, (left + right - side) // 2
    image_and_mask = torch.cat((image, mask[None].to(image)))
    square = pad(image_and_mask, (-x, x + side - mask.shape[1], -y, y + side - mask.shape[0]))
    if side == SIDE:
        return square
    return interpolate(square[None], (SIDE, SIDE), mode="bilinear", antialias=True)[0]


def named(people: People) -> dict[str, tuple[Tensor, Tensor]]:
    """List color and pattern [P] that the captions name of each garment; color -1: not worn."""
    plain = torch.zeros_like(people.shoes)
    return {
        "top": (people.top, people.top_pattern),
        "bottom": (people.bottom, people.bottom_pattern),
        "shoes": (people.shoes, plain),
        "hat": (people.hat, plain),
    }


class Cloths(NamedTuple):
    """Hold garments cut out of images."""

    garments: Tensor  # uint8 [M, 4, SIDE, SIDE]
    colors: Tensor  # [M]
    patterns: Tensor  # [M]


def cut_out(images: Tensor, scenes: Scenes, truth: Render) -> tuple[Tensor, list[Place]]:
    """Cut out all garments of LEAST_PIXELS or more in images [B,3,H,W] in 0..1 of what `truth`
    is the render of, [M,4,SIDE,SIDE], and whose they are.
    """
    worn = named(scenes.people)
    places, cloths = [], [torch.zeros(0, 4, SIDE, SIDE)]
    for i, scene in enumerate(scenes.people.scene.tolist()):
        person_parts = truth.parsing[scene] * (truth.instance[scene] == i)
        for garment, label in GARMENTS.items():
            mask = person_parts == label
            if mask.sum() >= LEAST_PIXELS and worn[garment][0][i] >= 0:
                places.append(Place(i, garment))
                cloths.append(cut(images[scene], mask)[None])
    return torch.cat(cloths), places


class Garments(Dataset):
    """Serve cloths, those with patterns twice: {"garment" uint8 [4,SIDE,SIDE], "color",
    "pattern"}.
    """

    def __init__(self, cloths: Cloths) -> None:
        self.cloths = cloths
        woven = (cloths.patterns > 0).nonzero()[:, 0]
        self.rows = torch.cat((torch.arange(len(cloths.colors)), woven))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict:
        garment, color, pattern = (field[self.rows[i]] for field in self.cloths)
        return {"garment": garment, "color": color, "pattern": pattern}


def _loss(net: nn.Module, batch: list[dict], g: torch.Generator) -> Tensor:
    """Cross-entropies of color and pattern, of images mirrored, blurred and noised as if
    generated, the garment a little beside its mask.
    """
    device = next(net.parameters()).device
    x = torch.stack([item["garment"] for item in batch]) / 255
    x = torch.where(torch.rand(len(x), 1, 1, 1, generator=g) < 0.5, x.flip(-1), x)
    image, mask = x[:, :3], x[:, 3:]
    soft = avg_pool2d(image, 3, 1, 1)
    image = torch.lerp(image, soft, BLUR * torch.rand(len(x), 1, 1, 1, generator=g))
    image = image + 0.03 * torch.randn(image.shape, generator=g)
    shifts = torch.randint(-ASTRAY, ASTRAY + 1, (len(x), 2), generator=g).tolist()
    mask = torch.stack([m.roll(shift, (1, 2)) for m, shift in zip(mask, shifts, strict=True)])
    color, pattern = net(torch.cat((image, mask), 1).to(device))
    colors, patterns = (
        torch.stack([item[name] for item in batch]).to(device) for name in ("color", "pattern")
    )
    wrong = cross_entropy(pattern.float(), patterns, ignore_index=UNKNOWN_PATTERN)
    return cross_entropy(color.float(), colors) + wrong


def train_clothnet(data: Dataset, schedule: Schedule, out: Path) -> ClothNet:
    """Train the clothes evaluator on Garments."""
    torch.manual_seed(schedule.seed)
    net = ClothNet()
    fit(net, _loss, data, schedule, out, collate=list)
    return net


def cloths_of(work: Path, share: float = 1.0) -> Cloths:
    """Collect the clothes of people alone and of two together, rendered and as the autoencoder
    gives them back; cut out once, kept in `work`. `share`: of the shards, at least one of each.
    """
    folder, checkpoint = work / "cloths", convert.load_checkpoint(preview.CHECKPOINT)
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for people, seeds in SEEDS.items():
        for seed in seeds[: max(1, round(share * len(seeds)))]:
            file = folder / f"{people}-{seed}.npz"
            if not file.is_file():
                scenes = sample_scenes(SHARD, seed, framing=FULL, people=people)
                write_cloths(file, checkpoint, scenes)
            read = np.load(file)
            parts.append(Cloths(*(torch.from_numpy(read[name]) for name in Cloths._fields)))
    return Cloths(*(torch.cat(column) for column in zip(*parts, strict=True)))


def write_cloths(file: Path, checkpoint: convert.Checkpoint, scenes: Scenes) -> None:
    """Write the Cloths of scenes as a file, first the rendered ones."""
    truth, worn = render(scenes), named(scenes.people)
    passed = [
        preview.decode(checkpoint, preview.encode(checkpoint, x)) for x in truth.rgb.split(16)
    ]
    renderings = [cut_out(images, scenes, truth) for images in (truth.rgb, torch.cat(passed))]
    places = [place for _, cut_places in renderings for place in cut_places]
    colors = [int(worn[garment][0][person]) for person, garment in places]
    patterns = [
        int(worn[garment][1][person]) if garment in PATTERNED else UNKNOWN_PATTERN
        for person, garment in places
    ]
    garments = (torch.cat([cloths for cloths, _ in renderings]) * 255).round().byte()
    part = file.with_suffix(".part.npz")
    np.savez(part, garments=garments.numpy(), colors=colors, patterns=patterns)
    part.replace(file)


def save_clothnet(net: ClothNet, path: Path = CLOTHNET) -> None:
    stored.save(net, path, "clothnet")


def load_clothnet(path: Path = CLOTHNET) -> ClothNet:
    """Load the clothes evaluator, in eval mode."""
    return stored.load(ClothNet(), path, "clothnet")


def read_clothes(net: ClothNet, images: Tensor, scenes: Scenes, truth: Render) -> list[Reading]:
    """Read all garments of LEAST_PIXELS or more in images [B,3,H,W] in 0..1; `truth` is the
    render of the same scenes.
    """
    worn = named(scenes.people)
    cloths, places = cut_out(images, scenes, truth)
    with torch.no_grad():
        logits = [net(chunk) for chunk in cloths.split(64)]
    colors, patterns = (torch.cat(each).argmax(1).tolist() for each in zip(*logits, strict=True))
    return [
        Reading(i, garment, color, pattern, *_named_by_prompt(worn, i, garment))
        for (i, garment), color, pattern in zip(places, colors, patterns, strict=True)
    ]


def _named_by_prompt(
    worn: Mapping[str, tuple[Tensor, Tensor]], person: int, garment: str
) -> tuple[int, int, tuple[int, ...]]:
    """The last three of a Reading."""
    colors = {name: int(color[person]) for name, (color, _) in worn.items()}
    named = colors.pop(garment)
    others = tuple(color for color in colors.values() if color >= 0)
    return named, int(worn[garment][1][person]), others
