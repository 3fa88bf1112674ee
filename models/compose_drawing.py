"""Draw which instance of a composition owns which place of an image."""

import unicodedata
from collections.abc import Sequence

import torch
from torch import Tensor

from . import pose_drawing

SMALL_TEXT = 0.5  # of the size of a number
LEAST_SIZE = 0.3  # of a text, in OpenCV's units: smaller letters can not be read
LINE = 30  # height of a line of text of size 1, in pixels


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
    for number, share in enumerate(shares):
        if share.sum() > 0:
            y, x = (share > 0.5).nonzero().double().mean(0).tolist()
            _write(canvas, str(number + 1), (x, y + 10 * size), size)
            if names:
                small = max(LEAST_SIZE, SMALL_TEXT * size)
                below = y + 10 * size + LINE * small
                _write(canvas, percentage(share), (x, below), small)
                _write(canvas, _drawable(names[number]), (x, below + LINE * small), small)
    return torch.from_numpy(canvas).float() / 255


def percentage(share: Tensor) -> str:
    """Say how much of an image [H, W] a person owns."""
    return f"{100 * float(share.mean()):.0f} %"


def _drawable(name: str) -> str:
    """The name without accents, or nothing where OpenCV's font has none of its letters."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return plain if plain.isascii() else ""


def _write(canvas, text: str, middle: tuple[float, float], size: float) -> None:
    """Write a line into the canvas [H, W, 3], in place, as wide as the canvas at most.

    middle: x and y of the middle of its lower edge.
    """
    import cv2

    font, width = cv2.FONT_HERSHEY_SIMPLEX, canvas.shape[1]
    strokes = [max(1, round(thickness * size)) for thickness in (5, 2)]

    def extent(line: str) -> int:
        return cv2.getTextSize(line, font, size, strokes[0])[0][0]

    while text and extent(text) > width:
        text = text.rstrip(".")[:-1].rstrip() + "..." if len(text) > 4 else ""
    left = min(max(middle[0] - extent(text) / 2, 0), max(width - extent(text), 0))
    place = (round(left), round(min(middle[1], canvas.shape[0] - LINE * size / 4)))
    for color, stroke in zip(((0, 0, 0), (255, 255, 255)), strokes, strict=True):
        cv2.putText(canvas, text, place, font, size, color, stroke, cv2.LINE_AA)
