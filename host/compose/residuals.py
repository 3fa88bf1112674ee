"""The ControlNet's residuals for all streams of a call of the network."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...models import compose
from .control import ComposedControl, Residuals, Rows
from .streams import Layout, StreamRows

PLACES = ("input", "middle", "output")


def stream_residuals(
    control: ComposedControl, layout: StreamRows, rows: Rows, options: Mapping[str, Any]
) -> Residuals:
    """Return the ControlNet's residuals for the rows of all streams; zeros where a stream has no
    control.
    """
    hints = [stream.hint for stream in layout.streams if stream.hint is not None]
    if len(hints) == len(layout.streams):
        residuals = control.residuals(hints, layout.batch, rows, options) or {}
        return {place: list(residuals.get(place, [])) for place in PLACES}
    controlled = [k for k, stream in enumerate(layout.streams) if stream.hint is not None]
    slices = [slice(k * layout.batch, (k + 1) * layout.batch) for k in controlled]
    residuals = control.residuals(hints, layout.batch, rows.select(slices), options) or {}

    def to_all_rows(residual: Tensor | None) -> Tensor | None:
        if residual is None:
            return None
        padded = residual.new_zeros(len(rows.x), *residual.shape[1:])
        for its_rows, values in zip(slices, residual.split(layout.batch), strict=True):
            padded[its_rows] = values
        return padded

    return {place: [to_all_rows(r) for r in residuals.get(place, [])] for place in PLACES}


class SharedResiduals:
    """The residuals of a call whose streams go through the network in parts.

    Of the decoder's, all but the coarsest are those of all people, mixed by the shares: once for
    all streams. The others are each stream's own. So all parts are asked before the first one goes
    through the network, and what is kept of them grows little with their number.
    """

    def __init__(self, shares: Tensor, *, is_exact: bool):
        """shares: [S, frames, 1, h, w]. Where it is not exact, each stream has all of its own."""
        self.shares, self.is_exact = shares, is_exact
        self.parts: list[tuple[Layout, Residuals]] = []
        self.mixed: list[Tensor | None] = []  # rows of one group; None: each stream has its own

    def add(self, layout: Layout, residuals: Residuals) -> None:
        """Add the residuals of a part: its streams' rows."""
        deep = residuals["output"]
        is_shared = self.is_exact and bool(layout.groups)
        are_shared = [is_shared and each for each in compose.are_shared(deep)]
        mixed = [
            layout.mix_groups(layout.split(r)[1], self.shares) if shared else None
            for r, shared in zip(deep, are_shared, strict=True)
        ]
        for one, other in zip(mixed, self.mixed, strict=False):
            if one is not None and other is not None:
                one += other
        self.mixed = mixed
        singles = [
            layout.split(r)[0] if shared else r for r, shared in zip(deep, are_shared, strict=True)
        ]
        self.parts.append((layout, {**residuals, "output": singles}))

    def of_part(self, number: int) -> Residuals:
        """Return the residuals of a part's rows."""
        layout, residuals = self.parts[number]
        deep = [
            single if mixed is None else torch.cat((single, *[mixed] * len(layout.groups)))
            for single, mixed in zip(residuals["output"], self.mixed, strict=True)
        ]
        return {**residuals, "output": deep}


def add_residuals(residuals: Residuals, added: Mapping[str, Sequence]) -> Residuals:
    """Add the residuals of other controls in the chain; new lists in the same order."""
    summed = {}
    for place, first in residuals.items():
        second = list(added.get(place, []))
        sums = [
            a if b is None else b if a is None else a + b
            for a, b in zip(first, second, strict=False)
        ]
        summed[place] = sums + first[len(sums) :] + second[len(sums) :]
    return summed
