"""The mini pose ControlNet, trained further by itself (the base's recipe trains it first)."""

from __future__ import annotations

from ..training import controlnet, convert, preview
from ..training.denoise import Denoiser, DenoisingLoss
from ..training.loop import Schedule
from ..training.tokens import WordTokenizer
from . import worlds
from .base import preview_samples
from .recipe import Recipe, Run

SCHEDULE = Schedule(steps=1500, batch=16, lr=4e-4, warmup=50, save_every=250)


def train(run: Run) -> None:
    """Train the committed pose ControlNet further on the committed base, which stays as it is."""
    world = worlds.write_mixed(run.work, run.scenes)
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    tokenizer = WordTokenizer.from_file(token_ids=checkpoint.token_ids)
    pose_controlnet = convert.load_controlnet(preview.POSE_CONTROLNET)
    controlnet.train_controlnet(
        Denoiser(checkpoint.unet, checkpoint.text_encoder, pose_controlnet),
        worlds.encode(checkpoint, world, run.work),
        DenoisingLoss(tokenizer),
        run.schedule,
        run.work / "controlnet",
        preview=preview_samples(checkpoint),
    )
    convert.save_controlnet(preview.POSE_CONTROLNET, pose_controlnet)


RECIPE = Recipe("controlnet", SCHEDULE, train, default=False)
