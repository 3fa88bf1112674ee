"""Read the nodes and wires of a workflow that the front end saved.

Nothing in the file is taken on trust: what cannot be read raises BadInput with the node's number.
"""

from __future__ import annotations

from typing import Any

from ..trouble import BadInput
from .graph import Graph, Link, Node, Port

Place = tuple[str | int, ...]  # keys that lead to a part of the file


def subgraph_entries(saved: dict[str, Any], where: Place) -> list[tuple[dict[str, Any], Place]]:
    """List the saved subgraphs and their places in the file, those inside of others too."""
    waiting, entries = [(saved, where)], []
    while waiting:
        holder, place = waiting.pop(0)
        definitions = holder.get("definitions") or {}
        inner = definitions.get("subgraphs") if isinstance(definitions, dict) else None
        for n, entry in enumerate(_dicts(inner, "its subgraphs")):
            entries.append((entry, (*place, "definitions", "subgraphs", n)))
        waiting += entries[len(entries) - len(inner or []) :]
    return entries


def _dicts(value: Any, what: str) -> list[dict[str, Any]]:
    """Return a list of objects, [] for nothing."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise BadInput(f"{what} are not a list of objects")
    return value


def renumbered(ui: dict[str, Any], subgraphs: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Give nodes of subgraphs new numbers where two share one, as the front end does at opening.

    Returns old number -> new number, for each subgraph.
    """
    used = {str(node.get("id")) for node in _dicts(ui.get("nodes"), "its nodes")}
    state = ui.get("state") if isinstance(ui.get("state"), dict) else {}
    last = max(
        (n for n in (ui.get("last_node_id"), (state or {}).get("lastNodeId")) if type(n) is int),
        default=0,
    )
    changes = []
    for saved in subgraphs:
        new: dict[str, str] = {}
        for node in _dicts(saved.get("nodes"), "a subgraph's nodes"):
            name = str(node.get("id"))
            if name in used:
                last += 1
                while str(last) in used:
                    last += 1
                new[name] = name = str(last)
            elif name.isdecimal():
                last = max(last, int(name))
            used.add(name)
        changes.append(new)
    return changes


def read_one(saved: dict[str, Any], where: Place, ids: dict[str, str]) -> Graph:
    """Read the nodes and wires of a graph.

    where: its place in the file, () for the workflow. ids: the new numbers of its nodes.
    """
    name = str(saved.get("name") or "the workflow")
    nodes = {}
    for n, entry in enumerate(_dicts(saved.get("nodes"), f"the nodes of {name}")):
        node = _node(entry, (*where, "nodes", n), ids)
        nodes[node.id] = node
    return Graph(
        name,
        nodes,
        _links(saved.get("links"), name, ids),
        _ports(saved.get("inputs"), name) if where else [],
        _ports(saved.get("outputs"), name) if where else [],
        ids,
    )


def _node(saved: dict[str, Any], where: Place, ids: dict[str, str]) -> Node:
    name, kind = saved.get("id"), saved.get("type")
    if type(name) not in (int, str) or not isinstance(kind, str):
        raise BadInput(f"node {name} has no number or no type")
    mode = saved.get("mode") or 0
    title = saved.get("title") or ""
    if type(mode) is not int or not isinstance(title, str):
        raise BadInput(f"node {name}: its mode or its title is not one")
    values = saved.get("widgets_values")
    if values is not None and not isinstance(values, (list, dict)):
        raise BadInput(f"node {name}: its widgets_values are neither a list nor an object")
    for key in ("inputs", "outputs"):
        _dicts(saved.get(key), f"node {name}: its {key}")
    if not isinstance(saved.get("properties") or {}, dict):
        raise BadInput(f"node {name}: its properties are not an object")
    return Node(ids.get(str(name), str(name)), kind, mode, title, saved, where)


def _links(saved: Any, name: str, ids: dict[str, str]) -> dict[int, Link]:
    """Read a graph's wires, each a list of five numbers and a type, or an object."""
    links = {}
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
    if isinstance(saved, dict):
        saved = list(saved.values())
    if saved is not None and not isinstance(saved, list):
        raise BadInput(f"the wires of {name} are not a list")
    for entry in saved or []:
        values = [entry.get(key) for key in keys] if isinstance(entry, dict) else entry
        if entry is None:
            continue
        if not isinstance(values, list) or len(values) < len(keys):
            raise BadInput(f"a wire of {name} cannot be read: {entry!r:.80}")
        origin, target = (ids.get(str(end), str(end)) for end in (values[1], values[3]))
        number, origin_slot, target_slot = (to_whole(values[n]) for n in (0, 2, 4))
        if number is None or origin_slot is None or target_slot is None:
            raise BadInput(f"a wire of {name} cannot be read: {entry!r:.80}")
        links[number] = Link(number, origin, origin_slot, target, target_slot)
    return links


def _ports(saved: Any, name: str) -> list[Port]:
    return [
        Port(
            str(entry.get("name")),
            str(entry.get("type", "*")),
            [link for link in map(to_whole, to_list(entry.get("linkIds"))) if link is not None],
        )
        for entry in _dicts(saved, f"the inputs and outputs of {name}")
    ]


def to_whole(value: Any) -> int | None:
    """Return a whole number, also one in quotes; None if it is none."""
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    return value if type(value) is int else None


def to_list(value: Any) -> list[Any]:
    """Return a list, an empty one for anything else."""
    return value if isinstance(value, list) else []


def fed_links(saved: dict[str, Any]) -> list[int]:
    """List the wires at a saved node's first output."""
    outputs = to_list(saved.get("outputs"))
    numbers = map(to_whole, to_list(outputs[0].get("links")) if outputs else [])
    return [number for number in numbers if number is not None]
