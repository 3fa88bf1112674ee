"""Read the answer of a language model as one text per person, whatever form it gave it.

Models answer in lines, numbers, bullets, JSON, tables, code fences, with names before colons, with
an introduction, a remark at the end and their thinking before it. Plain lines are read as they
stand, so a text that a person wrote is left alone.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import yaml

QUOTED = 60  # letters of a line that an error shows


def read_answer(text: str, count: int = 0) -> list[str]:
    """Read one text per person, in the order of the answer.

    count: how many people are expected; 0 if that is not known. It helps to tell the people from
    remarks, and to divide a single line at its semicolons.

    Raises ValueError that quotes what was read when there is nothing, a refusal, JSON that breaks
    off, or another number of people than expected.
    """
    content = _without_thinking(text).strip()
    for read in (_read_values, _read_tags, _read_table):
        persons = read(content)
        if persons is not None:
            break
    else:
        persons = _read_lines(content, count)
    persons = [person for person in map(_cleaned, _without_names(persons)) if person]
    if not persons:
        raise ValueError(f"no person could be read in {_quoted(text) or 'an empty text'}.")
    if count and len(persons) != count:
        listed = "; ".join(f"{number}: {_quoted(line)}" for number, line in enumerate(persons, 1))
        people = "1 person is" if count == 1 else f"{count} people are"
        raise ValueError(
            f"{people} expected ('count'), but {len(persons)} could be read ({listed})."
        )
    return persons


def _quoted(text: str) -> str:
    """Quote the beginning of a text in one line; nothing for an empty one."""
    line = " ".join(text.split())
    return f'"{line[:QUOTED]}{"..." if len(line) > QUOTED else ""}"' if line else ""


# what surrounds the answer

TOKENS = re.compile(r"<\|[^|<>\n]{1,40}\|>|</?(?:s|bos|eos|pad|end_of_turn|start_of_turn)>")
THINKING = r"(?:think|thinking|thought|reasoning|analysis)"
FENCED = re.compile(r"```[\w-]*[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
ANSWERED = re.compile(r"<(answer|output|response|result)>(.*?)(?:</\1>|\Z)", re.DOTALL | re.I)
TURN = re.compile(r"^\W*(?:user|human|assistant|model|system)\W*(?::.*)?$", re.I)
HEADED = re.compile(r"^\W*(?:final |my |the )?(?:answer|output|result|response)\W*:\W*$", re.I)


def _without_thinking(text: str) -> str:
    """Take the answer out of thinking, special tokens, the other speaker's turns and fences."""
    text = re.sub(rf"<({THINKING})>.*?</\1>", "", text, flags=re.DOTALL | re.IGNORECASE)
    text = re.split(rf"</{THINKING}>", text, flags=re.IGNORECASE)[-1]
    spoken = re.split(rf"<{THINKING}>", text, flags=re.IGNORECASE)[0]
    if text.strip() and not spoken.strip():
        raise ValueError(
            f"the answer ends before the model has stopped thinking: {_quoted(text)}. Let it write "
            "more, or turn its thinking off."
        )
    answers = ANSWERED.findall(spoken)
    spoken = answers[-1][1] if answers else spoken
    spoken = "\n".join(_one_turn(TOKENS.sub("", spoken).splitlines()))
    fenced = [block for block in FENCED.findall(spoken) if block.strip()]
    return "\n".join(fenced) if fenced else spoken


def _one_turn(lines: list[str]) -> list[str]:
    """Keep the lines behind 'Answer:', and those before the next speaker's."""
    for number, line in enumerate(lines):
        if HEADED.match(line) and any(map(str.strip, lines[number + 1 :])):
            lines = lines[number + 1 :]
            break
    turns = [number for number, line in enumerate(lines) if TURN.match(line)]
    while turns and not any(map(str.strip, lines[: turns[0]])):
        lines = lines[turns[0] + 1 :]
        turns = [number for number, line in enumerate(lines) if TURN.match(line)]
    return lines[: turns[0]] if turns else lines


# JSON, also with the quotes of Python or a comma too many

BEGINNING = re.compile(r"(?:^|:)[ \t]*(?=\[\s*[\"'\[{\]]|\{\s*[\"'\[{}]|\{\s*\w+\s*:\s)", re.M)
TEXT_KEYS = ("prompt", "description", "text", "caption", "appearance", "line", "content", "person")
LIST_KEYS = ("people", "persons", "characters", "subjects", "instances", "prompts", "lines")
OTHER_KEYS = ("setting", "background", "scene", "place", "location", "count", "style", "note")
NAME_KEYS = ("id", "index", "number", "position", "place", "order", "side", "location")


def _read_values(text: str) -> list[str] | None:
    beginning = BEGINNING.search(text)
    if not beginning:
        return None
    values, unread = [], text[beginning.end() :]
    while unread[:1] in ("[", "{"):
        value, unread = _read_value(unread)
        values.append(value)
        unread = unread.lstrip(" \t\r\n,")
    return _texts(values[0] if len(values) == 1 else values)


def _read_value(text: str) -> tuple[Any, str]:
    """Read the JSON or the YAML in brackets at the beginning of the text; return the rest too."""
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        end = max(text.rfind("]"), text.rfind("}")) + 1
        value = _read_yaml(text[:end].replace("\t", " ")) if end else None
    if value is None:
        raise ValueError(f"it begins as JSON, but breaks off: {_quoted(text)}.")
    return value, text[end:]


def _read_yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None


def _texts(value: Any) -> list[str]:
    """List the people's texts in a list, or in an object that holds a list or names them."""
    if isinstance(value, dict):
        return _texts_of_object(value)
    if isinstance(value, list):
        texts = [_person_text(item) for item in value if item is not None]
        return [text for text in texts if text]
    return [] if value is None else [str(value)]


def _texts_of_object(value: dict[Any, Any]) -> list[str]:
    by_key = {str(key).strip().lower(): item for key, item in value.items()}
    lists = [item for item in by_key.values() if isinstance(item, list)]
    named = [by_key[key] for key in LIST_KEYS if isinstance(by_key.get(key), list | dict)]
    if named or len(lists) == 1 == len(by_key):
        return _texts((named or lists)[0])
    if any(isinstance(by_key.get(key), str) for key in TEXT_KEYS):
        return [_person_text(value)]
    persons = [item for key, item in by_key.items() if key not in OTHER_KEYS]
    if len(persons) == 1 and isinstance(persons[0], dict):
        return _texts(persons[0])
    return _texts(persons)


def _person_text(value: Any) -> str:
    """Write what a list has for one person as a text."""
    if isinstance(value, list):
        return ", ".join(filter(None, map(_person_text, value)))
    if not isinstance(value, dict):
        return str(value).strip()
    by_key = {str(key).strip().lower(): item for key, item in value.items()}
    for key in TEXT_KEYS:
        if by_key.get(key) and key != "person":
            return _person_text(by_key[key])
    numbered = [key for key in by_key if key not in NAME_KEYS]
    return ", ".join(filter(None, (_person_text(by_key[key]) for key in numbered)))


# tags and tables

TAGGED = re.compile(r"<([a-z]+)(?:_?\d+)?(?: [^<>]*)?>\s*([^<].*?)\s*</\1(?:_?\d+)?>", re.S | re.I)
RULE = re.compile(r"^\s*\|?[\s:|-]*-[\s:|-]*$")


def _read_tags(text: str) -> list[str] | None:
    return [content for _, content in TAGGED.findall(text)] or None


def _read_table(text: str) -> list[str] | None:
    """Read the rows behind a table's rule; the column with the most letters has the people."""
    lines = text.splitlines()
    rules = [number for number, line in enumerate(lines) if "|" in line and RULE.match(line)]
    if not rules:
        return None
    rows = []
    for line in lines[rules[0] + 1 :]:
        if "|" not in line:
            break
        rows.append([cell.strip() for cell in line.strip().strip("|").split("|")])
    columns = list(zip(*rows, strict=False))
    return list(max(columns, key=lambda cells: sum(map(len, cells)))) if columns else None


# lines

HEADING = re.compile(r"^(\s*)#+(?=\s)")
EMPHASIZED = re.compile(r"^(\s*(?:[-*•]\s+)?)([_*]{1,2})(\w[^_*]*(?::\2|\2:))")
BULLET = re.compile(r"^\s*(?:[-*•‣▪●◦○·–—→➤>+]|[✓✔])\s+")
DIGITS = re.compile(
    r"^\s*(?:[(\[#]\s*)?(\d{1,2})(?:\ufe0f?\u20e3\s*|\s*[.):\]、．：](?!\d)\s*|\s+[-–—]\s+)"
)
SHARP = re.compile(r"^\s*#(\d{1,2})\s+")
LETTER = re.compile(r"^\s*\(?([A-Ja-j])[.)]\s+")
ROMANS = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X")
ROMAN = re.compile(rf"^\s*({'|'.join(ROMANS)})[.)]\s+")
PLACES = (
    "the|far|very|on|at|in|to|from|most|left|right|leftmost|rightmost|left-most|right-most|middle|"
    "center|centre|central|first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|"
    "1st|2nd|3rd|4th|last|next|top|bottom|side|hand"
)
NOUNS = (
    "person|people|character|subject|figure|individual|instance|line|prompt|description|no|number"
)
WORD = rf"(?:(?:{PLACES}|{NOUNS}|#?\d{{1,2}}|p\d)\b|[a-j](?=\s*[:：(]|\s+[-–—]))"
WORDS = rf"{WORD}(?:(?:[ \t]|, | ?- ?){WORD}){{0,5}}"
LABEL = re.compile(
    rf"^{WORDS}(?: ?\([^()]*\))?(?: ?[:：]\s*| [-–—] |\s*$)"
    r"|^(?:人物|人|角色|第)\s?[\d一二三四五六七八九十]{0,2}(?:个人|人)?\s?[:：]\s*"
    r"|^[左右中][^:：\s]{0,3}[:：]\s*",
    re.IGNORECASE,
)
SAID = re.compile(rf"^{WORDS} (?:is|shows) (?=an? )", re.IGNORECASE)
OPENING = re.compile(
    r"^\W*(?:sure|certainly|of course|ok|okay|absolutely|here(?: is| are|'s| you go)|great|alright|"
    r"understood|got it|yes|based on)\b.*[.!:：]\W*$",
    re.IGNORECASE,
)
INLINE = re.compile(
    r"^(?:(?:sure|okay|ok|certainly|of course)\W+)?here(?: is| are|'s)\b[^:]*:\s*(?=\S)", re.I
)
REMARK = re.compile(
    r"^\W*(?:let me know|i hope|i(?:'ve| have) |i can |hope |feel free|note\b|notes\b|please|"
    r"would you|do you|if you|each (?:line|entry|person|prompt|description)\b|you can|enjoy|thank|"
    r"these (?:lines|prompts|descriptions|are)\b|this (?:is|list|keeps|follows|should|way)\b|"
    r"the (?:sentence|descriptions|prompts|lines|background|setting) )",
    re.IGNORECASE,
)
REFUSAL = re.compile(
    r"^\W*(?:i(?:'m|’m| am) (?:sorry|unable|not able)|i (?:can(?:'|’)?t|cannot|won't))\b", re.I
)
NOTHING = re.compile(
    r"^\W*(?:none|nobody|no one|n/?a|nothing|empty|\d+ (?:people|persons?))?\W*$", re.I
)


NUMBERINGS: dict[re.Pattern[str], Callable[[str], int]] = {
    DIGITS: int,
    SHARP: int,
    LETTER: lambda letter: ord(letter.lower()) - ord("a") + 1,
    ROMAN: lambda number: ROMANS.index(number) + 1,
}


class Line(NamedTuple):
    """Hold a line of an answer: its text, its indentation, and whether a blank line is before."""

    text: str
    indent: int
    after_blank: bool


def _read_lines(text: str, count: int) -> list[str]:
    """Read people from lines: numbered, with labels, with bullets, or plain ones."""
    if REFUSAL.match(text):
        raise ValueError(f"the model did not answer: {_quoted(text)}.")
    lines = _lines(text)
    for mark in (_numbers(lines), LABEL, BULLET):
        persons = _marked(lines, mark) if mark else []
        if all(persons) and len(persons) > (count > 1):
            return persons
    plain = _plain(lines)
    return plain if len(plain) == count else _divided([line.text for line in lines], plain, count)


def _lines(text: str) -> list[Line]:
    lines, after_blank = [], False
    for row in text.replace("**", "").splitlines():
        row = EMPHASIZED.sub(_unemphasized, HEADING.sub(r"\1", row))
        if row.strip():
            lines.append(Line(row.strip(), len(row) - len(row.lstrip()), after_blank))
        after_blank = not row.strip()
    return lines


def _unemphasized(match: re.Match[str]) -> str:
    return match[1] + match[3].replace(match[2], "")


def _numbers(lines: Sequence[Line]) -> re.Pattern[str] | None:
    """Find the way in which the lines are numbered: from 1, without a gap."""
    for pattern, value in NUMBERINGS.items():
        numbers = [value(match[1]) for line in lines if (match := pattern.match(line.text))]
        certain = len(numbers) > 1 or value is int
        if numbers and certain and numbers == list(range(1, len(numbers) + 1)):
            return pattern
    return None


def _marked(lines: Sequence[Line], mark: re.Pattern[str]) -> list[str]:
    """Read what stands behind the marks, or below them; nothing if too few lines have one.

    A line without a mark goes on with the person before it. Before the first mark is an
    introduction, and behind the last person remarks.
    """
    marks = [number for number, line in enumerate(lines) if mark.match(line.text)]
    if mark is BULLET and marks:
        level = min(lines[number].indent for number in marks)
        marks = [number for number in marks if lines[number].indent <= level]
    unmarked = [line for number, line in enumerate(lines) if number not in marks]
    if not marks or len(marks) < 2 and any(not _is_remark(line.text) for line in unmarked):
        return []
    ends = [*marks[1:], len(lines)]
    return [
        _person(lines[start:end], mark, last=end == len(lines))
        for start, end in zip(marks, ends, strict=True)
    ]


def _person(lines: Sequence[Line], mark: re.Pattern[str], *, last: bool) -> str:
    """Join the lines of one person; details in a list are put behind commas."""
    person = mark.sub("", lines[0].text, count=1).strip()
    for line in lines[1:]:
        if person and last and (line.after_blank or _is_remark(line.text)):
            break
        detail = BULLET.match(line.text)
        text = BULLET.sub("", line.text).strip()
        if person:
            person = person.rstrip(":,. ") + ", " if detail else person + " "
        person += text
    return person


def _is_remark(text: str) -> bool:
    return bool(
        OPENING.match(text)
        or REMARK.match(text)
        or NOTHING.match(text)
        or text.endswith((":", "："))
    )


def _plain(lines: Sequence[Line]) -> list[str]:
    """List the lines without an introduction and without remarks at the end."""
    texts = [line.text for line in lines]
    while len(texts) > 1 and (OPENING.match(texts[0]) or texts[0].endswith((":", "："))):
        texts = texts[1:]
    while len(texts) > 1 and (REMARK.match(texts[-1]) or NOTHING.match(texts[-1])):
        texts = texts[:-1]
    if texts:
        texts[0] = INLINE.sub("", texts[0])
    return texts


def _divided(lines: list[str], plain: list[str], count: int) -> list[str]:
    """Read this many people in another way: all lines, or parts of a single line."""
    if len(lines) == count:
        return lines
    if len(plain) == 1 < count:
        for separator in (r"\s*;\s*", r"\s+\|\s+", r"(?:^|[\s,;])\(?\d{1,2}[.):]\s+", r"\s+/\s+"):
            parts = [part for part in re.split(separator, plain[0]) if part.strip()]
            if len(parts) == count:
                return parts
    return plain


# names before the text, quotes

NAMED = re.compile(r"^([^\W\d_][\w'’ -]{0,30}?)\s*[:：]\s+(?=\S)")
QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "„": "“", "`": "`", "「": "」"}


def _without_names(persons: Sequence[str]) -> list[str]:
    """Take away places and names before colons, where the text behind them says who it is."""
    persons = [SAID.sub("", _placeless(person), count=1) for person in persons]
    names = [name for person in persons if (name := NAMED.match(person))]
    if len({name[1].lower() for name in names}) == len(persons) > 1 and all(map(_says_who, names)):
        return [name.string[name.end() :] for name in names]
    return persons


def _says_who(name: re.Match[str]) -> bool:
    """Say whether the text behind a name before a colon stands for the person without it."""
    text = name.string[name.end() :].lower()
    article = re.match(r"(?:an?|the|one)\s", text)
    return len(name[1].split()) <= 3 and bool(article or name[1].lower() in text)


def _placeless(person: str) -> str:
    """Take away a label such as 'Left:' or 'Person 2:', unless nothing would be left."""
    return LABEL.sub("", person, count=1) or person


def _cleaned(person: str) -> str:
    """Take away quotation marks around a text; nothing is left of a text such as '(none)'."""
    person = person.strip()
    bare = person.rstrip(",;")
    if len(bare) > 1 and QUOTES.get(bare[0]) == bare[-1] and bare[0] not in bare[1:-1]:
        person = bare[1:-1].strip()
    return "" if NOTHING.match(person) else person
