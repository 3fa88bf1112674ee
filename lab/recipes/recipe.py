"""What every recipe has: its name, how long it trains, and the function that makes its file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from ..training.loop import Schedule
from ..training.preview import WEIGHTS
from ..training.resident import Columns, read_columns

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
    device: str | None = None  # where all samples lie as columns; None: they are read one by one

    def place(
        self,
        data: Dataset,
        names: Sequence[str],
        tokenizer: Callable[[Sequence[str]], Tensor] | None = None,
    ) -> Dataset:
        """Give a training its samples: the data as it is, or its tensors `names` and, with a
        tokenizer, its captions as columns on `device`.
        """
        if self.device is None:
            return data
        workers = 0 if self.device == "cpu" else min(8, os.cpu_count() or 1)
        columns = read_columns(data, names, tokenizer, workers=workers)
        return Columns({name: tensor.to(self.device) for name, tensor in columns.items()})


@dataclass(frozen=True)
class Recipe:
    """One step of `dev.py train mini`."""

    name: str
    schedule: Schedule
    train: Callable[[Run], None]
    default: bool = True  # whether it makes one of the committed weight files
    continues: bool = False  # whether it can go on from the weights of `Run.start`


def shortened(schedule: Schedule, share: float) -> Schedule:
    """Take a share of the steps, but at least one."""
    return replace(schedule, steps=min(schedule.steps, max(1, round(share * schedule.steps))))
