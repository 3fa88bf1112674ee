"""The autoencoder of the mini checkpoint: first trained on images, later on maps of them too."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from torch.utils.data import Dataset

from ..training import convert, networks, preview, vae
from ..training.loop import Schedule
from ..world.dataset import WorldDataset
from .recipe import Recipe, Run
from .worlds import write_bodies, write_mixed

SCHEDULE = Schedule(steps=3000, batch=16, lr=1.2e-3, weight_decay=0.0, save_every=500)
MAPS_SCHEDULE = Schedule(steps=500, batch=12, lr=5e-4, warmup=20, save_every=100, weight_decay=0.0)
KINDS = ("rgb", "depth", "normal", "rgb", "hint", "normal")  # the turns of one scene


def train_autoencoder(run: Run) -> AutoencoderTiny:
    """Train the autoencoder on the world's images; one that is trained already is only loaded."""
    world = write_mixed(run.work, run.scenes)
    torch.manual_seed(run.schedule.seed)
    images = WorldDataset(world, names=("rgb",))
    return vae.train_vae(
        networks.build_vae(), images, vae.VAELoss(), run.schedule, run.work / "vae"
    )


def train(run: Run) -> None:
    """Train the autoencoder; the base's recipe writes it into the checkpoint."""
    train_autoencoder(run)


class MapDataset(Dataset):
    """Images, depths, normals and poses of a world in turns, as VAELoss takes them; only the images
    keep their latents.
    """

    def __init__(self, world: Path) -> None:
        self.worlds = {kind: WorldDataset(world, names=(kind,)) for kind in set(KINDS)}

    def __len__(self) -> int:
        return len(KINDS) * len(self.worlds["rgb"])

    def __getitem__(self, i: int) -> dict:
        row, turn = divmod(i, len(KINDS))
        kind = KINDS[turn]
        image = self.worlds[kind][row][kind]
        image = image if image.dim() == 3 else image.expand(3, -1, -1)
        return {"rgb": image, "kept": kind == "rgb"}


def train_maps(run: Run) -> None:
    """Teach the committed autoencoder depths, normals and poses too.

    Images keep their latents, so the UNet and everything made for it stays as it is.
    """
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    world = write_bodies(run.work)
    loss = vae.VAELoss(teacher=copy.deepcopy(checkpoint.vae).requires_grad_(False))
    vae.train_vae(checkpoint.vae, MapDataset(world), loss, run.schedule, run.work / "vae-maps")
    convert.save_checkpoint(preview.CHECKPOINT, checkpoint)


RECIPE = Recipe("vae", SCHEDULE, train)
MAPS_RECIPE = Recipe("vae-maps", MAPS_SCHEDULE, train_maps)
