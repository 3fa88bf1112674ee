"""Find the seeds of a workflow, also those that come over a wire."""

from .trouble import BadInput
from .workflow import SEEDS, Nodes, Target, Workflow, is_link, title_of


def targets(nodes: Nodes) -> list[Target]:
    """List every seed that can be set: a value, or a number that is wired to seeds only.

    A primitive that is wired to several seeds is listed once.
    """
    sources = [_source(nodes, node, key) for node, key in _inputs(nodes)]
    return list(dict.fromkeys(source for source in sources if source))


def check(flow: Workflow, asked_by: str) -> None:
    """Raise BadInput if the workflow has no seed, or one that a wire brings from a calculation.

    asked_by: what sets all seeds, for the message: "--seed" or "Column 'seed'".
    """
    inputs = _inputs(flow.nodes)
    if not inputs:
        raise BadInput(f"{asked_by}: {flow.name} has no seed.")
    computed = [
        f"'{title_of(flow.nodes[node])}.{key}' is wired to {_name_of_source(flow.nodes, node, key)}"
        for node, key in inputs
        if not _source(flow.nodes, node, key)
    ]
    if computed:
        raise BadInput(
            f"{asked_by} cannot set every seed of {flow.name}: {'; '.join(computed)}, which is not "
            "a number for seeds only. Take the wire off, or name inputs of that node in columns."
        )


def _inputs(nodes: Nodes) -> list[tuple[str, str]]:
    """(node, input) of every seed, be it a value or a wire."""
    return [
        (name, key)
        for name, node in nodes.items()
        for key in SEEDS
        if _is_number(node["inputs"].get(key)) or is_link(node["inputs"].get(key))
    ]


def _source(nodes: Nodes, node: str, key: str) -> Target | None:
    """Where the value of an input is written; None if a wire brings it from elsewhere."""
    value = nodes[node]["inputs"][key]
    if not is_link(value):
        return Target(node, key)
    source = value[0]
    inputs = nodes.get(source, {"inputs": {}})["inputs"]
    if any(is_link(inner) for inner in inputs.values()):
        return None
    numbers = [name for name, inner in inputs.items() if _is_number(inner)]
    named_seeds = [name for name in numbers if name in SEEDS]
    if len(named_seeds) == 1:
        return Target(source, named_seeds[0])
    if len(numbers) != 1 or len(inputs) != 1 or not _feeds_seeds_only(nodes, source):
        return None
    return Target(source, numbers[0])


def _feeds_seeds_only(nodes: Nodes, source: str) -> bool:
    return all(
        key in SEEDS
        for node in nodes.values()
        for key, value in node["inputs"].items()
        if is_link(value) and value[0] == source
    )


def _name_of_source(nodes: Nodes, node: str, key: str) -> str:
    source = nodes[node]["inputs"][key][0]
    return f"'{title_of(nodes[source])}'" if source in nodes else f"node {source}"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
