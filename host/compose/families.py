"""What differs between network families when people are composed: where streams are mixed inside
the network. One row of FAMILIES per family.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

from torch import Tensor

from ..sampling import UNET, Family, known_family, with_patch
from .neighbors import has_comparing_patches, run_per_group
from .streams import (
    COUPLE,
    LAYERS,
    NODE,
    ChunkText,
    Stream,
    StreamCall,
    add_texts,
    group_labels,
    lay_groups,
    stream_texts,
    stream_uuids,
)

CROSS_ATTENTION = ("attn2_patch", "attn2_output_patch")


class ComposeFamily(NamedTuple):
    """One family of networks that can compose."""

    family: Family
    # network, call -> a context in which the network mixes the streams at its head
    mixing: Callable[[Any, StreamCall], AbstractContextManager]
    # call, transformer_options -> new ones with the mode's own patches of blocks
    add_patches: Callable[[StreamCall, Mapping[str, Any]], dict[str, Any]]


@contextmanager
def _unet_mixing(unet: Any, call: StreamCall) -> Iterator[None]:
    """While it lasts, the head reads the chunks' mixed features and its result goes to all streams;
    in the mode LAYERS the middle block's result is mixed as well, before control is added to it.

    These are module hooks: of the host's object patches there is one slot for all packs.
    """
    layout, shares = call.layout, call.shares
    rows = layout.chunk_rows().to(shares.device)  # once per call, not per block

    def mix(_, inputs):
        return (layout.mix(inputs[0], shares),)

    def to_all_streams(_, __, output):
        return output[rows]

    def mix_for_all_streams(_, __, output):
        return layout.mix(output, shares)[rows]

    hooks = [
        unet.out.register_forward_pre_hook(mix),
        unet.out.register_forward_hook(to_all_streams),
    ]
    if call.mode == LAYERS and unet.middle_block is not None:
        last = unet.middle_block[-1]  # the host calls the layers, never the block
        hooks.append(last.register_forward_hook(mix_for_all_streams))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _unet_patches(call: StreamCall, options: Mapping[str, Any]) -> dict[str, Any]:
    """LAYERS mixes the features after every block, COUPLE the results of cross-attention; EXACT
    needs no patch.
    """
    if call.mode == LAYERS:
        return _mix_every_block(call, options)
    if call.mode == COUPLE:
        return _couple(call, options)
    return dict(options)


def _mix_every_block(call: StreamCall, options: Mapping[str, Any]) -> dict[str, Any]:
    layout, shares = call.layout, call.shares
    rows = layout.chunk_rows().to(shares.device)

    def mix_input(h, _):
        return layout.mix(h, shares)[rows]

    def mix_output(h, skip, extra):  # h is of the block before; the middle's is mixed already
        return h if extra["block"][1] == 0 else layout.mix(h, shares)[rows], skip

    options = with_patch(options, "input_block_patch", mix_input)
    return with_patch(options, "output_block_patch", mix_output, first=True)


def _couple(call: StreamCall, options: Mapping[str, Any]) -> dict[str, Any]:
    """Attend to every person's text, each only inside their share of the image: the rows of the
    people's chunks are multiplied before cross-attention and mixed after it. Other packs' patches
    of cross-attention run in between, per person.
    """
    people: list[int | None] = [*range(len(call.people.contexts))] + [None] * call.scene
    inner = lay_groups(
        [
            [Stream(chunk, text, None) for text in (people if is_people else [None])]
            for chunk, is_people in enumerate(call.is_people)
        ],
        call.layout.batch,
        has_comparing_patches(options, CROSS_ATTENTION),
    )
    rows = inner.chunk_rows().to(call.shares.device)
    outer_kinds = options["cond_or_uncond"]
    outer = {"cond_or_uncond": outer_kinds, "uuids": call.uuids}
    multiplied = {
        "cond_or_uncond": [outer_kinds[stream.chunk] for stream in inner.streams],
        "uuids": stream_uuids(inner, call.people, call.uuids),
    }

    @lru_cache(maxsize=2)  # every block gets the same tensor, unless another patch changes it
    def texts_of_streams(context: Tensor) -> Tensor:
        """The streams' texts, with what wrappers of other packs added to the call's."""
        count = len(call.texts)
        changes = (context - call.context.to(context)).chunk(count)
        texts = []
        for text, chunk, change in zip(context.chunk(count), call.texts, changes, strict=True):
            if chunk.change is None:
                texts.append(ChunkText(text))
            else:  # the call had the people's mean in the place of the chunk's own text
                scene = add_texts(chunk.text.to(text), change)
                texts.append(ChunkText(scene, add_texts(chunk.change.to(text), change)))
        return stream_texts(inner, call.people.contexts, texts)

    # `extra` is the block's own copy of the options: writing there tells the patches in between
    # how many chunks they see.
    def multiply(n, keys, values, extra):
        shape = extra["activations_shape"]
        extra.update(multiplied, activations_shape=[len(rows), *shape[1:]])
        return n[rows], texts_of_streams(keys), texts_of_streams(values)

    def mix(n, extra):
        shape = extra["activations_shape"]
        extra.update(outer, activations_shape=[call.layout.batch * len(outer_kinds), *shape[1:]])
        return inner.mix_tokens(n, call.shares, *shape[-2:])

    if inner.grouped:
        labels = group_labels(inner, call.people, call.uuids, outer_kinds)
        options = run_per_group(options, labels, CROSS_ATTENTION)
    options = with_patch(options, "attn2_patch", multiply, first=True)
    return with_patch(options, "attn2_output_patch", mix)


FAMILIES = (ComposeFamily(UNET, _unet_mixing, _unet_patches),)


def compose_family(model: Any) -> ComposeFamily:
    """Return the row of a MODEL's network; ValueError for a network without one."""
    family = known_family(model, NODE, [row.family for row in FAMILIES])
    return next(row for row in FAMILIES if row.family is family)
