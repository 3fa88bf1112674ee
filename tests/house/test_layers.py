"""The rooms' arrows point one way, and a fresh import stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOST = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "nodes", "server"}
TRAINERS = {"diffusers", "accelerate", "transformers", "matplotlib", "skimage"}
LAB = {".lab.world", ".lab.evaluators", ".lab.recipes", ".lab.benchmarks"}
SHIPPING = {".models", ".host", ".nodes"}
DEVELOPMENT = {".lab", ".batch", ".tools", ".dev", ".tests"}  # what the registry's archive lacks
FORBIDDEN = {  # room -> what nothing in it may import; our own rooms with a leading dot
    "__init__.py": TRAINERS | DEVELOPMENT,
    "models": HOST | TRAINERS | DEVELOPMENT | {".nodes", ".host"},
    "host": TRAINERS | DEVELOPMENT | {".nodes"},
    "nodes": TRAINERS | DEVELOPMENT,
    "lab/world": HOST | DEVELOPMENT - {".lab"} | {".nodes", ".host"} | LAB - {".lab.world"},
    "lab/training": HOST | DEVELOPMENT - {".lab"} | {".nodes", ".host"} | LAB,
    "lab/evaluators": HOST
    | DEVELOPMENT - {".lab"}
    | {".nodes", ".host", ".lab.recipes", ".lab.benchmarks"},
    "lab/recipes": HOST | DEVELOPMENT - {".lab"} | {".nodes", ".host", ".lab.benchmarks"},
    "lab/benchmarks": {".tests", ".dev"},
    "tools": HOST | TRAINERS | SHIPPING | {".lab", ".dev", "torch"},
    "batch": HOST | TRAINERS | SHIPPING | {".lab", ".tools", ".tests", ".dev", "torch"},
}
UNSAFE = {"pickle", "subprocess", "socket", "urllib", "requests", "http"}
FILES = [
    file
    for room in FORBIDDEN
    for file in ([ROOT / room] if room.endswith(".py") else sorted((ROOT / room).rglob("*.py")))
]


def imports(file):
    """Every module imported anywhere in the file; our own as `.room.module`."""
    folders = file.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module
        elif isinstance(node, ast.ImportFrom):
            above = folders[: len(folders) + 1 - node.level]
            package = "".join(
                f".{part}" for part in (*above, *(node.module or "").split(".")) if part
            )
            yield package
            yield from (f"{package}.{name.name}" for name in node.names)


def names(module):
    """A dotted module name and its parents."""
    prefix, parts = "." if module.startswith(".") else "", module.lstrip(".").split(".")
    return {prefix + ".".join(parts[: n + 1]) for n in range(len(parts))}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports(file):
    room = next(room for room in FORBIDDEN if file.is_relative_to(ROOT / room))
    unsafe = UNSAFE if room in ("models", "host", "nodes") else set()
    wrong = {module for module in imports(file) if names(module) & (FORBIDDEN[room] | unsafe)}
    assert not wrong


def test_the_pack_imports_without_the_host_and_without_torch():
    code = (
        "import importlib.util as u, sys\n"
        f"s = u.spec_from_file_location('v', {str(ROOT / '__init__.py')!r})\n"
        "s.loader.exec_module(u.module_from_spec(s))\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    assert subprocess.call([sys.executable, "-c", code]) == 0
