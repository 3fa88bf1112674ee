"""Contact sheets that explain themselves: a head over each column, the prompt beside each row and a
value under each image.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

QUALITY = 75
HEAD, VALUE, PROMPT = 34, 16, 150  # pixels of a head's and a value's height and a prompt's width
SIZE, GAP = 13, 4  # of letters, and around images
PAPER, INK = (255, 255, 255), (30, 30, 30)
LETTER = 0.55  # width of an average letter over its size
LINE = 17  # pixels from one line of letters to the next


def save_labeled(
    images: Tensor,
    path: Path,
    heads: Sequence[str],
    prompts: Sequence[str] | None = None,
    values: Sequence[Sequence[str]] | None = None,
) -> None:
    """Write images [R,C,3,H,W] in 0..1 as a PNG or JPEG with C heads and, where given, R prompts
    and R x C values.
    """
    rows, columns, _, height, width = images.shape
    beside, below = PROMPT if prompts else 0, VALUE if values else 0
    pitch_x, pitch_y = width + GAP, height + below + GAP
    sheet = Image.new("RGB", (beside + columns * pitch_x, HEAD + rows * pitch_y), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(SIZE)
    for column, head in enumerate(heads):
        x = beside + column * pitch_x
        pen.multiline_text((x, 2), _wrapped(head, width, 2), INK, font, spacing=1)
    for row in range(rows):
        y = HEAD + row * pitch_y
        if prompts:
            lines = pitch_y // LINE
            pen.multiline_text((2, y), _wrapped(prompts[row], PROMPT, lines), INK, font)
        for column in range(columns):
            x = beside + column * pitch_x
            sheet.paste(_picture(images[row, column]), (x, y))
            if values:
                pen.text((x, y + height + 1), values[row][column], INK, font)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, quality=QUALITY)


def _picture(image: Tensor) -> Image.Image:
    pixels = (image.cpu() * 255).round().clamp(0, 255).byte()
    return Image.fromarray(pixels.movedim(0, -1).numpy())


def _wrapped(text: str, width: int, lines: int) -> str:
    letters = max(4, int(width / (SIZE * LETTER)))
    return "\n".join(
        textwrap.wrap(text, letters, max_lines=lines, placeholder=" ...", break_long_words=True)
    )
