"""What the front end replaces in texts when it queues them: {a|b}, and %tokens% in file names.

A choice {a|b} is made at random by the front end. Here it follows from the text and the seeds of
the run: the same row always gets the same choice, also when it is run again.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

from ..trouble import BadInput

COMMENT = re.compile(r"/\*[\s\S]*?\*/|//[^\n\r\u2028\u2029]*")
TOKEN = re.compile(r"%([^%]+)%")
DATE_PART = re.compile("dd?|MM?|hh?|mm?|ss?|yyy?y?")
NOT_IN_NAMES = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')
DEEPEST = 100  # choices inside of choices
# Classes whose file names may hold tokens
SAVING = frozenset(
    "CLIPSave LoraSave ModelSave Save3DAdvanced SaveAnimatedPNG SaveAnimatedWEBP SaveAudio "
    "SaveAudioAdvanced SaveAudioMP3 SaveAudioOpus SaveGLB SaveGaussianSplat SaveImage "
    "SaveImageAdvanced SaveLatent SavePointCloud SaveSVGNode SaveVideo SaveWEBM VAESave".split()
)


def choose(text: str, draw: random.Random, depth: int = 0) -> str:
    """Replace every {a|b} by one of its parts, and leave out comments, as the front end does."""
    if depth > DEEPEST:
        raise BadInput(f"a text has choices {{a|b}} more than {DEEPEST} deep in each other")
    text = COMMENT.sub("", text)
    parts = []
    position = 0
    while position < len(text):
        if text[position] == "\\":
            parts.append(text[position : position + 2])
            position += 2
        elif text[position] == "{":
            options, position = _options(text, position + 1)
            parts.append(choose(draw.choice(options), draw, depth + 1))
        else:
            parts.append(text[position])
            position += 1
    return re.sub(r"\\([{}|])", r"\1", "".join(parts))


def _options(text: str, position: int) -> tuple[list[str], int]:
    """Return the parts of the choice that begins here, and the position behind it."""
    options, depth = [""], 0
    while position < len(text):
        character = text[position]
        position += 1
        if character == "\\":
            options[-1] += text[position - 1 : position + 1]
            position += 1
            continue
        if character == "}" and not depth:
            break
        if character == "|" and not depth:
            options.append("")
            continue
        depth += {"{": 1, "}": -1}.get(character, 0)
        options[-1] += character
    return options, position


def replace_tokens(text: str, value_of: Callable[[str, str], Any], now: datetime) -> str:
    """Replace %date:yyyy-MM-dd% and %Node.widget%; what is neither stays.

    value_of: (node's name, widget's name) -> its value; KeyError for one that is not there.
    """

    def replacement(match: re.Match[str]) -> str:
        parts = match[1].split(".")
        if len(parts) != 2:
            is_date = parts[0].startswith("date:")
            return _date(parts[0][len("date:") :], now) if is_date else match[0]
        try:
            value = value_of(*parts)
        except KeyError:
            return match[0]
        return NOT_IN_NAMES.sub("_", _as_text(value))

    return TOKEN.sub(replacement, text)


def _date(pattern: str, now: datetime) -> str:
    numbers = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}

    def part(match: re.Match[str]) -> str:
        letters = match[0]
        if letters[0] in numbers:
            return str(numbers[letters[0]]).rjust(len(letters), "0")
        return {"yy": f"{now.year}"[2:], "yyyy": f"{now.year}"}.get(letters, letters)

    return DATE_PART.sub(part, pattern)


def _as_text(value: Any) -> str:
    """Write a value as the browser does."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
