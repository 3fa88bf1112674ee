"""Find the human-centric tokens of a prompt: those of words for people, actions and poses.

How the paper (HcP, arXiv 2403.05239) finds them is not known. Here it is a list of words, to which
the user can add and from which they can remove.
"""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

WORDS_FILE = Path(__file__).with_name("human_words.txt")
END = "</w>"  # CLIP's mark of a word's last piece
WORD_PATTERN = re.compile(r"[^\W\d_]+(?:'s)?|\d|[^\w\s]|_")  # as CLIP cuts a text into words


class Word(NamedTuple):
    """Hold a word of a prompt and the positions of its tokens."""

    text: str
    positions: tuple[int, ...]


@cache
def listed_words() -> frozenset[tuple[str, ...]]:
    """Read the list of human-centric words; each entry is a tuple of its parts."""
    lines = WORDS_FILE.read_text("utf-8").splitlines()
    listed = (line for line in lines if line[:1] not in ("", "#", "["))
    return frozenset(_parts(word) for line in listed for word in line.split())


def join_pieces(pieces: Sequence[str | None]) -> list[Word]:
    """Join tokens, as CLIP's vocabulary spells them, into words.

    None stands for a token that is no text, such as an embedding or the mark of begin or end.
    """
    words: list[Word] = []
    text, positions = "", list[int]()
    for position, piece in enumerate(pieces):
        if piece is None:
            text, positions = "", []
            continue
        text, positions = text + piece.removesuffix(END), [*positions, position]
        if piece.endswith(END):
            words.append(Word(_spell(text), tuple(positions)))
            text, positions = "", []
    return words


def human_words(
    words: Sequence[Word], added: Iterable[str] = (), removed: Iterable[str] = ()
) -> list[Word]:
    """Select the human-centric words: those of the list and of `added`, without those of `removed`.

    An entry may be a phrase (tai chi), and matches in every form of its last word. Where several
    entries match, the longest counts.
    """
    unwanted = frozenset(map(_parts, removed)) - {()}
    phrases = (listed_words() | frozenset(map(_parts, added)) | unwanted) - {()}
    longest = max(map(len, phrases))
    selected: list[Word] = []
    i = 0
    while i < len(words):
        runs = [words[i : i + length] for length in range(longest, 0, -1)]
        run = next((run for run in runs if _is_in(run, phrases)), [])
        if not _is_in(run, unwanted):
            selected += run
        i += max(1, len(run))
    return selected


def human_token_mask(words: Iterable[Word], count: int) -> list[bool]:
    """Tell for each of `count` tokens whether it belongs to one of the words."""
    positions = {position for word in words for position in word.positions}
    return [position in positions for position in range(count)]


def base_forms(word: str) -> set[str]:
    """Return the word and all words that it may be a plural, third person or participle of."""
    word = word.removesuffix("'s")
    forms = {word}
    for ending, instead in (("ies", "y"), ("ied", "y"), ("es", ""), ("s", "")):
        if word.endswith(ending):
            forms.add(word.removesuffix(ending) + instead)
    for ending in ("ing", "ed"):
        stem = word.removesuffix(ending)
        if stem != word and len(stem) >= 2:
            forms |= {stem, stem + "e"}
            if stem[-1] == stem[-2]:
                forms.add(stem[:-1])
    return forms


def _is_in(run: Sequence[Word], phrases: frozenset[tuple[str, ...]]) -> bool:
    """Whether the run is a phrase, its last word in any form."""
    if not run:
        return False
    *first, last = (word.text for word in run)
    return any((*first, form) in phrases for form in base_forms(last))


def _parts(text: str) -> tuple[str, ...]:
    """As the tokenizer cuts it: cross-legged is three words."""
    return tuple(WORD_PATTERN.findall(text.casefold()))


def _spell(text: str) -> str:
    """CLIP spells every byte by a printable letter; this is the text itself."""
    letters = _bytes()
    raw = bytes(letters[letter] for letter in text if letter in letters)
    return raw.decode("utf-8", errors="replace").casefold()


@cache
def _bytes() -> dict[str, int]:
    """The letter that stands for each byte (Radford et al. 2019, GPT-2's byte-level BPE): itself
    where it can be printed, else the next one from 256 on.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    not_printable = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + k): b for k, b in enumerate(not_printable)}
