"""The passes of one call: which streams go through a transformer together, and what it reads."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .calls import NetworkCall, chunk_texts, encoded_texts
from .neighbors import has_foreign_patches
from .network_layouts import Transformer
from .references import AT_TIME_ZERO, METHOD, joined_references
from .streams import (
    MERGED,
    TEXT_CONDS,
    ChunkText,
    Stream,
    areas,
    lay_groups,
    stream_vector,
    streams_by_chunk,
)
from .text_masks import joined_masks

# other texts of a person -> how often joint attention reads their tokens, behind all first texts
SECOND_TEXTS = {"encoder_hidden_states_llama3": 2, "txt_byt5": 1}


class PassStream(NamedTuple):
    """One stream with what the network reads for it."""

    stream: Stream
    number: int  # among the streams of its chunk, as the shares count them
    conds: Mapping[str, Any]
    control_conds: Mapping[str, Any]  # what its ControlNet reads: texts as the host encoded them
    text_lengths: Sequence[int]  # tokens of each of its texts: several if it is all people's
    second_lengths: Sequence[int]  # of their other texts, as joint attention reads them
    vectors: Sequence[
        Tensor
    ]  # pooled text of each person and of the scene, if the network reads it


class Pass(NamedTuple):
    """The streams of one call of the network, `batch` rows each."""

    members: tuple[PassStream, ...]
    batch: int

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The streams in the order of their rows."""
        return tuple(member.stream for member in self.members)

    def rows(self, chunk_rows: Tensor) -> Tensor:
        """Take the rows of the streams out of those of all chunks."""
        return torch.cat([_chunk(chunk_rows, s.chunk, self.batch) for s in self.streams])


def stream_passes(call: NetworkCall, transformer: Transformer) -> tuple[list[Pass], list[int]]:
    """Divide the streams of a call into passes; also the number of streams of each chunk."""
    plan = call.plan
    by_chunk = streams_by_chunk(plan.composition, plan.roles, call.uuids)
    foreign = has_foreign_patches(call.options)
    if foreign:  # they may compare the chunks of a call: every person gets all chunks, alone
        layout = lay_groups(by_chunk, call.batch, equal_counts=True)
        by_chunk = [[s for s in layout.streams if s.chunk == c] for c in range(len(by_chunk))]
    conds = StreamConds(call)
    members = [
        conds.member(stream, number)
        for streams in by_chunk
        for number, stream in enumerate(streams)
    ]
    members.sort(key=lambda member: member.number)  # person by person, as the host orders chunks
    alone = foreign or (transformer.gathers_rows and bool(plan.loras.by_layer))
    groups: dict[Any, list[PassStream]] = {}
    for member in members:
        stream = member.stream
        kind = stream.text == MERGED, stream.hint is None
        # Flux.2 can not read images as free of noise in several rows
        by_itself = alone or member.conds.get(METHOD) == AT_TIME_ZERO
        key = member.number if by_itself else None, kind, _shapes(member)
        groups.setdefault(key, []).append(member)
    most = max(plan.streams_at_once, len(by_chunk))  # the host's own call has room
    parts = [
        tuple(group[start : start + most])
        for group in groups.values()
        for start in range(0, len(group), most)
    ]
    return [Pass(part, call.batch) for part in parts], [*map(len, by_chunk)]


def _shapes(member: PassStream) -> tuple:
    """What must be equal in all streams of a pass."""
    return tuple(sorted((name, _shape(value)) for name, value in member.conds.items()))


def _shape(value: Any) -> str:
    if isinstance(value, Tensor):
        return str(tuple(value.shape[1:]))
    if isinstance(value, (list, tuple)):
        return str([_shape(each) for each in value])
    return repr(value)


class StreamConds:
    """The conds of the streams of one call."""

    def __init__(self, call: NetworkCall):
        self.call, self.people, self.batch = call, call.plan.people, call.batch
        self.texts = chunk_texts(call)
        self.encoded = encoded_texts(call, self.texts)
        self.areas = areas(call.shares)

    def member(self, stream: Stream, number: int) -> PassStream:
        """Return a stream with all that the network reads for it."""
        texts = self._texts(stream)
        lengths = [text.shape[1] for text in texts]
        conds = self._of(stream, texts)
        second_lengths = self._second_lengths(stream, conds)
        control_conds = self._for_control(stream, conds)
        vectors = self._vectors(stream, conds)
        return PassStream(stream, number, conds, control_conds, lengths, second_lengths, vectors)

    def _of(self, stream: Stream, texts: Sequence[Tensor]) -> dict[str, Any]:
        """Return the conds of a stream's rows. Of a person come the text and further reference
        images; all else, guidance for example, is the chunk's.
        """
        chunk = self._of_chunk(stream.chunk, self.texts[stream.chunk])
        if stream.text is None:
            return chunk
        conds = {name: value for name, value in chunk.items() if name not in TEXT_CONDS}
        conds["c_crossattn"] = torch.cat([text.expand(self.batch, -1, -1) for text in texts], 1)
        if isinstance(conds.get("y"), Tensor):
            conds["y"] = stream_vector(stream, self.people.vectors, conds["y"], self.areas)
        everybodys = self.people.references
        images = everybodys if stream.text == MERGED else everybodys[stream.text : stream.text + 1]
        conds |= joined_references(conds, images, self.batch)
        if stream.text != MERGED:
            return conds | self._person(stream.text)
        return conds | self._merged(stream, [text.shape[1] for text in texts])

    def _vectors(self, stream: Stream, conds: Mapping[str, Any]) -> list[Tensor]:
        """Return the pooled text of each person, and of the scene, where they share a stream."""
        if not isinstance(conds.get("y"), Tensor):
            return []
        if stream.text != MERGED:
            return [conds["y"]] * len(self.areas)
        chunk, people = _chunk(self.call.conds["y"], stream.chunk, self.batch), self.people.vectors
        streams = [stream._replace(text=person) for person in range(len(people))]
        streams += [stream._replace(text=None)] * (len(self.areas) - len(people))
        return [stream_vector(each, people, chunk, self.areas) for each in streams]

    def _for_control(self, stream: Stream, conds: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a stream's ControlNet reads: of all people together, the positive prompt."""
        clean = self.encoded[stream.chunk]
        if stream.text in (None, MERGED):
            return self._of_chunk(stream.chunk, clean)
        text = self.people.contexts[stream.text].to(clean.text)
        return {**conds, "c_crossattn": text.expand(self.batch, -1, -1)}

    def _second_lengths(self, stream: Stream, conds: Mapping[str, Any]) -> list[int]:
        """Count the tokens of the other texts of a stream, as joint attention reads them: of all
        people, or of the one text that it has. 0 for a person without one.
        """
        lengths = []
        everybody = self._everybody(stream.chunk) if stream.text == MERGED else [conds]
        for name, times in SECOND_TEXTS.items():
            texts = [each.get(name) for each in everybody]
            lengths += times * [0 if text is None else text.shape[-2] for text in texts]
        return lengths

    def _of_chunk(self, chunk: int, text: ChunkText) -> dict[str, Any]:
        def rows(value: Any) -> Any:
            if isinstance(value, list):
                return [rows(each) for each in value]
            per_row = isinstance(value, Tensor) and value.dim() and len(value) == len(self.call.x)
            return _chunk(value, chunk, self.batch) if per_row else value

        conds = {name: rows(value) for name, value in self.call.conds.items() if value is not None}
        return conds | {"c_crossattn": text.text}

    def _texts(self, stream: Stream) -> list[Tensor]:
        """The chunk's text, or that of a person, or of everybody and of the scene behind them."""
        chunk = self.texts[stream.chunk]
        if stream.text is None:
            return [chunk.text]
        contexts = [_changed(c.to(chunk.text), chunk.change) for c in self.people.contexts]
        if stream.text != MERGED:
            return [contexts[stream.text]]
        return [*contexts, chunk.text] if len(self.areas) > len(contexts) else contexts

    def _person(self, person: int) -> dict[str, Any]:
        def rows(value: Any) -> Any:
            if isinstance(value, Tensor) and value.dim():
                return value.expand(self.batch, *value.shape[1:])
            return value

        return {name: rows(value) for name, value in self.people.conds[person].items()}

    def _everybody(self, chunk: int) -> list[dict[str, Any]]:
        """What belongs to the text of each person, and of the scene behind them."""
        everybody = [self._person(person) for person in range(len(self.people.conds))]
        if len(self.areas) > len(everybody):
            conds = self._of_chunk(chunk, self.texts[chunk])
            everybody.append({name: value for name, value in conds.items() if name in TEXT_CONDS})
        return everybody

    def _merged(self, stream: Stream, lengths: Sequence[int]) -> dict[str, Any]:
        """What belongs to all texts together, of so many tokens each."""
        everybody = self._everybody(stream.chunk)
        merged: dict[str, Any] = {}
        masks = [conds.get("attention_mask") for conds in everybody]
        if any(mask is not None for mask in masks):
            merged["attention_mask"] = joined_masks(masks, lengths)
        for name in SECOND_TEXTS:
            if texts := [conds[name] for conds in everybody if name in conds]:
                merged[name] = torch.cat([text.to(texts[0]) for text in texts], -2)
        if any("num_tokens" in conds for conds in everybody):
            merged["num_tokens"] = sum(lengths)
        if all("clip_text_pooled" in conds for conds in everybody):
            merged["clip_text_pooled"] = sum(
                area[:, None].to(conds["clip_text_pooled"]) * conds["clip_text_pooled"]
                for area, conds in zip(self.areas, everybody, strict=True)
            )
        return merged


def _changed(text: Tensor, change: Tensor | None) -> Tensor:
    """Add to a person's text what other packs added to the chunk's, as far as both reach."""
    if change is None:
        return text
    length = min(text.shape[1], change.shape[1])
    unchanged = text[:, length:].expand(len(change), -1, -1)
    return torch.cat((text[:, :length] + change[:, :length], unchanged), 1)


def _chunk(value: Tensor, chunk: int, batch: int) -> Tensor:
    return value[chunk * batch :][:batch]


def joined_conds(conds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Join the conds of a pass's streams: rows behind rows."""

    def join(values: Sequence[Any]) -> Any:
        if isinstance(values[0], Tensor) and values[0].dim():
            return torch.cat(list(values))
        if isinstance(values[0], list):
            return [join(each) for each in zip(*values, strict=True)]
        return values[0]

    return {name: join([each[name] for each in conds]) for name in conds[0]}
