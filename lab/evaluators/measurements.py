"""Measurements against the ground truth of the mini world: colors of garments and places of
joints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...models import hands
from ..world.body import BOTTOM, HAT, SHOES, TOP, second_color
from ..world.renderer import WEAVE, Render, weave
from ..world.scenes import COLORS, PATTERNS, Scenes
from .posenet import PoseNet, find_joints

GARMENTS = {"top": TOP, "bottom": BOTTOM, "shoes": SHOES, "hat": HAT}
LEAST_PIXELS = 12  # a garment smaller than this is not judged
ALONE_MARGIN = 6
PCK_SHARE = 0.05  # of the person's height
HAND_SIDE = 96  # pixels of what the hand network sees
HAND_MARGIN = 0.35


def cloth_colors() -> Tensor:
    """Average the color [10, 6, 3] of every named color in every pattern, as woven by the
    renderer.
    """
    first = torch.tensor(list(COLORS.values()))
    grid = (torch.arange(400) + 0.5) / 400 * WEAVE * 20
    u, v = torch.meshgrid(grid, grid, indexing="ij")
    share = torch.stack(
        [weave(torch.full_like(u, k, dtype=torch.long), u, v).mean() for k in range(len(PATTERNS))]
    )
    return first[:, None] + (second_color(first) - first)[:, None] * share[None, :, None]


def name_color(mean: Tensor, pattern: Tensor) -> Tensor:
    """Find the index into COLORS of the mean colors [N, 3] of cloths of known pattern [N],
    whatever the light on them.

    The nearest reference up to the brightness that the world's light can give (0.62 to 1.05).
    """
    reference = cloth_colors().to(mean)[:, pattern]  # [10, N, 3]
    bright = (reference * mean).sum(-1) / (reference * reference).sum(-1)
    return (reference * bright.clamp(0.62, 1.05)[..., None] - mean).square().sum(-1).argmin(0)


def color_hits(images: Tensor, scenes: Scenes, truth: Render) -> dict[str, Tensor]:
    """Compare every garment with its caption, a bool tensor each: is it of the color that the
    caption names, inside each person's own mask?

    images [B,3,H,W] in 0..1; `truth` is the render of the same scenes. Garments hardly visible
    are left out.
    """
    p = scenes.people
    named = {
        "top": (p.top, p.top_pattern),
        "bottom": (p.bottom, p.bottom_pattern),
        "shoes": (p.shoes, torch.zeros_like(p.shoes)),
        "hat": (p.hat, torch.zeros_like(p.hat)),
    }
    hits = {}
    for garment, label in GARMENTS.items():
        color, pattern = named[garment]
        means, rows = [], []
        for i in range(len(p)):
            mask = (truth.instance[p.scene[i]] == i) & (truth.parsing[p.scene[i]] == label)
            inner = _erode(mask)
            mask = inner if inner.sum() >= LEAST_PIXELS else mask
            if mask.sum() >= LEAST_PIXELS and color[i] >= 0:
                means.append(images[p.scene[i]][:, mask].mean(-1))
                rows.append(i)
        at = torch.tensor(rows, dtype=torch.long)
        hits[garment] = (
            name_color(torch.stack(means), pattern[at]) == color[at]
            if rows
            else torch.zeros(0, dtype=torch.bool)
        )
    return hits


def color_accuracy(images: Tensor, scenes: Scenes, truth: Render) -> float:
    """Compute the share of visible garments that have the named color."""
    return float(torch.cat(list(color_hits(images, scenes, truth).values())).float().mean())


def pck(net: PoseNet, images: Tensor, truth: Render) -> float:
    """Compute the share of visible body joints that `net` finds within 5 % of the person's
    height of where they belong.

    One person per image: truth.body [B,18,3].
    """
    return float(joints_in_place(net, images, truth)[truth.body_visible].float().mean())


def joints_in_place(net: PoseNet, images: Tensor, truth: Render) -> Tensor:
    """Tell which joints count as found in `pck`, bool [B,18], hidden ones too."""
    joints = torch.cat([find_joints(net, chunk) for chunk in images.split(50)])
    off = (joints - truth.body[..., :2]).norm(dim=-1)
    return off <= PCK_SHARE * truth.height[:, None]


def pck_each(net: PoseNet, images: Tensor, scenes: Scenes, truth: Render) -> float:
    """Compute `pck` for scenes of several people: each is looked at alone, everything farther than
    ALONE_MARGIN pixels from their true body covered with the image's mean color.
    """
    return pck(net, each_alone(images, scenes, truth), truth)


def each_alone(images: Tensor, scenes: Scenes, truth: Render) -> Tensor:
    """Cut every person out of the images of scenes as `pck_each` looks at them."""
    alone = []
    for i in range(len(scenes.people)):
        scene = int(scenes.people.scene[i])
        body = (truth.instance[scene] == i)[None].float()
        near = nn.functional.max_pool2d(body, 2 * ALONE_MARGIN + 1, 1, ALONE_MARGIN) > 0
        image = images[scene]
        alone.append(torch.where(near, image, image.mean((1, 2), keepdim=True)))
    return torch.stack(alone)


def hand_crop(
    image: Tensor, points: Tensor, left: bool, shake: Sequence[float] | None = None
) -> tuple[Tensor, Tensor]:
    """Crop the square around a hand as the hand network reads it, and its joints: fingers up,
    left hands mirrored.

    image [3,H,W] in 0..1, points [21,3] -> [3,S,S], [21,2] in pixels of the square. `shake`:
    four numbers in 0..1 that move, enlarge and turn the square.
    """
    square = hands.square_around(points, HAND_MARGIN, upright=True)
    if shake is not None:
        dx, dy, larger, turn = (value - 0.5 for value in shake)
        square = square._replace(
            x=square.x + 0.3 * dx * square.side,
            y=square.y + 0.3 * dy * square.side,
            side=square.side * (1 + 0.4 * larger),
            angle=square.angle + turn,
        )
    crop = hands.cut_square(image.movedim(0, -1), square, HAND_SIDE).movedim(-1, 0)
    joints = hands.to_square(points, square, HAND_SIDE)[:, :2]
    if left:
        crop, joints = crop.flip(-1), torch.stack((HAND_SIDE - joints[:, 0], joints[:, 1]), -1)
    return crop, joints


@dataclass(frozen=True)
class HandReport:
    """Hold what the hand network read in hands [N]."""

    error: Tensor  # mean distance of visible joints from where they belong, over the hand's size
    fingers: Tensor  # bool: as many fingers stretched out as there should be


def read_hands(
    net: PoseNet, crops: Sequence[tuple[Tensor, Tensor]], visible: Sequence[Tensor]
) -> HandReport:
    """Read crops of `hand_crop`, which must be cut at the true hands' places. Only joints that are
    `visible` [21] in the true hand count for the error: no image shows where others are.
    """
    images, true_joints = (torch.stack(part) for part in zip(*crops, strict=True))
    joints = torch.cat([find_joints(net, chunk) for chunk in images.split(64)])
    sizes = [hands.hand_size(nn.functional.pad(j, (0, 1), value=1)) for j in true_joints]
    is_visible = torch.stack([*visible]).float()
    distances = (joints - true_joints).norm(dim=-1) * is_visible
    error = distances.sum(1) / is_visible.sum(1) / torch.tensor(sizes)
    return HandReport(error, (stretched(joints) == stretched(true_joints)))


def stretched(joints: Tensor) -> Tensor:
    """Count how many fingers of hands [N,21,2] are stretched out: their tip is farther from the
    wrist than the joint in their middle; the thumb's from the little finger's root.
    """
    tips, middles, roots = [4, 8, 12, 16, 20], [3, 6, 10, 14, 18], [17, 0, 0, 0, 0]

    def away(joint: list[int]) -> Tensor:
        return (joints[:, joint] - joints[:, roots]).norm(dim=-1)

    return (away(tips) > away(middles)).sum(-1)


def seam_contrast(images: Tensor, owners: Tensor, free: Tensor) -> float:
    """Compare the contrast across the borders of people's regions over that elsewhere: 1 is no
    seam.

    images [B,3,H,W]; owners [B,H,W], who owns each pixel; free [B,H,W], bool: only pixels where
    nobody is count, because a body's own outline is no seam.
    """
    across, elsewhere = [], []
    for axis in (-2, -1):
        step = images.diff(dim=axis).abs().mean(1)
        border = owners.diff(dim=axis) != 0
        nobody = free.unfold(axis, 2, 1).all(-1)
        across.append(step[nobody & border])
        elsewhere.append(step[nobody & ~border])
    return float(torch.cat(across).mean() / torch.cat(elsewhere).mean())


def _erode(mask: Tensor) -> Tensor:
    outside = nn.functional.max_pool2d((~mask)[None].float(), 3, 1, 1)[0]
    return outside == 0
