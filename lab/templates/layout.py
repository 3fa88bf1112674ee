"""Lay out an example workflow so that it opens readable: `python3 dev.py layout NAME`.

Nodes keep their groups. Groups keep their order; their columns, and how they are stacked, are
chosen so that the workflow opens as large as can be, then for short wires. Wires that would cross
a node get reroutes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from . import front_end, packing
from .packing import TITLE, Block, Node
from .wires import Box, Reroute, Router, Wire, crossed

WIDTH = 225
WIDTHS = {
    "CheckpointLoaderSimple": 250,
    "ControlNetLoader": 250,
    "CLIPTextEncode": 300,
    "VitruvianInstancesFromText": 310,
    "VitruvianEncodeHumanPrompt": 300,
    "VitruvianRetrieveAppearance": 300,
    "VitruvianDescribePeople": 300,
    "VitruvianAddInstance": 300,
    "VitruvianPoseEditor": 320,
    "VitruvianShowHumanAttention": 400,
    "VitruvianComposePeople": 320,
    "VAEDecode": 160,
    "VAEEncode": 160,
    "PreviewImage": 210,
    "VitruvianJoinStructure": 180,
    "VitruvianSplitStructure": 180,
}
NOTE_WIDTHS = (250, 320, 420, 560, 700)
IMAGES = {  # nodes that show an image when they have run, and the height that it takes
    "SaveImage": 180,
    "PreviewImage": 180,
    "MaskPreview": 190,
    "VitruvianPreviewInstances": 200,
    "VitruvianShowHumanAttention": 300,
    "VitruvianPreviewMaskExpansion": 190,
    "VitruvianShowMemory": 190,
    "VitruvianShowSemanticMap": 190,
}
LETTER, LINE, TEXT_EDGE = 6.1, 12.5, 16  # of the text boxes
LEAST_TEXT = 50
NOTE_EDGE = 30
MOST_COLUMNS = 4
CROWDED = 22  # nodes
LENGTH_COST, CROSSING_COST, REROUTE_COST = 3e-6, 2e-3, 1e-3  # of wires, in parts of the scale
COMPARED, TRIED = 300, 6  # arrangements by the wires that cross nodes, and with wires led around
COLOR = "#3f789e"

Sizes = dict[int, list[tuple[float, float]]]
Slots = dict[tuple[int, str, int], tuple[float, float]]


def lay_out(page: Any, saved: dict[str, Any], name: str) -> str:
    """Give the workflow new sizes, places, groups and reroutes; return what came of it."""
    _forget_reroutes(saved)
    _collapse(saved)
    sizes = _sizes(page, saved, name)
    slots = _slots(page, saved, name)
    groups = _groups(saved)
    best: tuple[Any, ...] | None = None
    for scale, blocks in _candidates(saved, sizes, groups, slots):
        boxes = packing.boxes(blocks)
        wires = _wires(saved, slots, boxes)
        left = Router(boxes, _headings(blocks)).route(wires)
        reroutes = {id(one): one for wire in wires for one in wire.reroutes()}
        worth = packing.legible(scale) - REROUTE_COST * len(reroutes)
        rank = (len(left), -worth, scale, len(reroutes))
        if best is None or rank < best[0]:
            best = rank, blocks, wires
    assert best
    rank, blocks, wires = best
    _write(saved, blocks, wires)
    crossing, _, scale, reroutes = rank
    return f"scale {scale:.3f}, {reroutes} reroutes, {crossing} wires cross a node"


def _collapse(saved: dict[str, Any]) -> None:
    """Collapse what need not be read in workflows of many nodes: decoders, and empty prompts."""
    crowded = len(saved["nodes"]) > CROWDED
    for node in saved["nodes"]:
        is_empty = node["type"] == "CLIPTextEncode" and node["widgets_values"] == [""]
        node["flags"].pop("collapsed", None)
        if crowded and (is_empty or node["type"] in ("VAEDecode", "VAEEncode")):
            node["flags"]["collapsed"] = True


def text_of(saved: dict[str, Any]) -> str:
    """Return the workflow as JSON with a line for every node, wire and group."""
    parts = []
    for key, value in saved.items():
        if isinstance(value, list) and value:
            lines = ",\n  ".join(_json(item) for item in value)
            parts.append(f"{_json(key)}: [\n  {lines}\n ]")
        else:
            parts.append(f"{_json(key)}: {_json(value)}")
    return "{\n " + ",\n ".join(parts) + "\n}\n"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _forget_reroutes(saved: dict[str, Any]) -> None:
    extra = saved.setdefault("extra", {})
    extra.pop("reroutes", None)
    extra.pop("linkExtensions", None)


def _sizes(page: Any, saved: dict[str, Any], name: str) -> Sizes:
    """Return the sizes that each node may have: one, or for a note one of each width."""
    for node in saved["nodes"]:
        node["size"] = [WIDTHS.get(node["type"], WIDTH), 10]
    opened = front_end.open_template(page, saved, name)
    sizes = {}
    for node in opened["nodes"]:
        width, height = node["size"][0], node["least"][1]
        letters = (width - TEXT_EDGE) / LETTER
        lines = [
            sum(max(1, math.ceil(len(line) / letters)) for line in text.split("\n"))
            for text in node["texts"]
        ]
        needed = max((count * LINE + TEXT_EDGE for count in lines), default=0)
        height += max(0, needed - LEAST_TEXT) * len(lines) + IMAGES.get(node["type"], 0)
        if node["collapsed"]:
            width, height = node["box"][2] + 2, 0
        sizes[node["id"]] = [(math.ceil(width / 5) * 5, math.ceil(height / 10) * 10)]
    note = next(node for node in saved["nodes"] if node["type"] == "MarkdownNote")
    sizes[note["id"]] = []
    for width in NOTE_WIDTHS:
        note["size"] = [width, 100]
        opened = front_end.open_template(page, saved, name)
        (words,) = [node["words"] for node in opened["nodes"] if node["id"] == note["id"]]
        sizes[note["id"]].append((width, math.ceil((words + NOTE_EDGE) / 10) * 10))
    expanded = {node["id"]: node["least"] for node in opened["nodes"]}
    for node in saved["nodes"]:
        is_collapsed = node["flags"].get("collapsed")
        node["size"] = list(expanded[node["id"]] if is_collapsed else sizes[node["id"]][0])
    return sizes


def _slots(page: Any, saved: dict[str, Any], name: str) -> Slots:
    """Return where slots are beside their nodes: (node, inputs or outputs, number) -> x, y."""
    places = {node["id"]: node["pos"] for node in saved["nodes"]}
    return {
        (node["id"], kind, number): (x - places[node["id"]][0], y - places[node["id"]][1])
        for node in front_end.open_template(page, saved, name)["nodes"]
        for kind in ("inputs", "outputs")
        for number, (x, y) in enumerate(node[kind])
    }


def saved_wires(saved: dict[str, Any], opened: dict[str, Any]) -> list[Wire]:
    """Return the wires of a workflow as it is saved, with the slots of the front end."""
    slots = {
        (node["id"], kind, number): tuple(position)
        for node in opened["nodes"]
        for kind in ("inputs", "outputs")
        for number, position in enumerate(node[kind])
    }
    reroutes: dict[int, Reroute] = {}
    for one in saved["extra"].get("reroutes", ()):
        parent = reroutes.get(one.get("parentId"))
        reroutes[one["id"]] = Reroute(tuple(one["pos"]), parent, set(one["linkIds"]))
    last = {
        one["id"]: reroutes[one["parentId"]] for one in saved["extra"].get("linkExtensions", ())
    }
    return [
        Wire(
            link,
            slots[origin, "outputs", out],
            slots[target, "inputs", slot],
            (origin, out),
            target,
            last.get(link),
        )
        for link, origin, out, target, slot, _ in saved["links"]
    ]


def _groups(saved: dict[str, Any]) -> dict[str, list[int]]:
    """Return the ids of each group's nodes by its title; those of no group have none."""
    members: dict[str, list[int]] = {group["title"]: [] for group in saved["groups"]}
    for node in saved["nodes"]:
        if node["type"] != "MarkdownNote":
            members[_group_of(node, saved["groups"])].append(node["id"])
    return members


def _group_of(node: dict[str, Any], groups: list[dict[str, Any]]) -> str:
    """Return the title of the group that the node is in, or else is next to."""
    x, y = node["pos"][0] + 20, node["pos"][1] - 10

    def distance(group: dict[str, Any]) -> float:
        left, top, width, height = group["bounding"]
        return max(left - x, x - left - width, 0) + max(top - y, y - top - height, 0)

    return str(min(groups, key=distance)["title"])


def _depths(saved: dict[str, Any]) -> dict[int, int]:
    """Return each node's longest way from a node without inputs."""
    before: dict[int, set[int]] = {node["id"]: set() for node in saved["nodes"]}
    for _, origin, _, target, _, _ in saved["links"]:
        before[target].add(origin)
    depths: dict[int, int] = {}

    def depth(node: int) -> int:
        if node not in depths:
            depths[node] = 1 + max(map(depth, before[node]), default=-1)
        return depths[node]

    for node in before:
        depth(node)
    return depths


def _candidates(
    saved: dict[str, Any], sizes: Sizes, groups: dict[str, list[int]], slots: Slots
) -> Iterator[tuple[float, list[Block]]]:
    """Yield arrangements that open as large as can be, those with few crossings first."""
    depths = _depths(saved)
    (note,) = [node["id"] for node in saved["nodes"] if node["type"] == "MarkdownNote"]
    tops = {node["id"]: node["pos"][1] for node in saved["nodes"]}
    options = []
    for title, members in groups.items():
        nodes = [Node(id, *sizes[id][0], depths[id]) for id in members]
        nodes.sort(key=lambda node: (node.depth, tops[node.id]))
        counts = range(1, min(len(nodes), MOST_COLUMNS) + 1)
        options.append([packing.block(title, nodes, count) for count in counts])
    notes = [packing.block("", [Node(note, *size, 0)], 1) for size in sizes[note]]

    def value(arrangement: packing.Arrangement) -> float:
        length = _length(saved, arrangement.placed())
        return packing.legible(arrangement.scale()) - LENGTH_COST * length

    compared = []
    for number, arrangement in enumerate(packing.search(options, notes, value)[:COMPARED]):
        blocks = arrangement.placed()
        crossings, _ = _crossings(saved, slots, blocks)
        worth = value(arrangement) - CROSSING_COST * crossings
        compared.append((-worth, number, arrangement.scale(), blocks))
    for *_, scale, blocks in sorted(compared)[:TRIED]:
        yield scale, _improved(saved, slots, blocks)


def _improved(saved: dict[str, Any], slots: Slots, blocks: list[Block]) -> list[Block]:
    """Swap neighbors in columns for as long as fewer wires cross nodes, or wires get shorter."""
    least = _crossings(saved, slots, blocks)
    improving = True
    while improving:
        improving = False
        for number in range(len(blocks)):
            for swapped in blocks[number].swaps():
                tried = [*blocks[:number], swapped, *blocks[number + 1 :]]
                crossings = _crossings(saved, slots, tried)
                if crossings < least:
                    least, blocks, improving = crossings, tried, True
                    break
    return blocks


def _crossings(saved: dict[str, Any], slots: Slots, blocks: list[Block]) -> tuple[int, float]:
    """Count the wires that cross a node, and measure all wires."""
    boxes = packing.boxes(blocks)
    wires = _wires(saved, slots, boxes)
    return sum(bool(crossed(wire, [wire], boxes)) for wire in wires), _length(saved, blocks)


def _length(saved: dict[str, Any], blocks: list[Block]) -> float:
    """Return the length of all wires, those to the left counted three times."""
    places = packing.boxes(blocks)
    total = 0.0
    for _, origin, _, target, _, _ in saved["links"]:
        across = places[target][0] - places[origin][2]
        down = abs(places[target][1] - places[origin][1])
        total += (across if across > 0 else -3 * across) + down
    return total


def _wires(saved: dict[str, Any], slots: Slots, boxes: dict[int, Box]) -> list[Wire]:
    def place(node: int, kind: str, number: int) -> tuple[float, float]:
        x, y = slots[node, kind, number]
        return boxes[node][0] + x, boxes[node][1] + TITLE + y

    return [
        Wire(
            link,
            place(origin, "outputs", out),
            place(target, "inputs", slot),
            (origin, out),
            target,
        )
        for link, origin, out, target, slot, _ in saved["links"]
    ]


def _headings(blocks: list[Block]) -> list[Box]:
    return [
        (item.x, item.y, item.x + item.width, item.y + packing.HEADING - packing.TITLE / 4)
        for item in blocks
        if item.title
    ]


def _write(saved: dict[str, Any], blocks: list[Block], wires: list[Wire]) -> None:
    """Put the places into the workflow; 0 0 is at the left top node's corner."""
    places = packing.boxes(blocks)
    for node in saved["nodes"]:
        left, top, right, bottom = places[node["id"]]
        node["pos"] = [left, top + TITLE]
        if not node["flags"].get("collapsed"):
            node["size"] = [right - left, bottom - top - TITLE]
    saved["groups"] = [
        {
            "id": number,
            "title": item.title,
            "bounding": [item.x, item.y, item.width, item.height],
            "color": COLOR,
            "font_size": 24,
            "flags": {},
        }
        for number, item in enumerate((item for item in blocks if item.title), 1)
    ]
    _write_reroutes(saved, wires)
    saved["extra"]["ds"] = _view(list(places.values()))


def _write_reroutes(saved: dict[str, Any], wires: list[Wire]) -> None:
    numbers: dict[int, int] = {}
    reroutes: list[Reroute] = []
    for wire in wires:
        for reroute in wire.reroutes():
            if id(reroute) not in numbers:
                numbers[id(reroute)] = len(numbers) + 1
                reroutes.append(reroute)
    if not reroutes:
        return
    saved["extra"]["reroutes"] = [
        {
            "id": numbers[id(reroute)],
            **({"parentId": numbers[id(reroute.parent)]} if reroute.parent else {}),
            "pos": list(reroute.position),
            "linkIds": sorted(reroute.links),
        }
        for reroute in reroutes
    ]
    saved["extra"]["linkExtensions"] = [
        {"id": wire.link, "parentId": numbers[id(wire.last)]} for wire in wires if wire.last
    ]


def _view(boxes: Any) -> dict[str, Any]:
    """Return the scale and offset at which all nodes are in the middle of the screen."""
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    left, top, right, bottom = min(lefts), min(tops), max(rights), max(bottoms)
    scale = packing.scale(*packing.extent(boxes))
    width, height = (side / scale for side in packing.SCREEN)
    return {
        "scale": round(scale, 3),
        "offset": [round((width - left - right) / 2), round((height - top - bottom) / 2)],
    }
