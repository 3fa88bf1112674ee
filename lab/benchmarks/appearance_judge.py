"""What the evaluators read in images of dressed people, and the figures of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..evaluators import clothnet, measurements, posenet
from .appearance_scenes import Cases
from .intervals import ratio, ratio_difference


class Counts(NamedTuple):
    """Count in each of N images what is as it should be, all [N]."""

    garments: Tensor
    right: Tensor  # of the named color and, of tops and bottoms, the named pattern
    colors: Tensor  # of the named color
    leaks: Tensor  # of the color of another garment of the image instead of the own
    woven: Tensor  # tops and bottoms
    patterns: Tensor  # tops and bottoms of the named pattern
    joints: Tensor  # that are visible
    near: Tensor  # of these, that lie where they belong

    def first(self, count: int) -> Counts:
        """Keep the first images."""
        return Counts(*(values[:count] for values in self))

    def figures(self, way: str) -> dict[str, float]:
        """Compute the shares of one way, with intervals."""
        numbers = dict[str, float]()
        for name, (part, total) in SHARES.items():
            numbers |= ratio(getattr(self, part), getattr(self, total), f"{way}_{name}")
        return numbers

    def minus(self, baseline: Counts, name: str) -> dict[str, float]:
        """Compute how much larger each share is than a baseline's in the same scenes."""
        count = min(len(self.garments), len(baseline.garments))
        ours, theirs = self.first(count), baseline.first(count)
        numbers = dict[str, float]()
        for share, (part, total) in SHARES.items():
            parts = getattr(ours, part), getattr(theirs, part)
            numbers |= ratio_difference(*parts, getattr(ours, total), f"{name}_{share}")
        return numbers


SHARES: Mapping[str, tuple[str, str]] = {
    "part_acc": ("right", "garments"),
    "color_acc": ("colors", "garments"),
    "pattern_acc": ("patterns", "woven"),
    "leak": ("leaks", "garments"),
    "pck": ("near", "joints"),
}


class Judge:
    """Read images with the evaluators and compare them with the truth."""

    def __init__(self) -> None:
        self.clothes, self.poses = clothnet.load_clothnet(), posenet.load_posenet()

    def count(self, images: Tensor, cases: Cases) -> Counts:
        """Count in images [N,3,H,W] of the first N scenes."""
        cases = cases.first(len(images))
        readings, truth = self.read(images, cases), cases.truth
        visible = truth.body_visible
        near = measurements.joints_in_place(self.poses, images, truth) & visible
        columns = [*counted(readings, len(images)), visible.sum(1), near.sum(1)]
        return Counts(*columns)

    def read(self, images: Tensor, cases: Cases) -> list[clothnet.Reading]:
        """Read the clothes in images [N,3,H,W] of the N scenes."""
        return clothnet.read_clothes(self.clothes, images, cases.scenes, cases.truth)


def counted(readings: Sequence[clothnet.Reading], images: int) -> list[Tensor]:
    """Count what was read in images of one person each: the fields of Counts but the joints."""
    counts = torch.zeros(6, images)
    for reading in readings:
        woven = reading.garment in clothnet.PATTERNED
        facts = (
            True,
            right(reading),
            reading.color == reading.named_color,
            leaks(reading),
            woven,
            woven and reading.pattern == reading.named_pattern,
        )
        counts[:, reading.person] += torch.tensor(facts).float()
    return [*counts]


def right(reading: clothnet.Reading) -> bool:
    """Decide whether a garment is as named; shoes and hats have no pattern."""
    woven = reading.garment in clothnet.PATTERNED
    pattern = not woven or reading.pattern == reading.named_pattern
    return reading.color == reading.named_color and pattern


def leaks(reading: clothnet.Reading) -> bool:
    """Decide whether a garment has the color of another instead of its own."""
    return reading.color != reading.named_color and reading.color in reading.others
