"""Clothes in words on a semantic map: does each garment get its own look, and its neighbors' not?

On unseen scenes of the mini world, whose tops and bottoms are of combinations of color, pattern
and garment that neither encoder nor memory nor alignment was trained on (the base was). Of two
people each, whose prompt names tops, bottoms and hats; with `alone_` before their names, of one
person each, whose prompt names everything. The same captions, poses and seeds for all, through the
host's own nodes:
  base           the checkpoint and the pose ControlNet
  region         each part a region of its own phrase (Compose Instances, couple)
  training_free  the same with what the memory retrieved for it (Parts as Regions)
  appearance     Retrieve Appearance and Apply Appearance
  no_memory      the same with the texts' own features, never refreshed
  no_alignment   with layers trained without the parts' masks (`train mini appearance-ablations`)
Of each:
  <x>_part_acc    share of garments of the named color and, of tops and bottoms, the named pattern
  <x>_new_acc     that of tops and bottoms alone
  <x>_color_acc  share of the named color
  <x>_leak        share of another color that is named for something else in the image
  <x>_pck         share of joints that the pose network finds where they belong
  cost            sampling time with appearance over the base's, in turns
`alone_bare`, `alone_appearance_bare`: base and appearance from prompts that name no clothes.
`edit_...`: the top of a true image inpainted from words, inside its own mask grown a little:
`part_acc` of the new top, `outside_psnr` of what is not the top; `base_edit_...` from the prompt
alone. `ceiling`: the evaluators on true images after a round trip through the autoencoder.
`goal_...`: what appearance was to reach.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ...models import compose, memory, memory_file, part_crops, pose, semantic_map
from ...models.mini import IMAGE_SIZE
from ..evaluators import clothnet, measurements, posenet
from ..recipes import appearance, dressed
from ..recipes import memory as memory_recipe
from ..training import convert, preview
from ..world.captions import person_caption, scene_caption
from ..world.dataset import draw_hint, skeletons
from ..world.renderer import Render, render
from ..world.scenes import BOTTOMS, COLORS, FULL, PATTERNS, People, Scenes, sample_scenes
from . import host
from .mini import RESULTS, UNSEEN

SHOWN = 6
BODY = 0.1  # weight of the whole person where parts are regions: a part owns a cell from there on
DILATION = 0.06
TOKENS = 4  # of a region that show what was retrieved
GROWN = 8  # pixels around a top that are inpainted with it
PITCH, THUMBNAILS = 48, 4  # of retrieved slots on the sheet: pixels, rows and columns
DEARER = 1.15  # what appearance may cost
BLEND, END = 0.5, 0.5  # of the memory, and share of the sampling: best on 24 other scenes


class Cases(NamedTuple):
    """Hold the scenes and prompts that every method gets, and the ground truth."""

    scenes: Scenes
    truth: Render
    prompts: list[str]
    looks: list[dict[int, str]]  # of each person, the phrase of each part
    maps: Tensor  # uint8 [P, H, W], of each person alone

    def people(self, i: int) -> list[int]:
        """List the people of scene i."""
        return (self.scenes.people.scene == i).nonzero()[:, 0].tolist()


class Resources(NamedTuple):
    """Hold the loaded model and the mini memory."""

    loaded: host.Loaded
    memory: memory.Memory


class Sampling(NamedTuple):
    """Hold what goes to the sampler."""

    model: Any
    positive: Any
    negative: Any


Way = Callable[[Cases, int], Sampling]  # of one of the scenes


def run(quick: bool) -> dict[str, float]:
    """Measure the appearance layers; the numbers of results/appearance.json.

    Also writes appearance.jpg beside it (and
    alone_appearance.jpg, of one person each), a row per scene: truth, map, the slots retrieved for
    the first parts, base, region, training_free, appearance; and appearance_edit.jpg: before, mask,
    after.
    """
    count, edits = (6, 4) if quick else (50, 24)
    loaded = host.load(preview.CHECKPOINT.name, preview.POSE_CONTROLNET.name)
    resources = Resources(loaded, memory_file.load(memory_recipe.MEMORY))
    ways = _ways(resources, quick)
    numbers: dict[str, float] = {"images": count}
    for people, prefix in ((2, ""), (1, "alone_")):
        cases = _cases(_new_scenes(count, UNSEEN + 500, people))
        ways_for_count = ways if people > 1 or quick else ways | _bare(resources)
        images_by_way, seconds = _in_turns(resources, ways_for_count, cases)
        images_by_way["ceiling"] = _round_trip(cases.truth.rgb)
        judge = Judge(cases)
        for name, images in images_by_way.items():
            numbers |= judge.of(f"{prefix}{name}", images)
        numbers[f"{prefix}cost"] = seconds["appearance"] / seconds["base"]
        _show(resources, cases, images_by_way, prefix)
    numbers |= _edited(resources, ways, cases, edits)
    return numbers | goals(numbers["base_part_acc"], numbers["base_leak"])


def goals(part_acc: float, leak: float) -> dict[str, float]:
    """Compute the goals of appearance from what the base reaches."""
    return {
        "goal_part_acc": part_acc + (1 - part_acc) / 3,
        "goal_leak": leak / 2,
        "goal_cost": DEARER,
    }


def _new_scenes(count: int, seed: int, people: int) -> Scenes:
    """Whole people whose tops and bottoms are all of combinations held out."""
    pool, rows = 16 * count, list[int]()
    while len(rows) < count:
        pool *= 2
        drawn = sample_scenes(pool, seed, framing=FULL, people=people)
        new = new_clothes(drawn.people).view(pool, people).all(1)
        rows = new.nonzero()[:, 0].tolist()
    return drawn.take(torch.tensor(rows[:count]))


def new_clothes(people: People) -> Tensor:
    """Mark the people whose top and bottom are both held out, bool [P]."""
    garments = [dressed.GARMENTS.index(name) for name in ("top", *BOTTOMS)]
    held = torch.zeros(len(COLORS), len(PATTERNS), len(garments), dtype=torch.bool)
    for color, pattern, garment in dressed.HELD_OUT:
        at = [*COLORS].index(color), PATTERNS.index(pattern), dressed.GARMENTS.index(garment)
        held[at] = True
    bottom = torch.tensor(garments)[1:][people.bottom_kind]
    below = held[people.bottom, people.bottom_pattern, bottom]
    return held[people.top, people.top_pattern, garments[0]] & below


def _cases(scenes: Scenes) -> Cases:
    truth = render(scenes)
    prompts = [scene_caption(scenes, i) for i in range(len(scenes))]
    looks = [dressed.part_phrases(person_caption(scenes, k)) for k in range(len(scenes.people))]
    scene_maps = dressed.semantic_maps(scenes, truth)[scenes.people.scene]
    each = torch.arange(len(looks))[:, None, None]
    is_person = truth.instance[scenes.people.scene] == each
    return Cases(scenes, truth, prompts, looks, scene_maps * is_person)


class Judge:
    """Read images with the evaluators and compares them with the truth; garments that the
    prompt does not name are left out.
    """

    def __init__(self, cases: Cases) -> None:
        self.scenes, self.truth = cases.scenes, cases.truth
        self.clothes, self.poses = clothnet.load_clothnet(), posenet.load_posenet()
        self.alone = len(cases.looks) == len(cases.prompts)

    def of(self, name: str, images: Tensor) -> dict[str, float]:
        readings = self.read(images)
        new = [reading for reading in readings if reading.garment in clothnet.PATTERNED]
        pck = (
            measurements.pck(self.poses, images, self.truth)
            if self.alone
            else measurements.pck_each(self.poses, images, self.scenes, self.truth)
        )
        return {
            f"{name}_part_acc": _mean([right(reading) for reading in readings]),
            f"{name}_new_acc": _mean([right(reading) for reading in new]),
            f"{name}_color_acc": _mean([r.color == r.named_color for r in readings]),
            f"{name}_leak": _mean([leaks(reading) for reading in readings]),
            f"{name}_pck": pck,
        }

    def read(self, images: Tensor) -> list[clothnet.Reading]:
        """Read every garment, with the named colors of all others in the image."""
        readings = clothnet.read_clothes(self.clothes, images, self.scenes, self.truth)
        readings = [r for r in readings if self.alone or r.garment != "shoes"]
        scene = self.scenes.people.scene.tolist()
        named = [(scene[r.person], r.named_color) for r in readings]
        return [
            r._replace(
                others=tuple(
                    color
                    for k, (place, color) in enumerate(named)
                    if place == scene[r.person] and k != index
                )
            )
            for index, r in enumerate(readings)
        ]


def right(reading: clothnet.Reading) -> bool:
    """Decide whether a garment is as named; shoes and hats have no pattern."""
    woven = reading.garment in clothnet.PATTERNED
    pattern = not woven or reading.pattern == reading.named_pattern
    return reading.color == reading.named_color and pattern


def leaks(reading: clothnet.Reading) -> bool:
    """Decide whether a garment has the color of another instead of its own."""
    return reading.color != reading.named_color and reading.color in reading.others


def _mean(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits)


def _ways(resources: Resources, quick: bool) -> dict[str, Way]:
    ways: dict[str, Way] = {
        "base": partial(_base, resources),
        "region": partial(_region, resources),
        "training_free": partial(_training_free, resources),
        "appearance": _applied(resources, appearance.APPEARANCE),
    }
    if not quick:
        ways["no_memory"] = _applied(resources, appearance.APPEARANCE, blend=1.0)
        if appearance.NO_ALIGNMENT.is_file():
            ways["no_alignment"] = _applied(resources, appearance.NO_ALIGNMENT)
    return ways


def _bare(resources: Resources) -> dict[str, Way]:
    """From prompts of one person that say nothing of what is worn, without and with appearance all
    the time.
    """

    def silent(way: Way) -> Way:
        def without_prompt(cases: Cases, i: int) -> Sampling:
            prompts = [dressed.without_appearance(prompt) for prompt in cases.prompts]
            return way(cases._replace(prompts=prompts), i)

        return without_prompt

    applied = _applied(resources, appearance.APPEARANCE, end=1.0)
    return {"bare": silent(partial(_base, resources)), "appearance_bare": silent(applied)}


def _base(resources: Resources, cases: Cases, i: int) -> Sampling:
    loaded, hint = resources.loaded, draw_hint(i, cases.scenes, cases.truth)
    conds = host.text(loaded, cases.prompts[i]), host.text(loaded, "")
    return Sampling(loaded.model, *host.controlled(loaded, *conds, hint.movedim(0, -1)[None]))


def _region(resources: Resources, cases: Cases, i: int) -> Sampling:
    return _composed(
        resources,
        cases,
        i,
        [
            compose.Instance(host.text(resources.loaded, phrase), 0, mask)
            for k in cases.people(i)
            for part, phrase in cases.looks[k].items()
            if (mask := semantic_map.part_mask(cases.maps[k : k + 1], (part,))[0]).any()
        ],
    )


@torch.inference_mode()
def _training_free(resources: Resources, cases: Cases, i: int) -> Sampling:
    from ...nodes.appearance import VitruvianInstancesFromParts

    instances: tuple = ()
    for k in cases.people(i):
        parts = _retrieved(resources, cases.looks[k])
        (instances,) = VitruvianInstancesFromParts.execute(
            parts, cases.maps[k : k + 1], resources.loaded.clip, resources.memory, TOKENS, instances
        ).result
    return _composed(resources, cases, i, instances)


@torch.inference_mode()
def _composed(
    resources: Resources, cases: Cases, i: int, parts: Sequence[compose.Instance]
) -> Sampling:
    """The parts before the whole people, who have the pose and what no part covers of the body."""
    from ...nodes.compose import SCENE, VitruvianComposeInstances

    loaded, prompt = resources.loaded, host.text(resources.loaded, cases.prompts[i])
    people = skeletons(i, cases.scenes, cases.truth)
    whole_body = [
        compose.Instance(prompt, number, weight=BODY)
        for number in range(1, 1 + len(cases.people(i)))
    ]
    return Sampling(
        *VitruvianComposeInstances.execute(
            loaded.model,
            prompt,
            host.text(loaded, ""),
            (*whole_body, *parts),
            [pose.write_frame(people)],
            loaded.controlnet,
            mode="couple",
            strength=1.0,
            harmony=0.0,
            dilation=DILATION,
            start_percent=0.0,
            end_percent=1.0,
            background_prompt=SCENE,
            shared_negative=True,
        ).result[:3]
    )


def _applied(resources: Resources, file: Path, blend: float = BLEND, end: float = END) -> Way:
    """With the layers of a file, which may lie where the host does not look. Each person of several
    has an Apply Appearance of their own, around their own body.
    """
    from ...host.appearance import load
    from ...nodes.appearance import VitruvianApplyAppearance

    with torch.inference_mode():
        layers = load(file)

    @torch.inference_mode()
    def way(cases: Cases, i: int) -> Sampling:
        sampling, people = _base(resources, cases, i), cases.people(i)
        for k in people:
            parts, person_map = _retrieved(resources, cases.looks[k], blend), cases.maps[k : k + 1]
            (model,) = VitruvianApplyAppearance.execute(
                sampling.model,
                layers,
                parts,
                person_map,
                strength=1.0,
                map_strength=1.0,
                start_percent=0.0,
                end_percent=end,
                mask=_around(cases, k) if len(people) > 1 else None,
            ).result
            sampling = sampling._replace(model=model)
        return sampling

    return way


def _around(cases: Cases, person: int) -> Tensor:
    """The mask [1, H, W] of somebody's body and the pixels around it, without other people's."""
    others = [k for k in cases.people(int(cases.scenes.people.scene[person])) if k != person]
    near = semantic_map.part_mask(cases.maps[person : person + 1], semantic_map.WHOLE_PERSON, GROWN)
    others_area = semantic_map.part_mask(cases.maps[others], semantic_map.WHOLE_PERSON).amax(
        0, keepdim=True
    )
    return near * (1 - others_area)


@torch.inference_mode()
def _retrieved(
    resources: Resources, looks: Mapping[int, str], blend: float = BLEND
) -> tuple[memory.Part, ...]:
    """What the memory answers to a person's phrases."""
    from ...nodes.retrieval import TO_PROMPT, VitruvianRetrieveAppearance

    text = ", ".join(f"{semantic_map.CLASSES[part]}: {phrase}" for part, phrase in looks.items())
    return VitruvianRetrieveAppearance.execute(
        resources.memory,
        resources.loaded.clip,
        text,
        "{phrase}",
        memory.TOP_K,
        memory.TEMPERATURE,
        blend,
        TO_PROMPT,
        TO_PROMPT,
        0,
    ).result[0]


def _in_turns(
    resources: Resources, ways: Mapping[str, Way], cases: Cases
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """All images in every way, scene after scene, and the seconds each was sampled in all."""
    images_by_way: dict[str, list[Tensor]] = {name: [] for name in ways}
    seconds = dict.fromkeys(ways, 0.0)
    for way in ways.values():
        _sample(way(cases, 0), 0)  # the first run loads and warms up
    for i in tqdm(range(len(cases.prompts)), desc="generate"):
        for name, way in ways.items():
            sampling = way(cases, i)
            start = time.perf_counter()
            latent = _sample(sampling, i)
            seconds[name] += time.perf_counter() - start
            images_by_way[name].append(host.decode(resources.loaded, latent))
    return {name: torch.cat(images) for name, images in images_by_way.items()}, seconds


def _sample(sampling: Sampling, seed: int, latent: dict[str, Any] | None = None) -> dict[str, Any]:
    return host.sample(*sampling, latent or host.empty(IMAGE_SIZE), seed)


def _edited(
    resources: Resources, ways: Mapping[str, Way], cases: Cases, count: int
) -> dict[str, float]:
    """Measure tops that are inpainted with other words; also writes their sheet."""
    other_tops = _cases_with_other_tops(cases)
    tops, masks = (
        semantic_map.part_mask(cases.maps[:count], (semantic_map.TOP,), grow)[:, None]
        for grow in (0, GROWN)
    )
    before, numbers, net = cases.truth.rgb[:count], {}, clothnet.load_clothnet()
    for name, prefix in (("base", "base_edit"), ("appearance", "edit")):
        generated = [
            _inpaint(resources, ways[name](other_tops, i), before[i : i + 1], masks[i], i)
            for i in tqdm(range(count), desc=prefix)
        ]
        after = torch.where(masks > 0, torch.cat(generated), before)
        readings = clothnet.read_clothes(net, after, _first(other_tops.scenes, count), cases.truth)
        hits = [right(reading) for reading in readings if reading.garment == "top"]
        numbers[f"{prefix}_part_acc"] = _mean(hits)
        numbers[f"{prefix}_outside_psnr"] = _psnr(after, before, tops == 0)
    rows = torch.stack((before, masks.expand_as(before), after), 1)[:SHOWN]
    RESULTS.mkdir(exist_ok=True)
    preview.save_sheet(rows.flatten(0, 1), RESULTS / "appearance_edit.jpg", columns=3)
    return numbers


def _first(scenes: Scenes, count: int) -> Scenes:
    return scenes.take(torch.arange(count))


def _cases_with_other_tops(cases: Cases) -> Cases:
    """The same people asked to wear other tops, held out like their own."""
    people = cases.scenes.people
    tops = [new_top(int(color), i) for i, color in enumerate(people.top)]
    colors, patterns = torch.tensor(tops).unbind(1)
    scenes = replace(cases.scenes, people=replace(people, top=colors, top_pattern=patterns))
    prompts = [scene_caption(scenes, i) for i in range(len(tops))]
    looks = [dressed.part_phrases(prompt) for prompt in prompts]
    return cases._replace(scenes=scenes, prompts=prompts, looks=looks)


def new_top(color: int, number: int) -> tuple[int, int]:
    """Choose color and pattern of a held-out top of another color."""
    offered = sorted(
        ([*COLORS].index(name), PATTERNS.index(pattern))
        for name, pattern, garment in dressed.HELD_OUT
        if garment == "top" and name != [*COLORS][color]
    )
    return offered[number % len(offered)]


@torch.inference_mode()
def _inpaint(
    resources: Resources, sampling: Sampling, image: Tensor, mask: Tensor, seed: int
) -> Tensor:
    """The image [1,3,H,W] inpainted where the mask [1,H,W] is, as the decoder gives it."""
    import nodes

    (latent,) = nodes.VAEEncode().encode(resources.loaded.vae, image.movedim(1, -1))
    (latent,) = nodes.SetLatentNoiseMask().set_mask(latent, mask)
    return host.decode(resources.loaded, _sample(sampling, seed, latent))


def _psnr(images: Tensor, true: Tensor, where: Tensor) -> float:
    """Over the pixels `where` [B,1,H,W], of all images together."""
    error = (images - true).square()[where.expand_as(true)].mean()
    return -10 * math.log10(float(error.clamp(min=1e-10)))


def _round_trip(images: Tensor) -> Tensor:
    """Images after the autoencoder, which all generated ones have passed."""
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    with torch.no_grad():
        parts = [
            preview.decode(checkpoint, preview.encode(checkpoint, x)) for x in images.split(32)
        ]
    return torch.cat(parts)


def _show(
    resources: Resources, cases: Cases, images_by_way: Mapping[str, Tensor], prefix: str
) -> None:
    """The sheet of the first scenes; of several people the slots of the first one."""
    each = [cases.people(i) for i in range(SHOWN)]
    maps = semantic_map.color_image(torch.stack([cases.maps[k].amax(0) for k in each]))
    maps = maps.movedim(-1, 1)
    slots = [_slots(_retrieved(resources, cases.looks[k[0]]), resources.memory) for k in each]
    generated = [images_by_way[name] for name in ("base", "region", "training_free", "appearance")]
    columns = [cases.truth.rgb[:SHOWN], maps, torch.stack(slots), *(p[:SHOWN] for p in generated)]
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{prefix}appearance.jpg"
    preview.save_sheet(torch.stack(columns, 1).flatten(0, 1), file, columns=len(columns))


def _slots(parts: Sequence[memory.Part], source: memory.Memory) -> Tensor:
    """The nearest slots of the first parts in a row each [3, IMAGE_SIZE, IMAGE_SIZE]."""
    canvas, size = torch.ones(IMAGE_SIZE, IMAGE_SIZE, 3), part_crops.THUMBNAIL
    edge = (PITCH - size) // 2
    for row, part in enumerate(parts[:THUMBNAILS]):
        thumbnails = source.banks[part.part].thumbnails[part.slots[:THUMBNAILS]] / 255
        for column, thumbnail in enumerate(thumbnails):
            y, x = row * PITCH + edge, column * PITCH + edge
            canvas[y : y + size, x : x + size] = thumbnail
    return canvas.movedim(-1, 0)
