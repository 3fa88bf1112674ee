"""The attention masks that keep the texts of several people apart in one call of a transformer."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..module_hooks import hook_after, hook_before
from .streams import NODE

JOINT, TEXT, CROSS = "joint", "text", "cross"  # what the attention of a module reads
TEXTS, IMAGE, REST = "texts", "image", "rest"  # parts of the tokens that joint attention reads
TEXTS_FIRST, IMAGE_FIRST = (TEXTS, IMAGE, REST), (IMAGE, REST, TEXTS)


def joined_masks(masks: Sequence[Tensor | None], lengths: Sequence[int]) -> Tensor:
    """Join the masks that came with the texts of several people, of so many tokens each.

    They say what counts of a text [rows, tokens], 0 and 1 or what is added to attention, or what
    is added to joint attention [rows, queries, keys] of text and image. None: nothing is hidden.
    """
    first = next(mask for mask in masks if mask is not None)
    if first.dim() == 3:
        return _joined_joint_masks(masks, lengths, first)
    no_mask = torch.zeros if first.is_floating_point() else torch.ones
    parts = [
        no_mask(len(first), length).to(first) if mask is None else mask.to(first)
        for mask, length in zip(masks, lengths, strict=True)
    ]
    return torch.cat(parts, 1)


def _joined_joint_masks(
    masks: Sequence[Tensor | None], lengths: Sequence[int], first: Tensor
) -> Tensor:
    """Join masks of joint attention: of Redux images with a strength, which leave the attention of
    the image to itself alone.
    """
    place = next(number for number, mask in enumerate(masks) if mask is not None)
    total, cells = sum(lengths), first.shape[-1] - lengths[place]
    joined = first.new_zeros(len(first), total + cells, total + cells)
    start = 0
    for mask, length in zip(masks, lengths, strict=True):
        text, start = slice(start, start + length), start + length
        if mask is not None:
            joined[:, text, text] = mask[:, :length, :length]
            joined[:, text, total:] = mask[:, :length, length:]
            joined[:, total:, text] = mask[:, length:, :length]
    return joined


class Texts(NamedTuple):
    """The texts of one call, one behind the other, and the image."""

    lengths: tuple[int, ...]  # tokens of each text; of second texts, person by person again
    shares: Tensor  # of the texts in each token of the image [frames or 1, texts, tokens]
    order: tuple[str, ...] = TEXTS_FIRST  # the rest is padding, reference images and registers
    images: tuple[int, ...] = ()  # tokens of each person's own images, the last ones of the rest

    @property
    def length(self) -> int:
        """Tokens of all texts."""
        return sum(self.lengths)

    def owners(self, device: torch.device) -> Tensor:
        """Return the text of each text token [length]."""
        people = self.shares.shape[1]
        return torch.cat(
            [
                torch.full((length,), number % people, device=device)
                for number, length in enumerate(self.lengths)
            ]
        )

    def image_owners(self, device: torch.device) -> Tensor:
        """Return the person of each token of the people's own images."""
        return torch.cat(
            [
                torch.full((length,), number, device=device)
                for number, length in enumerate(self.images)
            ]
        )


class TextMasks:
    """Masks of one call of the network, made once for each kind of attention."""

    def __init__(self, texts: Texts):
        self.texts = texts
        self._reads: str | None = None  # what the attention of the running module reads
        self._has_read_texts = False
        self._masks: dict[tuple, Tensor] = {}

    def watch(self, module: torch.nn.Module, reads: str) -> list[Any]:
        """Note while a module runs what its attention reads; return the hooks to remove.

        The lengths alone do not tell: a text may have as many tokens as the image.
        """

        def begin(*_):
            self._reads = reads
            self._has_read_texts = True

        def end(*_):
            self._reads = None

        return [hook_before(module, begin), hook_after(module, end)]

    def check(self) -> None:
        """Raise ValueError where the network's blocks ran and nobody asked for a mask."""
        if self._has_read_texts and not self._masks:
            raise ValueError(
                f"{NODE}: another node puts an attention of its own in the place of the network's, "
                "so the mode couple can not keep the prompts apart. Set mode to exact, or remove "
                "that node."
            )

    def override(self, before: Callable | None) -> Callable:
        """Return an `optimized_attention_override` that adds the masks, around the one `before`."""

        def masked(function: Callable, q: Tensor, k: Tensor, v: Tensor, heads: int, *args, **kw):
            mask, positional = (args[0], args[1:]) if args else (kw.pop("mask", None), ())
            kw["mask"] = self._add(mask, q, k.shape[-2])
            if positional:
                names = "attn_precision", "skip_reshape"
                kw = dict(zip(names, positional, strict=False)) | kw
            attend = function if before is None else _around(before, function)
            return attend(q, k, v, heads, **kw)

        return masked

    def _add(self, mask: Tensor | None, q: Tensor, keys: int) -> Tensor | None:
        added = self._mask(q.shape[-2], keys, q)
        if added is None or mask is None:
            return added if mask is None else mask
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(~mask, _lowest(q))
        while mask.dim() < 4:  # [queries, keys], [rows, queries, keys]
            mask = mask.unsqueeze(0 if mask.dim() == 2 else 1)
        return (mask + added).clamp(min=_lowest(q))

    def _mask(self, queries: int, keys: int, q: Tensor) -> Tensor | None:
        """The additive mask [frames or 1, 1, queries, keys] of the running attention."""
        reads, texts = self._reads, self.texts
        cells = texts.shares.shape[-1]
        if reads is None or (reads == JOINT and keys == cells):  # attention of the image alone
            return None
        if reads == CROSS and keys != texts.length:  # an image is read beside the texts
            return None
        key = reads, queries, keys, q.dtype, q.device
        if key not in self._masks:
            make = {JOINT: _joint_mask, TEXT: _text_mask, CROSS: _cross_mask}[reads]
            self._masks[key] = make(texts, (queries, keys), q)[:, None]
        return self._masks[key]


def _around(before: Callable, function: Callable) -> Callable:
    def attend(*args, **kwargs):
        return before(function, *args, **kwargs)

    return attend


def _lowest(q: Tensor) -> float:
    """What is added to hide a key. Not minus infinity: kernels that attend chunk by chunk make NaN
    of a chunk in which all is hidden.
    """
    return torch.finfo(q.dtype).min


def _text_mask(texts: Texts, _: tuple[int, int], q: Tensor) -> Tensor:
    """No text sees another: [1, length, length]."""
    owners = texts.owners(q.device)
    return _apart(owners, owners, q)


def _apart(queries: Tensor, keys: Tensor, q: Tensor) -> Tensor:
    """Hide the keys of other people: owners -> [1, queries, keys]."""
    apart = queries[:, None] != keys
    return torch.zeros_like(apart, dtype=q.dtype).masked_fill_(apart, _lowest(q))[None]


def _cross_mask(texts: Texts, size: tuple[int, int], q: Tensor) -> Tensor:
    """How image tokens see the texts: [frames or 1, queries, length].

    The rest of the tokens, behind those of the image here, sees them by their areas.
    """
    return _by_shares(texts, size[0], texts.owners(q.device), q)


def _by_shares(texts: Texts, queries: int, owners: Tensor, q: Tensor) -> Tensor:
    """How image tokens, and by the areas the rest behind them, see the keys of these owners:
    [frames or 1, queries, keys].
    """
    shares = texts.shares.to(q.device)
    behind = queries - shares.shape[-1]
    all_tokens = torch.cat((shares, shares.mean(-1, keepdim=True).expand(-1, -1, behind)), -1)
    logs = all_tokens.log().to(q.dtype).clamp(min=_lowest(q))
    return logs.mT[..., owners]


def _joint_mask(texts: Texts, size: tuple[int, int], q: Tensor) -> Tensor:
    """How all tokens see each other: [frames or 1, queries, keys]. Texts see all of the image, and
    everything sees the keys that a cache adds behind those of the queries.
    """
    (queries, keys), cells, text_length = size, texts.shares.shape[-1], texts.length
    rows = {TEXTS: _text_mask(texts, size, q).expand(len(texts.shares), -1, -1)}
    image_size = queries - text_length, text_length
    rows[IMAGE], rows[REST] = _cross_mask(texts, image_size, q).tensor_split([cells], 1)
    to_texts = torch.cat([rows[part] for part in texts.order], 1)
    mask = q.new_zeros(len(texts.shares), queries, keys)
    start = sum(rows[part].shape[1] for part in texts.order[: texts.order.index(TEXTS)])
    mask[..., start : start + text_length] = to_texts
    if sum(texts.images):
        _keep_images_apart(mask, texts, queries, q)
    return mask


def _keep_images_apart(mask: Tensor, texts: Texts, queries: int, q: Tensor) -> None:
    """Write into a joint mask who sees the people's own images: each image and its person's text
    and cells see each other, by the shares, and all that is everybody's sees it by the areas.
    """
    text_length, cells = texts.length, texts.shares.shape[-1]
    of_texts, owners = texts.owners(q.device), texts.image_owners(q.device)
    lengths = {TEXTS: text_length, IMAGE: cells, REST: queries - text_length - cells}
    starts, start = {}, 0
    for part in texts.order:
        starts[part] = start
        start += lengths[part]
    shared = lengths[REST] - len(owners)
    first = starts[REST] + shared
    images = slice(first, first + len(owners))
    text, image = (slice(starts[part], starts[part] + lengths[part]) for part in (TEXTS, IMAGE))
    to_images = _by_shares(texts, cells + shared, owners, q)
    mask[:, image, images] = to_images[:, :cells]
    mask[:, images, image] = to_images[:, :cells].mT
    mask[:, starts[REST] : first, images] = to_images[:, cells:]
    mask[:, text, images] = _apart(of_texts, owners, q)
    mask[:, images, text] = _apart(owners, of_texts, q)
    mask[:, images, images] = _apart(owners, owners, q)
