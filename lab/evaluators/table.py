"""The table of lab/evaluators/README.md, made of results/evaluators.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

README = Path(__file__).parent / "README.md"
START, END = "<!-- evaluators -->", "<!-- /evaluators -->"
HEAD = ("evaluator", "ceiling", "null", "spread", "images for 5 points", "if half are wrong")
EVALUATORS = {  # key of results/evaluators.json -> what it measures
    "pck": "pck: joints within 5 % of the height of their place",
    "anatomy": "anatomy: bodies of the right make",
    "action": "action: bodies that do what is named",
    "fd": "FD: distance of the pose network's features to true images'",
    "hand_error": "hand error: distance of joints over the hand's size",
    "fingers": "fingers: hands with as many stretched out as there should be",
    "garment_color": "color of a garment by its mean",
    "cloth_color": "color by the clothes network",
    "cloth_pattern": "pattern by the clothes network",
    "depth": "depth: error of the surface network, 0 to 1",
    "normal": "normals: error of the surface network, degrees",
    "silhouette": "silhouette: overlap of the surface network's with the true one",
}
BROKEN = {
    "found_lengthened": "an arm or a leg 1.6 times as long",
    "found_armless": "an arm removed",
    "found_three_legged": "a leg doubled",
    "false_alarms": "true bodies taken for broken",
}


def tables(numbers: Mapping[str, Any]) -> str:
    """Write both tables, of evaluators and of broken bodies, in Markdown."""
    rows = [_row(name, words, numbers) for name, words in EVALUATORS.items()]
    broken = [(words, _figure(name, numbers)) for name, words in BROKEN.items()]
    return _table(HEAD, rows) + "\n\n" + _table(("bodies", "share that anatomy refuses"), broken)


def _row(name: str, words: str, numbers: Mapping[str, Any]) -> tuple[str, ...]:
    spread = f"{numbers[f'{name}_spread']:.3f}"
    counts = (f"{numbers[f'{name}_{key}']:,}" for key in ("images", "images_half"))
    return words, _figure(name, numbers), _figure(f"{name}_null", numbers), spread, *counts


def _figure(name: str, numbers: Mapping[str, Any]) -> str:
    value, low, high = (numbers[name + end] for end in ("", "_low", "_high"))
    return f"{value:.3f} ({low:.3f} to {high:.3f}; {numbers[f'{name}_count']})"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(numbers: Mapping[str, Any]) -> None:
    """Put the tables into the README, between its marks."""
    before, rest = README.read_text(encoding="utf-8").split(START)
    after = rest.split(END)[1]
    README.write_text(f"{before}{START}\n{tables(numbers)}\n{END}{after}", encoding="utf-8")
