"""Every node of the host that takes part in a sampling, and stand-ins for other packs, beside our
methods: two equal people are one ordinary sampling, and strength 0 is not there.

`dev.py bench neighbors` tries every node beside every method in both orders. Here each node meets
two modes of composing and, in turns, two of the other methods.
"""

import pytest
import torch
from comfy_extras import nodes_easycache
from vitruvian.host.registration import register
from vitruvian.lab.neighbors import laws, methods, table
from vitruvian.lab.neighbors.stand_ins import STAND_INS

register()
NODES = [*(name for name in table.sampling_nodes() if name in table.TRIED), *STAND_INS]
# behind Compose Instances these change the weights, and a LoRA in them as well; a person's LoRA
# stands beside the weights
CHANGES_WEIGHTS = (
    "ModelMergeBlocks",
    "ModelMergeSimple",
    "UNetCrossAttentionMultiply",
    "UNetSelfAttentionMultiply",
    "UNetTemporalAttentionMultiply",
)
OTHER_PROMPTS = "PerpNeg", "PerpNegGuider"  # one that is nobody's, so without anybody's LoRA
IN_PARTS = "tiled_self_attention", "attention_couple"  # whose parts no share tells apart
OTHERS = [name for name in methods.PAIRS if not name.startswith("compose")]


@pytest.fixture(scope="module")
def loaded(mini_weights):
    return methods.load()


def test_every_node_of_the_host_is_tried_or_has_a_reason():
    tried = table.TRIED.keys() | table.ON_TRANSFORMERS.keys()
    missing = set(table.sampling_nodes()) - tried - table.NOT_TRIED.keys()
    assert not missing, f"try these in lab/neighbors/table.py: {sorted(missing)}"
    assert not tried & table.NOT_TRIED.keys()


def turns(node):
    """The methods beside a node, each with an order."""
    number, orders = NODES.index(node), laws.orders(node)
    yield from (("compose exact, one negative", order) for order in orders)
    yield "compose couple", orders[number % len(orders)]
    for k in (number, number + 1):
        yield OTHERS[k % len(OTHERS)], orders[(number // 2 + k) % len(orders)]


@pytest.mark.parametrize("node", NODES)
def test_a_node_beside_our_methods(loaded, node):
    if node == "EasyCache" and not hasattr(nodes_easycache.EasyCacheHolder, "can_apply_cache_diff"):
        pytest.skip("this host's EasyCache adds what it keeps of one prompt to the rows of all")
    with torch.inference_mode():
        outcomes = [laws.judge(node, method, order, loaded) for method, order in turns(node)]
    assert [outcome for outcome in outcomes if outcome.verdict != laws.EQUAL] == []


@pytest.mark.parametrize(
    "node", [name for name in NODES if name not in (*OTHER_PROMPTS, *IN_PARTS)]
)
def test_a_node_beside_loras_of_people(loaded, node):
    if node == "EasyCache" and not hasattr(nodes_easycache.EasyCacheHolder, "can_apply_cache_diff"):
        pytest.skip("this host's EasyCache adds what it keeps of one prompt to the rows of all")
    number, orders = NODES.index(node), laws.orders(node)
    order = orders[0] if node in CHANGES_WEIGHTS else orders[number % len(orders)]
    method = list(methods.WITH_LORAS)[number // 2 % len(methods.WITH_LORAS)]
    with torch.inference_mode():
        assert laws.judge(node, method, order, loaded).verdict == laws.EQUAL


@pytest.mark.parametrize("node", IN_PARTS)
def test_what_reads_the_image_in_parts_beside_loras_of_people(loaded, node):
    with torch.inference_mode():
        exact, couple = (laws.judge(node, m, "before", loaded) for m in methods.WITH_LORAS)
    assert (exact.verdict, couple.verdict) == (laws.EQUAL, laws.REFUSED)
