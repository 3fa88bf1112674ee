"""How Z-Image and Lumina 2 (the host's NextDiT) lay out their tokens: text, image, padding.

Z-Image pads text and image to a multiple of tokens. The image's position on the first axis is that
behind the text's last token.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ..module_hooks import hook_after, hook_before, removed_at_the_end
from .network_layouts import Transformer
from .text_masks import IMAGE, JOINT, TEXT


def _multiple(network: Any) -> int:
    return getattr(network, "pad_tokens_multiple", None) or 1


def _padded(network: Any, length: int) -> int:
    """Return a number of tokens with the padding behind them."""
    multiple = _multiple(network)
    return -(-length // multiple) * multiple


def _image_start(network: Any, tokens: int, _: int, cells: int) -> int:
    return tokens - _padded(network, cells)


@contextmanager
def _lay_texts(network: Any, lengths: Sequence[int], areas: Tensor) -> Iterator[list[int]]:
    """Pad every text by itself, and let each end right before the image.

    Each image, and its padding at position 0, lie as the text of the largest area wants it.
    """
    padded = [_padded(network, length) for length in lengths]
    total, starts = sum(padded), [0, *accumulate(padded)]
    largest = areas.argmax(0)  # of each row
    at = [(largest == text) * length for text, length in enumerate(padded)]
    image_positions = torch.stack(at).sum(0)
    calls: list[int] = []  # lengths of the positions that were asked for

    def pad(_, __, embedded):
        return _padded_texts(network, embedded, lengths)

    def move(_, inputs):
        rows = max(len(inputs[0]), len(image_positions))
        positions = inputs[0].expand(rows, -1, -1).clone()
        end = image_positions.to(positions)[:, None]
        if not calls:  # those of the text; older hosts: of text and image
            for length, start in zip(padded, starts, strict=False):
                positions[:, start : start + length, 0] = inputs[0][:, :length, 0] + end - length
        image = positions[:, 0 if calls else total :, 0]
        image.copy_(torch.where(image >= total, image - total + end, image))
        calls.append(positions.shape[1])
        return (positions, *inputs[1:])

    hooks = [
        hook_before(network.cap_embedder, lambda *_: calls.clear()),  # the network begins
        hook_before(network.rope_embedder, move),
    ]
    if _multiple(network) > 1:
        hooks.append(hook_after(network.cap_embedder, pad))
    with removed_at_the_end(hooks):
        yield padded


def _padded_texts(network: Any, embedded: Tensor, lengths: Sequence[int]) -> Tensor:
    """Put the network's padding tokens behind each text [rows, tokens, C]."""
    padding = network.cap_pad_token.to(embedded).expand(len(embedded), 1, -1)
    parts = []
    for text in embedded.split(list(lengths), 1):
        missing = _padded(network, text.shape[1]) - text.shape[1]
        parts += [text, padding.expand(-1, missing, -1)]
    return torch.cat(parts, 1)


NEXT_DIT = Transformer(
    "final_layer",
    {"layers.*": JOINT, "context_refiner.*": TEXT},
    image_start=_image_start,
    lay_texts=_lay_texts,
    padded=_padded,
    modulations={
        "noise_refiner.*.adaLN_modulation": IMAGE,
        "layers.*.adaLN_modulation": JOINT,
        "final_layer.adaLN_modulation": JOINT,
    },
)
