"""What the words of a prompt are attended to in a finished picture.

Its latent is noised again to the noise level of each moment, and the host's own sampling evaluates
the network there once. A patch behind all others of the model makes the ordinary map M of every
cross-attention once more; every human-centric prior in the chain tells its own (human_prior.RECORD), which
makes it the combined map, M + share (M_h - M), prior by prior.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import comfy.ldm.modules.diffusionmodules.openaimodel as openaimodel
import comfy.sample
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..models import human_prior as maths
from ..models.human_attention import word_maps
from . import human_prior
from .human_prior import Place

PARTLY = ("area", "mask", "start_percent", "end_percent")  # where and when an entry counts

Maps = dict[Place, Tensor]  # of each cross-attention: [words, h, w]


class Look(NamedTuple):
    """What the network attends to at one moment."""

    without: Maps  # the priors
    with_priors: Maps | None  # None: the model has no prior


def look(
    model: Any,
    conditioning: Any,
    samples: Tensor,
    moments: Sequence[float],
    seed: int,
    columns: Sequence[Sequence[int]],
    on_step: Callable[[int], Any],
) -> list[Look]:
    """The maps of words, given the tokens of each, at moments of the sampling (shares of it), for
    the first of the finished latents [B, C, h, w] and the conditioning's first entry, which counts
    everywhere and always. `on_step` is told 1 after each moment. ValueError for models that are no
    UNet or attend to other texts.
    """
    unet = model.get_model_object("diffusion_model")
    if not isinstance(unet, openaimodel.UNetModel):
        raise ValueError(
            f"this model ({type(unet).__name__}) is not a UNet. Attention maps can be shown for "
            "SD1.5, SD2.x and SDXL checkpoints; load one of those."
        )
    text, entry = conditioning[0]
    whole = [[text, {key: value for key, value in entry.items() if key not in PARTLY}]]
    latent = comfy.sample.fix_empty_latent_channels(model, samples[:1].float())
    has_prior = bool(model.get_wrappers(WrappersMP.APPLY_MODEL, human_prior.KEY))

    def evaluate(moment: float, off: bool) -> Maps:
        sigma = _sigma(model, moment)
        return _evaluate(model, whole, latent, sigma, seed, columns, off)

    looks = []
    for moment in moments:
        without = evaluate(moment, off=True)
        looks.append(Look(without, evaluate(moment, off=False) if has_prior else None))
        on_step(1)
    return looks


def _sigma(model: Any, moment: float) -> float:
    """A noise level that the network was trained for; the host has others for 0 and 1."""
    sampling = model.get_model_object("model_sampling")
    lowest, highest = float(sampling.sigma_min), float(sampling.sigma_max)
    return min(highest, max(lowest, float(sampling.percent_to_sigma(moment))))


def _evaluate(
    model: Any,
    conditioning: Any,
    latent: Tensor,
    sigma: float,
    seed: int,
    columns: Sequence[Sequence[int]],
    off: bool,
) -> Maps:
    """Each cross-attention's maps from one evaluation; off: as if the model had no priors."""
    seen: dict[Place, list[Tensor]] = defaultdict(list)
    tokens = conditioning[0][0].shape[1]

    def once(denoise, x, sigmas, extra_args, callback=None, disable=None):
        guider = denoise.inner_model
        attentions = human_prior.cross_attentions(guider.inner_model.diffusion_model)
        uuid = guider.conds["positive"][0]["uuid"]
        see, combine = _recorder(seen, attentions, uuid, columns, tokens)
        denoise(x, sigmas[:1], **_watched(extra_args, see, combine, off))
        return x

    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))
    comfy.sample.sample_custom(
        model,
        noise,
        1.0,
        comfy.samplers.KSAMPLER(once),
        torch.tensor([sigma, 0.0]),
        conditioning,
        conditioning,
        latent,
        disable_pbar=True,
        seed=seed,
    )
    if not seen:
        raise ValueError(_other_texts("replaces the prompt"))
    return {place: maps[0] for place, maps in seen.items()}  # a guidance may have called it again


def _watched(
    extra_args: dict[str, Any], see: Callable, combine: human_prior.Record, off: bool
) -> dict[str, Any]:
    """The sampler's arguments with `see` behind the model's other patches."""
    options = extra_args["model_options"]
    inner = options["transformer_options"]
    patches = inner.get("patches", {})
    watched = {
        **inner,
        "patches": {**patches, "attn2_patch": [*patches.get("attn2_patch", []), see]},
        human_prior.RECORD: combine,
        human_prior.OFF: off,
    }
    return {**extra_args, "model_options": {**options, "transformer_options": watched}}


def _recorder(
    seen: dict[Place, list[Tensor]],
    attentions: Any,
    uuid: Any,
    columns: Sequence[Sequence[int]],
    tokens: int,
) -> tuple[Callable, human_prior.Record]:
    """What sees the map of every cross-attention for the conditioning entry with this uuid, and
    what adds a prior's to it.
    """
    chunk: int | None = None  # of this call of the network

    def see(n, context, value, extra):
        nonlocal chunk
        uuids = extra["uuids"]
        chunk = uuids.index(uuid) if uuid in uuids else None
        if chunk is not None:
            if len(n) != extra["activations_shape"][0]:
                raise ValueError(_other_texts("changes the batch"))
            row = chunk * (len(n) // len(uuids))
            place = *extra["block"], extra["block_index"]
            attention = _ordinary(attentions[place], n[row, None], context[row, None], extra)
            grid = tuple(extra["activations_shape"][-2:])
            seen[place].append(word_maps(_fold(attention, tokens), columns, grid))
        return n, context, value

    def combine(place: Place, of_chunk: int, share: Any, of_humans: Tensor) -> None:
        if of_chunk == chunk:
            ordinary = seen[place][-1]
            grid = ordinary.shape[-2], ordinary.shape[-1]
            human = word_maps(of_humans[0], columns, grid)
            local = share.float().cpu().view(grid) if isinstance(share, Tensor) else share
            seen[place][-1] = ordinary + local * (human - ordinary)

    return see, combine


def _ordinary(attention: Any, n: Tensor, context: Tensor, extra: dict[str, Any]) -> Tensor:
    """M [heads, N, T]."""
    q, k = attention.to_q(n).float(), attention.to_k(context).float()
    return maths.attention_map(q, k, extra["n_heads"])[0]


def _fold(attention: Tensor, tokens: int) -> Tensor:
    """[heads, N, T] of a text that was repeated beside a longer one, as if it had not been."""
    count = attention.shape[-1]
    if count % tokens:
        return attention
    return attention.unflatten(-1, (count // tokens, tokens)).sum(-2)


def _other_texts(what: str) -> str:
    return (
        f"another node in the model's chain (Compose Instances or an attention couple) {what}, so "
        "the prompt has no map of its own. Connect the model and the conditioning as they are "
        "before that node."
    )
