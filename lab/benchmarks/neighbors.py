"""How the methods go with everything around them: the host's nodes, workflows, pose files.

Every node of the host that takes part in a sampling (table.py) stands beside every method, before
and behind it; `nodes_equal` counts those that obey the law beside all of them. On transformers the
method is Compose Instances: every node on the families in most use, and one of each kind on all the
others (`families`). `nodes_idle` change nothing on that network; `nodes_inapplicable` can not be
sampled there, also without Compose Instances. The workflows are the host's own templates, converted
for batches and compared with what its front end queues. The pose files are the variants that
programs write.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch

from ...host.registration import register
from ..neighbors import families, laws, methods, table
from ..neighbors.stand_ins import STAND_INS
from .pose_variants import count_variants
from .templates import compare_templates

log = logging.getLogger(__name__)
QUICK_METHODS = ("compose exact, one negative", "compose couple", "human prior")


def run(quick: bool) -> dict[str, Any]:
    """Count the nodes, workflows and pose files; the numbers of results/neighbors.json."""
    register()
    outcomes = list(judge_all(QUICK_METHODS if quick else tuple(methods.PAIRS)))
    variants = count_variants()
    return {
        **count_nodes([each for each in outcomes if each.node not in STAND_INS]),
        "stand_ins": count_nodes([each for each in outcomes if each.node in STAND_INS]),
        "families": count_families(quick),
        "methods": list(QUICK_METHODS if quick else methods.PAIRS),
        "nodes_not_tried": Counter(table.NOT_TRIED.values()),
        **compare_templates(quick),
        "pose_variants_read": len(variants.read),
        "pose_variants_refused": len(variants.refused),
        "pose_variants_wrong": variants.wrong,
    }


def judge_all(names: tuple[str, ...]) -> Iterator[laws.Outcome]:
    """Judge every node of the table and every stand-in beside these methods."""
    loaded = methods.load()
    nodes = [name for name in table.sampling_nodes() if name in table.TRIED]
    with torch.inference_mode():
        for node in (*nodes, *STAND_INS):
            log.info("%s", node)
            for method in names:
                for order in laws.orders(node):
                    yield laws.judge(node, method, order, loaded)


def count_families(quick: bool) -> dict[str, Any]:
    """Count the nodes beside Compose Instances on each transformer family, in both modes."""
    counts = {}
    for family in families.MAIN if quick else families.known_families():
        is_main = family in families.MAIN and not quick
        nodes = [*table.transformer_nodes(), *STAND_INS] if is_main else families.ONE_OF_EACH_KIND
        log.info("%s", family)
        with torch.inference_mode():
            outcomes = [
                laws.judge_on(family, node, method, order)
                for node in nodes
                for method in families.PAIRS
                for order in laws.orders(node)
            ]
        counts[family] = count_nodes(outcomes)
    return counts


def count_nodes(outcomes: list[laws.Outcome]) -> dict[str, Any]:
    """Count the nodes that are equal beside all methods, and list the others with their reasons."""
    verdicts: dict[str, set[str]] = {}
    for each in outcomes:
        verdicts.setdefault(each.node, set()).add(each.verdict)
    counts = {
        "nodes_tried": len(verdicts),
        "nodes_equal": sum(verdict == {laws.EQUAL} for verdict in verdicts.values()),
        "nodes_refused": _reasons(outcomes, laws.REFUSED),
        "nodes_wrong": _reasons(outcomes, laws.WRONG),
    }
    for verdict in (laws.IDLE, laws.INAPPLICABLE):
        if names := sorted({each.node for each in outcomes if each.verdict == verdict}):
            counts[f"nodes_{verdict}"] = names
    return counts


def _reasons(outcomes: list[laws.Outcome], verdict: str) -> dict[str, str]:
    return {
        f"{each.node}, {each.order} {each.method}": each.reason
        for each in outcomes
        if each.verdict == verdict
    }
