"""Judge one node of the host beside one method of the pack.

A method is given as a `Pair`: what is sampled with the method, and the ordinary sampling that it
must equal (two equal people are one ordinary ControlNet; strength 0 is not there). The node is put
into both, before the method or behind it. For a method with a strength, the node and the method
must both still count at strength 1: nothing may be dropped in silence.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import families, table
from .methods import PAIRS, WITH_LORAS, Inputs, Loaded, Pair
from .stand_ins import STAND_INS

EQUAL, REFUSED, WRONG = "equal", "refused", "wrong"
IDLE = "idle"  # equal, and the node changes nothing on this network
INAPPLICABLE = "inapplicable"  # the host can not sample this network with the node
BEFORE, BEHIND = "before", "behind"
TOLERANCE = 2e-4  # relative: mixing adds shares in another order than one pass
COUNTS = 1e-3  # relative: a method or a node that changes less has been dropped
STEPS, SEED, BATCH = 3, 7, 2


class Outcome(NamedTuple):
    """What came of one node beside one method."""

    node: str
    method: str
    order: str
    verdict: str
    reason: str = ""


def orders(node: str) -> tuple[str, ...]:
    """Say where in the wire a node can stand: a guider and a sampler come behind everything."""
    ends = (table.GUIDER, table.SAMPLER)
    if node not in STAND_INS and table.kind_of(table.host_nodes()[node]) in ends:
        return (BEHIND,)
    return BEFORE, BEHIND


def judge(node: str, method: str, order: str, loaded: Loaded) -> Outcome:
    """Try one node of the table, or one stand-in, beside a method of PAIRS or WITH_LORAS."""
    make_pair = (PAIRS | WITH_LORAS)[method]
    try:
        beside = _beside(node, order, loaded)
        for batch in (BATCH, 1):
            pair = make_pair(loaded, *beside.prepared, batch)
            try:
                plain = _sampled(beside, pair.plain)
                break
            except (RuntimeError, TypeError):  # some of the host's nodes take one image only
                if batch == 1:
                    raise
        verdict = _verdict(beside, pair, plain, lambda: _sampled_alone(make_pair, loaded, batch))
    except ValueError as error:
        verdict = REFUSED, str(error)
    except Exception as error:  # noqa: BLE001  whatever it is, the sampling is lost
        verdict = WRONG, f"{type(error).__name__}: {error}"
    return Outcome(node, method, order, *verdict)


def judge_on(family: str, node: str, method: str, order: str) -> Outcome:
    """Try one node or stand-in beside one method of `families.PAIRS` on a transformer family."""
    loaded, named, batch = families.load(family), f"{method}, {family}", BATCH
    try:
        beside = _beside(node, order, loaded)
        try:
            ordinary = _sampled(beside, families.plain(loaded, *beside.prepared, batch))
        except (RuntimeError, TypeError):  # some of the host's nodes take one image only
            batch = 1
            ordinary = _sampled(beside, families.plain(loaded, *beside.prepared, batch))
    except Exception as error:  # noqa: BLE001  whatever it is, it is none of ours
        return Outcome(node, named, order, INAPPLICABLE, f"{type(error).__name__}: {error}")
    alone = partial(_alone_on, family, method, batch)
    try:
        pair = families.PAIRS[method](loaded, *beside.prepared, batch)
        verdict = _verdict(beside, pair, ordinary, alone)
        if verdict == (EQUAL, "") and _distance(ordinary, alone().plain) < COUNTS:
            verdict = IDLE, ""
    except ValueError as error:
        verdict = REFUSED, str(error)
    except Exception as error:  # noqa: BLE001  whatever it is, the sampling is lost
        verdict = WRONG, f"{type(error).__name__}: {error}"
    return Outcome(node, named, order, *verdict)


class _Alone(NamedTuple):
    """Sampled without a node: without the method, and with it at strength 1."""

    plain: Tensor
    strong: Tensor


def _sampled_alone(make_pair: Callable[..., Pair], loaded: Loaded, batch: int) -> _Alone:
    pair = make_pair(loaded, *_prompts(loaded), batch)
    return _Alone(_sampled(_alone(), pair.plain), _sampled(_alone(), pair.strong or pair.ours))


@cache
def _alone_on(family: str, method: str, batch: int) -> _Alone:
    return _sampled_alone(families.PAIRS[method], families.load(family), batch)


def _verdict(
    beside: "_Beside", pair: Pair, plain: Tensor, alone: Callable[[], _Alone]
) -> tuple[str, str]:
    """Compare the method beside the node with the ordinary sampling beside the node; and check that
    neither the method nor the node is dropped when both count.
    """
    if (error := _distance(_sampled(beside, pair.ours), plain)) > TOLERANCE:
        return WRONG, f"differs by {error:.1e} from the sampling without the method"
    if pair.strong is None:
        return EQUAL, ""
    strong = _sampled(beside, pair.strong)
    if not strong.isfinite().all() or _distance(strong, plain) < COUNTS:
        return WRONG, "the method does nothing beside this node"
    node_counts = _distance(plain, alone().plain) > COUNTS
    if node_counts and _distance(strong, alone().strong) < COUNTS / 10:
        return WRONG, "the node does nothing beside the method"
    return EQUAL, ""


def _distance(first: Tensor, second: Tensor) -> float:
    return float((first - second).norm() / second.norm())


class _Beside(NamedTuple):
    """A node in its place: what a method begins with, and what is done behind it."""

    prepared: tuple[Any, Any, Any]  # model, positive, negative
    change: Callable[[Inputs], Inputs]
    guider: Callable[[Inputs], Any]
    sampler: Any


def _cfg_guider(inputs: Inputs) -> Any:
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(inputs.model)
    guider.set_conds(inputs.positive, inputs.negative)
    guider.set_cfg(4.0)
    return guider


def _euler() -> Any:
    import comfy.samplers

    return comfy.samplers.sampler_object("euler")


def _prompts(loaded: Loaded) -> tuple[None, Any, Any]:
    """No model of its own, and the prompts."""
    return None, loaded.positive, loaded.negative


def _alone() -> _Beside:
    return _Beside((None, None, None), lambda inputs: inputs, _cfg_guider, _euler())


def _beside(node: str, order: str, loaded: Loaded) -> _Beside:
    make = _makers(loaded)
    _, positive, negative = _prompts(loaded)
    alone = _alone()._replace(prepared=(None, positive, negative))
    if node in STAND_INS:
        return _patched(alone, STAND_INS[node], order)
    kind = table.kind_of(table.host_nodes()[node])
    if kind == table.SAMPLER:
        # the one sampler with a MODEL input reads its noise levels only
        (sampler,) = table.run_node(node, make, **_wires(node, loaded))
        return alone._replace(sampler=sampler)
    if kind == table.GUIDER:
        return alone._replace(guider=lambda inputs: _guider(node, make, inputs, loaded))
    if kind == table.HOOKS:
        hooks = table.run_node(node, make, **_files(node, loaded))[0]
        if order == BEFORE:
            return alone._replace(prepared=(None, *_hooked(hooks, positive, negative)))

        def hook(inputs: Inputs) -> Inputs:
            positive, negative = _hooked(hooks, inputs.positive, inputs.negative)
            return inputs._replace(positive=positive, negative=negative)

        return alone._replace(change=hook)

    def patch(model: Any) -> Any:
        return table.run_node(node, make, **_wires(node, loaded, model))[0]

    return _patched(alone, patch, order)


def _patched(alone: _Beside, patch: Callable[[Any], Any], order: str) -> _Beside:
    """A patch of a MODEL, before the method or behind it."""
    if order == BEFORE:
        return alone._replace(prepared=(patch, *alone.prepared[1:]))
    return alone._replace(change=lambda inputs: inputs._replace(model=patch(inputs.model)))


def _wires(node: str, loaded: Loaded, model: Any = None) -> dict[str, Any]:
    """The MODEL goes to the first input of that type; and the family's files."""
    types = table.input_types(table.host_nodes()[node])
    name = next((name for name, kind in types.items() if kind == table.MODEL), None)
    wires = {} if name is None else {name: loaded.model if model is None else model}
    return wires | _files(node, loaded)


def _files(node: str, loaded: Loaded) -> dict[str, str]:
    types = table.input_types(table.host_nodes()[node])
    return {"lora_name": loaded.lora} if "lora_name" in types else {}


def _hooked(hooks: Any, positive: Any, negative: Any) -> tuple[Any, Any]:
    import comfy.hooks

    conds = comfy.hooks.set_conds_props(
        [positive, negative], strength=1.0, set_cond_area="default", hooks=hooks
    )
    return conds[0], conds[1]


def _guider(node: str, make: Mapping[str, Callable], inputs: Inputs, loaded: Loaded) -> Any:
    types = table.input_types(table.host_nodes()[node])
    other_model = loaded.other_model or loaded.model
    channels = other_model.get_model_object("latent_format").latent_channels
    wires = {
        "model": inputs.model,
        "positive": inputs.positive,
        "conditioning": inputs.positive,
        "cond1": inputs.positive,
        "cond2": inputs.positive,
        "negative": inputs.negative,
        "empty_conditioning": loaded.other_prompt or loaded.negative,
        "model_negative": other_model if inputs.channels == channels else inputs.model,
    }
    return table.run_node(node, make, **{k: v for k, v in wires.items() if k in types})[0]


def _makers(loaded: Loaded) -> dict[str, Callable[[], Any]]:
    import comfy.hooks

    def sharpen() -> Any:
        node = table.host_nodes()["LatentOperationSharpen"]
        result = getattr(node(), node.FUNCTION)(sharpen_radius=2, sigma=1.0, alpha=0.1)
        return getattr(result, "result", result)[0]

    def lora_hook() -> Any:
        return table.run_node("CreateHookLoraModelOnly", {}, lora_name=loaded.lora)[0]

    def keyframes() -> Any:
        group = comfy.hooks.HookKeyframeGroup()
        group.add(comfy.hooks.HookKeyframe(strength=0.5, start_percent=0.4))
        return group

    return {
        table.MODEL: lambda: loaded.other_model or loaded.model,
        "CLIP": lambda: loaded.clip,
        "CONDITIONING": lambda: loaded.other_prompt or loaded.negative,
        "LATENT_OPERATION": sharpen,
        "HOOKS": lora_hook,
        "HOOK_KEYFRAMES": keyframes,
    }


def _sampled(beside: _Beside, inputs: Inputs) -> Tensor:
    """Sample as SamplerCustomAdvanced does."""
    import comfy.sample
    import comfy.samplers

    inputs = beside.change(inputs)
    guider = beside.guider(inputs)
    latent = inputs.latent["samples"]
    sigmas = comfy.samplers.calculate_sigmas(
        inputs.model.get_model_object("model_sampling"), "normal", STEPS
    )
    with torch.inference_mode():
        torch.manual_seed(SEED)  # some nodes draw from the global generator
        return guider.sample(
            comfy.sample.prepare_noise(latent, SEED),
            latent,
            beside.sampler,
            sigmas,
            denoise_mask=inputs.latent.get("noise_mask"),
            disable_pbar=True,
            seed=SEED,
        )
