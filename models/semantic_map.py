"""Semantic pose maps: which part of a person or of their clothes each pixel shows.

HumanDiffusion (Zhang et al. 2022, arXiv 2211.06235) generates people from such a map, with the 24
classes of DeepFashion-MultiModal. Its internals were not published: how a map is made here, from
colors, masks or a skeleton, is ours.

A map is a uint8 tensor [B, H, W] of class numbers. The table below is the only place that lists
the classes: names, colors, groups, outfits, legends, memories and the choices of the nodes follow
from it. A new class is one more line at its end, because files of weights, memories and maps hold
the numbers. A shape lets Semantic Map from Pose draw the class as a garment; other words for it go
into clothing_words.txt.
"""

from collections.abc import Collection, Iterable, Sequence
from enum import Enum, auto
from typing import NamedTuple

import torch
from torch import Tensor


class Shape(Enum):
    """How a garment is drawn around a pose (see outfit.py)."""

    SHIRT = auto()  # trunk and arms; tucked into what covers the legs
    JACKET = auto()  # trunk and arms; hangs over what covers the legs
    DRESS = auto()  # trunk and arms with a skirt
    OVERALL = auto()  # trunk and arms with trousers
    TROUSERS = auto()
    TIGHTS = auto()  # trousers close to the leg
    SKIRT = auto()


class PartClass(NamedTuple):
    """One class of the map: its name and how it is used."""

    name: str
    color: tuple[int, int, int]  # thirds of 255, so that any two classes are 85 levels apart
    clothing: bool = True  # worn or carried
    shape: Shape | None = None  # of an upper or lower garment of an outfit


TABLE: list[PartClass] = []  # the number of a class is its place in here


def _add(
    name: str, color: tuple[int, int, int], *, clothing: bool = True, shape: Shape | None = None
) -> int:
    TABLE.append(PartClass(name, color, clothing, shape))
    return len(TABLE) - 1


BACKGROUND = _add("background", (0, 0, 0), clothing=False)
TOP = _add("top", (0, 170, 255), shape=Shape.SHIRT)
OUTER = _add("outer", (0, 0, 170), shape=Shape.JACKET)
SKIRT = _add("skirt", (255, 0, 170), shape=Shape.SKIRT)
DRESS = _add("dress", (170, 0, 85), shape=Shape.DRESS)
PANTS = _add("pants", (0, 85, 255), shape=Shape.TROUSERS)
LEGGINGS = _add("leggings", (85, 170, 170), shape=Shape.TIGHTS)
HEADWEAR = _add("headwear", (255, 255, 0))
EYEGLASS = _add("eyeglass", (255, 255, 255))
NECKWEAR = _add("neckwear", (0, 170, 0))
BELT = _add("belt", (255, 85, 0))
FOOTWEAR = _add("footwear", (255, 0, 0))
BAG = _add("bag", (85, 85, 0))
HAIR = _add("hair", (170, 85, 0), clothing=False)
FACE = _add("face", (255, 170, 170), clothing=False)
SKIN = _add("skin", (255, 170, 85), clothing=False)
RING = _add("ring", (255, 255, 170))
WRIST = _add("wrist wearing", (0, 255, 255))
SOCKS = _add("socks", (170, 170, 255))
GLOVES = _add("gloves", (170, 0, 255))
NECKLACE = _add("necklace", (0, 255, 85))
ROMPERS = _add("rompers", (85, 0, 170), shape=Shape.OVERALL)
EARRINGS = _add("earrings", (170, 255, 0))
TIE = _add("tie", (0, 85, 85))

CLASSES = tuple(row.name for row in TABLE)
WHOLE_PERSON = tuple(range(1, len(TABLE)))
CLOTHING = tuple(part for part, row in enumerate(TABLE) if row.clothing)
PALETTE = torch.tensor([row.color for row in TABLE], dtype=torch.uint8)  # [classes, 3]
GRAY_LEVELS = torch.arange(len(TABLE), dtype=torch.uint8)[:, None].repeat(1, 3)  # DeepFashion's
LEGEND_ROW = 16  # pixels per class in the smallest legend that can be read


def part_named(name: str) -> int:
    """Return the number of the class of this name.

    Capitals, hyphens and underscores do not matter. Raises ValueError that lists all names.
    """
    plain = " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
    if plain not in CLASSES:
        raise ValueError(f"there is no part '{name.strip()}'. The parts are {', '.join(CLASSES)}.")
    return CLASSES.index(plain)


# maps from images and masks


def from_colors(
    images: Iterable[Tensor],
    palette: Tensor,
    tolerance: float,
    parts: Sequence[int] = range(len(TABLE)),
    *,
    background: bool = False,
) -> Tensor:
    """Read colored images [B, H, W, 3] in 0..1 as maps [B, H, W], by the nearest color.

    `palette` [n, 3] in 0..255 holds the colors of `parts`; two colors may mean the same part.
    A pixel farther than `tolerance` levels (Euclidean) from every color becomes background if
    `background` is True; otherwise ValueError says how many such pixels there are.
    """
    numbers = torch.tensor(list(parts), dtype=torch.uint8)
    labels, unknown_pixels = [], 0
    for image in images:
        levels = 255 * image[..., :3].cpu().float().reshape(-1, 3)
        exact = "donot_use_mm_for_euclid_dist"  # neighboring gray levels lie close together
        distance, nearest = torch.cdist(levels, palette.float(), compute_mode=exact).min(1)
        far = distance > tolerance
        unknown_pixels += int(far.sum())
        flat = torch.where(far, BACKGROUND, numbers[nearest])
        labels.append(flat.view(image.shape[:2]).to(torch.uint8))
    if unknown_pixels and not background:
        total = len(labels) * labels[0].numel()
        raise ValueError(
            f"{unknown_pixels} of {total} pixels have a color that is more than {tolerance:g} "
            "levels from every color of the palette. Choose the palette that the image was drawn "
            "with, save it as PNG and enlarge it without smoothing, raise the tolerance, or let "
            "such pixels be background."
        )
    return torch.stack(labels)


def read_palette(text: str) -> tuple[Tensor, list[int]]:
    """Read lines "part: #rrggbb" as colors [n, 3] uint8 and the part of each color.

    Black is the background unless a line says otherwise. Raises ValueError that quotes the line.
    """
    part_by_color: dict[bytes, int] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, code = line.replace("=", ":").partition(":")
        try:
            color = bytes.fromhex(code.strip().removeprefix("#"))
        except ValueError:
            color = b""
        if len(color) != 3:
            raise ValueError(f"'{line}' is not a part and its color, such as top: #ff0000.")
        part = part_named(name)
        if part_by_color.setdefault(color, part) != part:
            raise ValueError(
                f"'{line}': {CLASSES[part_by_color[color]]} has that color already. Give every "
                "part a color of its own."
            )
    if not part_by_color:
        raise ValueError("there are no colors: write a line such as top: #ff0000 for each part.")
    if BACKGROUND not in part_by_color.values():
        part_by_color.setdefault(bytes(3), BACKGROUND)
    colors = torch.tensor([*map(list, part_by_color)], dtype=torch.uint8)
    return colors, [*part_by_color.values()]


def empty_map(mask: Tensor) -> Tensor:
    """Return a map [B, H, W] of background alone, of the size of a mask."""
    return torch.zeros(mask.shape, dtype=torch.uint8)


def add_part(labels: Tensor, mask: Tensor, part: int) -> Tensor:
    """Return the map with a part wherever the mask [B, H, W] is 0.5 or more.

    A batch of one goes with any other. Raises ValueError naming both sizes if they differ.
    """
    return overlay(labels, torch.where(mask.cpu() >= 0.5, part, -1))


def overlay(labels: Tensor, above: Tensor) -> Tensor:
    """Return the map with the classes of `above` [B, H, W] over it, except where those are < 0.

    A batch of one goes with any other. Raises ValueError naming both sizes if they differ.
    """
    (height, width), (above_height, above_width) = labels.shape[-2:], above.shape[-2:]
    if (height, width) != (above_height, above_width):
        raise ValueError(
            f"the map is {width} x {height} pixels and what is drawn over it {above_width} x "
            f"{above_height}: scale one of them to the size of the other."
        )
    batches = {len(labels), len(above)}
    if len(batches) > 1 and 1 not in batches:
        raise ValueError(
            f"there are {len(labels)} maps and {len(above)} masks: give equally many, or one."
        )
    return torch.where(above >= 0, above, labels).to(torch.uint8)


# views and measures of maps


def color_image(labels: Tensor) -> Tensor:
    """Color maps [B, H, W] with PALETTE, as images [B, H, W, 3] in 0..1.

    from_colors reads them back.
    """
    return PALETTE[labels.long()].float() / 255


def with_legend(labels: Tensor) -> Tensor:
    """Color maps and draw the names of the parts that are on each beside it: [B, h, w, 3] in 0..1.

    Small maps are enlarged by a whole number, so that a legend of all classes can be read.
    """
    times = -(-LEGEND_ROW * len(TABLE) // labels.shape[1])
    large = labels.repeat_interleave(times, 1).repeat_interleave(times, 2)
    legends = [_draw_legend(frame.unique().tolist(), large.shape[1]) for frame in labels]
    return torch.cat((color_image(large), torch.stack(legends)), dim=2)


def _draw_legend(parts: Sequence[int], height: int) -> Tensor:
    """[height, width, 3]: a square of each part's color and its name, one below the other."""
    import cv2
    import numpy as np

    row = min(height // len(TABLE), 40)
    scale, side = row / 40, row // 2
    canvas = np.full((height, 9 * row, 3), 32, np.uint8)
    font, white = cv2.FONT_HERSHEY_SIMPLEX, (255, 255, 255)
    for number, part in enumerate(parts):
        y = number * row + row // 4
        canvas[y : y + side, side : 2 * side] = PALETTE[part].numpy()
        edge = (side - 1, y - 1), (2 * side, y + side)
        cv2.rectangle(canvas, *edge, (128, 128, 128), 1)
        place = (3 * side, y + side - max(1, side // 8))
        cv2.putText(canvas, CLASSES[part], place, font, scale, white, 1, cv2.LINE_AA)
    return torch.from_numpy(canvas).float() / 255


def shares(labels: Tensor, grid: tuple[int, int]) -> Tensor:
    """Measure the share of each class in the area of each cell: [B, H, W] -> [B, classes, h, w].

    The shares of a cell sum to 1. A pixel on the border of two cells counts in both by area;
    cells may be smaller than pixels.
    """
    rows, columns = (_overlap(*pair) for pair in zip(labels.shape[-2:], grid, strict=True))
    rows, columns = rows.to(labels.device), columns.to(labels.device)
    classes = range(len(TABLE))
    return torch.stack([rows @ (labels == k).float() @ columns.mT for k in classes], dim=1)


def _overlap(pixels: int, cells: int) -> Tensor:
    """[cells, pixels]: which share of each cell lies in each pixel, along one side of the map."""
    edges = torch.arange(cells + 1, dtype=torch.float64)[:, None] * pixels / cells
    pixel = torch.arange(pixels, dtype=torch.float64)
    inside = torch.minimum(edges[1:], pixel + 1) - torch.maximum(edges[:-1], pixel)
    return (inside.clamp(min=0) * cells / pixels).float()


def part_mask(labels: Tensor, parts: Collection[int], expand: int = 0) -> Tensor:
    """Mask where any of the parts is: [B, H, W], 0 or 1.

    The mask reaches `expand` pixels beyond the parts, or stays that far inside if negative; it
    never shrinks from the border of the image.
    """
    mask = torch.isin(labels, torch.tensor(list(parts), dtype=labels.dtype, device=labels.device))
    if expand:
        # to shrink the parts is to grow what is not of them
        inverted = expand < 0
        mask = torch.stack([_grown(frame ^ inverted, abs(expand)) for frame in mask]) ^ inverted
    return mask.float()


def _grown(mask: Tensor, reach: int) -> Tensor:
    """The pixels of a bool mask [H, W] and those at most `reach` away from one."""
    import cv2
    import numpy as np

    if not mask.any():
        return mask
    outside = (~mask).cpu().numpy().astype(np.uint8)
    distance = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return torch.from_numpy(distance <= reach + 1e-3).to(mask.device)
