"""A folder of photographs with depth and normals as joint denoising and the refiner learn it:
images, their maps, pose images and captions (`models/structure_data.py`).
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

from ...models import detect, pose, pose_drawing
from ...models.structure import DEPTH, MIDAS, MODALITIES, NORMAL, RIGHT_UP, image_to_depth
from ...models.structure_data import POSE, map_beside, resize, stored_normals
from .bases import Base
from .image_folder import (
    UNREADABLE,
    detector_for,
    encode_images,
    fill_captions,
    image_files,
    people_on_canvas,
    read_caption,
    read_upright,
    same_proportions,
    to_bytes,
    warn_of_left_out,
)

log = logging.getLogger(__name__)


class StructureImage(NamedTuple):
    """A square cut out of one photograph and of its maps, S pixels wide."""

    rgb: Tensor  # uint8 [3,S,S]
    depth: Tensor  # uint8 [3,S,S], near is white
    normal: Tensor  # uint8 [3,S,S], red to the right, green up
    pose: Tensor  # uint8 [3,S,S], the pose image
    bodies: list  # [N][18][x, y, confidence] in pixels, of detected people; [] with a pose file
    caption: str
    size: tuple[int, int, int, int]  # height and width of the photograph, top and left of the cut


class Conventions(NamedTuple):
    """How the maps in the folder encode depth and normals."""

    depth: str = MIDAS  # one of structure.DEPTHS
    normal: str = RIGHT_UP  # one of structure.NORMALS


class Cut(NamedTuple):
    """The photograph is resized to height x width, then the square at (top, left) is cut out."""

    height: int
    width: int
    top: int
    left: int
    side: int

    def of(self, image: Tensor) -> Tensor:
        """Cut the square [1,C,S,S] out of an image [H,W,C], whatever its resolution."""
        scaled = resize(image.movedim(-1, 0)[None], self.height, self.width)
        rows = slice(self.top, self.top + self.side)
        return scaled[:, :, rows, self.left : self.left + self.side]

    def people(self, people: pose.People) -> pose.People:
        """Move people onto the square; those of whom it shows no point are left out."""
        scaled = pose.scale_to_canvas(people, self.width, self.height)
        shift = torch.tensor([self.left, self.top, 0.0])
        parts = (points - shift * (points[..., 2:] > 0) for points in scaled[:5])
        return people_on_canvas(pose.people_from_points(parts, self.side, self.side))


def collect_structure(
    folder: Path,
    size: int,
    conventions: Conventions | None = None,
    *,
    task_folders: Sequence[str] = (),
) -> list[StructureImage]:
    """Read every image in `folder` that has depth and normals and a pose image or shows somebody,
    at size x size.

    Beside `name.jpg` lie `name.depth.png` and `name.normal.png`, and may lie `name.pose.png` and
    `name.txt`, as for `collect_people`. All are resized together until the image's shorter side
    is `size`, and cut at one random place that only the image's number decides. Images that are
    left out are named in a warning. ValueError if none is left.
    """
    conventions = conventions or Conventions()
    files = image_files(folder, size)
    with_maps = [(number, file) for number, file in enumerate(files) if _has_maps(file)]
    with detector_for([file for _, file in with_maps], task_folders) as detector:
        read = [
            _read_image(file, number, size, conventions, detector)
            for number, file in tqdm(with_maps, desc="read maps")
        ]
    images = [image for image in read if image]
    if not images:
        raise ValueError(
            f"--images {folder}: none of {len(files)} images can be learned from. Put the depth, "
            "name.depth.png, the normals, name.normal.png, and best the pose, name.pose.png, "
            "beside name.jpg; Save Structure Data makes such folders."
        )
    warn_of_left_out(files, len(images))
    captions = fill_captions([image.caption for image in images])
    return [
        image._replace(caption=caption) for image, caption in zip(images, captions, strict=True)
    ]


def _has_maps(file: Path) -> bool:
    """Tell whether depth and normals lie beside an image; warn if not."""
    missing = [map_beside(file, kind).name for kind in (DEPTH, NORMAL)]
    missing = [name for name in missing if not file.with_name(name).is_file()]
    if missing:
        log.warning("%s has no %s beside it; left out.", file.name, " and no ".join(missing))
    return not missing


def _read_image(
    file: Path,
    number: int,
    size: int,
    conventions: Conventions,
    detector: detect.Detector | None,
) -> StructureImage | None:
    """Read one image and its maps; None, and a warning, if it teaches nothing.

    Without a pose image beside it the image needs a detector. The caption is "" where there is
    none.
    """
    try:
        rgb = read_upright(file, "RGB")
        maps = _read_maps(file)
        caption = read_caption(file)
    except UNREADABLE as error:
        log.warning("%s or what lies beside it can not be read: %s", file.name, error)
        return None
    for kind, pixels in maps.items():
        if not same_proportions(rgb, pixels):
            map_name = map_beside(file, kind).name
            log.warning("%s and %s differ in proportions; left out.", file.name, map_name)
            return None
    height, width = rgb.shape[:2]
    cut = random_cut(height, width, size, number)
    pose_image, bodies = _pose_on(cut, rgb, maps.get(POSE), detector)
    if pose_image is None:
        log.warning("%s: nobody was found, and it has no pose image; left out.", file.name)
        return None
    depth = image_to_depth(cut.of(maps[DEPTH]), conventions.depth)[:, None].expand(-1, 3, -1, -1)
    normal = stored_normals(cut.of(maps[NORMAL]), conventions.normal)
    return StructureImage(
        to_bytes(cut.of(rgb)[0]),
        to_bytes(depth[0]),
        to_bytes(normal[0]),
        to_bytes(pose_image[0]),
        bodies,
        caption,
        (height, width, cut.top, cut.left),
    )


def _pose_on(
    cut: Cut, rgb: Tensor, pose_image: Tensor | None, detector: detect.Detector | None
) -> tuple[Tensor | None, list]:
    """Cut the pose image [1,3,S,S], or draw one of the people that are detected, and list their
    bodies; None if there is nobody.
    """
    if pose_image is not None:
        return cut.of(pose_image), []
    assert detector is not None
    people = cut.people(detector.detect(rgb))
    if not pose.count(people):
        return None, []
    skeletons = pose_drawing.draw_people(people, cut.side, cut.side).movedim(-1, 0)
    return skeletons[None], people.body.tolist()


def _read_maps(file: Path) -> dict[str, Tensor]:
    """Read depth [H,W,1], normals [H,W,3] and, if there is one, the pose image [H,W,3]."""
    maps = {
        DEPTH: read_upright(map_beside(file, DEPTH), "L"),
        NORMAL: read_upright(map_beside(file, NORMAL), "RGB"),
    }
    if map_beside(file, POSE).is_file():
        maps[POSE] = read_upright(map_beside(file, POSE), "RGB")
    return maps


def random_cut(height: int, width: int, size: int, seed: int) -> Cut:
    """Choose a random square `size` pixels wide; the image's shorter side becomes as long."""
    scale = size / min(height, width)
    tall, wide = max(size, round(height * scale)), max(size, round(width * scale))
    share = torch.rand(2, generator=torch.Generator().manual_seed(seed)).tolist()
    top, left = (int(s * (n - size + 1)) for s, n in zip(share, (tall, wide), strict=True))
    return Cut(tall, wide, top, left, size)


class StructureDataset(Dataset):
    """Images as StructureLoss takes them, encoded once by `base`, with "hint" uint8 [9,S,S]: pose,
    depth and normal image, for the refiner.
    """

    def __init__(self, images: Sequence[StructureImage], base: Base) -> None:
        self.images = images
        self.latents = torch.cat([self._encode(base, name) for name in MODALITIES], 1)
        black_latent = base.encode(torch.zeros(1, *images[0].pose.shape)).cpu()
        self.poses = self._encode(base, POSE) - black_latent

    def _encode(self, base: Base, name: str) -> Tensor:
        """Encode one part of all images -> latents [N,4,h,w]."""
        parts = [getattr(image, name) for image in self.images]
        return encode_images(base, parts, f"encode {name}")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> dict:
        image = self.images[i]
        texts = {"full": image.caption, "brief": image.caption}
        return {
            "latent": self.latents[i],
            "pose": self.poses[i],
            "size": torch.tensor(image.size),
            "captions": {**texts, "bodies": image.bodies},
            "hint": torch.cat((image.pose, image.depth, image.normal)),
        }
