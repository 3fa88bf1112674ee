"""The streams of one call of the network: how many, with whose text and whose skeleton.

The host batches chunks, one per conditioning entry, of `batch` rows each. Every chunk becomes one
or more streams, each again of `batch` rows. First come the chunks that stay one stream, then a
group for each person: one stream of every other chunk, in the host's order. So a group lies in the
batch as one ordinary call of the network would. At the network's head the groups are mixed by
shares, and a chunk has its `batch` rows again.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ...models import compose
from ...models.compose import MERGED

EXACT, LAYERS, COUPLE = "exact", "layers", "couple"  # modes
KEY = "vitruvian_compose"
NODE, CONTROL_INPUT = "Compose Instances", "control_net"
CHANGED = "Another node may change it: remove that node, or set mode to exact."  # of errors
PEOPLE, NEGATIVE = "people", "negative"  # the role of a conditioning entry, under KEY
TEXT_CONDS = frozenset(  # what the host encodes of a text, beside c_crossattn and y
    {"attention_mask", "num_tokens", "clip_text_pooled", "encoder_hidden_states_llama3", "txt_byt5"}
    | {"text_embedding_mask", "encoder_hidden_states_t5", "text_embedding_mask_t5"}
)


@dataclass(frozen=True)
class Composition:
    """The inputs of Compose Instances, as plain values: shared between clones, never changed."""

    people: tuple[Any, ...]  # CONDITIONING entries [tensor, dict], one per person
    masks: Callable[[int, int], Tensor]  # width, height -> [frames, N, height, width] in 0..1
    hint: Callable[[int, int, int], Tensor]  # person or MERGED, width, height -> [frames, H, W, 3]
    canvas: tuple[int, int]  # width and height of the pose
    order: tuple[int, ...]  # of each person; the higher number is in front
    mode: str
    harmony: float  # share of the sampling, its last part, with soft shares
    scene: bool  # the positive prompt owns the background
    shared_negative: bool  # the negative is one stream with everybody's skeleton
    start_percent: float
    end_percent: float
    feather: float = 0.0  # blur of the shares' borders, as a share of the latent's longer side
    scene_share: float = 0.0  # of the positive prompt, everywhere
    loras: tuple[tuple[compose.PersonLora, ...], ...] = ()  # of each person; none: of nobody
    node: str = NODE  # that an artist has, and the name of its input for the ControlNet
    control_input: str = CONTROL_INPUT

    def in_words_of_the_node(self, error: str) -> str:
        """Return an error text about Compose Instances as one about the node that composes."""
        text = error.replace(f"'{CONTROL_INPUT}'", f"'{self.control_input}'")
        return text.replace(NODE, self.node)

    @property
    def has_scene(self) -> bool:
        """Say whether the positive prompt has a stream, the last one."""
        return self.scene or self.scene_share > 0

    def __deepcopy__(self, memo: dict) -> "Composition":
        """Return the composition itself: it never changes, and its identity says whose it is."""
        return self


class PeopleTexts(NamedTuple):
    """The people's prompts as the host encoded them, one row each or one for every image."""

    uuids: tuple[Any, ...]  # of their conditioning entries
    contexts: tuple[Tensor, ...]  # [1 or images, tokens, C]
    vectors: tuple[Tensor | None, ...]  # pooled text and SDXL's sizes [1 or images, C]
    conds: tuple[Mapping[str, Any], ...] = ()  # of each person: what else belongs to a text
    references: tuple[Mapping[str, Any], ...] = ()  # of each person: their reference images


class Shares(NamedTuple):
    """How much each stream counts in each latent cell, over one sampling."""

    hard: Tensor  # [S, frames, 1, h, w]; a single frame serves all images
    soft: Tensor
    soft_from: float  # the soft shares hold at and below this sigma

    def at(self, sigma: Tensor, *, lasting: bool) -> Tensor:
        """Return the shares of one call of the network at a noise level [].

        lasting: one of the two tensors, whose identity something was computed for. To know which
        one waits for the GPU.
        """
        if self.soft_from < 0:
            return self.hard
        if lasting:
            return self.soft if float(sigma) <= self.soft_from else self.hard
        return torch.where(sigma <= self.soft_from, self.soft, self.hard)


class Stream(NamedTuple):
    """One pass through the network."""

    chunk: int
    text: int | None  # whose; MERGED: the mean of all people's, None: the chunk's own
    hint: int | None  # whose skeleton; MERGED: everybody's, None: no control


class StreamRows(Protocol):
    """The rows of some streams, `batch` of each."""

    @property
    def streams(self) -> tuple[Stream, ...]: ...

    @property
    def batch(self) -> int: ...


class Layout(NamedTuple):
    """The rows of one call, `batch` per stream."""

    singles: tuple[Stream, ...]  # of chunks that stay one stream
    groups: tuple[tuple[Stream, ...], ...]  # of each person: one stream of every other chunk
    batch: int
    first: int = 0  # the first group's number among the shares: not 0 in a later part of a call

    @property
    def streams(self) -> tuple[Stream, ...]:
        """All streams in the order of their rows."""
        return (*self.singles, *chain(*self.groups))

    @property
    def grouped(self) -> bool:
        """Say whether the rows are groups and nothing else, each like an ordinary batch."""
        return len(self.groups) > 1 and not self.singles

    def chunk_rows(self) -> Tensor:
        """Return for each row the row of the chunks' batch that it is a copy of."""
        return torch.cat([torch.arange(self.batch) + s.chunk * self.batch for s in self.streams])

    @property
    def chunks(self) -> tuple[int, ...]:
        """The chunks that it has streams of, in the host's order."""
        return tuple(sorted({stream.chunk for stream in self.streams}))

    def mixed_rows(self) -> Tensor:
        """Return for each row the row that it is mixed into, or taken for, by `mix`."""
        starts = [self.chunks.index(stream.chunk) * self.batch for stream in self.streams]
        return torch.cat([torch.arange(self.batch) + start for start in starts])

    def parts(self, most: int) -> list["Layout"]:
        """Divide it into layouts of at most so many streams, but at least one whole group: no more
        rows than the host's own call has.
        """
        if not self.groups:
            return [self]
        size = len(self.groups[0])
        first, following = (max(1, n // size) for n in (most - len(self.singles), most))
        parts = [self._replace(groups=self.groups[:first])]
        for start in range(first, len(self.groups), following):
            groups = self.groups[start : start + following]
            parts.append(Layout((), groups, self.batch, start))
        return parts

    def first_streams(self, rows: Tensor) -> Tensor:
        """Take the rows of each chunk's first stream: rows of streams -> rows of chunks."""
        return self._in_chunk_order(rows)

    def mix(self, rows: Tensor, shares: Tensor) -> Tensor:
        """Mix the streams of every chunk by the shares: rows of streams -> rows of chunks."""
        return self.with_mixed(rows, self.mix_groups(self.split(rows)[1], shares))

    def mix_tokens(self, rows: Tensor, shares: Tensor, height: int, width: int) -> Tensor:
        """Do the same with rows of tokens [rows, height * width, C]."""
        groups = self.split(rows)[1]
        if self.groups:
            groups = compose.compose_tokens(groups, self.group_shares(shares), height, width)
        return self.with_mixed(rows, groups)

    def mix_groups(self, groups: Tensor, shares: Tensor) -> Tensor:
        """Mix the rows of all groups by their shares into those of one."""
        if not self.groups:
            return groups
        return compose.compose_features(groups, self.group_shares(shares))

    def with_mixed(self, rows: Tensor, mixed: Tensor) -> Tensor:
        """Bring the rows of the singles and the mixed ones into the order of the chunks."""
        if not self.groups:
            return self._in_chunk_order(rows)
        joined = torch.cat((self.split(rows)[0], mixed)) if self.singles else mixed
        return self._in_chunk_order(joined)

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Split rows of streams into those of the singles and those of the groups."""
        count = len(self.singles) * self.batch
        return rows[:count], rows[count:]

    def group_shares(self, shares: Tensor) -> Tensor:
        """Bring the groups' own of the shares [S, frames, 1, h, w] to the images of a group, chunk
        after chunk.
        """
        shares = shares[self.first :][: len(self.groups)]
        return shares if shares.shape[1] == 1 else shares.repeat(1, len(self.groups[0]), 1, 1, 1)

    def _in_chunk_order(self, rows: Tensor) -> Tensor:
        """Bring rows of the singles and of one group into the order of the chunks."""
        order = [stream.chunk for stream in (*self.singles, *(self.groups or [()])[0])]
        if order == sorted(order):
            return rows[: len(order) * self.batch]
        starts = (order.index(chunk) * self.batch for chunk in sorted(order))
        return torch.cat([rows[start : start + self.batch] for start in starts])


class ChunkText(NamedTuple):
    """The text of one chunk, as it reaches the network."""

    text: Tensor  # [1 or batch, tokens, C]
    change: Tensor | None = None  # what other packs added to it while sampling


def streams_by_chunk(
    composition: Composition, roles: Mapping[Any, str], uuids: Sequence[Any]
) -> list[list[Stream]]:
    """Say which streams the chunks of these conditioning entries become: one, or several whose
    order is that of the shares.

    `roles`: PEOPLE or NEGATIVE of the entries that are composed, by uuid; others stay one stream
    without control.
    """
    one_pass = composition.mode == COUPLE

    def streams_of(chunk: int, role: str | None) -> list[Stream]:
        if role is None:
            return [Stream(chunk, None, None)]
        if one_pass:
            return [Stream(chunk, MERGED if role == PEOPLE else None, MERGED)]
        if composition.shared_negative and role == NEGATIVE:
            return [Stream(chunk, None, MERGED)]
        text = role == PEOPLE
        people = [Stream(chunk, i if text else None, i) for i in range(len(composition.people))]
        return [*people, Stream(chunk, None, MERGED)] if composition.has_scene else people

    return [streams_of(chunk, roles.get(uuid)) for chunk, uuid in enumerate(uuids)]


def lay_groups(by_chunk: Sequence[list[Stream]], batch: int, equal_counts: bool) -> Layout:
    """Order the streams of each chunk, one or as many as there are people, into a layout.

    `equal_counts`: every chunk has as many streams as those of the people, the same one several
    times if need be, because patches of other packs compare the chunks of a call.
    """
    count = max(map(len, by_chunk))
    if count == 1:
        return Layout(tuple(chain(*by_chunk)), (), batch)
    if equal_counts:
        by_chunk = [streams * (count // len(streams)) for streams in by_chunk]
    singles = [streams[0] for streams in by_chunk if len(streams) == 1]
    several = [streams for streams in by_chunk if len(streams) > 1]
    return Layout(tuple(singles), tuple(zip(*several, strict=True)), batch)


def stream_uuids(
    layout: Layout, people: PeopleTexts, chunk_uuids: Sequence[Any]
) -> list[Any | None]:
    """Return the uuid of the conditioning entry whose text each stream has; None for the mean."""
    return [_uuid_of(stream, people, chunk_uuids) for stream in layout.streams]


def _uuid_of(stream: Stream, people: PeopleTexts, chunk_uuids: Sequence[Any]) -> Any | None:
    if stream.text is None:
        return chunk_uuids[stream.chunk]
    return None if stream.text == MERGED else people.uuids[stream.text]


def group_labels(
    layout: Layout, people: PeopleTexts, chunk_uuids: Sequence[Any], kinds: Sequence[int]
) -> list[dict[str, Any]]:
    """Return what the options of each group say of its chunks. kinds: the call's cond_or_uncond."""
    return [
        {
            "cond_or_uncond": [kinds[stream.chunk] for stream in group],
            "uuids": [_uuid_of(stream, people, chunk_uuids) for stream in group],
        }
        for group in layout.groups
    ]


def stream_texts(
    layout: Layout, contexts: Sequence[Tensor], chunk_texts: Sequence[ChunkText]
) -> Tensor:
    """Return the streams' texts [rows, tokens, C].

    contexts: the people's, one row each. What other packs added to a chunk's text while sampling,
    noise for example, is added to the people's in its place.
    """

    def text_of(stream: Stream) -> Tensor:
        chunk = chunk_texts[stream.chunk]
        if stream.text is None:
            return chunk.text
        context = _mean(contexts) if stream.text == MERGED else contexts[stream.text]
        context = context.to(chunk.text)
        if chunk.change is None:
            return context
        return add_texts(context, chunk.change)

    texts = _equally_long([text_of(stream) for stream in layout.streams])
    return torch.cat([text.expand(layout.batch, -1, -1) for text in texts])


def text_change(text: Tensor, encoded: Tensor) -> Tensor:
    """Return what a chunk's text [batch, tokens, C] has gained since the host encoded it as
    [1, tokens, C]: zeros as a rule. ValueError where it has other tokens.
    """
    if text.shape[1] % encoded.shape[1]:
        raise ValueError(
            f"{NODE}: another node changes the length of the positive prompt while sampling, from "
            f"{encoded.shape[1]} to {text.shape[1]} tokens. Remove that node, or connect it "
            "without Compose Instances."
        )
    return text - encoded.to(text).repeat(1, text.shape[1] // encoded.shape[1], 1)


def add_texts(first: Tensor, second: Tensor) -> Tensor:
    """Add texts [rows, tokens, C] token by token; the shorter one is repeated."""
    first, second = _equally_long((first, second))
    return first + second


def _equally_long(texts: Sequence[Tensor]) -> list[Tensor]:
    """Repeat texts to a common length, as the host does it: repeated tokens leave the result of
    cross-attention as it was.
    """
    length = math.lcm(*(text.shape[1] for text in texts))
    return [text.repeat(1, length // text.shape[1], 1) for text in texts]


def _mean(contexts: Sequence[Tensor]) -> Tensor:
    """The mean of all people's texts, row by row."""
    return torch.stack(torch.broadcast_tensors(*_equally_long(contexts))).mean(0)


def areas(shares: Tensor) -> Tensor:
    """Measure each stream's part of the image: shares [S, frames, 1, h, w] -> [S, frames]."""
    return shares.mean((2, 3, 4))


def stream_vectors(
    layout: Layout, vectors: Sequence[Tensor | None], chunk_vectors: Tensor, areas: Tensor
) -> Tensor:
    """Return the streams' pooled texts and sizes [rows, C].

    vectors: the people's, one row each; chunk_vectors: those of the chunks' rows. A person without
    one has the chunk's. A stream of all people has the mean of theirs by `areas` [S, frames].
    """
    batch = layout.batch
    rows = [
        stream_vector(stream, vectors, chunk_vectors[stream.chunk * batch :][:batch], areas)
        for stream in layout.streams
    ]
    return torch.cat(rows)


def stream_vector(
    stream: Stream, vectors: Sequence[Tensor | None], chunk_vector: Tensor, areas: Tensor
) -> Tensor:
    """Return one stream's vector [batch, C]; the scene's, behind those of the people, is the
    chunk's.
    """
    if stream.text is None:
        return chunk_vector
    present = [chunk_vector if v is None else v.to(chunk_vector) for v in vectors]
    if stream.text != MERGED:
        return present[stream.text].expand_as(chunk_vector)
    with_scene = [*present, chunk_vector][: len(areas)]
    weighted = [
        area[:, None].to(chunk_vector) * vector
        for area, vector in zip(areas, with_scene, strict=True)
    ]
    return torch.stack(torch.broadcast_tensors(*weighted)).sum(0).expand_as(chunk_vector)
