"""Draw people as OpenPose images, which pose ControlNets read as their control image.

The colors are those of ComfyUI's and ControlNet's drawings of OpenPose.
"""

import colorsys
from typing import Any

import torch
from torch import Tensor

from .pixels import shrink
from .pose import BONES, LIMBS, People, cover_canvas


def hues(n: int) -> list[tuple[int, ...]]:
    """Return n RGB colors in 0..255, evenly spaced around the color circle."""
    return [tuple(round(255 * c) for c in colorsys.hsv_to_rgb(i / n, 1, 1)) for i in range(n)]


JOINT_COLORS = hues(18)
LIMB_COLORS = [tuple(int(0.6 * c) for c in color) for color in JOINT_COLORS[:17]]
BONE_COLORS = hues(20)
HAND_COLOR = (0, 0, 255)
FACE_COLOR = (255, 255, 255)
LARGEST_PREVIEW = 2048  # pixels of the longer side


def auto_line_width(width: int, height: int) -> float:
    """Return half the width of a limb in pixels: 4 at a short side of 512, at least 1.5.

    ControlNets were trained on drawings of this width.
    """
    return max(1.5, 4 * min(width, height) / 512)


def draw_people(
    people: People,
    width: int,
    height: int,
    *,
    hands: bool = True,
    face: bool = True,
    line_width: float | None = None,
) -> Tensor:
    """Draw these people in OpenPose's colors on black, [height, width, 3] in 0..1.

    Limbs are ellipses in the joints' colors times 0.6, joints full-color discs over them, hands
    hue-ramped bones with blue dots, faces white dots (Cao et al. 2019, as drawn for ControlNet).
    line_width: half the width of a limb in pixels of this image; None: auto_line_width.
    The people's canvas covers the image (cover_canvas).
    """
    import cv2
    import numpy as np

    half = line_width or auto_line_width(width, height)
    canvas = np.zeros((height, width, 3), np.uint8)
    subpixels = 4  # bits: at 192 pixels a half pixel is a sixth of a limb
    unit = 1 << subpixels
    far = float(1 << 24)  # keeps points far outside within OpenCV's integers

    def disc(point: Any, radius: float, color: tuple[int, ...]) -> None:
        x, y = (point * unit).clip(-far, far).astype(int).tolist()
        cv2.circle(canvas, (x, y), round(radius * unit), color, -1, shift=subpixels)

    def ellipses(points: Any, visible: Any) -> None:
        ends = points[LIMBS, :]  # [17, 2, 2]
        center, axis = ends.mean(1, keepdims=True), (ends[:, 1:] - ends[:, :1]) / 2
        length = np.maximum(np.linalg.norm(axis, axis=2, keepdims=True), 1e-6)
        across = np.stack([-axis[..., 1], axis[..., 0]], -1) / length * half
        outline = center + axis * circle[:, :1] + across * circle[:, 1:]  # [17, steps, 2]
        outline = (outline * unit).round().clip(-far, far).astype(np.int32)
        for limb, (a, b) in enumerate(LIMBS):
            if visible[a] and visible[b]:
                cv2.fillConvexPoly(canvas, outline[limb], LIMB_COLORS[limb], shift=subpixels)

    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False, dtype=np.float32)
    circle = np.stack([np.cos(angle), np.sin(angle)], 1)
    parts = [points.cpu().numpy() for points in cover_canvas(people, width, height)[:5]]
    for body, left_hand, right_hand, face_points, _ in zip(*parts, strict=True):
        ellipses(body[:, :2], body[:, 2] > 0)
        for point, color in zip(body, JOINT_COLORS, strict=True):
            if point[2] > 0:
                disc(point[:2], half, color)
        for hand in (left_hand, right_hand) if hands else ():
            ends = (hand[:, :2] * unit).clip(-far, far).astype(int).tolist()
            for (a, b), color in zip(BONES, BONE_COLORS, strict=True):
                if hand[a, 2] > 0 and hand[b, 2] > 0:
                    thickness = max(1, round(half / 2))
                    cv2.line(canvas, ends[a], ends[b], color, thickness, shift=subpixels)
            for point in hand[hand[:, 2] > 0]:
                disc(point[:2], half, HAND_COLOR)
        for point in face_points[face_points[:, 2] > 0] if face else ():
            disc(point[:2], 0.75 * half, FACE_COLOR)
    return torch.from_numpy(canvas).float().div(255)


def draw_over(image: Tensor, people: People) -> Tensor:
    """Draw the people over a darkened copy of an image [height, width, 3 or more] in 0..1.

    Images larger than LARGEST_PREVIEW are shown at that size.
    """
    below = shrink(image, LARGEST_PREVIEW)
    skeletons = draw_people(people, below.shape[1], below.shape[0])
    return torch.where(skeletons.amax(-1, keepdim=True) > 0, skeletons, 0.6 * below)
