"""Functions of two modules that are written alike: most of their lines agree, but for names.

It catches what `like_lines` does not: copies with a few lines of their own in between.
"""

import ast
import difflib
import itertools
from pathlib import Path
from typing import NamedTuple

from .functions import SCHEMA_METHODS
from .like_lines import LENGTH, code_lines
from .sources import place, shipping_files, tree_of

LEAST_SHARE = 0.7  # of the lines of both functions


class Body(NamedTuple):
    """A function and its lines of code, with every name replaced by #."""

    path: Path
    line: int
    name: str
    lines: list[str]


def like_functions(files: list[Path] | None = None) -> list[str]:
    """List the pairs: `place name ~ place name, like lines`. files: the published ones if None."""
    bodies = [body for path in files or shipping_files() for body in function_bodies(path)]
    pairs = []
    for first, second in itertools.combinations(bodies, 2):
        if first.path == second.path:
            continue
        matcher = difflib.SequenceMatcher(None, first.lines, second.lines, autojunk=False)
        if matcher.quick_ratio() < LEAST_SHARE or matcher.ratio() < LEAST_SHARE:
            continue
        count = sum(block.size for block in matcher.get_matching_blocks())
        if count >= LENGTH:
            names = (f"{place(body.path, body.line)} {body.name}" for body in (first, second))
            pairs.append(f"{' ~ '.join(names)}, {count} lines")
    return pairs


def function_bodies(path: Path) -> list[Body]:
    """List the functions and methods of twelve lines and more; nested ones are in their outer."""
    lines = [
        (line.number, " ".join("#" if is_name else text for text, is_name in line.tokens))
        for line in code_lines(path)
    ]
    bodies = []
    outer: list[ast.AST] = [tree_of(path)]
    while outer:
        for node in ast.iter_child_nodes(outer.pop()):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                outer.append(node)
            elif node.name not in SCHEMA_METHODS:
                numbers = range(node.body[0].lineno, (node.end_lineno or node.lineno) + 1)
                texts = [text for number, text in lines if number in numbers]
                if len(texts) >= LENGTH:
                    bodies.append(Body(path, node.lineno, node.name, texts))
    return bodies
