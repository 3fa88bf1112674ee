"""Where the LoRAs of each person count in one pass through a transformer."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .calls import NetworkCall
from .heads import Head
from .lora_places import (
    Places,
    TextTokens,
    TokenLayout,
    TransformerPlaces,
    is_vectors,
    parts_of_rows,
)
from .network_layouts import Transformer, image_tokens, modules_at
from .passes import Pass, PassStream
from .person_loras import SHARED, Block, Part, Where, mixed_blocks, row_blocks
from .references import LATENTS, is_at_time_zero
from .streams import COUPLE, MERGED
from .vectors import token_vectors, vector_blocks


def token_places(
    call: NetworkCall, transformer: Transformer, one_pass: Pass, head: Head
) -> TransformerPlaces:
    """Say where the people are in the tokens of a pass."""
    plan = call.plan
    return TransformerPlaces(
        Places(call.shares, len(plan.composition.people), plan.once),
        _token_layout(call, transformer, one_pass.members[0], head.grid),
    )


def lora_places(
    call: NetworkCall,
    one_pass: Pass,
    head: Head,
    places: TransformerPlaces,
    with_vectors: bool,
) -> Where:
    """Return where in a layer the LoRAs of each person count, in one pass. with_vectors: people who
    share rows have vectors of their own.
    """
    roles, streams = call.plan.roles, len(call.shares)
    unmixed = row_blocks(one_pass, roles, call.uuids)
    mixed = mixed_blocks([call.uuids[s.chunk] for s in one_pass.streams], roles, call.batch)
    vectors = vector_blocks(unmixed, streams, places.places.people)

    def where(path: str, layer: Any, output: Tensor) -> Iterable[Part]:
        blocks = mixed if head.is_behind else unmixed
        if with_vectors and is_vectors(output) and len(output) == _count(vectors):
            blocks = vectors
        folded = places.folded(path, len(output) // _count(blocks))
        rows = output if folded == 1 else output.unflatten(0, (-1, folded))
        divided = parts_of_rows(
            blocks, rows, lambda: places.parts(path, layer, rows), vectors=is_vectors(rows)
        )
        for part in divided:
            yield part._replace(folded=folded)

    return where


def _count(blocks: Sequence[Block]) -> int:
    return sum(block.rows for block in blocks)


def has_vectors_of_people(call: NetworkCall, transformer: Transformer, one_pass: Pass) -> bool:
    """Say whether people who share rows differ in what all tokens read: in their pooled texts, or
    in their LoRAs. Where reference images or a second pooled text have vectors too, all share one.
    """
    is_couple = call.plan.composition.mode == COUPLE and bool(transformer.modulations)
    member = one_pass.members[0]
    if not is_couple or "clip_text_pooled" in member.conds:
        return False
    if member.conds.get(LATENTS) and (
        not transformer.positions or is_at_time_zero(call.network, member.conds)
    ):
        return False
    blocks = row_blocks(one_pass, call.plan.roles, call.uuids)
    has_pooled = member.stream.text == MERGED and bool(member.vectors)
    return (has_pooled or bool(call.plan.loras.by_layer)) and all(b.owner == SHARED for b in blocks)


def vectors_of_people(
    call: NetworkCall, transformer: Transformer, one_pass: Pass, places: TransformerPlaces
) -> AbstractContextManager:
    """Give every person a vector of their own for what all tokens read."""
    modulations = [
        (module, places.weights(reads))
        for path, reads in transformer.modulations.items()
        for module in modules_at(call.network, path, optional=True)
    ]
    everybodys = zip(*(member.vectors for member in one_pass.members), strict=True)
    pooled = [torch.cat(of_person) for of_person in everybodys]
    return token_vectors(
        call.network, modulations, len(call.shares), torch.cat(pooled) if pooled else None
    )


def _token_layout(
    call: NetworkCall, transformer: Transformer, member: PassStream, grid: tuple[int, int]
) -> TokenLayout:
    """Say how the rows of all people lay out their tokens, in the pass of a member."""
    merged = member.stream.text == MERGED
    owners: Sequence[int | None] = range(len(call.shares)) if merged else [None]

    def tokens(lengths: Sequence[int]) -> tuple[TextTokens, ...]:
        everybodys = not merged
        return tuple(
            TextTokens(length, owners[number % len(member.text_lengths)], everybodys)
            for number, length in enumerate(lengths)
        )

    count = len(member.text_lengths)
    second_lengths = [
        member.second_lengths[start : start + count]
        for start in range(0, len(member.second_lengths), count)
    ]

    def images() -> Iterator[TextTokens]:
        of_people = call.plan.people.references if merged else ()
        lengths = [image_tokens(call.network, transformer, each) for each in of_people]
        everybodys = image_tokens(call.network, transformer, member.conds) - sum(lengths)
        yield TextTokens(everybodys, None, is_everybodys=True)
        for person, length in enumerate(lengths):
            yield TextTokens(length, person)

    return TokenLayout(
        tokens(member.text_lengths),
        tuple(tokens(lengths) for lengths in second_lengths),
        partial(transformer.padded, call.network),
        transformer.order(call.network),
        grid,
        tuple(images()),
        transformer.registers(call.network),
    )
