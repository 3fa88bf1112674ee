"""The wrappers that travel on the MODEL and make a composition of a sampling:

OUTER_SAMPLE      puts the people's conditionings beside positive and negative, so that the host
                  encodes them as its own (SDXL's size embeddings included)
PREPARE_SAMPLING  tells the host how much memory the streams need
SAMPLER_SAMPLE    reads the encoded conditionings and the masks into a Plan
APPLY_MODEL       turns each chunk of the batch into its streams, mixes them, and returns chunks
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import comfy.sampler_helpers
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...models import compose
from ..sampling import (
    Sampling,
    Window,
    latent_stride,
    plan_wrapper,
    sigma_in_window,
    with_options,
)
from . import control as controls
from .families import ComposeFamily, compose_family
from .neighbors import has_comparing_patches, run_per_group
from .streams import (
    COUPLE,
    EXACT,
    KEY,
    NODE,
    PEOPLE,
    ChunkText,
    Composition,
    PeopleTexts,
    Shares,
    StreamCall,
    group_labels,
    lay_out,
    stream_texts,
    stream_uuids,
    stream_vectors,
    text_change,
)


class Plan(NamedTuple):
    """What stays the same over one sampling."""

    window: Window
    composition: Composition
    family: ComposeFamily
    people: PeopleTexts
    controls: Mapping[Any, controls.ComposedControl]  # of the entries that are composed, by uuid
    roles: Mapping[Any, str]  # of the same entries
    encoded: Mapping[Any, Tensor]  # their own texts [1, tokens, C]
    shares: Shares
    size: tuple[int, int]  # of the latent


def compose_model(model: Any, composition: Composition) -> Any:
    """Clone MODEL so that it composes; sample it with the conditionings of `attach`. ValueError for
    networks of other families and for models that compose already.
    """
    family = compose_family(model)
    if model.get_attachment(KEY) is not None:
        raise ValueError(
            "the model already composes people. Put all of them into one Compose Instances node: "
            "chain their Add Instance nodes."
        )
    model = model.clone()
    model.set_attachments(KEY, composition)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _add_people(composition))
    model.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, KEY, _reserve_memory(composition))
    plan = plan_wrapper(KEY, _make_plan(composition, family))
    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, plan)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, _apply_streams)
    return model


def _add_people(composition: Composition) -> Callable:
    def wrapper(executor, *args, **kwargs):
        guider = executor.class_obj
        if not controls.roles_of(guider.conds, composition):
            raise ValueError(
                f"{NODE}: the sampler got the composed model but not its conditioning. Connect the "
                "outputs 'positive' and 'negative' of Compose Instances as well."
            )
        people = comfy.sampler_helpers.convert_cond(composition.people)
        guider.conds = {**guider.conds, KEY: people}
        return executor(*args, **kwargs)

    return wrapper


def _reserve_memory(composition: Composition) -> Callable:
    """Tell the host how many streams one chunk becomes, before it decides what to load."""
    streams = 1 if composition.mode == COUPLE else len(composition.people) + composition.scene

    def wrapper(executor, model, noise_shape, *args, **kwargs):
        shape = [noise_shape[0] * streams, *noise_shape[1:]]
        return executor(model, shape, *args, **kwargs)

    return wrapper


def _make_plan(composition: Composition, family: ComposeFamily) -> Callable[[Sampling], Plan]:
    def make_plan(sampling: Sampling) -> Plan:
        conds, device = sampling.guider.conds, sampling.noise.device
        # where another entry has an area, the host adds entries of that area behind ours
        people = conds[KEY][: len(composition.people)]
        texts = PeopleTexts(
            tuple(entry["uuid"] for entry in people),
            tuple(_text_of(entry).to(device) for entry in people),
            tuple(_vector_of(entry) for entry in people),
        )
        _check_rows(texts, len(sampling.noise))
        roles = controls.roles_of(conds, composition)
        composed = {entry["uuid"]: entry for entry in sampling.entries if entry["uuid"] in roles}
        attached = {uuid: controls.control_of(e, composition) for uuid, e in composed.items()}
        control_by_uuid = {uuid: control for uuid, control in attached.items() if control}
        return Plan(
            sampling.window(composition.start_percent, composition.end_percent),
            composition,
            family,
            texts,
            control_by_uuid,
            roles,
            {uuid: _text_of(entry).to(device) for uuid, entry in composed.items()},
            _shares(next(iter(control_by_uuid.values())), sampling),
            sampling.size,
        )

    return make_plan


def _check_rows(texts: PeopleTexts, images: int) -> None:
    """Refuse a prompt for several images where the latent has another number of them."""
    for number, context in enumerate(texts.contexts, 1):
        if len(context) not in (1, images):
            raise ValueError(
                f"{NODE}: the prompt of instance {number} is for {len(context)} images, but the "
                f"sampler's latent has {images}. Give it one prompt, or one for each image."
            )


def _text_of(entry: Mapping[str, Any]) -> Tensor:
    return entry["model_conds"]["c_crossattn"].cond


def _vector_of(entry: Mapping[str, Any]) -> Tensor | None:
    return entry["model_conds"]["y"].cond if "y" in entry["model_conds"] else None


def _shares(control: controls.ComposedControl, sampling: Sampling) -> Shares:
    composition, (height, width) = control.composition, sampling.size
    stride = latent_stride(sampling.guider.inner_model.latent_format)
    masks = control.drawings.masks(stride * width, stride * height)
    images = sampling.noise.shape[0]
    if len(masks) not in (1, images):
        raise ValueError(
            f"{NODE}: the pose or a mask has {len(masks)} frames, but the sampler's latent has "
            f"{images} images. Give them equally many, or a single frame, which serves all images."
        )
    occupied = [
        compose.occupancies(frame, height, width).to(sampling.noise.device) for frame in masks
    ]
    hard = [compose.hard_shares(o, composition.order, scene=composition.scene) for o in occupied]
    soft = [compose.soft_shares(o, scene=composition.scene) for o in occupied]
    soft_from = sampling.window(1 - composition.harmony, 1.0).first
    return Shares(
        torch.cat(hard, 1), torch.cat(soft, 1), soft_from if composition.harmony > 0 else -1.0
    )


def _apply_streams(
    executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **extra
):
    """Run each chunk's rows once per stream, with the stream's own text and control, mixed at the
    network's head. A call without a composed conditioning is the plain model's.
    """
    options = transformer_options or {}
    plan: Plan | None = options.get(KEY)
    uuids = options.get("uuids", ())
    composed = [uuid for uuid in uuids if plan and uuid in plan.roles]
    if plan is None or not composed or (sigma := sigma_in_window(plan, t)) is None:
        return executor(x, t, c_concat, c_crossattn, control, options, **extra)
    _check_size(plan, x)
    equal_counts = has_comparing_patches(options)
    layout = lay_out(plan.composition, plan.roles, uuids, len(x) // len(uuids), equal_counts)
    rows = layout.chunk_rows().to(x.device)

    def per_stream(value: Any) -> Any:
        per_row = isinstance(value, Tensor) and value.dim() and len(value) == len(x)
        return value[rows] if per_row else value

    chunk_texts = _chunk_texts(plan, uuids, c_crossattn)
    context = stream_texts(layout, plan.people.contexts, chunk_texts)
    conds = {name: per_stream(value) for name, value in extra.items()}
    if isinstance(extra.get("y"), Tensor):
        conds["y"] = stream_vectors(layout, plan.people.vectors, extra["y"])
    call = StreamCall(
        plan.composition.mode,
        layout,
        plan.shares.at(sigma),
        plan.people,
        context,
        chunk_texts,
        uuids,
        [plan.roles.get(uuid) == PEOPLE for uuid in uuids],
        plan.composition.scene,
    )
    clean = stream_texts(layout, plan.people.contexts, _encoded_texts(plan, uuids, chunk_texts))
    stream_rows = controls.Rows(x[rows], t[rows], {**conds, "c_crossattn": clean})
    added = {place: [per_stream(r) for r in rs] for place, rs in (control or {}).items()}
    residuals = _all_residuals(plan.controls[composed[0]], call, stream_rows, added, options)
    with plan.family.mixing(executor.class_obj.diffusion_model, call):
        mixed = executor(
            stream_rows.x,
            stream_rows.t,
            per_stream(c_concat),
            context,
            residuals,
            _stream_options(plan, call, options),
            **conds,
        )
    return layout.first_streams(mixed)


def _check_size(plan: Plan, x: Tensor) -> None:
    size = tuple(x.shape[-2:])
    if size != plan.size:
        raise ValueError(
            f"{NODE}: the network was asked for a part of {size[1]} x {size[0]} of a latent of "
            f"{plan.size[1]} x {plan.size[0]} cells, so the people's places in it are not known. "
            "Another node samples in tiles inside one sampling (Tiled Diffusion or the like): "
            "remove it, or use one that samples every tile by itself (Ultimate SD Upscale)."
        )


def _chunk_texts(plan: Plan, uuids: Sequence[Any], c_crossattn: Tensor) -> list[ChunkText]:
    """The text of each chunk, with what other packs added to those of the people."""
    return [
        ChunkText(text, text_change(text, plan.encoded[u]) if plan.roles.get(u) == PEOPLE else None)
        for u, text in zip(uuids, c_crossattn.chunk(len(uuids)), strict=True)
    ]


def _encoded_texts(
    plan: Plan, uuids: Sequence[Any], chunk_texts: Sequence[ChunkText]
) -> list[ChunkText]:
    """The texts as they were encoded, which the host gives to ControlNets."""
    return [
        ChunkText(plan.encoded[uuid].to(chunk.text) if uuid in plan.encoded else chunk.text)
        for uuid, chunk in zip(uuids, chunk_texts, strict=True)
    ]


def _stream_options(plan: Plan, call: StreamCall, options: Mapping[str, Any]) -> dict[str, Any]:
    """The transformer_options of the streams: what each row is, and the patches."""
    layout, kinds = call.layout, options["cond_or_uncond"]
    if layout.grouped:
        options = run_per_group(options, group_labels(layout, call.people, call.uuids, kinds))
    options = plan.family.add_patches(call, options)
    return with_options(
        options,
        cond_or_uncond=[kinds[stream.chunk] for stream in layout.streams],
        uuids=stream_uuids(layout, plan.people, call.uuids),
    )


def _all_residuals(
    control: controls.ComposedControl,
    call: StreamCall,
    rows: controls.Rows,
    added: Mapping[str, list],
    options: Mapping[str, Any],
) -> dict[str, list]:
    """The residuals of the streams' ControlNet and of the other controls in the chain, `added`."""
    residuals = controls.stream_residuals(control, call.layout, rows, options)
    if call.mode == EXACT:
        deep = controls.share_deep_residuals(call.layout, residuals["output"], call.shares)
        residuals["output"] = deep
    return controls.add_residuals(residuals, added)
