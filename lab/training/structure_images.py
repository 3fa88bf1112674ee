"""A folder of photographs with depth and normals as joint denoising and the refiner learn it:
pictures, their maps, pose images and captions (`models/structure_data.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from ...models import detect, pose, pose_drawing
from ...models.structure import DEPTH, MIDAS, MODALITIES, NORMAL, RIGHT_UP, depth_of
from ...models.structure_data import POSE, beside, resized, stored_normals
from .bases import Base
from .hand_images import read_upright
from .person_images import (
    BATCH,
    UNREADABLE,
    alike,
    fill_captions,
    inside,
    detector_for,
    pictures_in,
    read_caption,
)

WHITE_16 = 65535  # in a grey picture of 16 bits
log = logging.getLogger(__name__)


class StructurePicture(NamedTuple):
    """A square cut out of one photograph and of its maps, S pixels wide."""

    rgb: Tensor  # uint8 [3,S,S]
    depth: Tensor  # uint8 [3,S,S], near is white
    normal: Tensor  # uint8 [3,S,S], red to the right, green up
    pose: Tensor  # uint8 [3,S,S], the pose image
    bodies: list  # [N][18][x, y, confidence] in pixels, of the people found; none in a given image
    caption: str
    size: tuple[int, int, int, int]  # height and width of the photograph, top and left of the cut


class Conventions(NamedTuple):
    """Of the maps as they lie in the folder."""

    depth: str = MIDAS  # one of structure.DEPTHS
    normal: str = RIGHT_UP  # one of structure.NORMALS


class Cut(NamedTuple):
    """The photograph is resized to height x width, then the square at (top, left) is cut out."""

    height: int
    width: int
    top: int
    left: int
    side: int

    def of(self, picture: Tensor) -> Tensor:
        """The square [1,C,S,S] of a picture [H,W,C], whatever its resolution."""
        whole = resized(picture.movedim(-1, 0)[None], self.height, self.width)
        rows = slice(self.top, self.top + self.side)
        return whole[:, :, rows, self.left : self.left + self.side]

    def people(self, people: pose.People) -> pose.People:
        """Those of whom the square shows a point, on it."""
        scaled = pose.scale_to_canvas(people, self.width, self.height)
        shift = torch.tensor([self.left, self.top, 0.0])
        parts = (points - shift * (points[..., 2:] > 0) for points in scaled[:5])
        return inside(pose.people_from_points(parts, self.side, self.side))


def collect_structure(
    folder: Path,
    size: int,
    conventions: Conventions | None = None,
    *,
    task_folders: Sequence[str] = (),
) -> list[StructurePicture]:
    """Every picture in `folder` that has depth and normals and a pose image or shows somebody, at
    size x size.

    Beside `name.jpg` lie `name.depth.png` and `name.normal.png`, and may lie `name.pose.png` and
    `name.txt`, as for `collect_people`. All are resized together until the picture's shorter side
    is `size`, and cut at one random place that only the picture's number decides. Pictures that are
    left out are named in a warning. ValueError if none is left.
    """
    conventions = conventions or Conventions()
    files = pictures_in(folder, size)
    whole = [(number, file) for number, file in enumerate(files) if _has_maps(file)]
    with detector_for([file for _, file in whole], task_folders) as detector:
        tried = [
            _picture_in(file, number, size, conventions, detector)
            for number, file in tqdm(whole, desc="read maps")
        ]
    found = [picture for picture in tried if picture]
    if not found:
        raise ValueError(
            f"{folder}: none of {len(files)} pictures can be learnt from. Put the depth, "
            "name.depth.png, the normals, name.normal.png, and best the pose, name.pose.png, "
            "beside name.jpg; Save Structure Data makes such folders."
        )
    captions = fill_captions([picture.caption for picture in found])
    return [picture._replace(caption=own) for picture, own in zip(found, captions, strict=True)]


def _has_maps(file: Path) -> bool:
    """Whether depth and normals lie beside a picture; a warning if not."""
    lacking = [beside(file, what).name for what in (DEPTH, NORMAL)]
    lacking = [name for name in lacking if not file.with_name(name).is_file()]
    if lacking:
        log.warning("%s has no %s beside it; left out.", file.name, " and no ".join(lacking))
    return not lacking


def _picture_in(
    file: Path,
    number: int,
    size: int,
    conventions: Conventions,
    detector: detect.Detector | None,
) -> StructurePicture | None:
    """Without a pose image beside it the picture needs a detector; caption "" where there is
    none. None, and a warning, for a picture that teaches nothing.
    """
    try:
        rgb = read_upright(file, "RGB")
        maps = _read_maps(file)
        caption = read_caption(file)
    except UNREADABLE as trouble:
        log.warning("%s or what lies beside it can not be read: %s", file.name, trouble)
        return None
    for what, pixels in maps.items():
        if not alike(rgb, pixels):
            named = file.name, beside(file, what).name
            log.warning("%s and %s differ in proportions; left out.", *named)
            return None
    height, width = rgb.shape[:2]
    cut = cut_out(height, width, size, number)
    drawn, bodies = _posed(cut, rgb, maps.get(POSE), detector)
    if drawn is None:
        log.warning("%s: nobody was found, and it has no pose image; left out.", file.name)
        return None
    depth = depth_of(cut.of(maps[DEPTH]), conventions.depth)[:, None].expand(-1, 3, -1, -1)
    normal = stored_normals(cut.of(maps[NORMAL]), conventions.normal)
    return StructurePicture(
        _bytes(cut.of(rgb)),
        _bytes(depth),
        _bytes(normal),
        _bytes(drawn),
        bodies,
        caption,
        (height, width, cut.top, cut.left),
    )


def _posed(
    cut: Cut, rgb: Tensor, given: Tensor | None, detector: detect.Detector | None
) -> tuple[Tensor | None, list]:
    """The square [1,3,S,S] of the pose image that is given, or one of the people who are found and
    their bodies; None if there is nobody.
    """
    if given is not None:
        return cut.of(given), []
    assert detector is not None
    people = cut.people(detector.detect(rgb))
    if not pose.count(people):
        return None, []
    drawn = pose_drawing.draw_people(people, cut.side, cut.side).movedim(-1, 0)
    return drawn[None], people.body.tolist()


def _read_maps(file: Path) -> dict[str, Tensor]:
    """Depth [H,W,1], normals and, if it is there, the pose image [H,W,3] of a picture."""
    maps = {
        DEPTH: read_depth(beside(file, DEPTH)),
        NORMAL: read_upright(beside(file, NORMAL), "RGB"),
    }
    if beside(file, POSE).is_file():
        maps[POSE] = read_upright(beside(file, POSE), "RGB")
    return maps


def read_depth(file: Path) -> Tensor:
    """[H,W,1] in 0..1, upright, from 8 or 16 bits."""
    with Image.open(file) as picture:
        upright = ImageOps.exif_transpose(picture)
        if not upright.mode.startswith("I"):
            return read_upright(file, "L")
        grey = np.array(upright).astype(np.float32) / WHITE_16
    return torch.from_numpy(grey)[..., None]


def cut_out(height: int, width: int, size: int, seed: int) -> Cut:
    """A random square, `size` pixels wide, of a picture whose shorter side becomes as long."""
    scale = size / min(height, width)
    tall, wide = max(size, round(height * scale)), max(size, round(width * scale))
    share = torch.rand(2, generator=torch.Generator().manual_seed(seed)).tolist()
    top, left = (int(s * (n - size + 1)) for s, n in zip(share, (tall, wide), strict=True))
    return Cut(tall, wide, top, left, size)


def _bytes(picture: Tensor) -> Tensor:
    """[1,3,S,S] in 0..1 -> uint8 [3,S,S]."""
    return (picture[0].clamp(0, 1) * 255).round().byte()


class StructurePictures(Dataset):
    """What StructureLoss takes, of pictures encoded once by `base`, and "hint" uint8 [9,S,S]: pose,
    depth and normal picture, for the refiner.
    """

    def __init__(self, found: Sequence[StructurePicture], base: Base) -> None:
        self.found = found
        self.latents = torch.cat([self._encoded(base, name) for name in MODALITIES], 1)
        nobody = base.encode(torch.zeros(1, *found[0].pose.shape)).cpu()
        self.poses = self._encoded(base, POSE) - nobody

    def _encoded(self, base: Base, name: str) -> Tensor:
        """Latents [N,4,h,w] of one part of all pictures."""
        encoded = []
        for start in tqdm(range(0, len(self.found), BATCH), desc=f"encode {name}"):
            some = self.found[start : start + BATCH]
            pictures = torch.stack([getattr(picture, name) for picture in some])
            encoded.append(base.encode(pictures / 255).cpu())
        return torch.cat(encoded)

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, i: int) -> dict:
        picture = self.found[i]
        texts = {"full": picture.caption, "brief": picture.caption}
        return {
            "latent": self.latents[i],
            "pose": self.poses[i],
            "size": torch.tensor(picture.size),
            "captions": {**texts, "bodies": picture.bodies},
            "hint": torch.cat((picture.pose, picture.depth, picture.normal)),
        }
