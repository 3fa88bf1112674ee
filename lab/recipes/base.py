"""The mini checkpoint and its pose ControlNet: UNet, text encoder and ControlNet trained together,
then UNet and text encoder by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch.utils.data import ConcatDataset

from ..training import base, convert, networks, preview
from ..training.denoise import Denoiser, DenoisingLoss
from ..training.loop import MUON, Schedule
from ..training.tokens import WordTokenizer
from ..world.encoded import encode_world
from . import vae, worlds
from .recipe import Recipe, Run, shortened

SCHEDULE = Schedule(steps=4500, batch=24, lr=7e-4, warmup=200, save_every=700)
FURTHER_SCHEDULE = Schedule(  # 754,176 samples, as the committed base has seen
    steps=31_424, batch=24, lr=8e-4, warmup=100, ema=0.997, save_every=700, optimizer=MUON
)
CONTROLLED = 0.5  # share of each batch that sees its pose image
BRIEF = 0.5  # share of short captions when it goes on, so that action words carry weight
WORTH_COMPILING = 1_000  # steps: compiling takes minutes and saves a quarter of each step


def train(run: Run) -> None:
    """Train UNet, text encoder and pose ControlNet from scratch; write both files."""
    vae_schedule = shortened(vae.SCHEDULE, worlds.share_of(run.work))
    vae_schedule = replace(vae_schedule, precision=run.schedule.precision)
    autoencoder = vae.train_autoencoder(replace(run, schedule=vae_schedule))
    world = worlds.write_mixed(run.work, run.scenes)
    data, scale, shift = encode_world(autoencoder, world, run.work / "latents")
    tokenizer = WordTokenizer.from_file()
    torch.manual_seed(run.schedule.seed)
    unet = networks.build_unet()
    controlnet = networks.build_controlnet(unet)
    text = networks.build_text_encoder(len(tokenizer))
    checkpoint = convert.Checkpoint(unet, text, autoencoder, tokenizer.token_ids, scale, shift)
    model = Denoiser(unet, text, controlnet)
    if run.schedule.steps > WORTH_COMPILING:
        model.compile_networks()
    loss = DenoisingLoss(tokenizer, controlled=CONTROLLED)
    out, save_samples = run.work / "base", preview_samples(checkpoint)
    base.train_base(model, data, loss, run.schedule, out, preview=save_samples)
    convert.save_checkpoint(preview.CHECKPOINT, checkpoint)
    convert.save_controlnet(preview.POSE_CONTROLNET, controlnet)


def train_further(run: Run) -> None:
    """Train the committed UNet and text encoder further; autoencoder and ControlNet stay."""
    share = run.scenes / worlds.MIXED.scenes
    further = [world._replace(scenes=round(share * world.scenes)) for world in worlds.FURTHER]
    folders = worlds.write(run.work, *further)
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    tokenizer = WordTokenizer.from_file(token_ids=checkpoint.token_ids)
    encoded = (worlds.encode(checkpoint, folder, run.work, names=()) for folder in folders)
    data = run.place(ConcatDataset(encoded), ("latent",), tokenizer)
    model = Denoiser(checkpoint.unet, checkpoint.text_encoder)
    loss = DenoisingLoss(tokenizer, brief=BRIEF)
    out, save_samples = run.work / "further", preview_samples(checkpoint)
    base.train_base(model, data, loss, run.schedule, out, preview=save_samples)
    convert.save_checkpoint(preview.CHECKPOINT, checkpoint)


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
