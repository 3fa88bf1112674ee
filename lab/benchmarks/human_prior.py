"""Bodies from text alone: the human-centric prior against what else one can train on the same data.

On unseen prompts of the mini world, each action equally often, through the host's own nodes, the
same seeds for all:
  base            the checkpoint as it is
  human_prior     with the human-centric prior that ships: alignment .0005
  lora            with a low-rank change of its attention of as many numbers
  no_alignment, alignment_0015, gamma_07   priors trained otherwise (human-prior-ablations), which
                  lie in `baselines`; of the first seed alone, as is what they are compared with:
  base_first, human_prior_first
  strength_X      the prior at other strengths, on the first prompts; with strength_0 and strength_1
All learned from as many samples of the same people. Every figure has its interval of 95 % over the
prompts (`intervals.py`):
  <x>_anatomy     share of images whose body has every limb once and of human proportions
  <x>_action      share whose pose is the action's that the prompt names
  <x>_<figure>_<action>   of the prompts of one action
  <x>_fd          Frechet distance of the pose network's features to true images', free of the bias
                  of small counts
  <x>_drift       mean difference to the base's image outside the bodies
  <x>_over_<y>_<figure>   difference to another way on the same images; _p is McNemar's
  <x>_error_<T>   mean square of the noise that is missed at step T of 1000, on true scenes
  <x>_error_<T>_share     that over the base's, in the same scenes with the same noise
  <x>_cosine      of the human words' attention maps and the true silhouette, over the same steps;
                  flat_cosine: of maps that look everywhere alike
  cost            sampling time with the prior over that without, taken in turns
`ceiling`: the evaluators on the true images after a round trip through the autoencoder.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from tqdm import tqdm

from ...models import human_attention as word_attention
from ..evaluators.autoencoded import round_trip
from ..recipes.human_prior import HUMAN_PRIOR
from ..training import preview
from ..world.captions import scene_caption
from ..world.renderer import render
from ..world.scenes import ACTIONS, Scenes
from . import host, human_prior_denoising, intervals, kept, sheets
from . import human_prior_ways as ways
from .decisions import LOWER, Claim, Evidence, decide
from .human_prior_denoising import STEPS, Denoised
from .human_prior_judge import (
    ACTION,
    ANATOMY,
    DRIFT,
    FD,
    Judge,
    Judged,
    balanced_people,
    compare,
    figures,
    figures_by_action,
    true_people,
)
from .human_prior_ways import BASE, LOW_RANK, PRIOR, Generate
from .mini import RESULTS, UNSEEN


class Counts(NamedTuple):
    """Say how much is measured."""

    prompts: int
    seeds: int  # of base, prior and LoRA; one of the others
    strength_prompts: int
    denoised: int  # scenes
    turns: int  # of timing


COUNTS = Counts(500, 2, 100, 200, 3)
QUICK = Counts(15, 1, 1, 10, 1)

FIRST = "first"  # <way>_first: the first seed alone
PROMPT_SEED, DENOISED_SEED = UNSEEN + 300, UNSEEN + 302
STRUCTURE_STEPS = STEPS[:3]  # at which structure is decided
SHOWN, SIDE = 3, 144  # rows of the sheet, and pixels of an image in it
MOMENT = 0.3  # share of the sampling at which maps are shown
PEOPLE = ("woman", "man", "body")

Generated = dict[tuple[int, int], dict[str, tuple[Tensor, Judged]]]

HCP = "HcP"
BODIES = Claim(HCP, "From text alone, more bodies are right with the prior than without it")
ACTS = Claim(HCP, "From text alone, more people do what the prompt says than without the prior")
TRUE_TO_LIFE = Claim(HCP, "Images are closer to true ones with the prior than without it", LOWER)
LORA_BODIES = Claim(HCP, "More bodies are right than with a LoRA of the same size")
LORA_ACTS = Claim(HCP, "More people do what the prompt says than with a LoRA of the same size")
BACKGROUND = Claim(HCP, "Less beside the body changes than with a LoRA of the same size", LOWER)
EARLY = Claim(HCP, "Where structure is decided, people are denoised better than by the base", LOWER)
LOOKS = Claim(HCP, "Alignment with poses brings the words for people onto the body")
ALIGNED_BODIES = Claim(HCP, "More bodies are right with alignment than without it")


def run(quick: bool) -> dict[str, Any]:
    """Measure the human prior against its baselines; the numbers of results/human_prior.json.

    Also writes human_prior.jpg beside it: a row per prompt, from left to right base, LoRA,
    human prior, and the attention maps of the named action of base and human prior.
    """
    counts = QUICK if quick else COUNTS
    loaded = host.load(preview.CHECKPOINT.name, preview.POSE_CONTROLNET.name)
    scenes = balanced_people(counts.prompts, PROMPT_SEED)
    prompts = [scene_caption(scenes, i) for i in range(counts.prompts)]
    judge = Judge(scenes.people.action)
    bench = Bench(loaded, prompts, judge, counts)
    judged = bench.judge_all() | {"ceiling": _judge_truth(judge, scenes)}
    numbers: dict[str, Any] = {"prompts": counts.prompts, "seeds": counts.seeds}
    numbers |= image_figures(judged, judge.true.features)
    for name in (BASE, PRIOR, LOW_RANK):
        numbers |= figures_by_action(name, judged[name], scenes.people.action)
    numbers |= bench.strength_figures()
    numbers |= denoising_figures(_denoise_all(counts.denoised))
    numbers |= bench.cost()
    numbers["decided"] = decided(numbers)
    bench.save_sheet()
    return numbers


class Bench:
    """Generate each image once and judge it at once, so that few images are held."""

    def __init__(
        self, loaded: host.Loaded, prompts: Sequence[str], judge: Judge, counts: Counts
    ) -> None:
        self.loaded, self.prompts, self.judge, self.counts = loaded, prompts, judge, counts
        self.main, self.arms = ways.main_ways(loaded), ways.arms(loaded)
        self.strengths = ways.other_strengths(loaded)
        self.groups = ways.group_alike(loaded, prompts)
        self.first_groups = ways.first_groups(self.groups, counts.strength_prompts)
        self.folder = kept.folder("human_prior")
        self.judged: dict[str, dict[int, list[Judged]]] = {}  # of a way, by prompt
        self.images_shown: dict[str, dict[int, Tensor]] = {}  # images of the first seed, by prompt
        self.rows_shown = _first_of_actions(judge.actions, SHOWN)

    def judge_all(self) -> dict[str, Judged]:
        """Generate and judge everything; the judgements of each way but the strengths."""
        for rows in tqdm(self.groups, desc="generate", mininterval=10):
            for take in range(self.counts.seeds):
                self._judge_group(rows, take)
        judged = {name: _collect(self.judged[name]) for name in (*self.main, *self.arms)}
        first = {f"{name}_{FIRST}": judged[name].first_seed() for name in (BASE, PRIOR)}
        return judged | first

    def _judge_group(self, rows: Sequence[int], take: int) -> None:
        generators = dict(self.main)
        if take == 0:
            generators |= self.arms | (self.strengths if rows in self.first_groups else {})
        base = self._images(BASE, generators[BASE], rows, take)
        base_read = self.judge.read(base)
        for name, generate in generators.items():
            images = base if name == BASE else self._images(name, generate, rows, take)
            judged = self.judge.judge(images, rows, base, base_read)
            for k, row in enumerate(rows):
                self.judged.setdefault(name, {}).setdefault(row, []).append(judged.at([k]))
                if take == 0 and row in self.rows_shown:
                    self.images_shown.setdefault(name, {})[row] = images[k]

    def _images(self, name: str, generate: Generate, rows: Sequence[int], take: int) -> Tensor:
        def make() -> Tensor:
            return ways.generate_group(generate, self.prompts, rows, take)

        return kept.kept_images(self.folder, f"{name}-{take}", rows, make)

    def strength_figures(self) -> dict[str, float]:
        """Compute the figures of the prior at every strength, on the first prompts and seed."""
        rows = sorted(row for group in self.first_groups for row in group)
        names = {BASE: "strength_0", PRIOR: "strength_1"} | {name: name for name in self.strengths}
        numbers: dict[str, float] = {"strength_prompts": len(rows)}
        for name, key in names.items():
            judged = _collect({row: self.judged[name][row][:1] for row in rows})
            numbers |= figures(key, judged, self.judge.true.features)
        return numbers

    def cost(self) -> dict[str, float]:
        """Time the prior and the base in turns, after a first run of both."""
        rows = max(self.groups, key=len)
        seconds: dict[str, list[float]] = {BASE: [], PRIOR: []}
        for turn in range(self.counts.turns + 1):
            for name, times in seconds.items():
                start = time.perf_counter()
                ways.generate_group(self.main[name], self.prompts, rows, 0)
                if turn:
                    times.append(time.perf_counter() - start)
        of_prior, of_base = (torch.tensor(seconds[name]) for name in (PRIOR, BASE))
        return intervals.ratio(of_prior, of_base, "cost")

    def save_sheet(self) -> None:
        """Write the sheet of the first prompts of some actions."""
        names = (BASE, LOW_RANK, PRIOR)
        images, values = [], []
        for row in self.rows_shown:
            generated = [self.images_shown[name][row] for name in names]
            images += [*generated, *_maps(self.loaded, self.prompts[row], generated[-1], row)]
            values.append([_value(self.judged[name][row][0]) for name in names] + ["", ""])
        heads = ["base", "LoRA of the same size", "human prior"]
        heads += ["the base's map of the action", "the prior's map of it"]
        small = interpolate(torch.stack(images), (SIDE, SIDE), mode="area")
        sheets.save_labeled(
            small.unflatten(0, (len(self.rows_shown), len(heads))),
            RESULTS / "human_prior.jpg",
            heads,
            [self.prompts[row] for row in self.rows_shown],
            values,
        )


def _collect(by_row: Mapping[int, Sequence[Judged]]) -> Judged:
    """Join the judgements of single images, seeds side by side and prompts in order."""
    rows = [[torch.cat(seeds, 1) for seeds in zip(*by_row[i], strict=True)] for i in sorted(by_row)]
    return Judged(*(torch.cat(each) for each in zip(*rows, strict=True)))


def _first_of_actions(actions: Tensor, count: int) -> list[int]:
    """Find the first prompt of each of some actions, which lie far apart in their list."""
    some_actions = torch.arange(count) * len(ACTIONS) // count
    return [int((actions == action).nonzero()[0, 0]) for action in some_actions]


def _value(judged: Judged) -> str:
    """Say what is wrong in an image."""
    judgements = {"body": judged.anatomy, "action": judged.action}
    wrong = [name for name, values in judgements.items() if values[0, 0] < 0.5]
    return f"{' and '.join(wrong)} wrong" if wrong else "right"


def _judge_truth(judge: Judge, scenes: Scenes) -> Judged:
    images = round_trip(render(scenes).rgb)
    return judge.judge(images, range(len(images)), images, judge.read(images))


def image_figures(judged: Mapping[str, Judged], fidelity: Tensor) -> dict[str, float]:
    """Compute the figures of each way and the differences between ways."""
    numbers: dict[str, float] = {}
    for name, each in judged.items():
        numbers |= figures(name, each, fidelity)
    first_prior = f"{PRIOR}_{FIRST}"
    arm_names = [name for name in judged if name in ways.ABLATIONS]
    pairs = [(PRIOR, BASE), (LOW_RANK, BASE), (PRIOR, LOW_RANK)]
    pairs += [(name, f"{BASE}_{FIRST}") for name in arm_names]
    pairs += [(first_prior, name) for name in arm_names]
    for ours, theirs in pairs:
        numbers |= compare(f"{ours}_over_{theirs}", judged[ours], judged[theirs], fidelity)
    return numbers


def _denoise_all(count: int) -> dict[str, Denoised]:
    people = human_prior_denoising.noisy_people(true_people(count, DENOISED_SEED))
    results = {}
    for name, load in human_prior_denoising.denoisers().items():
        model = load()
        results[name] = human_prior_denoising.denoise(model, people)
    flat = human_prior_denoising.flat_cosines(model, people)
    return results | {"flat": Denoised(torch.empty(0), flat[:, None])}


def denoising_figures(denoised: Mapping[str, Denoised]) -> dict[str, float]:
    """Compute the errors by step and the maps' cosines of each way, and their differences."""
    numbers = intervals.mean(denoised["flat"].cosines.mean(1), "flat_cosine")
    base = denoised[BASE]
    typical = base.errors.mean(0)  # so that every step counts alike
    early = {
        name: (each.errors / typical)[:, : len(STRUCTURE_STEPS)].mean(1)
        for name, each in denoised.items()
        if len(each.errors)
    }
    for name, values in early.items():
        each = denoised[name]
        numbers |= intervals.mean(each.cosines.mean(1), f"{name}_cosine")
        numbers |= intervals.mean(values, f"{name}_early_error")
        for k, step in enumerate(STEPS):
            errors, of_base = each.errors[:, k], base.errors[:, k]
            numbers |= intervals.mean(errors, f"{name}_error_{step}")
            if name != BASE:
                numbers |= intervals.ratio(errors, of_base, f"{name}_error_{step}_share")
        if name != BASE:
            numbers |= intervals.difference(values, early[BASE], f"{name}_over_{BASE}_early_error")
    for other in early:
        if other != PRIOR:
            ours, theirs = (denoised[name].cosines.mean(1) for name in (PRIOR, other))
            numbers |= intervals.difference(ours, theirs, f"{PRIOR}_over_{other}_cosine")
    return numbers


def decided(numbers: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Decide the paper's claims and README's."""
    drawn_again = f"{numbers['prompts']} prompts drawn again"
    images = numbers["prompts"] * numbers["seeds"]

    def on_images(figure: str, ours: str, theirs: str, count: int = images) -> Evidence:
        difference = f"{ours}_over_{theirs}_{figure}"
        p = numbers.get(f"{difference}_p")
        test = drawn_again if p is None else f"{drawn_again}; McNemar on {count} images"
        ceiling = f"ceiling_{figure}" if figure in (ANATOMY, ACTION) else None
        return Evidence(f"{ours}_{figure}", f"{theirs}_{figure}", difference, test, ceiling, p)

    first = f"{PRIOR}_{FIRST}"
    scenes_again = "true scenes drawn again"
    evidence = {
        BODIES: on_images(ANATOMY, PRIOR, BASE),
        ACTS: on_images(ACTION, PRIOR, BASE),
        TRUE_TO_LIFE: on_images(FD, PRIOR, BASE),
        LORA_BODIES: on_images(ANATOMY, PRIOR, LOW_RANK),
        LORA_ACTS: on_images(ACTION, PRIOR, LOW_RANK),
        BACKGROUND: on_images(DRIFT, PRIOR, LOW_RANK),
        EARLY: Evidence(
            f"{PRIOR}_early_error",
            f"{BASE}_early_error",
            f"{PRIOR}_over_{BASE}_early_error",
            scenes_again,
        ),
        LOOKS: Evidence(
            f"{PRIOR}_cosine",
            "no_alignment_cosine",
            f"{PRIOR}_over_no_alignment_cosine",
            scenes_again,
        ),
        ALIGNED_BODIES: on_images(ANATOMY, first, "no_alignment", numbers["prompts"]),
    }
    return [decide(claim, numbers, each) for claim, each in evidence.items()]


@torch.inference_mode()
def _maps(loaded: host.Loaded, prompt: str, image: Tensor, seed: int) -> list[Tensor]:
    """Draw the finest maps of the named action over the prior's image, without the prior and with
    it, alike bright.
    """
    from ...host import human_attention
    from ...host import human_prior as prior

    positive = ways.encode_marked(loaded, prompt)
    words = word_attention.marked_positions(
        positive[0][1][prior.WORDS], positive[0][1][prior.HUMAN].tolist()
    )
    columns = [tokens for word, tokens in words.items() if word not in PEOPLE]
    latent = loaded.vae.encode(image.movedim(0, -1)[None])
    (look,) = human_attention.read_maps(
        ways.patched(loaded, HUMAN_PRIOR),
        positive,
        latent,
        (MOMENT,),
        seed,
        columns[:1],
        lambda _: None,
    )
    assert look.with_priors is not None
    attention = [
        word_attention.average_layers(maps.values()) for maps in (look.ordinary, look.with_priors)
    ]
    finest = [next(iter(grids.values()))[0] for grids in attention]
    most = max(float(grid.max()) for grid in finest)
    ground = image.movedim(0, -1)
    return [word_attention.overlay_map(grid, most, ground).movedim(-1, 0) for grid in finest]
