"""A saved workflow: read it, convert it to the API format, find its inputs by title, fill them."""

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autograph.convert import (
    flatten_subgraphs,
    get_widget_input_names,
    workflow_to_api_format_with_errors,
)

from .reading import read_json
from .trouble import BadInput
from .values import nearest

Nodes = dict[str, dict[str, Any]]
SEEDS = ("seed", "noise_seed")
CONTROLS = ("fixed", "increment", "decrement", "randomize")  # the front end's, beside a seed
NOTES = ("Note", "MarkdownNote", "Reroute", "PrimitiveNode")  # the front end's own nodes
INACTIVE = (2, 4)  # modes of a node that is muted or bypassed
WEIGHTS = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx")
SAVE_AGAIN = "Open it in ComfyUI and save it with Workflow > Export (API)."


@dataclass(frozen=True)
class Workflow:
    """The nodes as POST /prompt takes them. `ui` is what the front end opens, where it is known;
    `kinds` is what the host says of the nodes' classes, as far as a host was asked.
    """

    name: str
    nodes: Nodes
    ui: dict[str, Any] | None = None
    kinds: dict[str, Any] = field(default_factory=dict)


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
    nodes = _convert(path, content, info) if is_ui(content) else content
    used = {node["class_type"] for node in nodes.values()}
    kinds = {kind: info[kind] for kind in used if kind in info}
    return Workflow(path.stem, nodes, content if is_ui(content) else None, kinds)


# From the UI format to the API format


def _convert(path: Path, ui: dict[str, Any], info: dict[str, Any]) -> Nodes:
    """The nodes that the front end would export; the widgets' order is comfyui-autograph's part."""
    flat = flatten_subgraphs(ui)
    for node in flat["nodes"]:
        values = node.get("widgets_values")
        if isinstance(values, list):
            node["widgets_values"] = [values[n] for n in _widget_places(node["type"], values, info)]
    converted = workflow_to_api_format_with_errors(flat, _with_saved_values(flat, info), True)
    kinds = {str(node["id"]): node["type"] for node in flat["nodes"]}
    used = {node["type"] for node in flat["nodes"] if node.get("mode", 0) not in INACTIVE}
    missing = sorted(used - info.keys() - set(NOTES))
    if missing:
        raise BadInput(
            f"{path}: the host has no node {', '.join(missing)}. Install the pack that brings it."
        )
    problems = [
        problem.message
        for problem in (*converted.errors, *converted.warnings)
        if kinds.get(str(problem.node_id)) not in NOTES
    ]
    if problems or not converted.data:
        reasons = "; ".join(problems) or "no node is left"
        raise BadInput(f"{path} could not be converted ({reasons}). {SAVE_AGAIN}")
    titles = {str(node["id"]): node.get("title") for node in flat["nodes"]}
    for name, node in converted.data.items():
        display_name = info.get(node["class_type"], {}).get("display_name")
        node["_meta"] = {"title": titles.get(name) or display_name or node["class_type"]}
        node["inputs"] = {
            key: value
            for key, value in node["inputs"].items()
            if not is_link(value) or value[0] in converted.data  # nodes that are muted drop out
        }
    return converted.data


def _widget_places(kind: str, values: list[Any], info: dict[str, Any]) -> list[int]:
    """Where a node's values are among its saved widgets' values.

    Between them is what the front end puts after a seed, 'fixed', which could pass for a text.
    """
    controlled = any(
        options.get("control_after_generate") or name in SEEDS
        for name, _, options in _inputs(info.get(kind, {}))
    )
    return [
        n
        for n, value in enumerate(values)
        if not (controlled and n and value in CONTROLS and type(values[n - 1]) in (int, float))
    ]


def _with_saved_values(flat: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """/object_info of the nodes in use, with the saved values added to the choices.

    So a file that the host lacks is no error here: the host itself says what is missing, and a
    column may name another file.
    """
    extended: dict[str, Any] = {}
    for node in flat["nodes"]:
        kind = node["type"]
        if kind not in info:
            continue
        extended.setdefault(kind, copy.deepcopy(info[kind]))
        values = node.get("widgets_values")
        texts = [value for value in values or () if isinstance(value, str)]
        for _, spec_type, options in _inputs(extended[kind]):
            choices = spec_type if isinstance(spec_type, list) else options.get("options")
            if isinstance(choices, list):
                choices.extend(value for value in texts if value not in choices)
    return extended


def fill_ui(flow: Workflow, new_values: dict[Target, Any]) -> dict[str, Any] | None:
    """Put these values into the widgets of the UI workflow, so that an image opens as it was run.

    Inside subgraphs the widgets stay as they were saved; the image's API part is always right.
    """
    if flow.ui is None:
        return None
    ui = copy.deepcopy(flow.ui)
    for node in ui["nodes"]:
        changes = {t.input: value for t, value in new_values.items() if t.node == str(node["id"])}
        values = node.get("widgets_values")
        if changes and isinstance(values, list):
            places = _places(node["type"], values, flow.nodes[str(node["id"])], flow.kinds)
            for name in changes.keys() & places.keys():
                values[places[name]] = changes[name]
    return ui


def _places(
    kind: str, values: list[Any], node: dict[str, Any], info: dict[str, Any]
) -> dict[str, int]:
    """input -> index of its value among the widgets' values, matched by the values in order."""
    places = {}
    indices = iter(_widget_places(kind, values, info))
    for name in get_widget_input_names(kind, info, True):
        value = node["inputs"].get(name)
        place = next((n for n in indices if is_link(value) or values[n] == value), None)
        if place is not None:
            places[name] = place
    return places


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
