"""Read text files as other programs save them: UTF-8, with a byte order mark or without."""

import codecs
import json
from pathlib import Path
from typing import Any

from .trouble import BadInput

HEAD = 4096  # bytes that tell an encoding
MOST_NESTED = 100  # levels of lists and objects; real workflows have below twenty
MARKS = {  # the longer ones first: that of UTF-32 begins as that of UTF-16 does
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_json(path: Path) -> Any:
    """Read a JSON file. BadInput, in one line, if it cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"The workflow {path} cannot be read: {error.strerror}.") from None
    try:
        return parse_json(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise BadInput(
            f"{path} is not JSON: it is {encoding_of(content[:HEAD])} and not UTF-8."
        ) from None
    except ValueError as error:
        raise BadInput(f"{path} is not JSON: {error}.") from None


def parse_json(text: str, **hooks: Any) -> Any:
    """Parse JSON. ValueError also for what is nested too deeply to be handled further on."""
    try:
        content = json.loads(text, **hooks)
    except RecursionError:
        content = None
        is_deep = True
    else:
        is_deep = _is_deeper(content, MOST_NESTED)
    if is_deep:
        raise ValueError(f"its lists and objects are nested more than {MOST_NESTED} deep")
    return content


def _is_deeper(content: Any, most: int) -> bool:
    """Tell, without recursion, if lists and objects lie more than `most` levels deep."""
    level = [content]
    for _ in range(most):
        level = [
            inner
            for outer in level
            if isinstance(outer, (list, dict))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (list, dict))
        ]
        if not level:
            return False
    return True


def check_encoding(path: Path) -> None:
    """Raise BadInput, with the encoding's name and the line, unless a file is UTF-8 text.

    It is read line by line: a table may be long.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
        if b"\0" in head or head.startswith((*MARKS, b"PK\x03\x04")):
            raise BadInput(f"{path} is {encoding_of(head)} and not UTF-8 text. {SAVE_AS_UTF8}")
        file.seek(0)
        for number, line in enumerate(file, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise BadInput(
                    f"{path}, line {number}: the byte 0x{line[error.start]:02X} is not UTF-8; the "
                    f"file seems to be {encoding_of(head)}. {SAVE_AS_UTF8}"
                ) from None


SAVE_AS_UTF8 = "Save it as CSV UTF-8, or as JSON lines."


def encoding_of(head: bytes) -> str:
    """Name what the first bytes of a file that is not UTF-8 look like."""
    for mark, name in MARKS.items():
        if head.startswith(mark):
            return name
    if head.startswith(b"PK\x03\x04"):
        return "a spreadsheet or an archive"
    nulls = [place for place, byte in enumerate(head) if not byte]
    if nulls:  # in UTF-16 every second byte of Western text is null
        same_side = len({place % 2 for place in nulls}) == 1 and len(nulls) > len(head) // 4
        return "UTF-16" if same_side else "no text"
    return "Latin-1 (Windows-1252) or another code page"
