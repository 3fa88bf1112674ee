"""The rendered worlds that the recipes train on, as pixels and as latents of the mini autoencoder.

Every world has its own seed, so that none of them shares a scene with another. A world that lies in
the work folder already is not rendered again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...models.atomic_file import write_atomically
from ..training import convert
from ..world import dataset
from ..world.captions import scene_caption
from ..world.dataset import draw_hint
from ..world.encoded import LatentDataset, encode_world
from ..world.renderer import Render, render
from ..world.scenes import FULL, HAND, UPPER, Scenes, sample_scenes

ONE_OR_TWO = (0.7, 0.3, 0.0, 0.0)  # shares of scenes with 1, 2, 3 and 4 people
SHARE = "share"  # the file of a work folder that says how large its worlds are
VALIDATION_SCENES, VALIDATION_SEED = 8, 900_000


class World(NamedTuple):
    """A world of the recipes: the name of its folder, and what is drawn and kept in it."""

    name: str
    scenes: int
    seed: int
    kinds: tuple[str, ...]  # of images
    draw: Mapping[str, Any] = {}  # for sample_scenes

    def in_folder(self, work: Path) -> dataset.World:
        """Give the world as it lies in a work folder, at the folder's share of its size."""
        scenes = scaled(self.scenes, work)
        return dataset.World(work / self.name, scenes, self.seed, self.draw, self.kinds)


def _crowd(left_alone: float) -> dict[str, Any]:
    """Draw two to four people, or one of them, as small, alone in the image.

    Composition asks for one small person at a time, which the mixed world never shows.
    """
    return {"framing": FULL, "people_share": (0.0, 0.35, 0.30, 0.35), "alone": left_alone}


POSED = ("rgb", "hint")  # the kinds of images that a ControlNet learns from
ALONE = {"framing": FULL, "people": 1}
MIXED = World("world", 8_960, 1_000, POSED)  # all framings
CROWDS = World("crowds", 5_120, 30_000, POSED, _crowd(0.6))
HANDS = World("hands", 7_168, 40_000, ("rgb", "parsing"), {"framing": HAND})  # close-ups
SINGLES = World("people", 6_144, 50_000, POSED, ALONE)
UPPERS = World("uppers", 6_144, 60_000, ("rgb", "parsing"), {"framing": UPPER, "people": 1})
BODIES = World(
    "bodies",
    6_144,
    70_000,
    ("rgb", "hint", "depth", "normal"),
    {"framing": FULL, "people_share": ONE_OR_TWO},
)
DRESSED = World("dressed", 4_096, 80_000, (*POSED, "parsing"), ALONE)
CONTROL = (  # on which the pose ControlNet is trained by itself
    World("further-mixed", 12_288, 110_000, POSED),
    World("further-crowds", 5_120, 130_000, POSED, _crowd(0.5)),
)
FURTHER = (  # on which the base goes on: a third crowds, the actions equally often
    *CONTROL,
    World("more-crowds", 5_120, 140_000, ("rgb",), _crowd(0.5)),
    World("alone", 8_192, 120_000, ("rgb",), ALONE),
)


def claim_share(work: Path, share: float) -> None:
    """Make all worlds of a work folder this share of their size; ValueError if it has another."""
    if (work / SHARE).is_file() or any(work.glob("*/world.json")):
        if share != share_of(work):
            raise ValueError(
                f"--work {work} holds worlds of {share_of(work):g} of their size: give this "
                "--share, or choose another --work."
            )
    elif share != 1:
        work.mkdir(parents=True, exist_ok=True)
        write_atomically(work / SHARE, lambda part: part.write_text(repr(share), "utf-8"))


def share_of(work: Path) -> float:
    """Read how large the worlds of a work folder are."""
    file = work / SHARE
    return float(file.read_text("utf-8")) if file.is_file() else 1.0


def scaled(scenes: int, work: Path) -> int:
    """Take a work folder's share of so many scenes, at least one."""
    return max(1, round(scenes * share_of(work)))


def write(work: Path, *worlds: World) -> list[Path]:
    """Render worlds where that is not done yet; returns their folders."""
    return [
        world.folder for world in dataset.write_worlds([each.in_folder(work) for each in worlds])
    ]


def write_mixed(work: Path, scenes: int = MIXED.scenes) -> Path:
    """Render people in all framings; returns the world's folder."""
    return write(work, MIXED._replace(scenes=scenes))[0]


def write_crowds(work: Path, scenes: int = CROWDS.scenes) -> Path:
    """Render small people, two to four in an image or one of them left alone; returns the world's
    folder.
    """
    return write(work, CROWDS._replace(scenes=scenes))[0]


def write_hands(work: Path) -> Path:
    """Render close-ups of hands; returns the world's folder."""
    return write(work, HANDS)[0]


def write_singles(work: Path) -> Path:
    """Render one whole person per image; returns the world's folder."""
    return write(work, SINGLES)[0]


def write_uppers(work: Path) -> Path:
    """Render one upper body per image; returns the world's folder."""
    return write(work, UPPERS)[0]


def write_bodies(work: Path) -> Path:
    """Render one or two whole people per image; returns the world's folder."""
    return write(work, BODIES)[0]


def write_dressed(work: Path) -> Path:
    """Render one whole person per image, with a map of its parts; returns the world's folder."""
    return write(work, DRESSED)[0]


def encode(checkpoint: convert.Checkpoint, world: Path, work: Path, **choice: Any) -> LatentDataset:
    """Encode a world as the checkpoint was trained on it: with the scale and shift of its file.

    `choice` goes to `encode_world`: names, keep, of. A GPU, if there is one, encodes.
    """
    normalization = checkpoint.latent_scale, checkpoint.latent_shift
    device = next(checkpoint.vae.parameters()).device
    checkpoint.vae.to("cuda" if torch.cuda.is_available() else device)
    data = encode_world(checkpoint.vae, world, work / "latents", normalization, **choice).data
    checkpoint.vae.to(device)
    return data


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
