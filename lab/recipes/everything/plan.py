"""Which trainings run on a GPU, in which order and how long: the base, the pose ControlNet alone on
the card, then lanes that share it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from ...training.loop import Schedule
from .. import worlds
from ..recipe import Recipe

CHECKPOINTS = 3  # of a training, the last one counted
FASTEST = 3.0  # a learning rate grows this much at most, whatever the batch
RENDERED = 180.0  # scenes a second by 16 processes, of which most draw a skeleton, too
STARTED = 20.0  # seconds until a process trains: imports, columns, the first steps


class Stage(NamedTuple):
    """One recipe on a GPU. Without a batch it trains as on a CPU."""

    recipe: str
    worlds: tuple[str, ...] = ()  # that it waits for
    batch: int = 0
    samples: int = 0
    rate: float = 1.0  # samples a second of one H200: alone for FIRST, else beside the other lanes

    @property
    def seconds(self) -> float:
        """Estimate its time on a card of that class."""
        return self.samples / self.rate


CROPS, LOOKS = "crops", "looks"  # made of worlds: parts of dressed people, people in other clothes
FURTHER = tuple(world.name for world in worlds.FURTHER)
CONTROL = tuple(world.name for world in worlds.CONTROL)
SINGLES, BODIES, HANDS = ((each.name,) for each in (worlds.SINGLES, worlds.BODIES, worlds.HANDS))
FIRST = "first"  # the lane before all others
LANES: Mapping[str, tuple[Stage, ...]] = {  # of each lane one after the other
    FIRST: (
        Stage("further", FURTHER, 1536, 1_508_352, 4_450),
        Stage("controlnet", CONTROL, 256, 204_800, 1_000),
    ),
    "hands": (Stage("hand-generator", HANDS, 256, 204_800, 1_300),),
    "human-prior": (
        Stage("human-prior", SINGLES, 96, 57_600, 490),
        Stage("lora", SINGLES, 96, 57_600, 800),
    ),
    "human-prior-ablations": (Stage("human-prior-ablations", SINGLES, 96, 57_600, 190),),
    "structure": (Stage("structure", BODIES, 192, 115_200, 557),),
    "structure-rgb-only": (Stage("structure-rgb-only", BODIES, 192, 115_200, 736),),
    "refiner": (
        Stage("refiner", BODIES, 192, 49_536, 440),
        Stage("refiner-ablations", BODIES, 192, 49_536, 440),
    ),
    "appearance": (
        Stage("part-encoder", (CROPS,), 512, 316_928, 8_000),
        Stage("memory", (CROPS,)),
        Stage("appearance", (CROPS,), 192, 52_800, 1_450),
    ),
    "person-loras": (Stage("orange-tops", (LOOKS,)), Stage("pointed-hats", (LOOKS,))),
}
WORLDS = (  # in the order in which they are needed
    *worlds.FURTHER,
    worlds.BODIES,
    worlds.SINGLES,
    worlds.HANDS,
    worlds.DRESSED,
)


def scaled(schedule: Schedule, batch: int, samples: int) -> Schedule:
    """Train on so many samples in other batches, at a learning rate that grows with the root of the
    batch, up to FASTEST times.
    """
    steps = math.ceil(samples / batch)
    rate = min(FASTEST, math.sqrt(batch / schedule.batch))
    warmup = min(schedule.warmup, steps // 10)
    return replace(schedule, steps=steps, batch=batch, lr=schedule.lr * rate, warmup=warmup)


def stage_schedule(recipe: Recipe, stage: Stage) -> Schedule:
    """Give the schedule of a recipe on a GPU, where many checkpoints, each with its sheet of
    images, would take longer than the steps between.
    """
    schedule = recipe.schedule
    if stage.batch:
        schedule = scaled(schedule, stage.batch, stage.samples)
    rarest = max(1, math.ceil(schedule.steps / CHECKPOINTS))
    return replace(schedule, save_every=max(schedule.save_every, rarest))


def expected_seconds() -> float:
    """Estimate the time of all of it on a card of the H100 class with 16 processes that render."""
    first, *shared = (sum(s.seconds + STARTED for s in lane) for lane in LANES.values())
    rendered = sum(world.scenes for world in worlds.FURTHER) / RENDERED
    return rendered + first + max(shared)
