"""Memories of clothes that no training saw, which take the place of one another."""

from __future__ import annotations

from dataclasses import replace

import torch

from ...models import memory
from ..recipes import dressed
from ..recipes import memory as memory_recipe
from ..recipes.part_encoder import VISION
from ..training import part_encoder
from ..world.captions import scene_caption
from ..world.scenes import BOTTOMS, COLORS, FULL, PATTERNS, Scenes, sample_scenes

RENDERS, SEED, SLOTS = 600, 3_100_000, 256  # slots of each class
WARDROBES = {  # a memory each, of people who wear nothing else
    "red stripes": ("red", "striped"),
    "blue dots": ("blue", "dotted"),
    "green camouflage": ("green", "camouflage"),
}
WARDROBE_RENDERS, WARDROBE_SEED = 16, 3_150_000


def in_wardrobe(scenes: Scenes, color: str, pattern: str) -> Scenes:
    """Dress everybody in trousers, top and shoes of one color, and in one pattern, without hats."""
    people = scenes.people
    everybody = torch.ones_like(people.top)
    worn, woven = everybody * [*COLORS].index(color), everybody * PATTERNS.index(pattern)
    clothes = {"top": worn, "bottom": worn, "top_pattern": woven, "bottom_pattern": woven}
    without = {"hat": -everybody, "bottom_kind": everybody * BOTTOMS.index("trousers")}
    return replace(scenes, people=replace(people, **clothes, **without, shoes=worn))


def outside_memory(held_out: bool, renders: int = RENDERS) -> memory.Memory:
    """Build a memory of so many renders that no training saw, with or without combinations that
    are held out.
    """
    scenes = sample_scenes(2 * renders, SEED, framing=FULL, people=1)
    rows = [
        i
        for i in range(len(scenes))
        if held_out or not dressed.is_held_out(scene_caption(scenes, i))
    ]
    return _memory_of(scenes.take(torch.tensor(rows[:renders])))


def wardrobe_memory(color: str, pattern: str) -> memory.Memory:
    """Build a memory of people who wear one color and pattern only."""
    scenes = sample_scenes(WARDROBE_RENDERS, WARDROBE_SEED, framing=FULL, people=1)
    return _memory_of(in_wardrobe(scenes, color, pattern))


def _memory_of(scenes: Scenes) -> memory.Memory:
    crops, slots = dressed.cut_scenes(scenes), dict.fromkeys(memory_recipe.SLOTS, SLOTS)
    return memory_recipe.build(part_encoder.load_encoder(VISION), crops, slots)
