"""The mini world on disk: images, pose hints and captions, rendered once for all trainers."""

from __future__ import annotations

import json
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ...models.atomic_file import write_atomically
from ...models.pose import People as Skeletons
from ...models.pose_drawing import draw_people
from ...models.structure import depth_to_image, normals_to_image
from ..training.fingerprint import list_differences
from .captions import person_caption, scene_caption
from .renderer import Render, render
from .scenes import Scenes, sample_scenes

SHARD = 256  # scenes
FARTHEST = 0.35  # of a body in depth images, which are black where nobody is


def skeletons(scene: int, scenes: Scenes, rendering: Render, *, hands: bool = True) -> Skeletons:
    """List the OpenPose people of one scene, in pixels, as a perfect detector finds them."""
    rows = (scenes.people.scene == scene).nonzero()[:, 0]
    side = rendering.rgb.shape[-1]
    right, left = rendering.hands[rows].unbind(1)
    none = torch.zeros_like(right)
    return Skeletons(
        body=rendering.body[rows],
        left_hand=left if hands else none,
        right_hand=right if hands else none,
        face=torch.zeros(len(rows), 70, 3),
        foot=torch.zeros(len(rows), 6, 3),
        width=side,
        height=side,
    )


def draw_hint(scene: int, scenes: Scenes, rendering: Render, *, hands: bool = True) -> Tensor:
    """Draw the image [3,H,W] in 0..1 that a pose ControlNet reads for one scene."""
    people = skeletons(scene, scenes, rendering, hands=hands)
    return draw_people(people, people.width, people.height).permute(2, 0, 1)


def structure_images(rendering: Render) -> tuple[Tensor, Tensor]:
    """Draw depth and normal images [B,3,H,W] in 0..1 of a rendering: near is white, x right."""
    return depth_to_image(rendering.depth, floor=FARTHEST), normals_to_image(rendering.normal)


def _to_bytes(images: Tensor) -> np.ndarray:
    return (images * 255).round().clamp(0, 255).byte().numpy()


def _write_shard(folder: Path, shard: int, seed: int, draw: dict) -> None:
    torch.set_num_threads(1)
    scenes = sample_scenes(SHARD, seed + shard, **draw)
    rendering = render(scenes)
    hints = []
    for i in range(SHARD):
        close = rendering.body[scenes.people.scene == i, :, 2].sum() == 0  # only a hand to show
        hands = bool(close) or (i % 5 < 3)
        hints.append(draw_hint(i, scenes, rendering, hands=hands))
    captions = [
        {
            "full": scene_caption(scenes, i),
            "brief": scene_caption(scenes, i, brief=True),
            "people": [
                person_caption(scenes, int(k)) for k in (scenes.people.scene == i).nonzero()[:, 0]
            ],
            "bodies": rendering.body[scenes.people.scene == i].tolist(),
            "hands": rendering.hands[scenes.people.scene == i].tolist(),
        }
        for i in range(SHARD)
    ]
    depth, normal = structure_images(rendering)
    arrays = {
        "rgb": _to_bytes(rendering.rgb),
        "hint": _to_bytes(torch.stack(hints)),
        "parsing": rendering.parsing.byte().numpy(),
        "depth": _to_bytes(depth[:, 0]),
        "normal": _to_bytes(normal),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}-{shard:05d}.part.npy", array)
        os.replace(folder / f"{name}-{shard:05d}.part.npy", folder / f"{name}-{shard:05d}.npy")
    part = folder / f"captions-{shard:05d}.part"
    part.write_text(json.dumps(captions), encoding="utf-8")
    os.replace(
        part, folder / f"captions-{shard:05d}.json"
    )  # written last: marks the shard as whole


def write_world(
    folder: Path, scenes: int, *, seed: int = 0, workers: int | None = None, **draw: Any
) -> None:
    """Render at least `scenes` scenes into `folder`; shards that are there already are kept.

    `draw` goes to `sample_scenes`. Shard k holds the scenes of seed + k. ValueError if the folder
    holds another world, or more of this one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = -(-scenes // SHARD)
    _claim_folder(folder, shards, {"seed": repr(seed), "draw": repr(sorted(draw.items()))})
    missing = [k for k in range(shards) if not (folder / f"captions-{k:05d}.json").is_file()]
    with ProcessPoolExecutor(workers or os.cpu_count(), get_context("spawn")) as pool:
        for done in [pool.submit(_write_shard, folder, k, seed, draw) for k in missing]:
            done.result()


def _claim_folder(folder: Path, shards: int, facts: dict[str, str]) -> None:
    """Record what is drawn in a folder; ValueError if something else is there."""
    record, count = folder / "world.json", len(list(folder.glob("captions-*.json")))
    if count > shards:
        raise ValueError(
            f"{folder} holds {count * SHARD} scenes, more than the {shards * SHARD} that are asked "
            "for: choose another --work, or ask for as many."
        )
    if record.is_file():
        differences = list_differences(json.loads(record.read_text("utf-8")), facts)
        if count and differences:
            raise ValueError(f"{folder} holds another world: {differences}. Choose another --work.")
    if not count:
        text = json.dumps(facts)
        write_atomically(record, lambda part: part.write_text(text, encoding="utf-8"))


class WorldDataset(Dataset):
    """Serve the scenes of a folder written by `write_world`: {"rgb", "hint", "normal" uint8
    [3,H,W], "parsing", "depth" uint8 [H,W], "captions": {full, brief, people, bodies, hands}};
    of the images only those named.
    """

    def __init__(self, folder: Path, *, names: tuple[str, ...] = ("rgb", "hint")) -> None:
        shards = sorted(p.stem.split("-")[1] for p in folder.glob("captions-*.json"))
        if not shards:
            raise ValueError(f"{folder} holds no rendered scenes: run write_world on it first")
        self.arrays = {
            n: [np.load(folder / f"{n}-{k}.npy", mmap_mode="r") for k in shards] for n in names
        }
        self.captions = [
            c
            for k in shards
            for c in json.loads((folder / f"captions-{k}.json").read_text("utf-8"))
        ]

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, i: int) -> dict:
        shard, row = divmod(i, SHARD)
        item: dict = {n: torch.from_numpy(np.array(a[shard][row])) for n, a in self.arrays.items()}
        return {**item, "captions": self.captions[i], "index": i}
