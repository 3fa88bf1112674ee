"""Make the blueprints in subgraphs/ of the example workflows: each is one node that holds a
workflow, which the host's search offers.

What an artist brings (images, poses) becomes an input, what is saved an output, and the widgets
that are changed every time lie on the node itself. All else stays as the workflow has it.
"""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Iterable
from typing import Any, NamedTuple

from . import paths

FOLDER, WORKFLOWS = paths.ROOT / "subgraphs", paths.ROOT / "workflows"
INPUT, OUTPUT = -10, -20  # the ids of a subgraph's own ends, as the front end numbers them
BROUGHT = {"LoadImage": "image", "VitruvianLoadPose": "pose"}
SAVED = ("SaveImage",)
TEXTS = ("prompts", "setting", "text", "negative_prompt")
TITLED = ("text",)  # these bear the titles of their nodes
SEEDS = ("seed", "noise_seed")
FILES = ("ckpt_name", "control_net_name", "unet_name", "clip_name", "vae_name", "name")
TYPES = {
    **dict.fromkeys(TEXTS, "STRING"),
    **dict.fromkeys(SEEDS, "INT"),
    **dict.fromkeys(FILES, "COMBO"),
}
NAMESPACE = uuid.UUID("b1c5a1a6-2f0c-4f3e-9d55-6a5d3e0c7a10")
ROW, COLUMN = 20, 200  # of the ends' slots, in the subgraph's canvas

Node = dict[str, Any]


class Job(NamedTuple):
    """One blueprint: the workflow that it holds, and what an artist reads of it."""

    workflow: str
    description: str


def _family(name: str) -> str:
    return f"Two people with a pose and a prompt each, on {name}. Wire Pose Editor to it."


BLUEPRINTS = {
    "Two People from Nothing": Job(
        "pose_editor", "Two people posed by hand, with a prompt each. Open it to pose them."
    ),
    "People from a Photograph": Job(
        "people_from_a_photograph", "The people of a photograph anew, with a prompt each."
    ),
    "Repair Hands": Job("repair_hands", "New hands for an image whose pose is known."),
    "Hands First": Job("hands_first", "Hands first, then the person around them."),
    "Clothes from an Image": Job(
        "appearance_from_image", "A person in one pose, and the same clothes in another."
    ),
    "Two People (Flux)": Job("two_people_flux", _family("Flux.1")),
    "Two People (Flux.2 Klein)": Job("two_people_flux2_klein", _family("Flux.2 Klein")),
    "Two People (Z-Image)": Job("two_people_z_image", _family("Z-Image")),
    "Two People (Qwen-Image)": Job("two_people_qwen_image", _family("Qwen-Image")),
    "Two People (Krea 2)": Job("two_people_krea2", _family("Krea 2")),
    "Two People (Anima)": Job("two_people_anima", _family("Anima")),
}


class Ends:
    """The inputs or outputs of a subgraph, while they are collected."""

    def __init__(self, name: str, left: float) -> None:
        self.name, self.left = name, left
        self.slots: list[dict[str, Any]] = []

    def add(self, name: str, kind: str, label: str, links: Iterable[int]) -> int:
        """Add a slot of a name that no other has; its number."""
        names = {slot["name"] for slot in self.slots}
        number, unique = 2, name
        while unique in names:
            unique, number = f"{name}_{number}", number + 1
        place = [self.left, ROW * (len(self.slots) + 1)]
        key = uuid.uuid5(NAMESPACE, f"{self.name}/{unique}")
        slot = {"id": str(key), "name": unique, "type": kind, "linkIds": [*links], "pos": place}
        self.slots.append(slot | ({"label": label} if label and label != unique else {}))
        return len(self.slots) - 1


def blueprint(title: str, job: Job) -> dict[str, Any]:
    """Build the blueprint of this title: a graph of one node, and what that node holds."""
    workflow = json.loads((WORKFLOWS / f"{job.workflow}.json").read_text(encoding="utf-8"))
    everything = {node["id"]: node for node in copy.deepcopy(workflow["nodes"])}
    outside = {id for id, node in everything.items() if node["type"] in (*BROUGHT, *SAVED)}
    nodes = {id: node for id, node in everything.items() if id not in outside}
    name = f"{title} (Vitruvian)"
    inputs = Ends(f"{name}/in", min(node["pos"][0] for node in nodes.values()) - COLUMN)
    outputs = Ends(f"{name}/out", max(n["pos"][0] + n["size"][0] for n in nodes.values()) + COLUMN)
    links = _inner_links(workflow["links"], everything, (inputs, outputs))
    _add_widget_inputs(nodes, job.workflow)
    promoted = _promote(nodes, inputs, links, workflow["last_link_id"])
    _keep_links(nodes, links)
    subgraph = {
        "id": str(uuid.uuid5(NAMESPACE, name)),
        "version": 1,
        "revision": 0,
        "state": {
            "lastGroupId": len(workflow["groups"]),
            "lastNodeId": workflow["last_node_id"],
            "lastLinkId": max(link["id"] for link in links),
            "lastRerouteId": 0,
        },
        "config": {},
        "name": name,
        "category": "Vitruvian",
        "description": job.description,
        "inputNode": _end_node(INPUT, inputs),
        "outputNode": _end_node(OUTPUT, outputs),
        "inputs": inputs.slots,
        "outputs": outputs.slots,
        "widgets": [],
        "nodes": [*nodes.values()],
        "groups": workflow["groups"],
        "links": links,
        "extra": {},
    }
    return {
        "revision": 0,
        "last_node_id": 1,
        "last_link_id": 0,
        "nodes": [_outer_node(subgraph, promoted)],
        "links": [],
        "version": 0.4,
        "extra": {},
        "definitions": {"subgraphs": [subgraph]},
    }


def _inner_links(
    links: list[list], nodes: dict[int, Node], ends: tuple[Ends, Ends]
) -> list[dict[str, Any]]:
    """Return the links that stay, from or to the subgraph's ends where a node stays outside."""
    inputs, outputs = ends
    inner = []
    slots: dict[tuple[int, int], int] = {}  # of what is brought: node and output -> input
    for id, origin, origin_slot, target, target_slot, kind in links:
        source, sink = nodes[origin], nodes[target]
        if sink["type"] in SAVED:
            label = sink.get("title", "")
            target, target_slot = OUTPUT, outputs.add("image", kind, label, [id])
        if source["type"] in BROUGHT:
            place = (origin, origin_slot)
            if place not in slots:
                first = BROUGHT[source["type"]]
                name = first if origin_slot == 0 else kind.lower()
                slots[place] = inputs.add(name, kind, source.get("title", ""), [])
            origin, origin_slot = INPUT, slots[place]
            inputs.slots[origin_slot]["linkIds"].append(id)
        inner.append(
            {
                "id": id,
                "origin_id": origin,
                "origin_slot": origin_slot,
                "target_id": target,
                "target_slot": target_slot,
                "type": kind,
            }
        )
    return inner


def _add_widget_inputs(nodes: dict[int, Node], workflow: str) -> None:
    """List the inputs of the widgets that may lie outside: front ends save them only sometimes."""
    twin = json.loads((paths.WORKFLOWS / f"{workflow}.json").read_text(encoding="utf-8"))
    for id, node in nodes.items():
        names = {entry["name"] for entry in node["inputs"]}
        for name, value in twin.get(str(id), {"inputs": {}})["inputs"].items():
            if name in TYPES and name not in names and not isinstance(value, list):
                entry = {"name": name, "type": TYPES[name], "widget": {"name": name}}
                node["inputs"].append({**entry, "link": None})


def _promote(
    nodes: dict[int, Node], inputs: Ends, links: list[dict[str, Any]], last_link: int
) -> list[tuple[int, str, str]]:
    """Put the widgets that matter on the outer node: (node, widget, name of the input)."""
    promoted = []
    for group in (TEXTS, SEEDS, FILES):
        for node in nodes.values():
            for slot, entry in enumerate(node["inputs"]):
                widget = entry.get("widget", {}).get("name")
                if widget not in group or entry["link"] is not None:
                    continue
                last_link += 1
                label = node.get("title", "") if widget in TITLED else ""
                number = inputs.add(widget, entry["type"], label, [last_link])
                links.append(
                    {
                        "id": last_link,
                        "origin_id": INPUT,
                        "origin_slot": number,
                        "target_id": node["id"],
                        "target_slot": slot,
                        "type": entry["type"],
                    }
                )
                promoted.append((node["id"], widget, inputs.slots[number]["name"]))
    return promoted


def _keep_links(nodes: dict[int, Node], links: list[dict[str, Any]]) -> None:
    """Write into the slots of the nodes which links they have."""
    for node in nodes.values():
        for entry in node["inputs"]:
            entry["link"] = None
        for entry in node["outputs"]:
            entry["links"] = []
    for link in links:
        if link["target_id"] in nodes:
            nodes[link["target_id"]]["inputs"][link["target_slot"]]["link"] = link["id"]
        if link["origin_id"] in nodes:
            nodes[link["origin_id"]]["outputs"][link["origin_slot"]]["links"].append(link["id"])


def _end_node(id: int, ends: Ends) -> dict[str, Any]:
    return {"id": id, "bounding": [ends.left - 100, 0, 120, ROW * (len(ends.slots) + 2)]}


def _outer_node(subgraph: dict[str, Any], promoted: list[tuple[int, str, str]]) -> Node:
    """Make the node that the search adds."""
    widgets = {name for _, _, name in promoted}

    def slot(entry: dict[str, Any]) -> dict[str, Any]:
        outer_slot: dict[str, Any] = {
            key: entry[key] for key in ("label", "name", "type") if key in entry
        }
        if entry["name"] in widgets:
            outer_slot["widget"] = {"name": entry["name"]}
        return outer_slot

    return {
        "id": 1,
        "type": subgraph["id"],
        "pos": [0, 0],
        "size": [400, 60 + 30 * len(promoted)],
        "flags": {},
        "order": 0,
        "mode": 0,
        "title": subgraph["name"],
        "inputs": [{**slot(entry), "link": None} for entry in subgraph["inputs"]],
        "outputs": [{**slot(entry), "links": []} for entry in subgraph["outputs"]],
        "properties": {"proxyWidgets": [[str(id), widget] for id, widget, _ in promoted]},
        "widgets_values": [],
    }


def texts() -> dict[str, str]:
    """Return the text of every file in subgraphs/ by its name."""
    return {
        f"{title} (Vitruvian).json": json.dumps(blueprint(title, job), ensure_ascii=False) + "\n"
        for title, job in BLUEPRINTS.items()
    }


def write() -> list[str]:
    """Write all blueprints, take away others, and return the names of their files."""
    FOLDER.mkdir(exist_ok=True)
    files = texts()
    for path in FOLDER.glob("*.json"):
        if path.name not in files:
            path.unlink()
    for name, text in files.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return [*files]
