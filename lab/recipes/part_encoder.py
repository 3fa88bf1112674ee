"""The mini image encoder of body parts, in CLIP's layout."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import CLIPVisionConfig

from ...models.mini import TEXT
from ..training import convert, part_encoder, preview
from ..training.loop import Schedule, fit
from ..training.tokens import WordTokenizer
from .dressed import CROP, Crops, read_crops
from .recipe import Recipe, Run

VISION = preview.WEIGHTS / "clip_vision" / "vitruvian_mini_vision.safetensors"
SCHEDULE = Schedule(steps=619, batch=512, lr=1.5e-3, warmup=50, save_every=100)
FEATURES = 64


class LabelledCrops(Dataset):
    """Crops as ContrastLoss takes them: each with the index of its phrase in `phrases`."""

    def __init__(self, crops: Crops, phrases: Sequence[str]) -> None:
        self.crops, index = crops, {phrase: k for k, phrase in enumerate(phrases)}
        self.labels = [index[phrase] for phrase in crops.phrases]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> dict:
        return {"crop": self.crops.images[i], "phrase": self.labels[i]}


@torch.no_grad()
def pooled_texts(checkpoint: convert.Checkpoint, phrases: Sequence[str]) -> Tensor:
    """Encode phrases to the text encoder's pooled outputs [P, D_text], as the host gives them."""
    ids = WordTokenizer.from_file(token_ids=checkpoint.token_ids)(phrases)
    return torch.cat([checkpoint.text_encoder(chunk).pooler_output for chunk in ids.split(64)])


@torch.no_grad()
def image_features(encoder: part_encoder.PartEncoder, images: Tensor) -> Tensor:
    """Encode images uint8 [M, 3, S, S] -> features [M, D]."""
    return torch.cat([encoder.encode_images(chunk / 255) for chunk in images.split(256)])


def train(run: Run) -> None:
    """Train the image encoder on the crops, towards the committed text encoder."""
    checkpoint, crops = convert.load_checkpoint(preview.CHECKPOINT), read_crops(run.work)
    phrases = sorted(set(crops.phrases))
    torch.manual_seed(run.schedule.seed)
    config = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=288,
        num_hidden_layers=3,
        num_attention_heads=3,
        image_size=CROP,
        patch_size=6,
        projection_dim=FEATURES,
        hidden_act="quick_gelu",
    )
    model = part_encoder.start_encoder(config, TEXT.hidden)
    loss = part_encoder.ContrastLoss(pooled_texts(checkpoint, phrases))
    data = run.place(LabelledCrops(crops, phrases), ("crop", "phrase"))
    out = run.work / "part-encoder"
    fit(model, loss, data, run.schedule, out, collate=list)
    part_encoder.save_encoder(model, VISION, "mini")


RECIPE = Recipe("part-encoder", SCHEDULE, train)
