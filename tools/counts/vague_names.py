"""Names that say how a value came about and not what it holds."""

import ast
from collections.abc import Iterator

from .sources import place, python_files, tree_of

VAGUE = set(
    "asked both chosen found given gone kept known learnt made ones others own ready rest seen "
    "shown some sure taken there told wanted whole".split()
)


def vague_names() -> list[str]:
    """List the variables, arguments, functions and classes with such a name: `place: name`."""
    return [
        f"{place(path, line)}: {name}"
        for path in python_files()
        for name, line in defined_names(tree_of(path))
        if name.strip("_") in VAGUE
    ]


def defined_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield every name that a syntax tree defines, and its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, node.lineno
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name, node.lineno
