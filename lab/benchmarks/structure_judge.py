"""What the evaluators read in images, depth and normals of a joint network or a refiner, scene by
scene, so that figures get intervals and ways are compared on the same scenes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate, max_pool2d

from ...models import structure
from ..evaluators import bodies, frechet, measurements, posenet, surfacenet
from ..world.renderer import Render, render
from ..world.scenes import FULL, sample_scenes
from . import intervals

SURE = 0.5
SLOPES = torch.logspace(-2.5, 0.5, 16)  # depth units per pixel that a depth image may have
BATCH = 200  # scenes that are rendered together
PCK, DEPTH_ERROR, NORMAL_ERROR = "pck", "depth_error", "normal_error"
AGREEMENT, OVERLAP = "depth_normal_agreement", "silhouette_iou"
DISTANCE = "fd"
FIGURES = PCK, DEPTH_ERROR, NORMAL_ERROR, AGREEMENT, OVERLAP


class Maps(NamedTuple):
    """Hold images [N,3,H,W] in 0..1; without a depth or normals those are None."""

    rgb: Tensor
    depth: Tensor | None = None
    normal: Tensor | None = None

    def first(self, count: int) -> Maps:
        """Select the first scenes."""
        depth, normal = (None if images is None else images[:count] for images in self[1:])
        return Maps(self.rgb[:count], depth, normal)


class Judged(NamedTuple):
    """Hold what was read in each scene: a figure is the sum of `parts` over that of `wholes`."""

    features: Tensor  # [N,F] of the pose network
    parts: dict[str, Tensor]  # [N] by figure
    wholes: dict[str, Tensor]  # [N], 0 where a scene says nothing

    def first(self, count: int) -> Judged:
        """Select the first scenes."""
        halves = ({k: v[:count] for k, v in each.items()} for each in self[1:])
        return Judged(self.features[:count], *halves)


class Judge:
    """Read images with the evaluators and compare them with each other and the truth."""

    def __init__(self, truth: Render, references: int, seed: int) -> None:
        """`truth` has one person in each scene; the distance is to `references` other scenes."""
        self.truth = truth
        self.poses, self.surfaces = posenet.load_posenet(), surfacenet.load_surfacenet()
        chunks = [min(BATCH, references - k) for k in range(0, references, BATCH)]
        self.true = torch.cat(
            [
                bodies.read(self.poses, render(_alone(count, seed + k)).rgb).features
                for k, count in enumerate(chunks)
            ]
        )

    def read(self, maps: Maps) -> Judged:
        """Read the images of the first scenes of the truth."""
        truth = first_scenes(self.truth, len(maps.rgb))
        in_place = measurements.joints_in_place(self.poses, maps.rgb, truth) & truth.body_visible
        parts = {PCK: in_place.float().sum(1)} | self._surfaces(maps)
        wholes = {name: torch.ones_like(values) for name, values in parts.items()}
        wholes[PCK] = truth.body_visible.float().sum(1)
        for name, values in parts.items():
            wholes[name] = wholes[name] * values.isfinite()
            parts[name] = values.nan_to_num()
        return Judged(bodies.read(self.poses, maps.rgb).features, parts, wholes)

    def _surfaces(self, maps: Maps) -> dict[str, Tensor]:
        """Compare the depth and the normals with the surfaces that are read in the image."""
        values: dict[str, Tensor] = {}
        surfaces = surfacenet.read(self.surfaces, maps.rgb)
        silhouettes = [surfaces.presence > SURE]
        if maps.depth is not None:
            is_body = surfacenet.read(self.surfaces, maps.depth).presence > SURE
            near = surfacenet.coarse(maps.depth).mean(1)
            off = (near - surfaces.depth).abs()
            values[DEPTH_ERROR] = average(off, is_body & silhouettes[0])
            silhouettes.append(is_body)
        if maps.normal is not None:
            is_body = surfacenet.read(self.surfaces, maps.normal).presence > SURE
            facing = structure.image_to_normals(surfacenet.coarse(maps.normal))
            cosine = cosine_similarity(facing, surfaces.normal).clamp(-1, 1)
            angle = cosine.arccos().rad2deg()
            values[NORMAL_ERROR] = average(angle, is_body & silhouettes[0])
            silhouettes.append(is_body)
            if maps.depth is not None:
                values[AGREEMENT] = agreement(maps.depth, maps.normal, is_body)
        if len(silhouettes) > 1:
            pairs = itertools.combinations(silhouettes, 2)
            values[OVERLAP] = torch.stack([overlap(a, b) for a, b in pairs]).mean(0)
        return values

    def distance(self, judged: Judged, name: str) -> dict[str, float]:
        """Compute the Frechet distance of a way's images to true ones."""
        halves = self._halves(judged.features)
        return _around(name, self._frechet(judged.features), halves, len(judged.features))

    def distance_difference(self, one: Judged, other: Judged, name: str) -> dict[str, float]:
        """Subtract the Frechet distance of another way from that of one, of the same scenes."""
        value = self._frechet(one.features) - self._frechet(other.features)
        halves = self._halves(one.features) - self._halves(other.features)
        return _around(name, value, halves, len(one.features))

    def _frechet(self, features: Tensor) -> float:
        """Estimate the distance without the bias of a finite count, where there are enough."""
        few = min(len(features), len(self.true)) < frechet.LEAST * features.shape[1]
        return (frechet.frechet if few else frechet.frechet_unbiased)(features, self.true)

    def _halves(self, features: Tensor) -> Tensor:
        """Compute the distances of halves of the scenes to halves of the true images, the same
        halves for all ways: they vary as those of whole sets do.
        """
        g = torch.Generator().manual_seed(0)
        return torch.tensor(
            [
                frechet.frechet(_half(features, g), _half(self.true, g))
                for _ in range(frechet.HALVES)
            ]
        )

    def color_difference(self, images: Tensor, references: Tensor) -> Tensor:
        """Average the difference of colors [N] where both images [N,3,H,W] show the body; NaN where
        they share none of it.
        """
        shared = torch.ones(len(images), 1, *images.shape[2:], dtype=torch.bool)
        for each in (images, references):
            presence = surfacenet.read(self.surfaces, each).presence[:, None]
            shared &= interpolate(presence, images.shape[2:], mode="bilinear") > SURE
        return average((images - references).abs().mean(1), shared[:, 0])


def _half(rows: Tensor, g: torch.Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=g)[: len(rows) // 2]]


def _around(name: str, value: float, halves: Tensor, count: int) -> dict[str, float]:
    """Give a distance the interval of 95 % that follows from those of halves."""
    reach = intervals.WILSON * float(halves.std())
    ends = {f"{name}_low": value - reach, f"{name}_high": value + reach}
    return {name: value, **ends, f"{name}_count": count}


def figures(way: str, judged: Judged, names: Iterable[str]) -> dict[str, float]:
    """Compute the named figures of a way, of those that it has, by `<way>_<figure>`."""
    numbers: dict[str, float] = {}
    for name in names:
        if name in judged.parts:
            numbers |= intervals.ratio(judged.parts[name], judged.wholes[name], f"{way}_{name}")
    return numbers


def difference(one: Judged, other: Judged, figure: str, name: str) -> dict[str, float]:
    """Subtract a figure of another way from that of one, on the scenes that both say it of."""
    wholes = torch.minimum(one.wholes[figure], other.wholes[figure])
    parts, baseline = (judged.parts[figure] * (wholes > 0) for judged in (one, other))
    return intervals.ratio_difference(parts, baseline, wholes, name)


def average(values: Tensor, where: Tensor) -> Tensor:
    """Average values [N,h,w] over the cells `where` [N,h,w], bool; NaN where there are none."""
    return (values * where).sum((1, 2)) / where.sum((1, 2))


def overlap(one: Tensor, other: Tensor) -> Tensor:
    """Divide the intersection [N] of silhouettes [N,h,w], bool, by their union."""
    intersection, union = (one & other).sum((1, 2)), (one | other).sum((1, 2))
    return intersection / union.clamp(min=1)


def agreement(depth: Tensor, normal: Tensor, is_body: Tensor) -> Tensor:
    """Correlate [N] the tilt (x and y) in normal images with the slope of depth images [N,3,H,W],
    over the cells `is_body` [N,h,w] whose neighbors are so, too; a depth image's unit is unknown,
    so the one that fits best counts.
    """
    near = surfacenet.coarse(depth).mean(1)
    facing = structure.image_to_normals(surfacenet.coarse(normal))
    inner = -max_pool2d(-is_body.float()[:, None], 3, 1, 1) > 0
    tilt = (facing[:, :2] * inner).flatten(1)
    fits = []
    for slope in SLOPES.tolist():
        slope_tilt = (structure.normals_from_depth(near, slope)[:, :2] * inner).flatten(1)
        fits.append(cosine_similarity(slope_tilt, tilt))
    return torch.stack(fits).amax(0)


def first_scenes(truth: Render, count: int) -> Render:
    """Select the first scenes of a rendering with one person in each."""
    parts: dict[str, Any] = {field.name: getattr(truth, field.name) for field in fields(Render)}
    return Render(**{name: part[:count] for name, part in parts.items()})


def _alone(count: int, seed: int) -> Any:
    return sample_scenes(count, seed, framing=FULL, people=1)
