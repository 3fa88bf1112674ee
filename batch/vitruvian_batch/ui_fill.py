"""Put a row's values into the workflow of the front end, at the widgets where an artist looks."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterator
from typing import Any

from .ui_fields import Field, Input, Place
from .ui_widgets import DYNAMIC_COMBO, MISSING, specs_of, widgets_of

Values = dict[Input, Any]


def put_values(
    ui: dict[str, Any], fields: dict[Input, Field], changes: Values, info: dict[str, Any]
) -> dict[str, Any]:
    """Copy a workflow of the front end with these values in its widgets.

    changes: (node, input) -> value. info: /object_info of the classes in use. Inputs that share a
    widget and get different values are taken off it.
    """
    filled = _Filled(copy.deepcopy(ui), info)
    for target, value in changes.items():
        field = fields.get(target)
        if field is None:
            continue
        sharing = [other for other, one in fields.items() if one.number == field.number]
        together = all(changes.get(other, MISSING) == value for other in sharing)
        if field.place is not None and (together or field.own_place is None):
            filled.put(field.place, value)
        elif field.own_place is not None:
            if field.own_place != field.place:
                filled.take_off(field.own_place, target[1])
            filled.put(field.own_place, value)
    return filled.ui


class _Filled:
    """A workflow that is being filled."""

    def __init__(self, ui: dict[str, Any], info: dict[str, Any]) -> None:
        self.ui, self.info = ui, info

    def put(self, place: Place, value: Any) -> None:
        """Write a value at its place."""
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
        before = saved[place.key]
        saved[place.key] = value
        if before != value and node.get("type") in self.info:
            self._follow(node, place.key, before)
        named = node.get("widgets_values_named")
        if isinstance(named, dict):
            del node["widgets_values_named"]  # the values by name, which no longer hold

    def _follow(self, node: dict[str, Any], index: int, before: Any) -> None:
        """Give a dynamic combo's other option its own widgets, with their first values."""
        kind = self.info[node["type"]]
        if not any(spec.widget_type == DYNAMIC_COMBO for spec in specs_of(kind)):
            return
        saved = list(node["widgets_values"])
        value, saved[index] = saved[index], before
        widgets = [widget for widget in widgets_of(kind, saved) if widget.is_saved]
        combo = next((w for w in widgets if w.place == index), None)
        if combo is None or combo.spec.widget_type != DYNAMIC_COMBO:
            return
        head = widgets[: widgets.index(combo)]
        inside = f"{combo.name}."
        tail = [w for w in widgets[len(head) + 1 :] if not w.name.startswith(inside)]
        fresh = [w for w in widgets_of(kind, [w.value for w in head] + [value]) if w.is_saved]
        grown = [w for w in fresh if w.name.startswith(inside)]
        values = [w.value for w in (*head, *grown, *tail)]
        values.insert(len(head), value)
        node["widgets_values"] = [None if v is MISSING else v for v in values]

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
