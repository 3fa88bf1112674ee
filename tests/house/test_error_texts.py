"""An error never names an input that its node does not have.

From `execute` of every node all functions are followed that it may come to, by the names in the
source, and what their texts put in quotation marks is compared with the node's inputs.
"""

import ast
import json
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest
from vitruvian.tests.plain_errors import python_words

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = json.loads((ROOT / "tests" / "house" / "schemas.json").read_text(encoding="utf-8"))
INPUTS = {node: {entry["name"] for entry in s["inputs"]} for node, s in SCHEMAS.items()}
SOCKETS = {
    s["display_name"]: INPUTS[node] | {entry["name"] for entry in s["outputs"]}
    for node, s in SCHEMAS.items()
}
ALL_INPUTS = set().union(*INPUTS.values())
ENTRIES = ("execute", "validate_inputs", "fingerprint_inputs")
QUOTED = re.compile(r"'([a-z][a-z0-9]*(?:_[a-z0-9]+)*)'")
KEYS = {  # modules whose texts quote the keys of a pose's JSON, behind "the input 'pose' ..."
    "models.pose_formats",
    "models.pose_points",
}
GUARDED = {  # said only to nodes that pass theirs
    ("nodes.inputs.read_pose", "min_confidence"),
    ("models.answers.read_answer", "count"),
}
# Composition.in_words_of_the_node puts the node's own input in the place of these
REWORDED = {"VitruvianComposePeople": {"control_net"}}
NAMED_BY_TEXT = re.compile(r"'(\w*\{(?:name|prefix)\}\w*)'")  # an input that the caller names
# functions that take {input: ...}
NAMED_BY_KEYS = {"paired_count", "check_batch", "check_one_size", "check_single"}


class Source:
    """A module: its definitions by name, and what its imports mean."""

    def __init__(self, path):
        self.name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        self.is_package = path.name == "__init__.py"
        self.definitions, self.imports = {}, {}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                self._add_import(node)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                self.definitions[node.name] = node
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    for name in ast.walk(target):
                        if isinstance(name, ast.Name):
                            self.definitions[name.id] = node

    def _add_import(self, node):
        parts = self.name.split(".")
        base = parts[: len(parts) - node.level + self.is_package]
        origin = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:
            self.imports[alias.asname or alias.name] = (origin, alias.name)


@cache
def sources():
    files = [file for room in ("nodes", "host", "models") for file in (ROOT / room).rglob("*.py")]
    return {source.name: source for source in map(Source, files)}


def resolve(module, name):
    """Find where a name of a module is defined: (module, name), or (module, None) for a module."""
    source = sources().get(module)
    if source is None:
        return None
    if name in source.definitions:
        return module, name
    if name in source.imports:
        origin, original = source.imports[name]
        if f"{origin}.{original}" in sources():
            return f"{origin}.{original}", None
        return resolve(origin, original)
    return None


def references(module, tree):
    """All definitions of the pack that a piece of source names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            target = resolve(module, node.id)
            if target and target[1]:
                yield target
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            target = resolve(module, node.value.id)
            if target and target[1] is None:
                inner = resolve(target[0], node.attr)
                if inner and inner[1]:
                    yield inner


def body_of(module, name):
    """The source of a definition. Of a node's class only what runs, not its schema."""
    tree = sources()[module].definitions[name]
    if isinstance(tree, ast.ClassDef) and name in SCHEMAS:
        runs = [part for part in tree.body if getattr(part, "name", None) in ENTRIES]
        return ast.Module(body=runs, type_ignores=[])
    return tree


@cache
def direct(module, name):
    return frozenset(references(module, body_of(module, name))) - {(module, name)}


@cache
def reachable(module, name):
    visited, waiting = set(), [(module, name)]
    while waiting:
        place = waiting.pop()
        if place not in visited:
            visited.add(place)
            waiting += direct(*place)
    return frozenset(visited)


def texts(module, tree):
    """Every text in a piece of source but its docstrings, joined as Python joins it."""
    inner = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inner |= {id(part) for part in ast.walk(node) if part is not node}
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            inner.add(id(node.value))
    for node in ast.walk(tree):
        if id(node) in inner:
            continue
        if isinstance(node, ast.JoinedStr):
            yield "".join(piece(module, part) for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def piece(module, part):
    """The text of a part of an f-string: constants of the pack are known, others are {name}."""
    if isinstance(part, ast.Constant):
        return part.value
    return constant(module, part.value) or f"{{{getattr(part.value, 'id', '')}}}"


def constant(module, value):
    """The text that a piece of source is, if it is one or names one."""
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return value.value
    target = resolve(module, value.id) if isinstance(value, ast.Name) else None
    if target and target[1]:
        node = sources()[target[0]].definitions[target[1]]
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            return str(node.value.value)
    return None


def passed_names(module, tree):
    """(function, name, node) of every input that a call names for the errors of a function of the
    pack; node is its display name, where the call says it.
    """
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        for target in references(module, call.func):
            function = body_of(*target)
            if not isinstance(function, ast.FunctionDef):
                continue
            if function.name in NAMED_BY_KEYS:
                speaker = constant(module, call.args[0])
                dicts = [node for node in ast.walk(call) if isinstance(node, ast.Dict)]
                for key in (key for node in dicts for key in node.keys):
                    if isinstance(key, ast.Constant):
                        yield function.name, key.value, speaker
                continue
            values = {p: constant(module, value) for p, value in bound(function, call)}
            for text in texts(target[0], function):
                for pattern in NAMED_BY_TEXT.findall(text):
                    parameter = pattern[pattern.index("{") + 1 : pattern.index("}")]
                    if (value := values.get(parameter)) is not None:
                        yield function.name, pattern.replace(f"{{{parameter}}}", value), None


def bound(function, call):
    """(parameter, source of its value) of a call, defaults included."""
    parameters = [argument.arg for argument in function.args.args]
    defaults = function.args.defaults
    values = dict(zip(parameters[len(parameters) - len(defaults) :], defaults, strict=True))
    keywords = [argument.arg for argument in function.args.kwonlyargs]
    values |= dict(zip(keywords, function.args.kw_defaults, strict=True))
    values |= dict(zip(parameters, call.args, strict=False))
    values |= {keyword.arg: keyword.value for keyword in call.keywords}
    return [(name, value) for name, value in values.items() if value is not None]


@cache
def node_classes():
    """Node id -> the module of its class."""
    return {
        name: source.name
        for source in sources().values()
        for name in source.definitions
        if name in SCHEMAS and isinstance(source.definitions[name], ast.ClassDef)
    }


def wrong_names(node_id):
    """(place, text, name) of every text that names an input which the node does not have."""
    for module, name in reachable(node_classes()[node_id], node_id):
        if module in KEYS:
            continue
        for text in texts(module, body_of(module, name)):
            for quoted in QUOTED.findall(text):
                is_guarded = (f"{module}.{name}", quoted) in GUARDED
                names = INPUTS[node_id] | REWORDED.get(node_id, set())
                if quoted in ALL_INPUTS - names and not is_guarded:
                    if not explained(quoted, text):
                        yield f"{module}.{name}", text, quoted


def explained(quoted, text):
    """Whether the text names another node that has such an input or output."""
    speaker = "Compose Instances"  # whose outputs Compose People has, too
    return any(
        quoted in sockets
        for node, sockets in SOCKETS.items()
        if node in text or (node == speaker and f"the output '{quoted}'" in text)
    )


def test_the_walk_finds_the_nodes_and_their_texts():
    assert node_classes().keys() == SCHEMAS.keys()
    everything = {place for node, module in node_classes().items() for place in
                  reachable(module, node)}  # fmt: skip
    assert ("models.pixels", "read_images") in everything
    assert ("host.sampling", "unet_of") in everything


@pytest.mark.parametrize("node_id", sorted(SCHEMAS))
def test_no_text_names_an_input_that_the_node_does_not_have(node_id):
    misnamed = defaultdict(set)
    for place, text, quoted in wrong_names(node_id):
        misnamed[place].add((quoted, text))
    assert not misnamed, "\n".join(f"{place}: {sorted(texts)}" for place, texts in misnamed.items())


@pytest.mark.parametrize("node_id", sorted(SCHEMAS))
def test_no_call_names_an_input_that_the_node_does_not_have(node_id):
    for module, name in reachable(node_classes()[node_id], node_id):
        for function, quoted, speaker in passed_names(module, body_of(module, name)):
            names = SOCKETS.get(speaker, INPUTS[node_id]) | REWORDED.get(node_id, set())
            assert quoted in names, f"{module}.{name} calls {function} for '{quoted}'"


def test_the_calls_are_seen():
    visited = {
        (function, quoted)
        for source in sources().values()
        for name in source.definitions
        for function, quoted, _ in passed_names(source.name, source.definitions[name])
    }
    assert {
        ("read_images", "image"),
        ("read_images", "background_image"),
        ("read_all_points", "pose_2"),
        ("check_order", "shrink_end_percent"),
        ("paired_count", "normal_image"),
        ("check_batch", "hand_poses"),
    } <= visited


def test_only_nodes_with_the_input_pass_their_confidence():
    for node_id, module in node_classes().items():
        calls = [node for node in ast.walk(body_of(module, node_id)) if isinstance(node, ast.Call)]
        passed = any(keyword.arg == "min_confidence" for call in calls for keyword in call.keywords)
        assert not passed or "min_confidence" in INPUTS[node_id]


PLAIN_CLASSES = {  # modules that name the class of a network or model beside its plain name
    "host.sampling",
    "host.lora_reading",
    "host.compose.control_kinds",
    "models.plain_words",
}
QUOTING = "models.detectors."  # MediaPipe says which library or file is wrong
LAYOUT_PATTERNS = {"Missing key", "Unexpected key"}  # what PyTorch says, which weights.py reads


def sentences(source):
    """(text, f-string or constant) of every text of three words and more that is no docstring, and
    belongs to no schema.
    """
    path = ROOT.joinpath(*source.name.split("."))
    file = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    skipped = set()
    for node in ast.walk(tree):
        is_schema = isinstance(node, ast.FunctionDef) and node.name == "define_schema"
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_schema or is_docstring:
            skipped |= {id(part) for part in ast.walk(node)}
        elif isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in ast.walk(node) if part is not node}
    for node in ast.walk(tree):
        if id(node) in skipped or not isinstance(node, ast.JoinedStr | ast.Constant):
            continue
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        text = "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in parts)
        if len(text.split()) >= 3:
            yield text, node


def raw_parts(source, node):
    """What an f-string shows as Python has it: types, shapes, values between repr's marks."""
    for part in ast.walk(node):
        if isinstance(part, ast.FormattedValue):
            written = ast.unparse(part.value)
            is_class = "__name__" in written and source.name not in PLAIN_CLASSES
            is_shape = re.search(r"\.shape\b(?!\[|\.numel)", written) and "size(" not in written
            is_type = ".dtype" in written or is_class
            if part.conversion == ord("r") or is_type or is_shape:
                yield written


def caught_names(tree):
    """(name, handler) of every exception of the system or of a library that is caught."""
    for handler in ast.walk(tree):
        if isinstance(handler, ast.ExceptHandler) and handler.name:
            kinds = {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}
            if kinds - {"ValueError", "KeyError"}:
                yield handler.name, handler


def test_no_error_speaks_python():
    for source in sources().values():
        for text, node in sentences(source):
            if any(pattern in text for pattern in LAYOUT_PATTERNS):
                continue
            assert not python_words(text), f"{source.name}: {text}"
            assert not list(raw_parts(source, node)), f"{source.name}: {text}"


def test_no_error_repeats_what_a_library_says():
    """The system's reasons go through `reason`, places in JSON through `json_place`."""
    places = []
    for source in sources().values():
        for definition in (
            source.definitions.values() if not source.name.startswith(QUOTING) else ()
        ):
            for name, handler in caught_names(definition):
                values = [n.value for n in ast.walk(handler) if isinstance(n, ast.FormattedValue)]
                if any(isinstance(value, ast.Name) and value.id == name for value in values):
                    places.append(f"{source.name}.{definition.name}")
    assert not places


def test_the_words_of_python_are_seen():
    for text in (
        "it is None",
        "of the type str",
        "found NoneType",
        "numbers of torch.int64",
        "[1, 3, 64]",
        "it has the shape 1",
        "size mismatch for a: torch.Size",
        "begins with b'PNG'",
        "[Errno 17] File exists",
        "could not convert string to literal",
        "KeyError: 'a'",
    ):
        assert python_words(text), text
    for text in ("it is nothing", "16 x 3 numbers", "a list of numbers x, y", "none of the parts"):
        assert not python_words(text), text
