"""Values of cells: what an input of a node takes, and why another value does not fit."""

import difflib
import math
import re
from decimal import Decimal
from functools import cached_property
from typing import Any

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
POWER_OF_TEN = re.compile(r"[+-]?\d+[.,]?\d*e[+-]?\d+", re.ASCII | re.IGNORECASE)
MOST_DIGITS = 40  # of a number; the largest seed has twenty
EXACT = 2**53  # above it a floating point number leaves whole numbers out
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


class Choices(list[Any]):
    """The values that a host offers for an input, found by their text: they may be thousands."""

    @cached_property
    def by_text(self) -> dict[str, Any]:
        return {str(choice): choice for choice in reversed(self)}


def fit(value: Any, kind: Any, options: dict[str, Any]) -> Any:
    """Convert a value to what this input takes. ValueError says why it does not fit."""
    if isinstance(kind, list):
        return _choice(value, kind if isinstance(kind, Choices) else Choices(kind))
    if kind == "BOOLEAN":
        return _truth(value)
    if kind in ("INT", "FLOAT"):
        return _number(value, kind, options)
    if kind == "STRING" and not isinstance(value, str):
        return str(value)
    return value


def shorten(value: Any, most: int = 40) -> str:
    """Write a value in one line of at most so many characters."""
    text = " ".join(str(value).split())
    return text if len(text) <= most else text[: most - 3] + "..."


def nearest(name: str, names: list[str]) -> str:
    """Ask for the name that was probably meant, if there is a near one."""
    near = difflib.get_close_matches(name, names, 1)
    return f" Did you mean '{near[0]}'?" if near else ""


def _choice(value: Any, choices: Choices) -> Any:
    for text in (str(value), str(value).strip()):
        if text in choices.by_text:
            return choices.by_text[text]
    if str(value).endswith("]"):  # name.png [output]: a file of another folder, which is not listed
        return value
    listed = ", ".join(map(str, choices[:12])) + (", ..." if len(choices) > 12 else "")
    near = nearest(shorten(value), [str(choice) for choice in choices])
    raise ValueError(
        f"the host does not offer '{shorten(value)}'.{near} It offers: {listed or 'nothing'}"
    )


def _truth(value: Any) -> bool:
    word = str(value).strip().lower()
    if word not in TRUE + FALSE:
        raise ValueError(f"'{shorten(value)}' is neither true nor false")
    return word in TRUE


def _number(value: Any, kind: str, options: dict[str, Any]) -> int | float:
    number = _whole_number(value) if kind == "INT" else _fraction(value)
    minimum, maximum = options.get("min"), options.get("max")
    if minimum is not None and number < minimum:
        raise ValueError(f"{value} is below {minimum}, the least that this input takes")
    if maximum is not None and number > maximum:
        raise ValueError(f"{value} is above {maximum}, the most that this input takes")
    return number


def _fraction(value: Any) -> float:
    text = str(value).strip()
    number = float(text) if not isinstance(value, bool) and NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(number):
        raise ValueError(f"'{shorten(value)}' is not a number (write 0.5, with a point)")
    return number


def _whole_number(value: Any) -> int:
    """Read a whole number exactly; a spreadsheet's 20.0 is one.

    1.23457E+14 is what a spreadsheet leaves of a long seed: its last digits are lost.
    """
    text = str(value).strip()
    if POWER_OF_TEN.fullmatch(text):
        raise ValueError(
            f"'{shorten(text)}' is what a spreadsheet makes of a long number: its last digits are "
            "lost. Write all digits, in a column that is formatted as text"
        )
    if isinstance(value, bool) or not NUMBER.fullmatch(text) or len(text) > MOST_DIGITS:
        raise ValueError(f"'{shorten(value)}' is not a whole number")
    number = Decimal(text)
    if number != int(number) or (isinstance(value, float) and abs(number) > EXACT):
        raise ValueError(f"'{shorten(value)}' is not a whole number")
    return int(number)
