"""The Python files of the checkout."""

import ast
import functools
import subprocess
from pathlib import Path

from ..paths import ROOT

SHIPPING = ("nodes", "host", "models")


@functools.cache
def python_files() -> list[Path]:
    """List the Python files that git tracks, or would if they were added."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "-co", "--exclude-standard", "*.py"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in sorted(set(names.split("\0"))) if name]
    return [path for path in paths if path.is_file()]


def shipping_files() -> list[Path]:
    """List the Python files of the rooms that are published."""
    return [path for path in python_files() if path.relative_to(ROOT).parts[0] in SHIPPING]


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """Parse a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def place(path: Path, line: int) -> str:
    """Write a line's place as `nodes/pose.py:12`."""
    return f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}:{line}"
