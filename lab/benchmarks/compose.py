"""Several people, each with a prompt and a pose: our modes against what one can do without them.

For N = 1 to 5 people, and for pairs who touch, on unseen scenes of the mini world:
  <way>_acc_N    share of garments in the named color inside that person's true mask
  <way>_pck_N    share of visible joints within 5 % of the person's height of where they belong
  <way>_seam_N   contrast across the borders of regions over that elsewhere (1: none to be seen)
  <way>_cost_N   sampling time over that of one person with plain ControlNet, taken in turns
  <way>_minus_<other>_acc_N, _pck_N   the difference on the same scenes
N is also `touching`, and `crowds`: two to five people together. Each has `_low` and `_high`, the
interval of 95 % when scenes are drawn again, and `_count`, how many scenes it is of.
`exact`, `couple`, `layers`: the modes of Compose Instances. `shared`: exact with one negative pass
for all. `one_prompt`: one prompt that names everybody, one ControlNet on everybody's skeleton.
`native`: the host's ControlNet, Conditioning Set Mask and Combine for each person, in the same
regions, of fewer scenes, and `exact_beside_native` is exact on these. `ceiling`: the evaluators on
the true images after a round trip through the VAE.

`transformer_...`: on the mini transformer, where its weights are there: compose_transformer.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from tqdm import tqdm

from ..evaluators import measurements, posenet
from ..evaluators.autoencoded import round_trip
from ..training import preview
from ..world.captions import scene_caption
from . import host, kept
from .compose_ways import (
    MODES,
    Crowds,
    Way,
    composed,
    draw,
    draw_shares,
    draw_touching,
    first_alone,
    native,
    one_prompt,
)
from .decisions import Claim, Evidence, decide
from .intervals import mean, ratio, ratio_difference
from .mini import RESULTS, UNSEEN
from .sheets import save_labeled

PEOPLE, QUICK_PEOPLE = (1, 2, 3, 4, 5), (2, 3)
SCENES, QUICK_SCENES = 100, 2  # of each N and of touching pairs, for the ways that a claim names
FEWER = 24  # of the other ways
COSTED = 10  # scenes whose sampling is timed
TOUCHING, CROWDS = "touching", "crowds"
PLAIN, CEILING = "plain", "ceiling"
CLAIMED = ("exact", "couple", "one_prompt")
BESIDE = "exact_beside_native"  # exact on the fewer scenes of the host's own way
PAIRED = (
    ("exact", "one_prompt"),
    ("couple", "one_prompt"),
    ("exact", "couple"),
    (BESIDE, "native"),
)
HEADS = {
    CEILING: "true image",
    **{mode: mode for mode in MODES},
    "shared": "exact, shared negative",
    "one_prompt": "one prompt for all",
    "native": "ComfyUI's masks",
}
SHOWN, SHOWN_SIZE = 2, 128  # scenes of each sheet, and pixels of their images

PAPER, TEST = "FineControlNet", "paired bootstrap over scenes"
GARMENTS = "more garments have the right color"


class Measured(NamedTuple):
    """Hold what the evaluators read in the images of one way, a value for each scene [S]."""

    hits: Tensor  # garments in the named color
    garments: Tensor  # of how many
    near: Tensor  # visible joints where they belong
    joints: Tensor  # of how many
    seams: Tensor  # contrast across borders over that elsewhere; NaN where no border is free

    def first(self, count: int) -> Measured:
        """Keep the first scenes only."""
        return Measured(*(values[:count] for values in self))

    def figures(self, way: str, group: str) -> dict[str, float]:
        """Compute the figures of one way, with their intervals."""
        numbers = ratio(self.hits, self.garments, f"{way}_acc_{group}")
        numbers |= ratio(self.near, self.joints, f"{way}_pck_{group}")
        seams = self.seams[~self.seams.isnan()]
        return numbers | (mean(seams, f"{way}_seam_{group}") if len(seams) else {})

    def minus(self, other: Measured, name: str, group: str) -> dict[str, float]:
        """Compute how much better this way is on the same scenes."""
        return {
            **ratio_difference(self.hits, other.hits, self.garments, f"{name}_acc_{group}"),
            **ratio_difference(self.near, other.near, self.joints, f"{name}_pck_{group}"),
        }


def run(quick: bool) -> dict[str, Any]:
    """Measure composing against its baselines; the numbers of results/compose.json.

    Also writes a sheet for each N and for touching pairs beside it.
    """
    people, scenes = (QUICK_PEOPLE, QUICK_SCENES) if quick else (PEOPLE, SCENES)
    loaded = host.load(preview.CHECKPOINT.name, preview.POSE_CONTROLNET.name)
    measured_by_group = {}
    numbers: dict[str, Any] = {"scenes": scenes}
    for group in (*map(str, people), TOUCHING):
        crowds = _draw(group, scenes)
        images, seconds = sample_all(
            _ways(loaded, crowds), _counts(scenes), kept.folder("compose"), group
        )
        images[CEILING] = round_trip(crowds.truth.rgb)
        measured_by_group[group] = read_all(images, crowds)
        numbers |= figures(measured_by_group[group], group) | costs(seconds, PLAIN, group)
        columns = {head: images[head] for head in HEADS}
        show(columns, measured_by_group[group], crowds, RESULTS / f"compose-{group}.jpg")
    crowds_measured = joined([measured_by_group[str(n)] for n in people if n > 1])
    numbers |= figures(crowds_measured, CROWDS)
    numbers["decided"] = decided(numbers, max(people))
    from . import compose_transformer  # which takes this module's scenes and ways

    if compose_transformer.is_there():
        measured = compose_transformer.measure(quick)
        numbers["decided"] += measured.pop("decided")
        numbers |= measured
    return numbers


def _draw(group: str, count: int) -> Crowds:
    if group == TOUCHING:
        return draw_touching(count, UNSEEN + 150)
    return draw(int(group), count, UNSEEN + 100 + int(group))


def _ways(loaded: host.Loaded, crowds: Crowds) -> dict[str, Way]:
    return {
        PLAIN: first_alone(loaded, crowds),
        "one_prompt": one_prompt(loaded, crowds),
        "native": native(loaded, crowds),
        **{mode: composed(loaded, crowds, mode) for mode in MODES},
        "shared": composed(loaded, crowds, "exact", shared_negative=True),
    }


def _counts(scenes: int) -> dict[str, int]:
    """Say how many scenes each way samples."""
    fewer = dict.fromkeys((*MODES, "shared", "native"), min(FEWER, scenes))
    return {**fewer, **dict.fromkeys(CLAIMED, scenes), PLAIN: min(COSTED, scenes)}


def sample_all(
    ways: Mapping[str, Way], counts: Mapping[str, int], folder: Path | None, group: str
) -> tuple[dict[str, Tensor], dict[str, list[float]]]:
    """Sample scene after scene by every way in turns; images of every way, and the seconds that
    each of the first COSTED scenes took. What `folder` keeps is not sampled again, except to time
    it.
    """
    images: dict[str, list[Tensor]] = {name: [] for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for i in tqdm(range(max(counts.values())), desc=f"people: {group}", mininterval=10):
        for name, way in ways.items():
            if i < counts[name]:
                make = _timed(way, i, seconds[name])
                images[name].append(kept.kept_images(folder, f"{group}/{name}", [i], make))
                if i < COSTED and len(seconds[name]) <= i:
                    make()
    return {name: torch.cat(each) for name, each in images.items()}, seconds


def _timed(way: Way, i: int, seconds: list[float]) -> Callable[[], Tensor]:
    def make() -> Tensor:
        start = time.perf_counter()
        images = way([i])
        seconds.append(time.perf_counter() - start)
        return images

    return make


def read_all(images: Mapping[str, Tensor], crowds: Crowds) -> dict[str, Measured]:
    """Measure the images of every way but the yardstick's."""
    net = posenet.load_posenet()
    measured = {name: read(net, each, crowds) for name, each in images.items() if name != PLAIN}
    if "native" in measured:
        measured[BESIDE] = measured["exact"].first(len(measured["native"].hits))
    return measured


def read(net: posenet.PoseNet, images: Tensor, crowds: Crowds) -> Measured:
    """Measure images [S,3,H,W] of the first S scenes, each by itself."""
    rows = []
    for i, image in enumerate(images.split(1)):
        scenes, truth = crowds.only([i])
        hits = torch.cat([*measurements.color_hits(image, scenes, truth).values()])
        alone = measurements.each_alone(image, scenes, truth)
        near = measurements.joints_in_place(net, alone, truth)[truth.body_visible]
        seam = _seam(image, crowds, i)
        rows.append([int(hits.sum()), len(hits), int(near.sum()), len(near), seam])
    return Measured(*torch.tensor(rows, dtype=torch.float64).T)


def _seam(image: Tensor, crowds: Crowds, i: int) -> float:
    shares = draw_shares(crowds, [i])
    owners = torch.where(shares.amax(0) > 0.99, shares.argmax(0) + 1, 0)  # 0: all alike
    return measurements.seam_contrast(image, owners, crowds.truth.instance[[i]] < 0)


def figures(measured: Mapping[str, Measured], group: str) -> dict[str, float]:
    """Compute the figures of all ways, and how much the claimed ones differ."""
    numbers: dict[str, float] = {}
    for way, values in measured.items():
        numbers |= values.figures(way, group)
    for way, other in PAIRED:
        if way in measured and other in measured:
            numbers |= measured[way].minus(measured[other], f"{way}_minus_{other}", group)
    return numbers


def costs(seconds: Mapping[str, Sequence[float]], yardstick: str, group: str) -> dict[str, float]:
    """Divide the time of every way by that of the yardstick, both of the same scenes."""
    base = torch.tensor(seconds[yardstick][:COSTED])
    numbers: dict[str, float] = {}
    for way, each in seconds.items():
        if way != yardstick:
            numbers |= ratio(torch.tensor(each[:COSTED]), base, f"{way}_cost_{group}")
    return numbers


def joined(groups: Sequence[Mapping[str, Measured]]) -> dict[str, Measured]:
    """Put the scenes of several groups together."""
    ways = groups[0].keys()
    return {
        way: Measured(*(torch.cat(parts) for parts in zip(*(g[way] for g in groups), strict=True)))
        for way in ways
    }


def decided(numbers: Mapping[str, Any], most: int) -> list[dict[str, Any]]:
    """Decide what the paper, and the help of Compose Instances, claim; `most`: the largest N."""
    several, touching = "Of several people", "Of two people who touch"
    alone, than_one = ("exact", "one_prompt"), "than with one prompt for all"
    rows = [
        (f"{several}, {GARMENTS} in exact {than_one}", alone, f"acc_{CROWDS}"),
        (f"{several}, {GARMENTS} in couple {than_one}", ("couple", "one_prompt"), f"acc_{CROWDS}"),
        (f"Of {most} people, {GARMENTS} in exact {than_one}", alone, f"acc_{most}"),
        (f"{touching}, {GARMENTS} in exact {than_one}", alone, f"acc_{TOUCHING}"),
        (f"{touching}, {GARMENTS} in exact than in couple", PAIRED[2], f"acc_{TOUCHING}"),
        (f"{several}, {GARMENTS} in exact than with ComfyUI's masks", PAIRED[3], f"acc_{CROWDS}"),
        (f"{several}, more joints are in place in exact {than_one}", alone, f"pck_{CROWDS}"),
    ]
    return [decide_pair(Claim(PAPER, words), numbers, pair, key) for words, pair, key in rows]


def decide_pair(
    claim: Claim, numbers: Mapping[str, Any], pair: tuple[str, str], key: str, start: str = ""
) -> dict[str, Any]:
    """Decide a claim by a way and its baseline, whose keys end in `key` and begin with `start`."""
    way, other = pair
    names = way, other, f"{way}_minus_{other}", CEILING
    figure, baseline, difference, ceiling = (f"{start}{name}_{key}" for name in names)
    evidence = Evidence(figure, baseline, difference, TEST, ceiling)
    return decide(claim, numbers, evidence)


def show(
    columns: Mapping[str, Tensor], measured: Mapping[str, Measured], crowds: Crowds, file: Path
) -> None:
    """Write the same scenes by every way, and how many garments have their color."""
    count = min(SHOWN, *map(len, columns.values()))
    rows = torch.stack([column[:count] for column in columns.values()], 1)
    small = interpolate(rows.flatten(0, 1), (SHOWN_SIZE, SHOWN_SIZE), mode="area")
    read_columns = [measured[name] for name in columns]
    save_labeled(
        small.unflatten(0, rows.shape[:2]),
        file,
        [HEADS.get(name, name) for name in columns],
        [scene_caption(crowds.scenes, i) for i in range(count)],
        [[f"{int(m.hits[i])} of {int(m.garments[i])}" for m in read_columns] for i in range(count)],
    )
