"""Draw the pack's icon: `python -m assets.icon` at the root.

Leonardo's Vitruvian man in OpenPose's colors, one person in two poses: with feet together and arms
level it fills the square; with feet apart and arms raised it touches the circle, whose center is
the navel.
"""

import math
from pathlib import Path

from PIL import Image, ImageDraw

from models.pose import LIMBS
from models.pose_drawing import JOINT_COLORS

SIZE = 400  # the registry's largest
FINE = 8  # drawn larger by this and then reduced, which smooths the edges
PAPER, INK = (16, 20, 34), (226, 214, 184)

# The man is 1 high: x from his axis, y down from the crown. Right is his right, our left.
NOSE, NECK, SHOULDER, HIP = (0.0, 0.09), (0.0, 0.18), (0.11, 0.185), (0.07, 0.50)
EYE, EAR = (0.028, 0.055), (0.062, 0.075)
UPPER_ARM, FOREARM, THIGH, SHIN = 0.18, 0.20, 0.24, 0.24
NAVEL, RADIUS = 0.4, 0.6
LEVEL, RAISED, TOGETHER, APART = 0.0, 28.0, 1.0, 25.0  # degrees from level, from upright

Point = tuple[float, float]


def joints(arms: float, legs: float) -> list[Point]:
    """Return the 18 points of OpenPose's body with arms and legs at these angles, in degrees."""
    across, up = math.cos(math.radians(arms)), -math.sin(math.radians(arms))
    out, down = math.sin(math.radians(legs)), math.cos(math.radians(legs))

    def along(start: Point, x: float, y: float, length: float) -> Point:
        return start[0] + x * length, start[1] + y * length

    arm = [along(SHOULDER, across, up, n) for n in (0, UPPER_ARM, UPPER_ARM + FOREARM)]
    leg = [along(HIP, out, down, n) for n in (0, THIGH, THIGH + SHIN)]
    right, left = ([(side * x, y) for x, y in (*arm, *leg)] for side in (-1, 1))
    face = [(side * x, y) for x, y in (EYE, EAR) for side in (-1, 1)]
    return [NOSE, NECK, *right[:3], *left[:3], *right[3:], *left[3:], *face]


def draw() -> Image.Image:
    """Draw the icon, an RGB image of SIZE x SIZE."""
    side = SIZE * FINE
    scale, top = 0.74 * side, 0.178 * side
    canvas = Image.new("RGB", (side, side), PAPER)

    def at(point: Point) -> Point:
        return side / 2 + scale * point[0], top + scale * point[1]

    def frame() -> None:
        pen = ImageDraw.Draw(canvas)
        (x, y), r, width = at((0.0, NAVEL)), RADIUS * scale, round(0.0075 * side)
        pen.ellipse((x - r, y - r, x + r, y + r), outline=INK, width=width)
        pen.rectangle((*at((-0.5, 0.0)), *at((0.5, 1.0))), outline=INK, width=width)

    def person(body: list[Point], strength: float) -> None:
        def shade(color: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(round(p + strength * (c - p)) for p, c in zip(PAPER, color, strict=True))

        pen = ImageDraw.Draw(canvas)
        for color, (a, b) in zip(JOINT_COLORS, LIMBS, strict=False):
            pen.line((*at(body[a]), *at(body[b])), shade(color), round(0.027 * side))
        for color, point in zip(JOINT_COLORS, body, strict=True):
            (x, y), r = at(point), 0.0195 * side
            pen.ellipse((x - r, y - r, x + r, y + r), fill=shade(color))

    frame()
    person(joints(RAISED, APART), 0.55)
    person(joints(LEVEL, TOGETHER), 1.0)
    return canvas.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    draw().save(Path(__file__).with_suffix(".png"), optimize=True)
