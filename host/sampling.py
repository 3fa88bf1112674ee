"""What every patch of a sampling needs, said once.

One sampling, as the host runs it and as the patches of this pack take part in it:

    apply time       `known_family` refuses networks that a method does not know
    SAMPLER_SAMPLE   once per sampling: `plan_wrapper` reads what stays the same (a `Sampling`) into
                     the method's plan and puts that into new `transformer_options`
    CALC_COND_BATCH  once per step or more: which lists of conditionings hold positive prompts
    APPLY_MODEL      once per call of the network: `call_wrapper` hands the plan to the blocks while
                     its `Window` contains the call's noise level, and takes it away otherwise
    a block          `chunks` says which rows of a tensor belong to which conditioning entry,
                     `token_grid` how its tokens lie

The host's dicts are shared between calls, models and threads. Nothing here edits one in place.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .model_names import MODEL_NAMES
from .structure_unet import StructureUNet

POSITIVE = 0  # in the host's `cond_or_uncond`, where nothing else is known
LISTS = "vitruvian_lists"  # in transformer_options: conditioning entry's uuid -> it is positive
POSITIVE_LISTS = "vitruvian_positive_lists"  # in transformer_options: numbers of `cond_or_uncond`
STRIDE = 8  # pixels per latent cell where the host does not say it
PROMPTLESS_UNETS = ("SVD_img2vid", "SV3D_u", "SV3D_p", "Stable_Zero123", "Lotus")


class Family(NamedTuple):
    """One kind of network that methods can patch."""

    names: tuple[str, ...]  # of its checkpoints, as an artist knows them
    network: type | str  # the host's class; its path, for this very class and none derived from it
    models: tuple[str, ...] = ()  # the host's classes of MODELs, where their network is another's

    def has(self, model: Any) -> bool:
        """Say whether a MODEL is of this family."""
        network, name = model.get_model_object("diffusion_model"), type(model.model).__name__
        if self.models and name not in self.models:
            return False
        if isinstance(self.network, str):
            return f"{type(network).__module__}.{type(network).__qualname__}" == self.network
        # a joint network is built from a UNet, but has three of each outer layer
        return (
            isinstance(network, self.network)
            and not isinstance(network, StructureUNet)
            and name not in PROMPTLESS_UNETS
        )


UNET = Family(("SD1.5", "SD2.x", "SDXL"), UNetModel)


def known_family(model: Any, method: str, families: Sequence[Family] = (UNET,)) -> Family:
    """Return the family of a MODEL's network, out of those that a method knows.

    Raises ValueError for any other network. `method` is the display name of the node that asks, and
    begins the error.
    """
    for family in families:
        if family.has(model):
            return family
    *names, last = [name for family in families for name in family.names]
    network = type(model.get_model_object("diffusion_model")).__name__
    raise ValueError(
        f"{method} knows {', '.join(names)} and {last}, but this model is "
        f"{MODEL_NAMES.get(type(model.model).__name__, 'another network')} ({network}). "
        "Connect a model of one of these to 'model'."
    )


def unet_of(model: Any, method: str) -> Any:
    """Return the MODEL's UNet; ValueError in the method's name if it has another network."""
    known_family(model, method)
    return model.get_model_object("diffusion_model")


def latent_stride(latent_format: Any) -> int:
    """Return the pixels per latent cell of one of the host's latent formats.

    A MODEL's is `model.get_model_object("latent_format")`. Hosts that do not say it have models of
    8 pixels and of colors, which are pixels themselves.
    """
    colors = getattr(latent_format, "latent_channels", None) == 3
    return getattr(latent_format, "spacial_downscale_ratio", 1 if colors else STRIDE)


def empty_latent(model: Any, width: int, height: int, count: int = 1) -> dict[str, Tensor]:
    """Return an empty LATENT of `count` images for a MODEL, in its own channels.

    Sides in pixels that are no multiples of a latent cell's are rounded up.
    """
    latent_format = model.get_model_object("latent_format")
    stride, frames = latent_stride(latent_format), [1] * (latent_format.latent_dimensions - 2)
    cells = [math.ceil(side / stride) for side in (height, width)]
    shape = [count, latent_format.latent_channels, *frames, *cells]
    return {"samples": torch.zeros(shape, device=comfy.model_management.intermediate_device())}


@dataclass(frozen=True)
class Window:
    """The noise levels at which a patch works, falling from the first to the last."""

    first: float
    last: float

    @classmethod
    def of(cls, model_sampling: Any, start_percent: float, end_percent: float) -> "Window":
        """Build a window from two shares of the sampling in 0 to 1, as the host counts them.

        Share 0 is above every noise level: of flow models the host gives that of the first step,
        which a window that ends at 0 would contain.
        """

        def sigma(percent: float) -> float:
            return float(model_sampling.percent_to_sigma(percent)) if percent > 0 else math.inf

        return cls(sigma(start_percent), sigma(end_percent))

    def contains(self, t: Tensor) -> bool:
        """Say whether the patch works at the noise levels t [rows] of a call, which are all the
        same. Both ends belong to the window. One that ends somewhere waits for the GPU.
        """
        if self.first == math.inf and self.last <= 0:
            return True
        return self.last <= float(t.max()) <= self.first


class Plan(Protocol):
    """What a method keeps over one sampling. Immutable: the host may share it between threads."""

    @property
    def window(self) -> Window: ...


class Sampling(NamedTuple):
    """What the host knows when one sampling begins."""

    guider: Any
    sigmas: Tensor  # the schedule
    noise: Tensor  # [B, C, h, w], on the device that samples

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the latent."""
        return self.noise.shape[-2], self.noise.shape[-1]

    @property
    def entries(self) -> list[dict[str, Any]]:
        """All conditioning entries of the guider, in its order."""
        return [entry for entries in self.guider.conds.values() for entry in entries]

    @property
    def positive_entries(self) -> list[dict[str, Any]]:
        """The conditioning entries of the guider's positive lists, of which it may have several."""
        lists = self.guider.conds.items()
        return [entry for name, entries in lists if not _is_negative(name) for entry in entries]

    def window(self, start_percent: float, end_percent: float) -> Window:
        """Build the window of two shares of this sampling."""
        return Window.of(self.guider.inner_model.model_sampling, start_percent, end_percent)


class Call(NamedTuple):
    """One call of the network, for the chunks of one batch."""

    network: Any
    x: Tensor  # the noisy latents [rows, C, h, w]
    options: Mapping[str, Any]  # the host's transformer_options


def with_options(options: Mapping[str, Any], **added: Any) -> dict[str, Any]:
    """Return new transformer_options with `added` in them; the host's stay as they are."""
    return {**options, **added}


def with_patch(
    options: Mapping[str, Any], kind: str, patch: Callable, *, first: bool = False
) -> dict[str, Any]:
    """Return new transformer_options with `patch` behind the other patches of its kind, or before
    them as the first.
    """
    patches = options.get("patches", {})
    chain = patches.get(kind, [])
    ordered = [patch, *chain] if first else [*chain, patch]
    return {**options, "patches": {**patches, kind: ordered}}


def options_of(extra_args: Mapping[str, Any]) -> dict[str, Any]:
    """Read the transformer_options out of a sampler's `extra_args`."""
    return extra_args["model_options"]["transformer_options"]


def replace_options(extra_args: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a sampler's `extra_args` anew with other transformer_options."""
    model_options = {**extra_args["model_options"], "transformer_options": options}
    return {**extra_args, "model_options": model_options}


def plan_wrapper(slot: str, make_plan: Callable[[Sampling], Plan | None]) -> Callable:
    """Make the SAMPLER_SAMPLE wrapper that puts a plan under `slot` of the transformer_options.

    `make_plan` returns None where there is nothing to do in this sampling.
    """

    def wrapper(executor, guider, sigmas, extra_args, callback, noise, *args, **kwargs):
        plan = make_plan(Sampling(guider, sigmas, noise))
        if plan is not None:
            options = with_options(options_of(extra_args), **{slot: plan})
            extra_args = replace_options(extra_args, options)
        return executor(guider, sigmas, extra_args, callback, noise, *args, **kwargs)

    return wrapper


def call_wrapper(
    slot: str,
    begin: Callable[[Any, Call], Any],
    patches: Mapping[str, Callable] | None = None,
) -> Callable:
    """Make the APPLY_MODEL wrapper that gives the blocks of one call what they need under `slot`.

    Inside the plan's window that is `begin(plan, call)`; outside, or if `begin` returns None, the
    slot is empty. While it is filled, `patches`, by kind, work next to the attention: behind those
    of all other nodes on its way in, and before them on its way out.
    """

    def wrapper(
        executor,
        x,
        t,
        c_concat=None,
        c_crossattn=None,
        control=None,
        transformer_options=None,
        **extra,
    ):
        options = dict(transformer_options or {})
        plan = options.pop(slot, None)
        if plan is not None and plan.window.contains(t):
            value = begin(plan, Call(executor.class_obj.diffusion_model, x, options))
            if value is not None:
                options[slot] = value
                for kind, patch in (patches or {}).items():
                    options = with_patch(options, kind, patch, first=kind.endswith("output_patch"))
        return executor(x, t, c_concat, c_crossattn, control, options, **extra)

    return wrapper


def add_plan(
    model: Any,
    key: str,
    slot: str,
    make_plan: Callable[[Sampling], Plan | None],
    begin: Callable[[Any, Call], Any],
    patches: Mapping[str, Callable] | None = None,
) -> None:
    """Give a cloned MODEL both wrappers of a method. `key` names the method among all wrappers,
    `slot` this one node's plan: a method may be applied several times to one model. `patches`: see
    `call_wrapper`.
    """
    know_positive_lists(model)
    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, key, plan_wrapper(slot, make_plan))
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, key, call_wrapper(slot, begin, patches))


def know_positive_lists(model: Any) -> None:
    """Let `chunks` of a cloned MODEL know which chunks are positive, whatever the guider.

    The host numbers lists of conditionings by their order in one call. Only for the ordinary
    guidance the positive one is number 0: Dual CFG begins with the negative one, and
    self-attention guidance asks for it alone.
    """
    if not model.get_wrappers(WrappersMP.CALC_COND_BATCH, LISTS):
        model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, LISTS, _read_lists)
        model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, LISTS, _number_lists)


def _is_negative(name: str) -> bool:
    """Whether a list of a guider holds negative prompts: the host names them so."""
    return "neg" in name or "uncond" in name


def _read_lists(executor, guider, sigmas, extra_args, *args, **kwargs):
    """Read which conditioning entries are positive. The host copies an entry with an area to the
    end of the other lists: where it has a uuid twice, the one nearer to the beginning counts.
    """
    ranked = [
        (number, _is_negative(name), entry["uuid"])
        for name, entries in guider.conds.items()
        for number, entry in enumerate(entries)
    ]
    ranked.sort(key=lambda rank: rank[:2], reverse=True)
    lists = {uuid: not is_negative for _, is_negative, uuid in ranked}
    options = with_options(options_of(extra_args), **{LISTS: lists})
    return executor(guider, sigmas, replace_options(extra_args, options), *args, **kwargs)


def _number_lists(executor, model, conds, x, timestep, model_options):
    """Say which of the lists of this call are positive, by their first entries."""
    options = model_options.get("transformer_options", {})
    if LISTS in options:
        lists = options[LISTS]
        positive = frozenset(
            number
            for number, entries in enumerate(conds)
            if entries and lists.get(entries[0].get("uuid"))
        )
        options = with_options(options, **{POSITIVE_LISTS: positive})
        model_options = {**model_options, "transformer_options": options}
    return executor(model, conds, x, timestep, model_options)


class Chunk(NamedTuple):
    """The rows of one conditioning entry in a block's tensor."""

    rows: slice
    uuid: Any  # of the entry; None where the caller of the network does not say it
    positive: bool


def chunks(row_count: int, options: Mapping[str, Any]) -> list[Chunk]:
    """Return the chunks of a tensor with this many rows, in the batch's order.

    `options`: the transformer_options of a block patch or the extra_options of an attention patch.
    The host batches any number of chunks in any order: guidance 1 gives one, two positive prompts
    three.
    """
    kinds, positive = options["cond_or_uncond"], options.get(POSITIVE_LISTS, {POSITIVE})
    uuids = options.get("uuids", [None] * len(kinds))
    batch = row_count // len(kinds)
    return [
        Chunk(slice(k * batch, (k + 1) * batch), uuid, kind in positive)
        for k, (uuid, kind) in enumerate(zip(uuids, kinds, strict=True))
    ]


def token_grid(options: Mapping[str, Any]) -> tuple[int, int]:
    """Return height and width of the tokens at an attention, from its extra_options."""
    height, width = options["activations_shape"][-2:]
    return height, width


def run_as_sampler(
    model: Any,
    function: Callable,
    latent: Tensor,
    conditionings: tuple[Any, Any],
    sigma: float,
    noise: Tensor | None = None,
    seed: int | None = None,
) -> Tensor:
    """Let the host prepare a sampling with guidance 1, and run `function` in the sampler's place.

    The host loads the models, encodes the conditionings (positive, negative) and cleans up
    afterwards. It calls `function(denoise, x, sigmas, extra_args, callback, disable)`, as
    k-diffusion calls a sampler, with the schedule [sigma, 0]. `latent` [B, C, h, w] is as nodes
    carry it; without `noise`, none is added. Returns what the function returns, as nodes carry it.
    """
    return comfy.sample.sample_custom(
        model,
        torch.zeros_like(latent) if noise is None else noise,
        1.0,
        comfy.samplers.KSAMPLER(function),
        torch.tensor([sigma, 0.0]),
        *conditionings,
        latent,
        disable_pbar=True,
        seed=seed,
    )
