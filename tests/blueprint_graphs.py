"""A blueprint on a canvas, with what an artist brings wired to it and its images saved: then it
says what the workflow says that it was made of.
"""

import copy
import json
from typing import Any

from vitruvian.tools.blueprints import BLUEPRINTS, BROUGHT, FOLDER, INPUT, OUTPUT, SAVED, WORKFLOWS

OUTSIDE = 9000  # the id of the blueprint's node, which no workflow has


def read(title: str) -> dict[str, Any]:
    """Read a blueprint's file by its title in BLUEPRINTS."""
    return json.loads((FOLDER / f"{title} (Vitruvian).json").read_text(encoding="utf-8"))


def inner_types(title: str) -> set[str]:
    """List the classes of the nodes inside, without those that the front end alone has."""
    (subgraph,) = read(title)["definitions"]["subgraphs"]
    return {node["type"] for node in subgraph["nodes"]} - {"MarkdownNote"}


def complete(title: str) -> dict[str, Any]:
    """Build the workflow of the blueprint's node and of the nodes that it was made without."""
    graph = read(title)
    (node,), (subgraph,) = graph["nodes"], graph["definitions"]["subgraphs"]
    path = WORKFLOWS / f"{BLUEPRINTS[title].workflow}.json"
    workflow = json.loads(path.read_text(encoding="utf-8"))
    outer_nodes = {
        other["id"]: copy.deepcopy(other)
        for other in workflow["nodes"]
        if other["type"] in (*BROUGHT, *SAVED)
    }
    node["id"] = OUTSIDE
    ends = {link["id"]: link for link in subgraph["links"]}
    links = _outer_links(workflow["links"], outer_nodes, ends)
    nodes = {OUTSIDE: node, **outer_nodes}
    for each in nodes.values():
        for entry in each["inputs"]:
            entry["link"] = None
        for entry in each["outputs"]:
            entry["links"] = []
    for id, origin, origin_slot, target, target_slot, _ in links:
        nodes[origin]["outputs"][origin_slot]["links"].append(id)
        nodes[target]["inputs"][target_slot]["link"] = id
    last = {"last_node_id": OUTSIDE, "last_link_id": len(links)}
    return {**graph, **last, "nodes": [*nodes.values()], "links": links, "groups": [], "config": {}}


def _outer_links(
    links: list[list], outer_nodes: dict[int, Any], ends: dict[int, Any]
) -> list[list]:
    """The links of the nodes outside, each once, from or to the slots of the blueprint's node."""
    outer: dict[tuple, list] = {}
    for id, origin, origin_slot, target, target_slot, kind in links:
        if origin not in outer_nodes and target not in outer_nodes:
            continue
        end = ends[id]
        if end["origin_id"] == INPUT:
            target, target_slot = OUTSIDE, end["origin_slot"]
        if end["target_id"] == OUTPUT:
            origin, origin_slot = OUTSIDE, end["target_slot"]
        outer.setdefault((origin, origin_slot, target, target_slot), [kind])
    return [[number, *place, kind] for number, (place, (kind,)) in enumerate(outer.items(), 1)]


def inside_out(prompt: dict[str, Any]) -> dict[str, Any]:
    """Name the nodes of a prompt as the workflow does that the blueprint was made of."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(part) for part in value]
        return value.removeprefix(f"{OUTSIDE}:") if isinstance(value, str) else value

    return {
        plain(id): (node["class_type"], {key: plain(v) for key, v in node["inputs"].items()})
        for id, node in prompt.items()
    }
