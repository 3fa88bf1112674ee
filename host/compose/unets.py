"""Compose on UNets: all streams are rows of one call of the network.

EXACT mixes them before the head, LAYERS after every block, COUPLE after every cross-attention.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..module_hooks import hook_after, hook_before, hooked_call, removed_at_the_end
from ..sampling import with_options, with_patch
from . import control as controls
from .calls import NetworkCall, chunk_texts, encoded_texts
from .lora_places import Places, UNetPlaces, parts_of_rows
from .neighbors import has_comparing_patches, numbers_kept, run_per_group
from .person_loras import Part, Where, acting, mixed_blocks, row_blocks
from .plan import Once
from .residuals import SharedResiduals, add_residuals, stream_residuals
from .streams import (
    COUPLE,
    EXACT,
    LAYERS,
    MERGED,
    NODE,
    PEOPLE,
    ChunkText,
    Layout,
    PeopleTexts,
    Stream,
    add_texts,
    areas,
    group_labels,
    lay_groups,
    stream_texts,
    stream_uuids,
    stream_vector,
    stream_vectors,
    streams_by_chunk,
)
from .vectors import unet_vectors, vector_blocks

VECTOR_LAYERS = re.compile(r"^(time_embed|label_emb)\.|\.emb_layers\.")
CROSS_ATTENTION = ("attn2_patch", "attn2_output_patch")


class StreamCall(NamedTuple):
    """One call of the network as streams: what mixing them inside the network needs."""

    mode: str
    layout: Layout
    shares: Tensor  # [S, frames, 1, h, w]
    people: PeopleTexts
    context: Tensor  # the streams' texts [rows, tokens, C]
    texts: Sequence[ChunkText]  # of each chunk
    uuids: Sequence[Any]  # of each chunk's conditioning entry
    is_people: Sequence[bool]  # of each chunk: it is the people's, not the negative or another
    has_scene: bool
    once: Once

    def uploaded(self, layout: Layout, rows_of: Callable[[Layout], Tensor]) -> Tensor:
        """Return numbers of rows where the latents are."""
        return _index(self.once, layout, rows_of, self.shares.device)


def _index(
    once: Once, layout: Layout, rows_of: Callable[[Layout], Tensor], device: torch.device
) -> Tensor:
    """Upload the numbers of a layout's rows, once per sampling."""
    return once((rows_of, layout, device), lambda: rows_of(layout).to(device))


def run(call: NetworkCall) -> Tensor:
    """Run each chunk's rows once per stream, with the stream's own text and control; return the
    chunks' rows. The streams of EXACT go through the network in parts that fit into the memory.
    """
    plan = call.plan
    by_chunk = streams_by_chunk(plan.composition, plan.roles, call.uuids)
    layout = lay_groups(by_chunk, call.batch, has_comparing_patches(call.options))
    is_exact = plan.composition.mode == EXACT
    layouts = layout.parts(plan.streams_at_once) if is_exact else [layout]
    parts = [_read_part(call, layout) for layout in layouts]
    residuals, head = _all_residuals(call, parts), HeadMix(call.shares)
    denoised: dict[int, Tensor] = {}
    for number, part in enumerate(parts):
        is_last = part is parts[-1]
        with numbers_kept(call.options, call.x.device, is_last=is_last):
            rows = _run_part(call, part, residuals.of_part(number), head)
        head.end_part()
        chunks = part.stream_call.layout.chunks
        denoised |= dict(zip(chunks, rows.split(call.batch), strict=True))  # mixed in the last part
    return torch.cat([denoised[chunk] for chunk in sorted(denoised)])


class PartInputs(NamedTuple):
    """What the network and the ControlNet read for some streams."""

    stream_call: StreamCall
    rows: controls.Rows
    c_concat: Tensor | None
    conds: Mapping[str, Any]


def _read_part(call: NetworkCall, layout: Layout) -> PartInputs:
    plan, uuids, texts = call.plan, call.uuids, chunk_texts(call)
    rows = _index(plan.once, layout, Layout.chunk_rows, call.x.device)
    conds = {name: _per_stream(call, rows, value) for name, value in call.conds.items()}
    c_concat = conds.pop("c_concat", None)
    conds.pop("c_crossattn")
    if isinstance(conds.get("y"), Tensor):
        vectors = plan.people.vectors
        conds["y"] = stream_vectors(layout, vectors, call.conds["y"], areas(call.shares))
    stream_call = StreamCall(
        plan.composition.mode,
        layout,
        call.shares,
        plan.people,
        stream_texts(layout, plan.people.contexts, texts),
        texts,
        uuids,
        [plan.roles.get(uuid) == PEOPLE for uuid in uuids],
        plan.composition.has_scene,
        plan.once,
    )
    clean = stream_texts(layout, plan.people.contexts, encoded_texts(call, texts))
    stream_rows = controls.Rows(call.x[rows], call.t[rows], {**conds, "c_crossattn": clean})
    return PartInputs(stream_call, stream_rows, c_concat, conds)


def _per_stream(call: NetworkCall, rows: Tensor, value: Any) -> Any:
    """Return what belongs to the chunks' rows for those of the streams, anything else as it is."""
    per_row = isinstance(value, Tensor) and value.dim() and len(value) == len(call.x)
    return value[rows] if per_row else value


def _run_part(
    call: NetworkCall, part: PartInputs, residuals: controls.Residuals, head: "HeadMix"
) -> Tensor:
    """Call the network for some streams; return the rows of their chunks."""
    stream_call = part.stream_call
    rows = stream_call.uploaded(stream_call.layout, Layout.chunk_rows)
    added = {
        place: [_per_stream(call, rows, r) for r in rs]
        for place, rs in (call.control or {}).items()
    }
    with (
        hooked_call(call.network, _stream_options(stream_call, call.options), NODE) as options,
        _mixing(call.network, stream_call, head),
        acting(call.network, call.plan.loras, _where(call, stream_call)),
        _vectors(call, stream_call),
    ):
        mixed = call.executor(
            part.rows.x,
            part.rows.t,
            part.c_concat,
            stream_call.context,
            add_residuals(residuals, added),
            options,
            **part.conds,
        )
    return stream_call.layout.first_streams(mixed)


def _stream_options(call: StreamCall, options: Mapping[str, Any]) -> dict[str, Any]:
    """The transformer_options of the streams: what each row is, and the patches."""
    layout, kinds = call.layout, options["cond_or_uncond"]
    if layout.grouped:
        options = run_per_group(options, group_labels(layout, call.people, call.uuids, kinds))
    options = _add_patches(call, options)
    return with_options(
        options,
        cond_or_uncond=[kinds[stream.chunk] for stream in layout.streams],
        uuids=stream_uuids(layout, call.people, call.uuids),
    )


def _all_residuals(call: NetworkCall, parts: Sequence[PartInputs]) -> SharedResiduals:
    """The residuals of the streams' ControlNet."""
    residuals = SharedResiduals(call.shares, is_exact=call.plan.composition.mode == EXACT)
    for part in parts:
        layout = part.stream_call.layout
        of_part = stream_residuals(call.composed_control, layout, part.rows, call.options)
        residuals.add(layout, of_part)
    return residuals


def _where(call: NetworkCall, stream_call: StreamCall) -> Where:
    """Return where in a layer the LoRAs of each person count."""
    plan, roles = call.plan, call.plan.roles
    people = len(plan.composition.people)
    places = UNetPlaces(Places(call.shares, people, plan.once), plan.size)
    outer = row_blocks(stream_call.layout, roles, call.uuids)
    chunks = [call.uuids[chunk] for chunk in stream_call.layout.chunks]
    inner, head = outer, mixed_blocks(chunks, roles, call.batch)
    if stream_call.mode == COUPLE:
        inner = row_blocks(_attention_layout(stream_call, call.options), roles, call.uuids)
    vectors = vector_blocks(outer, len(call.shares), people)
    has_vectors = _has_vectors_of_people(call)

    def where(path: str, layer: Any, output: Tensor) -> Iterable[Part]:
        blocks = head if path.startswith("out.") else inner if ".attn2." in path else outer
        if has_vectors and output.dim() == 2:
            blocks = vectors
        return parts_of_rows(blocks, output, lambda: places.parts(path, layer, output))

    return where


def _has_vectors_of_people(call: NetworkCall) -> bool:
    """Say whether people who share rows differ in what all cells read: in their pooled texts, or in
    LoRAs of the layers that read these or the time.
    """
    is_couple = call.plan.composition.mode == COUPLE
    return is_couple and (
        "y" in call.conds or any(map(VECTOR_LAYERS.search, call.plan.loras.by_layer))
    )


def _vectors(call: NetworkCall, stream_call: StreamCall) -> AbstractContextManager:
    """Give every person of COUPLE a vector of their own where they differ."""
    if not _has_vectors_of_people(call):
        return nullcontext()
    layout, vectors, chunk_vectors = stream_call.layout, None, call.conds.get("y")
    if chunk_vectors is not None:
        people = call.plan.people.vectors
        texts = [*range(len(people)), *[None] * stream_call.has_scene]
        rows = [
            stream_vector(
                stream._replace(text=text if stream.text == MERGED else None),
                people,
                chunk_vectors[stream.chunk * call.batch :][: call.batch],
                areas(call.shares),
            )
            for text in texts
            for stream in layout.streams
        ]
        vectors = torch.cat(rows)
    return unet_vectors(call.network, vectors, call.shares)


class HeadMix:
    """The mix of a call's streams before the head, part after part."""

    def __init__(self, shares: Tensor):
        self.shares = shares
        self._earlier: Tensor | None = None  # of the groups of all earlier parts
        self._mixed: Tensor | None = None  # with those of the running part

    def add(self, layout: Layout, rows: Tensor) -> Tensor:
        """Mix the rows of a part into those before; return the rows of its chunks. Another node
        may let the network run twice: then the last time counts.
        """
        mixed = layout.mix_groups(layout.split(rows)[1], self.shares)
        self._mixed = mixed if self._earlier is None else self._earlier + mixed
        return layout.with_mixed(rows, self._mixed)

    def end_part(self) -> None:
        """Keep the mix so far for the next part."""
        self._earlier = self._mixed


@contextmanager
def _mixing(unet: Any, call: StreamCall, head: HeadMix) -> Iterator[None]:
    """While it lasts, the head reads the chunks' mixed features and its result goes to all streams;
    in the mode LAYERS the middle block's result is mixed as well, before control is added to it.
    """
    layout, shares = call.layout, call.shares
    rows = call.uploaded(layout, Layout.mixed_rows)

    def mix(_, inputs):
        return (head.add(layout, inputs[0]),)

    def to_all_streams(_, __, output):
        return output[rows]

    def mix_for_all_streams(_, __, output):
        return layout.mix(output, shares)[rows]

    hooks = [
        hook_before(unet.out, mix),
        hook_after(unet.out, to_all_streams),
    ]
    if call.mode == LAYERS and unet.middle_block is not None:
        last = unet.middle_block[-1]  # the host calls the layers, never the block
        hooks.append(hook_after(last, mix_for_all_streams))
    with removed_at_the_end(hooks):
        yield


def _add_patches(call: StreamCall, options: Mapping[str, Any]) -> dict[str, Any]:
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
    rows = call.uploaded(layout, Layout.mixed_rows)

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
    inner = _attention_layout(call, options)
    rows = call.uploaded(inner, Layout.chunk_rows)
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


def _attention_layout(call: StreamCall, options: Mapping[str, Any]) -> Layout:
    """Lay out the rows of COUPLE's cross-attention: the people's chunks once per text."""
    people: list[int | None] = [*range(len(call.people.contexts))] + [None] * call.has_scene
    streams = [
        [Stream(chunk, text, None) for text in (people if is_people else [None])]
        for chunk, is_people in enumerate(call.is_people)
    ]
    equal_counts = has_comparing_patches(options, CROSS_ATTENTION)
    return lay_groups(streams, call.layout.batch, equal_counts)
