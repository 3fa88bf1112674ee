"""Put a row's values into the workflow of the front end, at the widgets where an artist looks."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterator
from typing import Any

from .convert import Nodes
from .fields import Field, Fields, Input, Place
from .widgets import MISSING, option_widgets, widgets_of

Values = dict[Input, Any]


def put_values(
    ui: dict[str, Any], fields: Fields, changes: Values, nodes: Nodes, info: dict[str, Any]
) -> dict[str, Any]:
    """Copy a workflow of the front end with these values in its widgets.

    changes: (node, input) -> value. nodes: with the values that were saved. info: /object_info of
    the classes in use. Inputs that share a widget and get different values are taken off it.
    """
    filled = _Filled(copy.deepcopy(ui), info)
    by_input = fields.by_input
    combos = [target for target in changes if _switches(by_input.get(target))]
    for target, value in changes.items():
        field = by_input.get(target)
        if field is None or target in combos or any(_is_inside(target, c) for c in combos):
            continue
        sharing = {other: one for other, one in by_input.items() if one.number == field.number}
        together = all(changes.get(other, MISSING) == value for other in sharing)
        if field.place is not None and (together or field.own_place is None):
            filled.put(field.place, value)
        elif field.own_place is not None:
            if field.own_place != field.place or len(sharing) > 1:
                filled.take_off(field.own_place, target[1])
            unchanged = {other: one for other, one in sharing.items() if other not in changes}
            for other, one in unchanged.items():
                saved = nodes[other[0]]["inputs"][other[1]]
                for place in (one.place, one.own_place):
                    filled.put(place, saved)
            filled.put(field.own_place, value)
    for combo in combos:
        if not any(_is_inside(combo, other) for other in combos):
            inner = {t[1]: value for t, value in changes.items() if _is_inside(t, combo)}
            filled.switch(by_input[combo].place, combo[1], {combo[1]: changes[combo], **inner})
    return filled.ui


def _switches(field: Field | None) -> bool:
    """Tell if an input's own widget is a dynamic combo."""
    return field is not None and field.is_dynamic_combo and field.place == field.own_place


def _is_inside(target: Input, combo: Input) -> bool:
    """Tell if an input is there for the sake of a dynamic combo's option."""
    return target[0] == combo[0] and target[1].startswith(f"{combo[1]}.")


class _Filled:
    """A workflow that is being filled."""

    def __init__(self, ui: dict[str, Any], info: dict[str, Any]) -> None:
        self.ui, self.info = ui, info

    def put(self, place: Place | None, value: Any) -> None:
        """Write a value at its place."""
        if place is None:
            return
        node = self._node(self._graph(place.hosts), place.node)
        saved = node.get("widgets_values")
        if isinstance(place.key, str):
            saved = node.setdefault("widgets_values", {})
            saved[place.key] = value
            return
        if not isinstance(saved, list):
            saved = node["widgets_values"] = []
        saved += place.before[len(saved) : place.key]
        saved += [None] * (place.key + 1 - len(saved))
        saved[place.key] = value
        node.pop("widgets_values_named", None)  # the same values by name, which no longer hold

    def switch(self, place: Place | None, name: str, values: dict[str, Any]) -> None:
        """Choose an option of a dynamic combo: its widgets take the place of the other one's.

        values: of the combo and of what it brings, by their names; the others get first values.
        """
        if place is None:
            return
        node = self._node(self._graph(place.hosts), place.node)
        kind = self.info[node["type"]]
        widgets = [w for w in widgets_of(kind, node.get("widgets_values")) if w.is_saved]
        at = next((n for n, widget in enumerate(widgets) if widget.name == name), None)
        if at is None or widgets[at].value == values[name]:
            for widget in widgets:
                if widget.name in values and widget.place is not None:
                    self.put(Place(place.hosts, place.node, widget.place), values[widget.name])
            return
        behind = [w for w in widgets[at + 1 :] if not w.name.startswith(f"{name}.")]
        combo = widgets[at]
        combo.value = values[name]
        brought = option_widgets(combo.spec, combo.value, values)
        grown = [combo, *(widget for widget in brought if widget.is_saved)]
        saved = [widget.value for widget in (*widgets[:at], *grown, *behind)]
        node["widgets_values"] = [None if value is MISSING else value for value in saved]
        node.pop("widgets_values_named", None)

    def take_off(self, place: Place, name: str) -> None:
        """Take the wire off an input, so that its own widget gives the value."""
        graph = self._graph(place.hosts)
        for slot in self._node(graph, place.node).get("inputs") or ():
            if slot.get("name") == name and slot.get("link") is not None:
                self._remove_link(graph, slot["link"])
                slot["link"] = None

    def _remove_link(self, graph: dict[str, Any], number: Any) -> None:
        graph["links"] = [
            link
            for link in graph.get("links") or ()
            if (link.get("id") if isinstance(link, dict) else link[0]) != number
        ]
        ends = [end for node in graph["nodes"] for end in node.get("outputs") or ()]
        for end in ends:
            end["links"] = [link for link in end.get("links") or () if link != number]
        for port in (graph.get("inputs") or []) if graph is not self.ui else []:
            port["linkIds"] = [link for link in port.get("linkIds") or () if link != number]

    def _graph(self, hosts: tuple[str, ...]) -> dict[str, Any]:
        """Find the graph inside these nodes; one that others show too is copied for them alone."""
        graph, path = self.ui, ""
        for host in hosts:
            node = self._node(graph, host)
            path += f"/{host}"
            holder, definition = self._definition(node["type"])
            users = sum(other.get("type") == node["type"] for other in self._all_nodes())
            if users > 1:
                definition = copy.deepcopy(definition)
                definition["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{node['type']}{path}"))
                node["type"] = definition["id"]
                holder.append(definition)
            graph = definition
        return graph

    def _node(self, graph: dict[str, Any], name: str) -> dict[str, Any]:
        return next(node for node in graph["nodes"] if str(node["id"]) == name)

    def _definition(self, kind: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Find a subgraph and the list that it is in."""
        for holder in self._holders():
            for definition in holder:
                if definition.get("id") == kind:
                    return holder, definition
        raise KeyError(kind)

    def _holders(self) -> Iterator[list[dict[str, Any]]]:
        waiting = [self.ui]
        while waiting:
            definitions = (waiting.pop().get("definitions") or {}).get("subgraphs") or []
            yield definitions
            waiting += definitions

    def _all_nodes(self) -> Iterator[dict[str, Any]]:
        yield from self.ui["nodes"]
        for holder in self._holders():
            for definition in holder:
                yield from definition.get("nodes") or ()
