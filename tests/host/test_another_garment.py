"""Another garment class is one line: the choices of the nodes follow from the table of classes."""

import pytest
import torch
from vitruvian.host.registration import register
from vitruvian.models import semantic_map as shipped
from vitruvian.tests.pack_copy import with_kimono

register()

KIMONO = len(shipped.CLASSES)


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    copy = with_kimono(tmp_path_factory.mktemp("kimono"))
    yield copy
    copy.forget()


def choices(node):
    """The options of each of a node's choice inputs, by the name of the input."""
    inputs = node.define_schema().inputs
    return {entry.id: entry.options for entry in inputs if getattr(entry, "options", None)}


def test_nodes_of_semantic_maps_offer_it(pack):
    nodes = pack.load("nodes.semantic_map")
    assert "kimono" in choices(nodes.VitruvianAddPartToSemanticMap)["part"]
    assert "kimono" in choices(nodes.VitruvianMaskFromSemanticMap)["part_group"]
    from_pose = choices(nodes.VitruvianSemanticMapFromPose)
    assert "kimono" in from_pose["upper"] and "kimono" not in from_pose["lower"]
    assert KIMONO in nodes.GROUPS[nodes.ALL_CLOTHING] and KIMONO in nodes.GROUPS[nodes.PERSON]
    assert any(
        str(KIMONO) in option for option in choices(nodes.VitruvianSemanticMapFromColors)["palette"]
    )


def test_a_part_of_it_is_added_and_shown(pack):
    nodes = pack.load("nodes.semantic_map")
    (labels,) = nodes.VitruvianAddPartToSemanticMap.execute(torch.ones(1, 8, 8), "kimono").args
    assert (labels == KIMONO).all()
    _, image = nodes.VitruvianShowSemanticMap.execute(labels).args
    colors = nodes.VitruvianSemanticMapFromColors
    options = choices(colors)
    read = colors.execute(image, options["palette"][0], 1.0, options["if_unknown_color"][0], "")
    assert torch.equal(read.args[0], labels)


def test_memories_show_it(pack):
    nodes = pack.load("nodes.memory")
    assert "kimono" in nodes.NAMES
    offered = [choices(node) for node in nodes.NODES]
    assert any("kimono" in options for inputs in offered for options in inputs.values())
