"""The evaluator of poses: where the 18 joints of a person are."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import Dataset

from ..evaluators import posenet
from ..training import convert, preview
from ..training.loop import Schedule
from ..world.dataset import WorldDataset
from ..world.encoded import pass_autoencoder
from . import worlds
from .recipe import Recipe, Run

SCHEDULE = Schedule(steps=2000, batch=32, lr=2e-3, warmup=50, save_every=250)


class SinglePeople(Dataset):
    """A world of one person each, as the pose network learns it: {"rgb", "joints" [18,2]}.

    Every scene comes twice, rendered and as the autoencoder gives it back (`decoded`, uint8
    [N,3,H,W]): what the network will measure has passed the decoder.
    """

    def __init__(self, world: WorldDataset, decoded: np.ndarray) -> None:
        self.world, self.decoded = world, decoded

    def __len__(self) -> int:
        return 2 * len(self.world)

    def __getitem__(self, i: int) -> dict:
        second, i = divmod(i, len(self.world))
        item = self.world[i]
        rgb = torch.from_numpy(self.decoded[i]) if second else item["rgb"]
        return {"rgb": rgb, "joints": torch.tensor(item["captions"]["bodies"][0])[:, :2]}


def train(run: Run) -> None:
    """Train the pose network on scenes of one whole person each."""
    folder = worlds.write_singles(run.work)
    world = WorldDataset(folder, names=("rgb",))
    autoencoder = convert.load_checkpoint(preview.CHECKPOINT).vae
    decoded = pass_autoencoder(autoencoder, folder, len(world), run.work)
    people = SinglePeople(world, decoded)
    posenet.save_posenet(posenet.train_posenet(people, run.schedule, run.work / "posenet"))


RECIPE = Recipe("posenet", SCHEDULE, train)
