"""Compose on transformers, whose attention reads the tokens of text and image together.

EXACT   every stream runs like a call of the plain network with that person's prompt; streams whose
        inputs have equal shapes share one call, a pass. Before the head, the streams' image tokens
        are mixed by the shares.
COUPLE  the people's texts lie behind one another in one context. A mask adds the logarithm of a
        person's share to what an image token attends to in their text, so texts divide its
        attention by their shares. No text sees another one, and the image sees itself.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import chain
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...models import compose
from ..module_hooks import hook_after, hook_before, hooked_call
from ..sampling import with_options
from . import control as controls
from .calls import NetworkCall, chunk_texts, encoded_texts
from .lora_places import (
    Places,
    TextTokens,
    TokenLayout,
    TransformerPlaces,
    is_vectors,
    parts_of_rows,
)
from .neighbors import has_comparing_patches, has_foreign_patches
from .person_loras import SHARED, Block, Part, Where, acting, mixed_blocks, row_blocks
from .references import (
    AT_TIME_ZERO,
    LATENTS,
    METHOD,
    ReferenceTokens,
    joined_references,
    laid_references,
    reference_tokens,
)
from .streams import (
    COUPLE,
    MERGED,
    NODE,
    TEXT_CONDS,
    ChunkText,
    Stream,
    areas,
    lay_groups,
    stream_vector,
    streams_by_chunk,
)
from .text_masks import TEXTS_FIRST, TextMasks, Texts, joined_masks
from .vectors import token_vectors, vector_blocks

LAST = -1  # of the passes so far
REFERENCE_CACHE = "KV_Attn_Input"  # the host's class of the patch of Flux KV Cache
# other texts of a person -> how often joint attention reads their tokens, behind all first texts
SECOND_TEXTS = {"encoder_hidden_states_llama3": 2, "txt_byt5": 1}


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
    modulations: Mapping[str, str] = MappingProxyType({})
    gathers_rows: bool = False  # layers read tokens of all rows in one row (mixture of experts)
    # the module that reads the positions of texts, image and reference images, in this order; none:
    # in the mode COUPLE nobody can have images of their own
    positions: str = ""


class PassStream(NamedTuple):
    """One stream with what the network reads for it."""

    stream: Stream
    number: int  # among the streams of its chunk, as the shares count them
    conds: Mapping[str, Any]
    control_conds: Mapping[str, Any]  # what its ControlNet reads: texts as the host encoded them
    text_lengths: Sequence[int]  # tokens of each of its texts: several if it is all people's
    second_lengths: Sequence[int]  # of their other texts, as joint attention reads them
    vectors: Sequence[
        Tensor
    ]  # pooled text of each person and of the scene, if the network reads it


class Pass(NamedTuple):
    """The streams of one call of the network, `batch` rows each."""

    members: tuple[PassStream, ...]
    batch: int

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The streams in the order of their rows."""
        return tuple(member.stream for member in self.members)

    def rows(self, chunk_rows: Tensor) -> Tensor:
        """Take the rows of the streams out of those of all chunks."""
        return torch.cat([_chunk(chunk_rows, s.chunk, self.batch) for s in self.streams])


def run(call: NetworkCall, transformer: Transformer) -> Tensor:
    """Run the streams of a call in passes; return the chunks' rows."""
    _check_nothing_compares(call)
    passes, stream_counts = _passes(call, transformer)
    _check_nothing_is_kept(call, passes)
    head = _Head(call, transformer, stream_counts)
    denoised: dict[int, Tensor] = {}
    for number, one_pass in enumerate(passes, 1):
        with _numbers_kept(call, one_pass, is_last=number == len(passes)):
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


def _passes(call: NetworkCall, transformer: Transformer) -> tuple[list[Pass], list[int]]:
    """Divide the streams of a call into passes; also the number of streams of each chunk."""
    plan = call.plan
    by_chunk = streams_by_chunk(plan.composition, plan.roles, call.uuids)
    foreign = has_foreign_patches(call.options)
    if foreign:  # they may compare the chunks of a call: every person gets all chunks, alone
        layout = lay_groups(by_chunk, call.batch, equal_counts=True)
        by_chunk = [[s for s in layout.streams if s.chunk == c] for c in range(len(by_chunk))]
    conds = _Conds(call)
    members = [
        conds.member(stream, number)
        for streams in by_chunk
        for number, stream in enumerate(streams)
    ]
    members.sort(key=lambda member: member.number)  # person by person, as the host orders chunks
    alone = foreign or (transformer.gathers_rows and bool(plan.loras.by_layer))
    groups: dict[Any, list[PassStream]] = {}
    for member in members:
        stream = member.stream
        kind = stream.text == MERGED, stream.hint is None
        # Flux.2 can not read images as free of noise in several rows
        by_itself = alone or member.conds.get(METHOD) == AT_TIME_ZERO
        key = member.number if by_itself else None, kind, _shapes(member)
        groups.setdefault(key, []).append(member)
    return [Pass(tuple(group), call.batch) for group in groups.values()], [*map(len, by_chunk)]


def _shapes(member: PassStream) -> tuple:
    """What must be equal in all streams of a pass."""
    return tuple(sorted((name, _shape(value)) for name, value in member.conds.items()))


def _shape(value: Any) -> str:
    if isinstance(value, Tensor):
        return str(tuple(value.shape[1:]))
    if isinstance(value, (list, tuple)):
        return str([_shape(each) for each in value])
    return repr(value)


class _Conds:
    """The conds of the streams of one call."""

    def __init__(self, call: NetworkCall):
        self.call, self.people, self.batch = call, call.plan.people, call.batch
        self.texts = chunk_texts(call)
        self.encoded = encoded_texts(call, self.texts)
        self.areas = areas(call.shares)

    def member(self, stream: Stream, number: int) -> PassStream:
        """Return a stream with all that the network reads for it."""
        texts = self._texts(stream)
        lengths = [text.shape[1] for text in texts]
        conds = self._of(stream, texts)
        second_lengths = self._second_lengths(stream, conds)
        control_conds = self._for_control(stream, conds)
        vectors = self._vectors(stream, conds)
        return PassStream(stream, number, conds, control_conds, lengths, second_lengths, vectors)

    def _of(self, stream: Stream, texts: Sequence[Tensor]) -> dict[str, Any]:
        """Return the conds of a stream's rows. Of a person come the text and further reference
        images; all else, guidance for example, is the chunk's.
        """
        chunk = self._of_chunk(stream.chunk, self.texts[stream.chunk])
        if stream.text is None:
            return chunk
        conds = {name: value for name, value in chunk.items() if name not in TEXT_CONDS}
        conds["c_crossattn"] = torch.cat([text.expand(self.batch, -1, -1) for text in texts], 1)
        if isinstance(conds.get("y"), Tensor):
            conds["y"] = stream_vector(stream, self.people.vectors, conds["y"], self.areas)
        everybody = self.people.references
        own = everybody if stream.text == MERGED else everybody[stream.text : stream.text + 1]
        conds |= joined_references(conds, own, self.batch)
        if stream.text != MERGED:
            return conds | self._person(stream.text)
        return conds | self._merged(stream, [text.shape[1] for text in texts])

    def _vectors(self, stream: Stream, conds: Mapping[str, Any]) -> list[Tensor]:
        """Return the pooled text of each person, and of the scene, where they share a stream."""
        if not isinstance(conds.get("y"), Tensor):
            return []
        if stream.text != MERGED:
            return [conds["y"]] * len(self.areas)
        chunk, people = _chunk(self.call.conds["y"], stream.chunk, self.batch), self.people.vectors
        streams = [stream._replace(text=person) for person in range(len(people))]
        streams += [stream._replace(text=None)] * (len(self.areas) - len(people))
        return [stream_vector(each, people, chunk, self.areas) for each in streams]

    def _for_control(self, stream: Stream, conds: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a stream's ControlNet reads: of all people together, the positive prompt."""
        clean = self.encoded[stream.chunk]
        if stream.text in (None, MERGED):
            return self._of_chunk(stream.chunk, clean)
        text = self.people.contexts[stream.text].to(clean.text)
        return {**conds, "c_crossattn": text.expand(self.batch, -1, -1)}

    def _second_lengths(self, stream: Stream, conds: Mapping[str, Any]) -> list[int]:
        """Count the tokens of the other texts of a stream, as joint attention reads them: of all
        people, or of the one text that it has. 0 for a person without one.
        """
        lengths = []
        everybody = self._everybody(stream.chunk) if stream.text == MERGED else [conds]
        for name, times in SECOND_TEXTS.items():
            texts = [each.get(name) for each in everybody]
            lengths += times * [0 if text is None else text.shape[-2] for text in texts]
        return lengths

    def _of_chunk(self, chunk: int, text: ChunkText) -> dict[str, Any]:
        def rows(value: Any) -> Any:
            if isinstance(value, list):
                return [rows(each) for each in value]
            per_row = isinstance(value, Tensor) and value.dim() and len(value) == len(self.call.x)
            return _chunk(value, chunk, self.batch) if per_row else value

        conds = {name: rows(value) for name, value in self.call.conds.items() if value is not None}
        return conds | {"c_crossattn": text.text}

    def _texts(self, stream: Stream) -> list[Tensor]:
        """The chunk's text, or that of a person, or of everybody and of the scene behind them."""
        chunk = self.texts[stream.chunk]
        if stream.text is None:
            return [chunk.text]
        contexts = [_changed(c.to(chunk.text), chunk.change) for c in self.people.contexts]
        if stream.text != MERGED:
            return [contexts[stream.text]]
        return [*contexts, chunk.text] if len(self.areas) > len(contexts) else contexts

    def _person(self, person: int) -> dict[str, Any]:
        def rows(value: Any) -> Any:
            if isinstance(value, Tensor) and value.dim():
                return value.expand(self.batch, *value.shape[1:])
            return value

        return {name: rows(value) for name, value in self.people.conds[person].items()}

    def _everybody(self, chunk: int) -> list[dict[str, Any]]:
        """What belongs to the text of each person, and of the scene behind them."""
        everybody = [self._person(person) for person in range(len(self.people.conds))]
        if len(self.areas) > len(everybody):
            conds = self._of_chunk(chunk, self.texts[chunk])
            everybody.append({name: value for name, value in conds.items() if name in TEXT_CONDS})
        return everybody

    def _merged(self, stream: Stream, lengths: Sequence[int]) -> dict[str, Any]:
        """What belongs to all texts together, of so many tokens each."""
        everybody = self._everybody(stream.chunk)
        merged: dict[str, Any] = {}
        masks = [conds.get("attention_mask") for conds in everybody]
        if any(mask is not None for mask in masks):
            merged["attention_mask"] = joined_masks(masks, lengths)
        for name in SECOND_TEXTS:
            if texts := [conds[name] for conds in everybody if name in conds]:
                merged[name] = torch.cat([text.to(texts[0]) for text in texts], -2)
        if any("num_tokens" in conds for conds in everybody):
            merged["num_tokens"] = sum(lengths)
        if all("clip_text_pooled" in conds for conds in everybody):
            merged["clip_text_pooled"] = sum(
                area[:, None].to(conds["clip_text_pooled"]) * conds["clip_text_pooled"]
                for area, conds in zip(self.areas, everybody, strict=True)
            )
        return merged


def _changed(text: Tensor, change: Tensor | None) -> Tensor:
    """Add to a person's text what other packs added to the chunk's, as far as both reach."""
    if change is None:
        return text
    length = min(text.shape[1], change.shape[1])
    unchanged = text[:, length:].expand(len(change), -1, -1)
    return torch.cat((text[:, :length] + change[:, :length], unchanged), 1)


def _chunk(value: Tensor, chunk: int, batch: int) -> Tensor:
    return value[chunk * batch :][:batch]


def _run_pass(call: NetworkCall, transformer: Transformer, one_pass: Pass, head: "_Head") -> Tensor:
    """Call the network for the streams of a pass."""
    conds = _joined([member.conds for member in one_pass.members])
    control_conds = _joined([member.control_conds for member in one_pass.members])
    x, t = one_pass.rows(call.x), one_pass.rows(call.t)
    places = _places(call, transformer, one_pass, head)
    with_vectors = _has_vectors_of_people(call, transformer, one_pass)
    head.begin(_where(call, one_pass, head, places, with_vectors))
    options = controls.with_drawn_patches(
        call.composed_control, one_pass, x, _pass_options(call, one_pass)
    )
    control = _residuals(call, one_pass, controls.Rows(x, t, control_conds))
    with (
        hooked_call(call.network, options, NODE) as hooked_options,
        _joined_texts(call, transformer, one_pass, hooked_options) as attention_options,
        acting(call.network, call.plan.loras, head.where),  # before the head's results are mixed
        _vectors(call, transformer, one_pass, places) if with_vectors else nullcontext(),
        head.mixing(one_pass, conds["c_crossattn"].shape[1]),
    ):
        c_concat, c_crossattn = conds.pop("c_concat", None), conds.pop("c_crossattn")
        return call.executor(x, t, c_concat, c_crossattn, control, attention_options, **conds)


def _places(
    call: NetworkCall, transformer: Transformer, one_pass: Pass, head: "_Head"
) -> TransformerPlaces:
    """Say where the people are in the tokens of a pass."""
    plan = call.plan
    return TransformerPlaces(
        Places(call.shares, len(plan.composition.people), plan.loras.once),
        _token_layout(call, transformer, one_pass.members[0], head.grid),
    )


def _where(
    call: NetworkCall,
    one_pass: Pass,
    head: "_Head",
    places: TransformerPlaces,
    with_vectors: bool,
) -> Where:
    """Return where in a layer the LoRAs of each person count, in one pass. with_vectors: people who
    share rows have vectors of their own.
    """
    roles, streams = call.plan.roles, len(call.shares)
    unmixed = row_blocks(one_pass, roles, call.uuids)
    mixed = mixed_blocks([call.uuids[s.chunk] for s in one_pass.streams], roles, call.batch)
    vectors = vector_blocks(unmixed, streams, places.places.people)

    def where(path: str, layer: Any, output: Tensor) -> Iterable[Part]:
        blocks = mixed if head.is_behind else unmixed
        if with_vectors and is_vectors(output) and len(output) == _count(vectors):
            blocks = vectors
        folded = places.folded(path, len(output) // _count(blocks))
        rows = output if folded == 1 else output.unflatten(0, (-1, folded))
        for part in parts_of_rows(blocks, rows, lambda: places.parts(path, layer, rows)):
            yield part._replace(folded=folded)

    return where


def _count(blocks: Sequence[Block]) -> int:
    return sum(block.rows for block in blocks)


def _has_vectors_of_people(call: NetworkCall, transformer: Transformer, one_pass: Pass) -> bool:
    """Say whether people who share rows differ in what all tokens read: in their pooled texts, or
    in their LoRAs. Where reference images or a second pooled text have vectors too, all share one.
    """
    is_couple = call.plan.composition.mode == COUPLE and bool(transformer.modulations)
    member = one_pass.members[0]
    if not is_couple or {"ref_latents", "clip_text_pooled"} & {*member.conds}:
        return False
    blocks = row_blocks(one_pass, call.plan.roles, call.uuids)
    has_pooled = member.stream.text == MERGED and bool(member.vectors)
    return (has_pooled or bool(call.plan.loras.by_layer)) and all(b.owner == SHARED for b in blocks)


def _vectors(
    call: NetworkCall, transformer: Transformer, one_pass: Pass, places: TransformerPlaces
) -> AbstractContextManager:
    """Give every person a vector of their own for what all tokens read."""
    modulations = [
        (module, places.weights(reads))
        for path, reads in transformer.modulations.items()
        for module in modules_at(call.network, path, optional=True)
    ]
    everybodys = zip(*(member.vectors for member in one_pass.members), strict=True)
    pooled = [torch.cat(of_person) for of_person in everybodys]
    return token_vectors(
        call.network, modulations, len(call.shares), torch.cat(pooled) if pooled else None
    )


def _token_layout(
    call: NetworkCall, transformer: Transformer, member: PassStream, grid: tuple[int, int]
) -> TokenLayout:
    """Say how the rows of all people lay out their tokens, in the pass of a member."""
    merged = member.stream.text == MERGED
    owners: Sequence[int | None] = range(len(call.shares)) if merged else [None]

    def tokens(lengths: Sequence[int]) -> tuple[TextTokens, ...]:
        everybodys = not merged
        return tuple(
            TextTokens(length, owners[number % len(member.text_lengths)], everybodys)
            for number, length in enumerate(lengths)
        )

    count = len(member.text_lengths)
    second_lengths = [
        member.second_lengths[start : start + count]
        for start in range(0, len(member.second_lengths), count)
    ]

    def images() -> Iterator[TextTokens]:
        of_people = call.plan.people.references if merged else ()
        lengths = [_image_tokens(call, transformer, each) for each in of_people]
        everybodys = _image_tokens(call, transformer, member.conds) - sum(lengths)
        yield TextTokens(everybodys, None, is_everybodys=True)
        for person, length in enumerate(lengths):
            yield TextTokens(length, person)

    return TokenLayout(
        tokens(member.text_lengths),
        tuple(tokens(lengths) for lengths in second_lengths),
        partial(transformer.padded, call.network),
        transformer.order(call.network),
        grid,
        tuple(images()),
        transformer.registers(call.network),
    )


def _joined(conds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Join the conds of a pass's streams: rows behind rows."""

    def join(values: Sequence[Any]) -> Any:
        if isinstance(values[0], Tensor) and values[0].dim():
            return torch.cat(list(values))
        if isinstance(values[0], list):
            return [join(each) for each in zip(*values, strict=True)]
        return values[0]

    return {name: join([each[name] for each in conds]) for name in conds[0]}


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
    residuals = controls.stream_residuals(call.composed_control, one_pass, rows, call.options)
    added = {
        place: [r if r is None else one_pass.rows(r) for r in rs]
        for place, rs in (call.control or {}).items()
    }
    summed = controls.add_residuals(residuals, added)
    return summed if any(summed.values()) else None


@contextmanager
def _numbers_kept(call: NetworkCall, one_pass: Pass, is_last: bool) -> Iterator[None]:
    """Let other packs' patches that draw random numbers draw the same ones in every pass, and as
    many in all as in an ordinary call.
    """
    if is_last or not has_foreign_patches(call.options):
        yield
        return
    with torch.random.fork_rng([call.x.device] if call.x.is_cuda else []):
        yield


class HeadInput(NamedTuple):
    """What the head reads or gives in one pass."""

    members: tuple[PassStream, ...]
    image: slice  # where the image's tokens are
    tokens: Tensor  # [rows, tokens, C] or [rows, frames, height, width, C]

    def image_tokens(self, batch: int) -> list[tuple[PassStream, Tensor]]:
        """Return the image's tokens of each stream [batch, height * width, C]."""
        image = self.tokens.flatten(1, -2)[:, self.image]
        return list(zip(self.members, image.split(batch), strict=True))

    def with_image(self, images: Mapping[int, Tensor], batch: int) -> Tensor:
        """Return the tokens with those of the image replaced, in the streams of some chunks."""
        replaced = self.tokens.flatten(1, -2).clone()
        for member, rows in zip(self.members, replaced.split(batch), strict=True):
            if member.stream.chunk in images:
                rows[:, self.image] = images[member.stream.chunk]
        return replaced.view_as(self.tokens)


class _Head:
    """The mixing of a call's streams at the head, pass after pass.

    The head modulates by pooled text, which every person has of their own. So each person's head
    reads the mixed tokens, and the results are mixed again.
    """

    def __init__(self, call: NetworkCall, transformer: Transformer, stream_counts: Sequence[int]):
        self.call, self.transformer = call, transformer
        self.stream_counts = stream_counts  # of each chunk
        self.grid = token_grid(call.network, transformer, call.x)
        self.module = modules_at(call.network, transformer.head)[-1]
        self.inputs: list[HeadInput] = []  # of the passes so far
        self.further_inputs: list[tuple[tuple, dict[str, Any]]] = []  # the head's other inputs
        self.wheres: list[Where] = []  # of the passes so far
        self.running = LAST  # the pass whose head runs
        self.is_behind = False  # what runs now reads mixed features

    def begin(self, where: Where) -> None:
        """Begin a pass; `where` in a layer the LoRAs of each person count in it."""
        self.current, self.is_behind = where, False

    def where(self, path: str, layer: Any, output: Tensor) -> Iterable[Part]:
        """Return where in a layer the LoRAs of each person count, in the running pass."""
        where = self.current if self.running == LAST else self.wheres[self.running]
        return where(path, layer, output)

    @contextmanager
    def mixing(self, one_pass: Pass, text_length: int) -> Iterator[None]:
        """While it lasts, the head reads mixed tokens for the chunks whose streams are complete."""
        if all(self.stream_counts[stream.chunk] == 1 for stream in one_pass.streams):
            yield
            return
        complete: dict[int, Tensor] = {}  # chunk -> its mixed tokens

        def before(_, inputs, named):
            if self.running != LAST:
                return None
            image = self._image(inputs[0], text_length)
            self.inputs.append(HeadInput(one_pass.members, image, inputs[0]))
            self.further_inputs.append((inputs[1:], named))
            self.wheres.append(self.current)
            chunks = {s.chunk for s in one_pass.streams if self._is_complete(s.chunk)}
            complete.update(self._mix(self.inputs, chunks))
            return (self.inputs[-1].with_image(complete, self.call.batch), *inputs[1:]), named

        def after(_, __, output):
            if self.running != LAST:
                return None
            mixed = self._mix_outputs(output, complete)
            self.is_behind = True
            return mixed

        hooks = [
            hook_before(self.module, before, with_kwargs=True),
            hook_after(self.module, after),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _image(self, tokens: Tensor, text_length: int) -> slice:
        """Where the image's tokens are."""
        cells, length = self.grid[0] * self.grid[1], tokens.flatten(1, -2).shape[1]
        start = self.transformer.image_start(self.call.network, length, text_length, cells)
        return slice(start, start + cells)

    def _is_complete(self, chunk: int) -> bool:
        members = chain.from_iterable(read.members for read in self.inputs)
        count = sum(member.stream.chunk == chunk for member in members)
        return count == self.stream_counts[chunk] > 1

    def _mix(self, passes: Sequence[HeadInput], chunks: Set[int]) -> dict[int, Tensor]:
        """Mix the image's tokens of chunks, whose streams lie in several passes."""
        by_chunk: dict[int, dict[int, Tensor]] = {chunk: {} for chunk in chunks}
        for each in passes:
            for member, tokens in each.image_tokens(self.call.batch):
                if member.stream.chunk in chunks:
                    by_chunk[member.stream.chunk][member.number] = tokens
        return {
            chunk: compose.compose_tokens(
                torch.cat([streams[number] for number in sorted(streams)]),
                self.call.shares,
                *self.grid,
            )
            for chunk, streams in by_chunk.items()
        }

    def _mix_outputs(self, output: Tensor, complete: Mapping[int, Tensor]) -> Tensor:
        """Mix what the heads of all streams of the complete chunks give."""
        outputs = [
            read._replace(tokens=self._run_again(number, complete))
            for number, read in enumerate(self.inputs[:-1])
            if {member.stream.chunk for member in read.members} & set(complete)
        ]
        last = self.inputs[-1]._replace(tokens=output)
        return last.with_image(self._mix([*outputs, last], set(complete)), self.call.batch)

    def _run_again(self, number: int, complete: Mapping[int, Tensor]) -> Tensor:
        """Run the head of an earlier pass on the mixed tokens."""
        further, named = self.further_inputs[number]
        self.running = number
        try:
            tokens = self.inputs[number].with_image(complete, self.call.batch)
            return self.module(tokens, *further, **named)
        finally:
            self.running = LAST


def token_grid(network: Any, transformer: Transformer, x: Tensor) -> tuple[int, int]:
    """Return height and width of the image in tokens."""
    patch = transformer.patch
    patch = getattr(network, patch) if isinstance(patch, str) else patch
    patch = patch[-1] if isinstance(patch, (list, tuple)) else patch
    return -(-x.shape[-2] // patch), -(-x.shape[-1] // patch)


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
        try:
            override = masks.override(options.get("optimized_attention_override"))
            yield with_options(options, optimized_attention_override=override)
            masks.check()
        finally:
            for hook in hooks:
                hook.remove()


def _reference_tokens(
    call: NetworkCall, transformer: Transformer, member: PassStream
) -> ReferenceTokens | None:
    """Return the tokens of the people's own reference images; None where nobody has any."""
    people = call.plan.people.references
    if not any(people):
        return None
    conds, chunk = _Conds(call), member.stream.chunk
    alone = [conds.member(Stream(chunk, number, None), 0).conds for number in range(len(people))]

    lengths = [_image_tokens(call, transformer, references) for references in people]
    cells = math.prod(token_grid(call.network, transformer, call.x))
    return reference_tokens(call, transformer.positions, alone, lengths, cells)


def _image_tokens(call: NetworkCall, transformer: Transformer, conds: Mapping[str, Any]) -> int:
    """Count the tokens of the reference images in conds."""
    grids = [token_grid(call.network, transformer, latent) for latent in conds.get(LATENTS, ())]
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
