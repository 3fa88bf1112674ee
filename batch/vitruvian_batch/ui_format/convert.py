"""Convert a workflow as the front end saves it to the API format, as the front end itself does.

The truth is the front end's own `graphToPrompt`. What the front end does at the moment of queueing
(%tokens%, {a|b}) is left to `queued.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..trouble import BadInput
from .graph import BYPASS, INPUTS, NEVER, PRIMITIVE, VIRTUAL, Graph, Link, Node, Slot
from .open import read_graph
from .primitive import apply_primitives
from .widgets import IN_BROWSER, MISSING, Widget

PACKS = "custom_nodes."  # in the name of a class's module
MOST_NODES = 100_000  # of one workflow, with every subgraph in its place
Nodes = dict[str, dict[str, Any]]


class Spot(NamedTuple):
    """A node in its place: inside these nodes of subgraphs, the outermost first."""

    hosts: tuple[Node, ...]
    node: Node

    @property
    def id(self) -> str:
        """Return the id that the host gets."""
        return ":".join(node.id for node in (*self.hosts, self.node))


class Output(NamedTuple):
    """Where a wire comes from."""

    spot: Spot
    slot: int


class Source(NamedTuple):
    """The widget of a subgraph's node that gives an input inside its value."""

    spot: Spot
    widget: Widget


@dataclass
class Converted:
    """The nodes as POST /prompt takes them, and the widget that gives an input its value.

    sources: (node, input) -> the widget and the node that shows it. spots: every node of the
    workflow in its place, the front end's own too.
    """

    nodes: Nodes
    sources: dict[tuple[str, str], Source]
    graph: Graph
    spots: list[Spot] = field(default_factory=list)


def convert(ui: dict[str, Any], info: dict[str, Any]) -> Converted:
    """Convert a workflow. BadInput says which node cannot be, and why.

    info: the host's /object_info.
    """
    graph = read_graph(ui, info)
    apply_primitives(graph)
    spots = list(_spots(graph))
    sent = [s for s in spots if s.node.is_active and s.node.subgraph is None]
    sent = [spot for spot in sent if spot.node.kind not in VIRTUAL]
    _refuse(sent, info)
    converted = Converted({}, {}, graph, spots)
    for spot in sent:
        converted.nodes[spot.id] = {
            "class_type": spot.node.kind,
            "inputs": _inputs(graph, spot, converted.sources),
            "_meta": {"title": spot.node.title},
        }
    for node in converted.nodes.values():
        inputs = node["inputs"]
        node["inputs"] = {k: v for k, v in inputs.items() if not _is_loose(v, converted.nodes)}
    return converted


def _is_loose(value: Any, nodes: Nodes) -> bool:
    """Tell if a value is a wire from a node that is not sent."""
    return isinstance(value, list) and value[0] not in nodes


def _spots(graph: Graph) -> Iterator[Spot]:
    """Yield every node in its place. A muted or bypassed node of the workflow keeps its inside."""
    waiting = [Spot((), node) for node in reversed(graph.nodes.values())]
    count = 0
    while waiting:
        spot = waiting.pop()
        count += 1
        if count > MOST_NODES:
            raise BadInput(f"{spot.node}: its subgraphs hold more than {MOST_NODES} nodes")
        yield spot
        subgraph = spot.node.subgraph
        if subgraph is not None and (spot.hosts or spot.node.is_active):
            hosts = (*spot.hosts, spot.node)
            waiting += [Spot(hosts, node) for node in reversed(subgraph.nodes.values())]


def _refuse(sent: list[Spot], info: dict[str, Any]) -> None:
    """Raise BadInput for the nodes that the host lacks, and those that only a browser can run."""
    missing: dict[str, list[str]] = {}
    for spot in sent:
        if spot.node.kind not in info:
            missing.setdefault(spot.node.kind, []).append(spot.id)
    groups = [kind for kind in missing if kind.startswith(("workflow>", "workflow/"))]
    if groups:
        names = ", ".join(f"{kind[9:]} (node {missing[kind][0]})" for kind in groups)
        raise BadInput(f"it has group nodes, which newer ComfyUI calls subgraphs: {names}")
    if missing:
        names = ", ".join(f"{kind} (node {', '.join(ids)})" for kind, ids in missing.items())
        raise BadInput(f"the host has no node {names}. Install the pack that brings it")
    for spot in sent:
        for widget in spot.node.widgets:
            if widget.spec.type in IN_BROWSER:
                reason = IN_BROWSER[widget.spec.type]
                raise BadInput(f"node {spot.id} ('{spot.node.title}') {reason}")
        module = str(info[spot.node.kind].get("python_module", ""))
        if module.startswith(PACKS) and (value := _value_of_script(spot.node)) is not None:
            raise BadInput(
                f"node {spot.id} ('{spot.node.title}') holds {value!r:.60} for a widget that its "
                f"pack's own script adds ({module.removeprefix(PACKS)}), and the host says nothing "
                "of it"
            )


def _value_of_script(node: Node) -> Any:
    """Return a saved value behind those of all widgets that are known, None if there is none."""
    saved = node.saved_values if isinstance(node.saved_values, list) else []
    places = [widget.place for widget in node.widgets if isinstance(widget.place, int)]
    behind = saved[max(places, default=-1) + 1 :]
    return next((value for value in behind if value not in (None, "", [], {})), None)


def _inputs(graph: Graph, spot: Spot, sources: dict[tuple[str, str], Source]) -> dict[str, Any]:
    """Return a node's inputs: its widgets' values, and over them what is wired in."""
    inputs: dict[str, Any] = {}
    for widget in spot.node.widgets:
        if widget.is_sent and widget.name:
            inputs[widget.name] = _sendable(widget)
            sources[spot.id, widget.name] = Source(spot, widget)
    for place, slot in enumerate(spot.node.slots):
        source = resolve(graph, spot, place)
        if isinstance(source, Output):
            inputs[slot.name] = [source.spot.id, source.slot]
        elif source is not None:
            inputs[slot.name] = _sendable(source.widget)
            sources[spot.id, slot.name] = source
    return {name: value for name, value in inputs.items() if value is not MISSING}


def _sendable(widget: Widget) -> Any:
    """Wrap a list, which the host would take for a wire."""
    if not isinstance(widget.value, list):
        return widget.value
    if widget.spec.type == "CURVE":
        return {"__type__": "CURVE", "__value__": widget.value}
    return {"__value__": widget.value}


# Wires


def resolve(graph: Graph, spot: Spot, place: int) -> Output | Source | None:
    """Follow an input's wire through reroutes, bypassed nodes and subgraphs to where it comes from.

    None: nothing is wired, or what is wired gives nothing.
    """
    visited = set()
    at: tuple[Spot, int, bool, str] | None = (spot, place, False, "")
    while at is not None:
        spot, place, is_output, kind = at
        if (spot.id, place, is_output) in visited:
            raise BadInput(f"node {spot.id} ('{spot.node.title}'): its wires go round in a circle")
        visited.add((spot.id, place, is_output))
        if not is_output:
            source = _through_input(graph, spot, place, kind)
        elif _gives_itself(spot.node):
            return Output(spot, place)
        else:
            source = _through_output(spot, place, kind)
        if isinstance(source, Source):
            return source
        at = source
    return None


def _gives_itself(node: Node) -> bool:
    return node.is_active and node.subgraph is None and node.kind not in VIRTUAL


def _through_input(
    graph: Graph, spot: Spot, place: int, kind: str
) -> tuple[Spot, int, bool, str] | Source | None:
    """Go from an input to the output that is wired to it, or out of the subgraph."""
    slot = _slot(spot, place)
    if slot.link is None:
        return None
    inside = spot.hosts[-1].subgraph if spot.hosts else graph
    assert inside is not None
    link = inside.links.get(slot.link)
    if link is None:
        raise BadInput(
            f"node {spot.id} ('{spot.node.title}'): the wire of '{slot.name}' is missing"
        )
    if link.origin == INPUTS and spot.hosts:
        return _out_of_subgraph(spot, link)
    origin = inside.nodes.get(link.origin)
    if origin is None:
        raise BadInput(
            f"node {spot.id} ('{spot.node.title}'): '{slot.name}' is wired to node {link.origin}, "
            "which is missing"
        )
    return Spot(spot.hosts, origin), link.origin_slot, True, kind or slot.type


def _out_of_subgraph(spot: Spot, link: Link) -> tuple[Spot, int, bool, str] | Source | None:
    """Go from inside a subgraph to the input of its node."""
    host = Spot(spot.hosts[:-1], spot.hosts[-1])
    slot = _slot(host, link.origin_slot)
    if slot.link is not None:
        return host, link.origin_slot, False, ""
    return Source(host, slot.widget) if slot.widget else None


def _slot(spot: Spot, place: int) -> Slot:
    if not -1 < place < len(spot.node.slots):
        raise BadInput(f"node {spot.id} ('{spot.node.title}') has no input number {place}")
    return spot.node.slots[place]


def _through_output(spot: Spot, place: int, kind: str) -> tuple[Spot, int, bool, str] | None:
    """Go from the output of a node that passes things on to the input that it passes on."""
    node = spot.node
    if node.mode == NEVER or node.kind == PRIMITIVE:
        return None
    if node.mode == BYPASS:
        passed = _bypassed(node, place, kind)
        return None if passed is None else (spot, passed, False, "")
    if node.subgraph is None:
        return (spot, place, False, kind) if place < len(node.slots) else None
    return _into_subgraph(spot, node.subgraph, place, kind)


def _into_subgraph(
    spot: Spot, subgraph: Graph, place: int, kind: str
) -> tuple[Spot, int, bool, str] | None:
    """Go from a subgraph's output to the node inside that gives it."""
    if place >= len(subgraph.outputs):
        raise BadInput(f"node {spot.id} ('{spot.node.title}') has no output number {place}")
    links = (subgraph.links.get(number) for number in subgraph.outputs[place].links)
    link = next((link for link in links if link is not None), None)
    if link is None:
        return None
    if link.origin == INPUTS:  # straight through
        return spot, link.origin_slot, False, kind
    inner = subgraph.nodes.get(link.origin)
    if inner is None:
        raise BadInput(
            f"node {spot.id} ('{spot.node.title}'): its output {place} comes from node "
            f"{link.origin}, which is missing"
        )
    return Spot((*spot.hosts, spot.node), inner), link.origin_slot, True, kind


def _bypassed(node: Node, place: int, kind: str) -> int | None:
    """Choose the input that a bypassed node passes on at an output, for a consumer of this type."""
    types = [slot.type for slot in node.slots]
    if not types:
        return None
    if kind in ("*", ""):
        return place if place < len(types) else 0
    output = node.output_types[place] if place < len(node.output_types) else "*"
    if place < len(types) and _fits(types[place], output) and _fits(types[place], kind):
        return place
    if kind in types:
        return types.index(kind)
    fitting = (n for n, one in enumerate(types) if _fits(one, output) and _fits(one, kind))
    return next(fitting, None)


def _fits(one: str, other: str) -> bool:
    """Tell if the front end lets these types be wired: one of each list is the same, or any (*)."""
    if one in ("", "*", "0") or other in ("", "*", "0"):
        return True
    return bool(set(one.lower().split(",")) & set(other.lower().split(",")))
