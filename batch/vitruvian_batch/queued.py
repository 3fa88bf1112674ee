"""What the front end does with a workflow's values at the moment of queueing."""

from __future__ import annotations

import copy
import json
import random
from datetime import datetime
from typing import Any

from .ui_fields import Fields, Input
from .ui_text import choose, replace_tokens
from .ui_widgets import CUSTOM_COMBO, MISSING, SEEDS, custom_index, option_widgets

Nodes = dict[str, dict[str, Any]]


def settle(
    nodes: Nodes, fields: Fields, changes: dict[Input, Any], now: datetime | None = None
) -> Nodes:
    """Return the nodes as the front end would queue them, with these inputs changed by a row.

    Texts get their choices {a|b} and tokens, a dynamic combo the inputs of the option that the row
    chooses, a custom combo its index. now: for %date:...%; this moment if None.
    """
    settled = copy.deepcopy(nodes)
    draws = _seeds(nodes)

    def value_of(node: str, widget: str) -> Any:
        named = fields.named[node][widget]
        if named.input is None:
            return named.value
        return nodes[named.input[0]]["inputs"].get(named.input[1], named.value)

    for (name, key), field in fields.by_input.items():
        inputs = settled[name]["inputs"]
        value = inputs.get(key)
        if field.has_tokens and isinstance(value, str):
            value = replace_tokens(value, value_of, now or datetime.now())
        if field.is_chosen and isinstance(value, str):
            value = choose(value, random.Random(json.dumps([draws, name, key, value])))
        if key in inputs:
            inputs[key] = value
        if (name, key) in changes and field.is_dynamic_combo:
            _choose_option(inputs, key, field.options)
    for node in settled.values():
        if node["class_type"] == CUSTOM_COMBO and "choice" in node["inputs"]:
            inputs = node["inputs"]
            options = [inputs[key] for key in _options(inputs)]
            inputs["index"] = custom_index(inputs["choice"], options)
    return settled


def _options(inputs: dict[str, Any]) -> list[str]:
    keys: list[str] = []
    while (key := f"option{len(keys) + 1}") in inputs:
        keys.append(key)
    return keys


def _seeds(nodes: Nodes) -> list[Any]:
    """List the seeds, from which the choices in texts follow."""
    return [
        node["inputs"][key]
        for node in nodes.values()
        for key in SEEDS
        if isinstance(node["inputs"].get(key), (int, float))
    ]


def _choose_option(inputs: dict[str, Any], name: str, options: dict[str, Any]) -> None:
    """Give a node the inputs of a dynamic combo's option; those of the other one go."""
    widgets = option_widgets(name, options, inputs[name])
    brought = {widget.name for widget in widgets}
    for key in [key for key in inputs if key.startswith(f"{name}.")]:
        if key not in brought and not isinstance(inputs[key], list):
            del inputs[key]
    for widget in widgets:
        is_new = widget.name not in inputs
        if widget.is_sent and widget.value is not MISSING and is_new:
            inputs[widget.name] = widget.value
