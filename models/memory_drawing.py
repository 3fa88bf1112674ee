"""Drawings of a memory: the slots that were retrieved for each part, and the catalog of a class.

All drawings are images [H, W, 3] in 0..1.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .memory import Bank, Part
from .part_crops import THUMBNAIL
from .semantic_map import CLASSES

SLOT = 2 * THUMBNAIL  # pixels of a slot in `draw_slots`
PAPER, INK, BAR = (250, 250, 248), (60, 60, 60), (43, 67, 181)


def draw_slots(bank: Bank, slots: Tensor, weights: Tensor, title: str = "") -> Tensor:
    """Draw slots [K] side by side under a title, above a bar and a number for the weights [K]."""
    import cv2
    import numpy as np

    head, foot, gap = 20, 26, 4
    width = max(len(slots) * (SLOT + gap), 8 * len(title)) + gap
    canvas = np.full((head + SLOT + foot, width, 3), PAPER, np.uint8)
    _write(canvas, title, gap, head - 6)
    for k, (slot, weight) in enumerate(zip(slots.tolist(), weights.tolist(), strict=True)):
        x, below = gap + k * (SLOT + gap), head + SLOT
        thumbnail: Any = bank.thumbnails[slot].numpy()
        enlarged = cv2.resize(thumbnail, (SLOT, SLOT), interpolation=cv2.INTER_NEAREST)
        canvas[head:below, x : x + SLOT] = enlarged
        canvas[below + 3 : below + 8, x : x + max(1, round(weight * SLOT))] = BAR
        _write(canvas, f"{weight:.2f}", x, below + 22)
    return torch.from_numpy(canvas).float() / 255


def draw_parts(parts: Iterable[Part], banks: Mapping[int, Bank]) -> Tensor:
    """Draw the slots of every part that has some, one part below the other.

    Without any, the drawing is one blank row.
    """
    rows = [
        draw_slots(banks[p.part], p.slots, p.weights, f"{p.phrase} ({CLASSES[p.part]})")
        for p in parts
        if len(p.slots)
    ]
    return stack_rows(rows or [torch.full((THUMBNAIL, SLOT, 3), PAPER[0] / 255)])


def stack_rows(images: Sequence[Tensor]) -> Tensor:
    """Put images [h, w, 3] one below the other, filled up to the widest."""
    width = max(image.shape[1] for image in images)
    paper = torch.tensor(PAPER) / 255
    return torch.cat(
        [
            torch.cat((image, paper.expand(len(image), width - image.shape[1], 3)), 1)
            for image in images
        ]
    )


def catalog(bank: Bank, columns: int) -> Tensor:
    """Draw all slots of a bank in rows, those that stand for most crops first."""
    gap, count = 2, len(bank)
    columns = max(1, min(columns, count))
    rows, cell = max(1, math.ceil(count / columns)), THUMBNAIL + gap
    canvas = (torch.tensor(PAPER) / 255).repeat(rows * cell + gap, columns * cell + gap, 1)
    order = bank.counts.argsort(descending=True, stable=True)
    for k, thumbnail in enumerate(bank.thumbnails[order].float() / 255):
        y, x = gap + k // columns * cell, gap + k % columns * cell
        canvas[y : y + THUMBNAIL, x : x + THUMBNAIL] = thumbnail
    return canvas


def _write(canvas: Any, text: str, x: int, y: int) -> None:
    import cv2

    cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, INK, 1, cv2.LINE_AA)
