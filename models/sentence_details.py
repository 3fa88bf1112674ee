"""Divide the words about people into details of each, places, and where the next one is."""

from collections.abc import Sequence
from typing import NamedTuple

from .sentence_spans import SIDES
from .sentence_words import (
    ARTICLES,
    BE,
    FINITE,
    JOINERS,
    PREPOSITIONS,
    Token,
    in_section,
    is_mark,
    is_plural,
    person_noun,
    singular,
)

SCENE_OPENINGS = frozenset("background setting scene place location the a an is with".split())
LEADING = frozenset(
    "and & an' an then next to beside him her them it there is are stands stand sits sit also "
    "finally while plus nor where when featuring".split()
)
LOOKING = frozenset("looking staring pointing laughing smiling waving shouting at".split())
EVERYWHERE = frozenset("around through across along under inside outside during near down".split())
NO_PLACE = frozenset("feet foot him them camera viewer other something himself herself".split())
OWN_TIMES = frozenset(
    "evening morning building lighting painting drawing rendering ceiling".split()
)
SOCIAL = frozenset(
    "standing sitting walking dancing talking laughing fighting kissing hugging running smiling "
    "posing facing waiting arguing embracing jogging hiking swimming singing sleeping lying "
    "strolling jumping kneeling drinking eating chatting looking cuddling".split()
)
TOGETHER = ("holding hands", "shaking hands", "playing chess", "playing cards", "having dinner")
CLOTHES = frozenset("uniform uniforms costume costumes clothes clothing outfit outfits".split())
BODY = frozenset("raised outstretched crossed folded hair eyes skin".split())
COUNTABLE = frozenset(
    "suit hat dress uniform kimono coat mask costume jacket shirt helmet gown tuxedo robe cap "
    "tutu scarf cape cloak vest top skirt sweater hoodie apron crown t-shirt blouse".split()
)
STYLE_OF = ("of", "with", "showing", "depicting", "featuring", "in")


class Piece(NamedTuple):
    """Hold the words behind a mention, by commas, and who is next: how the next one is placed."""

    segments: list[list[Token]]
    sides: list[float]  # of this one
    next_sides: list[float]
    relation: str  # to the next one: leftof, rightof, between, or none
    joiner: str  # before the next one: a mark, 'and', or nothing


def divide(tokens: Sequence[Token], *, last: bool) -> Piece:
    """Divide the words between two mentions among both."""
    end = len(tokens)
    if not last:
        while end and (tokens[end - 1].word in LEADING or _is_sign(tokens[end - 1].word)):
            end -= 1
        breaks = [k for k in range(end, len(tokens)) if _divides(tokens[k].word)]
        end = breaks[0] if breaks else len(tokens)
    lead = tokens[end:]
    next_sides = [SIDES[t.word[1:]] for t in lead if t.word[1:] in SIDES]
    joiner = next((t.word for t in lead if t.word in (":", ".")), lead[0].word if lead else "")
    segments: list[list[Token]] = [[]]
    sides, relation = [], ""
    for token in tokens[:end]:
        if is_mark(token.word):
            segments.append([])
        elif token.word[1:] in SIDES and token.word[0] == "@":
            sides.append(SIDES[token.word[1:]])
        elif token.word[0] == "@":
            relation = token.word[1:]
        else:
            segments[-1].append(token)
    if not last and not lead:
        segments[-1] = _without_relation(segments[-1])
    return Piece([trimmed(segment) for segment in segments], sides, next_sides, relation, joiner)


def _is_sign(word: str) -> bool:
    return is_mark(word) or word[0] == "@" and word[1:] in SIDES


def _divides(word: str) -> bool:
    return is_mark(word) or word in JOINERS or word == "an"


def _without_relation(words: list[Token]) -> list[Token]:
    """Take away the words at the end that only lead to the next person: 'next to', 'with'."""
    while words and (words[-1].word in PREPOSITIONS or words[-1].word in ("front", "side")):
        words = words[:-1]
    return words


def trimmed(words: list[Token]) -> list[Token]:
    """Take away 'and', 'is' and 'there' at both ends of a phrase."""
    empty = JOINERS | BE | {"there", "also", "then", "an"}
    while words and words[0].word in empty:
        words = words[1:]
    while words and words[-1].word in empty:
        words = words[:-1]
    return words


def cut_place(words: list[Token]) -> tuple[list[Token], list[Token]]:
    """Divide a phrase into what is said about somebody and the place at its end."""
    end = len(words)
    for start in range(len(words) - 1, -1, -1):
        if words[start].word in PREPOSITIONS and words[start].word != "of":
            if start and words[start - 1].word in ("next", "front"):
                continue
            before = words[start - 1].word if start else ""
            if not _is_place([token.word for token in words[start:end]], before):
                break
            end = start
    return words[:end], words[end:]


def _is_place(words: list[str], before: str) -> bool:
    preposition, inner = words[0], [word for word in words[1:] if word not in ARTICLES | {"the"}]
    if preposition in ("with", "without", "like", "as", "from", "for", "into", "toward", "towards"):
        return False
    if not inner or before in LOOKING or {"his", "her", "its"} & set(inner):
        return False
    front = inner[:2] == ["front", "of"]
    inner = inner[2:] if front else inner
    noun = inner[: inner.index("of")] if "of" in inner[1:] else inner
    head = noun[-1] if noun else ""
    if head in NO_PLACE or not head:
        return False
    if in_section(head, "place", "places"):
        return True
    if in_section(head, "clothing") or person_noun(head):
        return False
    return front or preposition == "at" or preposition in EVERYWHERE


def is_detail(words: list[Token]) -> bool:
    """Say whether a phrase between commas is about people: what they wear, hold or do."""
    first, last = words[0].word, words[-1].word
    if first in OWN_TIMES or in_section(last, "place"):
        return False
    if first in ("with", "wearing", "in", "without", "dressed", "having", "who", "whose", "that"):
        return True
    is_verb = first.endswith("ing") or first.endswith("ed") and len(first) > 4
    if is_verb or first in FINITE or last.endswith("ing") and len(words) == 1:
        return True
    worn = in_section(last, "clothing") and not in_section(last, "clothing", "looks", "none")
    return (
        worn
        or last in CLOTHES
        or last in ("raised", "outstretched", "crossed", "hair", "eyes", "skin", "folded")
    )


def text_of(words: Sequence[Token]) -> str:
    return " ".join(token.text for token in words)


def is_for_each(words: list[Token]) -> bool:
    """Say whether something is worn by each of several people: 'in suits'."""
    last = words[-1].word
    return is_plural(last) and singular(last) in COUNTABLE


def for_one(words: list[Token]) -> list[Token]:
    """Write what several people wear for one of them: 'in red hats' -> 'in a red hat'."""
    if not is_for_each(words) or any(token.word in ARTICLES | {"and"} for token in words):
        return words
    start = max(
        (k + 1 for k, t in enumerate(words) if t.word in PREPOSITIONS or t.word == "wearing"),
        default=0,
    )
    last = singular(words[-1].word)
    after = words[start].word if start < len(words) - 1 else last
    article = "an" if after[0] in "aeiou" else "a"
    return [*words[:start], Token(article, article), *words[start:-1], Token(last, last)]
