"""What the refiner makes of true and of faulty conditions, with and without condition dropout, and
whether it keeps the first stage's colors.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from ...models import refiner, structure
from ...models.mini import IMAGE_SIZE
from ..recipes import refiner as recipe
from ..world.dataset import structure_images
from . import host, intervals
from .structure_judge import (
    DEPTH_ERROR,
    NORMAL_ERROR,
    PCK,
    Judge,
    Judged,
    Maps,
    difference,
    figures,
)
from .structure_ways import Bench, in_batches

BLUR = 8  # pixels of a true map that become one
POSE, DEPTH, NORMAL = refiner.CONDITIONS
FIGURES = PCK, DEPTH_ERROR, NORMAL_ERROR
COLOR = "color_difference"
REFINED, STRICT = "refined", "strict"  # with and without condition dropout
POSED, FIRST_STAGE = "posed", "first_stage"  # no refiner: the base's, the joint network's images
TRUE, OWN, MISSING, OTHER, BLURRED = "true", "own", "missing", "other", "blurred"
FAULTS = {  # of the refiner's conditions, in words
    OWN: "come from the first stage",
    MISSING: "miss one map",
    OTHER: "hold one map of another scene",
    BLURRED: "are blurred",
}


def generate(bench: Bench, first_stage: Maps, posed: Tensor) -> dict[str, Tensor]:
    """Generate by every refiner from every kind of conditions, by `<refiner>_<kind>`; beside them
    `posed`, the base's images with a pose ControlNet.
    """
    cases = bench.cases.first(bench.counts.refined)
    maps, true = first_stage.first(bench.counts.refined), structure_images(cases.truth)
    conditions = {OWN: _conditions(cases.hints, maps.depth, maps.normal)}
    conditions |= faulty(_conditions(cases.hints, *true))
    images = {POSED: posed[: bench.counts.refined]}
    for name, file in {REFINED: recipe.REFINER, STRICT: recipe.NO_DROPOUT}.items():
        if file.is_file():
            for kind, hints in conditions.items():
                images[f"{name}_{kind}"] = _refine(bench, file, kind, hints)
    return images


def _conditions(pose: Tensor, depth: Tensor | None, normal: Tensor | None) -> dict[str, Tensor]:
    assert depth is not None and normal is not None
    return {POSE: pose, DEPTH: depth, NORMAL: normal}


def faulty(true: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Damage true conditions [N,3,H,W] in every way of FAULTS but the first stage's own: one in
    turns is black or of the scene before, or depth and normals are coarse.
    """
    turns = torch.arange(len(true[POSE])) % len(refiner.CONDITIONS)
    missing, other = {}, {}
    for k, (name, images) in enumerate(true.items()):
        hit = (turns == k)[:, None, None, None]
        missing[name] = torch.where(hit, torch.zeros_like(images), images)
        other[name] = torch.where(hit, images.roll(1, 0), images)
    blurred = {name: _blur(images) if name != POSE else images for name, images in true.items()}
    return {TRUE: dict(true), MISSING: missing, OTHER: other, BLURRED: blurred}


def _blur(images: Tensor) -> Tensor:
    return interpolate(avg_pool2d(images, BLUR), images.shape[2:], mode="bilinear")


def _refine(bench: Bench, file: Path, kind: str, conditions: Mapping[str, Tensor]) -> Tensor:
    """Generate with a refiner from these conditions, by the captions of the scenes."""
    from ...host import refiner as refiner_host
    from ...host.control_net import ControlSettings

    loaded, settings = bench.loaded, ControlSettings(1.0, 0.0, 1.0)
    with torch.inference_mode():
        net = refiner_host.load(file, structure.NORMAL)

    def make(rows: slice) -> Tensor:
        prompts = bench.cases.prompts[rows]
        hints = {name: images[rows].movedim(1, -1) for name, images in conditions.items()}
        texts = (host.text(loaded, *prompts), host.text(loaded, ""))
        with torch.inference_mode():
            texts = refiner_host.apply(texts, net, hints, settings, loaded.vae)
        empty = host.empty(IMAGE_SIZE, len(prompts))
        return host.decode(loaded, host.sample(loaded.model, *texts, empty, rows.start))

    way = f"{file.stem.removeprefix('vitruvian_mini_')}_{kind}"
    return torch.cat(in_batches(bench, way, len(conditions[POSE]), make))


def measure(
    judge: Judge, images: Mapping[str, Tensor], first_stage: Tensor, first_judged: Judged
) -> dict[str, float]:
    """Compare the images of `generate` with the truth, the first stage [N,3,H,W] and each other."""
    count = len(images[POSED])
    true = structure_images(judge.truth)
    judged = {
        way: judge.read(Maps(rgb, *(each[:count] for each in true))) for way, rgb in images.items()
    }
    numbers: dict[str, float] = {}
    for way, each in judged.items():
        numbers |= figures(way, each, FIGURES)
    for figure in FIGURES:
        pair = judged[f"{REFINED}_{TRUE}"], judged[POSED]
        numbers |= difference(*pair, figure, f"{REFINED}_{TRUE}_minus_{POSED}_{figure}")
        for kind in (TRUE, *FAULTS):
            ours, strict = f"{REFINED}_{kind}", f"{STRICT}_{kind}"
            if strict in judged:
                name = f"{ours}_minus_{strict}_{figure}"
                numbers |= difference(judged[ours], judged[strict], figure, name)
    pair = judged[f"{REFINED}_{OWN}"], first_judged.first(count)
    numbers |= figures(FIRST_STAGE, pair[1], (PCK,))
    numbers |= difference(*pair, PCK, f"{REFINED}_{OWN}_minus_{FIRST_STAGE}_{PCK}")
    return numbers | colors(judge, images, first_stage[:count])


def colors(judge: Judge, images: Mapping[str, Tensor], first_stage: Tensor) -> dict[str, float]:
    """Measure how far refined images are from the first stage's in color: a null is another scene's
    image, a baseline one of the same prompt and pose that knows nothing of the first stage.
    """
    ours = f"{REFINED}_{OWN}"
    pairs = {ours: images[ours], POSED: images[POSED], "null": images[ours].roll(1, 0)}
    off = {way: judge.color_difference(rgb, first_stage) for way, rgb in pairs.items()}
    valid = torch.stack(list(off.values())).isfinite().all(0)
    numbers: dict[str, float] = {}
    for way, values in off.items():
        numbers |= intervals.mean(values[valid], f"{way}_{COLOR}")
        if way != ours:
            name = f"{ours}_minus_{way}_{COLOR}"
            numbers |= intervals.difference(off[ours][valid], values[valid], name)
    return numbers
