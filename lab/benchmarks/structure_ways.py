"""How the benchmark of joint denoising gets its images: by the host's own nodes, kept if asked."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ...models.mini import IMAGE_SIZE
from ..evaluators.autoencoded import round_trip
from ..world.captions import scene_caption
from ..world.dataset import draw_hint, structure_images
from ..world.renderer import Render, render
from ..world.scenes import FULL, sample_scenes
from . import host, kept
from .structure_judge import Maps, first_scenes

BATCH = 10


class Counts(NamedTuple):
    """Say how many scenes each way gets."""

    images: int  # joint, rgb_only, control
    apart: int
    refined: int  # each way of the refiner
    references: int  # true images of the Frechet distance
    noised: int  # for the velocity errors


class Cases(NamedTuple):
    """Hold the prompts and poses that every way gets, and the ground truth."""

    prompts: list[str]
    hints: Tensor  # pose images [N,3,H,W]
    truth: Render

    def first(self, count: int) -> Cases:
        """Select the first scenes."""
        return Cases(self.prompts[:count], self.hints[:count], first_scenes(self.truth, count))


class Bench(NamedTuple):
    """Hold what every way needs."""

    loaded: host.Loaded
    folder: Path | None  # where images are kept
    counts: Counts
    cases: Cases


def sample_cases(count: int, seed: int) -> Cases:
    """Draw scenes of one whole person each."""
    scenes = sample_scenes(count, seed, framing=FULL, people=1)
    truth = render(scenes)
    hints = torch.stack([draw_hint(i, scenes, truth) for i in range(count)])
    return Cases([scene_caption(scenes, i) for i in range(count)], hints, truth)


def in_batches(bench: Bench, way: str, count: int, make: Callable[[slice], Tensor]) -> list[Tensor]:
    """Generate the images of the first `count` scenes by one way, or take those that are kept."""
    batches = [slice(k, min(k + BATCH, count)) for k in range(0, count, BATCH)]
    return [
        kept.kept_images(bench.folder, way, rows, partial(make, rows))
        for rows in tqdm(batches, desc=way)
    ]


def joint(bench: Bench, file: Path, count: int, seed: int = 0) -> Maps:
    """Generate with a joint network, image, depth and normals."""
    model = load(file)

    def make(rows: slice) -> Tensor:
        latent = sample_joint(model, *posed(bench, rows), seed + rows.start)
        return torch.cat([host.decode(bench.loaded, part) for part in _split(latent)])

    way = file.stem.removeprefix("vitruvian_mini_") + (f"_{seed}" if seed else "")
    parts = [images.chunk(3) for images in in_batches(bench, way, count, make)]
    return Maps(*(torch.cat(chunks) for chunks in zip(*parts, strict=True)))


def controlled(bench: Bench) -> Tensor:
    """Generate with the base and its pose ControlNet."""
    cases = bench.cases

    def make(rows: slice) -> Tensor:
        prompts, hints = cases.prompts[rows], cases.hints[rows]
        return host.images(bench.loaded, prompts, hints, IMAGE_SIZE, seed=rows.start)

    return torch.cat(in_batches(bench, "control", len(cases.prompts), make))


@torch.inference_mode()
def load(file: Path) -> Any:
    """Load the MODEL of a joint network."""
    from ...host import structure_family

    return structure_family.load(file)


@torch.inference_mode()
def _split(latent: Any) -> Any:
    from ...host import structure_latent

    return structure_latent.split(latent)


@torch.inference_mode()
def posed(bench: Bench, rows: slice) -> tuple[Any, Any]:
    """Encode the captions and the empty text, with the poses."""
    from ...host import structure_latent

    added = {
        structure_latent.POSE_LATENT: structure_latent.encode_pose(
            bench.loaded.vae, bench.cases.hints[rows].movedim(1, -1)
        )
    }
    loaded, prompts = bench.loaded, bench.cases.prompts[rows]
    positive, negative = host.text(loaded, *prompts), host.text(loaded, "")
    return structure_latent.with_entries(positive, added), structure_latent.with_entries(
        negative, added
    )


@torch.inference_mode()
def sample_joint(model: Any, positive: Any, negative: Any, seed: int) -> Any:
    """Sample with KSampler from an empty latent."""
    from ...host import structure_latent

    empty = structure_latent.empty_latent(IMAGE_SIZE, IMAGE_SIZE, len(positive[0][0]), "cpu")
    return host.sample(model, positive, negative, empty, seed)


def ceiling(truth: Render) -> Maps:
    """Pass true images, depth and normals through the autoencoder."""
    kinds = (truth.rgb, *structure_images(truth))
    return Maps(*(round_trip(images) for images in kinds))
