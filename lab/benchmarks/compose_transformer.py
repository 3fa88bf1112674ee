"""Several people on the mini transformer: one prompt for all, exact, couple, couple with levers.

The scenes of compose.py for N = 2 to 4, with its pose ControlNet at full strength.
  transformer_<way>_acc_N, _pck_N, _seam_N, ..._minus_...    as in compose.py
`..._cost_N`: sampling time over that of one prompt for all, taken in turns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..evaluators.autoencoded import round_trip
from ..training import preview, transformer_files
from . import compose, host, kept
from .compose_ways import Crowds, Way, composed, draw, one_prompt
from .decisions import Claim
from .mini import RESULTS, UNSEEN

STRENGTH = 1.0  # of the ControlNet: its residual was trained to be added once
LEVERS: dict[str, dict[str, Any]] = {  # columns of couple beside its plain one
    "couple_feather": {"region_feather": 0.05},
    "couple_scene": {"scene_share": 0.2},
    "couple_both": {"region_feather": 0.05, "scene_share": 0.2},
}
CLAIMED = ("one_prompt", "exact", "couple")
SHOWN_WAYS = (*CLAIMED, "couple_scene")
PEOPLE, QUICK_PEOPLE = (2, 3, 4), (2,)
SCENES, QUICK_SCENES = 40, 2  # of each N, for the ways that a claim names
FEWER = 16  # of the other ways
SHEET_PEOPLE = 2  # whose scenes the sheet shows
WORDS = "On a transformer, of several people, "
START = "transformer_"


def is_there() -> bool:
    """Tell whether the weights of the mini transformer and its ControlNet are in the pack."""
    files = transformer_files.CHECKPOINT, transformer_files.POSE_CONTROLNET
    return all(file.is_file() for file in files)


def measure(quick: bool) -> dict[str, Any]:
    """Measure composing on the mini transformer; also writes compose-transformer.jpg: a row per
    scene, columns: the truth, then SHOWN_WAYS.
    """
    people, scenes = (QUICK_PEOPLE, QUICK_SCENES) if quick else (PEOPLE, SCENES)
    counts = {**dict.fromkeys(LEVERS, min(FEWER, scenes)), **dict.fromkeys(CLAIMED, scenes)}
    loaded, groups = load(), []
    numbers: dict[str, Any] = {"scenes": scenes}
    for n in people:
        crowds = draw(n, scenes, UNSEEN + 100 + n)
        images, seconds = compose.sample_all(
            _ways(loaded, crowds), counts, kept.folder("compose_transformer"), str(n)
        )
        images[compose.CEILING] = round_trip(crowds.truth.rgb)
        groups.append(compose.read_all(images, crowds))
        numbers |= compose.figures(groups[-1], str(n))
        numbers |= compose.costs(seconds, "one_prompt", str(n))
        if n == SHEET_PEOPLE:
            columns = {way: images[way] for way in (compose.CEILING, *SHOWN_WAYS)}
            compose.show(columns, groups[-1], crowds, RESULTS / "compose-transformer.jpg")
    numbers |= compose.figures(compose.joined(groups), compose.CROWDS)
    numbers = {f"{START}{name}": value for name, value in numbers.items()}
    return {**numbers, "decided": decided(numbers)}


def decided(numbers: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Decide whether the paper's claim holds on a transformer, too."""
    return [
        compose.decide_pair(
            Claim(
                compose.PAPER, f"{WORDS}{compose.GARMENTS} in {way} than with one prompt for all"
            ),
            numbers,
            (way, "one_prompt"),
            f"acc_{compose.CROWDS}",
            START,
        )
        for way in CLAIMED[1:]
    ]


def load() -> host.Loaded:
    """Load the mini transformer and its ControlNet, and the VAE of the mini checkpoint."""
    import nodes

    names = transformer_files.CHECKPOINT.name, transformer_files.POSE_CONTROLNET.name
    loaded = host.load(*names)
    with torch.inference_mode():
        vae = nodes.CheckpointLoaderSimple().load_checkpoint(preview.CHECKPOINT.name)[2]
    return loaded._replace(vae=vae)


def _ways(loaded: host.Loaded, crowds: Crowds) -> dict[str, Way]:
    settings: dict[str, tuple[str, dict[str, Any]]]
    settings = {"exact": ("exact", {}), "couple": ("couple", {})}
    settings |= {name: ("couple", levers) for name, levers in LEVERS.items()}
    return {
        "one_prompt": one_prompt(loaded, crowds, STRENGTH),
        **{
            name: composed(loaded, crowds, mode, STRENGTH, **levers)
            for name, (mode, levers) in settings.items()
        },
    }
