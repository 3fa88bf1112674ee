"""What every recipe has: its name, how long it trains, and the function that makes its file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..training.loop import Schedule
from ..training.preview import WEIGHTS

VITRUVIAN_WEIGHTS = WEIGHTS / "vitruvian"
BASELINES = Path(__file__).parents[1] / "benchmarks" / "baselines"  # only benchmarks read these
NO_TRAINING = Schedule(steps=0, batch=1, lr=0.0)  # of a recipe that trains no network


@dataclass(frozen=True)
class Run:
    """One run of a recipe, as the command line asks for it."""

    work: Path  # folder of the rendered worlds, their latents and the checkpoints
    schedule: Schedule
    scenes: int  # in the world of mixed people, which the base is trained on
    start: Path | None = None  # weights to go on from


@dataclass(frozen=True)
class Recipe:
    """One step of `dev.py train mini`."""

    name: str
    schedule: Schedule
    train: Callable[[Run], None]
    default: bool = True  # whether it makes one of the committed weight files
    continues: bool = False  # whether it can go on from the weights of `Run.start`
