"""The streams of one call of the network: how many, with whose text and whose skeleton.

The host batches chunks, one per conditioning entry, of `batch` rows each. Every chunk becomes one
or more streams, each again of `batch` rows; the streams of one chunk lie together. At the network's
head they are mixed by shares, and a chunk has its `batch` rows again.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...models import compose
from ...models.compose import MERGED

EXACT, LAYERS, COUPLE = "exact", "layers", "couple"  # modes
KEY = "vitruvian_compose"
NODE = "Compose Instances"
PEOPLE, NEGATIVE = "people", "negative"  # the role of a conditioning entry, under KEY


@dataclass(frozen=True)
class Composition:
    """The inputs of Compose Instances, as plain values: shared between clones, never changed."""

    people: tuple[Any, ...]  # CONDITIONING entries [tensor, dict], one per person
    masks: Callable[[int, int], Tensor]  # width, height -> [N, height, width] in 0..1
    hint: Callable[[int, int, int], Tensor]  # person or MERGED, width, height -> [H, W, 3]
    order: tuple[int, ...]  # of each person; the higher number is in front
    mode: str
    harmony: float  # share of the steps, the last ones, with soft shares
    scene: bool  # the positive prompt owns the background
    shared_negative: bool  # the negative is one stream with everybody's skeleton
    start_percent: float
    end_percent: float


class PeopleTexts(NamedTuple):
    """The people's prompts as the host encoded them, one row each."""

    uuids: tuple[Any, ...]  # of their conditioning entries
    contexts: tuple[Tensor, ...]  # [1, tokens, C]
    vectors: tuple[Tensor | None, ...]  # SDXL's pooled text and sizes [1, C]


class Shares(NamedTuple):
    """How much each stream counts in each latent cell, over one sampling."""

    hard: Tensor  # [S, 1, 1, h, w]
    soft: Tensor
    soft_from: float  # the soft shares hold at and below this sigma

    def at(self, sigma: float) -> Tensor:
        """Return the shares of one call of the network."""
        return self.soft if sigma <= self.soft_from else self.hard


class Stream(NamedTuple):
    """One pass through the network."""

    chunk: int
    text: int | None  # whose; MERGED: the mean of all people's, None: the chunk's own
    hint: int | None  # whose skeleton; MERGED: everybody's, None: no control


class Layout(NamedTuple):
    """The rows of one call: `batch` rows per stream, the streams of one chunk together."""

    streams: tuple[Stream, ...]
    batch: int

    def counts(self) -> list[int]:
        """Return the number of streams of each chunk."""
        return [sum(s.chunk == k for s in self.streams) for k in range(self.streams[-1].chunk + 1)]

    def chunk_rows(self) -> Tensor:
        """Return for each row the row of the chunks' batch that it is a copy of."""
        return torch.cat([torch.arange(self.batch) + s.chunk * self.batch for s in self.streams])

    def first_streams(self, rows: Tensor) -> Tensor:
        """Take the rows of each chunk's first stream: rows of streams -> rows of chunks."""
        counts = self.counts()
        starts = [self.batch * sum(counts[:k]) for k in range(len(counts))]
        return torch.cat([rows[start : start + self.batch] for start in starts])

    def mix(self, rows: Tensor, shares: Tensor) -> Tensor:
        """Mix the streams of every chunk by the shares: rows of streams -> rows of chunks."""
        return self._each_chunk(rows, lambda part: compose.compose_features(part, shares))

    def mix_tokens(self, rows: Tensor, shares: Tensor, height: int, width: int) -> Tensor:
        """Do the same with rows of tokens [rows, height * width, C]."""
        return self._each_chunk(
            rows, lambda part: compose.compose_tokens(part, shares, height, width)
        )

    def _each_chunk(self, rows: Tensor, mix: Callable[[Tensor], Tensor]) -> Tensor:
        parts = rows.split([n * self.batch for n in self.counts()])
        return torch.cat([p if len(p) == self.batch else mix(p) for p in parts])


class StreamCall(NamedTuple):
    """One call of the network as streams: what mixing them inside the network needs."""

    mode: str
    layout: Layout
    shares: Tensor  # [S, 1, 1, h, w]
    people: PeopleTexts
    chunk_texts: Sequence[Tensor]  # the text of each chunk [batch, tokens, C]
    is_people: Sequence[bool]  # of each chunk: it is the people's, not the negative or another
    scene: bool


def lay_out(
    composition: Composition, roles: Mapping[Any, str], uuids: Sequence[Any], batch: int
) -> Layout:
    """Say which streams the chunks of these conditioning entries become.

    `roles`: PEOPLE or NEGATIVE of the entries that are composed, by uuid; others stay one stream
    without control.
    """
    streams: list[Stream] = []
    one_pass = composition.mode == COUPLE
    people = range(len(composition.people))
    for chunk, uuid in enumerate(uuids):
        role = roles.get(uuid)
        if role is None:
            streams.append(Stream(chunk, None, None))
        elif one_pass and role == PEOPLE:
            streams.append(Stream(chunk, MERGED, MERGED))
        elif one_pass or composition.shared_negative and role == NEGATIVE:
            streams.append(Stream(chunk, None, MERGED))
        else:
            streams += [Stream(chunk, i if role == PEOPLE else None, i) for i in people]
            if composition.scene:
                streams.append(Stream(chunk, None, MERGED))
    return Layout(tuple(streams), batch)


def stream_uuids(
    layout: Layout, people: PeopleTexts, chunk_uuids: Sequence[Any]
) -> list[Any | None]:
    """Return the uuid of the conditioning entry whose text each stream has; None for the mean."""

    def uuid_of(stream: Stream) -> Any | None:
        if stream.text is None:
            return chunk_uuids[stream.chunk]
        return None if stream.text == MERGED else people.uuids[stream.text]

    return [uuid_of(stream) for stream in layout.streams]


def stream_texts(
    layout: Layout, contexts: Sequence[Tensor], chunk_texts: Sequence[Tensor]
) -> Tensor:
    """Return the streams' texts [rows, tokens, C].

    contexts: the people's, one row each; chunk_texts: those of the chunks, one or `batch` rows.
    """

    def text_of(stream: Stream) -> Tensor:
        chunk_text = chunk_texts[stream.chunk]
        if stream.text is None:
            return chunk_text
        return (_mean(contexts) if stream.text == MERGED else contexts[stream.text]).to(chunk_text)

    texts = _equally_long([text_of(stream) for stream in layout.streams])
    return torch.cat([text.expand(layout.batch, -1, -1) for text in texts])


def _equally_long(texts: Sequence[Tensor]) -> list[Tensor]:
    """Repeat texts to a common length, as the host does it: repeated tokens leave the result of
    cross-attention as it was.
    """
    length = math.lcm(*(text.shape[1] for text in texts))
    return [text.repeat(1, length // text.shape[1], 1) for text in texts]


def _mean(contexts: Sequence[Tensor]) -> Tensor:
    return torch.cat(_equally_long(contexts)).mean(0, keepdim=True)


def stream_vectors(
    layout: Layout, vectors: Sequence[Tensor | None], chunk_vectors: Tensor
) -> Tensor:
    """Return the streams' pooled texts and sizes [rows, C].

    vectors: the people's, one row each; chunk_vectors: those of the chunks' rows. A person without
    one has the chunk's.
    """
    batch, rows = layout.batch, []
    present = [vector for vector in vectors if vector is not None]
    mean = torch.stack(present).mean(0) if present else None
    for stream in layout.streams:
        if stream.text is None:
            vector = None
        else:
            vector = mean if stream.text == MERGED else vectors[stream.text]
        rows.append(
            chunk_vectors[stream.chunk * batch :][:batch]
            if vector is None
            else vector.to(chunk_vectors).expand(batch, -1)
        )
    return torch.cat(rows)
