"""The wrappers that travel on the MODEL and make a composition of a sampling:

OUTER_SAMPLE      puts the people's conditionings beside positive and negative, so that the host
                  encodes them as its own (SDXL's size embeddings included)
PREPARE_SAMPLING  tells the host how much memory the streams need
SAMPLER_SAMPLE    reads the encoded conditionings and the masks into a Plan
APPLY_MODEL       gives the call to the network's family, which turns chunks into streams and back
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import comfy.sampler_helpers
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..sampling import plan_wrapper
from . import control as controls
from .calls import NetworkCall
from .families import compose_family
from .person_loras import Changes, person_changes
from .plan import Plan, plan_maker
from .references import check_references, further_rows
from .streams import KEY, LAYERS, NODE, Composition


def compose_model(model: Any, composition: Composition) -> Any:
    """Clone MODEL so that it composes; sample it with the conditionings of `attach`.

    ValueError for networks of other families, for modes that a family has not, and for models that
    compose already.
    """
    if model.get_attachment(KEY) is not None:
        raise ValueError(
            "the model already composes people. Put all of them into one Compose Instances node, "
            "and connect the model as it is before that node."
        )
    family = compose_family(model, composition.mode)
    check_references(model, composition, family.reference_modes)
    changes = person_changes(model, composition, family.prompt_reader)
    model = model.clone()
    model.set_attachments(KEY, composition)
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _name_the_node(composition))
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _add_people(composition))
    model.add_wrapper_with_key(
        WrappersMP.PREPARE_SAMPLING, KEY, _reserve_memory(composition, changes)
    )
    plan = plan_wrapper(KEY, plan_maker(composition, family, changes))
    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, plan)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, _apply_streams)
    return model


def _name_the_node(composition: Composition) -> Callable:
    """Let the errors of a sampling name the node that the artist has."""

    def wrapper(executor, *args, **kwargs):
        try:
            return executor(*args, **kwargs)
        except ValueError as error:
            if composition.node == NODE or not str(error).startswith(NODE):
                raise
            raise ValueError(composition.in_words_of_the_node(str(error))) from error

    return wrapper


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


def _reserve_memory(composition: Composition, changes: Sequence[Changes]) -> Callable:
    """Tell the host how many streams of one chunk are in the network at once and what the people's
    LoRAs and reference images take, before it decides what to load. EXACT takes as many at once as
    there is room for then.
    """
    factor_bytes = sum(
        change.bytes for layers in changes for parts in layers.values() for change in parts
    )
    everybody = len(composition.people) + composition.has_scene
    streams = everybody if composition.mode == LAYERS else 1

    def wrapper(executor, model, noise_shape, conds, *args, **kwargs):
        row_bytes = model.model.memory_required([1, *noise_shape[1:]])
        rows = noise_shape[0] * streams + math.ceil(factor_bytes / row_bytes)
        rows += further_rows(composition, conds, noise_shape)
        shape = [rows, *noise_shape[1:]]
        return executor(model, shape, conds, *args, **kwargs)

    return wrapper


def _apply_streams(
    executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **extra
):
    """Run the streams of a call as the network's family does it. A call without a composed
    conditioning is the plain model's.
    """
    options = transformer_options or {}
    plan: Plan | None = options.get(KEY)
    composed = [uuid for uuid in options.get("uuids", ()) if plan and uuid in plan.roles]
    if plan is None or not composed or not plan.window.contains(t):
        return executor(x, t, c_concat, c_crossattn, control, options, **extra)
    _check_size(plan, x)
    conds = {"c_concat": c_concat, "c_crossattn": c_crossattn, **extra}
    network = executor.class_obj.diffusion_model
    shares = plan.shares.at(t.max(), lasting=bool(plan.loras.by_layer))  # LoRAs' places are kept
    return plan.family.run(
        NetworkCall(executor, network, plan, x, t, conds, control, options, shares)
    )


def _check_size(plan: Plan, x: Tensor) -> None:
    size = tuple(x.shape[-2:])
    if size != plan.size:
        raise ValueError(
            f"{NODE}: the network was asked for a part of {size[1]} x {size[0]} of a latent of "
            f"{plan.size[1]} x {plan.size[0]} cells, so the people's places in it are not known. "
            "Another node samples in tiles inside one sampling (Tiled Diffusion or the like): "
            "remove it, or use one that samples every tile by itself (Ultimate SD Upscale)."
        )
