"""How good the mini weights are, measured against the mini world's ground truth through the host's
own nodes.

From text alone, for unseen prompts of one whole person each:
  action    share of images whose pose is the action's that the prompt names
  anatomy   share whose body has every limb once and is of human proportions
With the pose ControlNet, for fewer of these scenes:
  color_accuracy, color_accuracy_<garment>  share of visible garments in the named color
  pck       share of visible joints within 5 % of the person's height of where they belong
`..._baseline` is the same without what is measured: an empty prompt (of fewer images), no
ControlNet, an untrained VAE. `..._ceiling` is the evaluator on the true images, after a round trip
through the VAE: nothing generated can score higher than that but by luck. `..._gain` is the
difference to the baseline on the same scenes. `_low` and `_high` behind a name are the interval of
95 %, and `_count` is how many scenes it is of.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...models.mini import IMAGE_SIZE
from ..evaluators import bodies, measurements, posenet, true_bodies
from ..evaluators.autoencoded import round_trip
from ..training import convert, networks, preview, vae
from ..world.captions import scene_caption
from ..world.dataset import draw_hint
from ..world.renderer import Render, render
from ..world.scenes import ACTIONS, FULL, Scenes, sample_scenes
from . import host, kept
from .compose_ways import Crowds
from .decisions import Claim, Evidence, decide
from .intervals import difference, mean, ratio, ratio_difference, wilson
from .sheets import save_labeled

UNSEEN = 2_000_000  # seeds of training scenes lie far below
RESULTS = Path(__file__).parent / "results"
PROMPTS, QUICK_PROMPTS = 500, 20  # from text alone
POSED, QUICK_POSED = 300, 20  # of these with the pose ControlNet, and without it
EMPTY, QUICK_EMPTY = 100, 10  # with an empty prompt
CHUNK = 20  # scenes generated at once, and kept together
SHOWN = 6  # scenes of the sheet, four images each

ALONE, POSE, NOTHING = "text", "pose", "nothing"
PAPER, TEST = "The mini model", "paired bootstrap over scenes"
CLAIMS = {
    "action": Claim(
        PAPER, "From text alone, more people do what the text says than with an empty prompt"
    ),
    "anatomy": Claim(PAPER, "From text alone, more bodies are right than with an empty prompt"),
    "pck": Claim(PAPER, "With the pose ControlNet, more joints are in place than without it"),
    "color_accuracy": Claim(
        PAPER, "With the pose ControlNet, more garments are right in their place"
    ),
}


def run(quick: bool) -> dict[str, Any]:
    """Measure the mini weights; the numbers of results/mini.json.

    Also writes mini.jpg beside it: a row per scene, columns: the pose, the image with it, the image
    from text alone, the truth.
    """
    count, posed, empty = (
        (QUICK_PROMPTS, QUICK_POSED, QUICK_EMPTY) if quick else (PROMPTS, POSED, EMPTY)
    )
    scenes = sample_scenes(count, UNSEEN, framing=FULL, people=1)
    loaded = host.load(preview.CHECKPOINT.name, preview.POSE_CONTROLNET.name)
    prompts = [scene_caption(scenes, i) for i in range(count)]
    truth = render(scenes)
    rows = range(posed)
    hints = torch.stack([draw_hint(i, scenes, truth) for i in rows])
    images, seconds = {}, {}
    images[POSE], seconds[POSE] = _images(loaded, POSE, prompts[:posed], hints)
    images[ALONE], seconds[ALONE] = _images(loaded, ALONE, prompts)
    images[NOTHING], _ = _images(loaded, NOTHING, [""] * empty)
    back = round_trip(truth.rgb)
    numbers: dict[str, Any] = of_text(images[ALONE], images[NOTHING], back, scenes)
    few, of_few = Crowds(scenes, truth).only(rows)
    compared = {"": images[POSE], "_baseline": images[ALONE][:posed], "_ceiling": back[:posed]}
    numbers |= of_pose(compared, few, of_few)
    numbers["decided"] = [decide(claim, numbers, _evidence(name)) for name, claim in CLAIMS.items()]
    _show([hints, images[POSE], images[ALONE], truth.rgb], prompts)
    return {"scenes": count, **numbers, **_of_files(truth.rgb[:posed]), **_seconds(seconds)}


def _images(
    loaded: host.Loaded, way: str, prompts: Sequence[str], hints: Tensor | None = None
) -> tuple[Tensor, float]:
    """Generate an image per prompt, and the seconds that one took (0: all were kept)."""
    chunks, spent, sampled = [], 0.0, 0
    for start in range(0, len(prompts), CHUNK):
        rows = slice(start, min(start + CHUNK, len(prompts)))

        def generate(rows: slice = rows) -> Tensor:
            nonlocal spent, sampled
            began = time.perf_counter()
            chunk_hints = None if hints is None else hints[rows]
            images = host.images(
                loaded, prompts[rows], chunk_hints, IMAGE_SIZE, seed=rows.start, batch=CHUNK
            )
            spent, sampled = spent + time.perf_counter() - began, sampled + len(images)
            return images

        chunks.append(kept.kept_images(kept.folder("mini"), way, rows, generate))
    return torch.cat(chunks), spent / max(sampled, 1)


def of_text(images: Tensor, empty: Tensor, back: Tensor, scenes: Scenes) -> dict[str, float]:
    """Measure images from text alone, those of the empty prompt, and the ceiling."""
    net, true, actions = posenet.load_posenet(), true_bodies.load(), scenes.people.action
    numbers: dict[str, float] = {}
    outcomes = {}
    for suffix, each in (("", images), ("_baseline", empty), ("_ceiling", back)):
        read = bodies.read(net, each)
        named = bodies.name_actions(read.joints, true) == actions[: len(each)]
        outcomes[suffix] = {"action": named, "anatomy": bodies.are_complete(read, true)}
        for name, hits in outcomes[suffix].items():
            numbers |= wilson(hits.tolist(), f"{name}{suffix}")
    for name, hits in outcomes[""].items():
        fewer = len(empty)
        before = outcomes["_baseline"][name].double()
        numbers |= difference(hits[:fewer].double(), before, f"{name}_gain")
        for k, action in enumerate(ACTIONS):
            if (of_action := hits[actions == k]).numel():
                numbers |= wilson(of_action.tolist(), f"{name}_of_{action.replace(' ', '_')}")
    return numbers


def of_pose(images: Mapping[str, Tensor], scenes: Scenes, truth: Render) -> dict[str, float]:
    """Measure colors and joints; the images by the suffix of their figures, the baseline's too."""
    net, visible = posenet.load_posenet(), truth.body_visible
    numbers: dict[str, float] = {}
    hits, near = {}, {}
    for suffix, each in images.items():
        garments = color_parts(each, scenes, truth)
        named, judged = (torch.stack(part).sum(0) for part in zip(*garments.values(), strict=True))
        hits[suffix] = named
        numbers |= ratio(named, judged, f"color_accuracy{suffix}")
        near[suffix] = (measurements.joints_in_place(net, each, truth) & visible).sum(1)
        numbers |= ratio(near[suffix], visible.sum(1), f"pck{suffix}")
        for name, (parts, wholes) in garments.items():
            if wholes.any():
                numbers |= wilson(parts[wholes].tolist(), f"color_accuracy_{name}{suffix}")
    baseline = hits["_baseline"]
    numbers |= ratio_difference(hits[""], baseline, judged, "color_accuracy_gain")
    return numbers | ratio_difference(near[""], near["_baseline"], visible.sum(1), "pck_gain")


def color_parts(images: Tensor, scenes: Scenes, truth: Render) -> dict[str, tuple[Tensor, Tensor]]:
    """Tell of each garment in which scenes [N] of one person it has the named color, and in which
    it is judged at all.
    """
    people, each = Crowds(scenes, truth), []
    for i in range(len(scenes)):
        each.append(measurements.color_hits(images[[i]], *people.only([i])))
    return {
        name: (
            torch.tensor([bool(hits[name].any()) for hits in each]),
            torch.tensor([len(hits[name]) > 0 for hits in each]),
        )
        for name in measurements.GARMENTS
    }


def _evidence(name: str) -> Evidence:
    return Evidence(name, f"{name}_baseline", f"{name}_gain", TEST, f"{name}_ceiling")


def _of_files(true_images: Tensor) -> dict[str, float]:
    autoencoder = convert.load_checkpoint(preview.CHECKPOINT).vae
    torch.manual_seed(0)
    numbers: dict[str, float] = {}
    for name, net in (("", autoencoder), ("_baseline", networks.build_vae().eval())):
        each = [vae.psnr(net, image * 2 - 1) for image in true_images.split(1)]
        numbers |= mean(torch.tensor(each), f"vae_psnr{name}")
    files = preview.CHECKPOINT, preview.POSE_CONTROLNET
    return {**numbers, "weights_mb": sum(file.stat().st_size for file in files) / 1e6}


def _seconds(seconds: Mapping[str, float]) -> dict[str, float]:
    """Report the times of what was generated in this run."""
    return {f"seconds_per_image_{way}": each for way, each in seconds.items() if each}


def _show(columns: Sequence[Tensor], prompts: Sequence[str]) -> None:
    rows = torch.stack([column[:SHOWN] for column in columns], 1)
    small = torch.nn.functional.interpolate(rows.flatten(0, 1), scale_factor=2 / 3, mode="area")
    heads = ("pose", "text and pose", "text alone", "true image")
    save_labeled(small.unflatten(0, rows.shape[:2]), RESULTS / "mini.jpg", heads, prompts[:SHOWN])
