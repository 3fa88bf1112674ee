"""Find who a sentence speaks of: by nouns, and by words such as 'one', 'the other' or 'both'.

Words that say where somebody is become marks first, such as @left, so that they are one word.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from .sentence_words import (
    ARTICLES,
    BE,
    FINITE,
    JOINERS,
    ORDINALS,
    PREPOSITIONS,
    Mention,
    Token,
    in_section,
    is_mark,
    listed,
    mentions,
    number,
    person_noun,
)

# where somebody is: marks that the words are replaced by

IMAGE = r"(?:image|picture|frame|photo|scene|screen|composition|painting)"
SIDES = {"left": -1.0, "middle": 0.0, "right": 1.0}
NEIGHBORS = r"(?:\s+(?:hand\s+)?side)?(?:\s+of\s+(?:the|this)\s+" + IMAGE + r")?"
NO_BODY = r"(?!\s+(?:of|hand|arm|leg|eye|ear|shoulder|foot|knee|cheek|wrist|hip|ankle)\b)"
MARKS = (
    (r"\bfrom\s+(?:the\s+)?left\s+to\s+(?:the\s+)?right\b", " "),
    (
        rf"\b(?:(?:on|to)\s+the\s+)?(left|right)\s+(?:hand\s+)?(?:side\s+)?of\b(?!\s+(?:the|this)\s+{IMAGE})",
        r"@\1of",
    ),
    (
        r"\b(?:on|at|to|in)\s+(?:(?:the|his|her|their|its)\s+)?(?:far\s+|very\s+|extreme\s+)*"
        rf"(left|middle|right)(?:most)?{NEIGHBORS}{NO_BODY}\b",
        r"@\1",
    ),
    (r"(^|[.;,:\n]\s*)(?:far\s+)?(left|middle|right)\s*(?::|\s[-–—]\s)", r"\1 @\2 "),
    (r"\bbetween\b", "@between"),
)
REQUEST = re.compile(
    r"^\W*(?:please\W+)?(?:(?:can|could) you\s+)?(?:please\W+)?"
    r"(?:draw|make|create|generate|paint|show|give|render|imagine)\b(?:\s+(?:me|us))?\s*"
    rf"(?:(?:an?|the)\s+{IMAGE}\s+(?:of|with|showing)\s+)?",
    re.IGNORECASE,
)
COURTESY = re.compile(r"[\s,.]*\b(?:please|thanks|thank you|thx)\b[\s.!]*$", re.IGNORECASE)


def with_marks(sentence: str) -> str:
    """Put marks such as @left in place of the words that say where somebody is."""
    sentence = COURTESY.sub("", REQUEST.sub("", sentence))
    sentence = re.sub(r"\brigth\b", "right", sentence)
    sentence = re.sub(r"\b(?:center|centre)\b", "middle", sentence)
    for pattern, mark in MARKS:
        sentence = re.sub(pattern, mark, sentence, flags=re.IGNORECASE)
    return sentence


# who is named, and who is meant by 'one', 'both' or 'the left woman'


class Span(NamedTuple):
    """Say who tokens[start:stop] are: somebody new, part of a group, all of it, or one again."""

    start: int
    stop: int
    kind: str  # new, part, all, again
    mention: Mention
    place: int | None = None  # of an ordinal: 'the second'


def find_spans(tokens: Sequence[Token]) -> list[Span]:
    """List who is named, in the order of the sentence."""
    named = _joined_groups(tokens, [m for m in mentions(list(tokens)) if _counts(tokens, m)])
    spans: list[Span] = []
    place = 0
    while place < len(tokens):
        mention = next((mention for mention in named if mention.start == place), None)
        reference = _reference(tokens, place) if _begins(tokens, place) and spans else None
        if reference and not (mention and reference.mention.noun == "number"):
            spans.append(reference)
        elif mention:
            spans.append(Span(mention.start, mention.stop, "new", mention))
        else:
            place += 1
            continue
        place = spans[-1].stop
    return spans


def _joined_groups(tokens: Sequence[Token], named: list[Mention]) -> list[Mention]:
    """Read 'a pair of robots' and 'a group of four skaters' as one mention."""
    joined: list[Mention] = []
    for mention in named:
        last = joined[-1] if joined else None
        between = [token.word for token in tokens[last.stop : mention.start]] if last else []
        if last and last.kind == "groups" and between == ["of"]:
            size = listed("people")["sizes"].get(last.noun)
            count = mention.size or (int(size) if size else 0)
            joined[-1] = mention._replace(start=last.start, size=count)
        elif mention.size == 0 and "twin" in mention.text.split():
            joined.append(mention._replace(size=2))
        else:
            joined.append(mention)
    return joined


def _counts(tokens: Sequence[Token], mention: Mention) -> bool:
    """Say whether a noun stands for somebody: not an animal that somebody has or rides."""
    before = tokens[mention.start - 1].word if mention.start else "."
    if mention.kind != "animals":
        return before != "of" or _names_image(tokens, mention.start - 2)
    if mention.start and mention.definite and before not in JOINERS:
        return False
    alone = is_mark(before) or before in JOINERS or before[0] == "@"
    return alone or before in BESIDE


BESIDE = frozenset(
    "to beside near behind facing faces of against chasing chases fighting fights meeting "
    "meets".split()
)


def _names_image(tokens: Sequence[Token], place: int) -> bool:
    word = tokens[place].word
    return (
        in_section(word, "place", "styles")
        or in_section(word, "people", "groups", "sizes")
        or in_section(word, "place", "places")
        or word in ("front", "ahead", "kind", "full", "consisting", "made", "side")
    )


def _begins(tokens: Sequence[Token], place: int) -> bool:
    before = tokens[place - 1].word if place else "."
    return is_mark(before) or before in JOINERS or before[0] == "@" or before == "with"


def _reference(tokens: Sequence[Token], place: int) -> Span | None:
    """Read words such as 'one', 'the other', 'the left one', 'both' or 'she'."""
    words = [token.word for token in tokens[place : place + 5]] + ["."] * 5
    mention = Mention(place, place, "", 1, "", "people", True)
    if words[0] in ("he", "she"):
        return Span(place, place + 1, "again", mention._replace(noun=words[0]))
    if words[0] in ("both", "all", "each", "everyone", "everybody", "they"):
        skipped = 1 + (bool(number(words[1])) or words[1] in ("of", "one"))
        skipped += words[skipped] in ("them", "whom") if words[1] == "of" else 0
        if not person_noun(words[skipped]):
            return Span(place, place + skipped, "all", mention)
    opening = words[0] in ARTICLES or words[0] == "the"
    first = words[1] if opening else words[0]
    if first in ("other", "others", "another", "rest"):
        skipped = 1 + opening
        skipped += words[skipped] in ("one", "ones")
        if words[skipped] not in PREPOSITIONS | BE | FINITE and not words[skipped].endswith("ing"):
            if person_noun(words[skipped]):
                return None
        count = 0 if first in ("others", "rest") else 1
        return Span(place, place + skipped, "part", mention._replace(size=count))
    if opening and first in ORDINALS and not person_noun(words[2]):
        skipped = 2 + (words[2] == "one")
        return Span(place, place + skipped, "part", mention, ORDINALS[first])
    return _one_of(words, place, mention, opening)


def _one_of(words: list[str], place: int, mention: Mention, opening: bool) -> Span | None:
    """Read 'one', 'a tall one', 'the one', or a number without a noun: 'two with balloons'."""
    if opening:
        for skipped in (1, 2, 3):
            if words[skipped] == "one":
                text = " ".join(words[1:skipped])
                return Span(place, place + skipped + 1, "part", mention._replace(text=text))
            if words[skipped] in PREPOSITIONS or is_mark(words[skipped]):
                break
        return None
    count = number(words[0])
    if not count:
        return None
    skipped = 3 if words[1] == "of" and words[2] in ("them", "these", "those") else 1
    after = words[skipped]
    if count > 1 and skipped == 1 and after not in PREPOSITIONS and not after.endswith("ing"):
        return None
    if person_noun(after):
        return None
    return Span(place, place + skipped, "part", mention._replace(size=count, noun="number"))


def without_sides(text: str) -> tuple[str, list[float]]:
    """Take the words left, middle and right out of a phrase."""
    sides, words = [], []
    for word in text.split():
        side = SIDES.get(word.lower().removesuffix("most"))
        if side is None:
            words.append(word)
        else:
            sides.append(side)
    return " ".join(words), sides
