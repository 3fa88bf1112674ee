"""The mini structure refiner: images from pose, depth and normals, each of which may be missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..training import convert, preview, refiner
from ..training.denoise import Denoiser, DenoisingLoss
from ..training.loop import Schedule
from ..training.tokens import WordTokenizer
from ..world.dataset import structure_images
from ..world.encoded import LatentDataset
from ..world.scenes import FULL
from . import worlds
from .recipe import BASELINES, VITRUVIAN_WEIGHTS, Recipe, Run

REFINER = VITRUVIAN_WEIGHTS / "vitruvian_mini_refiner.safetensors"
NO_DROPOUT = BASELINES / "refiner_no_dropout.safetensors"
SCHEDULE = Schedule(steps=258, batch=192, lr=1e-3, warmup=50, save_every=25)


class RefinerDataset(Dataset):
    """Images with pose, depth and normals as RefinerLoss takes them."""

    def __init__(self, data: LatentDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> dict:
        item = self.data[i]
        depth = item["depth"].expand(3, -1, -1)
        return {**item, "hint": torch.cat((item["hint"], depth, item["normal"]))}


def train(run: Run) -> None:
    """Train the refiner, which begins as the committed pose ControlNet, on true maps."""
    _train_refiner(run, refiner.DROP, REFINER)


def train_ablations(run: Run) -> None:
    """Train the refiner once more, as many steps, with no condition ever dropped."""
    _train_refiner(run, 0.0, NO_DROPOUT)


def _train_refiner(run: Run, drop: float, file: Path) -> None:
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    world = worlds.write_bodies(run.work)
    data = worlds.encode(checkpoint, world, run.work, names=("hint", "depth", "normal"))
    tokenizer = WordTokenizer.from_file(token_ids=checkpoint.token_ids)
    torch.manual_seed(run.schedule.seed)
    net = refiner.start_refiner(convert.load_controlnet(preview.POSE_CONTROLNET))
    refiner.train_refiner(
        Denoiser(checkpoint.unet, checkpoint.text_encoder, net),
        run.place(RefinerDataset(data), ("latent", "hint"), tokenizer),
        refiner.RefinerLoss(DenoisingLoss(tokenizer), drop, drop_text=0.1),
        run.schedule,
        run.work / file.stem,
        preview=preview_refiner(checkpoint, tokenizer),
    )
    refiner.save_refiner(net, file, "mini", torch.int8)


def preview_refiner(
    checkpoint: convert.Checkpoint, tokenizer: WordTokenizer
) -> Callable[[Denoiser, Path], None]:
    """Build a `preview` for the loop: unseen scenes, and the images that the refiner makes of all
    their maps and of each alone.
    """
    validation = worlds.validation_scenes(framing=FULL, people_share=worlds.ONE_OR_TWO)
    hints = torch.cat((validation.hints, *structure_images(validation.truth)), 1)

    def decode(latents: Tensor) -> Tensor:
        return preview.decode(checkpoint, latents)

    return refiner.show_refiner(tokenizer, validation.captions, hints, decode, validation.truth.rgb)


RECIPE = Recipe("refiner", SCHEDULE, train)
ABLATIONS_RECIPE = Recipe("refiner-ablations", SCHEDULE, train_ablations, default=False)
