"""What `dev.py lint` counts, on small sources of which the counts are known."""

import ast
import textwrap

import pytest
from vitruvian.tools.commands import lint
from vitruvian.tools.counts import functions, like_functions, like_lines, sources, vague_names

LOOP = """
def {name}(values, limit):
    total = 0
    for {item} in values:
        if {item} < limit:
            total += {item}
        elif {item} == limit:
            total -= 1
        else:
            total *= {item}
    while total > {number}:
        total = total // 2
        limit.append(total)
    if not total:
        raise ValueError("nothing")
    return total
"""


@pytest.fixture
def source(tmp_path):
    """Writes a module and returns its path."""

    def write(name, text):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return path

    return write


def test_equal_lines_and_lines_that_differ_in_names_only_are_like(source):
    first = source("first.py", LOOP.format(name="add", item="x", number=10))
    second = source("second.py", "import os\n" + LOOP.format(name="sum", item="item", number=10))
    (pair,) = like_lines.like_pairs([first, second])
    assert pair == f"{first}:3 ~ {second}:4, 14 lines"


def test_other_numbers_methods_or_uses_of_names_are_not_like(source):
    text = LOOP.format(name="add", item="x", number=10)
    first = source("first.py", text)
    for name, changed in {
        "number": LOOP.format(name="add", item="x", number=11),
        "method": text.replace("append", "extend"),
        "use": text.replace("total *= x", "total *= limit"),
    }.items():
        assert not like_lines.like_pairs([first, source(f"{name}.py", changed)]), name


def test_functions_with_a_few_lines_of_their_own_are_like(source):
    text = LOOP.format(name="add", item="x", number=10)
    first = source("first.py", text)
    changed = text.replace("    if not total", "    total.sort()\n    if not total").replace(
        "-= 1", "-= 2"
    )
    second = source("second.py", changed)
    assert not like_lines.like_pairs([first, second])
    (pair,) = like_functions.like_functions([first, second])
    assert pair == f"{first}:2 add ~ {second}:2 add, 13 lines"
    assert not like_functions.like_functions(
        [first, source("third.py", text.replace("total", "a.b"))]
    )


def test_tables_imports_and_heads_of_functions_are_not_repeated_code(source):
    head = "def add(\n" + "".join(f"    a{n}: int,\n" for n in range(20)) + "):\n    pass\n"
    table = "TABLE = {\n" + "".join(f"    A{n}: B{n},\n" for n in range(20)) + "}\n"
    imports = "".join(f"import a{n}\n" for n in range(20))
    files = [source(f"{name}.py", head + table + imports) for name in ("first", "second")]
    assert not like_lines.like_pairs(files)


def test_vague_names_are_those_that_are_defined():
    tree = ast.parse("def f(given):\n    self.own = found.rest\n    for x in made(): pass\n")
    names = [name for name, _ in vague_names.defined_names(tree)]
    assert {"given", "own"} < {*names}
    assert not {"found", "rest", "made"} & {*names}


def test_self_and_the_methods_of_a_schema_do_not_count_as_long_signatures(monkeypatch, source):
    arguments = ", ".join(f"a{n}" for n in range(8))
    path = source(
        "module.py",
        f"""
        class A:
            def few(self, {arguments[4:]}): ...
            def many(self, {arguments}): ...
            def execute(cls, {arguments}): ...
        """,
    )
    monkeypatch.setattr(functions, "python_files", lambda: [path])
    assert functions.long_signatures() == [f"{path}:4: many (8)"]


def test_lint_fails_above_a_limit_and_names_the_places(monkeypatch, capsys):
    monkeypatch.setattr(lint, "LIMITS", {"names": (lambda: ["a.py:1: made"], 0)})
    assert not lint.within_limits()
    assert "names: 1 (at most 0)\n  a.py:1: made\n" in capsys.readouterr().out
    monkeypatch.setattr(lint, "LIMITS", {"names": (lambda: ["a.py:1: made"], 1)})
    assert lint.within_limits()


def test_the_source_is_all_of_the_checkout():
    names = {path.relative_to(sources.ROOT).as_posix() for path in sources.python_files()}
    assert {"dev.py", "nodes/__init__.py", "tests/house/test_lint.py"} <= names
