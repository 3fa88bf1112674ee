"""The mini memory of garments: crops of parts, clustered by their features.

The shipped one is of renders that no training saw, with all combinations of color, pattern and
garment. The alignment is trained with another one, which lacks the held-out ones: a memory may be
changed without training anything anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ...models import memory, memory_file, part_crops, semantic_map
from ..training import part_encoder
from ..world.scenes import FULL, sample_scenes
from .dressed import Crops, cut_scenes, read_crops
from .part_encoder import VISION, image_features
from .recipe import NO_TRAINING, VITRUVIAN_WEIGHTS, Recipe, Run
from .worlds import share_of

MEMORY = VITRUVIAN_WEIGHTS / "vitruvian_mini_memory.safetensors"
RENDERS, SEED = 2_400, 3_200_000
TRAINING_SLOTS = 48  # of each class
SLOTS = {  # of each class of the shipped memory, below 2 MB: most where looks differ most
    semantic_map.TOP: 104,
    semantic_map.PANTS: 82,
    semantic_map.SKIRT: 82,
    semantic_map.FOOTWEAR: 30,
    semantic_map.HEADWEAR: 30,
    semantic_map.HAIR: 30,
    semantic_map.FACE: 8,
    semantic_map.SKIN: 16,
}


def train(run: Run) -> None:
    """Fill the shipped memory with the parts of renders of its own."""
    renders = max(1, round(RENDERS * share_of(run.work)))
    crops = cut_scenes(sample_scenes(renders, SEED, framing=FULL, people=1))
    memory_file.save(MEMORY, build(part_encoder.load_encoder(VISION), crops, SLOTS))


def training_memory(work: Path) -> memory.Memory:
    """Build the memory that the alignment is trained with."""
    slots = dict.fromkeys(SLOTS, TRAINING_SLOTS)
    return build(part_encoder.load_encoder(VISION), read_crops(work), slots)


def build(
    encoder: part_encoder.PartEncoder, crops: Crops, slots: Mapping[int, int]
) -> memory.Memory:
    """Build a memory of crops, of the classes in `slots`, with at most so many slots of each."""
    features = image_features(encoder, crops.images)
    thumbnails = part_crops.thumbnails(crops.images.movedim(1, -1) / 255)
    banks = dict[int, memory.Bank]()
    for part, most in slots.items():
        rows = crops.parts == part
        banks |= memory.build_banks(features[rows], crops.parts[rows], thumbnails[rows], most)
    name = memory.encoder_name(encoder.vision.state_dict())
    return memory.Memory(banks, name, encoder.text_projection.detach())


RECIPE = Recipe("memory", NO_TRAINING, train)
