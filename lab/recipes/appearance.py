"""The mini alignment of body parts with their appearance, on the frozen base."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...models import memory, semantic_map
from ...models.appearance import Sizes
from ..training import appearance, convert, part_encoder, preview
from ..training.appearance_unet import AppearanceDenoiser, save_alignment, start_alignment
from ..training.denoise import DenoisingLoss
from ..training.loop import Schedule
from ..training.tokens import WordTokenizer
from . import worlds
from .dressed import is_held_out, map_of_single, read_crops, without_appearance
from .memory import training_memory
from .part_encoder import FEATURES, VISION, image_features
from .recipe import BASELINES, VITRUVIAN_WEIGHTS, Recipe, Run

APPEARANCE = VITRUVIAN_WEIGHTS / "vitruvian_mini_appearance.safetensors"
NO_ALIGNMENT = BASELINES / "appearance_no_alignment.safetensors"
SCHEDULE = Schedule(steps=275, batch=192, lr=2e-3, warmup=50, save_every=25)
SAMPLES = 8  # of a validation sheet


class DressedDataset(Dataset):
    """An encoded world as AppearanceLoss takes it: the items of LatentDataset, "labels" [H, W],
    "features" and "refreshed" [24, D], "has_feature" bool [24].
    """

    def __init__(self, data: Dataset, features: Tensor, refreshed: Tensor, visible: Tensor) -> None:
        self.data, self.features, self.refreshed = data, features, refreshed
        self.visible = visible

    def __len__(self) -> int:
        return len(self.visible)

    def __getitem__(self, i: int) -> dict:
        item = self.data[i]
        captions = item["captions"]
        return {
            **item,
            "labels": map_of_single(item["parsing"], captions["full"]),
            "captions": {**captions, "brief": without_appearance(captions["full"])},
            "features": self.features[i],
            "refreshed": self.refreshed[i],
            "has_feature": self.visible[i],
        }


def dressed_data(checkpoint: convert.Checkpoint, work: Path) -> DressedDataset:
    """Encode the world without held-out combinations, with the features of all parts."""
    world, crops = worlds.write_dressed(work), read_crops(work)
    data = worlds.encode(
        checkpoint,
        world,
        work,
        names=("hint", "parsing"),
        keep=lambda caption: not is_held_out(caption["full"]),
    )
    encoder, garments = part_encoder.load_encoder(VISION), training_memory(work)
    crop_features = image_features(encoder, crops.images)
    row = {scene: k for k, scene in enumerate(sorted(set(crops.scenes.tolist())))}
    rows = torch.tensor([row[scene] for scene in crops.scenes.tolist()])
    features = torch.zeros(len(row), len(semantic_map.CLASSES), FEATURES)
    refreshed, visible = features.clone(), torch.zeros(features.shape[:2], dtype=torch.bool)
    for part, bank in garments.banks.items():
        of_part = crops.parts == part
        features[rows[of_part], part] = crop_features[of_part]
        refreshed[rows[of_part], part] = memory.refresh(bank, crop_features[of_part]).features
        visible[rows[of_part], part] = True
    return DressedDataset(data, features, refreshed, visible)


def train(run: Run) -> None:
    """Train the alignment on the committed base and pose ControlNet."""
    _train_alignment(run, APPEARANCE, masked=True)


def train_ablations(run: Run) -> None:
    """Train the alignment once more, as long, with every part visible from everywhere."""
    _train_alignment(run, NO_ALIGNMENT, masked=False)


def _train_alignment(run: Run, file: Path, *, masked: bool) -> None:
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    controlnet = convert.load_controlnet(preview.POSE_CONTROLNET)
    data = dressed_data(checkpoint, run.work)
    tokenizer = WordTokenizer.from_file(token_ids=checkpoint.token_ids)
    torch.manual_seed(run.schedule.seed)
    alignment = start_alignment(checkpoint.unet, Sizes(FEATURES, masked=masked))
    model = AppearanceDenoiser(checkpoint.unet, checkpoint.text_encoder, alignment, controlnet)
    loss = appearance.AppearanceLoss(
        DenoisingLoss(tokenizer, controlled=0.5, drop=0.2, brief=0.4, forget=0.0)
    )
    out = run.work / ("appearance" if masked else "appearance-ablations")
    save_samples = preview_dressed(checkpoint, tokenizer, data)
    names = "latent", "hint", "labels", "features", "refreshed", "has_feature"
    placed = run.place(data, names, tokenizer)
    appearance.train_appearance(model, placed, loss, run.schedule, out, preview=save_samples)
    save_alignment(alignment, file, "mini", torch.int8)


def preview_dressed(
    checkpoint: convert.Checkpoint, tokenizer: WordTokenizer, data: DressedDataset
) -> Callable[[AppearanceDenoiser, Path], None]:
    """Build a `preview` for the loop: scenes, images of their maps from the text without
    appearance, and the same with the appearance of the next person.
    """
    items = [data[i] for i in range(SAMPLES)]

    def decode(latents: Tensor) -> Tensor:
        return preview.decode(checkpoint, latents)

    images = decode(torch.stack([item["latent"] for item in items]))
    return appearance.show_appearance(tokenizer, items, images, decode)


RECIPE = Recipe("appearance", SCHEDULE, train)
ABLATIONS_RECIPE = Recipe("appearance-ablations", SCHEDULE, train_ablations, default=False)
