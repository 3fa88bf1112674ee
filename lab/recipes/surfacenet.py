"""The evaluator of depth and normals."""

from __future__ import annotations

from ..evaluators import surfacenet
from ..training import convert, preview
from ..training.loop import Schedule
from ..world.encoded import pass_autoencoder
from . import worlds
from .recipe import Recipe, Run

SCHEDULE = Schedule(steps=700, batch=16, lr=2e-3, warmup=50, save_every=200)
DECODED = 320  # scenes that come as the autoencoder gives them back, too


def train(run: Run) -> None:
    """Train the surface network on whole people."""
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    world = worlds.write_bodies(run.work)
    decoded = {
        kind: pass_autoencoder(checkpoint.vae, world, DECODED, run.work / "latents", kind)
        for kind in surfacenet.KINDS
    }
    data = surfacenet.SurfaceImages(world, decoded)
    net = surfacenet.train_surfacenet(data, run.schedule, run.work / "surfacenet")
    surfacenet.save_surfacenet(net)


RECIPE = Recipe("surfacenet", SCHEDULE, train)
