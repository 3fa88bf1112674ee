"""What the evaluators themselves can say: nothing is generated here.

On unseen scenes of the mini world, in images that passed the autoencoder, of every evaluator X:
  <X>              its ceiling: what it reads in the true images
  <X>_null         in images that have nothing to do with the scene: those of another scene, of
                   anatomy and fd the true ones cut into tiles and shuffled
  <X>_again        the ceiling on as many other scenes; <X>_spread: how far the two are apart
  <X>_images       how many images each of two ways needs for a difference of five points to be
                   found in 80 of 100 tries, if both are as good as the true images;
  <X>_images_half  if every other image is as the null's. Of errors and distances five points are a
                   twentieth of what lies between ceiling and null.
and of bodies that are broken on purpose (evaluators/broken_bodies.py):
  found_<way>      share that `anatomy` finds; false_alarms: share of true bodies that it takes for
                   broken

The evaluators: pck, anatomy, action and fd of bodies; hand_error and fingers; garment_color by the
mean color; cloth_color and cloth_pattern by the clothes network; depth, normal (degrees) and
silhouette of the surface network. The ring around a hand is measured with hands.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ...models import hands, structure
from ..evaluators import (
    bodies,
    broken_bodies,
    clothnet,
    frechet,
    measurements,
    posenet,
    surfacenet,
    table,
    true_bodies,
)
from ..evaluators.autoencoded import round_trip
from ..world.dataset import structure_images
from ..world.renderer import Render, render
from ..world.scenes import Scenes
from . import intervals
from .hand_scenes import SIDES, HandScenes, upper_bodies
from .human_prior_judge import balanced_people
from .mini import UNSEEN, color_parts


class Counts(NamedTuple):
    """Say how much is measured."""

    scenes: int  # of bodies, twice
    hands: int  # upper bodies, twice
    broken: int  # scenes of which each way of breaking is tried


COUNTS = Counts(300, 100, 170)
QUICK = Counts(45, 12, 24)

SEED, HAND_SEED, BROKEN_SEED = UNSEEN + 700, UNSEEN + 710, UNSEEN + 720
POINTS = 0.05
# of a normal distribution: two-sided 5 %, and 80 % power
EXPECTED, POWER = 1.96, 0.8416
TILES = 4  # in a row of a shuffled image
SURE = 0.5  # where the surface network sees a body
ERRORS = "hand_error", "depth", "normal"


class Values(NamedTuple):
    """Hold what an evaluator reads in N scenes: its figure is the sum of `parts` over `wholes`."""

    parts: Tensor
    wholes: Tensor

    def mixed(self, other: Values) -> Values:
        """Take every other scene from `other`."""
        is_ours = torch.arange(len(self.parts)) % 2 == 0
        return Values(
            *(torch.where(is_ours, *pair) for pair in zip(self, other, strict=True)),
        )


Read = dict[str, Values]


class Judge:
    """Read images with all evaluators of whole bodies."""

    def __init__(self) -> None:
        self.poses, self.surfaces = posenet.load_posenet(), surfacenet.load_surfacenet()
        self.clothes, self.true = clothnet.load_clothnet(), true_bodies.load()

    def read(self, images: Tensor, scenes: Scenes, truth: Render) -> tuple[Read, Tensor]:
        """Read images [N,3,H,W] of one-person scenes; the second is the features of fd."""
        in_place = measurements.joints_in_place(self.poses, images, truth) & truth.body_visible
        reading = bodies.read(self.poses, images)
        named = bodies.name_actions(reading.joints, self.true) == scenes.people.action
        return {
            "pck": Values(in_place.double().sum(1), truth.body_visible.double().sum(1)),
            "anatomy": _each(bodies.are_complete(reading, self.true)),
            "action": _each(named),
            **_colors(images, scenes, truth),
            **self._cloths(images, scenes, truth),
            **self._surfaces(images, truth),
        }, reading.features

    def are_complete(self, images: Tensor) -> Tensor:
        """Decide whether the bodies in images [N,3,H,W] are complete, bool [N]."""
        return bodies.are_complete(bodies.read(self.poses, images), self.true)

    def _cloths(self, images: Tensor, scenes: Scenes, truth: Render) -> Read:
        counts = torch.zeros(4, len(images), dtype=torch.float64)
        for reading in clothnet.read_clothes(self.clothes, images, scenes, truth):
            woven = reading.garment in clothnet.PATTERNED
            facts = (
                reading.color == reading.named_color,
                True,
                woven and reading.pattern == reading.named_pattern,
                woven,
            )
            counts[:, reading.person] += torch.tensor(facts).double()
        return {"cloth_color": Values(*counts[:2]), "cloth_pattern": Values(*counts[2:])}

    def _surfaces(self, images: Tensor, truth: Render) -> Read:
        surfaces = surfacenet.read(self.surfaces, images)
        depth, normal = (surfacenet.coarse(image) for image in structure_images(truth))
        is_body = surfacenet.coarse((truth.instance >= 0)[:, None].double())[:, 0] > SURE
        is_read = surfaces.presence > SURE
        angle = cosine_similarity(structure.image_to_normals(normal), surfaces.normal)
        errors = {
            "depth": (depth.mean(1) - surfaces.depth).abs(),
            "normal": angle.clamp(-1, 1).arccos().rad2deg(),
        }
        inside = is_body.double().sum((1, 2))
        read = {
            name: Values((error * is_body).double().sum((1, 2)) / inside, torch.ones_like(inside))
            for name, error in errors.items()
        }
        union = (is_body | is_read).double().sum((1, 2))
        shared = (is_body & is_read).double().sum((1, 2))
        return read | {"silhouette": Values(shared / union, torch.ones_like(union))}


def _each(hits: Tensor) -> Values:
    return Values(hits.double(), torch.ones(len(hits), dtype=torch.float64))


def _colors(images: Tensor, scenes: Scenes, truth: Render) -> Read:
    """Count the garments of the named color by their mean color, scene by scene."""
    parts, wholes = zip(*color_parts(images, scenes, truth).values(), strict=True)
    counts = (torch.stack(part).double().sum(0) for part in (parts, wholes))
    return {"garment_color": Values(*counts)}


def shuffled(images: Tensor) -> Tensor:
    """Cut images [N,3,H,W] into TILES x TILES tiles and put them in another order."""
    n, _, height, width = images.shape
    step = height // TILES, width // TILES
    tiles = images.unfold(2, step[0], step[0]).unfold(3, step[1], step[1]).flatten(2, 3)
    order = torch.rand(n, TILES**2, generator=torch.Generator().manual_seed(0)).argsort(1)
    mixed = tiles.gather(2, order[:, None, :, None, None].expand_as(tiles))
    return mixed.unflatten(2, (TILES, TILES)).permute(0, 1, 2, 4, 3, 5).reshape(images.shape)


def images_needed(values: Values, points: float) -> int:
    """Count the scenes that each of two ways needs for a difference of `points` to be found in 80
    of 100 tries, if their ratio varies from scene to scene as that of `values`.
    """
    size = values.wholes.mean()
    off = (values.parts - values.wholes * values.parts.sum() / values.wholes.sum()) / size
    return _needed(float(off.var()), points)


def _needed(variance: float, points: float) -> int:
    return math.ceil(2 * variance * ((EXPECTED + POWER) / points) ** 2)


def figures(ceiling: Read, null: Read, again: Read) -> dict[str, float]:
    """Compute the figures of evaluators from what they read in true images, in the null's and in
    other true images.
    """
    numbers: dict[str, float] = {}
    for name, values in ceiling.items():
        numbers |= intervals.ratio(*values, name)
        numbers |= intervals.ratio(*null[name], f"{name}_null")
        numbers |= intervals.ratio(*again[name], f"{name}_again")
        numbers[f"{name}_spread"] = abs(numbers[name] - numbers[f"{name}_again"])
        span = abs(numbers[name] - numbers[f"{name}_null"]) if name in ERRORS else 1.0
        numbers[f"{name}_images"] = images_needed(values, POINTS * span)
        half = values.mixed(null[name])
        numbers[f"{name}_images_half"] = images_needed(half, POINTS * span)
    return numbers


def body_figures(judge: Judge, count: int) -> dict[str, float]:
    """Measure the evaluators of whole bodies, on twice `count` scenes."""
    reads, features = [], []
    for seed in (SEED, SEED + 1):
        scenes = balanced_people(count, seed)
        truth = render(scenes)
        images = round_trip(truth.rgb)
        read, of_images = judge.read(images, scenes, truth)
        reads.append(read)
        features.append(of_images)
        if seed == SEED:
            null = judge.read(images.roll(1, 0), scenes, truth)[0]
            tiles = bodies.read(judge.poses, shuffled(images))
            null["anatomy"] = _each(bodies.are_complete(tiles, judge.true))
    return figures(reads[0], null, reads[1]) | fd_figures(judge.true.features, features, tiles)


def fd_figures(true: Tensor, features: list[Tensor], tiles: bodies.Read) -> dict[str, float]:
    """Compute the figures of the Frechet distance, free of the bias of the count."""
    numbers: dict[str, float] = {}
    sets = {"fd": features[0], "fd_again": features[1], "fd_null": tiles.features}
    few = min(map(len, features)) < frechet.LEAST * true.shape[1]  # of a quick run
    for name, rows in sets.items():
        value = (frechet.frechet if few else frechet.frechet_unbiased)(rows, true)
        reach = intervals.WILSON * frechet.frechet_error(rows, true)
        numbers |= {name: value, f"{name}_low": value - reach, f"{name}_high": value + reach}
        numbers[f"{name}_count"] = len(rows)
    numbers["fd_spread"] = abs(numbers["fd"] - numbers["fd_again"])
    points = POINTS * (numbers["fd_null"] - numbers["fd"])
    for name, rows in (("fd_images", features[0]), ("fd_images_half", _mixed(features[0], tiles))):
        variance = len(rows) * frechet.frechet_error(rows, true) ** 2
        numbers[name] = _needed(variance, points)
    return numbers


def _mixed(features: Tensor, tiles: bodies.Read) -> Tensor:
    is_true = (torch.arange(len(features)) % 2 == 0)[:, None]
    return torch.where(is_true, features, tiles.features)


def hand_figures(count: int) -> dict[str, float]:
    """Measure the evaluators of hands, on twice `count` upper bodies."""
    net = posenet.load_posenet(posenet.HANDNET)
    reads = []
    for seed in (HAND_SEED, HAND_SEED + 1):
        subjects = upper_bodies(count, seed)
        images = round_trip(subjects.truth.rgb)
        reads.append(_read_hands(net, images, subjects, 0))
        if seed == HAND_SEED:
            null = _read_hands(net, images, subjects, 1)
    return figures(reads[0], null, reads[1])


def _read_hands(net: posenet.PoseNet, images: Tensor, subjects: HandScenes, beside: int) -> Read:
    """Read the judged hands, or for each the crop of one that comes so many later."""
    truth = subjects.truth
    crops = [
        measurements.hand_crop(images[i], truth.hands[i, side], SIDES[side] == hands.LEFT)
        for i, side in subjects.judged
    ]
    images_beside = [crops[(k + beside) % len(crops)][0] for k in range(len(crops))]
    pairs = [(image, joints) for image, (_, joints) in zip(images_beside, crops, strict=True)]
    visible = [truth.hands_visible[i, side] for i, side in subjects.judged]
    report = measurements.read_hands(net, pairs, visible)
    rows = torch.tensor([i for i, _ in subjects.judged])
    empty = torch.zeros(len(images), dtype=torch.float64)
    wholes = empty.index_add(0, rows, torch.ones(len(rows), dtype=torch.float64))
    return {
        "hand_error": Values(empty.index_add(0, rows, report.error.double()), wholes),
        "fingers": Values(empty.index_add(0, rows, report.fingers.double()), wholes),
    }


def broken_figures(judge: Judge, counts: Counts) -> dict[str, float]:
    """Measure which broken bodies are found, and which true ones are taken for broken."""
    numbers: dict[str, float] = {}
    scenes = balanced_people(counts.scenes, BROKEN_SEED)
    complete = judge.are_complete(round_trip(render(scenes).rgb))
    numbers |= intervals.wilson((~complete).tolist(), "false_alarms")
    scenes = balanced_people(counts.broken, BROKEN_SEED + 1)
    for name, ways in broken_bodies.WAYS.items():
        images = round_trip(broken_bodies.break_bodies(scenes, ways).images)
        numbers |= intervals.wilson((~judge.are_complete(images)).tolist(), f"found_{name}")
    return numbers


def run(quick: bool) -> dict[str, Any]:
    """Measure the evaluators; the numbers of results/evaluators.json, and the tables of
    evaluators/README.md.
    """
    counts = QUICK if quick else COUNTS
    judge = Judge()
    numbers: dict[str, Any] = {"scenes": counts.scenes, "true_bodies": len(judge.true.actions)}
    numbers |= body_figures(judge, counts.scenes)
    numbers |= hand_figures(counts.hands)
    numbers |= broken_figures(judge, counts)
    if not quick:
        table.write(numbers)
    return numbers
