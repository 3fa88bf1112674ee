"""Test distances of sets of features against Gaussians whose distance is known."""

import pytest
import torch
from vitruvian.lab.evaluators import bodies
from vitruvian.lab.evaluators.frechet import frechet, frechet_error, frechet_unbiased

FEATURES = 48
SCALE = torch.arange(1, FEATURES + 1, dtype=torch.float64) ** -0.7
SHIFT, GROWTH = 0.3, 1.2
# |mean difference|^2, and the difference of the deviations, over independent axes
DISTANCE = float(((SHIFT * SCALE) ** 2 + ((GROWTH - 1) * SCALE) ** 2).sum())


def gaussians(count, seed):
    g = torch.Generator().manual_seed(seed)
    narrow = torch.randn(count, FEATURES, generator=g, dtype=torch.float64) * SCALE
    wide = torch.randn(count, FEATURES, generator=g, dtype=torch.float64) * SCALE
    return narrow, GROWTH * wide + SHIFT * SCALE


def average(of, count, seeds=24):
    return sum(of(*gaussians(count, seed)) for seed in range(seeds)) / seeds


def test_the_unbiased_distance_does_not_hang_on_the_count():
    for count in (250, 700):
        assert average(frechet_unbiased, count) == pytest.approx(DISTANCE, rel=0.08), count
    assert average(frechet, 250) > 1.3 * DISTANCE
    assert average(frechet, 250) > average(frechet, 700) * 1.15


def test_two_sets_that_are_alike_have_an_unbiased_distance_of_about_zero():
    alike = [
        frechet_unbiased(gaussians(300, 2 * s)[0], gaussians(300, 2 * s + 1)[0]) for s in range(16)
    ]
    assert abs(sum(alike) / 16) < 0.02 * DISTANCE
    assert frechet(gaussians(300, 0)[0], gaussians(300, 1)[0]) > 0.1 * DISTANCE


def test_the_error_is_how_far_sets_of_the_same_size_are_apart():
    distances = torch.tensor([frechet(*gaussians(300, seed)) for seed in range(100, 160)])
    errors = torch.tensor([frechet_error(*gaussians(300, seed)) for seed in range(100, 108)])
    assert float(errors.mean()) == pytest.approx(float(distances.std()), rel=0.3)


def test_too_few_samples_are_refused():
    few = gaussians(60, 0)
    with pytest.raises(ValueError, match="at least 96 samples of 48 features, found 60"):
        frechet_unbiased(*few)


def test_bodies_give_the_same_distances():
    assert bodies.frechet is frechet and bodies.frechet_unbiased is frechet_unbiased
