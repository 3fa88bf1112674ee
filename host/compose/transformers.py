"""Compose on transformers, whose attention reads the tokens of text and image together.

EXACT   every stream runs like a call of the plain network with that person's prompt; streams whose
        inputs have equal shapes share one call, a pass. Before the head, the streams' image tokens
        are mixed by the shares.
COUPLE  the people's texts lie behind one another in one context. A mask adds the logarithm of a
        person's share to what an image token attends to in their text, so texts divide its
        attention by their shares. No text sees another one, and the image sees itself.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ...models import compose
from ..module_hooks import hooked_call, removed_at_the_end
from ..sampling import with_options
from . import control as controls
from .calls import NetworkCall
from .heads import Head
from .neighbors import has_comparing_patches, numbers_kept
from .network_layouts import Transformer, as_they_are, image_tokens, modules_at, token_grid
from .passes import Pass, PassStream, StreamConds, joined_conds, stream_passes
from .person_loras import acting
from .references import LATENTS, ReferenceTokens, laid_references, reference_tokens
from .residuals import add_residuals, stream_residuals
from .streams import COUPLE, MERGED, NODE, Stream
from .text_masks import TextMasks, Texts
from .transformer_loras import (
    has_vectors_of_people,
    lora_places,
    token_places,
    vectors_of_people,
)

REFERENCE_CACHE = "KV_Attn_Input"  # the host's class of the patch of Flux KV Cache


def run(call: NetworkCall, transformer: Transformer) -> Tensor:
    """Run the streams of a call in passes; return the chunks' rows."""
    _check_nothing_compares(call)
    passes, stream_counts = stream_passes(call, transformer)
    _check_nothing_is_kept(call, passes)
    head = Head(call, transformer, stream_counts)
    denoised: dict[int, Tensor] = {}
    for number, one_pass in enumerate(passes, 1):
        with numbers_kept(call.options, call.x.device, is_last=number == len(passes)):
            rows = _run_pass(call, transformer, one_pass, head)
        for stream, part in zip(one_pass.streams, rows.split(call.batch), strict=True):
            denoised[stream.chunk] = part  # of a mixed chunk the last one holds the mixed image
    return torch.cat([denoised[chunk] for chunk in sorted(denoised)])


def _check_nothing_compares(call: NetworkCall) -> None:
    """Refuse patches that may compare the attention of positive and negative, which COUPLE runs in
    passes of their own: their texts are not equally long.
    """
    is_couple = call.plan.composition.mode == COUPLE
    if not is_couple or len(set(call.options["cond_or_uncond"])) == 1:
        return
    if has_comparing_patches(call.options, ("attn1_output_patch",)):
        raise ValueError(
            f"{NODE}: another node patches what attention gives (Normalized Attention Guidance or "
            "the like), for positive and negative together, but the mode couple runs these apart "
            "on this network. Set mode to exact, or remove that node."
        )


def _check_nothing_is_kept(call: NetworkCall, passes: Sequence[Pass]) -> None:
    """Refuse the host's cache of reference images beside several passes of people: it keeps what
    the first of them has read, and what is read depends on the text.
    """
    patches = call.options.get("patches", {}).get("attn1_patch", [])
    has_cache = any(type(patch).__name__ == REFERENCE_CACHE for patch in patches)
    if not has_cache:
        return
    if any(call.plan.people.references):
        raise ValueError(
            f"{NODE}: Flux KV Cache would give everybody the reference images of each person. "
            "Remove that node, or connect the images to the positive prompt."
        )
    with_people = [p for p in passes if any(stream.text is not None for stream in p.streams)]
    if call.conds.get(LATENTS) and len(with_people) > 1:
        raise ValueError(
            f"{NODE}: Flux KV Cache would give everybody the reference images as the first person "
            "has read them. Set mode to couple, or remove that node."
        )


def _run_pass(call: NetworkCall, transformer: Transformer, one_pass: Pass, head: Head) -> Tensor:
    """Call the network for the streams of a pass."""
    conds = joined_conds([member.conds for member in one_pass.members])
    control_conds = joined_conds([member.control_conds for member in one_pass.members])
    x, t = one_pass.rows(call.x), one_pass.rows(call.t)
    places = token_places(call, transformer, one_pass, head)
    with_vectors = has_vectors_of_people(call, transformer, one_pass)
    head.begin(lora_places(call, one_pass, head, places, with_vectors))
    options = controls.with_drawn_patches(
        call.composed_control, one_pass, x, _pass_options(call, one_pass)
    )
    control = _residuals(call, one_pass, controls.Rows(x, t, control_conds))
    with (
        hooked_call(call.network, options, NODE) as hooked_options,
        _joined_texts(call, transformer, one_pass, hooked_options) as attention_options,
        acting(call.network, call.plan.loras, head.where),  # before the head's results are mixed
        vectors_of_people(call, transformer, one_pass, places) if with_vectors else nullcontext(),
        head.mixing(one_pass, conds["c_crossattn"].shape[1]),
    ):
        c_concat, c_crossattn = conds.pop("c_concat", None), conds.pop("c_crossattn")
        return call.executor(x, t, c_concat, c_crossattn, control, attention_options, **conds)


def _pass_options(call: NetworkCall, one_pass: Pass) -> dict[str, Any]:
    """The transformer_options of a pass: what each of its rows is."""
    kinds, people = call.options["cond_or_uncond"], call.plan.people

    def uuid_of(stream: Stream) -> Any:
        if stream.text in (None, MERGED):
            return call.uuids[stream.chunk] if stream.text is None else None
        return people.uuids[stream.text]

    return with_options(
        call.options,
        cond_or_uncond=[kinds[stream.chunk] for stream in one_pass.streams],
        uuids=[uuid_of(stream) for stream in one_pass.streams],
    )


def _residuals(call: NetworkCall, one_pass: Pass, rows: controls.Rows) -> dict[str, list] | None:
    """The residuals of the streams' ControlNet and of the other controls in the chain."""
    residuals = stream_residuals(call.composed_control, one_pass, rows, call.options)
    added = {
        place: [r if r is None else one_pass.rows(r) for r in rs]
        for place, rs in (call.control or {}).items()
    }
    summed = add_residuals(residuals, added)
    return summed if any(summed.values()) else None


@contextmanager
def _joined_texts(
    call: NetworkCall, transformer: Transformer, one_pass: Pass, options: Mapping[str, Any]
) -> Iterator[Mapping[str, Any]]:
    """While it lasts, attention keeps the texts of all people apart by the options that it gives,
    in a pass that has them.
    """
    if call.plan.composition.mode != COUPLE or one_pass.streams[0].text != MERGED:
        yield options
        return
    network, grid = call.network, token_grid(call.network, transformer, call.x)
    shares = compose.resize_shares(call.shares, *grid).flatten(2).movedim(0, 1)  # [frames, S, N]
    if len(shares) > 1:
        shares = shares.repeat(len(one_pass.streams), 1, 1)  # [rows, S, N]
    lay_texts = transformer.lay_texts or as_they_are
    member = one_pass.members[0]
    images = _reference_tokens(call, transformer, member)
    text_length = member.conds["c_crossattn"].shape[1]
    with (
        laid_references(network, transformer.positions, images, text_length),
        lay_texts(network, member.text_lengths, shares.mean(-1).mT) as lengths,
    ):
        all_lengths = (*lengths, *member.second_lengths)
        image_lengths = images.lengths if images else ()
        order = transformer.order(network)
        masks = TextMasks(Texts(all_lengths, shares, order, image_lengths))
        hooks = list(
            chain.from_iterable(
                masks.watch(module, reads)
                for path, reads in transformer.attention.items()
                for module in modules_at(network, path)
            )
        )
        with removed_at_the_end(hooks):
            override = masks.override(options.get("optimized_attention_override"))
            yield with_options(options, optimized_attention_override=override)
            masks.check()


def _reference_tokens(
    call: NetworkCall, transformer: Transformer, member: PassStream
) -> ReferenceTokens | None:
    """Return the tokens of the people's own reference images; None where nobody has any."""
    if not any(call.plan.people.references):
        return None
    key = "reference tokens", call.uuids[member.stream.chunk]
    return call.plan.once(key, lambda: _placed_references(call, transformer, member))


def _placed_references(
    call: NetworkCall, transformer: Transformer, member: PassStream
) -> ReferenceTokens:
    """Ask the network where the tokens of the people's own reference images are."""
    people = call.plan.people.references
    conds, chunk = StreamConds(call), member.stream.chunk
    alone = [conds.member(Stream(chunk, number, None), 0).conds for number in range(len(people))]
    lengths = [image_tokens(call.network, transformer, references) for references in people]
    cells = math.prod(token_grid(call.network, transformer, call.x))
    return reference_tokens(call, transformer.positions, alone, lengths, cells)
