"""Published nodes keep their ids, names, types, ranges, defaults and choices.

A change that costs artists nothing passes once the snapshot is renewed: see tests/schemas.py.
"""

import asyncio
import os

import pytest
import vitruvian
from vitruvian.tests import schemas


@pytest.fixture(scope="module")
def nodes():
    extension = asyncio.run(vitruvian.comfy_entrypoint())
    described = [schemas.describe(node) for node in asyncio.run(extension.get_node_list())]
    ids = [node.GET_SCHEMA().node_id for node in asyncio.run(extension.get_node_list())]
    return dict(zip(ids, described, strict=True))


def test_no_saved_workflow_loses_anything(nodes):
    lost = schemas.losses(schemas.read(), nodes) if schemas.SNAPSHOT.exists() else []
    assert lost == [], "\n".join(lost)
    if os.environ.get(schemas.RENEW):
        schemas.write(nodes)


def test_the_snapshot_has_all_that_is_new(nodes):
    assert nodes == schemas.read(), f"after an addition, renew the snapshot: {schemas.COMMAND}"


def test_outputs_avoid_the_ids_of_inputs(nodes):
    """The oldest host refuses a node otherwise."""
    for name, node in nodes.items():
        inputs = {entry["name"] for entry in node["inputs"]}
        assert inputs.isdisjoint(output["id"] for output in node["outputs"]), name


def test_outputs_have_display_names():
    """Without one the oldest host shows the type."""
    extension = asyncio.run(vitruvian.comfy_entrypoint())
    for node in asyncio.run(extension.get_node_list()):
        for output in node.define_schema().outputs:
            assert output.display_name, (node, output.id)
