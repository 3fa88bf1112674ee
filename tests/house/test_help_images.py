"""Every image of a help page has a row in the table, and what the rows name exists."""

import json
from pathlib import Path

import pytest
from vitruvian.batch.vitruvian_batch.trouble import Trouble
from vitruvian.lab.templates import help_images

SCHEMAS = json.loads(Path(__file__).with_name("schemas.json").read_text(encoding="utf-8"))
HOST_OUTPUTS = {
    "ImageBatch": ["IMAGE"],
    "ImageBlend": ["IMAGE"],
    "LoadImage": ["IMAGE", "MASK"],
    "LoadImageMask": ["MASK"],
    "PreviewImage": [],
    "SaveImage": [],
    "VAEDecode": ["IMAGE"],
}
INFO = {kind: {"output": types} for kind, types in HOST_OUTPUTS.items()} | {
    kind: {"output": [output["type"] for output in schema["outputs"]]}
    for kind, schema in SCHEMAS.items()
}
ROWS = {name: row for name, row in help_images.table().items() if "by_hand" not in row}


@pytest.fixture(params=ROWS)
def row(request):
    return ROWS[request.param]


def panels(row):
    return [help_images.as_dict(one) for strip in help_images.rows_of(row) for one in strip]


def graphs(row):
    """The graph of each panel with its changes, and the panel; of a screen its only graph."""
    if "screen" in row:
        return [(help_images.edited(row), {})]
    return [(help_images.edited(row, one.get("set")), one) for one in panels(row)]


def test_every_image_has_a_row():
    files = sorted(help_images.FOLDER.glob("*.jpg"))
    assert files == sorted(help_images.path(name) for name in help_images.table())


def test_every_panel_is_an_output_that_can_be_shown(row):
    for graph, panel in graphs(row):
        if panel:
            source, _ = help_images.output_of(graph, panel["of"], INFO)
            assert source in graph


def test_every_node_of_a_screen_exists(row):
    graph = help_images.edited(row)
    columns = [*row.get("screen", []), row.get("run", []), row.get("heights", {})]
    ids = [help_images.find(graph, node) for column in columns[:-2] for node in column]
    assert len(ids) == len(set(ids))
    for node in [node for column in columns[-2:] for node in column]:
        help_images.find(graph, node)


def test_inputs_are_those_of_the_nodes(row):
    for graph, _ in graphs(row):
        for node in graph.values():
            if schema := SCHEMAS.get(node["class_type"]):
                names = {socket["name"] for socket in schema["inputs"]}
                assert node["inputs"].keys() <= names, node["class_type"]


def test_wires_begin_at_nodes(row):
    for graph, _ in graphs(row):
        values = [value for node in graph.values() for value in node["inputs"].values()]
        assert [v for v in values if isinstance(v, list) and v[0] not in graph] == []


def test_a_node_that_is_not_there_is_named():
    with pytest.raises(Trouble, match="KSampler 9"):
        help_images.find(help_images.edited({"example": "two_people"}), "KSampler 9")


def test_changes_and_wires_reach_the_graph():
    row = {
        "example": "two_people",
        "set": {"KSampler.seed": 3, "Second.cfg": 2},
        "add": {"Second": {"like": "KSampler", "positive": "@ComposeInstances:2"}},
    }
    before, graph = (help_images.edited(one) for one in ({"example": "two_people"}, row))
    first, second = (help_images.find(graph, name) for name in ("KSampler 1", "Second"))
    inputs = before[first]["inputs"]
    compose = help_images.find(graph, "ComposeInstances")
    assert graph[first]["inputs"] == {**inputs, "seed": 3}
    assert graph[second]["inputs"] == {**inputs, "cfg": 2, "positive": [compose, 2]}
    assert help_images.edited(row, {"KSampler.seed": 4})[first]["inputs"]["seed"] == 4
    assert help_images.edited({"example": "two_people"}) == before
