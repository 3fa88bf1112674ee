"""Which tokens of a prompt are human-centric: people, actions, poses.

The paper (HcP, arXiv 2403.05239) extracts them in a way that is not known; a word list, which the
artist adds to and takes from, is ours.
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
    """A word of a prompt and the positions of its tokens."""

    text: str
    positions: tuple[int, ...]


@cache
def listed_words() -> frozenset[tuple[str, ...]]:
    """The shipped list; a word of several parts is a tuple of them."""
    lines = WORDS_FILE.read_text("utf-8").splitlines()
    listed = (line for line in lines if line[:1] not in ("", "#", "["))
    return frozenset(_parts(word) for line in listed for word in line.split())


def join_pieces(pieces: Sequence[str | None]) -> list[Word]:
    """Tokens as CLIP's vocabulary spells them -> words. None: a token that is no text, such as an
    embedding or a mark of beginning and end.
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
    """Those of the list and of `added`, without those of `removed`; both may hold several words in
    one (tai chi), and are taken in all forms. Where two meet, the longer one counts.
    """
    unwanted = frozenset(map(_parts, removed)) - {()}
    phrases = (listed_words() | frozenset(map(_parts, added)) | unwanted) - {()}
    longest = max(map(len, phrases))
    chosen: list[Word] = []
    i = 0
    while i < len(words):
        runs = [words[i : i + length] for length in range(longest, 0, -1)]
        run = next((run for run in runs if _is_in(run, phrases)), [])
        if not _is_in(run, unwanted):
            chosen += run
        i += max(1, len(run))
    return chosen


def human_token_mask(words: Iterable[Word], count: int) -> list[bool]:
    """Whether each of `count` tokens belongs to one of the words."""
    chosen = {position for word in words for position in word.positions}
    return [position in chosen for position in range(count)]


def base_forms(word: str) -> set[str]:
    """The word, and what it may be a plural, a third person or a participle of."""
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
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + k): b for k, b in enumerate(others)}
