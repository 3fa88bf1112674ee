"""Several people on the mini transformer: one prompt for all, exact, couple, couple with levers.

The scenes of compose.py for N = 2 to 4, with its pose ControlNet at full strength.
  transformer_<way>_acc_N, _pck_N, _seam_N    as in compose.py
`..._low` and `..._high`: intervals of 95 %, of garments (Wilson) and of people's joints (normal).
`..._cost_N`: sampling time over that of one prompt for all, taken in turns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..evaluators import measurements, posenet
from ..training import preview, transformer_files
from ..world.renderer import Render
from ..world.scenes import Scenes
from . import compose, host
from .intervals import WILSON, wilson
from .mini import RESULTS

STRENGTH = 1.0  # of the ControlNet: its residual was trained to be added once
LEVERS: dict[str, dict[str, Any]] = {  # columns of couple beside its plain one
    "couple_feather": {"region_feather": 0.05},
    "couple_scene": {"scene_share": 0.2},
    "couple_both": {"region_feather": 0.05, "scene_share": 0.2},
}
WAYS = ("global", "exact", "couple", *LEVERS)
SHOWN = 2  # scenes of each N on the contact sheet
SHOWN_WAYS = ("global", "exact", "couple", "couple_scene")


def is_there() -> bool:
    """Tell whether the weights of the mini transformer and its ControlNet are in the pack."""
    files = transformer_files.CHECKPOINT, transformer_files.POSE_CONTROLNET
    return all(file.is_file() for file in files)


def measure(quick: bool, count: int | None = None) -> dict[str, float]:
    """Measure composing on the mini transformer; also writes compose-transformer.jpg: a row per
    scene, columns: the truth, then SHOWN_WAYS.
    """
    count = count or (3 if quick else 24)
    loaded = load()
    numbers: dict[str, float] = {"transformer_scenes": count}
    rows = []
    for people in (2, 3, 4):
        measured, images = _with_people(loaded, people, count)
        numbers |= measured
        rows.append(images)
    sheet = torch.cat(rows).flatten(0, 1)
    RESULTS.mkdir(exist_ok=True)
    preview.save_sheet(sheet, RESULTS / "compose-transformer.jpg", columns=len(SHOWN_WAYS) + 1)
    return numbers


def load() -> host.Loaded:
    """Load the mini transformer and its ControlNet, and the VAE of the mini checkpoint."""
    import nodes

    names = transformer_files.CHECKPOINT.name, transformer_files.POSE_CONTROLNET.name
    loaded = host.load(*names)
    with torch.inference_mode():
        vae = nodes.CheckpointLoaderSimple().load_checkpoint(preview.CHECKPOINT.name)[2]
    return loaded._replace(vae=vae)


def _with_people(loaded: host.Loaded, people: int, count: int) -> tuple[dict[str, float], Tensor]:
    """Measure all ways; returns the numbers and the sheet's images [SHOWN,columns,3,H,W]."""
    scenes, truth = compose.unseen_scenes(people, count)
    samplers: dict[str, Callable[[int], Tensor]] = {
        "global": lambda i: compose.one_prompt(loaded, scenes, truth, i, STRENGTH),
    }
    settings: dict[str, tuple[str, dict[str, Any]]]
    settings = {"exact": ("exact", {}), "couple": ("couple", {})}
    settings |= {name: ("couple", levers) for name, levers in LEVERS.items()}
    for name, (mode, levers) in settings.items():
        samplers[name] = compose.composed(loaded, scenes, truth, mode, strength=STRENGTH, **levers)
    images_by_way, seconds = compose.in_turns(samplers, count)
    owners, free = compose.regions(scenes, truth, count)
    net = posenet.load_posenet()
    numbers: dict[str, float] = {}
    for name, images in images_by_way.items():
        start = f"transformer_{name}"
        hits = torch.cat(list(measurements.color_hits(images, scenes, truth).values()))
        numbers |= wilson(hits.tolist(), f"{start}_acc_{people}")
        numbers |= _joints(net, images, scenes, truth, f"{start}_pck_{people}")
        numbers[f"{start}_seam_{people}"] = measurements.seam_contrast(images, owners, free)
        numbers[f"{start}_cost_{people}"] = seconds[name] / seconds["global"]
    columns = torch.stack([truth.rgb, *(images_by_way[name] for name in SHOWN_WAYS)], 1)
    return numbers, columns[:SHOWN]


def _joints(
    net: posenet.PoseNet, images: Tensor, scenes: Scenes, truth: Render, name: str
) -> dict[str, float]:
    """Compute pck of all joints, and its interval from the shares of each person."""
    alone = measurements.each_alone(images, scenes, truth)
    near = measurements.joints_in_place(net, alone, truth)
    visible = truth.body_visible
    share = float(near[visible].float().mean())
    each = (near & visible).sum(1)[visible.any(1)] / visible.sum(1)[visible.any(1)]
    reach = WILSON * float(each.std()) / len(each) ** 0.5
    return {name: share, f"{name}_low": share - reach, f"{name}_high": share + reach}
