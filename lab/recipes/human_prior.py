"""The mini human prior, the same trained in other ways, and the whole UNet trained instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...models.hand_generator import STRIDE
from ...models.human_prior import AFTER, BEFORE, GAMMA, KEYS, constant_table, cosine_table
from ...models.mini import IMAGE_SIZE
from ..evaluators import posenet
from ..training import convert, human_prior, human_prior_unet, preview
from ..training.denoise import Denoiser, DenoisingLoss
from ..training.loop import Schedule, fit
from ..training.tokens import WordTokenizer, word_pieces
from ..world.encoded import LatentDataset
from ..world.scenes import FULL
from . import worlds
from .recipe import BASELINES, VITRUVIAN_WEIGHTS, Recipe, Run

HUMAN_PRIOR = VITRUVIAN_WEIGHTS / "vitruvian_mini_human_prior.safetensors"
FINETUNED = BASELINES / "finetuned.safetensors"
SCHEDULE = Schedule(steps=600, batch=24, lr=3e-3, warmup=30, save_every=300)
ABLATION_SCHEDULE = Schedule(steps=150, batch=24, lr=3e-3, warmup=30, save_every=300)
FINETUNE_SCHEDULE = replace(SCHEDULE, lr=3e-4)


class PriorConfig(NamedTuple):
    """What the human prior is trained with beside its schedule."""

    mask: str = KEYS
    gamma: float = 0.0
    alpha: float = 0.0  # whether the alignment helps is not decided: see `bench human_prior`
    table: Mapping[str, Sequence[float]] = cosine_table()
    hidden: int = 96


CONFIG = PriorConfig()
ABLATIONS = {  # each differs from CONFIG in one thing, and all train as many steps
    "as_shipped": CONFIG,
    "alignment": CONFIG._replace(alpha=0.02),
    "alignment_constant": CONFIG._replace(alpha=0.02, table=constant_table()),
    "mask_before": CONFIG._replace(mask=BEFORE, gamma=GAMMA),
    "mask_after": CONFIG._replace(mask=AFTER, gamma=GAMMA),
    "gamma_half": CONFIG._replace(gamma=0.5),
}


class TextData(NamedTuple):
    """The committed base, and single whole people with captions for it to learn from."""

    checkpoint: convert.Checkpoint
    data: LatentDataset
    tokenizer: WordTokenizer


def text_data(work: Path) -> TextData:
    """Load the base and encode the world of single people."""
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    world = worlds.write_singles(work)
    tokenizer = WordTokenizer.from_file(token_ids=checkpoint.token_ids)
    return TextData(checkpoint, worlds.encode(checkpoint, world, work), tokenizer)


def train(run: Run) -> None:
    """Train the human prior on the committed base."""
    _train_prior(text_data(run.work), CONFIG, run.schedule, run.work / "human-prior", HUMAN_PRIOR)


def train_ablations(run: Run) -> None:
    """Train the prior once more in every way of ABLATIONS, each shorter."""
    for name, config in ABLATIONS.items():
        out = run.work / "human-prior-ablations" / name
        file = BASELINES / f"{name}.safetensors"
        _train_prior(text_data(run.work), config, run.schedule, out, file)


def _train_prior(
    text: TextData, config: PriorConfig, schedule: Schedule, out: Path, file: Path
) -> None:
    """Train a prior by one config; the pose network gives the features of the pose images."""
    checkpoint, data, tokenizer = text
    pieces = word_pieces(tokenizer.words)
    torch.manual_seed(schedule.seed)
    model = human_prior_unet.PriorDenoiser(
        checkpoint.unet,
        checkpoint.text_encoder,
        hidden=config.hidden,
        gamma=config.gamma,
        mask=config.mask,
    )
    features = posenet.load_posenet().requires_grad_(False).features
    denoising = DenoisingLoss(tokenizer)
    loss = human_prior.PriorLoss(denoising, pieces, features, config.alpha, config.table)
    save_samples = preview_prior(checkpoint, tokenizer, pieces)
    human_prior.train_prior(model, data, loss, schedule, out, preview=save_samples)
    human_prior_unet.save_prior(model, file, "mini", torch.int8)


def train_finetuned(run: Run) -> None:
    """Train the whole UNet on the same data for as many steps: a baseline of the prior."""
    checkpoint, data, tokenizer = text_data(run.work)
    model = Denoiser(checkpoint.unet, checkpoint.text_encoder.requires_grad_(False))
    out = run.work / "human-prior-finetuned"
    fit(model, DenoisingLoss(tokenizer), data, run.schedule, out, collate=list)
    convert.save_checkpoint(FINETUNED, checkpoint)


def preview_prior(
    checkpoint: convert.Checkpoint, tokenizer: WordTokenizer, pieces: Callable
) -> Callable[[human_prior_unet.PriorDenoiser, Path], None]:
    """Build a `preview` for the loop, three rows: unseen scenes, images of the same seed from their
    texts without the prior, and with it.
    """
    validation = worlds.validation_scenes(framing=FULL, people=1)
    cells = (IMAGE_SIZE // STRIDE,) * 2

    def decode(latents: Tensor) -> Tensor:
        return preview.decode(checkpoint, latents)

    return human_prior.show_prior(
        tokenizer, pieces, validation.captions, validation.truth.rgb, decode, cells
    )


RECIPE = Recipe("human-prior", SCHEDULE, train)
FINETUNED_RECIPE = Recipe(
    "human-prior-finetuned", FINETUNE_SCHEDULE, train_finetuned, default=False
)
ABLATIONS_RECIPE = Recipe(
    "human-prior-ablations", ABLATION_SCHEDULE, train_ablations, default=False
)
