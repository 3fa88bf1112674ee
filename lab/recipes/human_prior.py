"""The mini human prior, and the same trained in other ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...models.hand_generator import STRIDE
from ...models.human_prior import ALIGNMENT_WEIGHT, BEFORE, KEYS, cosine_table
from ...models.mini import IMAGE_SIZE
from ...models.pose_features import image_features
from ..training import convert, human_prior, human_prior_unet, preview
from ..training.denoise import DenoisingLoss
from ..training.loop import Schedule
from ..training.tokens import WordTokenizer, word_pieces
from ..world.scenes import FULL
from . import worlds
from .recipe import BASELINES, VITRUVIAN_WEIGHTS, Recipe, Run

HUMAN_PRIOR = VITRUVIAN_WEIGHTS / "vitruvian_mini_human_prior.safetensors"
SCHEDULE = Schedule(steps=600, batch=96, lr=4e-3, save_every=100)  # 57,600 samples


class PriorConfig(NamedTuple):
    """What the human prior is trained with beside its schedule."""

    alpha: float = ALIGNMENT_WEIGHT
    mask: str = KEYS
    gamma: float = 0.0
    table: Mapping[str, Sequence[float]] = cosine_table()
    hidden: int = 96


CONFIG = PriorConfig()
ABLATIONS = {  # all train as many steps on the same batches
    "no_alignment": CONFIG._replace(alpha=0.0),
    "alignment_0015": CONFIG._replace(alpha=0.0015),
    "gamma_07": CONFIG._replace(mask=BEFORE, gamma=0.7),
}


class TextData(NamedTuple):
    """The committed base, and single whole people with captions for it to learn from."""

    checkpoint: convert.Checkpoint
    data: Dataset
    tokenizer: WordTokenizer


def text_data(run: Run) -> TextData:
    """Load the base and encode the world of single people."""
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    world = worlds.write_singles(run.work)
    tokenizer = WordTokenizer.from_file(token_ids=checkpoint.token_ids)
    data = worlds.encode(checkpoint, world, run.work)
    return TextData(checkpoint, run.place(data, ("latent", "hint"), tokenizer), tokenizer)


def train(run: Run) -> None:
    """Train the human prior on the committed base."""
    _train_prior(text_data(run), CONFIG, run.schedule, run.work / "human-prior", HUMAN_PRIOR)


def train_ablations(run: Run) -> None:
    """Train the prior once more in every way of ABLATIONS, on the same batches."""
    for name, config in ABLATIONS.items():
        out = run.work / "human-prior-ablations" / name
        _train_prior(text_data(run), config, run.schedule, out, ablation_file(name))


def ablation_file(name: str) -> Path:
    """Say where the prior of one of ABLATIONS lies, which only benchmarks read."""
    return BASELINES / f"{name}.safetensors"


def _train_prior(
    text: TextData, config: PriorConfig, schedule: Schedule, out: Path, file: Path
) -> None:
    """Train a prior by one config. Its maps are aligned with the drawn skeletons themselves: their
    features tell scenes apart (cosine with another scene's .45), those of the evaluator's pose
    network hardly do (.80).
    """
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
    denoising = DenoisingLoss(tokenizer)
    loss = human_prior.PriorLoss(denoising, pieces, image_features, config.alpha, config.table)
    save_samples = preview_prior(checkpoint, tokenizer, pieces)
    human_prior.train_prior(model, data, loss, schedule, out, preview=save_samples)
    human_prior_unet.save_prior(model, file, "mini", torch.int8)


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
ABLATIONS_RECIPE = Recipe("human-prior-ablations", SCHEDULE, train_ablations, default=False)
