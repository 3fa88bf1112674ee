"""The widgets that a subgraph's node shows of the nodes inside it.

A subgraph's input that leads to a widget is shown as a widget on every node of that subgraph, and
each has a value of its own. Earlier front ends listed such widgets in `properties.proxyWidgets`;
the front end makes inputs of them when it opens the workflow, which is done here in the same order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .file import fed_links, to_whole
from .graph import INPUTS, PRIMITIVE, Graph, Link, Node, Port, Slot
from .widgets import DYNAMIC_COMBO, Widget

PREFIX = re.compile(r"^\s*(\d+)\s*:\s*(.+)$")
LINKED = "-1"  # the source of a widget that is a subgraph's input already
PRIMITIVE_WIDGET = "value"


def open_subgraph_node(node: Node) -> None:
    """Give a subgraph's node the subgraph's inputs, with their widgets and its own values."""
    assert node.subgraph is not None
    node.is_open = True
    links = {
        str(entry.get("name")): to_whole(entry.get("link"))
        for entry in node.saved.get("inputs") or ()
    }
    node.title = node.title or node.subgraph.name
    node.output_types = [port.type for port in node.subgraph.outputs]
    for port in node.subgraph.inputs:
        slot = Slot(port.name, port.type, links.get(port.name))
        slot.widget = _first_widget(node.subgraph, port)
        node.slots.append(slot)
    values = node.saved_values if isinstance(node.saved_values, list) else []
    quarantined = _kept_values(node)
    for n, slot in enumerate(slot for slot in node.slots if slot.widget):
        assert slot.widget
        if slot.name in quarantined:
            slot.widget.value, slot.widget.inner = quarantined[slot.name], None
        elif n < len(values):
            slot.widget.place, slot.widget.value = n, values[n]


def _first_widget(graph: Graph, port: Port) -> Widget | None:
    """Copy the first widget that a subgraph's input leads to, under the input's name."""
    for node, slot in _targets(graph, port):
        if slot.widget is not None:
            inner = (node, slot.widget)
            return Widget(port.name, slot.widget.value, slot.widget.spec, inner=inner)
    return None


def _targets(graph: Graph, port: Port) -> Iterable[tuple[Node, Slot]]:
    """Yield the inputs inside a subgraph to which one of its own inputs leads."""
    for number in port.links:
        link = graph.links.get(number)
        node = graph.nodes.get(link.target) if link else None
        slot = next((s for s in node.slots if s.link == number), None) if node else None
        if node and slot:
            yield node, slot


def _kept_values(node: Node) -> dict[str, Any]:
    """Return input -> value for what the front end could not place when it opened the file last."""
    entries = _properties(node).get("proxyWidgetErrorQuarantine")
    by_input = {}
    for entry in reversed(entries if isinstance(entries, list) else []):
        source = entry.get("originalEntry") if isinstance(entry, dict) else None
        if isinstance(source, list) and len(source) > 1 and source[0] == LINKED:
            if entry.get("hostValue") is not None:
                by_input[str(source[1])] = entry["hostValue"]
    return by_input


def _properties(node: Node) -> dict[str, Any]:
    return node.saved.get("properties") or {}


@dataclass
class Proxy:
    """An entry of `proxyWidgets`: a widget of a node inside. value: MISSING if none was saved."""

    index: int
    source: str
    name: str
    inner: str | None
    values: list[Any]

    @property
    def has_value(self) -> bool:
        """Tell if the subgraph's node saved a value for it."""
        return self.index < len(self.values) and self.values[self.index] is not None

    def give(self, widget: Widget | None) -> None:
        """Put the saved value into a widget."""
        if widget is not None and self.has_value:
            widget.place, widget.value = self.index, self.values[self.index]


def promote(graph: Graph, graphs: list[Graph]) -> None:
    """Make inputs of the widgets that the subgraph nodes of a graph list in `proxyWidgets`.

    graphs: all of the workflow.
    """
    for node in graph.nodes.values():
        if node.subgraph is None:
            continue
        proxies = _proxies(node, node.subgraph.renumbered)
        plans = [(proxy, _plan(node, proxy, proxies)) for proxy in proxies]
        primitives: dict[str, list[Proxy]] = {}
        lost = []
        for proxy, plan in plans:
            if isinstance(plan, Slot):
                if sum(slot.name == plan.name for slot in node.slots) == 1:
                    proxy.give(plan.widget)
            elif plan == "primitive":
                primitives.setdefault(proxy.source, []).append(proxy)
            elif plan == "create":
                _create(node, proxy, graphs)
            elif plan == "lost":
                lost.append(proxy)
        for source, cohort in primitives.items():
            _bypass_primitive(node, node.subgraph.nodes[source], cohort, graphs)
        for proxy in lost:
            if proxy.source == LINKED and proxy.has_value:
                proxy.give(node.widget(proxy.name))


def _proxies(node: Node, names: dict[str, str]) -> list[Proxy]:
    """Read the property; [] if the front end would not understand it."""
    entries = _properties(node).get("proxyWidgets")
    if isinstance(entries, str):
        try:
            entries = json.loads(entries)
        except ValueError:
            entries = None
    if not isinstance(entries, list) or not all(_is_proxy(entry) for entry in entries):
        return []
    values = node.saved_values if isinstance(node.saved_values, list) else []
    proxies = []
    for index, (source, name, *inner) in enumerate(entries):
        source = names.get(source, source)
        widget, deepest = name, None
        if _inner_widget(node, source, name) is None:
            while match := PREFIX.match(widget):
                deepest, widget = match[1], match[2]
        proxies.append(Proxy(index, source, widget, deepest or next(iter(inner), None), values))
    return proxies


def _is_proxy(entry: Any) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) in (2, 3)
        and all(isinstance(part, str) for part in entry)
    )


def _inner_widget(host: Node, source: str, name: str) -> Widget | None:
    """Find a widget inside a subgraph, through the inputs of the subgraphs inside it."""
    while host.subgraph is not None:
        node = host.subgraph.nodes.get(source)
        if node is None:
            return None
        if node.subgraph is None:
            return node.widget(name)
        port = next((port for port in node.subgraph.inputs if port.name == name), None)
        target = _source_of(node.subgraph, port) if port else None
        if target is None:
            return None
        host, (source, name) = node, target
    return None


def _source_of(graph: Graph, port: Port) -> tuple[str, str] | None:
    """Return the node and the widget's name that a subgraph's input shows."""
    for node, slot in _targets(graph, port):
        if node.subgraph is not None:
            return node.id, slot.name
        if slot.widget is not None:
            return node.id, slot.widget.name
    return None


def _plan(host: Node, proxy: Proxy, proxies: list[Proxy]) -> Slot | str:
    """Say what becomes of an entry: the input that shows it already, or a word for what to do."""
    assert host.subgraph is not None
    for slot, port in zip(host.slots, host.subgraph.inputs, strict=True):
        if _source_of(host.subgraph, port) == (proxy.source, proxy.name):
            return slot
    node = host.subgraph.nodes.get(proxy.source)
    if node is None:
        return "lost"
    if node.kind == PRIMITIVE:
        slot_name = _properties(node).get("proxyBypassedToSubgraphInput")
        bypassed = host.slot(slot_name) if isinstance(slot_name, str) else None
        twice = sum(other.source == proxy.source for other in proxies) > 1
        if bypassed is not None:
            return bypassed
        return "primitive" if twice or _consumers(host.subgraph, node) else "lost"
    if proxy.name.startswith("$$"):
        return "preview"
    widget = _source_widget(node, proxy)
    if widget is None:
        return "lost"
    return "create" if widget.is_sent or widget.is_saved else "preview"


def _source_widget(node: Node, proxy: Proxy) -> Widget | None:
    if node.subgraph is None:
        return node.widget(proxy.name)
    for slot, port in zip(node.slots, node.subgraph.inputs, strict=True):
        target = _source_of(node.subgraph, port)
        if proxy.inner is not None:
            shows = target == (proxy.inner, proxy.name)
        else:
            shows = slot.name == proxy.name or (target is not None and target[1] == proxy.name)
        if shows:
            return slot.widget
    return None


def _consumers(graph: Graph, primitive: Node) -> list[tuple[Node, int]]:
    """List the inputs that a primitive feeds, as nodes and places among their inputs."""
    links = (graph.links.get(number) for number in fed_links(primitive.saved))
    return [
        (graph.nodes[link.target], _place(graph.nodes[link.target], link))
        for link in links
        if link is not None and link.target in graph.nodes
    ]


def _place(node: Node, link: Link) -> int:
    """Return the place of an input as the front end knows it at this moment.

    It is the saved one, which is another input's where a class has got inputs since; except behind
    inputs that grow, where the front end has counted again.
    """
    place = next((n for n, slot in enumerate(node.slots) if slot.link == link.id), None)
    if place is None:
        return link.target_slot
    before = node.slots[: place + 1]
    grows = any("." in s.name or s.type == DYNAMIC_COMBO for s in before)
    return place if grows else link.target_slot


def _create(host: Node, proxy: Proxy, graphs: list[Graph]) -> None:
    """Make an input of a widget inside, and give it the value of the subgraph's node."""
    assert host.subgraph is not None
    node = host.subgraph.nodes[proxy.source]
    widget = _source_widget(node, proxy)
    place = next((n for n, slot in enumerate(node.slots) if slot.widget is widget), None)
    if place is not None:
        slot = _add_input(host, proxy.name, [(node, place)], graphs)
        proxy.give(slot.widget)


def _bypass_primitive(
    host: Node, primitive: Node, cohort: list[Proxy], graphs: list[Graph]
) -> None:
    """Make an input of a primitive inside: what it feeds is fed by the input instead."""
    assert host.subgraph is not None
    consumers = _consumers(host.subgraph, primitive)
    if not consumers or len({proxy.name for proxy in cohort}) > 1:
        return
    kind = str((primitive.saved.get("outputs") or [{}])[0].get("type", "*"))
    for node, place in consumers:
        if not -1 < place < len(node.slots):
            return
        if "*" not in (kind, node.slots[place].type) and node.slots[place].type != kind:
            return
    slot = _add_input(host, primitive.title or cohort[0].name, consumers, graphs)
    next((proxy for proxy in cohort if proxy.has_value), cohort[0]).give(slot.widget)


def _add_input(host: Node, name: str, targets: list[tuple[Node, int]], graphs: list[Graph]) -> Slot:
    """Add an input to a subgraph and to all of its nodes; return the one of this node."""
    graph = host.subgraph
    assert graph is not None
    port_names = {port.name for port in graph.inputs}
    unique = next(n for n in _numbered(name) if n not in port_names)
    port = Port(unique, targets[0][0].slots[targets[0][1]].type, [])
    for node, place in targets:
        number = max(graph.links, default=0) + 1
        graph.links[number] = Link(number, INPUTS, len(graph.inputs), node.id, place)
        node.slots[place].link = number
        port.links.append(number)
    graph.inputs.append(port)
    for other in graphs:
        for node in other.nodes.values():
            if node.subgraph is graph and node.is_open:
                node.slots.append(Slot(unique, port.type, widget=_first_widget(graph, port)))
    return host.slots[-1]


def _numbered(name: str) -> Iterable[str]:
    yield name
    number = 1
    while True:
        yield f"{name}_{number}"
        number += 1
