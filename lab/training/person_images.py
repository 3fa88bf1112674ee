"""A folder of photographs as the human-centric prior learns it: images with captions and pose
images, which lie beside them or are drawn from the people that are detected.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset
from tqdm import tqdm

from ...models import detect, pose, pose_drawing
from .bases import Base
from .image_folder import (
    UNREADABLE,
    detector_for,
    encode_images,
    fill_captions,
    image_files,
    people_on_canvas,
    pose_file,
    read_caption,
    read_upright,
    same_proportions,
    warn_of_left_out,
)

log = logging.getLogger(__name__)


class PersonImage(NamedTuple):
    """The centered square of one photograph, S pixels wide."""

    rgb: Tensor  # uint8 [3,S,S]
    hint: Tensor  # uint8 [3,S,S], the pose image
    bodies: list  # [N][18][x, y, confidence] in pixels, of detected people; [] with a pose file
    caption: str


def collect_people(
    folder: Path, size: int, *, task_folders: Sequence[str] = ()
) -> list[PersonImage]:
    """Read every image in `folder` that has a pose image or shows somebody, at size x size.

    Beside `name.jpg` may lie `name.txt`, its caption, and `name.pose.png`, its pose image, of the
    same proportions; without them the caption is CAPTION and people are detected. Images that are
    left out are named in a warning. ValueError if none is left.
    """
    files = image_files(folder, size)
    with detector_for(files, task_folders) as detector:
        read = [_read_person(file, size, detector) for file in tqdm(files, desc="find people")]
    people = [person for person in read if person]
    if not people:
        raise ValueError(
            f"--images {folder}: nobody was found in {len(files)} images. Take photographs of "
            "people, in .jpg, .png or .webp, or put a pose image name.pose.png beside name.jpg."
        )
    warn_of_left_out(files, len(people))
    captions = fill_captions([person.caption for person in people])
    return [
        person._replace(caption=caption) for person, caption in zip(people, captions, strict=True)
    ]


def _read_person(file: Path, size: int, detector: detect.Detector | None) -> PersonImage | None:
    """Read one image; None, and a warning, if it teaches nothing.

    Without a pose image beside it the image needs a detector. The caption is "" where there is
    none.
    """
    try:
        rgb = read_upright(file, "RGB")
        beside = pose_file(file)
        pose_image = read_upright(beside, "RGB") if beside.is_file() else None
        caption = read_caption(file)
    except UNREADABLE as error:
        log.warning("%s can not be read: %s", file.name, error)
        return None
    if pose_image is not None:
        if not same_proportions(rgb, pose_image):
            log.warning("%s and %s differ in proportions; left out.", file.name, beside.name)
            return None
        return PersonImage(_cut(rgb, size), _cut(pose_image, size), [], caption)
    assert detector is not None
    people = people_on_canvas(pose.cover_canvas(detector.detect(rgb), size, size))
    if not pose.count(people):
        log.warning("%s: nobody was found, and it has no pose image; it is left out.", file.name)
        return None
    pose_image = pose_drawing.draw_people(people, size, size)
    return PersonImage(_cut(rgb, size), _cut(pose_image, size), people.body.tolist(), caption)


def _cut(image: Tensor, size: int) -> Tensor:
    """Cut out the centered square of [H,W,3] in 0..1 as uint8 [3,size,size]."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side].movedim(-1, 0)[None]
    resized = interpolate(square, (size, size), mode="bilinear", antialias=True)[0]
    return (resized * 255).round().byte()


class PersonDataset(Dataset):
    """People as PriorLoss takes them, encoded once by `base`."""

    def __init__(self, people: Sequence[PersonImage], base: Base) -> None:
        self.people = people
        self.latents = encode_images(base, [person.rgb for person in people])

    def __len__(self) -> int:
        return len(self.people)

    def __getitem__(self, i: int) -> dict:
        person = self.people[i]
        texts = {"full": person.caption, "brief": person.caption}
        return {
            "latent": self.latents[i],
            "hint": person.hint,
            "captions": {**texts, "bodies": person.bodies},
        }
