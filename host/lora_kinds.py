"""What a LoRA file adds to the output of one layer, computed beside the layer: s B A x of
y = W x + s B A x.

The weight W is neither read nor changed, so it may be quantized, wrapped or patched by others. The
formulas are those of the host's merging, kind by kind; LyCORIS (Yeh et al. 2023, arXiv 2309.14859)
has the kinds, and DoRA is of Liu et al. 2024 (arXiv 2402.09353).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from .linear_layers import (
    along_channels,
    apply_as,
    channel_axis,
    layer_shape,
    pointwise,
    row_norms,
    weighted,
    zeros_output,
)

Span = tuple[int, int]  # (start, length)


def add_changes(
    output: Tensor,
    x: Tensor,
    changes: Sequence["Change"],
    weight: Tensor | None = None,
    base: Tensor | None = None,
) -> Tensor:
    """Add one person's changes of a layer to its output, in place, and return that.

    x, output: of the layer, or the same rows and tokens of both. weight: how much of it, broadcast
    to the output; None: all. base: the output before any person's changes, where a change
    `reads_output` and other people's have been added already.
    """
    if not any(change.reads_output for change in changes):
        for change in changes:
            change.add_to(output, x, weight)
        return output
    base = output.clone() if base is None else base
    changed = base.clone()
    for change in changes:
        change.add_to(changed, x)
    difference = changed - base
    output += difference if weight is None else difference * weight.to(difference)
    return output


@dataclass(frozen=True)
class Change(ABC):
    """What one LoRA adds to the output of one layer; call `to` before its first use.

    A linear layer has x and output [..., C], a convolution [rows, C, *size].
    """

    layer: nn.Module
    factors: tuple[Tensor, ...]
    scale: float  # the strength and the file's alpha
    span: Span | None = None  # of the output's channels, which it changes; None: all
    reorder: Callable[[Tensor], Tensor] | None = None  # the rows of what is added
    reads_output: ClassVar[bool] = False  # what it adds depends on the output

    @abstractmethod
    def _term(self, x: Tensor, part: Tensor, weight: Tensor | None) -> Tensor:
        """Compute what is added to `part`, the span of the output, times the weight."""

    @abstractmethod
    def multiply_adds(self, positions: int) -> int:
        """Count the multiply-adds for so many tokens or cells, rows times places."""

    def added(self, x: Tensor, output: Tensor) -> Tensor:
        """Compute what is added to the output for the input x: only the channels of `span`."""
        return self._in_order(self._term(x, self.part(output), None))

    def add_to(self, output: Tensor, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Add it, times a weight that broadcasts to the output, to the output in place."""
        part = self.part(output)
        part += self._in_order(self._term(x, part, weight))
        return output

    def part(self, output: Tensor) -> Tensor:
        """Return the channels of the output that it changes, a view."""
        return output if self.span is None else output.narrow(channel_axis(self.layer), *self.span)

    def to(self, device: torch.device, dtype: torch.dtype) -> "Change":
        """Return it with the factors on a device. Its layer is asked there for what some kinds need
        to know, so the model has to be loaded."""
        return replace(self, factors=tuple(f.to(device, dtype) for f in self.factors))

    def behind(self, before: Sequence["Change"]) -> "Change":
        """Return it as the next one of a layer that other changes of the same person change."""
        return self

    @property
    def bytes(self) -> int:
        """Count the memory of the factors."""
        return sum(f.numel() * f.element_size() for f in self.factors)

    @property
    def channels(self) -> slice:
        """Return the channels that it changes."""
        return slice(None) if self.span is None else slice(self.span[0], sum(self.span))

    @property
    def rows(self) -> int:
        """Count the channels that it changes."""
        return self.span[1] if self.span else layer_shape(self.layer)[0]

    def _in_order(self, term: Tensor) -> Tensor:
        if self.reorder is None:
            return term
        axis = channel_axis(self.layer)
        return self.reorder(term.movedim(axis, 0)).movedim(0, axis)


@dataclass(frozen=True)
class LowRank(Change):
    """LoRA and LoCon: factors (up, down), or (up, down, mid) of a convolution in three parts."""

    def add_to(self, output: Tensor, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Add it in place; on tokens without the memory for all that is added."""
        part = self.part(output)
        if part.dim() != 3 or channel_axis(self.layer) == 1 or self.reorder is not None:
            return super().add_to(output, x, weight)
        up = self.factors[0].to(part)
        part.baddbmm_(self._hidden(x, weight).to(part), up.T.expand(len(part), -1, -1))
        return output

    def _term(self, x: Tensor, part: Tensor, weight: Tensor | None) -> Tensor:
        return pointwise(self.layer, self._hidden(x, weight), self.factors[0].to(x))

    def _hidden(self, x: Tensor, weight: Tensor | None) -> Tensor:
        """Compute the values between the factors; scale and weight cost least there."""
        down, *mid = (f.to(x) for f in self.factors[1:])
        if mid:
            hidden = apply_as(self.layer, pointwise(self.layer, x, down), mid[0])
        else:
            hidden = apply_as(self.layer, x, down)
        return hidden * self.scale if weight is None else hidden * (self.scale * weight.to(x))

    def multiply_adds(self, positions: int) -> int:
        """Count the multiply-adds; those of a convolution's `down` before a mid at its output."""
        return positions * sum(f.numel() for f in self.factors)


@dataclass(frozen=True)
class _MatrixChange(Change):
    """Kinds whose matrix [rows, columns] is computed anew in every call."""

    @abstractmethod
    def matrix(self, like: Tensor) -> Tensor:
        """Compute the matrix in the dtype and on the device of `like`."""

    def _term(self, x: Tensor, part: Tensor, weight: Tensor | None) -> Tensor:
        return weighted(apply_as(self.layer, x, self.matrix(x)) * self.scale, weight)

    def multiply_adds(self, positions: int) -> int:
        """Count the multiply-adds of the matrix alone."""
        return positions * self.rows * layer_shape(self.layer)[1]


@dataclass(frozen=True)
class FullMatrix(_MatrixChange):
    """A difference of the entire weight: factors (difference,)."""

    def matrix(self, like: Tensor) -> Tensor:
        """Return the difference."""
        return self.factors[0].to(like)


@dataclass(frozen=True)
class Hadamard(_MatrixChange):
    """LoHa: factors (a, b, a', b'), or with two cores of a convolution (a, b, a', b', t, t')."""

    def matrix(self, like: Tensor) -> Tensor:
        """Compute (a b) * (a' b'), element by element."""
        a, b, a2, b2, *cores = (f.to(like) for f in self.factors)
        if not cores:
            return (a @ b) * (a2 @ b2)
        first, second = (
            torch.einsum("ij...,jr,ip->pr...", core, right, left)
            for core, right, left in ((cores[0], b, a), (cores[1], b2, a2))
        )
        return first * second

    def multiply_adds(self, positions: int) -> int:
        """Count the multiply-adds of the matrix and of computing it."""
        rank = self.factors[1].shape[0] + self.factors[3].shape[0]
        return super().multiply_adds(positions + rank)


@dataclass(frozen=True)
class Kronecker(Change):
    """LoKr: factors (w1 [a, b], w2 [c, d * kernel]) of the matrix kron(w1, w2)."""

    def _term(self, x: Tensor, part: Tensor, weight: Tensor | None) -> Tensor:
        w1, w2 = (f.to(x) for f in self.factors)
        groups, axis = w1.shape[1], channel_axis(self.layer)
        if axis == 1:
            hidden = apply_as(self.layer, x.unflatten(1, (groups, -1)).flatten(0, 1), w2)
            hidden = hidden.unflatten(0, (-1, groups))  # [rows, b, c, *size]
            term = torch.einsum("ab,nb...->na...", w1, hidden).flatten(1, 2)
        else:
            hidden = linear(x.unflatten(-1, (groups, -1)), w2)  # [..., b, c]
            term = (w1 @ hidden).flatten(-2)
        return weighted(term * self.scale, weight)

    def multiply_adds(self, positions: int) -> int:
        """Count the multiply-adds."""
        w1, w2 = self.factors
        return positions * (w1.shape[1] * w2.numel() + w1.numel() * w2.shape[0])


@dataclass(frozen=True)
class BiasDifference(Change):
    """A difference of the bias: factors (difference,)."""

    def _term(self, x: Tensor, part: Tensor, weight: Tensor | None) -> Tensor:
        return weighted(along_channels(self.layer, self.factors[0], part) * self.scale, weight)

    def multiply_adds(self, positions: int) -> int:
        """Count nothing: it only adds."""
        return 0


@dataclass(frozen=True)
class _OfTheOutput(Change):
    """Kinds that turn or scale W x, which is the output without the bias.

    measured: the output for zeros, and what the kind keeps beside it; `to` asks the layer.
    """

    before: tuple[Change, ...] = ()
    measured: tuple[Tensor, ...] = field(default=())
    reads_output: ClassVar[bool] = True

    def behind(self, before: Sequence[Change]) -> "Change":
        """Return it as one that sees these changes in the layer's output."""
        return replace(self, before=tuple(before))

    def _behind_others(self, output: Tensor, x: Tensor) -> None:
        """Add the changes before this one."""
        for earlier in self.before:
            earlier.to(x.device, x.dtype).add_to(output, x)


@dataclass(frozen=True)
class Orthogonal(_OfTheOutput):
    """OFT: factors (blocks [n, size, size],), which turn the output; the strength acts twice."""

    limit: float = 0.0  # of the norm of the blocks; 0: none

    def to(self, device: torch.device, dtype: torch.dtype) -> "Change":
        """Return it with R - 1 [n, size, size] of the Cayley transform."""
        blocks = self.factors[0].to(device, torch.float32)
        q, one = blocks - blocks.mT, torch.eye(blocks.shape[1], device=device)
        if self.limit > 0:
            q = q * (self.limit / (q.norm() + 1e-8)).clamp(max=1)
        turn = (one + q) @ (one - q).inverse() - one
        zeros = zeros_output(self.layer, self._behind_others, device, dtype)
        measured = (zeros[self.channels], turn.to(dtype))
        return replace(self, factors=(self.factors[0].to(device, dtype),), measured=measured)

    def _term(self, x: Tensor, part: Tensor, weight: Tensor | None) -> Tensor:
        zeros, turn = self.measured
        axis = channel_axis(self.layer)
        unbiased = (part - along_channels(self.layer, zeros, part)).movedim(axis, -1)
        blocks = unbiased.unflatten(-1, turn.shape[:2])
        turned = torch.einsum("knm,...kn->...km", turn.to(part), blocks)
        return weighted(turned.flatten(-2).movedim(-1, axis) * self.scale**2, weight)

    def multiply_adds(self, positions: int) -> int:
        """Count the multiply-adds."""
        return positions * self.factors[0].numel()


@dataclass(frozen=True, kw_only=True)
class Dora(_OfTheOutput):
    """DoRA: factors (the norm that each row of the weight is to have,), and the change that it
    scales along, at strength 1.
    """

    inner: Change

    def to(self, device: torch.device, dtype: torch.dtype) -> "Change":
        """Return it with the factor of each row, for which the layer's response is measured."""
        layer = (self.layer, self._behind_others, device, dtype)
        norms, zeros = row_norms(*layer)[self.channels], zeros_output(*layer)[self.channels]
        return replace(
            self,
            factors=(self.factors[0].to(device, dtype),),
            inner=self.inner.to(device, dtype),
            measured=(zeros, self.factors[0].to(device, torch.float32).flatten() / norms),
        )

    def _term(self, x: Tensor, part: Tensor, weight: Tensor | None) -> Tensor:
        zeros, ratio = (along_channels(self.layer, values, part) for values in self.measured)
        inner = self.inner._in_order(self.inner._term(x, part, None))
        scaled = (ratio - 1) * (part - zeros) + ratio * inner
        return weighted(scaled * self.scale, weight)

    def multiply_adds(self, positions: int) -> int:
        """Count the multiply-adds."""
        return self.inner.multiply_adds(positions) + 2 * positions * self.rows

    @property
    def bytes(self) -> int:
        """Count the memory of all factors."""
        return super().bytes + self.inner.bytes
