"""The places of the mini world, drawn flat: sky, ground and a few things that stand there."""

from __future__ import annotations

import torch
from torch import Tensor

from .scenes import BACKGROUNDS, HAND, UPPER, Scenes


class _Canvas:
    """One kind of place for n scenes: images [n, 3, S, S], coordinates 0..1 from the top left."""

    def __init__(self, n: int, size: int, device: torch.device) -> None:
        line = (torch.arange(size, device=device) + 0.5) / size
        self.x, self.y = line[None, None, :], line[None, :, None]
        self.edge = 1.5 / size
        self.image = torch.zeros(n, 3, size, size, device=device)

    def fill(self, top: tuple, bottom: tuple) -> None:
        up, down = (
            torch.tensor(c, device=self.image.device)[None, :, None, None] for c in (top, bottom)
        )
        self.image = (up + (down - up) * self.y[:, None]).expand_as(self.image).contiguous()

    def lay(self, mask: Tensor, color: tuple | Tensor) -> None:
        """Cover where `mask` [n, S, S] is 1 with `color`, (r, g, b) or [n, 3]."""
        c = torch.as_tensor(color, device=self.image.device, dtype=torch.float32)
        c = c.expand(len(self.image), 3)[..., None, None]
        self.image = self.image + (c - self.image) * mask[:, None]

    def below(self, height: Tensor) -> Tensor:
        return (
            ((self.y - height) / self.edge)
            .clamp(0, 1)
            .expand(len(self.image), *self.image.shape[2:])
        )

    def disc(self, x: Tensor, y: Tensor, r: Tensor | float) -> Tensor:
        return ((r - torch.hypot(self.x - x, self.y - y)) / self.edge).clamp(0, 1)

    def box(self, x: Tensor, y: Tensor, w: Tensor | float, h: Tensor | float) -> Tensor:
        inside = torch.minimum(w / 2 - (self.x - x).abs(), h / 2 - (self.y - y).abs())
        return (inside / self.edge).clamp(0, 1)

    def triangle(self, x: Tensor, top: Tensor, w: float, h: float) -> Tensor:
        slope = (self.y - top) * w / (2 * h) - (self.x - x).abs()
        return (torch.minimum(slope, top + h - self.y) / self.edge).clamp(0, 1)


def draw_backgrounds(scenes: Scenes, size: int) -> Tensor:
    """Draw the places of the scenes, [B, 3, size, size] in 0..1."""
    out = torch.zeros(len(scenes), 3, size, size, device=scenes.scale.device)
    drawers = (_park, _beach, _street, _room, _snow, _desert, _studio, _night)
    near = (scenes.framing == UPPER) | (scenes.framing == HAND)
    for kind, drawer in enumerate(drawers[: len(BACKGROUNDS)]):
        rows = (scenes.background == kind).nonzero()[:, 0]
        if len(rows):
            u = scenes.decor[rows, :, None, None]
            horizon = 0.55 + 0.12 * u[:, 0] + 0.15 * near[rows, None, None]
            canvas = _Canvas(len(rows), size, out.device)
            drawer(canvas, horizon, u)
            out[rows] = canvas.image
    return out.clamp(0, 1)


def _park(c: _Canvas, horizon: Tensor, u: Tensor) -> None:
    c.fill((0.55, 0.78, 0.95), (0.86, 0.94, 0.98))
    for k in (1, 3, 5):
        x, r = u[:, k], 0.09 + 0.07 * u[:, k + 1]
        c.lay(c.box(x, horizon - 0.04, 0.03, 0.16), (0.40, 0.28, 0.18))
        c.lay(c.disc(x, horizon - 0.08 - r, r), (0.20, 0.45, 0.20))
    c.lay(c.below(horizon), (0.45, 0.68, 0.30))


def _beach(c: _Canvas, horizon: Tensor, u: Tensor) -> None:
    c.fill((0.50, 0.80, 0.98), (0.90, 0.96, 1.0))
    c.lay(c.disc(u[:, 1], 0.10 + 0.1 * u[:, 2], 0.06), (1.0, 0.95, 0.65))
    c.lay(c.below(horizon - 0.08), (0.15, 0.50, 0.75))
    c.lay(c.below(horizon + 0.08 + 0.02 * torch.sin(9 * c.x + 6 * u[:, 3])), (0.93, 0.84, 0.62))


def _street(c: _Canvas, horizon: Tensor, u: Tensor) -> None:
    c.fill((0.75, 0.82, 0.88), (0.88, 0.90, 0.92))
    for k in range(4):
        x, h = (k + 0.5 + 0.3 * (u[:, k + 1] - 0.5)) / 4, 0.25 + 0.3 * u[:, k + 5]
        tone = 0.45 + 0.25 * u[:, k + 9, 0]
        c.lay(c.box(x, horizon - h / 2, 0.20, h), torch.cat((tone, tone * 0.92, tone * 0.88), -1))
        for i in (-1, 1):
            for j in range(3):
                c.lay(
                    c.box(x + i * 0.045, horizon - h + 0.07 + 0.11 * j, 0.035, 0.05),
                    (0.92, 0.88, 0.62),
                )
    c.lay(c.below(horizon), (0.38, 0.38, 0.40))
    c.lay(c.below(horizon) * (1 - c.below(horizon + 0.05)), (0.66, 0.65, 0.63))


def _room(c: _Canvas, horizon: Tensor, u: Tensor) -> None:
    c.fill((0.90, 0.84, 0.74), (0.85, 0.78, 0.67))
    x, y = 0.2 + 0.6 * u[:, 1], 0.24 + 0.06 * u[:, 2]
    c.lay(c.box(x, y, 0.30, 0.26), (0.98, 0.98, 0.96))
    c.lay(c.box(x, y, 0.26, 0.22), (0.62, 0.82, 0.96))
    c.lay(c.box(x, y, 0.018, 0.22), (0.98, 0.98, 0.96))
    floor = horizon + 0.10
    c.lay(c.below(floor), (0.55, 0.37, 0.22))
    c.lay(c.below(floor) * (1 - c.below(floor + 0.02)), (0.97, 0.95, 0.92))


def _snow(c: _Canvas, horizon: Tensor, u: Tensor) -> None:
    c.fill((0.70, 0.78, 0.88), (0.88, 0.91, 0.95))
    for k in (1, 3, 5, 7):
        for j in range(3):
            c.lay(
                c.triangle(
                    u[:, k], horizon - 0.30 + 0.07 * j + 0.08 * u[:, k + 1], 0.10 + 0.04 * j, 0.14
                ),
                (0.16, 0.34, 0.28),
            )
    c.lay(c.below(horizon + 0.02 * torch.sin(7 * c.x + 6 * u[:, 9])), (0.95, 0.97, 1.0))


def _desert(c: _Canvas, horizon: Tensor, u: Tensor) -> None:
    c.fill((0.98, 0.80, 0.50), (0.99, 0.92, 0.75))
    c.lay(c.disc(u[:, 1], 0.12 + 0.12 * u[:, 2], 0.07), (1.0, 0.98, 0.85))
    c.lay(c.below(horizon - 0.06 + 0.05 * torch.sin(6 * c.x + 6 * u[:, 3])), (0.83, 0.58, 0.32))
    c.lay(c.below(horizon + 0.06 + 0.04 * torch.sin(5 * c.x + 6 * u[:, 4])), (0.90, 0.68, 0.40))


def _studio(c: _Canvas, horizon: Tensor, u: Tensor) -> None:
    c.fill((0.80, 0.80, 0.81), (0.72, 0.72, 0.73))
    c.lay(
        c.disc(0.5 + 0.2 * (u[:, 1] - 0.5), 0.4 * torch.ones_like(horizon), 0.38) * 0.4,
        (0.90, 0.90, 0.90),
    )
    c.lay(c.below(horizon + 0.12) * 0.5, (0.60, 0.60, 0.61))


def _night(c: _Canvas, horizon: Tensor, u: Tensor) -> None:
    c.fill((0.04, 0.05, 0.16), (0.14, 0.15, 0.34))
    c.lay(c.disc(u[:, 1], 0.10 + 0.12 * u[:, 2], 0.06), (0.95, 0.94, 0.82))
    for k in range(3, 11):
        c.lay(c.disc(u[:, k], 0.5 * u[:, k + 4], 0.007), (0.95, 0.95, 0.90))
    c.lay(c.below(horizon), (0.12, 0.18, 0.20))
