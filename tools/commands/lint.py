"""`dev.py lint`: style, types and the house's counts."""

import argparse
import subprocess

from .. import paths
from ..environments import pins_environment
from ..hosts import base_directory


def run(_: argparse.Namespace) -> int:
    """Run ruff and mypy over the pack."""
    python = str(pins_environment())
    packages = base_directory() / "custom_nodes"  # where the checkout is called `vitruvian`
    config = ["--config-file", str(paths.ROOT / "pyproject.toml")]
    mypy = [python, "-m", "mypy", *config, "--cache-dir", str(paths.CACHE / "mypy")]
    ruff = [python, "-m", "ruff"]
    failures = [
        subprocess.call([*ruff, "check", "--no-cache", str(paths.ROOT)]),
        subprocess.call([*ruff, "format", "--check", "--no-cache", str(paths.ROOT)]),
        subprocess.call([*mypy, "-p", "vitruvian"], cwd=packages),
    ]
    return int(any(failures))
