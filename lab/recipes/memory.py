"""The mini memory of garments: crops of parts, clustered by their features."""

from __future__ import annotations

from ...models import memory, memory_file, part_crops
from ..training import part_encoder
from .dressed import read_crops
from .part_encoder import VISION, image_features
from .recipe import NO_TRAINING, VITRUVIAN_WEIGHTS, Recipe, Run

MEMORY = VITRUVIAN_WEIGHTS / "vitruvian_mini_memory.safetensors"
SLOTS = 48  # of each class


def train(run: Run) -> None:
    """Fill the memory with the crops."""
    encoder, crops = part_encoder.load_encoder(VISION), read_crops(run.work)
    thumbnails = part_crops.thumbnails(crops.images.movedim(1, -1) / 255)
    features = image_features(encoder, crops.images)
    banks = memory.build_banks(features, crops.parts, thumbnails, SLOTS)
    name = memory.encoder_name(encoder.vision.state_dict())
    memory_file.save(MEMORY, memory.Memory(banks, name, encoder.text_projection.detach()))


RECIPE = Recipe("memory", NO_TRAINING, train)
