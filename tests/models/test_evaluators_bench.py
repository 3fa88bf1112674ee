"""Test the figures of the benchmark of the evaluators."""

import pytest
import torch
from vitruvian.lab.benchmarks import evaluators as bench


def yes_or_no(share, count, seed=0):
    g = torch.Generator().manual_seed(seed)
    hits = (torch.rand(count, generator=g, dtype=torch.float64) < share).double()
    return bench.Values(hits, torch.ones_like(hits))


def test_so_many_images_find_five_points_in_80_of_100_tries():
    count = bench.images_needed(yes_or_no(0.5, 20_000), 0.05)
    assert count == pytest.approx(1_570, rel=0.02)
    g = torch.Generator().manual_seed(1)
    one, other = (
        (torch.rand(2_000, count, generator=g) < share).float() for share in (0.475, 0.525)
    )
    error = (one.var(1) / count + other.var(1) / count).sqrt()
    share = ((other.mean(1) - one.mean(1)) / error > 1.96).float().mean()
    assert float(share) == pytest.approx(0.8, abs=0.04)


def test_scenes_that_say_more_weigh_more():
    """Two joints of a scene that agree are as good as one."""
    single = yes_or_no(0.3, 1_000)
    double = bench.Values(2 * single.parts, 2 * single.wholes)
    assert bench.images_needed(double, 0.05) == bench.images_needed(single, 0.05)


def test_figures_of_an_evaluator():
    ceiling, again, null = (yes_or_no(*pair) for pair in ((0.9, 400), (0.9, 400, 5), (0.1, 400)))
    numbers = bench.figures({"x": ceiling}, {"x": null}, {"x": again})
    assert numbers["x"] == pytest.approx(float(ceiling.parts.mean()))
    assert numbers["x_null_low"] < numbers["x_null"] < numbers["x_null_high"] < 0.2
    assert numbers["x_spread"] == pytest.approx(abs(numbers["x"] - numbers["x_again"]))
    assert numbers["x_images"] < numbers["x_images_half"] < 1_700
    assert numbers["x_count"] == numbers["x_null_count"] == numbers["x_again_count"] == 400


def test_five_points_of_an_error_are_a_part_of_its_span():
    values, null = yes_or_no(0.5, 400), yes_or_no(0.9, 400)
    tenfold, tenfold_null = (bench.Values(10 * v.parts, v.wholes) for v in (values, null))
    numbers = bench.figures(
        {"depth": values, "normal": tenfold},
        {"depth": null, "normal": tenfold_null},
        {"depth": values, "normal": tenfold},
    )
    assert numbers["depth_images"] == numbers["normal_images"]


def test_shuffled_images_hold_the_same_tiles():
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    mixed = bench.shuffled(images)
    assert not torch.equal(mixed, images)
    for before, after in zip(images, mixed, strict=True):
        tiles = [
            sorted(
                image[:, y : y + 4, x : x + 4].flatten().tolist()
                for y in range(0, 16, 4)
                for x in range(0, 16, 4)
            )
            for image in (before, after)
        ]
        assert tiles[0] == tiles[1]


def test_every_other_scene_is_the_null():
    mixed = bench.Values(torch.ones(4), torch.ones(4)).mixed(
        bench.Values(torch.zeros(4), torch.full((4,), 2.0))
    )
    assert mixed.parts.tolist() == [1, 0, 1, 0]
    assert mixed.wholes.tolist() == [1, 2, 1, 2]
