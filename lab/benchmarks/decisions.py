"""Decide a claim by its figures: shown where the difference's interval leaves out zero, else
denied.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

HIGHER, LOWER = "higher", "lower"  # which of two figures is the better one
SHOWN, DENIED = "shown", "denied"


class Claim(NamedTuple):
    """Say what is claimed and by whom."""

    paper: str
    words: str
    better: str = HIGHER


class Evidence(NamedTuple):
    """Name the keys of a benchmark's numbers that decide a claim."""

    figure: str
    baseline: str
    difference: str  # figure - baseline, with an interval
    test: str  # how the interval came about, in words
    ceiling: str | None = None
    p: float | None = None


def decide(claim: Claim, numbers: Mapping[str, Any], evidence: Evidence) -> dict[str, Any]:
    """Collect the figures of a claim and the verdict.

    ValueError for a figure that lies above its ceiling by more than both their intervals: then the
    ceiling is none.
    """
    low, high = (numbers[f"{evidence.difference}_{end}"] for end in ("low", "high"))
    _check_ceiling(claim, numbers, evidence)
    is_shown = low > 0 if claim.better == HIGHER else high < 0
    figure, ceiling = evidence.figure, evidence.ceiling
    return {
        "paper": claim.paper,
        "claim": claim.words,
        "verdict": SHOWN if is_shown else DENIED,
        "figure": numbers[figure],
        "figure_low": numbers[f"{figure}_low"],
        "figure_high": numbers[f"{figure}_high"],
        "count": numbers[f"{figure}_count"],
        "baseline": numbers[evidence.baseline],
        "difference": numbers[evidence.difference],
        "difference_low": low,
        "difference_high": high,
        "ceiling": None if ceiling is None else numbers[ceiling],
        "test": evidence.test,
        "p": evidence.p,
    }


def refuse_goal_above_ceiling(goals: Mapping[str, float], numbers: Mapping[str, Any]) -> None:
    """Raise ValueError for a goal, the least that a figure is to be, above what the evaluator reads
    in true images.
    """
    for name, goal in goals.items():
        ceiling = numbers.get(f"{name}_ceiling")
        if ceiling is not None and goal > ceiling:
            raise ValueError(
                f"{name}: expected a goal below the ceiling {ceiling:.3f}, found {goal:.3f}: "
                "nothing generated can reach it"
            )


def _check_ceiling(claim: Claim, numbers: Mapping[str, Any], evidence: Evidence) -> None:
    if evidence.ceiling is None:
        return
    end, best = ("low", "high") if claim.better == HIGHER else ("high", "low")
    ceiling = numbers.get(f"{evidence.ceiling}_{best}", numbers[evidence.ceiling])
    over = numbers[f"{evidence.figure}_{end}"] - ceiling
    if over > 0 if claim.better == HIGHER else over < 0:
        raise ValueError(
            f"{claim.words}: expected a figure below its ceiling {ceiling:.3f}, found "
            f"{numbers[evidence.figure]:.3f}: the evaluator's ceiling is none"
        )
