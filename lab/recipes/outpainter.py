"""The mini body outpainter: the body around hands that are there already."""

from __future__ import annotations

import torch
from torch.utils.data import Dataset

from ...models.hands import body_control_image
from ..training import controlnet, convert, hands, preview
from ..training.denoise import Denoiser, DenoisingLoss
from ..training.loop import Schedule
from ..training.tokens import WordTokenizer
from ..world.body import LEFT_HAND, RIGHT_HAND
from ..world.encoded import LatentDataset
from . import worlds
from .recipe import Recipe, Run

OUTPAINTER = preview.POSE_CONTROLNET.with_name("vitruvian_mini_outpainter.safetensors")
SCHEDULE = Schedule(steps=300, batch=16, lr=3e-4, warmup=50, save_every=200)


class BodyDataset(Dataset):
    """People with a hand in the image as the body outpainter learns them: LatentDataset's items,
    their hint the skeleton, the hands' pixels and where they are.
    """

    def __init__(self, data: LatentDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> dict:
        item = self.data[i]
        mask = ((item["parsing"] == RIGHT_HAND) | (item["parsing"] == LEFT_HAND)).float()
        hand_hint = body_control_image(item["rgb"].movedim(0, -1)[None].float(), mask[None])[0]
        hand_hint[3] *= 255
        return {**item, "hint": torch.cat((item["hint"], hand_hint.byte()))}


def train(run: Run) -> None:
    """Train the body outpainter, which begins as the committed pose ControlNet."""
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    world = worlds.write_uppers(run.work)
    names = ("hint", "rgb", "parsing")
    data = worlds.encode(checkpoint, world, run.work, names=names, keep=worlds.hands_in_image)
    tokenizer = WordTokenizer.from_file(token_ids=checkpoint.token_ids)
    outpainter = hands.body_outpainter(convert.load_controlnet(preview.POSE_CONTROLNET))
    model = Denoiser(checkpoint.unet, checkpoint.text_encoder, outpainter)
    loss = DenoisingLoss(tokenizer)
    controlnet.train_controlnet(
        model, BodyDataset(data), loss, run.schedule, run.work / "outpainter"
    )
    convert.save_controlnet(OUTPAINTER, outpainter)


RECIPE = Recipe("outpainter", SCHEDULE, train, default=False)
