"""The mixing of streams that go through a transformer in several passes, at its head."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...models import compose
from ..module_hooks import hook_after, hook_before, removed_at_the_end
from .calls import NetworkCall
from .network_layouts import Transformer, modules_at, token_grid
from .passes import Pass, PassStream
from .person_loras import Part, Where

LAST = -1  # of the passes so far


class HeadInput(NamedTuple):
    """What the head reads or gives in one pass."""

    members: tuple[PassStream, ...]
    image: slice  # where the image's tokens are
    tokens: Tensor  # [rows, tokens, C] or [rows, frames, height, width, C]

    def image_tokens(self, batch: int) -> list[tuple[PassStream, Tensor]]:
        """Return the image's tokens of each stream [batch, height * width, C]."""
        image = self.tokens.flatten(1, -2)[:, self.image]
        return list(zip(self.members, image.split(batch), strict=True))

    def with_image(self, images: Mapping[int, Tensor], batch: int) -> Tensor:
        """Return the tokens with those of the image replaced, in the streams of some chunks."""
        replaced = self.tokens.flatten(1, -2).clone()
        for member, rows in zip(self.members, replaced.split(batch), strict=True):
            if member.stream.chunk in images:
                rows[:, self.image] = images[member.stream.chunk]
        return replaced.view_as(self.tokens)


class Head:
    """The mixing of a call's streams at the head, pass after pass.

    The head modulates by pooled text, which every person has of their own. So each person's head
    reads the mixed tokens, and the results are mixed again.
    """

    def __init__(self, call: NetworkCall, transformer: Transformer, stream_counts: Sequence[int]):
        self.call, self.transformer = call, transformer
        self.stream_counts = stream_counts  # of each chunk
        self.grid = token_grid(call.network, transformer, call.x)
        self.module = modules_at(call.network, transformer.head)[-1]
        self.inputs: list[HeadInput] = []  # of the passes so far
        self.further_inputs: list[tuple[tuple, dict[str, Any]]] = []  # the head's other inputs
        self.wheres: list[Where] = []  # of the passes so far
        self.running = LAST  # the pass whose head runs
        self.is_behind = False  # what runs now reads mixed features
        self.before_head: set[str] = set()  # layers that ran before the head, in the running pass

    def begin(self, where: Where) -> None:
        """Begin a pass; `where` in a layer the LoRAs of each person count in it."""
        self.current, self.is_behind = where, False
        self.before_head.clear()

    def where(self, path: str, layer: Any, output: Tensor) -> Iterable[Part]:
        """Return where in a layer the LoRAs of each person count, in the running pass."""
        if path in self.before_head:  # the network runs again
            self.is_behind = False
        elif not self.is_behind:
            self.before_head.add(path)
        where = self.current if self.running == LAST else self.wheres[self.running]
        return where(path, layer, output)

    @contextmanager
    def mixing(self, one_pass: Pass, text_length: int) -> Iterator[None]:
        """While it lasts, the head reads mixed tokens for the chunks whose streams are complete."""
        if all(self.stream_counts[stream.chunk] == 1 for stream in one_pass.streams):
            yield
            return
        complete: dict[int, Tensor] = {}  # chunk -> its mixed tokens
        passes = len(self.inputs)

        def before(_, inputs, named):
            if self.running != LAST:
                return None
            for earlier in (self.inputs, self.further_inputs, self.wheres):
                del earlier[passes:]  # another node may let the network run twice
            complete.clear()
            image = self._image(inputs[0], text_length)
            self.inputs.append(HeadInput(one_pass.members, image, inputs[0]))
            self.further_inputs.append((inputs[1:], named))
            self.wheres.append(self.current)
            chunks = {s.chunk for s in one_pass.streams if self._is_complete(s.chunk)}
            complete.update(self._mix(self.inputs, chunks))
            return (self.inputs[-1].with_image(complete, self.call.batch), *inputs[1:]), named

        def after(_, __, output):
            if self.running != LAST:
                return None
            mixed = self._mix_outputs(output, complete)
            self.is_behind = True
            return mixed

        hooks = hook_before(self.module, before, with_kwargs=True), hook_after(self.module, after)
        with removed_at_the_end(hooks):
            yield

    def _image(self, tokens: Tensor, text_length: int) -> slice:
        """Where the image's tokens are."""
        cells, length = self.grid[0] * self.grid[1], tokens.flatten(1, -2).shape[1]
        start = self.transformer.image_start(self.call.network, length, text_length, cells)
        return slice(start, start + cells)

    def _is_complete(self, chunk: int) -> bool:
        members = chain.from_iterable(read.members for read in self.inputs)
        count = sum(member.stream.chunk == chunk for member in members)
        return count == self.stream_counts[chunk] > 1

    def _mix(self, passes: Sequence[HeadInput], chunks: Set[int]) -> dict[int, Tensor]:
        """Mix the image's tokens of chunks, whose streams lie in several passes."""
        by_chunk: dict[int, dict[int, Tensor]] = {chunk: {} for chunk in chunks}
        for each in passes:
            for member, tokens in each.image_tokens(self.call.batch):
                if member.stream.chunk in chunks:
                    by_chunk[member.stream.chunk][member.number] = tokens
        return {
            chunk: compose.compose_tokens(
                torch.cat([streams[number] for number in sorted(streams)]),
                self.call.shares,
                *self.grid,
            )
            for chunk, streams in by_chunk.items()
        }

    def _mix_outputs(self, output: Tensor, complete: Mapping[int, Tensor]) -> Tensor:
        """Mix what the heads of all streams of the complete chunks give."""
        outputs = [
            read._replace(tokens=self._run_again(number, complete))
            for number, read in enumerate(self.inputs[:-1])
            if {member.stream.chunk for member in read.members} & set(complete)
        ]
        last = self.inputs[-1]._replace(tokens=output)
        return last.with_image(self._mix([*outputs, last], set(complete)), self.call.batch)

    def _run_again(self, number: int, complete: Mapping[int, Tensor]) -> Tensor:
        """Run the head of an earlier pass on the mixed tokens."""
        further, named = self.further_inputs[number]
        self.running = number
        try:
            tokens = self.inputs[number].with_image(complete, self.call.batch)
            return self.module(tokens, *further, **named)
        finally:
            self.running = LAST
