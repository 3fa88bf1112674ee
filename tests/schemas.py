"""What a saved workflow depends on: the ids, names, types, ranges and choices of all nodes.

`SNAPSHOT` holds them as they are published. `losses` says what a change costs an artist.
"""

import json
from pathlib import Path
from typing import Any

SNAPSHOT = Path(__file__).parent / "house" / "schemas.json"
RENEW = "VITRUVIAN_RENEW_SCHEMAS"
COMMAND = f"{RENEW}=1 python3 dev.py test --require-host -q tests/host/test_names.py"
RANGE = ("min", "max", "step")
FILES = "_name"  # the end of the name of an input whose choices are files of this machine
Node = dict[str, Any]
Nodes = dict[str, Node]


def describe(node: Any) -> Node:
    """Describe a node class by what the host tells the front end about it."""
    info, schema = node.GET_NODE_INFO_V1(), node.GET_SCHEMA()
    return {
        "display_name": info["display_name"],
        "inputs": [
            {"name": name, "optional": group == "optional", **_describe_input(name, *entry)}
            for group in ("required", "optional")  # the order of the values in a saved workflow
            for name, entry in info["input"].get(group, {}).items()
        ],
        "outputs": [
            {"id": output.id, "name": name, "type": kind}
            for output, name, kind in zip(
                schema.outputs, info["output_name"], info["output"], strict=True
            )
        ],
    }


def _describe_input(name: str, kind: Any, options: dict[str, Any] | None = None) -> dict[str, Any]:
    options = options or {}
    if isinstance(kind, list):  # how older hosts write a menu
        kind, options = "COMBO", {**options, "options": kind}
    described = {"type": kind}
    described |= {key: options[key] for key in ("default", *RANGE) if key in options}
    if kind == "COMBO" and not name.endswith(FILES):
        described["choices"] = options["options"]
    return described


def read() -> Nodes:
    """Read the snapshot."""
    return json.loads(SNAPSHOT.read_text(encoding="utf-8"))


def write(nodes: Nodes) -> None:
    """Write the snapshot, one line per input and output."""
    lines = []
    for name, node in nodes.items():
        parts = [f'"display_name": {json.dumps(node["display_name"])}']
        for group in ("inputs", "outputs"):
            rows = ",\n   ".join(json.dumps(row) for row in node[group])
            parts.append(f'"{group}": [' + (f"\n   {rows}\n  ]" if rows else "]"))
        lines.append(f" {json.dumps(name)}: {{\n  " + ",\n  ".join(parts) + "\n }")
    SNAPSHOT.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def losses(published: Nodes, current: Nodes) -> list[str]:
    """Say what artists with saved workflows lose. Additions at the end of a list cost nothing."""
    lost = []
    for name, node in published.items():
        if name not in current:
            lost.append(f"saved workflows with {node['display_name']} ({name}) no longer open")
            continue
        display_name = current[name]["display_name"]
        if display_name != node["display_name"]:
            lost.append(f"artists no longer find {node['display_name']}, now {display_name}")
        lost += _input_losses(node["display_name"], node["inputs"], current[name]["inputs"])
        lost += _output_losses(node["display_name"], node["outputs"], current[name]["outputs"])
    return lost


def _input_losses(node: str, published: list[Node], current: list[Node]) -> list[str]:
    inputs = {entry["name"]: entry for entry in current}
    lost = []
    for entry in published:
        name = entry["name"]
        if name not in inputs:
            what = "the value of" if _is_widget(entry) else "the connection to"
            lost.append(f"saved workflows lose {what} '{name}' of {node}")
        else:
            lost += [f"{loss} '{name}' of {node}" for loss in _changes(entry, inputs[name])]
    names = [entry["name"] for entry in published if entry["name"] in inputs]
    old_names = {entry["name"] for entry in published}
    order = [entry["name"] for entry in current if entry["name"] in old_names]
    added = [entry for entry in current if entry["name"] not in old_names]
    for before, after in zip(names, order, strict=True):
        if before != after:
            lost.append(f"saved workflows read the value of '{before}' as '{after}' of {node}")
    if added and not lost and added[0] in current[: len(published)]:
        lost.append(f"saved workflows read the values after '{added[0]['name']}' of {node} wrongly")
    lost += [
        f"saved workflows without the new '{entry['name']}' of {node} are refused: make it optional"
        for entry in added
        if not entry["optional"]
    ]
    return lost


def _is_widget(entry: Node) -> bool:
    return entry["type"] in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def _changes(published: Node, current: Node) -> list[str]:
    """Say what one input's change costs, up to the words "'name' of Node"."""
    if current["type"] != published["type"]:
        types = f"({published['type']} became {current['type']})"
        what = "the value of" if _is_widget(published) else "the connection to"
        return [f"saved workflows lose {what} {types}"]
    lost = []
    if published["optional"] and not current["optional"]:
        lost.append("saved workflows are refused without a value for")
    elif current["optional"] != published["optional"]:
        lost.append("saved workflows read values in another order because of the now optional")
    if current.get("default") != published.get("default"):
        defaults = f"({published.get('default')!r} became {current.get('default')!r})"
        lost.append(f"another result {defaults} comes from the default of")
    for key in RANGE:
        if current.get(key) != published.get(key):
            limits = f"({key} {published.get(key)} became {current.get(key)})"
            lost.append(f"saved values are refused or rounded {limits} in")
    choices = published.get("choices", [])
    for choice in choices:
        if choice not in current.get("choices", []):
            lost.append(f"saved workflows are refused with the choice '{choice}' in")
    if not lost and current.get("choices", [])[: len(choices)] != choices:
        lost.append("the menu has another order in")
    return lost


def _output_losses(node: str, published: list[Node], current: list[Node]) -> list[str]:
    return [
        f"saved workflows lose the connections from output '{entry['name']}' of {node}"
        for place, entry in enumerate(published)
        if place >= len(current) or current[place] != entry
    ]


# a default belongs to what is saved, as in the host's own Save nodes; faces are drawn where there
# are some, but looked for only when somebody asks
OWN_DEFAULTS = {("filename_prefix", "default"), ("include_face", "default")}


def conflicts(nodes: Nodes) -> list[str]:
    """List the names that do not mean the same in all nodes: another type, range or default."""
    meanings: dict[tuple[str, str], dict[Any, str]] = {}
    for node in nodes.values():
        for entry in node["inputs"]:
            for key in ("type", "default", "choices", *RANGE):
                if (entry["name"], key) not in OWN_DEFAULTS:
                    value = json.dumps(entry.get(key))
                    meanings.setdefault((entry["name"], key), {}).setdefault(
                        value, node["display_name"]
                    )
        for entry in node["outputs"]:
            value = json.dumps(entry["type"])
            meanings.setdefault((entry["name"], "type"), {}).setdefault(value, node["display_name"])
    return [
        f"the {key} of '{name}': "
        + ", ".join(f"{value} in {node}" for value, node in values.items())
        for (name, key), values in meanings.items()
        if len(values) > 1
    ]
