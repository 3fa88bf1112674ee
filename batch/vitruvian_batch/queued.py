"""What the front end does with a workflow's values at the moment of queueing."""

from __future__ import annotations

import copy
import json
import random
from datetime import datetime
from typing import Any

from .ui_format.fields import Fields, Input
from .ui_format.text import choose, replace_tokens
from .ui_format.widgets import (
    CUSTOM_COMBO,
    DYNAMIC_COMBO,
    MISSING,
    SEEDS,
    Spec,
    custom_index,
    option_sockets,
    option_widgets,
)

Nodes = dict[str, dict[str, Any]]


def settle(nodes: Nodes, fields: Fields, changed: set[Input], now: datetime | None = None) -> Nodes:
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
        if (name, key) in changed and key in inputs and field.is_dynamic_combo:
            combo = Spec(key, DYNAMIC_COMBO, field.options)
            _choose_option(
                inputs, combo, {k: inputs[k] for n, k in changed if n == name and k in inputs}
            )
    for node in settled.values():
        if node["class_type"] == CUSTOM_COMBO and "choice" in node["inputs"]:
            inputs = node["inputs"]
            options = [inputs[key] for key in _options(inputs)]
            inputs["index"] = custom_index(inputs["choice"], options)
            if options and options[-1]:
                inputs[f"option{len(options) + 1}"] = ""  # the front end shows one more
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


def _choose_option(inputs: dict[str, Any], combo: Spec, changed: dict[str, Any]) -> None:
    """Give a node the inputs of a dynamic combo's option, in place of the other one's.

    changed: the inputs whose values are the row's; the rest get their first values.
    """
    old = {key: value for key, value in inputs.items() if key.startswith(f"{combo.name}.")}
    wired = {key for key, value in old.items() if isinstance(value, list)}
    value = inputs[combo.name]
    widgets = option_widgets(combo, value, changed)
    sockets = option_sockets(combo, value, wired) | {widget.name for widget in widgets}
    for key in old.keys() - (wired & sockets):
        del inputs[key]
    for widget in widgets:
        if widget.is_sent and widget.value is not MISSING:
            inputs.setdefault(widget.name, widget.value)
