"""How networks are led to read the texts of several people, one behind the other, as if each text
were alone: with token positions of its own, and refined by itself.

Each function returns a `lay_texts` of `transformers.Transformer`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from ..module_hooks import hook_after, hook_before, removed_at_the_end
from .streams import CHANGED, NODE

RUNNING_TEXT: ContextVar[int | None] = ContextVar("vitruvian_text", default=None)
LayTexts = Callable[[Any, Sequence[int], Tensor], AbstractContextManager]


def counted(
    embedder: str, *, before_image: Sequence[int] = (), image_first: bool = False
) -> LayTexts:
    """Let every text count its tokens by itself.

    embedder: the path of the module that turns positions [rows, tokens, axes] into rotations. Texts
    begin at the first position; on the axes `before_image` they end at the last one instead, where
    the image begins behind the text. image_first: their positions lie behind those of the image.
    """

    def restart(positions: Tensor, lengths: Sequence[int]) -> Tensor:
        total = sum(lengths)
        if positions.shape[1] < total:
            raise RuntimeError(f"{NODE}: the network has fewer positions than the texts. {CHANGED}")
        start = positions.shape[1] - total if image_first else 0
        texts = positions[:, start : start + total]
        restarted = []
        for length in lengths:
            text = texts[:, :length].clone()
            for axis in before_image:
                text[..., axis] = texts[:, total - length :, axis]
            restarted.append(text)
        return torch.cat((positions[:, :start], *restarted, positions[:, start + total :]), 1)

    @contextmanager
    def lay_texts(network: Any, lengths: Sequence[int], _: Tensor) -> Iterator[Sequence[int]]:
        def before(_, inputs):
            return restart(inputs[0], lengths), *inputs[1:]

        with removed_at_the_end([hook_before(network.get_submodule(embedder), before)]):
            yield lengths

    return lay_texts


def rotated_by_blocks(blocks: str, argument: int) -> LayTexts:
    """Let every text count its tokens by itself, where no module makes rotations of positions.

    blocks: the path of a list of modules whose inputs are as many rotations [1, tokens, ...] at
    this place, those of the texts first.
    """

    @contextmanager
    def lay_texts(network: Any, lengths: Sequence[int], _: Tensor) -> Iterator[Sequence[int]]:
        def before(_, inputs):
            rotations = inputs[argument]
            texts = [rotations[:, :length] for length in lengths]
            restarted = torch.cat((*texts, rotations[:, sum(lengths) :]), 1)
            return *inputs[:argument], restarted, *inputs[argument + 1 :]

        modules = network.get_submodule(blocks)
        with removed_at_the_end([hook_before(module, before) for module in modules]):
            yield lengths

    return lay_texts


def refined_alone(refiner: str) -> LayTexts:
    """Let a module that refines the text read every text by itself.

    refiner: its path; its inputs are the text [rows, tokens, C], the time, and None or what is
    added to attention [rows, tokens]. Its modulation depends on the mean of all tokens, so a mask
    is not enough.
    """

    @contextmanager
    def lay_texts(network: Any, lengths: Sequence[int], _: Tensor) -> Iterator[Sequence[int]]:
        all_inputs: list[tuple] = []

        def first_text(_, inputs):
            text, time, mask = inputs
            masks = [None] * len(lengths) if mask is None else mask.split(list(lengths), 1)
            parts = zip(text.split(list(lengths), 1), masks, strict=True)
            all_inputs[:] = [(part, time, part_mask) for part, part_mask in parts]
            RUNNING_TEXT.set(0)
            return all_inputs[0]

        def further_texts(module, _, named, refined):
            all_texts = [refined]
            for number, inputs in enumerate(all_inputs[1:], 1):
                RUNNING_TEXT.set(number)
                # not as a call: these hooks would run again
                all_texts.append(module.forward(*inputs, **named))
            RUNNING_TEXT.set(None)
            return torch.cat(all_texts, 1)

        module = network.get_submodule(refiner)
        hooks = (
            hook_before(module, first_text),
            hook_after(module, further_texts, with_kwargs=True),
        )
        outside = RUNNING_TEXT.set(None)
        try:
            with removed_at_the_end(hooks):
                yield lengths
        finally:
            RUNNING_TEXT.reset(outside)

    return lay_texts
