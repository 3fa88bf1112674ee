"""A folder of photographs as the hand generator learns it: MediaPipe finds the keypoints, the mask
is drawn from them, or taken from a picture beside.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from ...models import detect, hands
from ...models.hand_generator import STRIDE, heat_maps
from .bases import Base

MARGIN = 0.35  # room around a hand, as a share of its extent; Cut Hands' default
WRIST = 0.1  # how far a drawn mask goes on below the wrist, share of the hand's size
LEAST = 24  # pixels; smaller hands teach nothing
CAPTION = "a photo of a hand"
BATCH = 8  # pictures encoded at a time
log = logging.getLogger(__name__)


class HandPicture(NamedTuple):
    """One hand, cut out."""

    rgb: Tensor  # [S,S,3] in 0..1
    mask: Tensor  # [S,S], 0 or 1
    side: str
    points: Tensor  # [21,3] in pixels of rgb
    caption: str


def collect_hands(
    folder: Path, size: int, *, task_folders: Sequence[str] = (), margin: float = MARGIN
) -> list[HandPicture]:
    """Every hand of every picture in `folder`, at size x size.

    Beside `name.jpg` may lie `name.txt`, its caption, and `name.mask.png`, white where hands are;
    without them the caption is CAPTION and the mask is drawn around the keypoints. Pictures that
    can not be read or show no hand are named in a warning. ValueError if no hand is left.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: give one with photographs of hands.")
    files = [file for file in sorted(folder.iterdir()) if _is_picture(file)]
    found: list[HandPicture] = []
    with detect.open_detector(task_folders) as detector:
        for file in tqdm(files, desc="find hands"):
            some = list(_hands_in(file, size, detector, margin))
            if not some:
                log.warning("%s: no hand was found; it is left out.", file.name)
            found += some
    if not found:
        raise ValueError(
            f"{folder}: no hand of {LEAST} pixels or more was found in {len(files)} pictures. Take "
            "close photographs of whole hands, in .jpg, .png or .webp."
        )
    return found


def _is_picture(file: Path) -> bool:
    known = file.suffix.lower() in Image.registered_extensions()
    return known and not file.name.startswith(".") and not file.stem.endswith(".mask")


def _hands_in(
    file: Path, size: int, detector: detect.Detector, margin: float
) -> Iterator[HandPicture]:
    try:
        rgb = read_upright(file, "RGB")
        beside = file.with_name(f"{file.stem}.mask.png")
        drawn = read_upright(beside, "L") if beside.is_file() else None
        text = file.with_suffix(".txt")
        caption = text.read_text("utf-8").strip() if text.is_file() else CAPTION
    except (OSError, UnicodeDecodeError) as trouble:
        log.warning("%s can not be read: %s", file.name, trouble)
        return
    for hand in hands.find_hands(detector.detect(rgb)):
        if hands.hand_size(hand.points) < LEAST:
            continue
        square = hands.square_around(hand.points, margin)
        points = hands.to_square(hand.points, square, size)
        if drawn is None or drawn.shape[:2] != rgb.shape[:2]:
            mask = hands.hand_mask(points, size, size, wrist=WRIST)
        else:
            mask = (hands.cut_square(drawn, square, size)[..., 0] > 0.5).float()
        yield HandPicture(hands.cut_square(rgb, square, size), mask, hand.side, points, caption)


def read_upright(file: Path, mode: str) -> Tensor:
    """[H,W,C] in 0..1, upright."""
    with Image.open(file) as picture:
        pixels = np.array(ImageOps.exif_transpose(picture).convert(mode))
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)) / 255


class HandPictures(Dataset):
    """What HandLoss takes, of hands encoded once by `base`."""

    def __init__(self, found: Sequence[HandPicture], base: Base) -> None:
        self.found = found
        starts = range(0, len(found), BATCH)
        encoded = []
        for start in tqdm(starts, desc="encode"):
            rgb = torch.stack([hand.rgb for hand in found[start : start + BATCH]])
            encoded.append(base.encode(rgb.movedim(-1, 1)).cpu())
        self.latents = torch.cat(encoded)

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, i: int) -> dict:
        hand, latent = self.found[i], self.latents[i]
        none = torch.zeros_like(hand.points)
        left = hand.points if hand.side == hands.LEFT else none
        right = hand.points if hand.side == hands.RIGHT else none
        return {
            "latent": latent,
            "captions": {
                "full": hand.caption,
                "brief": hand.caption,
                "bodies": [hand.points.tolist()],
            },
            "heat": heat_maps(left, right, STRIDE, *latent.shape[1:]),
            "mask": hand.mask,
        }
