"""Draw which instance of a composition owns which place of an image."""

import unicodedata
from collections.abc import Sequence
from textwrap import wrap

import numpy as np
import torch
from torch import Tensor

from . import pose_drawing

SMALL_TEXT = 0.5  # of the size of a number
LEAST_SIZE = 0.3  # of a text, in OpenCV's units: smaller letters can not be read
LETTER, LINE = 19, 30  # width of a letter and height of a line of size 1, in pixels
NAME_LINES = 3  # of a person's name at most


def draw_shares(shares: Tensor, skeletons: Tensor, names: Sequence[str] = ()) -> Tensor:
    """Draw which person owns which pixel, with the skeletons [H, W, 3] on top, as [H, W, 3].

    shares: [N, H, W]. Every person's area has a hue of its own and at its middle a number, from 1.
    names: of each person; below the number stands how much of the image the person owns, and the
    name as far as there is room and OpenCV has its letters.
    """
    hues = [torch.tensor(color) / 255 for color in pose_drawing.hues(max(3, len(shares)))]
    image = 0.1 + sum(0.45 * s[..., None] * hue for s, hue in zip(shares, hues, strict=False))
    image = torch.where(skeletons.amax(-1, keepdim=True) > 0, skeletons, image)
    canvas = (image.clamp(0, 1) * 255).byte().numpy().copy()
    size = min(canvas.shape[:2]) / 400
    small = max(LEAST_SIZE, SMALL_TEXT * size)
    for number, share in enumerate(shares):
        if share.sum() > 0:
            place = (share > 0.5).nonzero()
            y, x = place.double().mean(0).tolist()
            _write(canvas, str(number + 1), (x, y + LINE / 3 * size), size)
            columns = int(place[:, 1].max() - place[:, 1].min()) + 1
            name = _name_lines(names[number], columns, small) if names else []
            for below, line in enumerate([percentage(share), *name] if names else [], 1):
                _write(canvas, line, (x, y + LINE / 3 * size + below * LINE * small), small)
    return torch.from_numpy(canvas).float() / 255


def percentage(share: Tensor) -> str:
    """Say how much of an image [H, W] a person owns."""
    return f"{100 * float(share.mean()):.0f} %"


def _name_lines(name: str, width: int, size: float) -> list[str]:
    """Break a name into lines of this width in pixels, without accents; nothing where OpenCV's font
    has none of its letters.
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    letters = max(6, int(width / (LETTER * size)))
    if not plain.isascii():
        return []
    return wrap(plain, letters, max_lines=NAME_LINES, placeholder=" ...")


def _write(canvas: np.ndarray, text: str, middle: tuple[float, float], size: float) -> None:
    """Write a line into the canvas [H, W, 3], in place.

    middle: x and y of the middle of its lower edge, moved where the line would leave the canvas.
    """
    import cv2

    font, height, width = cv2.FONT_HERSHEY_SIMPLEX, *canvas.shape[:2]
    strokes = [max(1, round(thickness * size)) for thickness in (5, 2)]
    extent = cv2.getTextSize(text, font, size, strokes[0])[0][0]
    left = max(0, min(round(middle[0] - extent / 2), width - extent))
    lower = min(round(middle[1]), height - round(LINE / 4 * size))
    for color, stroke in zip(((0, 0, 0), (255, 255, 255)), strokes, strict=True):
        cv2.putText(canvas, text, (left, lower), font, size, color, stroke, cv2.LINE_AA)
