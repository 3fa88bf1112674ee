"""Measure how often sentences are split into the right people, and answers read as they are meant.

sentences.json and answers.json hold what is right. Half of each was set aside before the rules were
written; its shares are what counts, and those of the open half stand beside.
"""

import json
import re
from pathlib import Path
from typing import Any

from ...models.answers import read_answer
from ...models.sentences import split_sentence
from .intervals import wilson

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


def judge_sentence(entry: dict[str, Any]) -> str:
    """Say how a sentence is split: right, unsure (and not right), or wrong although it is sure."""
    split = split_sentence(entry["sentence"])
    if "undecidable" in entry:
        return "right" if split.doubts else "wrong but sure"
    if split.doubts:
        return "unsure"
    persons = [_words(person) for person in split.persons]
    same = len(persons) == len(entry["people"]) and all(
        person in map(_words, texts) for person, texts in zip(persons, entry["people"], strict=True)
    )
    setting = _scene_words(split.setting) in map(_scene_words, entry["setting"])
    return "right" if same and setting else "wrong but sure"


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"[^\W_]+", text.lower()) if word not in UNSAID]


def _scene_words(text: str) -> list[str]:
    return sorted(word for word in _words(text) if word not in JOINING)


def measure() -> dict[str, float]:
    """Count what is right in the half that was set aside, and in the open half (`_open`).

    sentences_right and answers_read are shares with their 95 % intervals (`_low`, `_high`) and
    counts (`_count`). sentences_unsure are the splits that say that they may be wrong and are not
    right for that, sentences_wrong_but_sure those that are wrong without saying so.
    """
    rows: dict[str, float] = {}
    for suffix, aside in (("", True), ("_open", False)):
        sentences = [e for e in entries("sentences") if e["set_aside"] == aside]
        judgements = [judge_sentence(entry) for entry in sentences]
        answers = [answer_is_read(e) for e in entries("answers") if e["set_aside"] == aside]
        rows |= wilson([j == "right" for j in judgements], f"sentences_right{suffix}")
        for judgement in ("unsure", "wrong but sure"):
            name = f"sentences_{judgement.replace(' ', '_')}{suffix}"
            rows[name] = judgements.count(judgement) / len(judgements)
        rows |= wilson(answers, f"answers_read{suffix}")
    return rows
