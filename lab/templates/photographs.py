"""The images that examples begin with, drawn by the mini world: `python3 dev.py layout images`."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from ..world.renderer import render
from ..world.scenes import FULL, sample_scenes

IMAGES = {  # name -> people, seed, side, first and last row
    "waving.jpg": (1, 5, 512, (0, 512)),
    "group.jpg": (4, 26, 576, (128, 560)),
}
QUALITY = 75


def write_images(folder: Path) -> None:
    """Draw all of them into the folder."""
    for name, (people, seed, side, (top, bottom)) in IMAGES.items():
        scenes = sample_scenes(1, seed, framing=FULL, people=people)
        rows = render(scenes, side).rgb[0].movedim(0, 2)[top:bottom]
        image = Image.fromarray((rows * 255).round().byte().numpy())
        image.save(folder / name, quality=QUALITY)
