"""The batch runner's conversion of saved workflows against the front end's own graphToPrompt."""

import json
from pathlib import Path

import pytest
from vitruvian.batch.vitruvian_batch import workflow
from vitruvian.batch.vitruvian_batch.trouble import BadInput
from vitruvian.batch.vitruvian_batch.workflow import Target
from vitruvian.lab.benchmarks.templates import compare, differences, queue, templates
from vitruvian.tests.browser.hard_workflows import NEWER, workflows
from vitruvian.tests.shipped import skip_older as skip_lacking

ROOT = Path(__file__).parents[2]
HARD = workflows()
# The front end of ComfyUI 0.3.64 runs what is inside a muted subgraph, loses what a subgraph's node
# shows if the subgraphs are listed in another order, and fails on Primitive nodes inside of one.
OLDER_FAULTS = {
    "nested_muted",
    "nested_muted_inside",
    "primitive_into_a_subgraph",
    "primitive_inside_a_subgraph",
    "listed_widgets",
    "listed_widgets_without_values",
    "listed_widgets_with_a_lost_one",
}
PER_KIND = 3  # templates


@pytest.fixture(scope="module")
def info(server):
    return server.get("/object_info")


@pytest.fixture(scope="module")
def is_older(info):
    return "CustomCombo" not in info


def skip_older(name, is_older):
    if is_older and name in NEWER:
        pytest.skip("this host has no such class")
    if is_older and name in OLDER_FAULTS:
        pytest.skip("a fault of this front end")


@pytest.mark.parametrize("name", HARD)
def test_a_hard_workflow(page, info, is_older, name):
    skip_older(name, is_older)
    flow = workflow.build(Path(f"{name}.json"), HARD[name], info)
    assert compare(flow, queue(page, HARD[name]), info) == []


@pytest.mark.parametrize("path", sorted((ROOT / "workflows").glob("*.json")), ids=lambda p: p.stem)
def test_an_example(page, info, path):
    skip_lacking(path.stem, info)
    saved = workflow.read(path)
    assert compare(workflow.build(path, saved, info), queue(page, saved), info) == []


def test_templates_of_every_kind(page, info):
    """A few of ComfyUI's own for each thing that is hard; `dev.py bench templates` has them all."""
    selection = choose(info)
    assert len(selection) >= 10
    wrong = {}
    for path, saved in selection.items():
        different = compare(workflow.build(path, saved, info), queue(page, saved), info)
        if different:
            wrong[path.stem] = different
    assert wrong == {}


def choose(info):
    """path -> workflow: three for each kind, of those whose classes are all there."""
    counts, selection = {}, {}
    for path in templates():
        saved = json.loads(path.read_text(encoding="utf-8-sig"))
        graphs = [saved, *saved.get("definitions", {}).get("subgraphs", [])]
        nodes = [node for graph in graphs for node in graph["nodes"]]
        not_asked_for = {graph["id"] for graph in graphs[1:]} | set(workflow.NOTES)
        kinds = {node["type"] for node in nodes}
        if not (kinds - not_asked_for) <= info.keys() or "Load3D" in kinds:
            continue
        things = kinds & {"Reroute", "PrimitiveNode", "CustomCombo", "ResizeImageMaskNode"}
        things |= {"bypassed"} if any(node.get("mode") == 4 for node in nodes) else set()
        things |= {"muted"} if any(node.get("mode") == 2 for node in nodes) else set()
        things |= {f"{len(graphs) > 2} subgraphs"} if len(graphs) > 1 else set()
        things |= {
            key for node in nodes for key in node.get("properties", {}) if key == "proxyWidgets"
        }
        things |= {
            slot["name"].split(".")[0]
            for node in nodes
            for slot in node.get("inputs", ())
            if "." in slot["name"]
        }
        if any(counts.get(thing, 0) < PER_KIND for thing in things or {"plain"}):
            selection[path] = saved
            for thing in things or {"plain"}:
                counts[thing] = counts.get(thing, 0) + 1
    return selection


@pytest.mark.parametrize("name", HARD)
def test_the_image_opens_as_its_row_was_run(page, info, is_older, name):
    """Every number and text is changed by a row: the front end queues the filled workflow so."""
    skip_older(name, is_older)
    flow = workflow.build(Path(f"{name}.json"), HARD[name], info)
    values, by_widget = {}, {}
    for (node, key), field in flow.fields.by_input.items():
        value = flow.nodes[node]["inputs"][key]
        if field.kind == "INT" and type(value) is int:
            value = by_widget.setdefault(field.number, max(1, value // 2))
        elif field.kind == "STRING" and key != "filename_prefix" and "{" not in value:
            value = by_widget.setdefault(field.number, f"{value} and more")
        else:
            continue
        values[Target(node, key)] = value
    truth = queue(page, workflow.fill_ui(flow, values))
    ours = workflow.queued(flow, values)
    if name in ("shown_widgets",):  # a subgraph is copied for one of its nodes, under new numbers
        assert sorted(map(str, contents(truth["prompt"]))) == sorted(map(str, contents(ours)))
    else:
        assert differences(truth["prompt"], ours, info) == []


def contents(prompt):
    return [
        {key: value for key, value in node["inputs"].items() if not isinstance(value, list)}
        for node in prompt.values()
    ]


def test_one_of_several_inputs_that_share_a_widget(page, info):
    """A row that changes one of them takes it off the Primitive node, and the others stay."""
    saved = HARD["primitive_for_several"]
    flow = workflow.build(Path("flow.json"), saved, info)
    values = {Target("2", "width"): 48}
    truth = queue(page, workflow.fill_ui(flow, values))
    assert differences(truth["prompt"], workflow.queued(flow, values), info) == []
    assert truth["prompt"]["2"]["inputs"]["width"] == 48
    assert truth["prompt"]["3"]["inputs"]["width"] == 4096


def test_another_option_of_a_dynamic_combo(page, info, is_older):
    skip_older("dynamic_combo", is_older)
    flow = workflow.build(Path("flow.json"), HARD["dynamic_combo"], info)
    values = {Target("3", "resize_type"): "scale width", Target("2", "resize_type.multiplier"): 2}
    truth = queue(page, workflow.fill_ui(flow, values))
    ours = workflow.queued(flow, values)
    assert differences(truth["prompt"], ours, info) == []
    assert ours["3"]["inputs"]["resize_type.width"] == 512
    assert "resize_type.height" not in ours["3"]["inputs"]


def test_every_class_of_the_host(page, info):
    """One node of each class, as it is created; then as the front end saves that."""
    kinds = [kind for kind, entry in info.items() if "LOAD_3D" not in json.dumps(entry)]
    kinds = [kind for kind in kinds if "WEBCAM" not in json.dumps(info[kind])]
    nodes = [{"id": n, "type": kind, "mode": 0} for n, kind in enumerate(kinds, 1)]
    flow = {"last_node_id": len(nodes), "last_link_id": 0, "nodes": nodes, "links": []}
    flow |= {"groups": [], "config": {}, "extra": {}, "version": 0.4}
    truth = queue(page, flow)["prompt"]
    saved = page.evaluate("() => JSON.parse(JSON.stringify(app.graph.serialize()))")
    assert len(truth) == len(kinds) > 300
    assert unlike(truth, workflow.build(Path("new.json"), flow, info).nodes) == []
    again = queue(page, saved)["prompt"]
    assert unlike(again, workflow.build(Path("saved.json"), saved, info).nodes) == []


def unlike(truth, ours):
    """Differences without the inputs that name files: there are none on this host."""
    lines = differences(truth, ours, {})
    return [line for line in lines if not line.startswith(("LoadImage", "LoadVideo"))]


def test_what_only_a_browser_can_run_is_refused(info):
    node = {"id": 3, "type": "WebcamCapture", "mode": 0}
    with pytest.raises(BadInput, match=r"node 3 \('Webcam Capture'\) takes its image with"):
        workflow.build(Path("flow.json"), {"nodes": [node], "links": []}, info)
