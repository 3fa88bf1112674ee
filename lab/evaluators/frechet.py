"""Distances of two sets of features as if both were Gaussian (Heusel et al. 2017).

The distance of finite sets is too large, the more so the smaller they are: two counts must never be
compared. `frechet_unbiased` estimates the distance of infinite sets (Chong and Forsyth 2020).
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST = 0.35  # share of a set that the smallest subset takes
SIZES, DRAWS = 12, 2  # of subsets, and how many of each
LEAST = 2  # samples for each feature, below which the distance is no line over 1 / count
HALVES = 60  # for the standard error


def frechet(features: Tensor, true: Tensor) -> float:
    """Compute the Frechet distance of two sets [B,F], [N,F], of these counts."""
    a, b = features.double(), true.double()
    one, other = torch.cov(a.T), torch.cov(b.T)
    # the trace of the root of a product of two covariances is the sum of its eigenvalues' roots
    mixed = torch.linalg.eigvals(one @ other).real.clamp(min=0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + one.trace() + other.trace() - 2 * mixed)


def frechet_unbiased(features: Tensor, true: Tensor) -> float:
    """Estimate the Frechet distance of two sets [B,F], [N,F] if both were infinite.

    The distance of subsets is a line over 1 / count, whose end is taken; so it may fall below zero
    for two alike. ValueError for fewer than 2 F samples.
    """
    g = torch.Generator().manual_seed(0)
    smaller = min(len(features), len(true))
    _check_count(smaller, features.shape[1])
    counts = torch.linspace(SMALLEST, 1, SIZES).mul(smaller).round().long().repeat(DRAWS)
    distances = [
        frechet(_draw(features, count, g), _draw(true, count, g)) for count in counts.tolist()
    ]
    line = torch.stack((torch.ones(len(counts)), 1 / counts), 1).double()
    return float(torch.linalg.lstsq(line, torch.tensor(distances).double()[:, None]).solution[0])


def frechet_error(features: Tensor, true: Tensor) -> float:
    """Estimate the standard error of a distance of two sets [B,F], [N,F].

    Halves drawn without replacement vary as much around their mean as sets as large as these would
    (delete-half jackknife; Shao and Wu 1989). A bootstrap would draw samples twice, which makes
    every distance larger.
    """
    g = torch.Generator().manual_seed(0)
    halves = [
        frechet(_draw(features, len(features) // 2, g), _draw(true, len(true) // 2, g))
        for _ in range(HALVES)
    ]
    return float(torch.tensor(halves).std())


def _check_count(count: int, size: int) -> None:
    if count < LEAST * size:
        raise ValueError(
            f"Frechet distance: expected at least {LEAST * size} samples of {size} features, "
            f"found {count}; take more images."
        )


def _draw(rows: Tensor, count: int, g: torch.Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=g)[:count]]
