"""Let the people of COUPLE, who share the rows of the network, each keep a vector of their own for
what all tokens read: the time, the pooled text, and their LoRAs there.

The network computes these vectors once per person, person after person. Where a layer turns them
into a modulation, each token gets that of the people whose it is, by their shares.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ...models import compose
from ..module_hooks import hook_after, hook_before, removed_at_the_end
from .person_loras import SHARED, Block


class PerToken(Tensor):
    """A modulation of every token [rows, tokens, C] in the place of one of every row [rows, C].

    Networks divide theirs along the channels and give it an axis for the tokens, which this one has
    already.
    """

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in (torch.chunk, Tensor.chunk):
            return super().__torch_function__(func, types, (args[0], args[1], -1))
        if func in (torch.unsqueeze, Tensor.unsqueeze, Tensor.__getitem__):
            return args[0].as_subclass(Tensor)
        return super().__torch_function__(func, types, args, kwargs or {})


def vector_blocks(blocks: Sequence[Block], streams: int, people: int) -> list[Block]:
    """Say whose the vectors are: for each person, and the scene, those of all rows."""
    return [
        Block((number if number < people else None) if block.owner == SHARED else None, block.rows)
        for number in range(streams)
        for block in blocks
    ]


def spread_over_tokens(vectors: Tensor, weights: Tensor) -> Tensor:
    """Mix vectors [S * rows, C] or [S * rows, 1, C] for every token by the weights
    [S, frames or 1, tokens]: -> [rows, tokens, C].
    """
    streams = vectors.reshape(len(weights), -1, vectors.shape[-1])
    times = streams.shape[1] // weights.shape[1]
    per_row = weights.repeat(1, times, 1).to(vectors)
    return torch.einsum("srt,src->rtc", per_row, streams)


def spread_over_cells(vectors: Tensor, shares: Tensor, size: tuple[int, int]) -> Tensor:
    """Mix vectors [S * rows, C] for every cell by shares [S, frames or 1, 1, h, w], resized:
    -> [rows, C, *size].
    """
    weights = compose.resize_shares(shares, *size).flatten(2)
    return spread_over_tokens(vectors, weights).mT.unflatten(-1, size)


@contextmanager
def unet_vectors(unet: Any, vectors: Tensor | None, shares: Tensor) -> Iterator[None]:
    """While it lasts, a UNet has vectors of each person, and spreads them in every ResBlock.

    vectors: those of everybody's pooled text [S * rows, C], if the network reads them; shares of
    the people and the scene [S, frames or 1, 1, h, w].
    """
    sizes: list[tuple[int, int]] = []

    def repeat(_, inputs):
        return (inputs[0].repeat(len(shares), 1),)

    def note_size(_, inputs):
        sizes[:] = [tuple(inputs[0].shape[-2:])]

    def spread(_, __, output):
        return spread_over_cells(output, shares, sizes[0])

    blocks = [module for module in unet.modules() if hasattr(module, "emb_layers")]
    hooks = [
        hook_before(unet.time_embed, repeat),
        *(hook_before(block, note_size) for block in blocks),
        *(hook_after(block.emb_layers, spread) for block in blocks),
    ]
    if vectors is not None:
        hooks.append(hook_before(unet.label_emb, lambda _, inputs: (vectors.to(inputs[0]),)))
    with removed_at_the_end(hooks):
        yield


@contextmanager
def token_vectors(
    network: Any,
    modulations: Sequence[tuple[Any, Tensor]],
    streams: int,
    pooled: Tensor | None,
) -> Iterator[None]:
    """While it lasts, a transformer has vectors of each person, and spreads them over its tokens.

    modulations: the layers that give them, and the weights of the tokens that read each
    [S, frames or 1, tokens]. pooled: everybody's pooled texts [S * rows, C], if it reads them.
    """

    def rows_of_everybody(_, inputs, named):
        x, time, *further = inputs
        named = {**named} if pooled is None else {**named, "y": pooled.to(named["y"])}
        guidance = named.get("guidance")
        if isinstance(guidance, Tensor) and guidance.dim():
            named["guidance"] = guidance.repeat(streams)
        return (x, time.repeat(streams), *further), named

    def spreading(weights: Tensor) -> Callable:
        def spread(_, __, output):
            tokens = spread_over_tokens(output, weights)
            return tokens if output.dim() == 3 else tokens.as_subclass(PerToken)

        return spread

    hooks = [
        hook_before(network, rows_of_everybody, with_kwargs=True),
        *(hook_after(module, spreading(weights)) for module, weights in modulations),
    ]
    with removed_at_the_end(hooks):
        yield
