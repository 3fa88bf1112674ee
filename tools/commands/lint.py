"""`dev.py lint`: style, types, and the counts that the house limits."""

import argparse
import subprocess

from .. import paths
from ..counts.functions import long_signatures, longest_function
from ..counts.like_functions import like_functions
from ..counts.like_lines import like_pairs
from ..counts.schema_types import names_with_several_types
from ..counts.sources import place, python_files
from ..counts.vague_names import vague_names
from ..environments import pins_environment
from ..hosts import base_directory

LISTED = 20


def unformatted_tables() -> list[str]:
    """List the lines that ruff's formatter leaves alone."""
    marker = "# fmt: " + "skip"
    return [
        place(path, number)
        for path in python_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if marker in line
    ]


LIMITS = {  # what is counted -> (the list of places, the most of them that pass)
    "vague names": (vague_names, 50),
    "fmt: skip": (unformatted_tables, 60),
    "names with several types": (names_with_several_types, 0),
    "like pairs": (lambda: [*like_pairs(), *like_functions()], 0),
    "more than 7 parameters": (long_signatures, 8),
}


def run(_: argparse.Namespace) -> int:
    """Run ruff and mypy over the pack, then count."""
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
    return int(any([*failures, not within_limits()]))


def within_limits() -> bool:
    """Print every count, and the places where there are too many; tell if all limits are kept."""
    passed = True
    for subject, (list_places, most) in LIMITS.items():
        places = list_places()
        print(f"{subject}: {len(places)} (at most {most})")
        if len(places) > most:
            passed = False
            print("\n".join(f"  {place}" for place in places[:LISTED]))
    print(f"longest function: {longest_function()}")
    return passed
