"""The mini transformer: a narrow SD3 with a text encoder and a pose ControlNet of its own.

The three are trained together, on the latents of the committed autoencoder. A transformer of this
size learns from tens of millions of samples: train it on a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..training import convert, preview, transformer_files
from ..training.flow import FlowDenoiser, FlowLoss, sample
from ..training.loop import MUON, Schedule, fit
from ..training.resident import Columns, read_columns
from ..training.tokens import WordTokenizer
from ..training.transformer_files import Bundle
from . import worlds
from .recipe import Recipe, Run

SCHEDULE = Schedule(
    steps=9000,
    batch=32,
    lr=2.5e-3,
    warmup=200,
    final_lr=0.02,
    ema=0.999,
    save_every=500,
    optimizer=MUON,
)
GPU_BATCH = 1536  # samples; a step of fewer waits for the launches of its kernels


def train(run: Run) -> None:
    """Train from `--start`, a checkpoint beside its ControlNet, or else from nothing."""
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    bundle = _start(run.start, checkpoint.token_ids)
    crowd_scenes = max(1, run.scenes * worlds.CROWDS.scenes // worlds.MIXED.scenes)
    folders = (
        worlds.write_mixed(run.work, run.scenes),
        worlds.write_crowds(run.work, crowd_scenes),
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    checkpoint.vae.to(device)
    columns = collect(checkpoint, folders, run.work, bundle.token_ids, workers=os.cpu_count() or 0)
    checkpoint.vae.cpu()
    columns = {name: tensor.to(device) for name, tensor in columns.items()}
    schedule = run.schedule if device == "cpu" else replace(run.schedule, batch=GPU_BATCH)
    train_bundle(bundle, columns, schedule, run.work / "transformer", save_samples(checkpoint))
    transformer_files.save(bundle)


def _start(start: Path | None, token_ids: list[int]) -> Bundle:
    if start is None:
        torch.manual_seed(SCHEDULE.seed)
        return transformer_files.build(token_ids)
    return transformer_files.load(start, start.with_name(transformer_files.POSE_CONTROLNET.name))


def collect(
    checkpoint: convert.Checkpoint,
    folders: tuple[Path, ...],
    work: Path,
    token_ids: list[int],
    workers: int = 0,
) -> dict[str, Tensor]:
    """Read the columns of worlds: latents of images and of drawn poses, captions, weights of cells.

    So many processes read the captions.
    """
    tokenizer = WordTokenizer.from_file(token_ids=token_ids)
    parts = []
    for folder in folders:
        images = worlds.encode(checkpoint, folder, work, names=())
        hints = worlds.encode(checkpoint, folder, work, names=(), of="hint")
        part = read_columns(images, ("latent",), tokenizer, workers=workers)
        parts.append({**part, "hint": torch.from_numpy(hints.latents)})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def train_bundle(
    bundle: Bundle,
    columns: dict[str, Tensor],
    schedule: Schedule,
    out: Path,
    show: Callable[[FlowDenoiser, Path], None] | None = None,
) -> None:
    """Train the three networks together; they end as their moving averages."""
    model = FlowDenoiser(bundle.transformer, bundle.text_encoder, bundle.control)
    model.requires_grad_(True)
    empty = WordTokenizer.from_file(token_ids=bundle.token_ids).encode("")
    loss = FlowLoss(tuple(empty))
    fit(model, loss, Columns(columns), schedule, out, preview=show)


def save_samples(checkpoint: convert.Checkpoint) -> Callable[[FlowDenoiser, Path], None]:
    """Build a `preview` for the loop, four rows: unseen scenes, their skeletons, images from
    skeleton and text, images from text alone.
    """
    validation = worlds.validation_scenes()
    with torch.no_grad():
        hints = preview.encode(checkpoint, validation.hints)

    def save(model: FlowDenoiser, prefix: Path) -> None:
        bundle = Bundle(model.transformer, model.text_encoder, model.control, checkpoint.token_ids)
        latents = [sample(bundle, validation.captions, drawn) for drawn in (hints, None)]
        images = [preview.decode(checkpoint, z.cpu()) for z in latents]
        rows = torch.cat([validation.truth.rgb, validation.hints, *images])
        preview.save_sheet(rows, prefix.with_suffix(".png"), columns=len(validation.captions))

    return save


RECIPE = Recipe("transformer", SCHEDULE, train, default=False, continues=True)
