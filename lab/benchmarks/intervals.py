"""Say how sure a figure is, and whether two ways differ.

Every function returns a figure under its name, and with `_low`, `_high` and `_count` the interval
of 95 % and how many independent scenes it is of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

WILSON = 1.96  # standard deviations of an interval of 95 %
DRAWS, STATISTIC_DRAWS = 2_000, 200  # of the bootstrap (Efron 1979)
TAILS = (0.025, 0.975)


def wilson(hits: Sequence[bool], name: str) -> dict[str, float]:
    """Compute a share of independent yes and no, and Wilson's interval (Wilson 1927)."""
    n, share = len(hits), sum(hits) / len(hits)
    scale = 1 + WILSON**2 / n
    middle = (share + WILSON**2 / (2 * n)) / scale
    reach = WILSON / scale * math.sqrt(share * (1 - share) / n + WILSON**2 / (4 * n * n))
    return _figure(name, share, max(0.0, middle - reach), min(1.0, middle + reach), n)


def mean(values: Tensor, name: str) -> dict[str, float]:
    """Average the values [N] of independent scenes; ratio() of one part each."""
    return ratio(values, torch.ones(len(values)), name)


def ratio(parts: Tensor, wholes: Tensor, name: str) -> dict[str, float]:
    """Divide the sum of `parts` [N] by that of `wholes` [N], scenes drawn again: garments of the
    named color by all garments of a scene, say.

    ValueError without any.
    """
    if not (total := float(wholes.double().sum())):
        raise ValueError(f"{name}: expected something to count in {len(wholes)} scenes, found none")
    drawn = _rows(len(parts), DRAWS)
    below = wholes.double()[drawn].sum(1)
    shares = (parts.double()[drawn].sum(1) / below)[below > 0]
    return _figure(name, float(parts.double().sum()) / total, *_ends(shares), len(parts))


def difference(values: Tensor, baseline: Tensor, name: str) -> dict[str, float]:
    """Average values - baseline [N], which belong to the same scenes."""
    return mean(values.double() - baseline.double(), name)


def ratio_difference(
    parts: Tensor, baseline_parts: Tensor, wholes: Tensor, name: str
) -> dict[str, float]:
    """Subtract the ratio of a baseline from ours, both of the same scenes and `wholes` [N]."""
    return ratio(parts.double() - baseline_parts.double(), wholes, name)


def statistic(of: Callable[[Tensor], float], count: int, name: str) -> dict[str, float]:
    """Compute `of`(rows), a figure of the scenes at these rows, such as a Frechet distance."""
    drawn = torch.tensor([of(rows) for rows in _rows(count, STATISTIC_DRAWS)])
    return _figure(name, of(torch.arange(count)), *_ends(drawn.double()), count)


def mcnemar(hits: Sequence[bool], baseline_hits: Sequence[bool]) -> float:
    """Compute the probability that two ways which are alike differ as much on the same scenes
    (McNemar 1947, exact and two-sided).
    """
    pairs = list(zip(hits, baseline_hits, strict=True))
    ours, theirs = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    n, k = ours + theirs, min(ours, theirs)
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)


def _rows(count: int, draws: int) -> Tensor:
    return torch.randint(count, (draws, count), generator=torch.Generator().manual_seed(0))


def _ends(drawn: Tensor) -> tuple[float, float]:
    low, high = drawn.quantile(torch.tensor(TAILS, dtype=drawn.dtype)).tolist()
    return low, high


def _figure(name: str, value: float, low: float, high: float, count: int) -> dict[str, float]:
    return {name: value, f"{name}_low": low, f"{name}_high": high, f"{name}_count": count}
