"""The mini world on disk: images, pose hints and captions, rendered once for all trainers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields
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
KINDS = ("rgb", "hint", "parsing", "depth", "normal")  # of images that a world may hold
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


@dataclass(frozen=True)
class World:
    """What `write_worlds` renders: at least `scenes` scenes, shard k those of `seed` + k."""

    folder: Path
    scenes: int
    seed: int = 0
    draw: Mapping[str, Any] = field(default_factory=dict)  # for sample_scenes
    kinds: Sequence[str] = KINDS  # of images, those that are kept

    @property
    def shards(self) -> int:
        """Count the parts that are rendered each at once."""
        return -(-self.scenes // SHARD)

    def missing(self) -> list[int]:
        """List the shards of which a kind of images or the captions are not there."""
        stems = [f"{kind}-{{:05d}}.npy" for kind in self.kinds] + ["captions-{:05d}.json"]
        return [
            k
            for k in range(self.shards)
            if not all((self.folder / stem.format(k)).is_file() for stem in stems)
        ]


def render_on(scenes: Scenes, device: str) -> Render:
    """Render on `device`; the result is on the CPU."""
    if device == "cpu":
        return render(scenes)
    rendering = render(scenes.to(device), chunk=32)
    return Render(**{f.name: getattr(rendering, f.name).cpu() for f in fields(Render)})


def _write_shard(world: World, shard: int, device: str) -> None:
    torch.set_num_threads(1)
    folder, scenes = world.folder, sample_scenes(SHARD, world.seed + shard, **world.draw)
    rendering = render_on(scenes, device)
    for kind in world.kinds:
        part = folder / f"{kind}-{shard:05d}.part.npy"
        np.save(part, IMAGES_OF[kind](scenes, rendering))
        os.replace(part, folder / f"{kind}-{shard:05d}.npy")
    captions = [_captions_of(i, scenes, rendering) for i in range(SHARD)]
    part = folder / f"captions-{shard:05d}.part"
    part.write_text(json.dumps(captions), encoding="utf-8")
    # written last: marks the shard as whole
    os.replace(part, folder / f"captions-{shard:05d}.json")


def _captions_of(scene: int, scenes: Scenes, rendering: Render) -> dict[str, Any]:
    rows = scenes.people.scene == scene
    return {
        "full": scene_caption(scenes, scene),
        "brief": scene_caption(scenes, scene, brief=True),
        "people": [person_caption(scenes, int(k)) for k in rows.nonzero()[:, 0]],
        "bodies": rendering.body[rows].tolist(),
        "hands": rendering.hands[rows].tolist(),
    }


def _hints_of(scenes: Scenes, rendering: Render) -> np.ndarray:
    hints = []
    for i in range(len(scenes)):
        close = rendering.body[scenes.people.scene == i, :, 2].sum() == 0  # only a hand to show
        hands = bool(close) or (i % 5 < 3)
        hints.append(draw_hint(i, scenes, rendering, hands=hands))
    return _to_bytes(torch.stack(hints))


IMAGES_OF: Mapping[str, Callable[[Scenes, Render], np.ndarray]] = {
    "rgb": lambda _, rendering: _to_bytes(rendering.rgb),
    "hint": _hints_of,  # takes longer than all the others
    "parsing": lambda _, rendering: rendering.parsing.byte().numpy(),
    "depth": lambda _, rendering: _to_bytes(structure_images(rendering)[0][:, 0]),
    "normal": lambda _, rendering: _to_bytes(structure_images(rendering)[1]),
}


def write_world(
    folder: Path, scenes: int, *, seed: int = 0, workers: int | None = None, **draw: Any
) -> None:
    """Render at least `scenes` scenes into `folder`, all kinds of images, as `write_worlds` does.

    `draw` goes to `sample_scenes`.
    """
    for _ in write_worlds([World(folder, scenes, seed, draw)], workers=workers):
        pass


def write_worlds(
    worlds: Sequence[World], *, workers: int | None = None, device: str = "cpu"
) -> Iterator[World]:
    """Render worlds one after the other with the same processes, and yield each when it is whole;
    shards that are there already are kept.

    On the device "cuda" every process has a context of its own. ValueError if a folder holds
    another world, or more of this one.
    """
    for world in worlds:
        world.folder.mkdir(parents=True, exist_ok=True)
        facts = {"seed": repr(world.seed), "draw": repr(sorted(world.draw.items()))}
        _claim_folder(world.folder, world.shards, facts)
    if not any(world.missing() for world in worlds):
        yield from worlds
        return
    with ProcessPoolExecutor(workers or os.cpu_count(), get_context("spawn")) as pool:
        jobs = [
            [pool.submit(_write_shard, world, k, device) for k in world.missing()]
            for world in worlds
        ]
        for world, shards in zip(worlds, jobs, strict=True):
            for job in shards:
                job.result()
            yield world


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
