"""Every node is found by words that people type, and says so to the host."""

import asyncio
import re

import pytest
import vitruvian
from comfy_api.latest import io
from vitruvian.nodes.search_aliases import SEARCH_ALIASES

MOST_WORDS = 4
TABLE = "nodes/search_aliases.py"


@pytest.fixture(scope="module")
def nodes():
    extension = asyncio.run(vitruvian.comfy_entrypoint())
    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(extension.get_node_list())}


def test_every_node_has_aliases_and_nothing_else_has(nodes):
    assert set(SEARCH_ALIASES) == set(nodes), f"the rows of {TABLE} are not those of the nodes"
    assert [node for node, words in SEARCH_ALIASES.items() if len(words) < 2] == []


def test_aliases_are_a_few_lower_case_words():
    odd = [
        f"{node}: {alias}"
        for node, aliases in SEARCH_ALIASES.items()
        for alias in aliases
        if not re.fullmatch(r"[a-z0-9-]+( [a-z0-9-]+)*", alias) or len(alias.split()) > MOST_WORDS
    ]
    assert odd == []


def test_no_alias_says_what_the_name_says(nodes):
    """The search finds the name and any part of it anyway."""
    said = [
        f"{node}: {alias}"
        for node, aliases in SEARCH_ALIASES.items()
        for alias in aliases
        if alias in nodes[node].GET_SCHEMA().display_name.lower()
    ]
    assert said == []


def test_no_node_has_an_alias_twice():
    assert [node for node, words in SEARCH_ALIASES.items() if len(set(words)) < len(words)] == []


def test_the_host_sends_them_to_its_search(nodes):
    if not hasattr(io.Schema("any"), "search_aliases"):
        pytest.skip("this host knows no aliases")
    sent = {name: node.GET_NODE_INFO_V1()["search_aliases"] for name, node in nodes.items()}
    assert sent == {name: list(words) for name, words in SEARCH_ALIASES.items()}


def test_a_node_stays_what_it_was_without_them(nodes):
    """What the table adds is a class above the node's: its name and file are the node's own."""
    for module in vitruvian.nodes.MODULES:
        for plain in module.NODES:
            node = nodes[plain.define_schema().node_id]
            assert (node.__name__, node.__module__) == (plain.__name__, plain.__module__)
            assert node.execute.__func__ is plain.execute.__func__
