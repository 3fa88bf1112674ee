"""Garment phrases: "a man in a black linen shirt and jeans" -> black linen shirt, jeans.

HumanDiffusion (Zhang et al. 2022, arXiv 2211.06235) gives each part of a semantic pose map the
features of the phrase that describes it; how it finds the phrases was not published. The word list
(clothing_words.txt) and the rules here, for English, are ours.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from .semantic_map import CLASSES, part_named

WORDS = Path(__file__).with_name("clothing_words.txt")
# sections that are no class: what only sounds like a garment, how one looks, what is on one
NO_GARMENT, LOOKS, TRIMS = "none", "looks", "trims"

TOKENS = re.compile(r"\(*(?:\d+[.,]\d+|[^\W_]+(?:[-'’][^\W_]+)*)\)*|[&+]|[][,;.:=!?|/\n–—]")
NUMBER = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*")
EXPLICIT = re.compile(r"\s*(?:\[\s*(\d+)\s*\]|([^:=\[\]]+)[:=])(.+)", re.DOTALL)
ENDS = re.compile(r"(?<!\d)[,.]|[,.](?!\d)|[;!?|\n]")  # of a chunk; 1.5 is one word

LONGEST = 4  # words in a listed word: over the knee boots
ARTICLES = frozenset("a an the his her their my your our its some pair".split())
COUNTS = frozenset("two three four several many both another one".split())
AND = frozenset("and & + or plus".split())
JOINERS = frozenset("with in of from featuring".split())
WITHOUT = frozenset("without no not".split())
BREAKS = frozenset(
    "wearing wears wear wore worn dressed clad sporting donning carrying carries carry holding "
    "holds hold has have had having is are was were who whose that which while where on onto at "
    "over under underneath beneath below above behind beside near against to into by for as tucked "
    "paired together but then around across through during he she they it".split()
)


class Phrase(NamedTuple):
    """How one part looks."""

    text: str  # plain: brackets that the prompt escapes are brackets here
    part: int | None  # of semantic_map.CLASSES; None: it names nothing that is worn
    strength: float = 1.0


class Token(NamedTuple):
    """A word or punctuation mark of a prompt."""

    text: str
    strength: float


class Match(NamedTuple):
    """A listed word at words[start:stop]."""

    start: int
    stop: int
    part: int | None


class Piece(NamedTuple):
    """The words between two splits, and the word before them at which the text was split."""

    lead: str
    words: list[Token]
    part: int | None


@cache
def listed_words() -> dict[str, str]:
    """Return the words of the shipped list and the names of all classes, each with its section.

    Words have no hyphens and spaces here. A section is the name of a class, or one of NO_GARMENT,
    LOOKS and TRIMS.
    """
    words: dict[str, str] = {}
    section = ""
    for line in WORDS.read_text("utf-8").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif not line.startswith("#"):
            words.update((word.replace("-", ""), section) for word in line.split())
    words.update((name.replace(" ", ""), name) for name in CLASSES[1:])
    return words


def split_phrases(prompt: str, *, unknown: bool = False) -> list[Phrase]:
    """Split a sentence into the phrases of its garments, hair and accessories, in its order.

    (red sneakers:1.3) has the strength 1.3 and (red sneakers) 1.1, as in the host's prompts; words
    of different strengths give their mean. "headwear: something odd", "hat = something odd" and
    "[7] something odd" name the part themselves, up to the next comma or line. With `unknown`,
    phrases that name no part, such as "a park", are returned, too. Raises ValueError for a number
    that no part has.
    """
    phrases: list[Phrase] = []
    for chunk in _chunks(_letters(prompt)):
        part, chunk = _explicit(chunk)
        words = _words(chunk)
        if part is not None:
            pieces = [Piece("", words, part)]
        else:
            pieces = _join(_pieces(words))
        phrases += (_phrase(piece) for piece in pieces)
    return [phrase for phrase in phrases if phrase.text and (unknown or phrase.part is not None)]


def part_of(text: str) -> int | None:
    """Return the part that the last garment of a phrase belongs to; None without a garment."""
    return _head_part(_words([(letter, 1.0) for letter in text]))


# strengths

Letters = list[tuple[str, float]]


def _letters(text: str, strength: float = 1.0) -> Letters:
    """Every letter with its strength, without the brackets that set a strength."""
    letters: Letters = []
    i = 0
    while i < len(text):
        if text[i] == "\\" and text[i + 1 : i + 2] in ("(", ")"):
            letters.append((text[i + 1], strength))
            i += 2
        elif text[i] == "(" and (end := _closing(text, i)):
            inner, _, number = text[i + 1 : end].rpartition(":")
            if inner and NUMBER.fullmatch(number):
                group = _letters(inner, float(number))
            else:
                group = _letters(text[i + 1 : end], 1.1 * strength)
            letters += [(" ", strength), *group, (" ", strength)]
            i = end + 1
        else:
            letters.append((text[i], strength))
            i += 1
    return letters


def _closing(text: str, start: int) -> int:
    """The position of the bracket that closes the one at `start`; 0 if there is none."""
    depth = 0
    for i in range(start, len(text)):
        if text[i] in "()" and (i == 0 or text[i - 1] != "\\"):
            depth += 1 if text[i] == "(" else -1
            if depth == 0:
                return i
    return 0


# words


def _chunks(letters: Letters) -> Iterator[Letters]:
    """The letters between commas, semicolons, ends of sentences and lines."""
    text = "".join(letter for letter, _ in letters)
    start = 0
    for end in ENDS.finditer(text):
        yield letters[start : end.start()]
        start = end.end()
    yield letters[start:]


def _explicit(chunk: Letters) -> tuple[int | None, Letters]:
    """The part that a chunk names before a colon or equals sign, and the letters that follow."""
    match = EXPLICIT.fullmatch("".join(letter for letter, _ in chunk))
    if not match:
        return None, chunk
    number, name, phrase = match.groups()
    if number and int(number) >= len(CLASSES):
        raise ValueError(
            f"there is no part [{number}]: the parts are "
            + ", ".join(f"[{n}] {part}" for n, part in enumerate(CLASSES))
        )
    part = int(number) if number else _part_named(name)
    return part, chunk if part is None else chunk[-len(phrase) :]


def _part_named(name: str) -> int | None:
    """The part of this name, or of this listed word; None for other texts."""
    try:
        return part_named(name)
    except ValueError:
        words = _without_articles(_words([(letter, 1.0) for letter in name]))
        matches = _matches(words)
        is_one_word = len(matches) == 1 and matches[0][:2] == (0, len(words))
        return matches[0].part if is_one_word else None


def _words(letters: Letters) -> list[Token]:
    """Words and marks, each with the strength of its first letter."""
    text = "".join(letter for letter, _ in letters)
    return [Token(m[0], letters[m.start()][1]) for m in TOKENS.finditer(text)]


def _key(word: str) -> str:
    """The letters alone: T-Shirt -> tshirt."""
    return re.sub(r"[\W_]", "", word.removesuffix("'s").removesuffix("’s").casefold())


def _singulars(key: str) -> Iterator[str]:
    """The key, and the words that it may be the plural of."""
    yield key
    for plural, singular in (("ves", "f"), ("ies", "y"), ("es", ""), ("s", "")):
        if key.endswith(plural):
            yield key.removesuffix(plural) + singular


def section_of(key: str) -> str | None:
    """Return the section of a listed word, singular or plural; None for other words."""
    listed = listed_words()
    return next((listed[form] for form in _singulars(key) if form in listed), None)


def _matches(words: list[Token]) -> list[Match]:
    """The garments among the words, and what only sounds like one.

    Of two that overlap the one that begins first counts, then the longer one.
    """
    # a hyphen may separate words or join them to one: "red-haired", "sock-boots"
    parts = [(i, _key(part)) for i, word in enumerate(words) for part in word.text.split("-")]
    matches: list[Match] = []
    i = 0
    while i < len(parts):
        for stop in range(min(len(parts), i + LONGEST), i, -1):
            keys = [key for _, key in parts[i:stop]]
            section = section_of("".join(keys)) if all(keys) else None  # a mark has no letters
            if section not in (None, LOOKS, TRIMS):
                part = None if section == NO_GARMENT else part_named(section or "")
                matches.append(Match(parts[i][0], parts[stop - 1][0] + 1, part))
                break
        else:
            stop = i + 1
        i = stop
    return matches


def _head_part(words: list[Token]) -> int | None:
    """The part of the last garment."""
    parts = [match.part for match in _matches(words) if match.part is not None]
    return parts[-1] if parts else None


# phrases


def _pieces(words: list[Token]) -> list[Piece]:
    """The words of a chunk, cut where another phrase begins."""
    inside_match = {
        i for m in _matches(words) if m.stop > m.start + 1 for i in range(m.start, m.stop)
    }
    pieces: list[Piece] = []
    lead, current = "", list[Token]()
    for i, word in enumerate(words):
        following = words[i + 1 :]
        if i not in inside_match and _splits(word, lead, current, following):
            pieces.append(Piece(lead, current, _head_part(current)))
            verb = word.text.casefold() in BREAKS or word.text.casefold().endswith("ing")
            lead, current = "" if verb else word.text.casefold(), []
        else:
            current.append(word)
    return [*pieces, Piece(lead, current, _head_part(current))]


def _splits(word: Token, lead: str, before: list[Token], after: list[Token]) -> bool:
    """Whether another phrase begins at this word."""
    text = word.text.casefold()
    if text in AND:
        following = after[0].text.casefold() if after else ""
        return (
            not before
            or _head_part(before) is not None
            or following in ARTICLES | COUNTS | BREAKS | JOINERS
            or section_of(_key(before[-1].text)) == TRIMS
            or (lead == "in" and _is_look(before) and _head_part(after) is not None)
        )
    if text in BREAKS | JOINERS | WITHOUT or not _key(text):
        return True
    return (
        text.endswith("ing") and section_of(_key(text)) is None and _head_part(before) is not None
    )


def _is_look(words: list[Token]) -> bool:
    return bool(words) and section_of(_key(words[-1].text)) == LOOKS


def _join(pieces: list[Piece]) -> list[Piece]:
    """Join to a garment what it has on it or is made of: "with a fur collar", "in red"."""
    joined: list[Piece] = []
    for piece in pieces:
        words = _without_articles(piece.words)
        piece = piece._replace(words=words)
        if piece.lead in WITHOUT:
            piece = piece._replace(part=None)
        before = joined[-1] if joined else None
        if before and before.part is not None and words and _belongs(piece, before.part):
            link = Token(piece.lead, words[0].strength)
            joined[-1] = before._replace(words=[*before.words, link, *words])
        elif words:
            joined.append(piece)
    return joined


def _belongs(piece: Piece, part: int) -> bool:
    """Whether a piece describes the garment before it."""
    if piece.lead in JOINERS and piece.part == part:
        return True
    detail = section_of(_key(piece.words[-1].text)) in (LOOKS, TRIMS)
    return piece.part is None and detail and piece.lead in JOINERS | AND


def _without_articles(words: list[Token]) -> list[Token]:
    """The words without articles in front."""
    while words and words[0].text.casefold() in ARTICLES:
        words = words[1:]
    return words


def _phrase(piece: Piece) -> Phrase:
    words = _without_articles(piece.words)
    strength = sum(word.strength for word in words) / max(1, len(words))
    text = " ".join(word.text for word in words)
    return Phrase(
        f"{piece.lead} {text}" if piece.lead in WITHOUT else text, piece.part, round(strength, 6)
    )
