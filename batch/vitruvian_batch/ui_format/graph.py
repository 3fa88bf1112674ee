"""A workflow of the front end as graphs of nodes and wires: its own, and its subgraphs'."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .widgets import Widget

INPUTS, OUTPUTS = "-10", "-20"  # the ids of a subgraph's own ends
NEVER, BYPASS = 2, 4  # modes of a node that is muted or bypassed
PRIMITIVE = "PrimitiveNode"
# The front end's own nodes, which are never sent: their titles and widgets.
VIRTUAL = {
    "Note": ("Note", "text"),
    "MarkdownNote": ("Markdown Note", "text"),
    "Reroute": ("Reroute", None),
    PRIMITIVE: ("Primitive", "value"),
}


class Link(NamedTuple):
    """A wire inside one graph, from an output slot to an input slot."""

    id: int
    origin: str
    origin_slot: int
    target: str
    target_slot: int


@dataclass
class Port:
    """A subgraph's input or output, with the wires that lead to it inside the subgraph."""

    name: str
    type: str
    links: list[int]


@dataclass
class Slot:
    """A node's input. link: the wire in it. widget: what it shows while no wire is in it."""

    name: str
    type: str
    link: int | None = None
    widget: Widget | None = None


@dataclass
class Node:
    """A node of a graph. where: its place in the file. subgraph: the graph that it stands for."""

    id: str
    kind: str
    mode: int
    title: str
    saved: dict[str, Any]
    where: tuple[str | int, ...]
    slots: list[Slot] = field(default_factory=list)
    output_types: list[str] = field(default_factory=list)
    widgets: list[Widget] = field(default_factory=list)
    subgraph: Graph | None = None
    is_open: bool = False  # its inputs and widgets are there

    @property
    def is_active(self) -> bool:
        """Tell if it is neither muted nor bypassed."""
        return self.mode not in (NEVER, BYPASS)

    @property
    def saved_values(self) -> Any:
        """Return its widgets' values as they are in the file."""
        return self.saved.get("widgets_values")

    def slot(self, name: str) -> Slot | None:
        """Find an input by its name."""
        return next((slot for slot in self.slots if slot.name == name), None)

    def widget(self, name: str) -> Widget | None:
        """Find a widget by its name; on a subgraph's node, by the input that shows it."""
        if self.subgraph is not None:
            slot = self.slot(name)
            return slot.widget if slot else None
        return next((widget for widget in self.widgets if widget.name == name), None)

    def __str__(self) -> str:
        return f"node {self.id} ('{self.title}')" if self.title else f"node {self.id}"


@dataclass
class Graph:
    """The nodes and wires of the workflow, or of one of its subgraphs.

    renumbered: old number -> new number, for nodes that shared theirs with others.
    """

    name: str
    nodes: dict[str, Node]
    links: dict[int, Link]
    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)
    renumbered: dict[str, str] = field(default_factory=dict)
