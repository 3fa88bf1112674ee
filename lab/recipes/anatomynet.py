"""The evaluator of anatomy: whether a body has its limbs."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from tqdm import tqdm

from ..evaluators import anatomynet, broken_bodies
from ..evaluators.autoencoded import round_trip
from ..training.loop import Schedule
from ..world.renderer import render
from ..world.scenes import FULL, sample_scenes
from . import worlds
from .recipe import Recipe, Run

SCHEDULE = Schedule(steps=2400, batch=32, lr=1e-3, warmup=50, save_every=400)
SCENES, SEED = 4_000, 3_300_000  # each drawn as it is, and broken in one of the ways
CHUNK = 160
PASSED = 5  # every so many chunks pass the autoencoder


def train(run: Run) -> None:
    """Train the anatomy network on renders of people, as they are and broken."""
    images, is_right = _draw(max(1, round(SCENES * worlds.share_of(run.work))))
    data = anatomynet.MadeRightOrNot(images, is_right)
    net = anatomynet.train_anatomynet(data, run.schedule, run.work / "anatomynet")
    anatomynet.save_anatomynet(net)


def _draw(count: int) -> tuple[Tensor, Tensor]:
    """Draw images uint8 [N,3,H,W], and whether the body is as it should be [N]."""
    ways = list(itertools.chain(*broken_bodies.WAYS.values(), *broken_bodies.OTHER_WAYS.values()))
    images, is_right = [], []
    chunks = torch.arange(count).split(CHUNK)
    for k, rows in enumerate(tqdm(chunks, desc="bodies", mininterval=10)):
        scenes = sample_scenes(len(rows), SEED + k, framing=FULL, people=1)
        true, broken = render(scenes).rgb, broken_bodies.break_bodies(scenes, ways).images
        drawn = torch.cat((true, broken))
        if k % PASSED == 0:
            drawn = round_trip(drawn)
        images.append((drawn * 255).round().byte())
        is_right.append(torch.arange(len(drawn)) < len(true))
    return torch.cat(images), torch.cat(is_right)


RECIPE = Recipe("anatomynet", SCHEDULE, train)
