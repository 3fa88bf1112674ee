"""Say in plain words what was found in the place of something else, for the texts of errors.

Whoever reads an error makes images and need not know Python: a value is "a list" or "nothing",
sizes are 2 x 3 x 64 x 64, and a reason is what the system says without its codes.
"""

import json
from collections.abc import Iterable
from numbers import Real
from typing import Any

LONGEST_QUOTE = 80  # characters of a value that an error shows
KINDS = {type(None): "nothing", dict: "an object", list: "a list", tuple: "a list", str: "text"}


def kind(value: Any) -> str:
    """Say what kind of thing a value is."""
    if isinstance(value, bool):
        return quote(value)
    if isinstance(value, Real):
        return "a number"
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"an array of {size(shape)} numbers" if len(shape) else "a single number"
    return KINDS.get(type(value), f"something else ({type(value).__name__})")


def quote(value: Any) -> str:
    """Write a value as a JSON file has it, and only so much of it as an error can show."""
    if value is None:
        return "nothing"
    return json.dumps(value, default=kind, ensure_ascii=False)[:LONGEST_QUOTE]


def size(shape: Iterable[int]) -> str:
    """Write the sizes of an array: 2 x 3 x 64 x 64."""
    return " x ".join(map(str, shape)) or "no"


def reason(error: OSError) -> str:
    """Say why a file could not be read or written, without the number of the error."""
    return (error.strerror or str(error)).rstrip(".").strip() or type(error).__name__


def json_place(error: json.JSONDecodeError) -> str:
    """Say where a text stops being JSON."""
    return f"line {error.lineno}, column {error.colno}"
