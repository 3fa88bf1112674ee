"""The mini structure network: image, depth and normals denoised together."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...models.mini import IMAGE_SIZE
from ...models.structure import MEAN, OFF, PAIR
from ..training import convert, preview, structure
from ..training.loop import MUON, Schedule
from ..training.tokens import WordTokenizer
from ..world.dataset import structure_images
from ..world.encoded import LatentDataset
from ..world.scenes import FULL
from . import worlds
from .recipe import BASELINES, VITRUVIAN_WEIGHTS, Recipe, Run

STRUCTURE = VITRUVIAN_WEIGHTS / "vitruvian_mini_structure.safetensors"
SCHEDULE = Schedule(steps=600, batch=192, lr=1.5e-3, warmup=50, save_every=50, optimizer=MUON)


class StructureConfig(NamedTuple):
    """What the structure network is trained with beside its schedule."""

    experts: int | None = 4  # blocks of each branch's own; None: those of the first level
    epsilon: bool = False
    shared_step: bool = True
    modalities: int = 3
    fusion: str = MEAN


CONFIG = StructureConfig()  # branches into the second level: so narrow a network needs them deeper
ABLATIONS = {  # of the paper's table 2, each as long as the network that ships
    "rgb_only": CONFIG._replace(modalities=1, fusion=OFF),
    "rgb_depth": CONFIG._replace(modalities=2, fusion=PAIR),
    "half_blocks": CONFIG._replace(experts=1),
    "first_level": CONFIG._replace(experts=None),  # the paper's own
    "default_noise": CONFIG._replace(epsilon=True),
    "different_steps": CONFIG._replace(shared_step=False),
}


def ablation_file(name: str) -> Path:
    """Name the weight file of one of ABLATIONS."""
    return BASELINES / f"structure_{name}.safetensors"


class StructureDataset(Dataset):
    """Encoded worlds of the same scenes as StructureLoss takes them."""

    def __init__(self, rgb: LatentDataset, maps: list[LatentDataset], pose: Tensor) -> None:
        self.rgb, self.maps, self.pose = rgb, maps, pose

    def __len__(self) -> int:
        return len(self.rgb)

    def __getitem__(self, i: int) -> dict:
        item = self.rgb[i]
        map_latents = [torch.from_numpy(data.latents[i]).float() for data in self.maps]
        return {
            **item,
            "latent": torch.cat((item["latent"], *map_latents)),
            "pose": self.pose[i],
            "size": uncropped_size(),
        }


def uncropped_size() -> Tensor:
    """Return height, width, top and left of an uncropped image of the mini world."""
    return torch.tensor([IMAGE_SIZE, IMAGE_SIZE, 0, 0])


def structure_data(checkpoint: convert.Checkpoint, run: Run) -> Dataset:
    """Render and encode the world of whole bodies, where that is not done yet."""
    work, world = run.work, worlds.write_bodies(run.work)
    rgb, depth, normal, hint = (
        worlds.encode(checkpoint, world, work, names=(), of=kind)
        for kind in ("rgb", "depth", "normal", "hint")
    )
    pose = torch.from_numpy(hint.latents).float() - black_latent(checkpoint)
    tokenizer = WordTokenizer.from_file(token_ids=checkpoint.token_ids)
    data = StructureDataset(rgb, [depth, normal], pose)
    return run.place(data, ("latent", "pose", "size"), tokenizer)


def black_latent(checkpoint: convert.Checkpoint) -> Tensor:
    """Encode a black image, [1,4,h,w]: a pose's latent is given relative to it."""
    return preview.encode(checkpoint, torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE))


def train(run: Run) -> None:
    """Train the structure network from the committed base, or go on from `run.start`."""
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    data = structure_data(checkpoint, run)
    torch.manual_seed(run.schedule.seed)
    if run.start is None:
        unet = structure.start_joint(checkpoint.unet, CONFIG.experts, CONFIG.fusion)
    else:
        unet = structure.load_structure(checkpoint.unet, run.start, "mini")
    model = structure.JointDenoiser(unet, checkpoint.text_encoder)
    _train_structure(model, checkpoint, data, CONFIG, run.schedule, run.work / "structure")
    structure.save_structure(unet, STRUCTURE, "mini", dtype=torch.int8)


def train_ablation(name: str, run: Run) -> None:
    """Train the structure network in one way of ABLATIONS, for the benchmark alone."""
    checkpoint, config = convert.load_checkpoint(preview.CHECKPOINT), ABLATIONS[name]
    data = structure_data(checkpoint, run)
    torch.manual_seed(run.schedule.seed)
    unet = structure.start_joint(checkpoint.unet, config.experts, config.fusion)
    model = structure.JointDenoiser(unet, checkpoint.text_encoder)
    _train_structure(model, checkpoint, data, config, run.schedule, run.work / f"structure-{name}")
    file = ablation_file(name)
    structure.save_structure(unet, file, "mini", epsilon=config.epsilon, dtype=torch.int8)


def _train_structure(
    model: structure.JointDenoiser,
    checkpoint: convert.Checkpoint,
    data: Dataset,
    config: StructureConfig,
    schedule: Schedule,
    out: Path,
) -> None:
    """Train a structure network by one config."""
    tokenizer = WordTokenizer.from_file(token_ids=checkpoint.token_ids)
    loss = structure.StructureLoss(
        tokenizer,
        epsilon=config.epsilon,
        shared_step=config.shared_step,
        modalities=config.modalities,
        focus=2.0,
    )
    save_samples = preview_structure(checkpoint, tokenizer, config.epsilon)
    structure.train_structure(model, data, loss, schedule, out, preview=save_samples)


def preview_structure(
    checkpoint: convert.Checkpoint, tokenizer: WordTokenizer, epsilon: bool
) -> Callable[[structure.JointDenoiser, Path], None]:
    """Build a `preview` for the loop: unseen scenes, their depth, normals and poses, and what the
    network generates from the poses.
    """
    validation = worlds.validation_scenes(framing=FULL, people_share=worlds.ONE_OR_TWO)
    hints, truth = validation.hints, validation.truth
    pose = preview.encode(checkpoint, hints) - black_latent(checkpoint)

    def decode(latents: Tensor) -> Tensor:
        return preview.decode(checkpoint, latents)

    above = torch.cat((truth.rgb, *structure_images(truth), hints))
    sizes = uncropped_size().expand(len(hints), -1)
    return structure.show_structure(
        tokenizer, validation.captions, pose, sizes, decode, above, epsilon=epsilon
    )


RECIPE = Recipe("structure", SCHEDULE, train, continues=True)
ABLATION_RECIPES = tuple(
    Recipe(
        f"structure-{name.replace('_', '-')}",
        SCHEDULE,
        partial(train_ablation, name),
        default=False,
    )
    for name in ABLATIONS
)
