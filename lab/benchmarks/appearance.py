"""Clothes in words, through a memory of real textures: does each garment get the look that is
asked for, and its neighbors not?

On unseen people of the mini world, one in each image, whose tops and bottoms are of combinations of
color, pattern and garment that neither encoder nor alignment was trained on (the base was). The
same poses and seeds for all, through the host's own nodes; settings were chosen on other people.
  bare           a prompt that names no clothes: "a person, standing, in a park, full body"
  words          a prompt that names all clothes
  outside        the bare prompt; a memory of 600 unseen renders with all combinations answers the
                 words (Retrieve Appearance, Apply Appearance); it was built in `outside_seconds`
  known          the same with a memory of as many renders without the combinations
  shipped        the same with the memory in weights/
  words_outside  the prompt that names all clothes, and the memory from outside
  no_memory      the bare prompt and the texts' own features, which no memory has refreshed
  one_scale      as outside, with the layer of the finest scale only
  no_alignment   as outside, with layers trained without the parts' masks, where they are there
Of each:
  <x>_part_acc     share of garments of the named color and, of tops and bottoms, the named pattern
  <x>_color_acc    share of the named color
  <x>_pattern_acc  share of tops and bottoms of the named pattern
  <x>_leak         share of the color of another garment of the image
  <x>_pck          share of joints that the pose network finds where they belong
  <x>_minus_<y>_...  the difference on the same scenes
`ceiling`: the evaluators on the true images after a round trip through the autoencoder.
`edit_part_acc`: tops of true images inpainted from other words and the memory, inside their own
mask grown a little; `words_edit`, from the words alone; `..._outside_psnr` of what is not the top.
`wardrobe_color_acc`: one prompt, the same words, weights and seeds, and another memory each time:
share of garments of the memory's only color. `cost`: sampling time over that of the words alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from tqdm import tqdm

from ...models import memory, memory_file, semantic_map
from ..evaluators.autoencoded import round_trip
from ..recipes import appearance
from ..recipes import memory as memory_recipe
from ..training import preview
from ..world.scenes import COLORS, FULL, sample_scenes
from . import appearance_memories as memories
from . import host, kept
from .appearance_judge import Counts, Judge, right
from .appearance_scenes import Cases, cases_of, new_cases, with_other_tops
from .appearance_ways import (
    Way,
    applied,
    edit,
    generate,
    load_layers,
    one_scale,
    outside_psnr,
    prompted,
    top_mask,
)
from .decisions import LOWER, Claim, Evidence, decide
from .intervals import difference, mean, ratio
from .mini import RESULTS, UNSEEN
from .sheets import save_labeled

PEOPLE, FEWER, FEWEST, EDITS, DRESSED = 100, 60, 30, 40, 8  # images
QUICK, QUICK_RENDERS = 3, 60  # images of every way, and renders of a memory
COSTED = 6  # images whose sampling is timed, besides one that warms up
COUNTS = {"known": FEWER, "no_memory": FEWER, "one_scale": FEWER, "bare": FEWEST}
PAIRS = (
    ("outside", "words"),
    ("outside", "known"),
    ("outside", "shipped"),
    ("outside", "no_memory"),
    ("outside", "one_scale"),
    ("outside", "no_alignment"),
    ("outside", "bare"),
    ("words_outside", "words"),
)
WARDROBE_LOOKS = {
    semantic_map.TOP: "a top",
    semantic_map.PANTS: "trousers",
    semantic_map.FOOTWEAR: "shoes",
}
HEADS = {
    "truth": "true image",
    "bare": "bare prompt",
    "words": "words in the prompt",
    "known": "memory without these",
    "outside": "memory from outside",
    "words_outside": "words and memory",
}
SHOWN, SHOWN_SIZE = 3, 120  # rows of a sheet, and pixels of its images
PAPER, TEST = "HumanDiffusion", "paired bootstrap over scenes"
LEFT_OUT = f"{TEST}; the other scales are left out when sampling, not in training"
ACCURACY = "part_acc"


class Setup(NamedTuple):
    """Hold what all measurements need."""

    loaded: host.Loaded
    judge: Judge
    folder: Path | None  # of kept memories and images


def run(quick: bool) -> dict[str, Any]:
    """Measure appearance against its baselines; the numbers of results/appearance.json.

    Also writes appearance.jpg beside it and appearance_memories.jpg: the same prompt and seeds with
    three memories.
    """
    most, renders = (QUICK, QUICK_RENDERS) if quick else (PEOPLE, memories.RENDERS)
    loaded = host.load(preview.CHECKPOINT.name, preview.POSE_CONTROLNET.name)
    setup = Setup(loaded, Judge(), kept.folder(f"appearance-{renders}"))
    cases, start = new_cases(most, UNSEEN + 500), time.perf_counter()
    outside = _kept_memory(setup, "outside", held_out=True, renders=renders)
    numbers: dict[str, Any] = {"outside_seconds": time.perf_counter() - start}
    lacking = _kept_memory(setup, "known", held_out=False, renders=renders)
    ways = _ways(loaded, outside, lacking)
    images = {
        name: _images(setup, name, way, cases.first(COUNTS.get(name, PEOPLE)))
        for name, way in ways.items()
    }
    images["ceiling"] = round_trip(cases.truth.rgb)
    counts = {name: setup.judge.count(each, cases) for name, each in images.items()}
    numbers |= figures(counts)
    _show(images, counts, cases)
    numbers |= _edited(setup, outside, cases.first(EDITS))
    numbers |= _wardrobes(setup, min(most, DRESSED))
    numbers |= _cost(loaded, ways, cases)
    return numbers | {"decided": decided(numbers)}


def _kept_memory(setup: Setup, name: str, held_out: bool, renders: int) -> memory.Memory:
    """Build a memory of renders, or read the one in the folder of kept images."""
    if setup.folder is None:
        return memories.outside_memory(held_out, renders)
    file = setup.folder / f"{name}.safetensors"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        memory_file.save(file, memories.outside_memory(held_out, renders))
    return memory_file.load(file)


def _ways(loaded: host.Loaded, outside: memory.Memory, lacking: memory.Memory) -> dict[str, Way]:
    layers = load_layers(appearance.APPEARANCE, outside)
    ways = {
        "bare": prompted(loaded, words=False),
        "words": prompted(loaded, words=True),
        "known": applied(loaded, layers._replace(garments=lacking)),
        "shipped": applied(
            loaded, layers._replace(garments=memory_file.load(memory_recipe.MEMORY))
        ),
        "outside": applied(loaded, layers),
        "words_outside": applied(loaded, layers, words=True),
        "no_memory": applied(loaded, layers, blend=1.0),
        "one_scale": applied(loaded, one_scale(layers)),
    }
    if appearance.NO_ALIGNMENT.is_file():
        ways["no_alignment"] = applied(loaded, load_layers(appearance.NO_ALIGNMENT, outside))
    return ways


def _images(setup: Setup, name: str, way: Way, cases: Cases) -> Tensor:
    """All images of one way, [N,3,H,W]."""
    images = [
        kept.kept_images(setup.folder, name, [i], partial(generate, setup.loaded, way, cases, i))
        for i in tqdm(range(len(cases.bare)), desc=name, mininterval=10)
    ]
    return torch.cat(images)


def figures(counts: Mapping[str, Counts]) -> dict[str, float]:
    """Compute the shares of every way and the differences of PAIRS, with intervals."""
    numbers = dict[str, float]()
    for name, each in counts.items():
        numbers |= each.figures(name)
    for name, baseline in PAIRS:
        if baseline in counts:
            numbers |= counts[name].minus(counts[baseline], f"{name}_minus_{baseline}")
    return numbers


def decided(numbers: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Decide what the paper claims, and what we claim of it."""
    claims = [
        ("A memory gives the clothes that are asked for better than words in the prompt", "words"),
        ("Clothes that no layer was trained on come right once the memory holds them", "known"),
        ("What the memory answers serves better than the text's own features", "no_memory"),
    ]
    if "no_alignment_part_acc" in numbers:
        claims.append(("Attention inside a part's own mask gives better clothes", "no_alignment"))
    decisions = [
        decide(Claim(PAPER, words), numbers, _evidence("outside", baseline, ACCURACY))
        for words, baseline in claims
    ]
    scales = Claim(PAPER, "Alignment at several scales gives better clothes than at one scale")
    together = Claim(PAPER, "Words and memory together give the clothes better than words alone")
    leak = Claim(PAPER, "A memory lets fewer colors leak than words in the prompt", LOWER)
    tops = Claim(PAPER, "A top is edited more faithfully with a memory than by words alone")
    return [
        *decisions,
        decide(scales, numbers, _evidence("outside", "one_scale", ACCURACY, LEFT_OUT)),
        decide(together, numbers, _evidence("words_outside", "words", ACCURACY)),
        decide(leak, numbers, _evidence("outside", "words", "leak")),
        decide(tops, numbers, _evidence("edit", "words_edit", ACCURACY)),
    ]


def _evidence(way: str, baseline: str, share: str, test: str = TEST) -> Evidence:
    pair = f"{way}_minus_{baseline}_{share}"
    ceiling = None if way == "edit" else f"ceiling_{share}"  # edits are of fewer people
    return Evidence(f"{way}_{share}", f"{baseline}_{share}", pair, test, ceiling)


def _edited(setup: Setup, outside: memory.Memory, cases: Cases) -> dict[str, float]:
    """Measure tops that are inpainted from other words."""
    dressed_anew, before, loaded = with_other_tops(cases), cases.truth.rgb, setup.loaded
    layers = load_layers(appearance.APPEARANCE, outside)
    ways = {"edit": applied(loaded, layers, words=True), "words_edit": prompted(loaded, words=True)}
    masks = torch.cat([top_mask(cases, i) for i in range(len(before))])
    numbers, hits = dict[str, float](), dict[str, Tensor]()
    for name, way in ways.items():
        edits = [
            kept.kept_images(setup.folder, name, [i], partial(edit, loaded, way, dressed_anew, i))
            for i in tqdm(range(len(before)), desc=name, mininterval=10)
        ]
        after = torch.cat(edits)
        readings = setup.judge.read(after, dressed_anew)
        tops = [right(reading) for reading in readings if reading.garment == "top"]
        hits[name] = torch.tensor(tops).float()
        numbers |= mean(hits[name], f"{name}_{ACCURACY}")
        numbers[f"{name}_outside_psnr"] = outside_psnr(after, before, masks)
    pair = f"edit_minus_words_edit_{ACCURACY}"
    return numbers | difference(hits["edit"], hits["words_edit"], pair)


def _wardrobes(setup: Setup, count: int) -> dict[str, float]:
    """Change the memory, not the weights: the same prompts, words and seeds with each wardrobe."""
    scenes = sample_scenes(count, UNSEEN + 600, framing=FULL, people=1)
    cases = cases_of(memories.in_wardrobe(scenes, *memories.WARDROBES["red stripes"]))
    columns = [_images(setup, "wardrobe-none", prompted(setup.loaded, words=False), cases)]
    hits, garments = torch.zeros(count), torch.zeros(count)
    for look in memories.WARDROBES.values():
        layers = load_layers(appearance.APPEARANCE, memories.wardrobe_memory(*look))
        way = applied(setup.loaded, layers, looks=WARDROBE_LOOKS)
        columns.append(_images(setup, f"wardrobe-{look[0]}", way, cases))
        for reading in setup.judge.read(columns[-1], cases):
            hits[reading.person] += reading.color == [*COLORS].index(look[0])
            garments[reading.person] += 1
    heads = ["no memory", *(f"a memory of {name}" for name in memories.WARDROBES)]
    _save("appearance_memories.jpg", columns, heads, cases.bare)
    return ratio(hits, garments, "wardrobe_color_acc")


def _cost(loaded: host.Loaded, ways: Mapping[str, Way], cases: Cases) -> dict[str, float]:
    """Compare the time of sampling with a memory with that of the words alone, in turns."""
    seconds: dict[str, list[float]] = {"outside": [], "words": []}
    for turn in range(1 + min(COSTED, len(cases.bare))):
        for name, each in seconds.items():
            start = time.perf_counter()
            generate(loaded, ways[name], cases, max(0, turn - 1))
            each.append(time.perf_counter() - start)
    outside, words = (sum(each[1:]) for each in seconds.values())
    return {"cost": outside / words}


def _show(images: Mapping[str, Tensor], counts: Mapping[str, Counts], cases: Cases) -> None:
    """The sheet of the first scenes, with how many garments are right."""
    columns = [cases.truth.rgb, *(images[name] for name in HEADS if name != "truth")]
    values = [
        ["", *(_value(counts[name], row) for name in HEADS if name != "truth")]
        for row in range(min(SHOWN, len(cases.bare)))
    ]
    _save("appearance.jpg", columns, [*HEADS.values()], cases.captions, values)


def _value(counts: Counts, row: int) -> str:
    return f"{int(counts.right[row])} of {int(counts.garments[row])} right"


def _save(
    file: str,
    columns: Sequence[Tensor],
    heads: Sequence[str],
    prompts: Sequence[str],
    values: Sequence[Sequence[str]] | None = None,
) -> None:
    rows = min(SHOWN, len(prompts))
    small = [
        interpolate(column[:rows], (SHOWN_SIZE,) * 2, mode="area").clamp(0, 1) for column in columns
    ]
    save_labeled(torch.stack(small, 1), RESULTS / file, heads, prompts[:rows], values)
