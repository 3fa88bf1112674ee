"""People whose clothes no training of appearance saw, and prompts that name these or do not."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..recipes import dressed
from ..world.captions import scene_caption
from ..world.renderer import Render, render
from ..world.scenes import BOTTOMS, COLORS, FULL, PATTERNS, People, Scenes, sample_scenes


class Cases(NamedTuple):
    """Hold N scenes of one person each, with prompts, and the ground truth."""

    scenes: Scenes
    truth: Render
    captions: list[str]  # of each scene, which names all clothes
    bare: list[str]  # which names none
    looks: list[dict[int, str]]  # of each person, the phrase of each part
    maps: Tensor  # uint8 [N, H, W]

    def first(self, count: int) -> Cases:
        """Keep the first scenes."""
        names = [field.name for field in fields(Render)]  # one person each: P is B
        truth = Render(**{name: getattr(self.truth, name)[:count] for name in names})
        scenes = self.scenes.take(torch.arange(len(self.looks))[:count])
        captions, bare, looks = self.captions[:count], self.bare[:count], self.looks[:count]
        return Cases(scenes, truth, captions, bare, looks, self.maps[:count])


def new_cases(count: int, seed: int) -> Cases:
    """Draw whole people whose tops and bottoms are all of combinations held out."""
    pool, rows = 16 * count, list[int]()
    while len(rows) < count:
        pool *= 2
        drawn = sample_scenes(pool, seed, framing=FULL, people=1)
        rows = new_clothes(drawn.people).nonzero()[:, 0].tolist()
    return cases_of(drawn.take(torch.tensor(rows[:count])))


def cases_of(scenes: Scenes) -> Cases:
    """Render scenes of one person each, and describe them."""
    truth, captions = render(scenes), [scene_caption(scenes, i) for i in range(len(scenes))]
    bare = [re.sub(r"^an? \w+", "a person", dressed.without_appearance(c)) for c in captions]
    looks = [dressed.part_phrases(caption) for caption in captions]
    return Cases(scenes, truth, captions, bare, looks, dressed.semantic_maps(scenes, truth))


def new_clothes(people: People) -> Tensor:
    """Mark the people whose top and bottom are both held out, bool [P]."""
    garments = [dressed.GARMENTS.index(name) for name in ("top", *BOTTOMS)]
    held = torch.zeros(len(COLORS), len(PATTERNS), len(garments), dtype=torch.bool)
    for color, pattern, garment in dressed.HELD_OUT:
        at = [*COLORS].index(color), PATTERNS.index(pattern), dressed.GARMENTS.index(garment)
        held[at] = True
    bottom = torch.tensor(garments)[1:][people.bottom_kind]
    below = held[people.bottom, people.bottom_pattern, bottom]
    return held[people.top, people.top_pattern, garments[0]] & below


def with_other_tops(cases: Cases) -> Cases:
    """Describe the same people in other tops, held out like their own; the truth stays."""
    people = cases.scenes.people
    tops = [new_top(int(color), i) for i, color in enumerate(people.top)]
    colors, patterns = torch.tensor(tops).unbind(1)
    scenes = replace(cases.scenes, people=replace(people, top=colors, top_pattern=patterns))
    captions = [scene_caption(scenes, i) for i in range(len(tops))]
    looks = [dressed.part_phrases(caption) for caption in captions]
    return cases._replace(scenes=scenes, captions=captions, looks=looks)


def new_top(color: int, number: int) -> tuple[int, int]:
    """Choose color and pattern of a held-out top of another color."""
    offered = sorted(
        ([*COLORS].index(name), PATTERNS.index(pattern))
        for name, pattern, garment in dressed.HELD_OUT
        if garment == "top" and name != [*COLORS][color]
    )
    return offered[number % len(offered)]
