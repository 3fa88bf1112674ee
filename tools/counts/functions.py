"""How long functions are, and how many parameters they take."""

import ast
from collections.abc import Iterator
from pathlib import Path

from .sources import place, python_files, tree_of

MOST_PARAMETERS = 7
SCHEMA_METHODS = ("execute", "define_schema")  # whose parameters are a node's inputs

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions() -> Iterator[tuple[Path, Function]]:
    """Yield every function of the source with its file."""
    for path in python_files():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, Function):
                yield path, node


def longest_function() -> str:
    """Name the longest function of what is not a test: `place: name, lines`."""
    source = ((path, node) for path, node in functions() if "tests" not in path.parts)
    path, node = max(source, key=lambda pair: _lines(pair[1]))
    return f"{place(path, node.lineno)}: {node.name}, {_lines(node)} lines"


def long_signatures() -> list[str]:
    """List the functions with more than seven parameters, self not counted: `place: name (n)`."""
    return [
        f"{place(path, node.lineno)}: {node.name} ({len(_parameters(node))})"
        for path, node in functions()
        if node.name not in SCHEMA_METHODS and len(_parameters(node)) > MOST_PARAMETERS
    ]


def _lines(node: Function) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _parameters(node: Function) -> list[str]:
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return [argument.arg for argument in arguments if argument.arg not in ("self", "cls")]
