"""What evaluators read in images of one person each, prompt by prompt, and the figures of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..evaluators import bodies, posenet, true_bodies
from ..evaluators.frechet import LEAST, frechet, frechet_error, frechet_unbiased
from ..world.scenes import ACTIONS, FULL, Scenes, sample_scenes
from . import intervals

ANATOMY, ACTION, FD, DRIFT = "anatomy", "action", "fd", "drift"
FEWEST = 8  # images whose halves have a covariance, which LAPACK crashes without


class Judged(NamedTuple):
    """Hold what N prompts with S seeds each show."""

    anatomy: Tensor  # [N,S] 1: the body has every limb once and of human proportions
    action: Tensor  # [N,S] 1: the pose is the action's that the prompt names
    drift: Tensor  # [N,S] mean difference to the base's image outside the bodies
    features: Tensor  # [N,S,F] of the pose network

    def first_seed(self) -> Judged:
        """Select the images of the first seed."""
        return Judged(*(values[:, :1] for values in self))

    def at(self, rows: Sequence[int]) -> Judged:
        """Select prompts."""
        return Judged(*(values[list(rows)] for values in self))


class Judge:
    """Compare images with true bodies and with the base's images."""

    def __init__(self, actions: Tensor) -> None:
        """`actions` [N] are those that the prompts name."""
        self.net, self.true, self.actions = posenet.load_posenet(), true_bodies.load(), actions

    def read(self, images: Tensor) -> bodies.Read:
        """Read the bodies in images [B,3,H,W]."""
        return bodies.read(self.net, images)

    def judge(
        self, images: Tensor, rows: Sequence[int], base: Tensor, base_read: bodies.Read
    ) -> Judged:
        """Judge the images [B,3,H,W] of the prompts at `rows`, of one seed; [B,1]."""
        read = bodies.read(self.net, images)
        named = bodies.name_actions(read.joints, self.true) == self.actions[list(rows)]
        complete = bodies.are_complete(read, self.true)
        drift = _drifts(images, base, read.joints, base_read.joints)
        results = complete.float(), named.float(), drift, read.features
        return Judged(*(values[:, None] for values in results))


def true_people(count: int, seed: int) -> Scenes:
    """Draw whole people, one in each scene."""
    return sample_scenes(count, seed, framing=FULL, people=1)


def balanced_people(count: int, seed: int) -> Scenes:
    """Draw scenes of one whole person each, in which every action comes equally often, give or take
    one.
    """
    drawn = true_people(3 * count + 10 * len(ACTIONS), seed)
    rows_by_action = [(drawn.people.action == k).nonzero()[:, 0] for k in range(len(ACTIONS))]
    rows = [rows_by_action[k % len(ACTIONS)][k // len(ACTIONS)] for k in range(count)]
    return drawn.take(torch.stack(rows).sort().values)


def _drifts(images: Tensor, base: Tensor, joints: Tensor, base_joints: Tensor) -> Tensor:
    """Average the difference of each image to the base's outside both bodies, [B]."""
    size = images.shape[-1]
    free = bodies.surroundings(joints, size) & bodies.surroundings(base_joints, size)
    off = (images - base).abs().mean(1)
    return (off * free).sum((1, 2)) / free.sum((1, 2)).clamp(min=1)


def figures(name: str, judged: Judged, fidelity: Tensor) -> dict[str, float]:
    """Compute a way's figures, each with its interval over the prompts."""
    return {
        **intervals.mean(judged.anatomy.mean(1), f"{name}_{ANATOMY}"),
        **intervals.mean(judged.action.mean(1), f"{name}_{ACTION}"),
        **intervals.mean(judged.drift.mean(1), f"{name}_{DRIFT}"),
        **_distance_figure(f"{name}_{FD}", judged.features, fidelity),
    }


def _distance_figure(name: str, features: Tensor, fidelity: Tensor) -> dict[str, float]:
    """Estimate the Frechet distance of features [N,S,F] if there were any number of images; of
    too few for that, as in a quick run, the distance of these; of fewer than FEWEST nothing.
    """
    images = features.flatten(0, 1)
    if len(images) < FEWEST:
        return {}
    enough = min(len(images), len(fidelity)) >= LEAST * images.shape[1]
    distance = (frechet_unbiased if enough else frechet)(images, fidelity)
    reach = intervals.WILSON * frechet_error(images, fidelity)
    ends = {f"{name}_low": distance - reach, f"{name}_high": distance + reach}
    return {name: distance, **ends, f"{name}_count": len(features)}


def compare(name: str, judged: Judged, baseline: Judged, fidelity: Tensor) -> dict[str, float]:
    """Compute the differences of a way to a baseline on the same images, `<name>_<figure>`, and
    McNemar's p of each yes and no, `<name>_<figure>_p`.

    Distances of as many images are too large by about as much, so their difference is not.
    """
    numbers: dict[str, float] = {}
    for figure in (ANATOMY, ACTION, DRIFT):
        ours, theirs = getattr(judged, figure), getattr(baseline, figure)
        numbers |= intervals.difference(ours.mean(1), theirs.mean(1), f"{name}_{figure}")
        if figure != DRIFT:
            pairs = [(each.flatten() > 0.5).tolist() for each in (ours, theirs)]
            numbers[f"{name}_{figure}_p"] = intervals.mcnemar(*pairs)
    return numbers | intervals.statistic(
        lambda rows: _distance(judged, rows, fidelity) - _distance(baseline, rows, fidelity),
        len(judged.features),
        f"{name}_{FD}",
    )


def _distance(judged: Judged, rows: Tensor, fidelity: Tensor) -> float:
    return frechet(judged.features[rows].flatten(0, 1), fidelity)


def figures_by_action(name: str, judged: Judged, actions: Tensor) -> dict[str, float]:
    """Compute the shares of anatomy and action of the prompts [N] of each action."""
    numbers: dict[str, float] = {}
    for k, action in enumerate(ACTIONS):
        for figure in (ANATOMY, ACTION):
            shares = getattr(judged, figure)[actions == k].mean(1)
            if len(shares):
                key = f"{name}_{figure}_{action.replace(' ', '_')}"
                numbers |= intervals.mean(shares, key)
    return numbers
