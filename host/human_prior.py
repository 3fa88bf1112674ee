"""The human-centric prior layer on the host's UNet, as chainable patches of cross-attention.

The ordinary attention runs as it would, whatever other patches make of it; an output patch adds
(1 - gamma) times the difference that the human-centric map makes. Values and the way out are shared
and linear, so this is the combined map's result.

Which tokens are human-centric rides on the conditioning (HUMAN). Two wrappers ride on the model:
  SAMPLER_SAMPLE  reads it into a plan by the conditionings' uuids
  APPLY_MODEL     takes the plan away outside start and end: one reading of sigma per call
A viewer puts a function into transformer_options (RECORD), or silences the prior there (OFF).
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import comfy.ldm.modules.attention
import comfy.ldm.modules.diffusionmodules.openaimodel as openaimodel
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from ..models import human_prior, human_tokens, weights
from ..models.human_prior import PriorLayer

KEY = "vitruvian_human_prior"
HUMAN = "vitruvian_human"  # of a conditioning entry: bool [tokens]
WORDS = "vitruvian_words"  # likewise: all words of the prompt, tuple of human_tokens.Word
RECORD = "vitruvian_record"  # in transformer_options: Record, called for every M_h that is added
OFF = "vitruvian_without"  # in transformer_options: true where priors are to do nothing
POSITIVE = 0  # in the host's cond_or_uncond
STAGES = (human_prior.DOWN, human_prior.MID, human_prior.UP)

Place = tuple[str, int, int]  # stage, block, transformer, as the host counts them

# where, chunk, (1 - gamma) strength as a number or on tokens [1, N, 1], M_h [batch, heads, N, T]
Record = Callable[[Place, int, Any, Tensor], None]


class Prior(NamedTuple):
    """A human-centric prior from its file."""

    layers: Mapping[Place, PriorLayer]
    gamma: float  # that it was trained with
    mask: str
    name: str


@dataclass(frozen=True)
class Settings:
    """What the artist asked for."""

    gamma: float
    mask: str
    strengths: Mapping[str, float]  # of each stage
    start: float
    end: float
    area: Tensor | None = None  # [1, 1, H, W] in 0..1: where in the picture


class Human(NamedTuple):
    """A prompt's human-centric tokens, on the sampling's device."""

    marks: Tensor  # bool [tokens]
    positions: Tensor  # of those that are; asked for once, because the answer waits for the GPU


class Plan(NamedTuple):
    """What stays the same over one sampling."""

    human: Mapping[Any, Human]  # of conditionings that name somebody, by uuid
    size: tuple[int, int]  # of the latent
    first: float  # the prior is on from this sigma down
    last: float  # to this one


class Call(NamedTuple):
    """What the patches find in the options of one call of the network."""

    plan: Plan
    attentions: Mapping[Place, nn.Module]


def load(path: Path) -> Prior:
    """A prior from its file; raises ValueError, naming the file, for any other."""
    tensors, facts = weights.load(path, method="human_prior", version=human_prior.VERSION)
    places: dict[Place, dict[str, Tensor]] = {}
    try:
        for key, tensor in tensors.items():
            place, name = key.removeprefix(human_prior.PREFIX).split(".", 1)
            stage, block, transformer = place.split("_")
            own = places.setdefault((stage, int(block), int(transformer)), {})
            own[name] = tensor.float()
        layers = {place: _layer(own) for place, own in places.items()}
    except (ValueError, KeyError, RuntimeError) as wrong:
        raise ValueError(f"{path}: expected the layers of a human-centric prior: {wrong}") from None
    mask = facts.get("mask", human_prior.BEFORE)
    return Prior(layers, float(facts.get("gamma", human_prior.GAMMA)), mask, path.name)


def _layer(tensors: Mapping[str, Tensor]) -> PriorLayer:
    hidden, context = tensors["net.0.weight"].shape
    layer = PriorLayer(context, len(tensors["net.2.weight"]), hidden)
    layer.load_state_dict(tensors)
    return layer.requires_grad_(False).eval()


def encode(
    clip: Any, text: str, added: Sequence[str], removed: Sequence[str]
) -> tuple[Any, list[str]]:
    """The text's CONDITIONING with its words and which are human-centric, and the latter."""
    tokens = clip.tokenize(text)
    chunks = next(iter(tokens.values()))  # SDXL's two encoders cut a text alike
    pieces = [_piece(clip, token) for chunk in chunks for token in chunk]
    words = tuple(human_tokens.join_pieces(pieces))
    chosen = human_tokens.human_words(words, added, removed)
    human = torch.tensor(human_tokens.human_token_mask(chosen, len(pieces)))
    conditioning = [
        [encoded, {**entry, HUMAN: human[: encoded.shape[1]], WORDS: words}]
        for encoded, entry in clip.encode_from_tokens_scheduled(tokens)
    ]
    return conditioning, [word.text for word in chosen]


def _piece(clip: Any, token: tuple) -> str | None:
    """A token as CLIP's vocabulary spells it. Embeddings are tensors and have no spelling, marks of
    beginning and end are no text.
    """
    number = token[0]
    if not isinstance(number, int):
        return None
    ((_, piece),) = clip.tokenizer.untokenize([(number, 1.0)])
    return None if piece.startswith("<|") else piece


def cross_attentions(unet: Any) -> dict[Place, nn.Module]:
    """Every cross-attention of the host's UNet."""
    middle = [] if unet.middle_block is None else [unet.middle_block]
    stages = {
        human_prior.DOWN: unet.input_blocks,
        human_prior.MID: middle,
        human_prior.UP: unet.output_blocks,
    }
    return {
        (stage, number, k): transformer.attn2
        for stage, blocks in stages.items()
        for number, block in enumerate(blocks)
        for layer in block
        for k, transformer in enumerate(getattr(layer, "transformer_blocks", ()))
    }


def apply(model: Any, prior: Prior, settings: Settings) -> Any:
    """A clone of MODEL with the prior beside its cross-attention keys. ValueError for models that
    are no UNet or have other layers than the prior.
    """
    check(prior, cross_attentions(unet_of(model)))
    model = model.clone()
    if settings.gamma == 1 or not any(settings.strengths.values()):
        return model
    slot = f"{KEY}.{id(settings)}"  # of this node's own plan: several priors may be chained
    keep, add = _patches(prior, settings, slot)
    model.set_model_attn2_patch(keep)
    model.set_model_attn2_output_patch(add)
    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, _make_plan(settings, slot))
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, _begin_call(slot))
    return model


def unet_of(model: Any) -> Any:
    """The MODEL's network; ValueError if it is no UNet."""
    unet = model.get_model_object("diffusion_model")
    if not isinstance(unet, openaimodel.UNetModel):
        raise ValueError(
            f"this model ({type(unet).__name__}) is not a UNet. A human-centric prior works with "
            "SD1.5, SD2.x and SDXL checkpoints; load the one it was trained for."
        )
    return unet


def check(prior: Prior, attentions: Mapping[Place, nn.Module]) -> None:
    """ValueError if the prior is for another UNet's attentions."""
    for place, layer in prior.layers.items():
        shape = layer.inner, layer.context
        found = key_shape(attentions[place]) if place in attentions else None
        if found != shape:
            where = "no such layer" if found is None else f"{found[1]} to {found[0]}"
            raise ValueError(
                f"{prior.name} was trained for another model: at {' '.join(map(str, place))} it "
                f"expects keys of {shape[1]} to {shape[0]} channels, the model has {where}. Load "
                "the checkpoint that it was trained for."
            )


def key_shape(attention: Any) -> tuple[int, int]:
    """Channels out of and into a cross-attention's keys."""
    inner, context = attention.to_k.weight.shape
    return inner, context


def _human(marks: Tensor, device: torch.device) -> Human:
    return Human(marks.to(device), marks.nonzero()[:, 0].to(device))


def _make_plan(settings: Settings, slot: str) -> Callable:
    def wrapper(executor, guider, sigmas, extra_args, callback, noise, *args, **kwargs):
        marked = [e for entries in guider.conds.values() for e in entries if HUMAN in e]
        if not marked:
            raise ValueError(
                "Apply Human Prior: no prompt says which of its words are human-centric. Encode "
                "the positive prompt with Encode Human Prompt instead of CLIP Text Encode."
            )
        sampling = guider.inner_model.model_sampling
        plan = Plan(
            {e["uuid"]: _human(e[HUMAN], noise.device) for e in marked if e[HUMAN].any()},
            (noise.shape[-2], noise.shape[-1]),
            float(sampling.percent_to_sigma(settings.start)),
            float(sampling.percent_to_sigma(settings.end)),
        )
        options = extra_args["model_options"]
        inner = {**options["transformer_options"], slot: plan}
        extra_args = {**extra_args, "model_options": {**options, "transformer_options": inner}}
        return executor(guider, sigmas, extra_args, callback, noise, *args, **kwargs)

    return wrapper


def _begin_call(slot: str) -> Callable:
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
        plan: Plan | None = options.pop(slot, None)
        if options.get(OFF):
            plan = None
        if plan is not None and plan.human and plan.last <= float(t.max()) <= plan.first:
            unet = executor.class_obj.diffusion_model
            options[slot] = Call(plan, cross_attentions(unet))
        return executor(x, t, c_concat, c_crossattn, control, options, **extra)

    return wrapper


def _patches(prior: Prior, settings: Settings, slot: str) -> tuple[Callable, Callable]:
    """What keeps a block's inputs before its cross-attention, and what adds to its result."""

    @lru_cache(maxsize=4 * len(prior.layers))
    def layer(place: Place, device: torch.device, dtype: torch.dtype) -> PriorLayer:
        own = prior.layers[place]
        return own if own.training else copy.deepcopy(own).to(device, dtype)

    @lru_cache(maxsize=16)
    def area(grid: tuple[int, int], device: torch.device, dtype: torch.dtype) -> Tensor:
        """The mask on a block's tokens [1, h * w, 1]."""
        assert settings.area is not None
        return interpolate(settings.area, grid, mode="area").flatten(2).mT.to(device, dtype)

    shares = {stage: (1 - settings.gamma) * settings.strengths[stage] for stage in STAGES}

    def keep(n, context, value, extra):
        if slot in extra and _place(extra) in prior.layers:
            extra[f"{slot}.kept"] = n, context, value
        return n, context, value

    def add(n, extra):
        call, kept = extra.get(slot), extra.pop(f"{slot}.kept", None)
        share = shares[extra["block"][0]] if kept else 0
        if share == 0:
            return n
        if len(kept[0]) != len(n):
            raise ValueError(
                "Apply Human Prior: another node in the model's chain (an attention couple) "
                f"changes the batch from {len(kept[0])} to {len(n)} rows between its patches. Use "
                "Compose Instances for several people, or remove one of the two nodes."
            )
        place = _place(extra)
        own, attention = layer(place, n.device, n.dtype), call.attentions[place]
        local: Any = share
        if settings.area is not None:
            _check_whole(call.plan, extra)
            local = share * area(tuple(extra["activations_shape"][-2:]), n.device, n.dtype)
        batch = len(n) // len(extra["uuids"])
        record: Record | None = extra.get(RECORD)
        parts = []
        for k, (uuid, kind) in enumerate(zip(extra["uuids"], extra["cond_or_uncond"], strict=True)):
            rows = slice(k * batch, (k + 1) * batch)
            part, human = n[rows], call.plan.human.get(uuid)
            if human is not None and kind == POSITIVE:
                x, context, value = (each[rows] for each in kept)
                at = Attended(attention, x, context, value, extra["n_heads"])
                part = torch.lerp(part, _of_humans(at, own, human, settings.mask), local)
                if record is not None:
                    record(place, k, local, _map(at, own, human, settings.mask))
            parts.append(part)
        return torch.cat(parts)

    return keep, add


def _place(extra: Mapping[str, Any]) -> Place:
    return (*extra["block"], extra["block_index"])


class Attended(NamedTuple):
    """Rows of one prompt at a block's cross-attention."""

    attention: Any
    n: Tensor  # normed tokens [b, N, C]
    context: Tensor  # [b, T, D], for keys
    value: Tensor  # likewise, for values
    heads: int


def _of_humans(at: Attended, layer: PriorLayer, human: Human, mask: str) -> Tensor:
    """What cross-attention would give if the human-centric map were its only one."""
    marks, context, value = _whole_text(at, human, mask)
    if mask == human_prior.BEFORE:  # attention over these tokens alone
        context, value = context[:, human.positions], value[:, human.positions]
    v = at.attention.to_v(value)
    if mask == human_prior.AFTER:
        v = v * marks[:, None]
    attend = comfy.ldm.modules.attention.optimized_attention
    key = _keys(at, layer, context, marks, mask)
    return at.attention.to_out(attend(at.attention.to_q(at.n), key, v, at.heads))


def _map(at: Attended, layer: PriorLayer, human: Human, mask: str) -> Tensor:
    """M_h [batch, heads, N, T] itself, of which `_of_humans` is the result."""
    marks, context, _ = _whole_text(at, human, mask)
    q, key = at.attention.to_q(at.n).float(), _keys(at, layer, context, marks, mask).float()
    return human_prior.human_map(q, key, marks[None], at.heads, mask)


def _keys(at: Attended, layer: PriorLayer, context: Tensor, marks: Tensor, mask: str) -> Tensor:
    frozen = at.attention.to_k(context)
    return human_prior.human_keys(layer(context, frozen), frozen, marks[None], mask)


def _whole_text(at: Attended, human: Human, mask: str) -> tuple[Tensor, Tensor, Tensor]:
    """The tokens' marks, the context and the value. The host repeats short texts, other packs
    append to them: where other tokens count, they are marked alike, or not at all.
    """
    count, there = len(human.marks), at.context.shape[1]
    if mask != human_prior.KEYS or there == count:
        return human.marks, at.context[:, :count], at.value[:, :count]
    if there % count == 0:
        return human.marks.repeat(there // count), at.context, at.value
    return pad(human.marks, (0, there - count)), at.context, at.value


def _check_whole(plan: Plan, extra: Mapping[str, Any]) -> None:
    if tuple(extra["original_shape"][-2:]) != plan.size:
        raise ValueError(
            "Apply Human Prior: a mask can not be used with a conditioning that has an area. "
            "Remove the mask, or the area."
        )
