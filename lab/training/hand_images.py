"""A folder of photographs as the hand generator learns it: keypoints are detected, masks are drawn
from them or lie beside the images.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from ...models import detect, hands
from ...models.hand_generator import STRIDE, heat_maps
from .bases import Base
from .image_folder import (
    BATCH,
    UNREADABLE,
    fill_captions,
    image_files,
    read_caption,
    read_upright,
    warn_of_left_out,
)

MARGIN = 0.35  # room around a hand, as a share of its extent; Cut Hands' default
WRIST = 0.1  # how far a drawn mask goes on below the wrist, share of the hand's size
MIN_SIZE = 24  # pixels; smaller hands teach nothing
CAPTION = "a photo of a hand"
MASK = "mask"
log = logging.getLogger(__name__)


class HandImage(NamedTuple):
    """One hand, cut out."""

    rgb: Tensor  # [S,S,3] in 0..1
    mask: Tensor  # [S,S], 0 or 1
    side: str
    points: Tensor  # [21,3] in pixels of rgb
    caption: str


def collect_hands(
    folder: Path, size: int, *, task_folders: Sequence[str] = (), margin: float = MARGIN
) -> list[HandImage]:
    """Read every hand of every image in `folder`, at size x size.

    Beside `name.jpg` may lie `name.txt`, its caption, and `name.mask.png`, white where hands are;
    without them the caption is CAPTION and the mask is drawn around the keypoints. Images that
    can not be read or show no hand are named in a warning. ValueError if no hand is left.
    """
    files = image_files(folder, size, maps=(MASK,))
    hand_images: list[HandImage] = []
    used = 0
    with detect.open_detector(task_folders) as detector:
        for file in tqdm(files, desc="find hands"):
            in_file = _read_hands(file, size, detector, margin)
            if in_file is not None and not in_file:
                log.warning("%s: no hand was found; it is left out.", file.name)
            hand_images += in_file or []
            used += bool(in_file)
    if not hand_images:
        raise ValueError(
            f"--images {folder}: no hand of {MIN_SIZE} pixels or more was found in {len(files)} "
            "images. Take close photographs of whole hands, in .jpg, .png or .webp."
        )
    warn_of_left_out(files, used)
    captions = fill_captions([hand.caption for hand in hand_images], CAPTION)
    return [
        hand._replace(caption=caption) for hand, caption in zip(hand_images, captions, strict=True)
    ]


def _read_hands(
    file: Path, size: int, detector: detect.Detector, margin: float
) -> list[HandImage] | None:
    """Read the hands of one image, each with its caption, "" if there is none; None, and a warning,
    if it can not be read.
    """
    try:
        rgb = read_upright(file, "RGB")
        beside = file.with_name(f"{file.stem}.{MASK}.png")
        mask_image = read_upright(beside, "L") if beside.is_file() else None
        caption = read_caption(file)
    except UNREADABLE as error:
        log.warning("%s can not be read: %s; it is left out.", file.name, error)
        return None
    if mask_image is not None and mask_image.shape[:2] != rgb.shape[:2]:
        log.warning("%s has another size than its image; a mask is drawn instead.", beside.name)
        mask_image = None
    hand_images = []
    for hand in hands.find_hands(detector.detect(rgb)):
        if hands.hand_size(hand.points) < MIN_SIZE:
            continue
        square = hands.square_around(hand.points, margin)
        points = hands.to_square(hand.points, square, size)
        if mask_image is None:
            mask = hands.hand_mask(points, size, size, wrist=WRIST)
        else:
            mask = (hands.cut_square(mask_image, square, size)[..., 0] > 0.5).float()
        cut = hands.cut_square(rgb, square, size)
        hand_images.append(HandImage(cut, mask, hand.side, points, caption))
    return hand_images


class HandDataset(Dataset):
    """Hands as HandLoss takes them, encoded once by `base`."""

    def __init__(self, hand_images: Sequence[HandImage], base: Base) -> None:
        self.hand_images = hand_images
        latents = []
        for start in tqdm(range(0, len(hand_images), BATCH), desc="encode"):
            rgb = torch.stack([hand.rgb for hand in hand_images[start : start + BATCH]])
            latents.append(base.encode(rgb.movedim(-1, 1)).cpu())
        self.latents = torch.cat(latents)

    def __len__(self) -> int:
        return len(self.hand_images)

    def __getitem__(self, i: int) -> dict:
        hand, latent = self.hand_images[i], self.latents[i]
        absent = torch.zeros_like(hand.points)
        left = hand.points if hand.side == hands.LEFT else absent
        right = hand.points if hand.side == hands.RIGHT else absent
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
