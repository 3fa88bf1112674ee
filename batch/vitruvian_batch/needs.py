"""What a workflow needs of a host: its nodes, the files it names, and a node that saves."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from .trouble import BadInput
from .values import fit
from .workflow import NOTES, Target, Workflow, is_link, is_ui, spec_of

SHOWS_ONLY = re.compile(r"preview|show|display|compare|websocket", re.IGNORECASE)
UNREPORTED = re.compile(r"save", re.IGNORECASE)  # the host's own that save without a prefix
HOSTS_MODULES = ("nodes", "comfy_extras.")
ABSENT = {"input": {}, "output": [], "output_node": True}  # a class that the host lacks


def missing_nodes(content: dict[str, Any], info: dict[str, Any]) -> list[str]:
    """List the classes of a workflow that a host lacks. info: its /object_info."""
    kinds = set(_kinds(content)) if is_ui(content) else {n["class_type"] for n in content.values()}
    return sorted(kinds - info.keys())


def _kinds(ui: dict[str, Any]) -> Iterator[str]:
    """The classes of the nodes that run, also within subgraphs that are neither muted nor bypassed.

    Inside of others a subgraph's mode does not count: what it holds has modes of its own.
    """
    definitions = ui.get("definitions")
    listed = definitions.get("subgraphs") if isinstance(definitions, dict) else None
    subgraphs = {str(graph.get("id")): graph for graph in listed or () if isinstance(graph, dict)}
    waiting, reached = [ui], set()
    while waiting:
        graph = waiting.pop()
        nodes = graph.get("nodes")
        for node in nodes if isinstance(nodes, list) else ():
            kind = node.get("type") if isinstance(node, dict) else None
            if not isinstance(kind, str) or kind.startswith(("workflow>", "workflow/")):
                continue  # the second is a group node
            is_active = node.get("mode", 0) not in (2, 4)
            if kind in subgraphs:
                if kind not in reached and (is_active or graph is not ui):
                    reached.add(kind)
                    waiting.append(subgraphs[kind])
            elif is_active and kind not in NOTES:
                yield kind


def missing_files(
    flow: Workflow, filled: set[Target], has_input: Callable[[str], bool]
) -> list[str]:
    """List what a workflow names and the host does not offer: models, images, choices.

    filled: inputs that every row fills with values of its own. has_input: asks the host whether a
    file lies in its folders; only there are files that its lists leave out.
    """
    missing = []
    for name, node in flow.nodes.items():
        for key, value in node["inputs"].items():
            target = Target(name, key)
            if target in filled or is_link(value) or isinstance(value, (list, dict)):
                continue
            choices, options = spec_of(flow, target)
            if not isinstance(choices, list) or value in choices:
                continue
            is_sent = any(option.endswith("_upload") and on for option, on in options.items())
            if not (is_sent and isinstance(value, str) and has_input(value)):
                missing.append(f"{node['class_type']} (node {name}): no '{value}' for {key}")
    return missing


def unfit_values(flow: Workflow, filled: set[Target]) -> list[str]:
    """List what the host would refuse of a workflow as it was saved, by what it says of its nodes:
    inputs that are missing, numbers out of range, wires from nowhere or of another type.

    filled: inputs that every row fills with values of its own, which are checked with their row.
    """
    lines = []
    for name in _nodes_that_run(flow):
        node = flow.nodes[name]
        inputs, place = node["inputs"], f"{node['class_type']} (node {name})"
        sections = flow.kinds.get(node["class_type"], {}).get("input", {})
        for key in sections.get("required") or {}:
            if key not in inputs and not _is_dynamic(sections["required"][key]):
                lines.append(f"{place}: the input '{key}' is missing")
        for key, value in inputs.items():
            if Target(name, key) not in filled:
                reason = _unfit(flow, Target(name, key), value)
                lines += [f"{place}: {key}: {reason}"] if reason else []
    return lines


def _nodes_that_run(flow: Workflow) -> list[str]:
    """List the nodes that the host looks at: those that save or show, and what leads to them."""
    waiting, reached = [*output_nodes(flow)], set()
    while waiting:
        name = waiting.pop()
        if name in flow.nodes and name not in reached:
            reached.add(name)
            waiting += [value[0] for value in flow.nodes[name]["inputs"].values() if is_link(value)]
    return [name for name in flow.nodes if name in reached]


def _unfit(flow: Workflow, target: Target, value: Any) -> str:
    """Say why the host would refuse this value or wire, or nothing."""
    kind, options = spec_of(flow, target)
    if is_link(value):
        source = flow.nodes.get(value[0])
        if source is None:
            return f"it is wired to node {value[0]}, which is not there"
        outputs = flow.kinds.get(source["class_type"], {}).get("output") or []
        sent = outputs[value[1]] if value[1] < len(outputs) else None
        return "" if _fits(sent, kind) else f"it takes {kind}, and the wire brings {sent}"
    if kind not in ("INT", "FLOAT", "BOOLEAN") or not isinstance(value, (int, float, str)):
        return ""
    try:
        fit(value, kind, options)
    except ValueError as error:
        return str(error)
    return ""


def _fits(sent: Any, kind: Any) -> bool:
    """Tell if a wire of this type may end there; types that depend on others are not judged."""
    if not isinstance(sent, str) or not isinstance(kind, str):
        return True
    types = [{*text.split(",")} for text in (sent, kind)]
    is_open = any(text == "*" or text.startswith("COMFY_") for part in types for text in part)
    return is_open or not types[0].isdisjoint(types[1])


def _is_dynamic(spec: Any) -> bool:
    """Tell if an input stands for others, by a type such as COMFY_AUTOGROW_V3."""
    return isinstance(spec, list) and str(spec[0]).startswith("COMFY_")


def output_nodes(flow: Workflow) -> set[str]:
    """Return the ids of the nodes for whose sake the host runs a workflow."""
    return {
        name
        for name, node in flow.nodes.items()
        if flow.kinds.get(node["class_type"], {}).get("output_node")
    }


def check_saves(flow: Workflow) -> None:
    """Raise BadInput if no node of a workflow saves a file, as far as the host knows its nodes."""
    knows_all = all(node["class_type"] in flow.kinds for node in flow.nodes.values())
    if knows_all and not any(_may_save(flow, name) for name in output_nodes(flow)):
        raise BadInput(
            f"{flow.name} saves nothing: it has no node like Save Image, only others or previews. "
            "Add one, or a batch would leave nothing."
        )


def reports_files(flow: Workflow) -> bool:
    """Tell if a run of the workflow that reports no file cannot have saved any."""
    return all(
        _has_prefix(flow, name) or not _may_save(flow, name) for name in output_nodes(flow)
    ) and bool(output_nodes(flow))


def _may_save(flow: Workflow, name: str) -> bool:
    """Tell if an output node may save: it names its files, or is a pack's that nobody knows."""
    kind = flow.nodes[name]["class_type"]
    module = str(flow.kinds[kind].get("python_module", ""))
    if SHOWS_ONLY.search(kind):
        return False
    if _has_prefix(flow, name):
        return True
    is_hosts = module == HOSTS_MODULES[0] or module.startswith(HOSTS_MODULES[1])
    return not is_hosts or bool(UNREPORTED.search(kind))


def _has_prefix(flow: Workflow, name: str) -> bool:
    return "filename_prefix" in flow.nodes[name]["inputs"]
