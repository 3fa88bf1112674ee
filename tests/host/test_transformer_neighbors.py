"""The host's nodes and stand-ins of other packs beside Compose Instances on transformers: two equal
people are the plain model with the same node, and two different ones are not, with its effect.

`dev.py bench neighbors` tries every node beside both modes in both orders. Here each takes turns.
"""

import pytest
import torch
from vitruvian.host.registration import register
from vitruvian.lab.neighbors import families, laws, table
from vitruvian.lab.neighbors.stand_ins import STAND_INS

if not families.known_families():
    pytest.skip("the settings of the networks are those of newer hosts", allow_module_level=True)
register()
NODES = [*table.transformer_nodes(), *STAND_INS]
METHODS = list(families.PAIRS)
SAME_NETWORK = {*families.MAIN, "flux2_dev", "flux2_klein_9b", "sd35_large", "wan21_1b"}
OTHERS = [family for family in families.known_families() if family not in SAME_NETWORK]


def wrong(outcomes):
    return [
        outcome for outcome in outcomes if outcome.verdict == laws.WRONG or not_allowed(outcome)
    ]


def not_allowed(outcome):
    """Only the mode couple refuses, and only nodes that compare positive and negative."""
    is_right = outcome.node in table.COMPARES_CHUNKS and outcome.method.startswith("couple")
    return outcome.verdict == laws.REFUSED and not is_right


@pytest.mark.parametrize("node", NODES)
def test_a_node_beside_people_on_the_main_families(node):
    number, orders = NODES.index(node), laws.orders(node)
    with torch.inference_mode():
        outcomes = [
            laws.judge_on(family, node, METHODS[k % 2], orders[k // 2 % len(orders)])
            for k, family in enumerate(families.MAIN, number)
        ]
    assert wrong(outcomes) == []
    equal = sum(outcome.verdict == laws.EQUAL for outcome in outcomes)
    if node not in table.COMPARES_CHUNKS:
        assert (equal > 0) == (node not in table.IDLE_ON_TRANSFORMERS), outcomes


@pytest.mark.parametrize("node", ["NAGuidance", "joint_attention_by_chunk"])
def test_people_beside_a_node_that_compares_positive_and_negative(node):
    if node not in NODES:
        pytest.skip(f"this host has no {node}")
    with torch.inference_mode():
        exact, couple = (laws.judge_on("flux1", node, method, laws.BEHIND) for method in METHODS)
    assert exact.verdict == laws.EQUAL
    assert couple.verdict == laws.REFUSED
    assert couple.reason.startswith("Compose Instances: another node patches what attention gives")
    assert "Set mode to exact" in couple.reason


@pytest.mark.parametrize("family", OTHERS)
def test_one_node_of_each_kind_beside_people_on_every_family(family):
    with torch.inference_mode():
        outcomes = [
            laws.judge_on(family, node, "exact on transformers", laws.orders(node)[-1])
            for node in families.ONE_OF_EACH_KIND
            if node in NODES
        ]
    assert wrong(outcomes) == []
    equal = sum(outcome.verdict == laws.EQUAL for outcome in outcomes)
    assert equal >= len(outcomes) // 3, outcomes
