"""The front end's Primitive node: one value for several widgets."""

from __future__ import annotations

import math
from typing import Any

from .file import fed_links
from .graph import PRIMITIVE, Graph, Node, Slot
from .widgets import DEFAULTS, MISSING, Widget


def apply_primitives(graph: Graph) -> None:
    """Put the value of every Primitive node into the widgets that it feeds."""
    waiting, visited = [graph], set()
    while waiting:
        current = waiting.pop()
        if id(current) in visited:
            continue
        visited.add(id(current))
        for node in current.nodes.values():
            if node.subgraph is not None:
                waiting.append(node.subgraph)
            elif node.kind == PRIMITIVE:
                _apply(current, node)


def _apply(graph: Graph, primitive: Node) -> None:
    fed = fed_slots(graph, primitive)
    if not fed or _first_type(fed[0][1]) not in DEFAULTS:
        return
    first = fed[0][1].widget
    values = primitive.saved_values
    value = first.value if first else MISSING
    if isinstance(values, list) and values:
        value = values[0]
    elif isinstance(values, dict) and "value" in values:
        value = values["value"]
    widgets = [slot.widget for _, slot in fed if slot.widget is not None]
    if len(widgets) > 1:
        value = _within(value, widgets)
    for widget in widgets:
        widget.value, widget.fed_by = _rounded(value, widget), primitive


def _first_type(slot: Slot) -> str:
    return slot.widget.spec.widget_type if slot.widget else slot.type


def fed_slots(graph: Graph, primitive: Node) -> list[tuple[Node, Slot]]:
    """List the inputs that a Primitive node is wired to."""
    fed = []
    for number in fed_links(primitive.saved):
        link = graph.links.get(number)
        node = graph.nodes.get(link.target) if link else None
        slot = next((s for s in node.slots if s.link == number), None) if node else None
        if node and slot:
            fed.append((node, slot))
    return fed


def _within(value: Any, widgets: list[Widget]) -> Any:
    """Bring a number into the range that all its widgets take."""
    if type(value) not in (int, float) or widgets[0].spec.widget_type not in ("INT", "FLOAT"):
        return value
    least = [w.spec.options["min"] for w in widgets if _is_number(w.spec.options.get("min"))]
    most = [w.spec.options["max"] for w in widgets if _is_number(w.spec.options.get("max"))]
    value = max([value, *least])
    return min([value, *most])


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _rounded(value: Any, widget: Widget) -> Any:
    """Round as the front end does when it sets a number: to whole steps, or to the shown digits."""
    options = widget.spec.options
    if not _is_number(value) or not math.isfinite(value):
        return value
    if widget.spec.widget_type == "INT":
        step = options.get("step") or 1
        offset = math.fmod(options.get("min") or 0, step) if step != 1 else 0
        return int(math.floor((value - offset) / step + 0.5) * step + offset)
    if widget.spec.widget_type == "FLOAT":
        digits = max(0, -math.floor(math.log10(options.get("step") or 0.5)))
        unit = options.get("round") or (10**-digits if digits else 0)
        if not _is_number(unit) or not unit:
            return value
        return round(math.floor(value / unit + 0.5) * unit, digits)
    return value
