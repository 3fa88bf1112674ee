"""The blueprints on a running server: it lists them, knows all that is in them, and runs them."""

import json
from pathlib import Path
from urllib.error import HTTPError

import pytest
from vitruvian.batch.vitruvian_batch import workflow
from vitruvian.batch.vitruvian_batch.trouble import Trouble
from vitruvian.tests.blueprint_graphs import complete, inner_types, inside_out, read
from vitruvian.tests.shipped import skip_older
from vitruvian.tools.blueprints import BLUEPRINTS

titles = pytest.mark.parametrize("title", sorted(BLUEPRINTS))


@pytest.fixture(scope="module")
def info(server):
    return server.get("/object_info")


@pytest.fixture(scope="module")
def listed(server):
    """The server's blueprints of this pack, by name."""
    try:
        entries = server.get("/global_subgraphs")
    except (HTTPError, Trouble):
        pytest.skip("this host reads no blueprints from packs")
    return {
        entry["name"]: {**entry, "id": id}
        for id, entry in entries.items()
        if entry["info"]["node_pack"] == "custom_nodes.vitruvian"
    }


def test_the_server_lists_all_of_them(listed):
    assert sorted(listed) == sorted(f"{title} (Vitruvian)" for title in BLUEPRINTS)


@titles
def test_the_server_hands_it_out_as_it_is(server, listed, title):
    entry = listed[f"{title} (Vitruvian)"]
    assert json.loads(server.get(f"/global_subgraphs/{entry['id']}")["data"]) == read(title)


@titles
def test_every_node_inside_exists(info, title):
    skip_older(BLUEPRINTS[title].workflow, info)
    assert inner_types(title) - set(info) == set()


@titles
def test_it_says_what_its_workflow_says(info, api, title):
    name = BLUEPRINTS[title].workflow
    skip_older(name, info)
    flow = workflow.build(Path(f"{title}.json"), complete(title), info)
    assert inside_out(flow.nodes) == inside_out(api(name))


def test_two_people_from_nothing_runs(server, info, mini_weights):
    flow = workflow.build(Path("blueprint.json"), complete("Two People from Nothing"), info)
    (sampler,) = [n for n in flow.nodes.values() if n["class_type"] == "KSampler"]
    sampler["inputs"]["steps"] = 2
    outputs = server.wait(server.queue(flow.nodes))
    files = [file for output in outputs.values() for file in output.get("images", ())]
    assert [file["type"] for file in files] == ["output"]
