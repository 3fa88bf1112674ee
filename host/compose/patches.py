"""The wrappers that travel on the MODEL and make a composition of a sampling:

OUTER_SAMPLE      puts the people's conditionings beside positive and negative, so that the host
                  encodes them as its own (SDXL's size embeddings included)
PREPARE_SAMPLING  tells the host how much memory the streams need
SAMPLER_SAMPLE    reads the encoded conditionings and the masks into a Plan
APPLY_MODEL       turns each chunk of the batch into its streams, mixes them, and returns chunks
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import comfy.sampler_helpers
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
from .streams import (
    COUPLE,
    EXACT,
    KEY,
    NODE,
    PEOPLE,
    Composition,
    PeopleTexts,
    Shares,
    StreamCall,
    lay_out,
    stream_texts,
    stream_uuids,
    stream_vectors,
)


class Plan(NamedTuple):
    """What stays the same over one sampling."""

    window: Window
    composition: Composition
    family: ComposeFamily
    people: PeopleTexts
    control: controls.ComposedControl
    roles: Mapping[Any, str]  # of the conditioning entries that are composed, by uuid
    shares: Shares


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
        conds = sampling.guider.conds
        encoded = [entry["model_conds"] for entry in conds[KEY]]
        people = PeopleTexts(
            tuple(entry["uuid"] for entry in conds[KEY]),
            tuple(cond["c_crossattn"].cond for cond in encoded),
            tuple(cond["y"].cond if "y" in cond else None for cond in encoded),
        )
        attached = (controls.control_of(entry, composition) for entry in sampling.entries)
        return Plan(
            sampling.window(composition.start_percent, composition.end_percent),
            composition,
            family,
            people,
            next(filter(None, attached)),
            controls.roles_of(conds, composition),
            _shares(composition, sampling),
        )

    return make_plan


def _shares(composition: Composition, sampling: Sampling) -> Shares:
    height, width = sampling.size
    stride = latent_stride(sampling.guider.inner_model.latent_format)
    masks = composition.masks(stride * width, stride * height)
    occupied = compose.occupancies(masks, height, width).to(sampling.noise.device)
    steps = len(sampling.sigmas) - 1
    first_soft = steps - round(composition.harmony * steps)
    return Shares(
        compose.hard_shares(occupied, composition.order, scene=composition.scene),
        compose.soft_shares(occupied, scene=composition.scene),
        float(sampling.sigmas[first_soft]) if composition.harmony > 0 else -1.0,
    )


def _apply_streams(
    executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **extra
):
    """Run each chunk's rows once per stream, with the stream's own text and control, mixed at the
    network's head.
    """
    options = transformer_options or {}
    plan: Plan | None = options.get(KEY)
    sigma = sigma_in_window(plan, t)
    if plan is None or sigma is None:
        return executor(x, t, c_concat, c_crossattn, control, options, **extra)
    uuids = options["uuids"]
    layout = lay_out(plan.composition, plan.roles, uuids, len(x) // len(uuids))
    rows = layout.chunk_rows().to(x.device)

    def per_stream(value: Any) -> Any:
        per_row = isinstance(value, Tensor) and value.dim() and len(value) == len(x)
        return value[rows] if per_row else value

    chunk_texts = c_crossattn.split(layout.batch)
    context = stream_texts(layout, plan.people.contexts, chunk_texts)
    conds = {name: per_stream(value) for name, value in extra.items()}
    if isinstance(extra.get("y"), Tensor):
        conds["y"] = stream_vectors(layout, plan.people.vectors, extra["y"])
    call = StreamCall(
        plan.composition.mode,
        layout,
        plan.shares.at(sigma),
        plan.people,
        chunk_texts,
        [plan.roles.get(uuid) == PEOPLE for uuid in uuids],
        plan.composition.scene,
    )
    stream_rows = controls.Rows(x[rows], t[rows], {**conds, "c_crossattn": context})
    others = {place: [per_stream(r) for r in rs] for place, rs in (control or {}).items()}
    residuals = _all_residuals(plan, call, stream_rows, others, options)
    options = plan.family.add_patches(call, options)
    options = with_options(
        options,
        cond_or_uncond=[options["cond_or_uncond"][stream.chunk] for stream in layout.streams],
        uuids=stream_uuids(layout, plan.people, uuids),
    )
    with plan.family.mixing(executor.class_obj.diffusion_model, call):
        mixed = executor(
            stream_rows.x, stream_rows.t, per_stream(c_concat), context, residuals, options, **conds
        )
    return layout.first_streams(mixed)


def _all_residuals(
    plan: Plan,
    call: StreamCall,
    rows: controls.Rows,
    others: Mapping[str, list],
    options: Mapping[str, Any],
) -> dict[str, list]:
    """The residuals of the streams' ControlNet and of the `others` in the chain."""
    residuals = controls.stream_residuals(plan.control, call.layout, rows, options)
    if call.mode == EXACT:
        deep = controls.share_deep_residuals(call.layout, residuals["output"], call.shares)
        residuals["output"] = deep
    return controls.add_residuals(residuals, others)
