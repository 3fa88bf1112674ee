"""Let the LoRAs of each person act on that person only, while the network's weights stay as they
are: a layer gives W x + s B A x, and the second term is added where the person is.

A stream of one person has rows of its own in every layer. Rows of all people together, in the mode
COUPLE and with a shared negative, take the second term by the person's share of each cell, and on
the person's own text. Vectors that all tokens share, of the time for example, are each person's
where `vectors` can spread them over the tokens, and take it by area on other networks.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..lora_files import Change, add_changes, layer_changes
from ..module_hooks import hook_after, original, removed_at_the_end
from .streams import MERGED, NEGATIVE, Composition, Stream, StreamRows

SHARED = "shared"  # the owner of rows that belong to all people
Owner = int | str | None  # a person's number, SHARED, or None: no LoRA acts there
Changes = Mapping[str, tuple[Change, ...]]  # by the path of the layer in the network


def person_changes(
    model: Any, composition: Composition, prompt_reader: str = ""
) -> tuple[Changes, ...]:
    """Read what the LoRAs of each person change in a MODEL's network; nothing for strength 0.

    ValueError for a LoRA that is not for this network, and for one that changes the network's
    `prompt_reader`, which has read all prompts before the sampling.
    """
    changes = tuple(layer_changes(model, loras) for loras in composition.loras)
    for number, layers in enumerate(changes):
        if prompt_reader and any(path.startswith(prompt_reader) for path in layers):
            names = ", ".join(f"'{lora.name}'" for lora in composition.loras[number])
            raise ValueError(
                f"the LoRA of instance {number + 1} ({names}) changes '{prompt_reader}', the part "
                "of this model that reads all prompts before the sampling, so it can not be one "
                "person's. Load it for the model with Load LoRA, or take one without that part."
            )
    return changes


class PlacedChanges(NamedTuple):
    """The changes of all people on the device that samples."""

    by_layer: Mapping[str, Mapping[int, tuple[Change, ...]]]  # path -> person -> changes

    def __deepcopy__(self, memo: dict) -> "PlacedChanges":
        """Return the changes themselves: other packs copy the options, but not the network's
        layers.
        """
        return self


def place_changes(
    changes: Sequence[Changes], device: torch.device, dtype: torch.dtype
) -> PlacedChanges:
    """Bring the factors to the device once per sampling; the network's weights stay untouched."""
    by_layer: dict[str, dict[int, tuple[Change, ...]]] = {}
    for person, layers in enumerate(changes):
        for path, parts in layers.items():
            placed = tuple(part.to(device, dtype) for part in parts)
            by_layer.setdefault(path, {})[person] = placed
    return PlacedChanges(by_layer)


class Block(NamedTuple):
    """Consecutive rows with one owner."""

    owner: Owner
    rows: int


def row_blocks(rows: StreamRows, roles: Mapping[Any, str], uuids: Sequence[Any]) -> list[Block]:
    """Say whose the rows of some streams are; `roles` and `uuids` of their chunks."""
    owners = [stream_owner(stream, roles.get(uuids[stream.chunk])) for stream in rows.streams]
    return [Block(owner, rows.batch * len(list(same))) for owner, same in groupby(owners)]


def mixed_blocks(chunks: Sequence[Any], roles: Mapping[Any, str], batch: int) -> list[Block]:
    """Say whose the rows are behind the mixing of the streams; uuids of the rows' `chunks`."""
    owners = [None if roles.get(uuid) is None else SHARED for uuid in chunks]
    return [Block(owner, batch * len(list(same))) for owner, same in groupby(owners)]


def stream_owner(stream: Stream, role: str | None) -> Owner:
    """Return the person whose stream this is. The negative prompt of a person's stream takes that
    person's LoRAs as well, as it does when the host loads them into the model.
    """
    if role is None:
        return None
    if stream.text == MERGED:
        return SHARED
    if stream.text is not None:
        return stream.text
    if stream.hint not in (None, MERGED):
        return stream.hint
    return SHARED if role == NEGATIVE else None  # the scene carries nothing


class Part(NamedTuple):
    """A part of a layer's rows and tokens in which one person's LoRAs count."""

    person: int
    rows: slice
    tokens: Tensor | None = None  # their numbers; None: all of them, or cells
    weight: Tensor | None = None  # a factor for each; None: 1
    folded: int = 1  # rows of the layer for each row of the call

    def add(
        self, changes: Sequence[Change], x: Tensor, output: Tensor, base: Tensor | None
    ) -> None:
        """Add what a person's LoRAs give for the layer's input x to its output, in this part of
        them. base: the output without anybody's, where a LoRA depends on it.
        """
        x, output = self._of_rows(x), self._of_rows(output)
        base = None if base is None else self._of_rows(base)
        is_flat = self.weight is None or self.weight.dim() == x.dim()
        if self.tokens is None and is_flat:
            add_changes(output, x, changes, self.weight, base)
            return
        tokens = slice(None) if self.tokens is None else self.tokens
        x, flat = x.flatten(1, -2)[:, tokens], output.view(len(output), -1, output.shape[-1])
        base = None if base is None else base.flatten(1, -2)[:, tokens]
        flat[:, tokens] = add_changes(flat[:, tokens], x, changes, self.weight, base)

    def _of_rows(self, values: Tensor) -> Tensor:
        rows = values if self.folded == 1 else values.unflatten(0, (-1, self.folded))
        return rows[self.rows]


Where = Callable[[str, Any, Tensor], Iterable[Part]]  # path, layer and its output -> parts


@contextmanager
def acting(network: Any, changes: PlacedChanges, where: Where) -> Iterator[None]:
    """While it lasts, the people's LoRAs act in calls of `hooked_call`."""

    def adding(path: str, by_person: Mapping[int, tuple[Change, ...]]) -> Callable:
        reads_output = any(change.reads_output for each in by_person.values() for change in each)

        def add(layer, inputs, output):
            base = output.clone() if reads_output and len(by_person) > 1 else None
            for part in where(path, layer, output):
                if part.person in by_person:
                    part.add(by_person[part.person], inputs[0], output, base)

        return add

    network = original(network)
    hooks = [
        hook_after(network.get_submodule(path), adding(path, by_person))
        for path, by_person in changes.by_layer.items()
    ]
    with removed_at_the_end(hooks):
        yield
