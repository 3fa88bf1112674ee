"""Open a workflow as the front end does: give every node its inputs and its widgets' values."""

from __future__ import annotations

from typing import Any

from ..trouble import BadInput
from .file import read_one, renumbered, subgraph_entries, to_whole
from .graph import VIRTUAL, Graph, Node, Slot
from .promoted import open_subgraph_node, promote
from .widgets import AUTOGROW, DYNAMIC_COMBO, sockets_of, specs_of, widgets_of

GROWING = (AUTOGROW, DYNAMIC_COMBO)


def read_graph(ui: dict[str, Any], info: dict[str, Any]) -> Graph:
    """Read the workflow with its subgraphs. info: the host's /object_info."""
    entries = subgraph_entries(ui, ())
    names: list[dict[str, str]] = [{} for _ in entries]
    if any(_grows(kind) for kind in info.values()):
        names = renumbered(ui, [saved for saved, _ in entries])
    subgraphs: dict[str, Graph] = {}
    for (saved, where), ids in zip(entries, names, strict=True):
        subgraphs[str(saved.get("id"))] = read_one(saved, where, ids)
    root = read_one(ui, (), {})
    for graph in (*subgraphs.values(), root):
        for node in graph.nodes.values():
            node.subgraph = subgraphs.get(node.kind)
    for graph in (*_inner_first(list(subgraphs.values())), root):
        for node in graph.nodes.values():
            open_node(node, info)
        promote(graph, [*subgraphs.values(), root])
    return root


def _grows(kind: Any) -> bool:
    """Tell if a class has inputs that grow: front ends that know them give nodes new numbers."""
    return any(spec.type in GROWING for spec in specs_of(kind))


def _inner_first(subgraphs: list[Graph]) -> list[Graph]:
    """Order the subgraphs so that each comes after those that it holds."""
    order: list[Graph] = []
    state: dict[int, int] = {}  # 1: being looked at, 2: done
    for first in subgraphs:
        stack = [first]
        while stack:
            graph = stack[-1]
            held = [node.subgraph for node in graph.nodes.values() if node.subgraph is not None]
            if state.get(id(graph)) is None:
                state[id(graph)] = 1
                around = next((g for g in held if state.get(id(g)) == 1), None)
                if around is not None:
                    raise BadInput(
                        f"the subgraphs '{around.name}' and '{graph.name}' hold each other"
                        if around is not graph
                        else f"the subgraph '{graph.name}' holds itself"
                    )
                stack += [g for g in held if state.get(id(g)) is None]
            else:
                stack.pop()
                if state[id(graph)] == 1:
                    state[id(graph)] = 2
                    order.append(graph)
    return order


def open_node(node: Node, info: dict[str, Any]) -> None:
    """Give a node its inputs and widgets, with what is wired and what is saved."""
    if node.subgraph is not None:
        open_subgraph_node(node)
        return
    saved_inputs = {str(entry.get("name")): entry for entry in node.saved.get("inputs") or ()}
    kind = info.get(node.kind)
    if kind is None or node.kind in VIRTUAL:
        node.slots = [_slot(name, entry) for name, entry in saved_inputs.items()]
        outputs = node.saved.get("outputs") or ()
        node.output_types = [str(entry.get("type", "*")) for entry in outputs]
        title, name = VIRTUAL.get(node.kind, (node.kind, None))
        node.title = node.title or title
        if name is not None:
            node.widgets = widgets_of(_input(name), node.saved_values)
        return
    node.title = node.title or kind.get("display_name") or node.kind
    node.widgets = widgets_of(kind, node.saved_values)
    wired = {name for name, entry in saved_inputs.items() if _link(entry) is not None}
    node.slots = [
        Slot(spec.name, spec.type, _link(saved_inputs.get(spec.name)), node.widget(spec.name))
        for spec in sockets_of(kind, node.widgets, wired)
    ]
    slot_names = {slot.name for slot in node.slots}
    growing = tuple(f"{w.name}." for w in node.widgets if w.spec.widget_type == DYNAMIC_COMBO)
    for name, entry in saved_inputs.items():
        lost = entry.get("widget") and node.widget(name) is None
        if name not in slot_names and not lost and not (growing and name.startswith(growing)):
            node.slots.append(_slot(name, entry))
    types = [kind if isinstance(kind, str) else "COMBO" for kind in kind.get("output") or ()]
    node.output_types = types


def _input(name: str) -> dict[str, Any]:
    """Describe a class with one text, as /object_info would."""
    return {"input": {"required": {name: ["STRING", {}]}}}


def _slot(name: str, entry: dict[str, Any]) -> Slot:
    return Slot(name, str(entry.get("type", "*")), _link(entry))


def _link(entry: dict[str, Any] | None) -> int | None:
    return to_whole((entry or {}).get("link"))
