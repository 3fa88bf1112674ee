"""Image, depth and normals together: is what comes out one and the same body, and what did it cost?

On unseen scenes of the mini world of one person each, from caption and pose, through the host's own
nodes, the same seed for all. The joint network, the ablations in the order of the paper's table 2
(each trained as many steps, `train mini structure-ablations`), and the refiner in that of table 7,
which paints from what the joint network gave, or some of it, and once trained without dropout
(`train mini refiner-ablations`):
  <x>_fd                 Frechet distance of the pose network's features to true pictures'
  <x>_pck                share of joints that the pose network finds where they belong
  <x>_depth_error        mean difference of the depth to what the surface network reads in the
                         picture, where both see a body (the refiner: of the depth it was given)
  <x>_normal_error       mean angle in degrees between the normals and what it reads there
  <x>_depth_normal_agreement  correlation of the normals' tilt with that of the depth's slope
  <x>_silhouette_iou     of what it takes for the body in picture, depth and normals, in pairs
  cost, cost_separate    sampling time over the base's, and over three runs of the base
`fd_joint` and `fd_rgb_only` are of as many steps and the same size; `joint` is the one that ships.
`ceiling`: the instruments on true pictures after a round trip through the autoencoder.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from tqdm import tqdm

from ...models import refiner, structure
from ...models.mini import IMAGE_SIZE
from ..evaluators import bodies, measurements, posenet, surfacenet
from ..recipes import refiner as refiner_recipe
from ..recipes import structure as recipe
from ..training import convert, preview
from ..world.captions import scene_caption
from ..world.dataset import draw_hint, structure_pictures
from ..world.renderer import Render, render
from ..world.scenes import FULL, sample_scenes
from . import host
from .mini import RESULTS, UNSEEN

BATCH = 10
SHOWN = 6
SURE = 0.5
SLOPES = torch.logspace(-2.5, 0.5, 16)  # depth units per pixel that a depth picture may have
LAMP = torch.tensor([0.8, 0.3, 0.4])
TURNS = 4  # how often each is timed
POSE, DEPTH, NORMAL = refiner.CONDITIONS
TABLE_7 = {
    "text": (),
    "pose": (POSE,),
    "depth": (DEPTH,),
    "normal": (NORMAL,),
    "pose_depth": (POSE, DEPTH),
    "pose_normal": (POSE, NORMAL),
    "depth_normal": (DEPTH, NORMAL),
}


class Asked(NamedTuple):
    """What all are asked to paint, and what it should look like."""

    prompts: list[str]
    hints: Tensor  # pose pictures [B,3,H,W]
    truth: Render


class Made(NamedTuple):
    """Pictures [B,3,H,W] in 0..1; without a depth or normals those are None."""

    rgb: Tensor
    depth: Tensor | None = None
    normal: Tensor | None = None


def run(quick: bool) -> dict[str, float]:
    """The numbers of benchmarks/results/structure.json; also writes structure.jpg beside it: a row
    per scene, from left to right picture, depth, normals, relit, refined.
    """
    count, known = (10, 60) if quick else (100, 600)
    loaded = host.load(preview.CHECKPOINT.name, preview.POSE_CONTROLNET.name)
    asked = _asked(count, UNSEEN + 400)
    judge = Judge(asked.truth, known)
    numbers: dict[str, float] = {"pictures": count}
    made = {"joint": _paint(loaded, recipe.STRUCTURE, asked)}
    names = list(recipe.ABLATIONS)[:1] if quick else list(recipe.ABLATIONS)
    for name in names:
        file = recipe.ablation_file(name)
        if file.is_file():
            made[f"ablation_{name}"] = _paint(
                loaded, file, asked, recipe.ABLATIONS[name].modalities
            )
    made["ceiling"] = _ceiling(asked.truth)
    refined = _refined(loaded, asked, made["joint"], quick)
    for name, pictures in {**made, **refined}.items():
        numbers |= judge.of(name, pictures)
    numbers |= _costs(loaded, asked)
    for name in ("rgb_only", "joint"):
        if f"ablation_{name}_fd" in numbers:
            numbers[f"fd_{name}"] = numbers[f"ablation_{name}_fd"]
    _show(made["joint"], refined)
    return numbers


def _asked(count: int, seed: int) -> Asked:
    scenes = sample_scenes(count, seed, framing=FULL, people=1)
    truth = render(scenes)
    hints = torch.stack([draw_hint(i, scenes, truth) for i in range(count)])
    return Asked([scene_caption(scenes, i) for i in range(count)], hints, truth)


class Judge:
    """Reads pictures with the instruments and compares them with each other and the truth."""

    def __init__(self, truth: Render, known: int) -> None:
        self.truth = truth
        self.poses, self.surfaces = posenet.load_posenet(), surfacenet.load_surfacenet()
        others = render(sample_scenes(known, UNSEEN + 401, framing=FULL, people=1))
        self.true = bodies.read(self.poses, others.rgb).features

    def of(self, name: str, made: Made) -> dict[str, float]:
        numbers = {
            "fd": bodies.frechet(bodies.read(self.poses, made.rgb).features, self.true),
            "pck": measurements.pck(self.poses, made.rgb, self.truth),
        }
        seen = surfacenet.read(self.surfaces, made.rgb)
        silhouettes = [seen.there > SURE]
        if made.depth is not None:
            there = surfacenet.read(self.surfaces, made.depth).there > SURE
            near = surfacenet.coarse(made.depth).mean(1)
            numbers["depth_error"] = float((near - seen.depth).abs()[there & silhouettes[0]].mean())
            silhouettes.append(there)
        if made.normal is not None:
            there = surfacenet.read(self.surfaces, made.normal).there > SURE
            facing = structure.normal_of(surfacenet.coarse(made.normal))
            cosine = cosine_similarity(facing, seen.normal).clamp(-1, 1)
            angle = cosine.arccos().rad2deg()
            numbers["normal_error"] = float(angle[there & silhouettes[0]].mean())
            silhouettes.append(there)
            if made.depth is not None:
                agreed = agreement(made.depth, made.normal, there)
                numbers["depth_normal_agreement"] = agreed
        if len(silhouettes) > 1:
            pairs = itertools.combinations(silhouettes, 2)
            overlaps = [overlap(a, b) for a, b in pairs]
            numbers["silhouette_iou"] = sum(overlaps) / len(overlaps)
        return {f"{name}_{what}": value for what, value in numbers.items()}


def overlap(one: Tensor, other: Tensor) -> float:
    """Mean intersection over union of silhouettes [B,h,w], bool."""
    both, either = (one & other).sum((1, 2)), (one | other).sum((1, 2))
    return float((both / either.clamp(min=1)).mean())


def agreement(depth: Tensor, normal: Tensor, there: Tensor) -> float:
    """Mean correlation of the tilt (x and y) in normal pictures with that of the slope of depth
    pictures [B,3,H,W], over cells `there` [B,h,w] whose neighbours are there too; a depth picture's
    unit is unknown, so the one that fits best counts.
    """
    near, facing = surfacenet.coarse(depth).mean(1), structure.normal_of(surfacenet.coarse(normal))
    inner = -torch.nn.functional.max_pool2d(-there.float()[:, None], 3, 1, 1) > 0
    tilt = (facing[:, :2] * inner).flatten(1)
    fits = []
    for slope in SLOPES.tolist():
        found = (structure.normals_from_depth(near, slope)[:, :2] * inner).flatten(1)
        fits.append(cosine_similarity(found, tilt))
    return float(torch.stack(fits).amax(0).mean())


def _paint(loaded: host.Loaded, file: Path, asked: Asked, modalities: int = 3) -> Made:
    """What a joint network makes; of `modalities` it was trained for."""
    model, parts = _load(file), []
    for rows in tqdm(_rows(asked), desc=file.stem.removeprefix("structure_")):
        made = _sample_joint(model, *_posed(loaded, asked, rows), rows.start)
        parts.append([_decode(loaded, latent) for latent in _split(made)])
    rgb, depth, normal = (torch.cat(own) for own in zip(*parts, strict=True))
    return Made(rgb, depth if modalities > 1 else None, normal if modalities > 2 else None)


def _rows(asked: Asked) -> list[slice]:
    return [slice(k, k + BATCH) for k in range(0, len(asked.prompts), BATCH)]


@torch.inference_mode()
def _load(file: Path) -> Any:
    from ...host import structure_family

    return structure_family.load(file)


@torch.inference_mode()
def _split(latent: Any) -> Any:
    from ...host import structure_latent

    return structure_latent.split(latent)


@torch.inference_mode()
def _posed(loaded: host.Loaded, asked: Asked, rows: slice) -> tuple[Any, Any]:
    """The captions and the empty text, with the poses."""
    from ...host import structure_latent

    added = {
        structure_latent.POSE_LATENT: structure_latent.encode_pose(
            loaded.vae, asked.hints[rows].movedim(1, -1)
        )
    }
    positive, negative = host.text(loaded, *asked.prompts[rows]), host.text(loaded, "")
    return structure_latent.with_entries(positive, added), structure_latent.with_entries(
        negative, added
    )


@torch.inference_mode()
def _sample_joint(model: Any, positive: Any, negative: Any, seed: int) -> Any:
    from ...host import structure_latent

    empty = structure_latent.empty_latent(IMAGE_SIZE, IMAGE_SIZE, len(positive[0][0]), "cpu")
    return host.sample(model, positive, negative, empty, seed)


def _decode(loaded: host.Loaded, latent: Any) -> Tensor:
    return host.decode(loaded, latent)


def _ceiling(truth: Render) -> Made:
    whole = convert.load_checkpoint(preview.CHECKPOINT)
    kinds = (truth.rgb, *structure_pictures(truth))
    return Made(*(_round_trip(whole, pictures) for pictures in kinds))


def _round_trip(whole: convert.Checkpoint, pictures: Tensor) -> Tensor:
    with torch.no_grad():
        parts = [preview.decode(whole, preview.encode(whole, x)) for x in pictures.split(32)]
    return torch.cat(parts)


def _refined(loaded: host.Loaded, asked: Asked, given: Made, quick: bool) -> dict[str, Made]:
    """What the refiner paints of all conditions and of some, and what one without dropout paints;
    their depth and normals are what they were given, so that the errors tell how well they kept to
    it.
    """
    pictures = {POSE: asked.hints, DEPTH: given.depth, NORMAL: given.normal}
    made = {"refined": _refine(loaded, refiner_recipe.REFINER, asked, pictures)}
    if not quick:
        if refiner_recipe.NO_DROPOUT.is_file():
            made["refiner_no_dropout"] = _refine(loaded, refiner_recipe.NO_DROPOUT, asked, pictures)
        for name, kept in TABLE_7.items():
            some = {condition: pictures[condition] for condition in kept}
            made[f"refiner_{name}"] = _refine(loaded, refiner_recipe.REFINER, asked, some)
    return {name: Made(rgb, given.depth, given.normal) for name, rgb in made.items()}


def _refine(
    loaded: host.Loaded, file: Path, asked: Asked, pictures: Mapping[str, Tensor | None]
) -> Tensor:
    from ...host import refiner as own
    from ...host.control_net import ControlSettings

    settings = ControlSettings(1.0, 0.0, 1.0)
    with torch.inference_mode():
        net, parts = own.load(file, structure.NORMAL), []
    for rows in tqdm(_rows(asked), desc=file.stem.removeprefix("vitruvian_")):
        prompts = asked.prompts[rows]
        conditions = (host.text(loaded, *prompts), host.text(loaded, ""))
        if pictures:
            some = {k: v[rows].movedim(1, -1) for k, v in pictures.items() if v is not None}
            with torch.inference_mode():
                conditions = own.apply(conditions, net, some, settings, loaded.vae)
        latent = host.sample(
            loaded.model, *conditions, host.empty(IMAGE_SIZE, len(prompts)), rows.start
        )
        parts.append(_decode(loaded, latent))
    return torch.cat(parts)


def _costs(loaded: host.Loaded, asked: Asked) -> dict[str, float]:
    """Sampling times over the base's, in turns; the first turn warms up."""
    model, rows = _load(recipe.STRUCTURE), slice(0, 4)
    plain = host.text(loaded, *asked.prompts[rows]), host.text(loaded, "")
    posed = _posed(loaded, asked, rows)

    def base() -> None:
        host.sample(loaded.model, *plain, host.empty(IMAGE_SIZE, 4), 0)

    def thrice() -> None:
        for _ in structure.MODALITIES:
            base()

    runs: dict[str, Callable[[], Any]] = {
        "joint": lambda: _sample_joint(model, *posed, 0),
        "base": base,
        "three": thrice,
    }
    seconds = dict.fromkeys(runs, 0.0)
    for turn in range(TURNS + 1):
        for name, paint in runs.items():
            start = time.perf_counter()
            paint()
            seconds[name] += (time.perf_counter() - start) * (turn > 0)
    return {
        "cost": seconds["joint"] / seconds["base"],
        "cost_separate": seconds["joint"] / seconds["three"],
    }


def _show(made: Made, refined: Mapping[str, Made]) -> None:
    """The sheet of the first scenes."""
    assert made.depth is not None and made.normal is not None
    lit = structure.relight(made.rgb, structure.normal_of(made.normal), LAMP)
    columns = [made.rgb, made.depth, made.normal, lit]
    columns.append(refined["refined"].rgb)
    rows = torch.stack([column[:SHOWN] for column in columns], 1).flatten(0, 1)
    RESULTS.mkdir(exist_ok=True)
    preview.save_sheet(rows, RESULTS / "structure.jpg", columns=len(columns))
