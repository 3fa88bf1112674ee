"""The blueprints are what the tool makes of the example workflows, and whole."""

import json
from collections import Counter

import pytest
from vitruvian.tools import blueprints
from vitruvian.tools.blueprints import BLUEPRINTS, BROUGHT, FOLDER, INPUT, OUTPUT, SAVED

FILES = sorted(path.name for path in FOLDER.glob("*"))
FAMILIES = {"z_image", "qwen_image", "flux", "flux2_klein", "krea2", "anima"}


@pytest.fixture(params=sorted(BLUEPRINTS))
def job(request):
    return request.param, BLUEPRINTS[request.param]


def read(title):
    file = json.loads((FOLDER / f"{title} (Vitruvian).json").read_text(encoding="utf-8"))
    (subgraph,) = file["definitions"]["subgraphs"]
    return file, subgraph


def workflow_of(job):
    return json.loads((blueprints.WORKFLOWS / f"{job.workflow}.json").read_text(encoding="utf-8"))


def test_the_files_are_what_the_tool_makes():
    """`python3 dev.py blueprints` makes them anew."""
    texts = blueprints.texts()
    assert sorted(texts) == FILES
    assert [name for name, text in texts.items() if (FOLDER / name).read_text() != text] == []


def test_the_main_jobs_and_all_families_have_one():
    workflows = {job.workflow for job in BLUEPRINTS.values()}
    assert {f"two_people_{family}" for family in FAMILIES} <= workflows
    assert {
        "pose_editor",
        "people_from_a_photograph",
        "repair_hands",
        "hands_first",
        "appearance_from_image",
    } <= workflows


def test_all_nodes_but_what_is_brought_and_saved_are_inside(job):
    title, of = job
    file, subgraph = read(title)
    inside = Counter(node["type"] for node in subgraph["nodes"])
    nodes = Counter(node["type"] for node in workflow_of(of)["nodes"])
    left_out = Counter({type: count for type, count in nodes.items() if type in (*BROUGHT, *SAVED)})
    assert inside == nodes - left_out
    assert [node["type"] for node in file["nodes"]] == [subgraph["id"]]
    assert subgraph["outputs"]


def test_every_link_is_known_at_both_of_its_ends(job):
    _, subgraph = read(job[0])
    nodes = {node["id"]: node for node in subgraph["nodes"]}
    for link in subgraph["links"]:
        if link["origin_id"] == INPUT:
            start = subgraph["inputs"][link["origin_slot"]]
            assert link["id"] in start["linkIds"]
        else:
            start = nodes[link["origin_id"]]["outputs"][link["origin_slot"]]
            assert link["id"] in start["links"]
        if link["target_id"] == OUTPUT:
            end = subgraph["outputs"][link["target_slot"]]
            assert end["linkIds"] == [link["id"]]
        else:
            end = nodes[link["target_id"]]["inputs"][link["target_slot"]]
            assert end["link"] == link["id"]
        assert start["type"] == link["type"]
        assert end["type"] in (link["type"], "COMBO")
    ids = [link["id"] for link in subgraph["links"]]
    assert len(ids) == len({*ids})
    assert subgraph["state"]["lastLinkId"] >= max(ids)


def test_names_of_inputs_differ_and_are_those_of_the_node_outside(job):
    file, subgraph = read(job[0])
    (outside,) = file["nodes"]
    for side in ("inputs", "outputs"):
        names = [slot["name"] for slot in subgraph[side]]
        assert len(names) == len({*names})
        assert [slot["name"] for slot in outside[side]] == names


def test_what_an_artist_changes_lies_outside(job):
    _, subgraph = read(job[0])
    names = {slot["name"] for slot in subgraph["inputs"]}
    assert names & {"prompts", "text"} or job[1].workflow == "pose_editor"
    assert names & {"seed", "noise_seed"}
    assert names & {"ckpt_name", "unet_name"}


def test_all_of_them_have_ids_of_their_own():
    ids = [read(title)[1]["id"] for title in BLUEPRINTS]
    assert len(ids) == len({*ids})
