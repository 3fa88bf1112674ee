"""Names of inputs and outputs that have more than one type in the pack."""

import json
from collections import defaultdict

from ..paths import ROOT

SNAPSHOT = ROOT / "tests" / "house" / "schemas.json"  # what ComfyUI is told of all nodes


def names_with_several_types() -> list[str]:
    """List these names with their types: `name: TYPE of NodeId, TYPE of NodeId`."""
    types: dict[str, dict[str, str]] = defaultdict(dict)  # name -> type -> a node that has it
    for node, schema in json.loads(SNAPSHOT.read_text(encoding="utf-8")).items():
        for entry in (*schema["inputs"], *schema["outputs"]):
            types[entry["name"]].setdefault(entry["type"], node)
    return [
        f"{name}: {', '.join(f'{kind} of {node}' for kind, node in nodes.items())}"
        for name, nodes in sorted(types.items())
        if len(nodes) > 1
    ]
