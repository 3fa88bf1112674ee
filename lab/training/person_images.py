"""A folder of photographs as the human-centric prior learns it: pictures with captions and pose
images, which lie beside them or are drawn from the people that MediaPipe finds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset
from tqdm import tqdm

from ...models import detect, pose, pose_drawing
from ...models.mini import LATENT_STRIDE
from ...models.structure_data import MAPS, POSE, beside
from .bases import Base
from .hand_images import read_upright

CAPTION = "a photo of a person"
UNLIKE = 0.02  # by how much the proportions of a picture and its pose image may differ
BATCH = 8  # pictures encoded at a time
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # as Pillow has it
log = logging.getLogger(__name__)


class PersonPicture(NamedTuple):
    """The centred square of one photograph, S pixels wide."""

    rgb: Tensor  # uint8 [3,S,S]
    hint: Tensor  # uint8 [3,S,S], the pose image
    bodies: list  # [N][18][x, y, confidence] in pixels, of the people found; none in a given image
    caption: str


def collect_people(
    folder: Path, size: int, *, task_folders: Sequence[str] = ()
) -> list[PersonPicture]:
    """Every picture in `folder` that has a pose image or shows somebody, at size x size.

    Beside `name.jpg` may lie `name.txt`, its caption, and `name.pose.png`, its pose image, of the
    same proportions; without them the caption is CAPTION and MediaPipe finds the people. Pictures
    that are left out are named in a warning. ValueError if none is left.
    """
    files = pictures_in(folder, size)
    with detector_for(files, task_folders) as detector:
        tried = [_person_in(file, size, detector) for file in tqdm(files, desc="find people")]
    found = [person for person in tried if person]
    if not found:
        raise ValueError(
            f"{folder}: nobody was found in {len(files)} pictures. Take photographs of people, in "
            ".jpg, .png or .webp, or put a pose image name.pose.png beside name.jpg."
        )
    captions = fill_captions([person.caption for person in found])
    return [person._replace(caption=own) for person, own in zip(found, captions, strict=True)]


def pictures_in(folder: Path, size: int) -> list[Path]:
    """The pictures in a folder by name, without hidden ones and maps; ValueError if there is no
    such folder, or no picture can be `size` pixels wide.
    """
    if size < LATENT_STRIDE or size % LATENT_STRIDE:
        raise ValueError(f"the pictures' size is {size}: it must be a multiple of {LATENT_STRIDE}.")
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: give one with photographs of people.")
    endings = tuple(f".{name}" for name in MAPS)
    known = Image.registered_extensions()
    return [
        file
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in known
        and not file.name.startswith(".")
        and not file.stem.endswith(endings)
    ]


@contextmanager
def detector_for(
    files: Sequence[Path], task_folders: Sequence[str] = ()
) -> Iterator[detect.Detector | None]:
    """What finds people, unless every picture has a pose image; ValueError if it is missing."""
    if all(pose_image(file).is_file() for file in files):
        yield None
        return
    with detect.open_detector(task_folders, hands=False) as detector:
        yield detector


def fill_captions(captions: Sequence[str]) -> list[str]:
    """CAPTION in the place of those that are empty, and a warning if any is."""
    if lacking := sum(not caption for caption in captions):
        log.warning(
            "%d of %d pictures have no caption (name.txt beside name.jpg) and get '%s'; words for "
            "what people do are learnt from captions only.",
            lacking,
            len(captions),
            CAPTION,
        )
    return [caption or CAPTION for caption in captions]


def pose_image(file: Path) -> Path:
    return beside(file, POSE)


def read_caption(file: Path) -> str:
    """What is written beside a picture, "" without a file."""
    text = file.with_suffix(".txt")
    return text.read_text("utf-8-sig").strip() if text.is_file() else ""


def _person_in(file: Path, size: int, detector: detect.Detector | None) -> PersonPicture | None:
    """Without a pose image beside it the picture needs a detector; caption "" where there is
    none. None, and a warning, for a picture that teaches nothing.
    """
    try:
        rgb = read_upright(file, "RGB")
        given = pose_image(file)
        drawn = read_upright(given, "RGB") if given.is_file() else None
        caption = read_caption(file)
    except UNREADABLE as trouble:
        log.warning("%s can not be read: %s", file.name, trouble)
        return None
    if drawn is not None:
        if not alike(rgb, drawn):
            log.warning("%s and %s differ in proportions; left out.", file.name, given.name)
            return None
        return PersonPicture(_cut(rgb, size), _cut(drawn, size), [], caption)
    assert detector is not None
    people = detector.detect(rgb)
    people = inside(pose.cover_canvas(people, size, size))
    if not pose.count(people):
        log.warning("%s: nobody was found, and it has no pose image; it is left out.", file.name)
        return None
    drawn = pose_drawing.draw_people(people, size, size)
    return PersonPicture(_cut(rgb, size), _cut(drawn, size), people.body.tolist(), caption)


def alike(picture: Tensor, other: Tensor) -> bool:
    """Whether two pictures [H,W,C] have the same proportions, but for rounding."""
    (h, w), (height, width) = picture.shape[:2], other.shape[:2]
    return abs(w * height / (h * width) - 1) < UNLIKE


def inside(people: pose.People) -> pose.People:
    """Those of whom the canvas shows a point."""
    x, y, known = people.body.unbind(-1)
    shown = (known > 0) & (x >= 0) & (y >= 0) & (x < people.width) & (y < people.height)
    return pose.pick(people, shown.any(1).nonzero().flatten().tolist())


def _cut(picture: Tensor, size: int) -> Tensor:
    """The centred square of [H,W,3] in 0..1 as uint8 [3,size,size]."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = picture[top : top + side, left : left + side].movedim(-1, 0)[None]
    resized = interpolate(square, (size, size), mode="bilinear", antialias=True)[0]
    return (resized * 255).round().byte()


class PersonPictures(Dataset):
    """What PriorLoss takes, of pictures encoded once by `base`."""

    def __init__(self, found: Sequence[PersonPicture], base: Base) -> None:
        self.found = found
        encoded = []
        for start in tqdm(range(0, len(found), BATCH), desc="encode"):
            rgb = torch.stack([person.rgb for person in found[start : start + BATCH]])
            encoded.append(base.encode(rgb / 255).cpu())
        self.latents = torch.cat(encoded)

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, i: int) -> dict:
        person = self.found[i]
        texts = {"full": person.caption, "brief": person.caption}
        return {
            "latent": self.latents[i],
            "hint": person.hint,
            "captions": {**texts, "bodies": person.bodies},
        }
