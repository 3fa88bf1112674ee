"""The evaluator of hands: where the 21 joints of a hand are."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import interpolate
from torch.utils.data import ConcatDataset, Dataset

from ..evaluators import measurements, posenet
from ..training import convert, preview
from ..training.loop import Schedule
from ..world.body import LEFT_HAND, RIGHT_HAND
from ..world.dataset import WorldDataset
from ..world.encoded import pass_autoencoder
from . import worlds
from .recipe import Recipe, Run

SCHEDULE = Schedule(steps=3000, batch=32, lr=2e-3, warmup=50, save_every=250)
COARSEST = 0.4  # of the full resolution: a hand of 30 pixels
VIEWS = 8  # of each hand
DECODED = 768  # images of each world that come as the autoencoder gives them back, too


class HandCrops(Dataset):
    """Squares around hands, as the hand network learns them: {"rgb", "joints" [21,2]}.

    Every hand comes VIEWS times, each time in a square that lies a little elsewhere and is as
    coarse as of a smaller hand; those of `decoded`, the first images as the autoencoder gives them
    back, come beside the rendered ones.
    """

    def __init__(self, world: WorldDataset, decoded: np.ndarray) -> None:
        self.world, self.decoded = world, decoded
        hands = [
            (i, side)
            for i, caption in enumerate(world.captions)
            for side in worlds.hands_in_image(caption)
            if in_sight(world[i], side)
        ]
        self.hands = [(i, side, False) for i, side in hands]
        self.hands += [(i, side, True) for i, side in hands if i < len(decoded)]

    def __len__(self) -> int:
        return VIEWS * len(self.hands)

    def __getitem__(self, k: int) -> dict:
        i, side, decoded = self.hands[k // VIEWS]
        item = self.world[i]
        image = torch.from_numpy(self.decoded[i]) if decoded else item["rgb"]
        points = torch.tensor(item["captions"]["hands"][0][side])
        *shake, coarse = torch.rand(5, generator=torch.Generator().manual_seed(k)).tolist()
        rgb, joints = measurements.hand_crop(image / 255, points, bool(side), shake)
        low = round(measurements.HAND_SIDE * (COARSEST + (1 - COARSEST) * coarse))
        rgb = interpolate(rgb[None], (low, low), mode="bilinear", antialias=True)
        rgb = interpolate(rgb, (measurements.HAND_SIDE,) * 2, mode="bilinear")[0]
        return {"rgb": (rgb * 255).round().byte(), "joints": joints}


def in_sight(item: dict, side: int) -> bool:
    """Tell whether half of the joints of a hand in the image lie on pixels of that hand."""
    points = torch.tensor(item["captions"]["hands"][0][side])
    x, y = points[:, :2].long().unbind(1)
    on_hand = item["parsing"][y, x] == (RIGHT_HAND, LEFT_HAND)[side]
    return bool(on_hand.float().mean() >= 0.5)


def train(run: Run) -> None:
    """Train the hand network on upper bodies and on the hands' own close-ups."""
    folders = worlds.write_uppers(run.work), worlds.write_hands(run.work)
    autoencoder = convert.load_checkpoint(preview.CHECKPOINT).vae
    crops = []
    for folder in folders:
        decoded = pass_autoencoder(autoencoder, folder, DECODED, run.work)
        crops.append(HandCrops(WorldDataset(folder, names=("rgb", "parsing")), decoded))
    data: Dataset = ConcatDataset(crops)
    net = posenet.train_posenet(data, run.schedule, run.work / "handnet", posenet.HAND_JOINTS)
    posenet.save_posenet(net, posenet.HANDNET)


RECIPE = Recipe("handnet", SCHEDULE, train)
