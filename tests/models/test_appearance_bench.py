"""What the benchmark of appearance draws, counts and decides."""

import re
from typing import NamedTuple

import pytest
import torch
from vitruvian.lab.benchmarks import appearance as bench
from vitruvian.lab.benchmarks import appearance_judge as judging
from vitruvian.lab.benchmarks import appearance_memories as memories
from vitruvian.lab.benchmarks import appearance_scenes as people
from vitruvian.lab.benchmarks import appearance_ways as ways
from vitruvian.lab.evaluators import clothnet
from vitruvian.lab.recipes import dressed
from vitruvian.lab.world.scenes import COLORS, FULL, PATTERNS, sample_scenes
from vitruvian.models import semantic_map
from vitruvian.models.appearance import Alignment, PartFeatures, Sizes

RED, BLUE, GREEN, PINK = ([*COLORS].index(name) for name in ("red", "blue", "green", "pink"))
TRUE = clothnet.Reading(0, "top", RED, 1, RED, 1, (BLUE, GREEN))


class Loaded(NamedTuple):
    """Stand for the layers that the host has loaded."""

    alignment: Alignment


@pytest.fixture(scope="module")
def cases():
    return people.new_cases(3, 4_000_000)


def counts(right, garments=4):
    n = len(right)
    columns = {name: torch.full((n,), float(garments)) for name in judging.Counts._fields}
    return judging.Counts(**{**columns, "right": torch.tensor(right).float()})


def test_what_is_right_and_what_leaks():
    assert judging.right(TRUE) and not judging.leaks(TRUE)
    assert not judging.right(TRUE._replace(pattern=2))
    assert judging.right(TRUE._replace(garment="shoes", pattern=2))
    assert judging.leaks(TRUE._replace(color=BLUE))
    assert not judging.leaks(TRUE._replace(color=PINK))
    assert not judging.leaks(TRUE._replace(others=(RED,)))


def test_readings_are_counted_image_by_image():
    wrong_pattern = TRUE._replace(pattern=2)
    leaking_shoes = TRUE._replace(person=2, garment="shoes", color=BLUE, pattern=3)
    columns = judging.counted([TRUE, wrong_pattern, leaking_shoes], 3)
    garments, right, colors, leaks, woven, patterns = (column.tolist() for column in columns)
    assert garments == [2, 0, 1] and right == [1, 0, 0] and colors == [2, 0, 0]
    assert leaks == [0, 0, 1] and woven == [2, 0, 0] and patterns == [1, 0, 0]


def test_differences_are_of_the_scenes_that_both_ways_have():
    ours, theirs = counts([4, 4, 0, 0]), counts([2, 4])
    numbers = ours.minus(theirs, "a_minus_b")
    assert numbers["a_minus_b_part_acc"] == pytest.approx(2 / 8)
    assert numbers["a_minus_b_part_acc_count"] == 2
    assert numbers["a_minus_b_leak"] == 0
    assert ours.figures("a")["a_part_acc"] == pytest.approx(8 / 16)


def test_scenes_of_the_benchmark_are_held_out_and_bare_prompts_name_no_clothes(cases):
    words = {*COLORS, *PATTERNS, "wearing", "top", "shoes", "skirt", "trousers", "hat", "hair"}
    assert len(cases.scenes) == len(cases.scenes.people) == 3
    for looks, bare, caption in zip(cases.looks, cases.bare, cases.captions, strict=True):
        bottom = semantic_map.SKIRT if semantic_map.SKIRT in looks else semantic_map.PANTS
        assert dressed.is_held_out(looks[semantic_map.TOP]) and dressed.is_held_out(looks[bottom])
        assert bare.startswith("a person, ") and caption.endswith(bare.removeprefix("a person"))
        assert not words & {*re.findall("[a-z]+", bare)}


def test_the_first_cases_keep_their_own_truth(cases):
    first = cases.first(2)
    assert len(first.scenes) == len(first.truth.rgb) == len(first.truth.body) == 2
    assert first.captions == cases.captions[:2] and torch.equal(first.maps, cases.maps[:2])
    assert len(cases.first(9).looks) == 3


@pytest.mark.parametrize("number", range(30))
def test_new_tops_are_held_out_and_of_another_color(number):
    color, pattern = people.new_top(BLUE, number)
    assert color != BLUE
    assert ([*COLORS][color], PATTERNS[pattern], "top") in dressed.HELD_OUT


def test_people_in_other_tops_keep_all_else(cases):
    others = people.with_other_tops(cases)
    for look, other_look in zip(cases.looks, others.looks, strict=True):
        changed = {part for part in look if look[part] != other_look[part]}
        assert changed == {semantic_map.TOP} and dressed.is_held_out(other_look[semantic_map.TOP])
    assert others.truth is cases.truth and others.bare == cases.bare


def test_a_wardrobe_is_of_one_color_and_pattern():
    scenes = memories.in_wardrobe(sample_scenes(4, 1, framing=FULL, people=1), "blue", "dotted")
    for looks in people.cases_of(scenes).looks:
        assert looks[semantic_map.TOP] == "blue dotted top"
        assert looks[semantic_map.PANTS] == "blue dotted trousers"
        assert looks[semantic_map.FOOTWEAR] == "blue shoes"
        assert semantic_map.HEADWEAR not in looks and semantic_map.SKIRT not in looks


def test_only_the_memory_from_outside_holds_the_combinations(monkeypatch, mini_weights):
    cut, kinds = dressed.cut_scenes, []

    def watched(scenes):
        crops = cut(scenes)
        kinds.append([dressed.is_held_out(phrase) for phrase in crops.phrases])
        return crops

    monkeypatch.setattr(dressed, "cut_scenes", watched)
    built = [memories.outside_memory(held_out, renders=12) for held_out in (True, False)]
    assert any(kinds[0]) and not any(kinds[1])
    assert [sum(len(bank) for bank in memory.banks.values()) for memory in built] == [
        len(kind)
        for kind in kinds  # few enough that each crop is a slot
    ]


def test_one_scale_leaves_the_layer_of_that_scale_as_it_is():
    torch.manual_seed(0)
    alignment = Alignment({0: 32, 2: 32, 4: 64}, Sizes(features=8, width=32)).eval()
    alignment.requires_grad_(False)
    for parameter in alignment.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    layers = ways.Layers(Loaded(alignment), None)
    alone = ways.one_scale(layers, 4).appearance.alignment
    assert alone.channels == {4: 64} and alignment.channels == {0: 32, 2: 32, 4: 64}
    parts = PartFeatures(
        torch.randn(1, 24, 8),
        torch.ones(1, 24).bool(),
        torch.ones(1, 24),
        torch.randint(24, (1, 8, 8)).byte(),
    )
    h = torch.randn(1, 64, 8, 8)
    results = []
    for each in (alignment, alone):
        tokens = each.tokens(parts.features, parts.has_feature)
        results.append(each.at(4)(h, each.at(4).align(tokens, parts, (8, 8))))
    assert torch.equal(*results) and results[0].abs().max() > 0


def test_what_is_outside_a_top_is_compared_outside_only():
    before, masks = torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4)
    masks[..., :2] = 1
    inside, outside = before.clone(), before.clone()
    inside[..., :2], outside[..., 2:] = 1.0, 0.1
    assert ways.outside_psnr(inside, before, masks) == pytest.approx(100)
    assert ways.outside_psnr(outside, before, masks) == pytest.approx(20, abs=1e-3)


def test_every_claim_is_decided_by_its_own_pair():
    better, worse, none = counts([4, 3, 4] * 8), counts([1, 2, 1] * 8), counts([0] * 24)
    names = {name for pair in bench.PAIRS for name in pair} | {"ceiling"}
    best = counts([4] * 24)._replace(leaks=torch.zeros(24))
    better = better._replace(leaks=torch.tensor([1.0, 0, 1] * 8))
    all_counts = dict.fromkeys(names, worse) | {"outside": better, "ceiling": best}
    all_counts["no_memory"], all_counts["words_outside"] = better, none
    numbers = bench.figures(all_counts)
    numbers |= {f"edit_part_acc{end}": 0.5 for end in ("", "_low", "_high", "_count")}
    numbers |= {"words_edit_part_acc": 0.4, "edit_minus_words_edit_part_acc": 0.1}
    numbers |= {f"edit_minus_words_edit_part_acc_{end}": s for end, s in (("low", -1), ("high", 1))}
    decisions = bench.decided(numbers)
    verdicts = [decision["verdict"] for decision in decisions]
    # words, known, text's own features, masks, scales, both, leak, edit
    assert verdicts == ["shown", "shown", "denied", "shown", "shown", "denied", "shown", "denied"]
    assert decisions[0]["baseline"] == pytest.approx(1 / 3)
    assert decisions[0]["difference"] == pytest.approx(decisions[0]["figure"] - 1 / 3)
