"""Composition of people as patches of the host's UNet: streams, shares, control per person.

How a picture goes: `ComposedControl` rides on the conditioning, so that the host loads, starts and
cleans up the ControlNet by its own rules. Four wrappers ride on the model:
  PREPARE_SAMPLING  tells the host how much memory the streams need
  OUTER_SAMPLE    puts the people's conditionings beside positive and negative, so that the host
                  encodes them as its own (SDXL's size embeddings included)
  SAMPLER_SAMPLE  reads what the host made of them into a Plan
  APPLY_MODEL     turns each chunk of the batch into its streams, mixes them, gives the chunk back
"""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import comfy.controlnet
import comfy.ldm.modules.diffusionmodules.openaimodel as openaimodel
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..models import compose
from ..models.compose import MERGED

EXACT, LAYERS, COUPLE = "exact", "layers", "couple"
KEY = "vitruvian_compose"
PEOPLE, NEGATIVE = "people", "negative"  # what a conditioning entry is, under KEY
PIXELS = 8  # per latent cell


@dataclass(frozen=True)
class Composition:
    """What the artist asked for. Plain values: shared between clones and never changed."""

    people: tuple[Any, ...]  # CONDITIONING entries [tensor, dict], one per person
    masks: Callable[[int, int], Tensor]  # width, height -> [N, height, width] in 0..1
    hint: Callable[[int, int, int], Tensor]  # person or MERGED, width, height -> [H, W, 3]
    order: tuple[int, ...]
    mode: str
    harmony: float  # share of the steps, the last ones, with soft shares
    scene: bool  # the positive prompt owns the background
    shared_negative: bool  # the negative is one stream that sees everybody's skeleton
    start: float
    end: float


class ComposedControl(comfy.controlnet.ControlBase):
    """Rides in the conditioning. Adds nothing itself: the APPLY_MODEL wrapper asks it for the
    residuals of the streams, whose number the host does not know.
    """

    def __init__(self, controlnet: Any, composition: Composition, strength: float):
        super().__init__()
        self.controlnet, self.composition = controlnet, composition
        self.strength = strength
        self.timestep_percent_range = (composition.start, composition.end)
        self._begin: tuple | None = None
        self._layouts: dict[tuple, Any] = {}

    def pre_run(self, model: Any, percent_to_timestep_function: Callable) -> None:
        super().pre_run(model, percent_to_timestep_function)
        self._begin = (model, percent_to_timestep_function)

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options=None):
        before = self.previous_controlnet
        if before is None:
            return None
        return before.get_control(x_noisy, t, cond, batched_number, transformer_options)

    def residuals(self, who: Sequence[int], batch: int, x: Tensor, t: Tensor, cond: dict, options):
        """The ControlNet's residuals, strength applied, for streams of these people; rows as x."""
        height, width = (PIXELS * side for side in x.shape[-2:])
        control = self._laid_out(tuple(who), batch, (width, height))
        return control.get_control(x, t, cond, 1, options)

    def _laid_out(self, who: tuple[int, ...], batch: int, size: tuple[int, int]) -> Any:
        """The ControlNet with one hint per row; made once per layout, kept for the sampling."""
        key = who, batch, size
        if key not in self._layouts:
            if self._begin is None:
                raise RuntimeError("the ControlNet was asked before sampling began")
            drawn = {k: self.composition.hint(k, *size) for k in set(who)}
            rows = who[:1] if len(drawn) == 1 else [k for k in who for _ in range(batch)]
            hints = torch.stack([drawn[k] for k in rows]).movedim(-1, 1)  # one serves all rows
            control = self.controlnet.copy()
            control.set_cond_hint(hints, self.strength, self.timestep_percent_range)
            control.pre_run(*self._begin)
            _embed_hint_once(control)
            self._layouts[key] = control
        return self._layouts[key]

    def get_models(self) -> list:
        return [*super().get_models(), *self.controlnet.get_models()]

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        own = self.controlnet.inference_memory_requirements(dtype)
        return max(own, super().inference_memory_requirements(dtype))

    def cleanup(self) -> None:
        super().cleanup()
        for control in self._layouts.values():
            control.cleanup()
        self._layouts, self._begin = {}, None

    def copy(self) -> "ComposedControl":
        made = ComposedControl(self.controlnet, self.composition, self.strength)
        self.copy_to(made)
        made.timestep_percent_range = self.timestep_percent_range
        return made

    def deepclone_multigpu(self, load_device, autoregister=False):
        made = self.copy()
        made.controlnet = self.controlnet.deepclone_multigpu(load_device)
        if autoregister:
            self.multigpu_clones[load_device] = made
        return made


class _EmbeddedOnce(torch.nn.Module):
    """A ControlNet's hint embedding that works anew for a new hint only, not in every step."""

    def __init__(self, block: torch.nn.Module):
        super().__init__()
        self.block = block
        self._known: tuple[Tensor, Tensor] | None = None  # a hint and what became of it

    def forward(self, hint: Tensor, *rest: Any) -> Tensor:
        if self._known is None or self._known[0] is not hint:
            self._known = hint, self.block(hint, *rest)
        return self._known[1]


def _embed_hint_once(control: Any) -> None:
    """Gives this copy of a ControlNet a network whose weights are the shared ones, and whose hint
    embedding is its own.
    """
    blocks = getattr(getattr(control, "control_model", None), "_modules", {})
    if "input_hint_block" in blocks:
        control.control_model = copy.copy(control.control_model)
        kept = _EmbeddedOnce(blocks["input_hint_block"])
        control.control_model._modules = {**blocks, "input_hint_block": kept}


class Plan(NamedTuple):
    """What stays the same over one sampling. Contexts and vectors have one row."""

    composition: Composition
    uuids: tuple[Any, ...]  # of the people's conditioning entries
    contexts: tuple[Tensor, ...]
    vectors: tuple[Tensor | None, ...]  # SDXL's pooled text and sizes
    control: ComposedControl
    roles: dict[Any, str]  # of the conditioning entries that are composed, by uuid
    hard: Tensor  # shares [S, 1, 1, h, w]
    soft: Tensor
    soft_from: float  # sigma at and below which the soft shares hold
    first: float  # composition is on from this sigma down
    last: float  # to this one


class Stream(NamedTuple):
    """One pass through the network: of which chunk, with whose text (MERGED: the mean of all; None:
    the chunk's own) and whose skeleton (MERGED: everybody's; None: no control).
    """

    chunk: int
    text: int | None
    hint: int | None


class Layout(NamedTuple):
    """The rows of one call: `batch` rows per stream, the streams of one chunk together."""

    streams: tuple[Stream, ...]
    batch: int

    def counts(self) -> list[int]:
        """The number of streams of each chunk."""
        return [sum(s.chunk == k for s in self.streams) for k in range(self.streams[-1].chunk + 1)]

    def chunk_rows(self) -> Tensor:
        """For each row, the row of the chunks' batch that it is made from."""
        return torch.cat([torch.arange(self.batch) + s.chunk * self.batch for s in self.streams])

    def mix(self, rows: Tensor, shares: Tensor) -> Tensor:
        """Rows of all streams -> rows of the chunks, every chunk mixed by the shares."""
        return self._each_chunk(rows, lambda part: compose.compose_features(part, shares))

    def mix_tokens(self, rows: Tensor, shares: Tensor, height: int, width: int) -> Tensor:
        """`mix` for rows of tokens [rows, height * width, C]."""
        return self._each_chunk(
            rows, lambda part: compose.compose_tokens(part, shares, height, width)
        )

    def _each_chunk(self, rows: Tensor, mix: Callable[[Tensor], Tensor]) -> Tensor:
        parts = rows.split([n * self.batch for n in self.counts()])
        return torch.cat([p if len(p) == self.batch else mix(p) for p in parts])


def compose_model(model: Any, composition: Composition) -> Any:
    """A clone of MODEL that composes; sample it with the conditionings of `ComposedControl`."""
    unet = model.get_model_object("diffusion_model")
    if not isinstance(unet, openaimodel.UNetModel):
        raise ValueError(
            f"this model ({type(unet).__name__}) is not a UNet. People can be composed with SD1.5, "
            "SD2.x and SDXL checkpoints; load one of those."
        )
    if model.get_attachment(KEY) is not None:
        raise ValueError(
            "the model already composes people. Put all of them into one Compose Instances node: "
            "chain their Add Instance nodes."
        )
    model = model.clone()
    model.set_attachments(KEY, composition)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _bring_people(composition))
    model.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, KEY, _reserve_memory(composition))
    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, _make_plan(composition))
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, _apply_streams)
    return model


def attach(control: ComposedControl, positive: Any, negative: Any) -> tuple[list, list]:
    """Both CONDITIONINGs with the control behind those they have already, marked with their role.

    Entries with the same control before it share one, so that the host can batch them.
    """
    made: dict[Any, ComposedControl] = {}

    def after(before: Any) -> ComposedControl:
        if before not in made:
            made[before] = control.copy()
            made[before].set_previous_controlnet(before)
        return made[before]

    def marked(conditioning: Any, role: str) -> list:
        ours = {"control_apply_to_uncond": False, KEY: role}
        return [
            [text, {**entry, **ours, "control": after(entry.get("control"))}]
            for text, entry in conditioning
        ]

    return marked(positive, PEOPLE), marked(negative, NEGATIVE)


def _roles(conds: dict[str, list], composition: Composition) -> dict[Any, str]:
    """PEOPLE or NEGATIVE for each conditioning entry that this composition's node made, by uuid."""
    ours = [
        entry
        for entries in conds.values()
        for entry in entries
        if _control_of(entry, composition) is not None
    ]
    if any("area" in entry for entry in ours):
        raise ValueError(
            "Compose Instances: a conditioning with an area (Conditioning Set Area) can not be "
            "composed. Remove the area; an instance's own mask says where a person is."
        )
    return {entry["uuid"]: entry[KEY] for entry in ours}


def _control_of(entry: dict[str, Any], composition: Composition) -> ComposedControl | None:
    """The composition's own control in the entry's chain of controls."""
    control = entry.get("control")
    while control is not None:
        if isinstance(control, ComposedControl) and control.composition is composition:
            return control
        control = control.previous_controlnet
    return None


def _bring_people(composition: Composition) -> Callable:
    import comfy.sampler_helpers

    def wrapper(executor, *args, **kwargs):
        guider = executor.class_obj
        if not _roles(guider.conds, composition):
            raise ValueError(
                "Compose Instances: the sampler got the composed model but not its conditioning. "
                "Connect the outputs 'positive' and 'negative' of Compose Instances as well."
            )
        people = comfy.sampler_helpers.convert_cond(composition.people)
        guider.conds = {**guider.conds, KEY: people}
        return executor(*args, **kwargs)

    return wrapper


def _reserve_memory(composition: Composition) -> Callable:
    """Tells the host how many streams one chunk becomes before it decides what to load."""
    streams = 1 if composition.mode == COUPLE else len(composition.people) + composition.scene

    def wrapper(executor, model, noise_shape, *args, **kwargs):
        shape = [noise_shape[0] * streams, *noise_shape[1:]]
        return executor(model, shape, *args, **kwargs)

    return wrapper


def _make_plan(composition: Composition) -> Callable:
    def wrapper(executor, guider, sigmas, extra_args, callback, noise, *args, **kwargs):
        encoded = [entry["model_conds"] for entry in guider.conds[KEY]]
        entries = [entry for name in guider.conds for entry in guider.conds[name]]
        height, width = noise.shape[-2:]
        masks = composition.masks(PIXELS * width, PIXELS * height)
        occupied = compose.occupancies(masks, height, width).to(noise.device)
        steps = len(sigmas) - 1
        soft_from = steps - round(composition.harmony * steps)
        sampling = guider.inner_model.model_sampling
        plan = Plan(
            composition,
            tuple(entry["uuid"] for entry in guider.conds[KEY]),
            tuple(conds["c_crossattn"].cond for conds in encoded),
            tuple(conds["y"].cond if "y" in conds else None for conds in encoded),
            next(filter(None, (_control_of(entry, composition) for entry in entries))),
            _roles(guider.conds, composition),
            compose.hard_shares(occupied, composition.order, scene=composition.scene),
            compose.soft_shares(occupied, scene=composition.scene),
            float(sigmas[soft_from]) if composition.harmony > 0 else -1.0,
            float(sampling.percent_to_sigma(composition.start)),
            float(sampling.percent_to_sigma(composition.end)),
        )
        options = extra_args["model_options"]
        options = {**options, "transformer_options": {**options["transformer_options"], KEY: plan}}
        extra_args = {**extra_args, "model_options": options}
        return executor(guider, sigmas, extra_args, callback, noise, *args, **kwargs)

    return wrapper


def _layout(plan: Plan, uuids: Sequence[Any], batch: int) -> Layout:
    composition, streams = plan.composition, []
    mode = composition.mode
    people = range(len(composition.people))
    for chunk, uuid in enumerate(uuids):
        role = plan.roles.get(uuid)
        if role is None:
            streams.append(Stream(chunk, None, None))
        elif mode == COUPLE and role == PEOPLE:
            streams.append(Stream(chunk, MERGED, MERGED))
        elif mode == COUPLE or composition.shared_negative and role == NEGATIVE:
            streams.append(Stream(chunk, None, MERGED))
        else:
            streams += [Stream(chunk, i if role == PEOPLE else None, i) for i in people]
            if composition.scene:
                streams.append(Stream(chunk, None, MERGED))
    return Layout(tuple(streams), batch)


def _apply_streams(
    executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **extra
):
    """Each chunk's rows once per stream, with the stream's own text and control, mixed at the
    network's head.
    """
    options = transformer_options or {}
    plan: Plan | None = options.get(KEY)
    sigma = float(t.max()) if plan else 0.0  # the one reading per call of the network
    if plan is None or not plan.last <= sigma <= plan.first:
        return executor(x, t, c_concat, c_crossattn, control, options, **extra)
    chunks = len(options["uuids"])
    mode = plan.composition.mode
    layout = _layout(plan, options["uuids"], len(x) // chunks)
    shares = plan.soft if sigma <= plan.soft_from else plan.hard
    rows = layout.chunk_rows().to(x.device)

    def per_stream(value: Any) -> Any:
        rowwise = isinstance(value, Tensor) and value.dim() and len(value) == len(x)
        return value[rows] if rowwise else value

    texts = c_crossattn.split(layout.batch)
    context = _texts(layout, plan.contexts, texts)
    others = {name: per_stream(value) for name, value in extra.items()}
    if isinstance(extra.get("y"), Tensor):
        others["y"] = _vectors(layout, plan.vectors, extra["y"])
    streams = (x[rows], t[rows])
    own = _residuals(plan, layout, *streams, {**others, "c_crossattn": context}, options)
    if mode == EXACT:
        own["output"] = _share_deep(layout, own["output"], shares)
    summed = _add_control(own, {k: [per_stream(r) for r in v] for k, v in (control or {}).items()})
    options = {
        **options,
        "cond_or_uncond": [options["cond_or_uncond"][s.chunk] for s in layout.streams],
        "uuids": [_whose(plan, s, options["uuids"]) for s in layout.streams],
        "patches": _patches(plan, layout, shares, texts, options),
    }
    unet = executor.class_obj.diffusion_model
    with _composing(unet, mode, layout, shares):
        made = executor(*streams, per_stream(c_concat), context, summed, options, **others)
    first = [layout.batch * sum(layout.counts()[:k]) for k in range(chunks)]
    return torch.cat([made[start : start + layout.batch] for start in first])


def _whose(plan: Plan, stream: Stream, chunks: Sequence[Any]) -> Any:
    """The uuid of the conditioning entry whose text the stream has; of the mean of all, none."""
    if stream.text is None:
        return chunks[stream.chunk]
    return None if stream.text == MERGED else plan.uuids[stream.text]


def _texts(layout: Layout, own: Sequence[Tensor], chunks: Sequence[Tensor]) -> Tensor:
    """The streams' texts [rows, tokens, C]. `own`: the people's, with one row; `chunks`: those the
    chunks came with.
    """
    rows = [
        chunks[s.chunk]
        if s.text is None
        else _mean(own).to(chunks[s.chunk])
        if s.text == MERGED
        else own[s.text].to(chunks[s.chunk])
        for s in layout.streams
    ]
    return torch.cat([row.expand(layout.batch, -1, -1) for row in _as_long(rows)])


def _as_long(texts: Sequence[Tensor]) -> list[Tensor]:
    """Texts repeated to a common length, as the host does it: repeating tokens leaves
    cross-attention as it was.
    """
    length = math.lcm(*(text.shape[1] for text in texts))
    return [text.repeat(1, length // text.shape[1], 1) for text in texts]


def _mean(texts: Sequence[Tensor]) -> Tensor:
    return torch.cat(_as_long(texts)).mean(0, keepdim=True)


def _vectors(layout: Layout, own: Sequence[Tensor | None], chunks: Tensor) -> Tensor:
    """The streams' pooled texts and sizes [rows, C]."""
    batch, rows = layout.batch, []
    known = [vector for vector in own if vector is not None]
    everybody = torch.stack(known).mean(0) if known else None
    for s in layout.streams:
        vector = None if s.text is None else everybody if s.text == MERGED else own[s.text]
        rows.append(
            chunks[s.chunk * batch :][:batch]
            if vector is None
            else vector.to(chunks).expand(batch, -1)
        )
    return torch.cat(rows)


def _residuals(
    plan: Plan, layout: Layout, x: Tensor, t: Tensor, cond: dict[str, Any], options: dict[str, Any]
) -> dict[str, list]:
    """The ControlNet's residuals for all rows; zero rows for streams without control."""
    controlled = [s.hint is not None for s in layout.streams]
    on = torch.tensor(controlled, device=x.device).repeat_interleave(layout.batch)
    every = all(controlled)

    def those(value: Any) -> Any:
        return (
            value[on] if not every and isinstance(value, Tensor) and len(value) == len(x) else value
        )

    who = [s.hint for s in layout.streams if s.hint is not None]
    found = plan.control.residuals(
        who, layout.batch, those(x), those(t), {k: those(v) for k, v in cond.items()}, options
    )

    def spread(residual: Tensor | None) -> Tensor | None:
        if residual is None or every:
            return residual
        rows = residual.new_zeros(len(x), *residual.shape[1:])
        rows[on] = residual
        return rows

    return {k: [spread(r) for r in (found or {}).get(k, [])] for k in ("input", "middle", "output")}


def _share_deep(layout: Layout, residuals: list, shares: Tensor) -> list:
    """`compose.share_residuals` for the streams of each chunk."""
    sizes = [n * layout.batch for n in layout.counts()]
    split = [[None] * len(sizes) if r is None else r.split(sizes) for r in residuals]
    parts = []
    for k, count in enumerate(layout.counts()):
        part = [row[k] for row in split]
        parts.append(part if count == 1 else compose.share_residuals(part, shares))
    return [None if row[0] is None else torch.cat(row) for row in zip(*parts, strict=True)]


def _add_control(own: dict[str, list], others: dict[str, list]) -> dict[str, list]:
    """Residuals of our ControlNet and of the others in the chain; new lists, in the same order."""
    summed = {}
    for name, residuals in own.items():
        other = list(others.get(name, []))
        both = [*zip(residuals, other, strict=False)]
        added = [a if b is None else b if a is None else a + b for a, b in both]
        summed[name] = added + residuals[len(both) :] + other[len(both) :]
    return summed


@contextmanager
def _composing(unet: Any, mode: str, layout: Layout, shares: Tensor) -> Iterator[None]:
    """While it lasts, the head sees the chunks' mixed features, and its result goes to all streams;
    in the mode LAYERS the middle block's result is mixed as well, before control is added to it.

    Hooks, and not the object patches that every other pack would have to share.
    """
    rows = layout.chunk_rows().to(shares.device)  # once per call, not per block

    def mix(_, inputs):
        return (layout.mix(inputs[0], shares),)

    def spread(_, __, output):
        return output[rows]

    def mix_and_spread(_, __, output):
        return spread(_, __, layout.mix(output, shares))

    hooks = [unet.out.register_forward_pre_hook(mix), unet.out.register_forward_hook(spread)]
    if mode == LAYERS and unet.middle_block is not None:
        last = unet.middle_block[-1]  # the host calls the layers, never the block
        hooks.append(last.register_forward_hook(mix_and_spread))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _patches(
    plan: Plan, layout: Layout, shares: Tensor, texts: Sequence[Tensor], options: dict[str, Any]
) -> dict[str, list]:
    """The model's own patches and, where the mode asks for them, ours beside them."""
    patches = dict(options.get("patches", {}))
    rows = layout.chunk_rows().to(shares.device)  # once per call, not per block

    def everywhere(h: Tensor) -> Tensor:
        return layout.mix(h, shares)[rows]

    mode = plan.composition.mode
    if mode == LAYERS:

        def mixed_input(h, _):
            return everywhere(h)

        def mixed_output(h, skip, extra):  # of the block before; the middle's is mixed already
            return h if extra["block"][1] == 0 else everywhere(h), skip

        patches["input_block_patch"] = [*patches.get("input_block_patch", []), mixed_input]
        patches["output_block_patch"] = [mixed_output, *patches.get("output_block_patch", [])]
    elif mode == COUPLE:
        part, join = _couple(plan, layout, shares, texts, options)
        patches["attn2_patch"] = [*patches.get("attn2_patch", []), part]
        patches["attn2_output_patch"] = [join, *patches.get("attn2_output_patch", [])]
    return patches


def _couple(
    plan: Plan, layout: Layout, shares: Tensor, texts: Sequence[Tensor], options: dict[str, Any]
) -> tuple[Callable, Callable]:
    """Cross-attention with every person's text, each only inside their share of the picture: the
    rows of the people's chunks are multiplied before it and mixed after it.

    `texts`: those the chunks came with, for the scene.
    """
    people = [plan.roles.get(uuid) == PEOPLE for uuid in options["uuids"]]
    each: list[int | None] = [*range(len(plan.contexts))] + [None] * plan.composition.scene
    inner = Layout(
        tuple(Stream(k, i, None) for k, p in enumerate(people) for i in (each if p else [None])),
        layout.batch,
    )
    rows = inner.chunk_rows().to(shares.device)

    @lru_cache(maxsize=2)  # every block gets the same tensor, unless a patch before ours changes it
    def spread(given: Tensor) -> Tensor:
        chunks = given.split(layout.batch)
        return _texts(
            inner,
            plan.contexts,
            [t.to(c) if p else c for t, c, p in zip(texts, chunks, people, strict=True)],
        )

    def part(n, keys, values, extra):
        extra["cond_or_uncond"] = [extra["cond_or_uncond"][s.chunk] for s in inner.streams]
        return n[rows], spread(keys), spread(values)

    def join(n, extra):
        extra["cond_or_uncond"] = options["cond_or_uncond"]
        return inner.mix_tokens(n, shares, *extra["activations_shape"][-2:])

    return part, join
