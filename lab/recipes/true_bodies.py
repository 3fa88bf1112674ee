"""The true bodies that generated ones are compared with."""

from __future__ import annotations

from ..evaluators import true_bodies
from . import worlds
from .recipe import NO_TRAINING, Recipe, Run


def train(run: Run) -> None:
    """Read the bodies of renders with the pose and the anatomy network."""
    each = max(2, round(true_bodies.EACH * worlds.share_of(run.work)))
    true_bodies.save(true_bodies.build(each))


RECIPE = Recipe("true-bodies", NO_TRAINING, train)
