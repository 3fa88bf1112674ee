"""Repeated code: runs of lines in two modules that are equal, or equal but for their names.

Blank lines, comments, docstrings, imports, the heads of functions and the fields of classes do not
count, nor do tables, in which most lines look the same. Strings, numbers and attributes must be
equal; variables, arguments and functions may have other names if they are used alike.
"""

import ast
import io
import keyword
import token
import tokenize
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from .sources import place, shipping_files, tree_of

LENGTH = 12  # lines
LEAST_KINDS = 6  # of lines, or it is a table
LAYOUT = (token.NEWLINE, token.NL, token.INDENT, token.DEDENT, token.COMMENT, token.ENDMARKER)


Start = tuple[Path, int]  # a file and the index of a line of code in it


class Line(NamedTuple):
    """The tokens of a line; the second of each pair says if it is a name that may differ."""

    number: int
    tokens: tuple[tuple[str, bool], ...]


def like_pairs(files: list[Path] | None = None) -> list[str]:
    """List the pairs of like runs: `place ~ place, lines`. files: the published ones if None."""
    lines_of = {path: code_lines(path) for path in files or shipping_files()}
    starts = _like_starts(lines_of)
    pairs = []
    for (path, start), (other, other_start) in sorted(starts):
        if ((path, start - 1), (other, other_start - 1)) in starts:
            continue  # not the beginning of its run
        more = 1
        while ((path, start + more), (other, other_start + more)) in starts:
            more += 1
        first, second = lines_of[path][start].number, lines_of[other][other_start].number
        pairs.append(f"{place(path, first)} ~ {place(other, second)}, {LENGTH + more - 1} lines")
    return pairs


def _like_starts(lines_of: dict[Path, list[Line]]) -> set[tuple[Start, Start]]:
    """Where runs of LENGTH like lines begin, in two different files each."""
    windows: dict[str, list[Start]] = defaultdict(list)
    for path, lines in lines_of.items():
        for index in range(len(lines) - LENGTH + 1):
            window = lines[index : index + LENGTH]
            if len({form([line]) for line in window}) >= LEAST_KINDS:
                windows[form(window)].append((path, index))
    return {
        (start, other)
        for matches in windows.values()
        for start in matches
        for other in matches
        if start[0] < other[0]
    }


def code_lines(path: Path) -> list[Line]:
    """Split a file into its lines of code, without what does not count."""
    left_out = _uncounted(tree_of(path))
    tokens: dict[int, list[tuple[str, bool]]] = defaultdict(list)
    previous = ""
    for item in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if item.type in LAYOUT or item.start[0] in left_out:
            continue
        is_name = item.type == token.NAME and not keyword.iskeyword(item.string)
        tokens[item.start[0]].append((item.string, is_name and previous != "."))
        previous = item.string
    return [Line(number, tuple(tokens[number])) for number in sorted(tokens)]


def form(lines: list[Line]) -> str:
    """Write lines with every name replaced by the order in which it first occurs."""
    order: dict[str, int] = {}
    return "\n".join(
        " ".join(
            f"#{order.setdefault(text, len(order))}" if is_name else text
            for text, is_name in line.tokens
        )
        for line in lines
    )


def _uncounted(tree: ast.Module) -> set[int]:
    """The numbers of the lines of docstrings, imports, heads of functions and fields of classes."""
    numbers: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            numbers.update(range(start, node.body[0].lineno))
        statements: list[ast.stmt] = []
        if isinstance(node, ast.ClassDef):
            statements += [item for item in node.body if isinstance(item, ast.AnnAssign)]
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            statements.append(node)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            statements.append(node)  # a docstring
        for statement in statements:
            numbers.update(range(statement.lineno, (statement.end_lineno or 0) + 1))
    return numbers
