"""Captions to token ids, without the host's tokenizer.

The text encoder has one embedding row per token that the captions use ("compact" ids), not CLIP's
49,408. A table gives the CLIP ids of each word; row 2 stands for every token outside the table. In
the host the stock SD1 tokenizer makes the same tokens, because the model family
(host/mini_family.py) puts row i at CLIP id `token_ids[i]` and row 2 everywhere else.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ...models.human_tokens import END
from ...models.mini import TEXT

BOS, EOS, UNKNOWN = 0, 1, 2  # compact ids
UNLISTED = -1  # stands in `token_ids` for all CLIP ids that have no row of their own
VOCABULARY = Path(__file__).parents[1] / "world" / "vocabulary.json"

# CLIP splits lower-cased text into contractions, runs of letters, single digits and runs of other
# signs.
_WORD = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+")


def split(text: str) -> list[str]:
    """Split `text` into words, as CLIP's tokenizer splits them before its byte-pair merges."""
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def build_vocabulary(
    words: Iterable[str], encode: Callable[[str], Sequence[int]]
) -> dict[str, list[int]]:
    """Make {word: CLIP ids} of all `words`; `encode` is CLIP's tokenizer, start and end left out.

    Made once, when the captions' words change:
        clip = transformers.CLIPTokenizer.from_pretrained("ComfyUI/comfy/sd1_tokenizer")
        table = build_vocabulary(captions.WORDS, lambda word: clip(word,
        add_special_tokens=False)["input_ids"]) write_vocabulary(table)
    """
    pieces = {piece for word in words for piece in split(word)}
    return {piece: list(encode(piece)) for piece in sorted(pieces)}


def write_vocabulary(table: Mapping[str, Sequence[int]], path: Path = VOCABULARY) -> None:
    """Write {word: CLIP ids}, one word a line."""
    lines = (f"{json.dumps(word)}: {json.dumps(list(ids))}" for word, ids in table.items())
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def read_vocabulary(path: Path = VOCABULARY) -> dict[str, list[int]]:
    """Read what `write_vocabulary` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


class WordTokenizer:
    """Text -> `length` compact ids: start, the words, end, then end as padding (as SD1 pads).

    token_ids: the CLIP id of each compact id, UNLISTED at row UNKNOWN; by default made from
    `table`, and for trained weights those of their file, so that words added to the table later
    are unknown to them.
    """

    def __init__(
        self,
        table: Mapping[str, Sequence[int]],
        token_ids: Sequence[int] | None = None,
        length: int = TEXT.positions,
    ) -> None:
        listed = sorted({id for ids in table.values() for id in ids})
        self.token_ids = list(token_ids or [TEXT.bos, TEXT.eos, UNLISTED, *listed])
        rows = {id: row for row, id in enumerate(self.token_ids)}
        self.words = {w: [rows.get(id, UNKNOWN) for id in ids] for w, ids in table.items()}
        self.length = length

    @classmethod
    def from_file(
        cls, path: Path = VOCABULARY, token_ids: Sequence[int] | None = None
    ) -> "WordTokenizer":
        """Build the tokenizer of the mini world's vocabulary."""
        return cls(read_vocabulary(path), token_ids)

    def __len__(self) -> int:
        """Number of compact ids: the rows of the text encoder's embedding."""
        return len(self.token_ids)

    def encode(self, text: str) -> list[int]:
        """Encode one caption; cut off what does not fit, where the host starts 77 tokens more."""
        ids = [id for word in split(text) for id in self.words.get(word, [UNKNOWN])]
        ids = [BOS, *ids[: self.length - 2], EOS]
        return ids + [EOS] * (self.length - len(ids))

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        """Encode captions -> long tensor [B, length]."""
        texts = [texts] if isinstance(texts, str) else texts
        return torch.tensor([self.encode(text) for text in texts])


def word_pieces(words: Mapping[str, Sequence[int]]) -> Callable[[Sequence[int]], list[str | None]]:
    """Make the spelling, as CLIP's vocabulary has it, of the compact ids of `WordTokenizer.words`:
    a word of one id is itself, the first of several has its letters and the last its end.
    """
    spelled: dict[int, str] = {}
    for word, ids in words.items():
        for k, number in enumerate(ids):
            if number != UNKNOWN:
                spelled.setdefault(number, word * (k == 0) + END * (k == len(ids) - 1))
    return partial(_spell, spelled)


def _spell(spelled: Mapping[int, str], ids: Sequence[int]) -> list[str | None]:
    return [spelled.get(number) for number in ids]
