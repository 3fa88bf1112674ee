"""Image, depth and normals together: is what comes out one and the same body, and what did it cost?

On unseen scenes of the mini world of one person each, from caption and pose, through the host's own
nodes, the same seed for all. The joint network, the ablations in the order of the paper's table 2
(each trained as many steps, `train mini structure-ablations`), and the refiner in that of table 7,
which generates from what the joint network gave, or some of it, and once trained without dropout
(`train mini refiner-ablations`):
  <x>_fd                 Frechet distance of the pose network's features to true images'
  <x>_pck                share of joints that the pose network finds where they belong
  <x>_depth_error        mean difference of the depth to what the surface network reads in the
                         image, where both see a body (the refiner: of the depth it was given)
  <x>_normal_error       mean angle in degrees between the normals and what it reads there
  <x>_depth_normal_agreement  correlation of the normals' tilt with that of the depth's slope
  <x>_silhouette_iou     of what it takes for the body in image, depth and normals, in pairs
  cost, cost_separate    sampling time over the base's, and over three runs of the base
`fd_joint` and `fd_rgb_only` are of as many steps and the same size; `joint` is the one that ships.
`ceiling`: the evaluators on true images after a round trip through the autoencoder.
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
from ..world.dataset import draw_hint, structure_images
from ..world.renderer import Render, render
from ..world.scenes import FULL, sample_scenes
from . import host
from .mini import RESULTS, UNSEEN

BATCH = 10
SHOWN = 6
SURE = 0.5
SLOPES = torch.logspace(-2.5, 0.5, 16)  # depth units per pixel that a depth image may have
LIGHT = torch.tensor([0.8, 0.3, 0.4])
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


class Cases(NamedTuple):
    """Hold the prompts and poses that every method gets, and the ground truth."""

    prompts: list[str]
    hints: Tensor  # pose images [B,3,H,W]
    truth: Render


class Maps(NamedTuple):
    """Hold images [B,3,H,W] in 0..1; without a depth or normals those are None."""

    rgb: Tensor
    depth: Tensor | None = None
    normal: Tensor | None = None


def run(quick: bool) -> dict[str, float]:
    """Measure joint denoising and the refiner; the numbers of results/structure.json.

    Also writes structure.jpg beside it: a row per scene, from left to right image, depth,
    normals, relit, refined.
    """
    count, reference_count = (10, 60) if quick else (100, 600)
    loaded = host.load(preview.CHECKPOINT.name, preview.POSE_CONTROLNET.name)
    cases = _cases(count, UNSEEN + 400)
    judge = Judge(cases.truth, reference_count)
    numbers: dict[str, float] = {"images": count}
    maps_by_way = {"joint": _generate(loaded, recipe.STRUCTURE, cases)}
    names = list(recipe.ABLATIONS)[:1] if quick else list(recipe.ABLATIONS)
    for name in names:
        file = recipe.ablation_file(name)
        if file.is_file():
            maps_by_way[f"ablation_{name}"] = _generate(
                loaded, file, cases, recipe.ABLATIONS[name].modalities
            )
    maps_by_way["ceiling"] = _ceiling(cases.truth)
    refined = _refined(loaded, cases, maps_by_way["joint"], quick)
    for name, images in {**maps_by_way, **refined}.items():
        numbers |= judge.of(name, images)
    numbers |= _costs(loaded, cases)
    for name in ("rgb_only", "joint"):
        if f"ablation_{name}_fd" in numbers:
            numbers[f"fd_{name}"] = numbers[f"ablation_{name}_fd"]
    _show(maps_by_way["joint"], refined)
    return numbers


def _cases(count: int, seed: int) -> Cases:
    scenes = sample_scenes(count, seed, framing=FULL, people=1)
    truth = render(scenes)
    hints = torch.stack([draw_hint(i, scenes, truth) for i in range(count)])
    return Cases([scene_caption(scenes, i) for i in range(count)], hints, truth)


class Judge:
    """Read images with the evaluators and compares them with each other and the truth."""

    def __init__(self, truth: Render, reference_count: int) -> None:
        self.truth = truth
        self.poses, self.surfaces = posenet.load_posenet(), surfacenet.load_surfacenet()
        others = render(sample_scenes(reference_count, UNSEEN + 401, framing=FULL, people=1))
        self.true = bodies.read(self.poses, others.rgb).features

    def of(self, name: str, maps: Maps) -> dict[str, float]:
        numbers = {
            "fd": bodies.frechet(bodies.read(self.poses, maps.rgb).features, self.true),
            "pck": measurements.pck(self.poses, maps.rgb, self.truth),
        }
        surfaces = surfacenet.read(self.surfaces, maps.rgb)
        silhouettes = [surfaces.presence > SURE]
        if maps.depth is not None:
            is_body = surfacenet.read(self.surfaces, maps.depth).presence > SURE
            near = surfacenet.coarse(maps.depth).mean(1)
            numbers["depth_error"] = float(
                (near - surfaces.depth).abs()[is_body & silhouettes[0]].mean()
            )
            silhouettes.append(is_body)
        if maps.normal is not None:
            is_body = surfacenet.read(self.surfaces, maps.normal).presence > SURE
            facing = structure.image_to_normals(surfacenet.coarse(maps.normal))
            cosine = cosine_similarity(facing, surfaces.normal).clamp(-1, 1)
            angle = cosine.arccos().rad2deg()
            numbers["normal_error"] = float(angle[is_body & silhouettes[0]].mean())
            silhouettes.append(is_body)
            if maps.depth is not None:
                agreed = agreement(maps.depth, maps.normal, is_body)
                numbers["depth_normal_agreement"] = agreed
        if len(silhouettes) > 1:
            pairs = itertools.combinations(silhouettes, 2)
            overlaps = [overlap(a, b) for a, b in pairs]
            numbers["silhouette_iou"] = sum(overlaps) / len(overlaps)
        return {f"{name}_{what}": value for what, value in numbers.items()}


def overlap(one: Tensor, other: Tensor) -> float:
    """Average the intersection over union of silhouettes [B,h,w], bool."""
    intersection, union = (one & other).sum((1, 2)), (one | other).sum((1, 2))
    return float((intersection / union.clamp(min=1)).mean())


def agreement(depth: Tensor, normal: Tensor, is_body: Tensor) -> float:
    """Average the correlation of the tilt (x and y) in normal images with that of the slope of
    depth images [B,3,H,W], over cells `there` [B,h,w] whose neighbors are there too; a depth
    image's unit is unknown, so the one that fits best counts.
    """
    near, facing = (
        surfacenet.coarse(depth).mean(1),
        structure.image_to_normals(surfacenet.coarse(normal)),
    )
    inner = -torch.nn.functional.max_pool2d(-is_body.float()[:, None], 3, 1, 1) > 0
    tilt = (facing[:, :2] * inner).flatten(1)
    fits = []
    for slope in SLOPES.tolist():
        slope_tilt = (structure.normals_from_depth(near, slope)[:, :2] * inner).flatten(1)
        fits.append(cosine_similarity(slope_tilt, tilt))
    return float(torch.stack(fits).amax(0).mean())


def _generate(loaded: host.Loaded, file: Path, cases: Cases, modalities: int = 3) -> Maps:
    """What a joint network makes; of `modalities` it was trained for."""
    model, parts = _load(file), []
    for rows in tqdm(_rows(cases), desc=file.stem.removeprefix("structure_")):
        latent = _sample_joint(model, *_posed(loaded, cases, rows), rows.start)
        parts.append([_decode(loaded, part) for part in _split(latent)])
    rgb, depth, normal = (torch.cat(chunks) for chunks in zip(*parts, strict=True))
    return Maps(rgb, depth if modalities > 1 else None, normal if modalities > 2 else None)


def _rows(cases: Cases) -> list[slice]:
    return [slice(k, k + BATCH) for k in range(0, len(cases.prompts), BATCH)]


@torch.inference_mode()
def _load(file: Path) -> Any:
    from ...host import structure_family

    return structure_family.load(file)


@torch.inference_mode()
def _split(latent: Any) -> Any:
    from ...host import structure_latent

    return structure_latent.split(latent)


@torch.inference_mode()
def _posed(loaded: host.Loaded, cases: Cases, rows: slice) -> tuple[Any, Any]:
    """The captions and the empty text, with the poses."""
    from ...host import structure_latent

    added = {
        structure_latent.POSE_LATENT: structure_latent.encode_pose(
            loaded.vae, cases.hints[rows].movedim(1, -1)
        )
    }
    positive, negative = host.text(loaded, *cases.prompts[rows]), host.text(loaded, "")
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


def _ceiling(truth: Render) -> Maps:
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    kinds = (truth.rgb, *structure_images(truth))
    return Maps(*(_round_trip(checkpoint, images) for images in kinds))


def _round_trip(checkpoint: convert.Checkpoint, images: Tensor) -> Tensor:
    with torch.no_grad():
        parts = [
            preview.decode(checkpoint, preview.encode(checkpoint, x)) for x in images.split(32)
        ]
    return torch.cat(parts)


def _refined(loaded: host.Loaded, cases: Cases, first_stage: Maps, quick: bool) -> dict[str, Maps]:
    """Refine with all conditions, with some, and with a refiner trained without dropout.

    Depth and normals are those of the first stage, so that the errors tell how well the images
    keep to them.
    """
    images = {POSE: cases.hints, DEPTH: first_stage.depth, NORMAL: first_stage.normal}
    images_by_way = {"refined": _refine(loaded, refiner_recipe.REFINER, cases, images)}
    if not quick:
        if refiner_recipe.NO_DROPOUT.is_file():
            images_by_way["refiner_no_dropout"] = _refine(
                loaded, refiner_recipe.NO_DROPOUT, cases, images
            )
        for name, conditions in TABLE_7.items():
            given_conditions = {condition: images[condition] for condition in conditions}
            images_by_way[f"refiner_{name}"] = _refine(
                loaded, refiner_recipe.REFINER, cases, given_conditions
            )
    return {
        name: Maps(rgb, first_stage.depth, first_stage.normal)
        for name, rgb in images_by_way.items()
    }


def _refine(
    loaded: host.Loaded, file: Path, cases: Cases, images: Mapping[str, Tensor | None]
) -> Tensor:
    from ...host import refiner as refiner_host
    from ...host.control_net import ControlSettings

    settings = ControlSettings(1.0, 0.0, 1.0)
    with torch.inference_mode():
        net, parts = refiner_host.load(file, structure.NORMAL), []
    for rows in tqdm(_rows(cases), desc=file.stem.removeprefix("vitruvian_")):
        prompts = cases.prompts[rows]
        conditions = (host.text(loaded, *prompts), host.text(loaded, ""))
        if images:
            chunk = {k: v[rows].movedim(1, -1) for k, v in images.items() if v is not None}
            with torch.inference_mode():
                conditions = refiner_host.apply(conditions, net, chunk, settings, loaded.vae)
        latent = host.sample(
            loaded.model, *conditions, host.empty(IMAGE_SIZE, len(prompts)), rows.start
        )
        parts.append(_decode(loaded, latent))
    return torch.cat(parts)


def _costs(loaded: host.Loaded, cases: Cases) -> dict[str, float]:
    """Sampling times over the base's, in turns; the first turn warms up."""
    model, rows = _load(recipe.STRUCTURE), slice(0, 4)
    plain = host.text(loaded, *cases.prompts[rows]), host.text(loaded, "")
    posed = _posed(loaded, cases, rows)

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
        for name, generate in runs.items():
            start = time.perf_counter()
            generate()
            seconds[name] += (time.perf_counter() - start) * (turn > 0)
    return {
        "cost": seconds["joint"] / seconds["base"],
        "cost_separate": seconds["joint"] / seconds["three"],
    }


def _show(maps: Maps, refined: Mapping[str, Maps]) -> None:
    """The sheet of the first scenes."""
    assert maps.depth is not None and maps.normal is not None
    lit = structure.relight(maps.rgb, structure.image_to_normals(maps.normal), LIGHT)
    columns = [maps.rgb, maps.depth, maps.normal, lit]
    columns.append(refined["refined"].rgb)
    rows = torch.stack([column[:SHOWN] for column in columns], 1).flatten(0, 1)
    RESULTS.mkdir(exist_ok=True)
    preview.save_sheet(rows, RESULTS / "structure.jpg", columns=len(columns))
