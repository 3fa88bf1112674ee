"""The evaluator of clothes: color and pattern of a garment."""

from __future__ import annotations

from ..evaluators import clothnet
from ..training.loop import Schedule
from . import worlds
from .recipe import Recipe, Run

SCHEDULE = Schedule(steps=4000, batch=48, lr=2e-3, warmup=50, save_every=250)


def train(run: Run) -> None:
    """Train the clothes network on garments of one or two people."""
    cloths = clothnet.cloths_of(run.work, worlds.share_of(run.work))
    data = clothnet.Garments(cloths)
    net = clothnet.train_clothnet(data, run.schedule, run.work / "clothnet")
    clothnet.save_clothnet(net)


RECIPE = Recipe("clothnet", SCHEDULE, train)
