"""Image, depth and normals together: is what comes out one and the same body, and what did it cost?

On unseen scenes of the mini world of one person each, from caption and pose, through the host's own
nodes, the same scenes for all ways:
  joint      the joint network that ships
  rgb_only   the image alone, by a network of the same size and training (`dev.py train mini
             structure-rgb-only`); others of the paper's table 2 (`structure-first-level` and so on)
             count, too, where their weights lie in `baselines`
  control    the base with its pose ControlNet, another way to a posed image
  apart      the image of one run of the joint network with the depth and normals of another, of
             the same caption and pose: what three runs would give; `together`, as joint, on as many
             scenes
  posed, first_stage  as control and joint, on the scenes of the refiner
  refined_X  the refiner with true maps, with the joint network's own, with one black, with one of
             another scene, or with maps at an eighth of their size
  strict_X   the same, trained without condition dropout (`refiner-ablations`)
  ceiling    true images, depth and normals after a round trip through the autoencoder
Every figure has its interval of 95 % (`intervals.py`; of distances by halves of the scenes):
  <x>_fd                 Frechet distance of the pose network's features to true images', without
                         the bias of its count
  <x>_pck                share of joints that the pose network finds where they belong
  <x>_depth_error        mean difference of the depth to what the surface network reads in the
                         image, where both see a body; of a refiner and `posed`, the true depth
  <x>_normal_error       mean angle in degrees between the normals and what it reads there
  <x>_depth_normal_agreement  correlation of the normals' tilt with that of the depth's slope
  <x>_silhouette_iou     of what it takes for the body in image, depth and normals, in pairs
  <x>_velocity_error_T   of the image, at the noise level of the base's step T (`velocity_errors`)
  <x>_color_difference   inside the body, to the joint network's image of the same scene
  cost, cost_posed, cost_separate  sampling time over the base's, over that with its ControlNet,
                         and over three runs of the base
  <x>_minus_<y>_<figure> paired difference
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...models import structure
from ...models.mini import IMAGE_SIZE
from ..recipes import structure as recipe
from ..training import convert, preview
from ..training.structure import load_structure
from ..world.dataset import structure_images
from . import host, intervals, kept, sheets, velocity_errors
from . import structure_refiner as refiner
from . import structure_ways as ways
from .decisions import HIGHER, LOWER, Claim, Evidence, decide
from .mini import RESULTS, UNSEEN
from .structure_judge import (
    DEPTH_ERROR,
    DISTANCE,
    FIGURES,
    NORMAL_ERROR,
    PCK,
    Judge,
    Judged,
    Maps,
    difference,
    figures,
)
from .structure_ways import Bench, Cases, Counts, sample_cases

SHOWN = 3
SHOWN_REFINED = f"{refiner.REFINED}_{refiner.OWN}"
LIGHT = torch.tensor([0.8, 0.3, 0.4])
TURNS, TIMED = 5, 2  # how often each is timed, and of how many images
AGAIN = 5_000  # added to the seeds of the second run
MAP_ERRORS = DEPTH_ERROR, NORMAL_ERROR
PAPER = "HyperHuman"
PAIRED = "bootstrap over scenes, paired"
HALVES = "halves of the scenes, paired"
FULL_COUNTS = Counts(300, 60, 60, 2_000, 200)
QUICK_COUNTS = Counts(4, 4, 3, 60, 4)


def run(quick: bool) -> dict[str, Any]:
    """Measure joint denoising and the refiner; the numbers of results/structure.json.

    Also writes structure.jpg beside it: a row per scene.
    """
    counts = QUICK_COUNTS if quick else FULL_COUNTS
    loaded = host.load(preview.CHECKPOINT.name, preview.POSE_CONTROLNET.name)
    cases = sample_cases(counts.images, UNSEEN + 400)
    bench = Bench(loaded, kept.folder("structure"), counts, cases)
    judge = Judge(cases.truth, counts.references, UNSEEN + 10_000)
    maps_by_way = _joint_ways(bench)
    judged = {way: judge.read(maps) for way, maps in maps_by_way.items()}
    numbers: dict[str, Any] = {}
    for way, each in judged.items():
        if way != "apart":
            numbers |= figures(way, each, FIGURES) | judge.distance(each, f"{way}_{DISTANCE}")
    numbers |= _image_differences(judge, judged)
    joint = maps_by_way["joint"]
    refined = refiner.generate(bench, joint, maps_by_way["control"].rgb)
    numbers |= refiner.measure(judge, refined, joint.rgb, judged["joint"])
    numbers |= _velocity_numbers(bench)
    numbers |= _costs(bench)
    numbers["decided"] = decisions(numbers)
    _show(cases, maps_by_way, judged, refined[SHOWN_REFINED])
    return numbers


def ablation_files() -> dict[str, Path]:
    """List the weights of the paper's table 2 that were trained."""
    files = {name: recipe.ablation_file(name) for name in recipe.ABLATIONS}
    return {name: file for name, file in files.items() if file.is_file()}


def _joint_ways(bench: Bench) -> dict[str, Maps]:
    """Generate with the joint network, those of table 2, and the base with its ControlNet."""
    count, apart = bench.counts.images, bench.counts.apart
    joint = ways.joint(bench, recipe.STRUCTURE, count)
    again = ways.joint(bench, recipe.STRUCTURE, apart, seed=AGAIN)
    maps_by_way = {"joint": joint, "apart": Maps(joint.rgb[:apart], again.depth, again.normal)}
    for name, file in ablation_files().items():
        maps = ways.joint(bench, file, count)
        modalities = recipe.ABLATIONS[name].modalities
        maps_by_way[name] = maps._replace(
            depth=maps.depth if modalities > 1 else None,
            normal=maps.normal if modalities > 2 else None,
        )
    maps_by_way["control"] = Maps(ways.controlled(bench))
    return maps_by_way | {"ceiling": ways.ceiling(bench.cases.truth)}


def _image_differences(judge: Judge, judged: Mapping[str, Judged]) -> dict[str, float]:
    """Compare the images of the joint network with others, and its maps with those of two runs."""
    numbers: dict[str, float] = {}
    joint, apart = judged["joint"], judged["apart"]
    for other in ("control", *(name for name in recipe.ABLATIONS if name in judged)):
        name = f"joint_minus_{other}"
        numbers |= judge.distance_difference(joint, judged[other], f"{name}_{DISTANCE}")
        numbers |= difference(joint, judged[other], PCK, f"{name}_{PCK}")
    together = joint.first(len(apart.features))
    for way, each in {"together": together, "apart": apart}.items():
        numbers |= figures(way, each, MAP_ERRORS)
    for figure in MAP_ERRORS:
        numbers |= difference(together, apart, figure, f"together_minus_apart_{figure}")
    return numbers


def _velocity_numbers(bench: Bench) -> dict[str, float]:
    """Measure the image's velocity error of the joint network, those of table 2 that predict it,
    and the base with its pose ControlNet, step by step.
    """
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    cases = bench.cases.first(bench.counts.noised)
    kinds = (cases.truth.rgb, *structure_images(cases.truth))
    scenes = velocity_errors.encode(checkpoint, cases.prompts, kinds, cases.hints)
    controlnet = convert.load_controlnet(preview.POSE_CONTROLNET)
    files = {"joint": recipe.STRUCTURE} | {
        name: file for name, file in ablation_files().items() if not recipe.ABLATIONS[name].epsilon
    }
    predictors = {"control": velocity_errors.controlled(checkpoint, controlnet)}
    for way, file in files.items():
        unet = load_structure(checkpoint.unet, file, "mini").eval()
        predictors[way] = velocity_errors.joint(unet)
    numbers: dict[str, float] = {}
    for step in velocity_errors.STEPS:
        errors = {way: velocity_errors.errors(p, scenes, step) for way, p in predictors.items()}
        for way, values in errors.items():
            numbers |= intervals.mean(values, f"{way}_velocity_error_{step}")
            if way != "joint":
                name = f"joint_minus_{way}_velocity_error_{step}"
                numbers |= intervals.difference(errors["joint"], values, name)
    return numbers


def _costs(bench: Bench) -> dict[str, float]:
    """Measure sampling times over the base's, in turns; the first turn warms up."""
    loaded, cases, rows = bench.loaded, bench.cases, slice(0, TIMED)
    model = ways.load(recipe.STRUCTURE)
    plain = host.text(loaded, *cases.prompts[rows]), host.text(loaded, "")
    posed = ways.posed(bench, rows)
    controlled = host.controlled(loaded, *plain, cases.hints[rows].movedim(1, -1))
    empty = host.empty(IMAGE_SIZE, TIMED)
    runs: dict[str, Callable[[], Any]] = {
        "joint": lambda: ways.sample_joint(model, *posed, 0),
        "base": lambda: host.sample(loaded.model, *plain, empty, 0),
        "control": lambda: host.sample(loaded.model, *controlled, empty, 0),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _, (name, generate) in itertools.product(range(TURNS + 1), runs.items()):
        start = _clock()
        generate()
        seconds[name].append(_clock() - start)
    joint, base, control = (torch.tensor(seconds[name][1:]) for name in runs)
    numbers = intervals.ratio(joint, base, "cost") | intervals.ratio(joint, control, "cost_posed")
    thrice = len(structure.MODALITIES) * base
    numbers |= intervals.ratio(joint, thrice, "cost_separate") | {"three_runs": 1.0}
    return numbers | intervals.ratio_difference(joint, thrice, thrice, "cost_separate_minus_three")


def _clock() -> float:
    """Read a clock that other processes do not slow down, where there is one."""
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


class Question(NamedTuple):
    """Ask whether a figure of one way is better than that of another."""

    words: str
    way: str
    other: str
    figure: str


QUESTIONS = (
    Question(
        "Joint denoising gives better images than the image alone",
        *("joint", "rgb_only", DISTANCE),
    ),
    Question(
        "Joint denoising puts bodies in their pose more often than the image alone",
        *("joint", "rgb_only", PCK),
    ),
    Question(
        "Joint denoising gives better images than a pose ControlNet",
        *("joint", "control", DISTANCE),
    ),
    Question(
        "Joint denoising puts bodies in their pose more often than a pose ControlNet",
        *("joint", "control", PCK),
    ),
    Question(
        "The depth of the same run fits the image better than that of a run of its own",
        *("together", "apart", DEPTH_ERROR),
    ),
    Question(
        "The normals of the same run fit the image better than those of a run of their own",
        *("together", "apart", NORMAL_ERROR),
    ),
    Question(
        "Branches that reach into the second level give better images than those of one level",
        *("joint", "first_level", DISTANCE),
    ),
    Question(
        "A refiner that sees depth and normals keeps closer to the body than a pose ControlNet",
        *(f"refined_{refiner.TRUE}", "posed", NORMAL_ERROR),
    ),
    Question(
        "Refined images show the body in its pose more often than those of the first stage",
        *(f"refined_{refiner.OWN}", refiner.FIRST_STAGE, PCK),
    ),
    *(
        Question(
            f"Condition dropout keeps the body in its pose where the refiner's maps {words}",
            *(f"refined_{fault}", f"strict_{fault}", PCK),
        )
        for fault, words in refiner.FAULTS.items()
    ),
    Question(
        "Refining keeps the colors of the first stage better than the prompt alone does",
        *(f"refined_{refiner.OWN}", "posed", "color_difference"),
    ),
)
COST = Claim(PAPER, "Depth and normals come at less than the cost of three runs", LOWER)


def decisions(numbers: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Answer every question that was measured, and the one about the cost."""
    decided = []
    for question in QUESTIONS:
        way, other, figure = question.way, question.other, question.figure
        name = f"{way}_minus_{other}_{figure}"
        if name in numbers:
            ceiling = f"ceiling_{figure}"
            keys = f"{way}_{figure}", f"{other}_{figure}", name
            test = HALVES if figure == DISTANCE else PAIRED
            evidence = Evidence(*keys, test, ceiling if ceiling in numbers else None)
            better = HIGHER if figure == PCK else LOWER
            decided.append(decide(Claim(PAPER, question.words, better), numbers, evidence))
    cost = Evidence("cost_separate", "three_runs", "cost_separate_minus_three", "timed in turns")
    return [*decided, decide(COST, numbers, cost)]


def _show(
    cases: Cases, maps_by_way: Mapping[str, Maps], judged: Mapping[str, Judged], refined: Tensor
) -> None:
    """Save a sheet of the first scenes, with the share of joints in place under the images."""
    joint = maps_by_way["joint"]
    assert joint.depth is not None and joint.normal is not None
    lit = structure.relight(joint.rgb, structure.image_to_normals(joint.normal), LIGHT)
    columns = {
        "image": joint.rgb,
        "depth": joint.depth,
        "normals": joint.normal,
        "in another light": lit,
        "refined by depth and normals": refined,
        "base with pose ControlNet": maps_by_way["control"].rgb,
    }
    shares = {way: judged[way].parts[PCK] / judged[way].wholes[PCK] for way in ("joint", "control")}
    values = [
        [f"joints {shares['joint'][i]:.2f}", "", "", "", "", f"joints {shares['control'][i]:.2f}"]
        for i in range(min(SHOWN, len(cases.prompts)))
    ]
    rows = torch.stack([column[: len(values)] for column in columns.values()], 1)
    file = RESULTS / "structure.jpg"
    sheets.save_labeled(rows, file, list(columns), cases.prompts[: len(values)], values)
