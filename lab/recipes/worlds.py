"""The rendered worlds that the recipes train on, as pixels and as latents of the mini autoencoder.

Every world has its own seed, so that none of them shares a scene with another. A world that lies in
the work folder already is not rendered again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..training import convert
from ..world.captions import scene_caption
from ..world.dataset import draw_hint, write_world
from ..world.encoded import LatentDataset, encode_world
from ..world.renderer import Render, render
from ..world.scenes import FULL, HAND, UPPER, Scenes, sample_scenes

MIXED_SCENES, MIXED_SEED = 8_960, 1_000
CROWD_SCENES, CROWD_SEED = 5_120, 30_000
HAND_SCENES, HAND_SEED = 6_144, 40_000
SINGLE_SCENES, SINGLE_SEED = 3_072, 50_000
UPPER_SCENES, UPPER_SEED = 6_144, 60_000
BODY_SCENES, BODY_SEED = 2_560, 70_000
DRESSED_SCENES, DRESSED_SEED = 5_120, 80_000
VALIDATION_SCENES, VALIDATION_SEED = 8, 900_000
ONE_OR_TWO = (0.7, 0.3, 0.0, 0.0)  # shares of scenes with 1, 2, 3 and 4 people


def write_mixed(work: Path, scenes: int = MIXED_SCENES) -> Path:
    """Render people in all framings; returns the world's folder."""
    write_world(work / "world", scenes, seed=MIXED_SEED)
    return work / "world"


def write_crowds(work: Path, scenes: int = CROWD_SCENES) -> Path:
    """Render small people, two to four in an image or one of them left alone.

    Composition asks for one small person at a time, which the mixed world never shows. Returns the
    world's folder.
    """
    shares = (0.0, 0.35, 0.30, 0.35)
    write_world(
        work / "crowds", scenes, seed=CROWD_SEED, framing=FULL, people_share=shares, alone=0.6
    )
    return work / "crowds"


def write_hands(work: Path) -> Path:
    """Render close-ups of hands; returns the world's folder."""
    write_world(work / "hands", HAND_SCENES, seed=HAND_SEED, framing=HAND)
    return work / "hands"


def write_singles(work: Path) -> Path:
    """Render one whole person per image; returns the world's folder."""
    write_world(work / "people", SINGLE_SCENES, seed=SINGLE_SEED, framing=FULL, people=1)
    return work / "people"


def write_uppers(work: Path) -> Path:
    """Render one upper body per image; returns the world's folder."""
    write_world(work / "uppers", UPPER_SCENES, seed=UPPER_SEED, framing=UPPER, people=1)
    return work / "uppers"


def write_bodies(work: Path) -> Path:
    """Render one or two whole people per image; returns the world's folder."""
    write_world(work / "bodies", BODY_SCENES, seed=BODY_SEED, framing=FULL, people_share=ONE_OR_TWO)
    return work / "bodies"


def write_dressed(work: Path) -> Path:
    """Render one whole person per image, more of them; returns the world's folder."""
    write_world(work / "dressed", DRESSED_SCENES, seed=DRESSED_SEED, framing=FULL, people=1)
    return work / "dressed"


def encode(checkpoint: convert.Checkpoint, world: Path, work: Path, **choice: Any) -> LatentDataset:
    """Encode a world as the checkpoint was trained on it: with the scale and shift of its file.

    `choice` goes to `encode_world`: names, keep, of.
    """
    normalization = checkpoint.latent_scale, checkpoint.latent_shift
    return encode_world(checkpoint.vae, world, work / "latents", normalization, **choice).data


def hands_in_image(caption: dict) -> list[int]:
    """List the hands of a scene's first person that lie in the image: 0 right, 1 left."""
    hands = enumerate(caption["hands"][0])
    return [side for side, hand in hands if all(point[2] > 0 for point in hand)]


class ValidationScenes(NamedTuple):
    """N scenes that no training sees, for the sheets of images that a training saves."""

    scenes: Scenes
    truth: Render
    hints: Tensor  # pose images [N,3,H,W] in 0..1
    captions: list[str]


def validation_scenes(**draw: Any) -> ValidationScenes:
    """Render VALIDATION_SCENES scenes; `draw` goes to `sample_scenes`."""
    scenes = sample_scenes(VALIDATION_SCENES, VALIDATION_SEED, **draw)
    truth = render(scenes)
    hints = torch.stack([draw_hint(i, scenes, truth) for i in range(VALIDATION_SCENES)])
    captions = [scene_caption(scenes, i) for i in range(VALIDATION_SCENES)]
    return ValidationScenes(scenes, truth, hints, captions)
