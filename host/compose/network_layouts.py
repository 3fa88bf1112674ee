"""How a family of transformers lays out the tokens of texts and image, and where its parts are."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .references import LATENTS
from .text_masks import TEXTS_FIRST


class Transformer(NamedTuple):
    """Say how one family's network lays out its tokens. Modules are named by their paths, with `*`
    for all children.
    """

    head: str  # the last of these modules; its first input holds the image tokens
    attention: Mapping[str, str]  # modules -> what their attention reads; none: no mode COUPLE
    patch: str | int = "patch_size"  # cells per token, or the network's attribute that tells it
    # network, tokens of the head's input, tokens of the text, cells -> the first image token
    image_start: Callable[[Any, int, int, int], int] = lambda *_: 0
    # network, lengths of the texts, their areas [S, rows or 1] -> a context in which each text lies
    # as if it were alone; it gives the lengths that the texts have in the network
    lay_texts: Callable[[Any, Sequence[int], Tensor], AbstractContextManager] | None = None
    # network -> the parts of the tokens that joint attention reads
    order: Callable[[Any], tuple[str, ...]] = lambda _: TEXTS_FIRST
    # network, a number of tokens of a text or of the image -> with the padding behind them
    padded: Callable[[Any, int], int] = lambda _, length: length
    # network -> tokens that it puts before the texts
    registers: Callable[[Any], int] = lambda _: 0
    # layers that turn what all tokens share into a modulation -> the tokens that read it
    modulations: Mapping[str, str] = {}
    gathers_rows: bool = False  # layers read tokens of all rows in one row (mixture of experts)
    # the module that reads the positions of texts, image and reference images, in this order; none:
    # in the mode COUPLE nobody can have images of their own
    positions: str = ""


def token_grid(network: Any, transformer: Transformer, x: Tensor) -> tuple[int, int]:
    """Return height and width of the image in tokens."""
    patch = transformer.patch
    patch = getattr(network, patch) if isinstance(patch, str) else patch
    patch = patch[-1] if isinstance(patch, (list, tuple)) else patch
    return -(-x.shape[-2] // patch), -(-x.shape[-1] // patch)


def image_tokens(network: Any, transformer: Transformer, conds: Mapping[str, Any]) -> int:
    """Count the tokens of the reference images in conds."""
    grids = [token_grid(network, transformer, latent) for latent in conds.get(LATENTS, ())]
    return sum(map(math.prod, grids))


def modules_at(network: Any, path: str, *, optional: bool = False) -> list[torch.nn.Module]:
    """Return the modules of a path such as `blocks.*.cross_attn`; `*` stands for every child.
    optional: children without the rest of the path are left out.
    """
    modules = [network]
    for name in path.split("."):
        modules = [
            child
            for module in modules
            if name == "*" or not optional or getattr(module, name, None) is not None
            for child in (module.children() if name == "*" else [getattr(module, name)])
        ]
    return modules


@contextmanager
def as_they_are(_: Any, lengths: Sequence[int], __: Tensor) -> Iterator[Sequence[int]]:
    """Leave the texts as they lie: their tokens have no positions."""
    yield lengths
