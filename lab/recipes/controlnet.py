"""The mini pose ControlNet, trained further by itself (the base's recipe trains it first)."""

from __future__ import annotations

from torch.utils.data import ConcatDataset

from ..training import controlnet, convert, preview
from ..training.denoise import Denoiser, DenoisingLoss
from ..training.loop import MUON, Schedule
from ..training.tokens import WordTokenizer
from . import worlds
from .base import preview_samples
from .recipe import Recipe, Run

SCHEDULE = Schedule(
    steps=6_000, batch=32, lr=8e-4, warmup=30, ema=0.995, save_every=250, optimizer=MUON
)
FOCUS = 4.0  # extra weight of the cells near joints: more than the base's


def train(run: Run) -> None:
    """Train the committed pose ControlNet further on the committed base, which stays as it is."""
    folders = worlds.write(run.work, *worlds.CONTROL)
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    tokenizer = WordTokenizer.from_file(token_ids=checkpoint.token_ids)
    pose_controlnet = convert.load_controlnet(preview.POSE_CONTROLNET)
    encoded = (worlds.encode(checkpoint, folder, run.work) for folder in folders)
    controlnet.train_controlnet(
        Denoiser(checkpoint.unet, checkpoint.text_encoder, pose_controlnet),
        run.place(ConcatDataset(encoded), ("latent", "hint"), tokenizer),
        DenoisingLoss(tokenizer, focus=FOCUS),
        run.schedule,
        run.work / "controlnet",
        preview=preview_samples(checkpoint),
    )
    convert.save_controlnet(preview.POSE_CONTROLNET, pose_controlnet)


RECIPE = Recipe("controlnet", SCHEDULE, train)
