"""Draw which parts of an image the words of its prompt attend to.

Cross-attention maps are averaged over the layers of one grid and drawn over the image: one sheet
per word, with a column for each moment of the sampling. How HcP (arXiv 2403.05239) draws its maps
is not known; layout and colors are our choice.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .human_tokens import WORD_PATTERN, Word, base_forms

Grid = tuple[int, int]  # height, width
Grids = dict[Grid, Tensor]  # maps of all words, [words, height, width]

CELL = 224  # pixels of a cell's longer side
GAP = 8  # between cells
MARGIN = 156  # for the rows' labels
HEADER = 84  # for the title and the columns' labels
MIN_WIDTH = 480  # of a sheet, so that its title can be read
LABELS = 96  # height of a grid's labels
BAR = 8  # height of the color scale
BACKGROUND = 0.09
GRAY = 0.5  # stands for a missing image
DIMMED = 0.45  # brightness of the image below a map
HEAT = ((0.0, 0.0, 0.0), (0.32, 0.05, 0.48), (0.82, 0.21, 0.36), (0.98, 0.6, 0.15), (1, 1, 0.72))
FONT = 0  # OpenCV's FONT_HERSHEY_SIMPLEX
BRIGHT, FAINT = (242, 242, 242), (150, 150, 150)  # labels


class Row(NamedTuple):
    """Hold a row of a sheet: its name, and a map [h, w] for each moment."""

    name: str
    maps: Sequence[Tensor]


class Label(NamedTuple):
    """Hold a line of text on a sheet, from x and the base line y."""

    text: str
    x: int
    y: int
    size: float
    color: tuple[int, int, int]


def phrase_positions(phrase: str, words: Sequence[Word]) -> tuple[int, ...]:
    """Find the positions of the phrase's tokens in the prompt, with its last word in any form.

    All occurrences count; the result is empty if there is none.
    """
    parts = WORD_PATTERN.findall(phrase.casefold())
    runs = [words[i : i + len(parts)] for i in range(len(words) - len(parts) + 1)] if parts else []
    matches = [word for run in runs if _is_phrase(run, parts) for word in run]
    return tuple(sorted({position for word in matches for position in word.positions}))


def _is_phrase(run: Sequence[Word], parts: Sequence[str]) -> bool:
    *first, last = (word.text for word in run)
    return first == list(parts[:-1]) and parts[-1] in base_forms(last)


def marked_positions(words: Sequence[Word], marks: Sequence[bool]) -> dict[str, tuple[int, ...]]:
    """Find the positions of the tokens of every word that has a marked token, by word."""
    positions: dict[str, tuple[int, ...]] = {}
    for word in words:
        if any(marks[position] for position in word.positions):
            positions[word.text] = positions.get(word.text, ()) + word.positions
    return positions


def word_maps(attention: Tensor, columns: Sequence[Sequence[int]], grid: Grid) -> Tensor:
    """Compute each word's share of an attention map [heads, h * w, T]: [words, h, w], on the CPU.

    columns: the positions of each word's tokens; grid: (h, w).
    """
    mean = attention.float().mean(0)
    shares = torch.stack([mean[:, list(tokens)].sum(-1) for tokens in columns])
    return shares.unflatten(-1, grid).cpu()


def average_layers(maps: Iterable[Tensor]) -> Grids:
    """Average the maps [words, h, w] of layers that have the same grid; finest grid first."""
    by_grid: dict[Grid, list[Tensor]] = {}
    for layer in maps:
        by_grid.setdefault((layer.shape[-2], layer.shape[-1]), []).append(layer)
    finest = sorted(by_grid, reverse=True)
    return {grid: torch.stack(by_grid[grid]).mean(0) for grid in finest}


def word_masks(moments: Sequence[Grids], height: int, width: int) -> Tensor:
    """Average over moments and grids into masks [words, height, width], each with maximum 1."""
    resized = [_resize(maps, (height, width)) for grids in moments for maps in grids.values()]
    mean = torch.stack(resized).mean(0)
    return mean / mean.amax((1, 2), keepdim=True).clamp(min=torch.finfo(mean.dtype).tiny)


def draw_sheets(
    words: Sequence[str],
    moments: Sequence[float],
    maps_by_row: Mapping[str, Sequence[Grids]],
    image: Tensor,
) -> Tensor:
    """Draw a sheet for each word, [words, H, W, 3].

    moments: shares of the sampling, 0..1. maps_by_row: for each row, under a name such as "without
    prior", its maps at every moment. image: [h, w, 3] in 0..1.
    """
    grids = next(iter(maps_by_row.values()))[0]
    ground = _thumbnail(image)
    return torch.stack(
        [
            _draw_sheet(
                word,
                moments,
                {
                    grid: [
                        Row(name, [moment[grid][k] for moment in at_moments])
                        for name, at_moments in maps_by_row.items()
                    ]
                    for grid in grids
                },
                ground,
            )
            for k, word in enumerate(words)
        ]
    )


def _draw_sheet(
    word: str, moments: Sequence[float], rows: Mapping[Grid, Sequence[Row]], ground: Tensor
) -> Tensor:
    down, right = max(LABELS, ground.shape[0]) + GAP, ground.shape[1] + GAP  # to the next cell
    lines = sum(map(len, rows.values()))
    height = HEADER + lines * down + (len(rows) - 1) * GAP
    width = max(MIN_WIDTH, MARGIN + len(moments) * right)
    sheet = torch.full((height, width, 3), BACKGROUND)
    labels = [Label(word, GAP, 40, 1.0, BRIGHT)]
    for k, moment in enumerate(moments):
        labels.append(Label(f"{100 * moment:g} %", MARGIN + k * right, HEADER - 12, 0.55, FAINT))
    top = HEADER
    for (h, w), rows_of_grid in rows.items():
        brightest = max(float(values.max()) for row in rows_of_grid for values in row.maps)
        sheet[top + 60 : top + 60 + BAR, GAP : MARGIN - 2 * GAP] = _bar()
        labels.append(Label(f"{w} x {h}", GAP, top + 20, 0.7, BRIGHT))
        labels.append(Label(f"0 to {100 * brightest:.3g} %", GAP, top + 88, 0.45, FAINT))
        for number, row in enumerate(rows_of_grid):
            labels.append(Label(row.name, GAP, top + (14 if number else 46), 0.5, BRIGHT))
            for k, values in enumerate(row.maps):
                cell = overlay_map(values, brightest, ground)
                x = MARGIN + k * right
                sheet[top : top + len(cell), x : x + cell.shape[1]] = cell
            top += down
        top += GAP
    return _write(sheet, labels)


def _bar() -> Tensor:
    """The colors from nothing to the brightest."""
    return _heat(torch.linspace(0, 1, MARGIN - 3 * GAP).expand(BAR, -1))


def overlay_map(values: Tensor, brightest: float, ground: Tensor) -> Tensor:
    """Draw a map [h, w] as heat over a dimmed, gray image [H, W, 3].

    brightest: the value of the map that gets the brightest color.
    """
    heat = _heat(_resize(values[None], ground.shape[:2])[0] / max(brightest, 1e-12))
    return 1 - (1 - DIMMED * ground.mean(-1, keepdim=True)) * (1 - heat)


def _heat(values: Tensor) -> Tensor:
    """Values in 0..1 [H, W] -> colors [H, W, 3], brighter with every value."""
    colors = torch.tensor(HEAT)
    at = values.clamp(0, 1) * (len(colors) - 1)
    low = at.floor().long().clamp(max=len(colors) - 2)
    return torch.lerp(colors[low], colors[low + 1], (at - low)[..., None])


def _resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    return interpolate(maps[None], tuple(size), mode="bilinear", align_corners=False)[0]


def _thumbnail(image: Tensor) -> Tensor:
    """The image with CELL as its longer side."""
    scale = CELL / max(image.shape[:2])
    size = [max(1, round(side * scale)) for side in image.shape[:2]]
    channels = interpolate(image.movedim(-1, 0)[None], size, mode="bilinear", antialias=True)
    return channels[0].movedim(0, -1).clamp(0, 1)


def _write(sheet: Tensor, labels: Sequence[Label]) -> Tensor:
    """The sheet with labels, which become smaller where they would not fit."""
    import cv2

    canvas = (sheet * 255).round().byte().numpy().copy()
    for text, x, y, size, color in labels:
        (wide, _), _ = cv2.getTextSize(text, FONT, size, 2)
        size = min(size, size * (canvas.shape[1] - x - GAP) / max(1, wide))
        thickness = 2 if size >= 0.7 else 1
        cv2.putText(canvas, text, (x, y), FONT, size, color, thickness, cv2.LINE_AA)
    return torch.from_numpy(canvas).float() / 255
