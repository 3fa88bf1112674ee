"""Measure how often sentences are split into the right people, and answers read as they are meant.

sentences.json and answers.json hold what is right. Half of each was set aside before the rules were
written; its shares are what counts, and those of the open half stand beside.
"""

import json
from pathlib import Path
from typing import Any

from ...models.answers import read_answer

FOLDER = Path(__file__).parent
UNSAID = {"a", "an", "the", "is", "are"}
JOINING = {"and", "of", "with"}


def entries(name: str) -> list[dict[str, Any]]:
    """Read the entries of sentences.json or answers.json."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))["entries"]


def answer_is_read(entry: dict[str, Any]) -> bool:
    """Say whether an answer is read as one of the ways that are right, or refused if none is."""
    try:
        lines = read_answer(entry["answer"], entry.get("count", 0))
    except ValueError:
        return entry["lines"] is None
    if entry["lines"] is None:
        return False
    return _plain(lines) in map(_plain, (entry["lines"], *entry.get("alternatives", ())))


def _plain(lines: list[str]) -> list[str]:
    return [line.lower().strip().rstrip(".,") for line in lines]
