"""Intervals, paired tests and the decisions that follow from them."""

import math

import pytest
import torch
from vitruvian.lab.benchmarks import decisions, intervals, kept, sheets


def test_a_mean_s_interval_is_what_the_normal_law_says():
    torch.manual_seed(1)
    values = torch.randn(400) * 2 + 5
    numbers = intervals.mean(values, "x")
    reach = 1.96 * float(values.std()) / math.sqrt(400)
    assert numbers["x"] == pytest.approx(float(values.mean()), abs=1e-5)
    assert numbers["x_count"] == 400
    assert numbers["x_high"] - numbers["x"] == pytest.approx(reach, rel=0.1)
    assert numbers["x"] - numbers["x_low"] == pytest.approx(reach, rel=0.1)


def test_an_interval_holds_the_truth_nineteen_times_of_twenty():
    torch.manual_seed(2)
    held = 0
    for _ in range(200):
        numbers = intervals.mean(torch.rand(60), "x")
        held += numbers["x_low"] <= 0.5 <= numbers["x_high"]
    assert 180 <= held <= 199


def test_a_ratio_counts_parts_and_draws_scenes():
    wholes = torch.tensor([4.0, 1.0, 0.0, 3.0])
    numbers = intervals.ratio(torch.tensor([4.0, 0.0, 0.0, 3.0]), wholes, "x")
    assert numbers["x"] == 7 / 8
    assert numbers["x_low"] == 0.0  # a draw of the second scene alone
    assert numbers["x_high"] == 1.0
    with pytest.raises(ValueError, match="found none"):
        intervals.ratio(torch.zeros(3), torch.zeros(3), "x")


def test_pairs_are_surer_than_two_groups():
    torch.manual_seed(3)
    scenes = torch.randn(100) * 10
    ours, theirs = scenes + 0.5 + torch.randn(100) * 0.1, scenes
    paired = intervals.difference(ours, theirs, "x")
    assert paired["x_low"] > 0.4
    apart = intervals.mean(ours, "a")["a_low"] - intervals.mean(theirs, "b")["b_high"]
    assert apart < 0
    both = intervals.ratio_difference(ours, theirs, torch.ones(100), "x")
    assert both == paired


def test_a_statistic_is_drawn_again():
    values = torch.arange(50).double()
    numbers = intervals.statistic(lambda rows: float(values[rows].std()), 50, "x")
    assert numbers["x"] == pytest.approx(float(values.std()))
    assert numbers["x_low"] < numbers["x"] < numbers["x_high"]


@pytest.mark.parametrize(
    ("ours", "theirs", "p"), [(0, 0, 1.0), (5, 5, 1.0), (6, 0, 2 / 64), (8, 2, 112 / 1024)]
)
def test_mcnemar_is_the_binomial_of_those_that_differ(ours, theirs, p):
    hits = [True] * ours + [False] * theirs + [True] * 9
    baseline = [False] * ours + [True] * theirs + [True] * 9
    assert intervals.mcnemar(hits, baseline) == pytest.approx(p)


NUMBERS = {
    **intervals.mean(torch.full((9,), 0.8), "ours"),
    **intervals.mean(torch.full((9,), 0.6), "theirs"),
    "ceiling": 0.9,
    "d": 0.2,
    "d_low": 0.1,
    "d_high": 0.3,
}


@pytest.mark.parametrize(
    ("low", "high", "better", "verdict"),
    [
        (0.1, 0.3, decisions.HIGHER, "shown"),
        (-0.01, 0.3, decisions.HIGHER, "denied"),
        (0.1, 0.3, decisions.LOWER, "denied"),
        (-0.3, -0.1, decisions.LOWER, "shown"),
        (-0.3, 0.0, decisions.LOWER, "denied"),
    ],
)
def test_a_claim_is_shown_where_the_interval_leaves_out_zero(low, high, better, verdict):
    claim = decisions.Claim("a paper", "ours is better", better)
    numbers = {**NUMBERS, "d_low": low, "d_high": high}
    row = decisions.decide(claim, numbers, decisions.Evidence("ours", "theirs", "d", "bootstrap"))
    assert row["verdict"] == verdict
    assert row["figure"] == pytest.approx(0.8)
    assert row["count"] == 9


def test_no_figure_lies_above_its_ceiling():
    claim = decisions.Claim("a paper", "ours is better")
    evidence = decisions.Evidence("ours", "theirs", "d", "bootstrap", ceiling="ceiling")
    assert decisions.decide(claim, NUMBERS, evidence)["ceiling"] == 0.9
    with pytest.raises(ValueError, match="ceiling"):
        decisions.decide(claim, {**NUMBERS, "ceiling": 0.7}, evidence)
    unsure = {**NUMBERS, "ceiling": 0.7, "ceiling_low": 0.6, "ceiling_high": 0.85}
    assert decisions.decide(claim, unsure, evidence)["ceiling"] == 0.7


def test_no_goal_lies_above_its_ceiling():
    numbers = {"hit": 0.5, "hit_ceiling": 0.8}
    decisions.refuse_goal_above_ceiling({"hit": 0.79, "other": 2.0}, numbers)
    with pytest.raises(ValueError, match="hit: expected a goal below the ceiling 0.800"):
        decisions.refuse_goal_above_ceiling({"hit": 0.81}, numbers)


def test_images_are_generated_once(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return torch.rand(2, 3, 8, 8)

    first = kept.kept_images(tmp_path, "exact", [3, 5], make)
    assert torch.equal(kept.kept_images(tmp_path, "exact", [3, 5], make), first)
    assert len(calls) == 1
    kept.kept_images(tmp_path, "exact", slice(3, 5), make)
    kept.kept_images(tmp_path, "couple", [3, 5], make)
    assert len(calls) == 3
    assert torch.equal(kept.kept_images(None, "exact", [3], lambda: first), first)


def test_a_sheet_has_room_for_its_words(tmp_path):
    images = torch.zeros(2, 3, 3, 40, 60)
    file = tmp_path / "sheet.png"
    sheets.save_labeled(images, file, ["a", "b", "c"])
    from PIL import Image

    bare = Image.open(file).size
    texts = [["1", "2", "3"]] * 2
    sheets.save_labeled(images, file, ["a", "b", "c"], ["a woman standing", "a man"], texts)
    labeled = Image.open(file)
    assert labeled.size == (bare[0] + sheets.PROMPT, bare[1] + 2 * sheets.VALUE)
    ink = torch.tensor(list(labeled.convert("L").tobytes())).view(labeled.size[::-1]) < 200
    assert ink[sheets.HEAD :, : sheets.PROMPT].any()
    assert ink[: sheets.HEAD, sheets.PROMPT :].any()
