"""LoRAs of two people side by side: does each person have their own, and nobody the other's?

On unseen pairs of the mini world, through the host's own nodes. One of two tiny LoRAs
(lab/recipes/person_loras.py) is the left person's, the other one the right person's, in turns from
scene to scene: one makes a top orange, the other gives a purple pointed hat. A person's prompt does
not name what their own LoRA brings along; that of the other one names a top of another color, or
now and then such a hat. The clothes evaluator reads the color of the top, and of the hat's point,
inside the places where they are in the world's own render of that pose:
  lora_hit      share of the people who show what their LoRA does
  lora_leak     share of the people who show what the LoRA of the other one does
  lora_hit_one, lora_leak_one  the same where one of the two has a LoRA, of fewer scenes
Those of exact; `_couple` behind a name is that mode, `_host` the host's own way: its hook LoRAs on
the prompts, which are masked with the same regions. Beside them
  lora_hit_ceiling  one person alone, and the LoRA on the entire model by the host's LoraLoader
  lora_hit_truth    the true images, after a round trip through the autoencoder
  lora_base         people without a LoRA in the image: what is read by mistake
  lora_hit_050, lora_leak_050 and so on  at other strengths, of fewer scenes
all with `_count`, of how many people, and `_low` and `_high`, Wilson's interval of 95 %.
  time_exact, time_couple, time_host        sampling with both LoRAs over the same way without any
  time_host_over_exact, time_host_over_couple  the host's way over ours, both with both LoRAs
  lora_ops_4, lora_ops_4_exact  multiply-adds of one call of SDXL's network for four people with a
                LoRA of rank 16 on all layers each over the same without, in couple and in exact
The mini world has no model that reads reference images, so references are not measured here.
`goal_...`: what was to be reached. `missed` lists what was not.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import interpolate
from tqdm import tqdm

from ...models import compose, pose, pose_drawing
from ...models.mini import IMAGE_SIZE
from ..evaluators import clothnet
from ..recipes.person_loras import LOOKS, ORANGE_TOPS, POINTED_HATS, Look
from ..training import convert, preview
from ..world.body import HAT, TOP
from ..world.captions import person_caption, scene_caption
from ..world.dataset import skeletons
from ..world.renderer import Render, render
from ..world.scenes import COLORS, FULL, Scenes, sample_scenes
from . import host, person_costs, sentences
from .decisions import HIGHER, LOWER, Claim, Evidence, decide, refuse_goal_above_ceiling
from .intervals import difference, mcnemar, wilson
from .mini import RESULTS, UNSEEN
from .sheets import save_labeled

MODES = ("exact", "couple")
HOST = "host"
NOBODY, LEFT, RIGHT, BOTH = (), (0,), (1,), (0, 1)  # who has a LoRA
WEARERS = (NOBODY, LEFT, RIGHT, BOTH)
DILATION = 0.06
CONTROL = 1.5  # strength of the ControlNet, as in the benchmark of composing
STRENGTHS = (0.5, 1.5)  # of the LoRAs, beside 1
LEAST_PIXELS = 12  # of a place that is read
SHOWN, SMALLER = 3, 2 / 3  # scenes on the sheet, and the size of their images
HEADS = ("no LoRA", "the left one's LoRA", "the right one's", "both", "both, ComfyUI's hooks")
REPEATS = 5  # of timed samplings
BATCH = 10  # scenes
GOALS = {"lora_hit": 0.9, "answers_read": 0.95, "sentences_right": 0.8}  # at least
LIMITS = {"lora_leak": 0.05, "lora_ops_4": 1.10}  # at most


PAPER, TEST = "A LoRA for each person", "paired bootstrap over people, McNemar"
OFTEN = "often than by ComfyUI's hooks and masks"


class Cases(NamedTuple):
    """Hold pairs of people, what their prompts say, and where to look for what a LoRA does."""

    scenes: Scenes  # as the prompts name them
    truth: Render  # of the same people with what the LoRAs do
    places: dict[str, Tensor]  # of each look, bool [P, H, W]

    def first(self, count: int) -> Cases:
        """Keep the first scenes only."""
        ends = {len(self.scenes): count, len(self.scenes.people): 2 * count}
        parts = {name: getattr(self.truth, name) for name in Render.__annotations__}
        truth = Render(**{name: part[: ends[len(part)]] for name, part in parts.items()})
        places = {name: place[: 2 * count] for name, place in self.places.items()}
        return Cases(self.scenes.take(torch.arange(count)), truth, places)

    def look(self, i: int, side: int) -> Look:
        """Say which look the LoRA of the left (0) or right (1) person of scene i has."""
        return LOOKS[(i + side) % 2]

    def prompt(self, i: int, side: int) -> str:
        """Describe that person, without what their own LoRA brings along."""
        setting = scene_caption(self.scenes, i).split(":")[0].split(" people ")[-1]
        caption = person_caption(self.scenes, self.row(i, side))
        return f"{UNNAMED[self.look(i, side).name].sub('', caption)}, {setting}"

    def row(self, i: int, side: int) -> int:
        """Find the left (0) or right (1) person of scene i among all people."""
        return 2 * i + pose.left_to_right(skeletons(i, self.scenes, self.truth))[side]

    def place(self, i: int, side: int, look: Look) -> Tensor:
        """Say where what the look does would be on that person, bool [H, W]."""
        return self.places[look.name][self.row(i, side)]


class Judged(NamedTuple):
    """Count the people who have a LoRA and show it, and those who have none and show it."""

    hits: list[bool]
    leaks: list[bool]

    def shares(self, of: str, way: str) -> dict[str, float]:
        """Compute the numbers of both."""
        hits, leaks = (
            wilson(self.hits, f"lora_hit{of}{way}"),
            wilson(self.leaks, f"lora_leak{of}{way}"),
        )
        return {**hits, **leaks}


class Loras(NamedTuple):
    """Hold the files' tensors and how strongly they act."""

    tensors: Mapping[str, Mapping[str, Tensor]]  # by the look's name
    strength: float = 1.0

    def person(self, look: Look) -> compose.PersonLora:
        """Make what an instance carries."""
        name = look.file.name
        return compose.PersonLora(name, self.tensors[look.name], self.strength, self.strength)


Sampling = tuple[Any, Any, Any]  # model, positive, negative
Rows = Sequence[int]  # scenes of one batch: their left people have the same LoRA, if any
Way = Callable[[host.Loaded, Cases, Loras, Rows, Sequence[int]], Sampling]  # and who has a LoRA


def run(quick: bool) -> dict[str, Any]:
    """Measure LoRAs of people; the numbers of results/persons.json.

    Also writes persons.jpg beside it: a row per scene, columns: no LoRA, the left person's, the
    right person's, both, and both the host's way.
    """
    count, fewer = (3, 2) if quick else (100, 16)
    loaded = host.load(preview.CHECKPOINT.name, preview.POSE_CONTROLNET.name)
    loras = Loras({look.name: load_file(look.file) for look in LOOKS})
    cases = pairs(count, UNSEEN + 102)
    numbers: dict[str, Any] = {"pairs": count}
    images_by_way = {way: _images(loaded, cases, loras, way, BOTH) for way in WAYS}
    judged_by_way = {way: judge(images, cases, BOTH) for way, images in images_by_way.items()}
    for way, judged in judged_by_way.items():
        numbers |= judged.shares("", "" if way == MODES[0] else f"_{way}")
    numbers |= _bounds(loaded, cases)
    numbers |= decided(numbers, judged_by_way[MODES[0]], judged_by_way[HOST])
    first_cases = cases.first(fewer)
    parted = {
        wearers: _images(loaded, first_cases, loras, MODES[0], wearers) for wearers in WEARERS[:3]
    }
    numbers |= _alone(first_cases, parted)
    numbers |= _strengths(loaded, first_cases, loras)
    _show([*parted.values(), images_by_way[MODES[0]], images_by_way[HOST]], first_cases)
    numbers |= person_costs.operations(quick)
    numbers |= sentences.measure()
    numbers |= _times(loaded, cases, loras, 1 if quick else REPEATS)
    return numbers | verdict(numbers)


def decided(numbers: Mapping[str, Any], exact: Judged, hooked: Judged) -> dict[str, Any]:
    """Decide whether exact keeps LoRAs apart better than the host's hooks, on the same people."""
    questions = (
        ("hit", "A LoRA shows on its own person more", HIGHER, exact.hits, hooked.hits),
        ("leak", "A LoRA shows on the other person less", LOWER, exact.leaks, hooked.leaks),
    )
    listed: list[dict[str, Any]] = []
    differences: dict[str, float] = {}
    for name, words, better, ours, theirs in questions:
        key = f"lora_{name}"
        values, baseline = (torch.tensor(each, dtype=torch.float64) for each in (ours, theirs))
        differences |= difference(values, baseline, f"{key}_minus_host")
        ceiling = f"{key}_ceiling" if better == HIGHER else None
        evidence = Evidence(
            key, f"{key}_host", f"{key}_minus_host", TEST, ceiling, mcnemar(ours, theirs)
        )
        claim = Claim(PAPER, f"{words} {OFTEN}", better)
        listed.append(decide(claim, {**numbers, **differences}, evidence))
    return {**differences, "decided": listed}


def verdict(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """List the goals and what was missed."""
    goals = {**GOALS, "lora_hit": GOALS["lora_hit"] * numbers["lora_hit_ceiling"]}
    refuse_goal_above_ceiling(goals, numbers)
    missed = [name for name, goal in goals.items() if numbers[name] < goal]
    missed += [name for name, limit in LIMITS.items() if numbers[name] > limit]
    return {f"goal_{name}": goal for name, goal in {**goals, **LIMITS}.items()} | {"missed": missed}


def pairs(count: int, seed: int) -> Cases:
    """Draw pairs of people whose prompts name neither an orange top nor a purple hat."""
    drawn = sample_scenes(count, seed, framing=FULL, people=2)
    people, (orange, purple, blue) = drawn.people, (_color(c) for c in ("orange", "purple", "blue"))
    people = replace(
        people,
        top=torch.where(people.top == orange, blue, people.top),
        hat=torch.where(people.hat == purple, -1, people.hat),
    )
    changed = people
    for look in LOOKS:
        changed = look.change(changed)
    truth = render(replace(drawn, people=changed))
    round_hats = replace(changed, pointed=torch.zeros_like(changed.pointed))
    bare = render(replace(drawn, people=round_hats))
    each = torch.arange(len(people))[:, None, None]
    worn = {
        part: (truth.parsing[people.scene] == part) & (truth.instance[people.scene] == each)
        for part in (TOP, HAT)
    }
    below = bare.parsing[people.scene] == HAT
    places = {ORANGE_TOPS.name: worn[TOP], POINTED_HATS.name: worn[HAT] & ~below}
    return Cases(replace(drawn, people=people), truth, places)


def _color(name: str) -> int:
    return [*COLORS].index(name)


UNNAMED = {  # what a prompt leaves out
    ORANGE_TOPS.name: re.compile(r"(?<=wearing )an? [\w ]+ top, "),
    POINTED_HATS.name: re.compile(r" and an? \w+ hat(?=,)"),
}
COLOR = {ORANGE_TOPS.name: "orange", POINTED_HATS.name: "purple"}  # of what a LoRA gives


def shows(net: clothnet.ClothNet, image: Tensor, place: Tensor, look: Look) -> bool | None:
    """Read whether an image [3,H,W] has the look's color in a place [H,W]; None: it is too small
    to be read.
    """
    if place.sum() < LEAST_PIXELS:
        return None
    with torch.no_grad():
        colors, _ = net(clothnet.cut(image, place)[None])
    return int(colors.argmax()) == _color(COLOR[look.name])


def judge(images: Tensor, cases: Cases, wearers: Sequence[int]) -> Judged:
    """Read every scene's images [B,3,H,W], in which `wearers` have their LoRAs.

    A person who has a LoRA is read for it; both people are read for a LoRA that only the other one
    has.
    """
    net, judged = clothnet.load_clothnet(), Judged([], [])
    for i, image in enumerate(images):
        for wearer in wearers:
            look = cases.look(i, wearer)
            for side in LEFT + RIGHT:
                has_look = shows(net, image, cases.place(i, side, look), look)
                if has_look is not None:
                    (judged.hits if side == wearer else judged.leaks).append(has_look)
    return judged


def _bounds(loaded: host.Loaded, cases: Cases) -> dict[str, float]:
    """Read the true images, and one person of every scene alone, whose LoRA is on the model."""
    import nodes

    checkpoint, net = convert.load_checkpoint(preview.CHECKPOINT), clothnet.load_clothnet()
    chunks = cases.truth.rgb.split(BATCH)
    passed = [preview.decode(checkpoint, preview.encode(checkpoint, chunk)) for chunk in chunks]
    true = judge(torch.cat(passed), cases, BOTH)
    looks_read: dict[str, list[bool]] = {look.name: [] for look in LOOKS}
    for rows in tqdm(batches(cases), desc="alone", mininterval=5):
        look = cases.look(rows[0], 0)
        loader, clip = nodes.LoraLoader(), loaded.clip
        model, _ = loader.load_lora(loaded.model, clip, look.file.name, 1.0, 1.0)
        person = Person.of(loaded, cases, rows, 0)
        images = _sample(loaded, (model, *person.controlled(loaded)), rows)
        read = [
            shows(net, image, cases.place(i, 0, look), look)
            for i, image in zip(rows, images, strict=True)
        ]
        looks_read[look.name] += [has_look for has_look in read if has_look is not None]
    numbers = wilson([*true.hits, *true.leaks], "lora_hit_truth")
    numbers |= wilson([*chain(*looks_read.values())], "lora_hit_ceiling")
    for name, reads in looks_read.items():
        numbers |= wilson(reads, f"lora_hit_ceiling_{name}")
    return numbers


def _alone(cases: Cases, images: Mapping[Any, Tensor]) -> dict[str, float]:
    """Read the images where nobody has a LoRA, and those where one of the two has one."""
    none = judge(images[NOBODY], cases, BOTH)
    one = [judge(images[wearers], cases, wearers) for wearers in (LEFT, RIGHT)]
    numbers = wilson([*none.hits, *none.leaks], "lora_base")
    return numbers | _joined(one).shares("_one", "")


def _strengths(loaded: host.Loaded, cases: Cases, loras: Loras) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for strength in STRENGTHS:
        changed = loras._replace(strength=strength)
        images = _images(loaded, cases, changed, MODES[0], BOTH)
        numbers |= judge(images, cases, BOTH).shares(f"_{round(100 * strength):03d}", "")
    return numbers


def _joined(each: Sequence[Judged]) -> Judged:
    return Judged(*([has_look for judged in each for has_look in judged[k]] for k in range(2)))


class Person(NamedTuple):
    """Hold what one of the people brings to every way, in each scene of a batch."""

    prompt: Any  # CONDITIONING
    hints: Tensor  # their skeletons alone [B,H,W,3]

    @classmethod
    def of(cls, loaded: host.Loaded, cases: Cases, rows: Rows, side: int) -> Person:
        """Collect it for the left (0) or right (1) person of the scenes."""
        prompts, hints = [cases.prompt(i, side) for i in rows], []
        for i in rows:
            skeleton = pose.pick(_people(cases, i), [side])
            hints.append(pose_drawing.draw_people(skeleton, IMAGE_SIZE, IMAGE_SIZE))
        return cls(host.text(loaded, *prompts), torch.stack(hints))

    def controlled(self, loaded: host.Loaded) -> tuple[Any, Any]:
        """Return positive and negative, with the ControlNet on this person's skeletons."""
        return host.controlled(loaded, self.prompt, host.text(loaded, ""), self.hints, CONTROL)


def _people(cases: Cases, i: int) -> pose.People:
    """List both people of scene i, from the left."""
    people = skeletons(i, cases.scenes, cases.truth)
    return pose.pick(people, pose.left_to_right(people))


def _composed(
    mode: str, loaded: host.Loaded, cases: Cases, loras: Loras, rows: Rows, wearers: Sequence[int]
) -> Sampling:
    """Compose Instances, where `wearers` carry their LoRAs."""
    from ...nodes.compose import MEAN, VitruvianComposeInstances

    instances = tuple(
        compose.Instance(
            Person.of(loaded, cases, rows, side).prompt,
            side + 1,
            loras=(loras.person(cases.look(rows[0], side)),) if side in wearers else (),
        )
        for side in BOTH
    )
    with torch.inference_mode():
        return VitruvianComposeInstances.execute(
            loaded.model,
            host.text(loaded, *(scene_caption(cases.scenes, i) for i in rows)),
            host.text(loaded, ""),
            instances,
            [pose.write_frame(_people(cases, i)) for i in rows],
            loaded.controlnet,
            mode=mode,
            strength=CONTROL,
            harmony=0.5,
            dilation=DILATION,
            start_percent=0.0,
            end_percent=1.0,
            background_prompt=MEAN,
            shared_negative=False,
        ).result[:3]


def _hooked(
    loaded: host.Loaded, cases: Cases, loras: Loras, rows: Rows, wearers: Sequence[int]
) -> Sampling:
    """Wire the host's nodes for two characters: Create Hook LoRA for each, Cond Pair Set Props with
    their mask, and Cond Pair Set Props Combine for the second.
    """
    from comfy_extras import nodes_hooks as hooks

    regions = torch.stack([_regions(cases, i) for i in rows], 1)  # [people, B, H, W]
    masked = []
    for side in BOTH:
        group = None
        if side in wearers:
            name, strength = cases.look(rows[0], side).file.name, loras.strength
            (group,) = hooks.CreateHookLora().create_hook(name, strength, strength)
        conds = Person.of(loaded, cases, rows, side).controlled(loaded)
        masked.append((conds, {"mask": regions[side], "hooks": group}))
    (left, left_place), (right, right_place) = masked
    of_left = hooks.PairConditioningSetProperties().set_properties(
        *left, 1.0, "default", **left_place
    )
    combine = hooks.PairConditioningSetPropertiesAndCombine().set_properties
    return loaded.model, *combine(*of_left, *right, 1.0, "default", **right_place)


WAYS: dict[str, Way] = {**{mode: partial(_composed, mode) for mode in MODES}, HOST: _hooked}


def _regions(cases: Cases, i: int) -> Tensor:
    """Draw the same places of both people that Compose Instances gives them, [2, H, W]."""
    instances = [compose.Instance(None, number) for number in (1, 2)]
    people = _people(cases, i)
    areas = compose.instance_areas(instances, people, IMAGE_SIZE, IMAGE_SIZE, DILATION)
    return compose.hard_shares(areas, [0, 0])[:, 0, 0]


def batches(cases: Cases) -> list[Rows]:
    """Split the scenes into batches in which everybody on the left has the same LoRA."""
    count = len(cases.scenes)
    turns = [range(first, count, len(LOOKS)) for first in range(len(LOOKS))]
    return [rows[k : k + BATCH] for rows in turns for k in range(0, len(rows), BATCH)]


def _sample(loaded: host.Loaded, sampling: Sampling, rows: Rows) -> Tensor:
    latent = host.empty(IMAGE_SIZE, len(rows))
    return host.decode(loaded, host.sample(*sampling, latent, rows[0]))


def _images(
    loaded: host.Loaded, cases: Cases, loras: Loras, way: str, wearers: Sequence[int]
) -> Tensor:
    """Generate an image of every scene, [B,3,H,W]."""
    sides = "+".join(("left", "right")[side] for side in wearers) or "nobody"
    images = torch.zeros(len(cases.scenes), 3, IMAGE_SIZE, IMAGE_SIZE)
    for rows in tqdm(batches(cases), desc=f"{way}, {sides}", mininterval=5):
        sampling = WAYS[way](loaded, cases, loras, rows, wearers)
        images[[*rows]] = _sample(loaded, sampling, rows)
    return images


def _times(loaded: host.Loaded, cases: Cases, loras: Loras, repeats: int) -> dict[str, float]:
    """Time sampling by every way with and without LoRAs, in turns on the first scene."""
    seconds: dict[tuple, list[float]] = {
        (way, wearers): [] for way in WAYS for wearers in (NOBODY, BOTH)
    }
    for repeat in range(repeats + 1):
        for (way, wearers), listed in seconds.items():
            sampling = WAYS[way](loaded, cases, loras, [0], wearers)
            start = time.perf_counter()
            host.sample(*sampling, host.empty(IMAGE_SIZE), 0)
            if repeat:  # the first one warms up
                listed.append(time.perf_counter() - start)
    middle = {key: statistics.median(listed) for key, listed in seconds.items()}
    over_none = {f"time_{way}": middle[way, BOTH] / middle[way, NOBODY] for way in WAYS}
    over_ours = {
        f"time_host_over_{mode}": middle[HOST, BOTH] / middle[mode, BOTH] for mode in MODES
    }
    return {**over_none, **over_ours, "seconds_per_step_exact": middle[MODES[0], BOTH] / host.STEPS}


def _show(columns: Sequence[Tensor], cases: Cases) -> None:
    """Write the first scenes by HEADS, and which LoRA is whose."""
    shown_rows = min(SHOWN, *map(len, columns))
    rows = torch.stack([column[:shown_rows] for column in columns], 1)
    small = interpolate(rows.flatten(0, 1), scale_factor=SMALLER, mode="area")
    sides = [
        [cases.look(i, side).name.replace("_", " ") for side in BOTH] for i in range(shown_rows)
    ]
    whose = [f"left: {left}; right: {right}" for left, right in sides]
    save_labeled(small.unflatten(0, rows.shape[:2]), RESULTS / "persons.jpg", HEADS, whose)
