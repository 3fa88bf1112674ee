"""The inputs of a converted workflow that hold values: their kinds, and where they are saved.

A row changes a value of the API format. What goes into the image is the workflow of the front end,
so the value must also stand at the widget where an artist looks for it: on the node itself, on the
node of a subgraph that shows it, or on the Primitive node that feeds it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .convert import Converted, Source, Spot
from .graph import Node
from .text import SAVING
from .widgets import DYNAMIC_COMBO, MISSING, Spec, Widget

REPLACED = "Run widget replace on values"  # properties of the front end's nodes
SEARCH_NAME = "Node name for S&R"
Input = tuple[str, str]  # the id of a node and the name of its input, as the host knows them


@dataclass(frozen=True)
class Place:
    """A saved value: of this node, inside these nodes of subgraphs, at this index or name.

    before: the values of the widgets in front, where the file has fewer.
    """

    hosts: tuple[str, ...]
    node: str
    key: int | str
    before: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Field:
    """An input that holds a value, and what it takes: kind and options, as in /object_info.

    place: where its value is saved; own_place: the place on its own node. number: of the widget
    that gives the value; inputs with the same one share it. is_chosen: {a|b} in its text is
    replaced. has_tokens: %Node.widget% is.
    """

    kind: Any
    options: dict[str, Any]
    place: Place | None
    own_place: Place | None
    number: int
    is_chosen: bool = False
    has_tokens: bool = False

    @property
    def is_dynamic_combo(self) -> bool:
        """Tell if its value chooses which other inputs the node has."""
        options = self.options.get("options")
        return isinstance(options, list) and any(
            isinstance(option, dict) and "inputs" in option for option in options
        )


class Named(NamedTuple):
    """A widget that a token may name: the input of the host that it fills, or its value."""

    input: Input | None
    value: Any


@dataclass
class Fields:
    """What tokens and rows may name. named: a node's name -> its widgets by their names."""

    by_input: dict[Input, Field] = field(default_factory=dict)
    named: dict[str, dict[str, Named]] = field(default_factory=dict)


def fields_of(converted: Converted, info: dict[str, Any]) -> Fields:
    """Find the fields of a converted workflow. info: the host's /object_info."""
    fields = Fields()
    spots = {spot.id: spot for spot in converted.spots}
    senders: dict[int, Input] = {}
    for target, source in converted.sources.items():
        value = converted.nodes[target[0]]["inputs"].get(target[1], MISSING)
        if value is MISSING or isinstance(value, list):
            continue
        senders.setdefault(id(source.widget), target)
        fields.by_input[target] = _field(spots[target[0]], target[1], source)
    fields.named = _named(converted, senders, info)
    return fields


def _in_search_order(spots: list[Spot]) -> list[Spot]:
    """Order the nodes as the front end searches them: each graph once, its own nodes first."""
    counts: Counter[int] = Counter()
    once = []
    for spot in sorted(spots, key=lambda spot: len(spot.hosts)):
        counts[id(spot.node)] += 1
        once += [spot] if counts[id(spot.node)] == 1 else []
    return once


def _field(spot: Spot, name: str, source: Source) -> Field:
    """Describe an input of a node that is sent."""
    widget, holder = source.widget, source.spot
    is_own = holder.id == spot.id
    has_tokens = is_own and name == "filename_prefix" and spot.node.kind in SAVING
    own_widget = spot.node.widget(name)
    while widget.place is None and widget.fed_by is None and widget.inner is not None:
        node, widget = widget.inner
        holder = Spot((*holder.hosts, holder.node), node)
    place, number = _place(holder, widget), id(widget)
    if widget.fed_by is not None:
        primitive: Node = widget.fed_by
        place, number = Place(_ids(holder.hosts), _id(primitive), 0), id(primitive)
        has_tokens |= bool((primitive.saved.get("properties") or {}).get(REPLACED))
    spec = source.widget.spec
    return Field(
        spec.choices if _has_choices(spec) else spec.widget_type,
        spec.options,
        place,
        _place(spot, own_widget) if own_widget else None,
        number,
        is_own and source.widget.is_dynamic_text,
        has_tokens,
    )


def _has_choices(spec: Spec) -> bool:
    return spec.widget_type in ("COMBO", DYNAMIC_COMBO) and isinstance(
        spec.options.get("options"), list
    )


def _ids(nodes: tuple[Node, ...]) -> tuple[str, ...]:
    return tuple(map(_id, nodes))


def _id(node: Node) -> str:
    """Return a node's number in the file."""
    return str(node.saved["id"])


def _place(spot: Spot, widget: Widget) -> Place | None:
    """Say where a widget's value is saved; for one that the file lacks, where it would be."""
    hosts, node = _ids(spot.hosts), spot.node
    if widget.place is not None:
        return Place(hosts, _id(node), widget.place)
    if node.subgraph is not None or not widget.is_saved:
        return None
    if isinstance(node.saved_values, dict):
        return Place(hosts, _id(node), widget.name)
    saved = [other for other in node.widgets if other.is_saved]
    index = next(n for n, other in enumerate(saved) if other is widget)
    before = tuple(None if w.value is MISSING else w.value for w in saved[:index])
    return Place(hosts, _id(node), index, before)


def _named(
    converted: Converted, senders: dict[int, Input], info: dict[str, Any]
) -> dict[str, dict[str, Named]]:
    """Find the widgets that tokens may name: by the property for it, else by the node's title.

    The first node of a name counts.
    """
    by_title: dict[str, dict[str, Named]] = {}
    by_property: dict[str, dict[str, Named]] = {}
    for spot in _in_search_order(converted.spots):
        node = spot.node
        widgets = {widget.name: widget for widget in reversed(node.widgets)}
        if node.subgraph is not None:
            widgets = {slot.name: slot.widget for slot in node.slots if slot.widget is not None}
        widgets_by_name = {
            name: Named(senders.get(id(w)), None if w.value is MISSING else w.value)
            for name, w in widgets.items()
        }
        properties = node.saved.get("properties") or {}
        name = properties.get(SEARCH_NAME)
        if SEARCH_NAME not in properties and node.kind in info and node.kind not in SAVING:
            name = node.kind
        by_title.setdefault(node.title, widgets_by_name)
        if isinstance(name, str):
            by_property.setdefault(name, widgets_by_name)
    return {**by_title, **by_property}
