"""How the mini weights of appearance are made: an image encoder, a memory of garments, and the
alignment on the base; `mini/recipes.py` calls it step by step.

Some combinations of colour, pattern and garment are held out (HELD): neither encoder nor memory nor
alignment ever sees one. The base has seen them all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import CLIPVisionConfig

from ...models import memory, semantic_map
from ...models.appearance import Sizes
from ...models.mini import TEXT
from ..training import appearance, convert, part_encoder, preview
from ..training.appearance_unet import AppearanceDenoiser, save_alignment, start_alignment
from ..training.denoise import DenoisingLoss
from ..training.loop import Schedule, fit
from ..training.tokens import WordTokenizer
from ..world.dataset import WorldDataset, write_world
from ..world.encoded import encode_world
from ..world.figure import BOTTOM, FACE, HAIR, HAT, LEFT_HAND, RIGHT_HAND, SHOES, SKIN, TOP
from ..world.renderer import Render
from ..world.scenes import BOTTOMS, COLOURS, FULL, PATTERNS, Scenes

SCENES, SEED = 5_120, 80_000
OWN = preview.WEIGHTS / "vitruvian"
VISION = preview.WEIGHTS / "clip_vision" / "vitruvian_mini_vision.safetensors"
MEMORY = OWN / "vitruvian_mini_memory.safetensors"
APPEARANCE = OWN / "vitruvian_mini_appearance.safetensors"
NO_ALIGNMENT = (
    Path(__file__).parents[1] / "benchmarks" / "baselines" / "appearance_no_alignment.safetensors"
)
SLOTS = 48  # of each class in the memory
FEATURES = 64
CROP = 48  # pixels
ENCODER_SCHEDULE = Schedule(steps=1500, batch=128, lr=1e-3, warmup=100, save_every=500)
SCHEDULE = Schedule(steps=900, batch=24, lr=1e-3, warmup=50, save_every=300)
GARMENTS = ("top", *BOTTOMS)
HELD = {  # a fifth of all: every colour, pattern and garment is in some that are trained on
    (colour, pattern, garment)
    for (a, colour), (b, pattern), (c, garment) in product(
        enumerate(COLOURS), enumerate(PATTERNS), enumerate(GARMENTS)
    )
    if (a + 2 * b + 3 * c) % 5 == 0
}
_COMBINATION = re.compile(
    rf"\b({'|'.join(COLOURS)}) (?:({'|'.join(PATTERNS[1:])}) )?({'|'.join(GARMENTS)})\b"
)
_LOOKS = re.compile(
    r"(?P<who>an? \w+) with (?P<skin>\w+ skin) and (?P<hair>\w+ \w+ hair) wearing an? "
    r"(?P<top>[\w ]+ top), (?:an? )?(?P<bottom>[\w ]+ (?:trousers|skirt))(?:,| and) "
    r"(?P<shoes>\w+ shoes)(?: and an? (?P<hat>\w+ hat))?, (?P<rest>.*)"
)


def held_out(text: str) -> bool:
    """Whether a caption names a combination of HELD."""
    return not HELD.isdisjoint(
        (colour, pattern or PATTERNS[0], garment)
        for colour, pattern, garment in _COMBINATION.findall(text)
    )


def looks_of(text: str) -> dict[int, str]:
    """The phrase of each part by class, from one person's whole caption."""
    found = _read(text)
    bottom = semantic_map.SKIRT if found["bottom"].endswith("skirt") else semantic_map.PANTS
    phrases = {
        semantic_map.TOP: found["top"],
        bottom: found["bottom"],
        semantic_map.FOOTWEAR: found["shoes"],
        semantic_map.HEADWEAR: found["hat"],
        semantic_map.HAIR: found["hair"],
        semantic_map.FACE: found["skin"],
        semantic_map.SKIN: found["skin"],
    }
    return {part: phrase for part, phrase in phrases.items() if phrase}


def bare(text: str) -> str:
    """The caption without what the person looks like."""
    found = _read(text)
    return f"{found['who']}, {found['rest']}"


def _read(text: str) -> re.Match:
    found = _LOOKS.match(text)
    if found is None:
        raise ValueError(f"'{text}' is no whole caption of one person.")
    return found


def classes_of(skirt: Tensor) -> Tensor:
    """The class [P, 11] of each of the world's labels on people in skirts, else trousers."""
    table = torch.zeros(len(skirt), 11, dtype=torch.uint8)
    same = {
        FACE: semantic_map.FACE,
        HAIR: semantic_map.HAIR,
        HAT: semantic_map.HEADWEAR,
        TOP: semantic_map.TOP,
        SHOES: semantic_map.FOOTWEAR,
        SKIN: semantic_map.SKIN,
        RIGHT_HAND: semantic_map.SKIN,
        LEFT_HAND: semantic_map.SKIN,
    }
    for label, part in same.items():
        table[:, label] = part
    table[:, BOTTOM] = torch.where(skirt, semantic_map.SKIRT, semantic_map.PANTS).byte()
    return table


def map_of(scenes: Scenes, truth: Render) -> Tensor:
    """The semantic maps uint8 [B, H, W] of renders; of several people each in their own."""
    skirt = scenes.people.bottom_kind == BOTTOMS.index("skirt")
    own = classes_of(torch.cat((skirt, torch.zeros(1, dtype=torch.bool))))  # the last row: nobody
    return own[truth.instance, truth.parsing]


def map_from(labels: Tensor, text: str) -> Tensor:
    """The semantic map [H, W] of a scene of one person, from the world's labels and a caption."""
    skirt = torch.tensor([semantic_map.SKIRT in looks_of(text)])
    return classes_of(skirt)[0][labels.long()]


def write_dressed(work: Path) -> Path:
    """The folder of the world of single whole people."""
    write_world(work / "dressed", SCENES, seed=SEED, framing=FULL, people=1)
    return work / "dressed"


class Crops(NamedTuple):
    """Every part of every picture without a held-out combination."""

    pictures: Tensor  # uint8 [M, 3, S, S]
    parts: Tensor  # [M], classes
    scenes: Tensor  # [M], rows of the world
    phrases: list[str]  # of each


def crops_of(work: Path) -> Crops:
    """Cut out once, kept in `work`."""
    file = work / "dressed-crops.npz"
    world = WorldDataset(write_dressed(work), names=("rgb", "parsing"))
    if not file.is_file():
        pictures, classes, rows = [], [], []
        for i in kept(world):
            item = world[i]
            labels = map_from(item["parsing"], item["captions"]["full"])
            picture = item["rgb"].movedim(0, -1) / 255
            for part, crop in memory.crop_parts(picture, labels, CROP):
                pictures.append((crop.movedim(-1, 0) * 255).round().byte())
                classes.append(part)
                rows.append(i)
        np.savez(file, pictures=torch.stack(pictures).numpy(), parts=classes, scenes=rows)
    read = np.load(file)
    phrases = [
        looks_of(world.captions[scene]["full"])[part]
        for scene, part in zip(read["scenes"].tolist(), read["parts"].tolist(), strict=True)
    ]
    cut, parts, scenes = (torch.from_numpy(read[name]) for name in Crops._fields[:3])
    return Crops(cut, parts, scenes, phrases)


def kept(world: WorldDataset) -> list[int]:
    return [i for i, caption in enumerate(world.captions) if not held_out(caption["full"])]


class Labelled(Dataset):
    """Crops as ContrastLoss takes them."""

    def __init__(self, crops: Crops, phrases: Sequence[str]) -> None:
        self.crops, number = crops, {phrase: k for k, phrase in enumerate(phrases)}
        self.numbers = [number[phrase] for phrase in crops.phrases]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i: int) -> dict:
        return {"crop": self.crops.pictures[i], "phrase": self.numbers[i]}


@torch.no_grad()
def pooled_texts(whole: convert.Checkpoint, phrases: Sequence[str]) -> Tensor:
    """The text encoder's pooled outputs [P, D_text], as the host gives them."""
    ids = WordTokenizer.from_file(token_ids=whole.token_ids)(phrases)
    return torch.cat([whole.text_encoder(each).pooler_output for each in ids.split(64)])


def mini_encoder(work: Path, schedule: Schedule = ENCODER_SCHEDULE) -> None:
    """Train the image encoder on the crops, towards the committed text encoder."""
    whole, crops = convert.load_checkpoint(preview.CHECKPOINT), crops_of(work)
    phrases = sorted(set(crops.phrases))
    torch.manual_seed(schedule.seed)
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
    loss = part_encoder.ContrastLoss(pooled_texts(whole, phrases))
    fit(model, loss, Labelled(crops, phrases), schedule, work / "encoder", collate=list)
    part_encoder.save_encoder(model, VISION, "mini")


@torch.no_grad()
def features_of(encoder: part_encoder.PartEncoder, pictures: Tensor) -> Tensor:
    """uint8 [M, 3, S, S] -> [M, D]."""
    return torch.cat([encoder.of_pictures(some / 255) for some in pictures.split(256)])


def mini_memory(work: Path) -> None:
    """Fill the memory with the crops."""
    encoder, crops = part_encoder.load_encoder(VISION), crops_of(work)
    thumbnails = memory.thumbnails(crops.pictures.movedim(1, -1) / 255)
    banks = memory.fill(features_of(encoder, crops.pictures), crops.parts, thumbnails, SLOTS)
    name = memory.encoder_name(encoder.vision.state_dict())
    memory.save(MEMORY, memory.Memory(banks, name, encoder.text_projection.detach()))


class DressedDataset(Dataset):
    """An encoded world as AppearanceLoss takes it: the items of LatentDataset, "labels" [H, W],
    "features" and "refreshed" [24, D], "known" [24].
    """

    def __init__(self, data: Dataset, features: Tensor, refreshed: Tensor, known: Tensor) -> None:
        self.data, self.features, self.refreshed, self.known = data, features, refreshed, known

    def __len__(self) -> int:
        return len(self.known)

    def __getitem__(self, i: int) -> dict:
        item = self.data[i]
        captions = item["captions"]
        return {
            **item,
            "labels": map_from(item["parsing"], captions["full"]),
            "captions": {**captions, "brief": bare(captions["full"])},
            "features": self.features[i],
            "refreshed": self.refreshed[i],
            "known": self.known[i],
        }


def dressed_data(whole: convert.Checkpoint, work: Path) -> DressedDataset:
    """The world without held-out combinations, encoded, with the features of all parts."""
    world, crops = write_dressed(work), crops_of(work)
    data = encode_world(
        whole.vae,
        world,
        work / "latents",
        whole.latent_scale,
        whole.latent_shift,
        ("hint", "parsing"),
        lambda caption: not held_out(caption["full"]),
    ).data
    encoder, kept_memory = part_encoder.load_encoder(VISION), memory.load(MEMORY)
    found = features_of(encoder, crops.pictures)
    row = {scene: k for k, scene in enumerate(sorted(set(crops.scenes.tolist())))}
    rows = torch.tensor([row[scene] for scene in crops.scenes.tolist()])
    features = torch.zeros(len(row), len(semantic_map.CLASSES), FEATURES)
    refreshed, known = features.clone(), torch.zeros(features.shape[:2], dtype=torch.bool)
    for part, bank in kept_memory.banks.items():
        own = crops.parts == part
        features[rows[own], part] = found[own]
        refreshed[rows[own], part] = memory.refresh(bank, found[own]).features
        known[rows[own], part] = True
    return DressedDataset(data, features, refreshed, known)


def mini_appearance(work: Path, schedule: Schedule = SCHEDULE) -> None:
    """Train the alignment on the committed base and pose ControlNet."""
    train(work, schedule, work / "appearance", APPEARANCE)


def mini_appearance_ablations(work: Path, schedule: Schedule = SCHEDULE) -> None:
    """Train it once more, as long, with every part seen from everywhere."""
    train(work, schedule, work / "no-alignment", NO_ALIGNMENT, masked=False)


def train(work: Path, schedule: Schedule, out: Path, file: Path, masked: bool = True) -> None:
    whole = convert.load_checkpoint(preview.CHECKPOINT)
    controlnet = convert.load_controlnet(preview.POSE_CONTROLNET)
    data = dressed_data(whole, work)
    tokenizer = WordTokenizer.from_file(token_ids=whole.token_ids)
    torch.manual_seed(schedule.seed)
    alignment = start_alignment(whole.unet, Sizes(FEATURES, masked=masked))
    model = AppearanceDenoiser(whole.unet, whole.text_encoder, alignment, controlnet)
    loss = appearance.AppearanceLoss(
        DenoisingLoss(tokenizer, controlled=0.5, drop=0.2, brief=0.4, forget=0.0)
    )
    show = show_dressed(whole, tokenizer, data)
    appearance.train_appearance(model, data, loss, schedule, out, preview=show)
    save_alignment(alignment, file, "mini", torch.int8)


def show_dressed(
    whole: convert.Checkpoint, tokenizer: WordTokenizer, data: DressedDataset, shown: int = 8
) -> Callable[[AppearanceDenoiser, Path], None]:
    """A `preview` for the loop: scenes, their maps, what the text without looks gives, and with the
    looks of the next person beside.
    """
    items = [data[i] for i in range(shown)]

    def decode(latents: Tensor) -> Tensor:
        return preview.decode(whole, latents)

    pictures = preview.decode(whole, torch.stack([item["latent"] for item in items]))
    return appearance.show_appearance(tokenizer, items, pictures, decode)
