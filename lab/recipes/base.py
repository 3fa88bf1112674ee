"""The mini checkpoint and its pose ControlNet: UNet, text encoder, ControlNet trained together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import ControlNetModel
from torch.utils.data import ConcatDataset, Dataset

from ..training import base, convert, networks, preview
from ..training.denoise import Denoiser, DenoisingLoss
from ..training.loop import Schedule
from ..training.tokens import WordTokenizer
from ..world.encoded import encode_world
from . import vae, worlds
from .recipe import Recipe, Run

SCHEDULE = Schedule(steps=4500, batch=24, lr=7e-4, warmup=200, save_every=700)
FURTHER_SCHEDULE = Schedule(steps=4200, batch=24, lr=5e-4, warmup=100, save_every=700)
CONTROLLED = 0.5  # share of each batch that sees its pose image
WORTH_COMPILING = 1_000  # steps: compiling takes minutes and saves a quarter of each step


def train(run: Run) -> None:
    """Train UNet, text encoder and pose ControlNet from scratch; write both files."""
    vae_schedule = replace(vae.SCHEDULE, precision=run.schedule.precision)
    autoencoder = vae.train_autoencoder(replace(run, schedule=vae_schedule))
    world = worlds.write_mixed(run.work, run.scenes)
    data, scale, shift = encode_world(autoencoder, world, run.work / "latents")
    tokenizer = WordTokenizer.from_file()
    torch.manual_seed(run.schedule.seed)
    unet = networks.build_unet()
    controlnet = networks.build_controlnet(unet)
    text = networks.build_text_encoder(len(tokenizer))
    checkpoint = convert.Checkpoint(unet, text, autoencoder, tokenizer.token_ids, scale, shift)
    _train_together(checkpoint, controlnet, data, run.schedule, run.work / "base")


def train_further(run: Run) -> None:
    """Train the committed UNet, text encoder and pose ControlNet further; the VAE stays."""
    crowd_scenes = run.scenes * worlds.CROWD_SCENES // worlds.MIXED_SCENES
    folders = (
        worlds.write_mixed(run.work, run.scenes),
        worlds.write_crowds(run.work, crowd_scenes),
    )
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    controlnet = convert.load_controlnet(preview.POSE_CONTROLNET)
    data: Dataset = ConcatDataset(
        [worlds.encode(checkpoint, folder, run.work) for folder in folders]
    )
    _train_together(checkpoint, controlnet, data, run.schedule, run.work / "further")


def _train_together(
    checkpoint: convert.Checkpoint,
    controlnet: ControlNetModel,
    data: Dataset,
    schedule: Schedule,
    out: Path,
) -> None:
    tokenizer = WordTokenizer.from_file(token_ids=checkpoint.token_ids)
    model = Denoiser(checkpoint.unet, checkpoint.text_encoder, controlnet)
    if schedule.steps > WORTH_COMPILING:
        model.compile_networks()
    loss = DenoisingLoss(tokenizer, controlled=CONTROLLED)
    base.train_base(model, data, loss, schedule, out, preview=preview_samples(checkpoint))
    convert.save_checkpoint(preview.CHECKPOINT, checkpoint)
    convert.save_controlnet(preview.POSE_CONTROLNET, controlnet)


def preview_samples(checkpoint: convert.Checkpoint) -> Callable[[Denoiser, Path], None]:
    """Build a `preview` for the loop, four rows: unseen scenes, their skeletons, images from
    skeleton and text, images from text alone.
    """
    validation = worlds.validation_scenes()

    def save_samples(model: Denoiser, prefix: Path) -> None:
        rows = [validation.truth.rgb, validation.hints]
        prompts = validation.captions
        if model.controlnet is not None:
            images = preview.sample(checkpoint, prompts, validation.hints, model.controlnet)
            rows.append(images.cpu())
        rows.append(preview.sample(checkpoint, prompts).cpu())
        preview.save_sheet(torch.cat(rows), prefix.with_suffix(".png"), columns=len(prompts))

    return save_samples


RECIPE = Recipe("base", SCHEDULE, train)
FURTHER_RECIPE = Recipe("further", FURTHER_SCHEDULE, train_further)
