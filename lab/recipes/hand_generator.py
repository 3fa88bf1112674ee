"""The mini hand generator: hands from their keypoints, on the frozen base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...models.hand_generator import STRIDE, heat_maps
from ...models.mini import IMAGE_SIZE
from ..training import convert, hands, preview
from ..training.denoise import DenoisingLoss
from ..training.loop import Schedule
from ..training.tokens import WordTokenizer
from ..world.body import LEFT_HAND, RIGHT_HAND
from ..world.encoded import LatentDataset
from ..world.scenes import HAND
from . import worlds
from .recipe import VITRUVIAN_WEIGHTS, Recipe, Run

HAND_GENERATOR = VITRUVIAN_WEIGHTS / "vitruvian_mini_hands.safetensors"
SCHEDULE = Schedule(steps=518, batch=256, lr=2.5e-3, warmup=50, save_every=50)
WINDOW = 16  # latent cells: a close-up's hand is 13 of 24 long


class HandDataset(Dataset):
    """A world of hand close-ups as the hand generator learns it: LatentDataset's items, "heat" and
    the hands' "mask". `window`: only so many latent cells of each side, around the hand.
    """

    def __init__(self, data: LatentDataset, window: int | None = None) -> None:
        self.data, self.window = data, window

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> dict:
        item = self.data[i]
        joints = torch.tensor(item["captions"]["hands"][0])
        mask = (item["parsing"] == RIGHT_HAND) | (item["parsing"] == LEFT_HAND)
        latent = item["latent"]
        if self.window is not None:
            top, left = _window(joints, self.window, *latent.shape[1:])
            latent = latent[:, top : top + self.window, left : left + self.window]
            y, x, side = STRIDE * top, STRIDE * left, STRIDE * self.window
            mask = mask[y : y + side, x : x + side]
            joints = joints - torch.tensor([x, y, 0.0])
        return {
            "latent": latent,
            "captions": {**item["captions"], "bodies": [joints.tolist()]},  # the loss focuses here
            "heat": heat_maps(joints[1], joints[0], STRIDE, *latent.shape[1:]),
            "mask": mask.float(),
        }


def _window(joints: Tensor, window: int, height: int, width: int) -> tuple[int, int]:
    """Top and left cell of the window around the middle of the joints [2, 21, 3] that have a
    confidence.
    """
    points = joints[joints[..., 2] > 0][:, :2]
    middle = (points.amin(0) + points.amax(0)) / 2 if len(points) else torch.zeros(2)
    x, y = (middle / STRIDE - window / 2).round().int().tolist()
    return min(max(y, 0), height - window), min(max(x, 0), width - window)


def train(run: Run) -> None:
    """Train the hand generator on the committed base, which stays as it is."""
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    world = worlds.write_hands(run.work)
    data = worlds.encode(checkpoint, world, run.work, names=("parsing",))
    tokenizer = WordTokenizer.from_file(token_ids=checkpoint.token_ids)
    torch.manual_seed(run.schedule.seed)
    model = hands.HandDenoiser(checkpoint.unet, checkpoint.text_encoder)
    if run.start is not None:
        hands.load_hand_generator(model, run.start)
    loss = hands.HandLoss(DenoisingLoss(tokenizer))
    out, save_samples = run.work / "hand-generator", preview_hands(checkpoint)
    # more samples see the hand alone: more than twice as many in the same time
    views = HandDataset(data, WINDOW), HandDataset(data)
    names = "latent", "heat", "mask"
    cropped, uncropped = (run.place(view, names, tokenizer) for view in views)
    hands.train_hands(model, cropped, loss, run.schedule, out / "near", preview=save_samples)
    batch = -(-3 * run.schedule.batch // 4)
    last = replace(run.schedule, batch=batch, lr=run.schedule.lr / 3)
    hands.train_hands(model, uncropped, loss, last, out, preview=save_samples)
    # 8 bits a weight, as the pack has room for
    hands.save_hand_generator(model, HAND_GENERATOR, "mini", torch.int8)


def preview_hands(checkpoint: convert.Checkpoint) -> Callable[[hands.HandDenoiser, Path], None]:
    """Build a `preview` for the loop, four rows: unseen hands, their skeletons, images, masks."""
    validation = worlds.validation_scenes(framing=HAND)
    cells = IMAGE_SIZE // STRIDE
    heat = torch.stack(
        [heat_maps(left, right, STRIDE, cells, cells) for right, left in validation.truth.hands]
    )
    tokenizer = WordTokenizer.from_file(token_ids=checkpoint.token_ids)

    def decode(latents: Tensor) -> Tensor:
        return preview.decode(checkpoint, latents)

    above = torch.cat((validation.truth.rgb, validation.hints))
    return hands.show_hands(tokenizer, validation.captions, heat, decode, above)


RECIPE = Recipe("hand-generator", SCHEDULE, train, continues=True)
