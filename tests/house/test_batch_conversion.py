"""Saved workflows without a host: broken files, tokens, choices, a row's values in the image."""

import copy
import json
import random
from datetime import datetime
from pathlib import Path

import pytest
from vitruvian.batch.vitruvian_batch import needs, workflow
from vitruvian.batch.vitruvian_batch.trouble import BadInput
from vitruvian.batch.vitruvian_batch.ui_format.text import choose, replace_tokens
from vitruvian.batch.vitruvian_batch.workflow import Target
from vitruvian.tests.browser.hard_workflows import workflows

HARD = workflows()
WORKFLOWS = {
    name: HARD[name]
    for name in ("core_bypassed_subgraph", "core_primitive", "listed_widgets", "tokens")
}
SIZE = ["INT", {"default": 512, "min": 1, "max": 4096}]
INFO = {
    "EmptyImage": {
        "input": {
            "required": {
                "width": SIZE,
                "height": SIZE,
                "batch_size": ["INT", {"default": 1, "min": 1, "max": 4096}],
                "color": ["INT", {"default": 0, "min": 0, "max": 0xFFFFFF}],
            }
        },
        "output": ["IMAGE"],
    },
    "ImageInvert": {"input": {"required": {"image": ["IMAGE"]}}, "output": ["IMAGE"]},
    "SaveImage": {
        "input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {}]}},
        "output": [],
        "output_node": True,
    },
    "Prompt": {
        "input": {
            "required": {
                "text": ["STRING", {"multiline": True, "dynamicPrompts": True}],
                "seed": ["INT", {"default": 0}],
            }
        },
        "output": ["STRING"],
    },
}


def build(content, name="flow.json"):
    return workflow.build(Path(name), content, INFO)


def case(name):
    return copy.deepcopy(HARD[name])


def inputs(flow):
    return {name: node["inputs"] for name, node in flow.nodes.items()}


# What is queued


def test_a_bypassed_subgraph_passes_through():
    image = {"width": 64, "height": 64, "batch_size": 1, "color": 16711680}
    flow = build(case("core_bypassed_subgraph"))
    assert flow.nodes["1"]["inputs"] == image
    assert [node["class_type"] for node in flow.nodes.values()] == ["EmptyImage", "SaveImage"]
    assert flow.nodes["3"]["inputs"]["images"] == ["1", 0]
    awake = build(case("core_awake_subgraph"))
    assert awake.nodes["3"]["inputs"]["images"] == ["2:1", 0]


def test_a_muted_subgraph_is_gone():
    content = case("core_bypassed_subgraph")
    next(node for node in content["nodes"] if node["mode"] == 4)["mode"] = 2
    flow = build(content)
    assert "images" not in flow.nodes["3"]["inputs"]
    assert "ImageInvert" not in {node["class_type"] for node in flow.nodes.values()}


def test_what_a_bypassed_subgraph_holds_need_not_be_installed():
    content = case("core_bypassed_subgraph")
    content["definitions"]["subgraphs"][0]["nodes"][0]["type"] = "FromAPack"
    assert needs.missing_nodes(content, INFO) == []
    assert build(content).nodes["3"]["inputs"]["images"] == ["1", 0]
    next(node for node in content["nodes"] if node["mode"] == 4)["mode"] = 0
    assert needs.missing_nodes(content, INFO) == ["FromAPack"]
    with pytest.raises(BadInput, match=r"FromAPack \(node 2:1\)"):
        build(content)


def test_a_primitive_gives_the_value_and_shows_the_rows():
    """The rows of cases/batch/prim.csv."""
    flow = build(case("core_primitive"))
    assert flow.nodes["1"]["inputs"]["color"] == 255
    values = {Target("1", "width"): 96, Target("1", "color"): 16711680}
    opened = workflow.fill_ui(flow, values)
    by_id = {node["id"]: node["widgets_values"] for node in opened["nodes"]}
    assert by_id[4][0] == 16711680
    assert by_id[1][:2] == [96, 64]
    assert inputs(build(opened))["1"] == inputs(build(opened))["1"] | {"width": 96}
    assert build(opened).nodes["1"]["inputs"]["color"] == 16711680


# Broken workflows: one line that names the file and the node


def nodes(*entries, **more):
    return {"nodes": list(entries), "links": [], **more}


def holding(name, *kinds):
    inner = [{"id": n, "type": kind} for n, kind in enumerate(kinds, 1)]
    return {"id": name, "name": f"Sub {name}", "nodes": inner, "links": []}


def bomb(levels=40):
    """Every subgraph holds the next one twice."""
    names = [f"s{n}" for n in range(levels)]
    subgraphs = [holding(a, b, b) for a, b in zip(names, names[1:], strict=False)]
    return nodes(
        {"id": 1, "type": "s0"},
        definitions={"subgraphs": [*subgraphs, holding(names[-1], "ImageInvert")]},
    )


IMAGE = {"name": "image", "type": "IMAGE", "link": 1}
BROKEN = {
    "no type": (nodes({"id": 7}), "node 7 has no number or no type"),
    "no number": (nodes({"type": "EmptyImage"}), "node None has no number or no type"),
    "a node that is none": (nodes(3), "nodes of the workflow are not a list"),
    "inputs": (nodes({"id": 7, "type": "A", "inputs": 3}), "node 7: its inputs are not"),
    "values": (nodes({"id": 7, "type": "A", "widgets_values": "x"}), "node 7: its widgets_values"),
    "mode": (nodes({"id": 7, "type": "A", "mode": "on"}), "node 7: its mode"),
    "properties": (nodes({"id": 7, "type": "A", "properties": [1]}), "node 7: its properties"),
    "wire": (nodes(links=[[1, 2]]), "a wire of the workflow cannot be read"),
    "missing wire": (
        nodes({"id": 7, "type": "ImageInvert", "inputs": [IMAGE]}),
        r"node 7 \('ImageInvert'\): the wire of 'image' is missing",
    ),
    "wire to nothing": (
        nodes({"id": 7, "type": "ImageInvert", "inputs": [IMAGE]}, links=[[1, 9, 0, 7, 0, "I"]]),
        "'image' is wired to node 9, which is missing",
    ),
    "circle": (
        nodes(
            {"id": 7, "type": "ImageInvert", "inputs": [IMAGE], "mode": 4, "outputs": []},
            {"id": 8, "type": "ImageInvert", "inputs": [{**IMAGE, "link": 2}]},
            links=[[1, 7, 0, 7, 0, "IMAGE"], [2, 7, 0, 8, 0, "IMAGE"]],
        ),
        "wires go round in a circle",
    ),
    "itself": (
        nodes({"id": 1, "type": "a"}, definitions={"subgraphs": [holding("a", "a")]}),
        "the subgraph 'Sub a' holds itself",
    ),
    "each other": (
        nodes(
            {"id": 1, "type": "a"},
            definitions={"subgraphs": [holding("a", "b"), holding("b", "a")]},
        ),
        "the subgraphs 'Sub a' and 'Sub b' hold each other",
    ),
    "a bomb": (bomb(), "hold more than 100000 nodes"),
    "a group node": (
        nodes({"id": 5, "type": "workflow>My group"}),
        r"group nodes.*My group \(node 5\).*Export \(API\)",
    ),
    "missing classes": (
        nodes({"id": 5, "type": "One"}, {"id": 6, "type": "Two"}, {"id": 7, "type": "One"}),
        r"the host has no node One \(node 5, 7\), Two \(node 6\)",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_workflow(name):
    content, message = BROKEN[name]
    with pytest.raises(BadInput, match=message) as error:
        build(content, "broken.json")
    assert str(error.value).startswith("broken.json: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_whatever_is_damaged_is_read_or_refused_in_one_line(name):
    """Every part of a workflow, replaced by something else in turn."""
    workflow_text = json.dumps(WORKFLOWS[name])
    for path in list(paths(WORKFLOWS[name])):
        for other in (None, 3, -1.5, "x", [], {}, [None], [[]], {"a": 1}, True):
            content = json.loads(workflow_text)
            part = content
            for key in path[:-1]:
                part = part[key]
            part[path[-1]] = other
            try:
                if workflow.is_ui(content):
                    workflow.queued(build(content), {})
            except BadInput as error:
                assert "\n" not in str(error)
            except Exception as error:
                raise AssertionError(f"{path} = {other!r}") from error


def paths(content, path=()):
    entries = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in entries:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from paths(value, (*path, key))


def test_a_value_of_a_packs_own_script_is_not_dropped():
    """As LoRA stackers of packs have them: the host lists no input for it."""
    info = {
        "Stack": {"input": {"required": {"on": ["BOOLEAN"]}}, "python_module": "custom_nodes.x"}
    }
    node = {"id": 4, "type": "Stack", "widgets_values": [True, {"lora": "a.safetensors"}]}
    with pytest.raises(BadInput, match=r"node 4 \('Stack'\) holds \{'lora'.*own script adds \(x\)"):
        workflow.build(Path("flow.json"), nodes(node), info)
    node["widgets_values"] = [True, None, ""]
    assert inputs(workflow.build(Path("flow.json"), nodes(node), info)) == {"4": {"on": True}}


def test_ten_thousand_reroutes():
    """A chain as long as no recursion could follow."""
    count = 10_000
    chain = [
        {"id": n, "type": "Reroute", "inputs": [{"name": "", "type": "*", "link": n - 1}]}
        for n in range(2, count + 2)
    ]
    last = {"id": count + 2, "type": "ImageInvert", "inputs": [{**IMAGE, "link": count + 1}]}
    links = [[n, n, 0, n + 1, 0, "IMAGE"] for n in range(1, count + 2)]
    flow = build({"nodes": [{"id": 1, "type": "EmptyImage"}, *chain, last], "links": links})
    assert flow.nodes[str(count + 2)]["inputs"]["image"] == ["1", 0]


# Texts


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("plain", {"plain"}),
        ("a {cat|dog}", {"a cat", "a dog"}),
        ("{a|{b|c}} x", {"a x", "b x", "c x"}),
        (r"\{a\|b\}", {"{a|b}"}),
        ("a /* b\nc */ d // e\nf", {"a  d \nf"}),
        ("{a|b", {"a", "b"}),
        ("a}b|c", {"a}b|c"}),
        ("{}", {""}),
    ],
)
def test_choices(text, chosen):
    assert {choose(text, random.Random(n)) for n in range(40)} == chosen


def test_choices_too_deep_are_refused():
    with pytest.raises(BadInput, match="100 deep"):
        choose("{" * 5000, random.Random(0))


def test_a_row_always_gets_the_same_choice():
    node = {"id": 1, "type": "Prompt", "widgets_values": ["{a|b|c|d|e|f|g}", 5, "fixed"]}
    flow = build(nodes(node))

    def text(seed):
        return workflow.queued(flow, {Target("1", "seed"): seed})["1"]["inputs"]["text"]

    assert text(5) == text(5)
    assert len({text(seed) for seed in range(30)}) > 3
    assert flow.nodes["1"]["inputs"]["text"] == "{a|b|c|d|e|f|g}"


@pytest.mark.parametrize(
    ("text", "replaced"),
    [
        ("%date:yyyy-MM-dd%/%date:hh.mm.ss%", "2026-03-09/07"),
        ("%date:d.M% %date:yy%", "%date:d.M% 26"),
        ("%KSampler.seed%_%Size.w%", "5_64"),
        ("%KSampler.name%", "a_b_c"),
        ("%Nobody.x% %width% 100%", "%Nobody.x% %width% 100%"),
        ("%KSampler.on%%KSampler.half%", "true0.5"),
    ],
)
def test_tokens(text, replaced):
    values = {("KSampler", "seed"): 5, ("Size", "w"): 64.0, ("KSampler", "name"): "a/b:c"}
    values |= {("KSampler", "on"): True, ("KSampler", "half"): 0.5}
    now = datetime(2026, 3, 9, 7, 5, 1)
    assert replace_tokens(text, lambda node, key: values[node, key], now) == replaced


def test_a_token_takes_the_rows_value():
    image = {"id": 1, "type": "EmptyImage", "widgets_values": [64, 64, 1, 0], "title": "Canvas"}
    save = {"id": 2, "type": "SaveImage", "widgets_values": ["%Canvas.width%_%EmptyImage.height%"]}
    flow = build(nodes(image, save))
    queued = workflow.queued(flow, {Target("1", "width"): 96})
    assert queued["2"]["inputs"]["filename_prefix"] == "96_64"
    assert flow.nodes["2"]["inputs"]["filename_prefix"].startswith("%Canvas")
