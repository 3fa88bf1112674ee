"""Make a change of a layer out of what the host reads from a LoRA file."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..models.compose import PersonLora
from .linear_layers import is_linear, layer_shape
from .lora_kinds import (
    BiasDifference,
    Change,
    Dora,
    FullMatrix,
    Hadamard,
    Kronecker,
    LowRank,
    Orthogonal,
    Span,
)

INSTEAD = "Load it for the entire model with Load LoRA, or use a LoRA of another kind."
NOT_SUMS = {  # by the host's name: what it is
    "glora": "GLoRA, which multiplies the layer's weight",
    "boft": "BOFT, which turns the layer's weight again and again",
    "set": "a weight that takes the place of the layer's",
    "model_as_lora": "a model, which is compared with this one",
}


class Target(NamedTuple):
    """Say which part of which layer something in a file is for."""

    layer: nn.Module
    path: str
    parameter: str  # of the layer, "weight" or "bias"
    span: Span | None  # of the weight's rows
    reorder: Callable[[Tensor], Tensor] | None  # of the weight's rows

    @property
    def rows(self) -> int:
        """Count the rows of the weight that it is for."""
        return self.span[1] if self.span else layer_shape(self.layer)[0]


def read_change(target: Target, patch: Any, lora: PersonLora) -> Change | None:
    """Make the change of one layer; None where it has another size than the layer.

    patch: what the host's load_lora gives for it. ValueError where it is not a sum.
    """
    kind = patch[0] if isinstance(patch, tuple) else patch.name
    if kind in NOT_SUMS:
        _refuse(target, lora, NOT_SUMS[kind])
    if not is_linear(target.layer):
        _refuse(target, lora, f"a difference of a {type(target.layer).__name__}")
    if kind not in READERS or target.parameter not in ("weight", "bias"):
        _refuse(target, lora, f"the kind '{kind}' of the parameter '{target.parameter}'")
    return READERS[kind](target, patch, lora)


def _refuse(target: Target, lora: PersonLora, kind: str) -> None:
    raise ValueError(
        f"the LoRA '{lora.name}' has {kind} for the layer '{target.path}', but one person alone "
        f"can only have what is added to a layer's output. {INSTEAD}"
    )


def _difference(target: Target, patch: Any, lora: PersonLora) -> Change | None:
    """Read a difference of an entire weight or bias."""
    difference = patch[1][0]
    if target.parameter == "bias":
        fits = difference.numel() == layer_shape(target.layer)[0]
    else:
        fits = _fits(target, len(difference), difference[0].numel())
    kind = BiasDifference if target.parameter == "bias" else FullMatrix
    return _change(kind, target, (difference,), lora.strength) if fits else None


def _low_rank(target: Target, patch: Any, lora: PersonLora) -> Change | None:
    up, down, alpha, mid, dora_scale, new_shape = (*patch.weights, None)[:6]
    if new_shape is not None:
        _refuse(target, lora, "a new shape of the weight")
    kernel = 1 if mid is None else mid.shape[2:].numel()
    if not _fits(target, len(up), down[0].numel() * kernel):
        return None
    kind: type[Change] = LowRank
    factors = (up.flatten(1), down.flatten(1), *(() if mid is None else (mid.flatten(1),)))
    if getattr(target.layer, "groups", 1) > 1:  # both factors mix all channels
        kind, factors = FullMatrix, (up.flatten(1) @ down.flatten(1),)
    return _perhaps_dora(kind, target, factors, _scale(alpha, len(down)), dora_scale, lora)


def _hadamard(target: Target, patch: Any, lora: PersonLora) -> Change | None:
    a, b, alpha, a2, b2, core, core2, dora_scale = patch.weights
    if core is None:
        rows, columns = a.shape[0], b.shape[1]
    else:
        rows, columns = a.shape[1], b.shape[1] * core.shape[2:].numel()
    factors = (a, b, a2, b2) if core is None else (a, b, a2, b2, core, core2)
    if not _fits(target, rows, columns):
        return None
    return _perhaps_dora(Hadamard, target, factors, _scale(alpha, len(b)), dora_scale, lora)


def _kronecker(target: Target, patch: Any, lora: PersonLora) -> Change | None:
    w1, w2, alpha, w1_a, w1_b, w2_a, w2_b, core, dora_scale = patch.weights
    rank = None
    if w1 is None:
        w1, rank = w1_a @ w1_b, len(w1_b)
    if w2 is None:
        rank = len(w2_b)
        w2 = w2_a @ w2_b if core is None else torch.einsum("ij...,jr,ip->pr...", core, w2_b, w2_a)
    if not _fits(target, w1.shape[0] * w2.shape[0], w1.shape[1] * w2[0].numel()):
        return None
    scale = 1.0 if rank is None else _scale(alpha, rank)
    return _perhaps_dora(Kronecker, target, (w1, w2.flatten(1)), scale, dora_scale, lora)


def _orthogonal(target: Target, patch: Any, lora: PersonLora) -> Change | None:
    blocks, _, alpha, dora_scale = patch.weights  # the host's merging leaves a rescale out, too
    if dora_scale is not None:
        _refuse(target, lora, "OFT with DoRA")
    if blocks.shape[0] * blocks.shape[1] != target.rows:
        return None
    limit = 0.0 if alpha is None else alpha
    return _change(Orthogonal, target, (blocks,), lora.strength, limit=limit)


READERS = {
    "diff": _difference,
    "lora": _low_rank,
    "loha": _hadamard,
    "lokr": _kronecker,
    "oft": _orthogonal,
}


def _scale(alpha: float | None, rank: int) -> float:
    return 1.0 if alpha is None else alpha / rank


def _fits(target: Target, rows: int, columns: int) -> bool:
    """Compare a size with that of the weight, or of the span that it is for."""
    all_rows, all_columns = layer_shape(target.layer)
    return (rows, columns) == (target.rows, all_columns) and sum(target.span or ()) <= all_rows


def _change(
    kind: type[Change], target: Target, factors: tuple[Tensor, ...], scale: float, **more: Any
) -> Change:
    return kind(target.layer, factors, scale, target.span, target.reorder, **more)


def _perhaps_dora(
    kind: type[Change],
    target: Target,
    factors: tuple[Tensor, ...],
    scale: float,
    dora_scale: Tensor | None,
    lora: PersonLora,
) -> Change:
    if dora_scale is None:
        return _change(kind, target, factors, scale * lora.strength)
    if dora_scale.shape[0] != target.rows:
        _refuse(target, lora, "DoRA along the input")
    if getattr(target.layer, "groups", 1) > 1:
        _refuse(target, lora, "DoRA of channels in groups")
    inner = _change(kind, target, factors, scale)
    return Dora(target.layer, (dora_scale,), lora.strength, target.span, inner=inner)
