"""A saved workflow: read it, convert it to the API format, find its inputs by title, fill them."""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .queued import settle
from .reading import read_json
from .trouble import BadInput
from .ui_format.convert import convert
from .ui_format.fields import Fields, fields_of
from .ui_format.fill import put_values
from .ui_format.graph import VIRTUAL
from .ui_format.widgets import SEEDS as SEEDS
from .values import nearest

Nodes = dict[str, dict[str, Any]]
NOTES = VIRTUAL  # the front end's own nodes
WEIGHTS = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx")
SAVE_AGAIN = "Open it in ComfyUI and save it with Workflow > Export (API)."


@dataclass(frozen=True)
class Workflow:
    """The nodes as POST /prompt takes them. `ui` is what the front end opens, where it is known;
    `kinds` is what the host says of the nodes' classes, as far as a host was asked; `fields`, what
    the front end's workflow says of the inputs.
    """

    name: str
    nodes: Nodes
    ui: dict[str, Any] | None = None
    kinds: dict[str, Any] = field(default_factory=dict)
    fields: Fields | None = None


@dataclass(frozen=True)
class Target:
    """An input of a node that holds a value."""

    node: str
    input: str


# Reading


def read(path: Path) -> dict[str, Any]:
    """Read a workflow file of either format."""
    content = read_json(path)
    if is_ui(content):
        return content
    if not _is_api(content):
        raise BadInput(f"{path} is not a workflow of ComfyUI. {SAVE_AGAIN}")
    for name, node in content.items():
        if not isinstance(node.get("inputs"), dict):
            raise BadInput(f"{path}: node {name} has no 'inputs'. {SAVE_AGAIN}")
    return content


def is_ui(content: Any) -> bool:
    """Tell if the content is what Workflow > Save writes."""
    return isinstance(content, dict) and isinstance(content.get("nodes"), list)


def _is_api(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and bool(content)
        and all(
            isinstance(node, dict) and isinstance(node.get("class_type"), str)
            for node in content.values()
        )
    )


def build(path: Path, content: dict[str, Any], info: dict[str, Any]) -> Workflow:
    """Make the workflow of a file. info: the host's /object_info, which the UI format needs."""
    if not is_ui(content):
        return Workflow(path.stem, content, None, _used(content, info))
    try:
        converted = convert(content, info)
    except BadInput as error:
        raise BadInput(f"{path}: {error}. {SAVE_AGAIN}") from None
    if not converted.nodes:
        raise BadInput(f"{path}: no node is left that the host can run. {SAVE_AGAIN}")
    kinds = _used(converted.nodes, info)
    return Workflow(path.stem, converted.nodes, content, kinds, fields_of(converted, info))


def _used(nodes: Nodes, info: dict[str, Any]) -> dict[str, Any]:
    used = {node["class_type"] for node in nodes.values()}
    return {kind: info[kind] for kind in used if kind in info}


# Inputs


def is_link(value: Any) -> bool:
    """Tell if a value is a wire: [node, output]."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _inputs(kind: dict[str, Any]) -> list[tuple[str, Any, dict[str, Any]]]:
    """(name, type or list of choices, options) of a class in /object_info."""
    sections = kind.get("input", {})
    return [
        (name, spec[0], spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {})
        for section in ("required", "optional")
        for name, spec in (sections.get(section) or {}).items()
        if isinstance(spec, list) and spec
    ]


def title_of(node: dict[str, Any]) -> str:
    """Return a node's title, or its class without one."""
    return (node.get("_meta") or {}).get("title") or node["class_type"]


def fill(nodes: Nodes, values: dict[Target, Any]) -> Nodes:
    """Copy the nodes and put these values in."""
    copied = copy.deepcopy(nodes)
    for target, value in values.items():
        copied[target.node]["inputs"][target.input] = value
    return copied


def queued(flow: Workflow, values: dict[Target, Any]) -> Nodes:
    """Fill the nodes and do what the front end does at queueing, so that the host may run them."""
    nodes = fill(flow.nodes, values)
    if flow.fields is None:
        return nodes
    changed = {
        (target.node, target.input)
        for target, value in values.items()
        if flow.nodes[target.node]["inputs"].get(target.input) != value
    }
    return settle(nodes, flow.fields, changed)


def fill_ui(flow: Workflow, new_values: dict[Target, Any]) -> dict[str, Any] | None:
    """Put these values into the UI workflow's widgets, so that an image opens as it was run."""
    if flow.ui is None or flow.fields is None:
        return None
    changes = {(t.node, t.input): value for t, value in new_values.items()}
    return put_values(flow.ui, flow.fields, changes, flow.nodes, flow.kinds)


def find(flow: Workflow, column: str) -> Target:
    """Find the input that a column `title.input` or `#id.input` names, or raise BadInput."""
    parts = column.split(".")
    splits = [(".".join(parts[:n]), ".".join(parts[n:])) for n in range(1, len(parts))]
    if not splits:
        raise BadInput(
            f"Column '{column}': write it as title.input, for example {_example(flow)}; or seed, "
            "for all seeds; or begin it with _ for a note of your own."
        )
    for title, key in splits:
        matches = _named(flow.nodes, title)
        if len(matches) > 1:
            ids = " or ".join(f"#{name}.{key}" for name in matches)
            raise BadInput(
                f"Column '{column}': {len(matches)} nodes of {flow.name} are called '{title}'. "
                f"Give them different titles in ComfyUI, or write {ids}."
            )
        if matches:
            return _input(flow, column, matches[0], key)
    titles = sorted({title_of(node) for node in flow.nodes.values()})
    raise BadInput(
        f"Column '{column}': no node of {flow.name} is called '{splits[-1][0]}'."
        f"{nearest(splits[-1][0], titles)} Its nodes: {', '.join(titles)}."
    )


def _named(nodes: Nodes, title: str) -> list[str]:
    if title.startswith("#") and title[1:] in nodes:
        return [title[1:]]
    by_title = [name for name, node in nodes.items() if title_of(node) == title]
    return by_title or [name for name, node in nodes.items() if node["class_type"] == title]


def _input(flow: Workflow, column: str, name: str, key: str) -> Target:
    inputs = flow.nodes[name]["inputs"]
    values = [key for key, value in inputs.items() if not is_link(value)]
    if key not in inputs:
        raise BadInput(
            f"Column '{column}': the node '{title_of(flow.nodes[name])}' has no input '{key}'."
            f"{nearest(key, values)} Its values: {', '.join(values) or 'none'}."
        )
    if is_link(inputs[key]):
        source = flow.nodes.get(inputs[key][0])
        wired = f"'{title_of(source)}'" if source else f"node {inputs[key][0]}"
        raise BadInput(
            f"Column '{column}': this input is wired to {wired}. Name an input of that node, or "
            "take the wire off."
        )
    return Target(name, key)


def _example(flow: Workflow) -> str:
    for node in flow.nodes.values():
        for key, value in node["inputs"].items():
            if not is_link(value):
                return f"'{title_of(node)}.{key}'"
    return "'KSampler.steps'"


# Values


def spec_of(flow: Workflow, target: Target) -> tuple[Any, dict[str, Any]]:
    """Return (type or choices, options) of an input; without a host, by its value."""
    input_field = flow.fields.by_input.get((target.node, target.input)) if flow.fields else None
    if input_field is not None:
        return input_field.kind, input_field.options
    node = flow.nodes[target.node]
    for name, kind, options in _inputs(flow.kinds.get(node["class_type"], {})):
        if name == target.input:
            return options.get("options", kind) if kind == "COMBO" else kind, options
    value = node["inputs"][target.input]
    kinds = {bool: "BOOLEAN", int: "INT", float: "FLOAT", str: "STRING"}
    return kinds.get(type(value), "*"), {}


def takes_files(flow: Workflow, target: Target) -> bool:
    """Tell if the input names a file of ComfyUI's input folder, which can be sent to the host."""
    kind, options = spec_of(flow, target)
    if any(name.endswith("_upload") and on for name, on in options.items()):
        return True
    loads = "Load" in flow.nodes[target.node]["class_type"]
    value = str(flow.nodes[target.node]["inputs"][target.input]).split(" [")[0]
    is_file = Path(value).suffix != "" and Path(value).suffix not in WEIGHTS
    return loads and is_file and (isinstance(kind, list) or not flow.kinds)
