"""One call of the network by the host, as the families compose it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from .control import ComposedControl
from .plan import Plan
from .streams import PEOPLE, ChunkText, text_change


class NetworkCall(NamedTuple):
    """What the host asks of the network, and the plan of the sampling."""

    executor: Callable
    network: Any
    plan: Plan
    x: Tensor  # noisy latents of all chunks [rows, C, h, w] or [rows, C, 1, h, w]
    t: Tensor  # noise levels [rows]
    conds: Mapping[str, Any]  # c_concat, c_crossattn and the model's own; those with rows have all
    control: Mapping[str, list] | None  # residuals of other controls in the chain
    options: Mapping[str, Any]  # the host's transformer_options
    shares: Tensor  # [S, frames, 1, h, w]

    @property
    def uuids(self) -> Sequence[Any]:
        """The conditioning entry of each chunk."""
        return self.options["uuids"]

    @property
    def batch(self) -> int:
        """The rows of one chunk."""
        return len(self.x) // len(self.uuids)

    @property
    def composed_control(self) -> ComposedControl:
        """The composition's control: that of the first chunk which is composed."""
        return next(self.plan.controls[uuid] for uuid in self.uuids if uuid in self.plan.controls)


def chunk_texts(call: NetworkCall) -> list[ChunkText]:
    """Return the text of each chunk, with what other packs added to those of the people."""
    plan, texts = call.plan, call.conds["c_crossattn"].chunk(len(call.uuids))
    return [
        ChunkText(text, text_change(text, plan.encoded[u]) if plan.roles.get(u) == PEOPLE else None)
        for u, text in zip(call.uuids, texts, strict=True)
    ]


def encoded_texts(call: NetworkCall, texts: Sequence[ChunkText]) -> list[ChunkText]:
    """Return the texts as they were encoded, which the host gives to ControlNets."""
    encoded = call.plan.encoded
    return [
        ChunkText(encoded[uuid].to(chunk.text) if uuid in encoded else chunk.text)
        for uuid, chunk in zip(call.uuids, texts, strict=True)
    ]
