"""The human-centric prior layer on the host's UNet, as chainable patches of cross-attention.

The ordinary attention runs as it would, whatever other patches do to it; an output patch adds
(1 - gamma) times the difference between the human-centric map's result and that of the ordinary map
alone. Values and output layer are shared and linear, so without other patches this equals the
result of the combined map; with them, what they add stays as it is.

Which tokens are human-centric travels on the conditioning (HUMAN). Other modules reach the prior
through the transformer_options: RECORD is called for every map, OFF silences the prior.
"""

import copy
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import comfy.ldm.modules.attention
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from ..models import human_prior, human_tokens, weights
from ..models.batches import check_batch
from ..models.human_prior import PriorLayer
from .sampling import Call, Chunk, Sampling, Window, add_plan, chunks, token_grid, unet_of

KEY = "vitruvian_human_prior"
NODE = "Apply Human Prior"
HUMAN = "vitruvian_human"  # in a conditioning entry: bool [tokens]
WORDS = "vitruvian_words"  # in a conditioning entry: all words of the prompt, human_tokens.Word
RECORD = "vitruvian_record"  # in transformer_options: Record, called for every M_h that is added
OFF = "vitruvian_without"  # in transformer_options: true to silence all priors
STAGES = (human_prior.DOWN, human_prior.MID, human_prior.UP)
TENSOR = re.compile(rf"{human_prior.PREFIX}({'|'.join(STAGES)})_(\d+)_(\d+)\.(.+)")  # in a file

Place = tuple[str, int, int]  # stage, block, transformer, as the host counts them

# place, number of the chunk, (1 - gamma) strength as a number or per token [1 or batch, N, 1],
# M_h [batch, heads, N, T]
Record = Callable[[Place, int, Any, Tensor], None]


class Prior(NamedTuple):
    """A human-centric prior of a file."""

    layers: Mapping[Place, PriorLayer]
    gamma: float  # used in its training
    mask: str  # of human_prior.MASKS, used in its training
    name: str


@dataclass(frozen=True)
class Settings:
    """The inputs of Apply Human Prior that are no weights."""

    gamma: float
    mask: str  # of human_prior.MASKS
    strengths: Mapping[str, float]  # of each stage
    start_percent: float
    end_percent: float
    area: Tensor | None = None  # [1 or B, 1, H, W] in 0..1: where in the image


class HumanTokens(NamedTuple):
    """A prompt's human-centric tokens, on the sampling's device."""

    marks: Tensor  # bool [tokens]
    positions: Tensor  # of the marked ones; read once, because reading waits for the GPU


class Plan(NamedTuple):
    """What stays the same over one sampling."""

    window: Window
    human: Mapping[Any, HumanTokens]  # of conditioning entries with such tokens, by uuid
    size: tuple[int, int]  # of the latent


@dataclass(frozen=True)
class ActivePlan:
    """What the patches find in the options of one call of the network inside the window."""

    plan: Plan
    attentions: Mapping[Place, nn.Module]

    def __deepcopy__(self, memo: dict) -> "ActivePlan":
        """Return the same plan to nodes that copy the options: layers of the network are in it."""
        return self


def load(path: Path) -> Prior:
    """Load a prior; ValueError, naming the file, for any other file."""
    tensors, facts = weights.load(path, method="human_prior", version=human_prior.VERSION)
    places: dict[Place, dict[str, Tensor]] = {}
    with weights.fitting(path, "the layers of a human-centric prior"):
        for key, tensor in tensors.items():
            place, name = _read_key(key)
            places.setdefault(place, {})[name] = tensor.float()
        layers = {place: _layer(tensors) for place, tensors in places.items()}
        count = int(facts.get(human_prior.COUNT, len(layers)))
        if not layers or len(layers) != count:
            raise ValueError(f"found {len(layers)} of {count}")
    with weights.fitting(path, "the gamma and the mask that a prior was trained with"):
        gamma, mask = float(facts["gamma"]), facts["mask"]
        if not 0 <= gamma <= 1 or mask not in human_prior.MASKS:
            raise ValueError(f"found gamma {gamma:g} and mask '{mask}'")
    return Prior(layers, gamma, mask, path.name)


def _read_key(key: str) -> tuple[Place, str]:
    """Read a tensor's place, and its name there, from its name in a file; ValueError for others."""
    match = TENSOR.fullmatch(key)
    if match is None:
        raise ValueError(f"found '{key}' in it")
    return (match[1], int(match[2]), int(match[3])), match[4]


def _layer(tensors: Mapping[str, Tensor]) -> PriorLayer:
    hidden, context = tensors["net.0.weight"].shape
    layer = PriorLayer(context, len(tensors["net.2.weight"]), hidden)
    layer.load_state_dict(tensors)
    return layer.requires_grad_(False).eval()


def encode_prompt(
    clip: Any, text: str, added: Sequence[str], removed: Sequence[str]
) -> tuple[Any, list[str]]:
    """Encode a prompt and mark its human-centric tokens.

    `added` and `removed` are words or phrases that change the word list. Returns the CONDITIONING,
    with HUMAN and WORDS in its entries, and the words that were marked.
    """
    tokens = clip.tokenize(text)
    rows = next(iter(tokens.values()))  # SDXL's two encoders cut a text alike
    pieces = [_piece(clip, token) for row in rows for token in row]
    words = tuple(human_tokens.join_pieces(pieces))
    human_words = human_tokens.human_words(words, added, removed)
    human = torch.tensor(human_tokens.human_token_mask(human_words, len(pieces)))
    conditioning = [
        [encoded, {**entry, HUMAN: human[: encoded.shape[1]], WORDS: words}]
        for encoded, entry in clip.encode_from_tokens_scheduled(tokens)
    ]
    return conditioning, [word.text for word in human_words]


def _piece(clip: Any, token: tuple) -> str | None:
    """A token as CLIP's vocabulary spells it; None for embeddings, which are tensors, and for the
    marks of beginning and end.
    """
    number = token[0]
    if not isinstance(number, int):
        return None
    ((_, piece),) = clip.tokenizer.untokenize([(number, 1.0)])
    return None if piece.startswith("<|") else piece


def cross_attentions(unet: Any) -> dict[Place, nn.Module]:
    """List every cross-attention of the host's UNet by its place."""
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
    """Clone MODEL with the prior beside its cross-attention keys. ValueError for models that are no
    UNet or have other layers than the prior.
    """
    check_fit(prior, cross_attentions(unet_of(model, NODE)))
    model = model.clone()
    if settings.gamma == 1 or not any(settings.strengths.values()):
        return model
    slot = f"{KEY}.{id(settings)}"  # of this node's own plan: several priors may be chained
    patches = {
        "attn2_patch": _stash_inputs(prior, slot),
        "attn2_output_patch": _add_human_centric(prior, settings, slot),
    }
    add_plan(model, KEY, slot, _make_plan(settings), _begin_call, patches)
    return model


def check_fit(prior: Prior, attentions: Mapping[Place, nn.Module]) -> None:
    """Raise ValueError if the prior was trained for another UNet's attentions."""
    for place, layer in prior.layers.items():
        expected = layer.inner, layer.context
        shape = key_shape(attentions[place]) if place in attentions else None
        if shape != expected:
            where = "no such layer" if shape is None else f"{shape[1]} to {shape[0]}"
            raise ValueError(
                f"{prior.name} was trained for another model: at {' '.join(map(str, place))} it "
                f"expects keys of {expected[1]} to {expected[0]} channels, the model has {where}. "
                "Load the checkpoint that it was trained for."
            )


def key_shape(attention: Any) -> tuple[int, int]:
    """Return the channels out of and into a cross-attention's keys."""
    inner, context = attention.to_k.weight.shape
    return inner, context


def _make_plan(settings: Settings) -> Callable[[Sampling], Plan | None]:
    def make_plan(sampling: Sampling) -> Plan | None:
        device = sampling.noise.device
        if settings.area is not None:
            check_batch(NODE, {"mask": len(settings.area)}, len(sampling.noise))
        marked = [entry for entry in sampling.positive_entries if HUMAN in entry]
        if not marked:
            raise ValueError(
                f"{NODE}: no positive prompt says which of its words are human-centric. Encode it "
                "with Encode Human Prompt instead of CLIP Text Encode."
            )
        human = {
            entry["uuid"]: _human_tokens(entry[HUMAN], device)
            for entry in marked
            if entry[HUMAN].any()
        }
        window = sampling.window(settings.start_percent, settings.end_percent)
        return Plan(window, human, sampling.size) if human else None

    return make_plan


def _human_tokens(marks: Tensor, device: torch.device) -> HumanTokens:
    return HumanTokens(marks.to(device), marks.nonzero()[:, 0].to(device))


def _begin_call(plan: Plan, call: Call) -> ActivePlan | None:
    return None if call.options.get(OFF) else ActivePlan(plan, cross_attentions(call.network))


def _stash_inputs(prior: Prior, slot: str) -> Callable:
    """Make the patch that stores the inputs of a cross-attention, as other patches have left them,
    in the options that the host makes for this block alone.
    """

    def stash(n, context, value, extra):
        if slot in extra and _place(extra) in prior.layers:
            _check_batch_size(len(n), extra)
            extra[f"{slot}.inputs"] = n, context, value
        return n, context, value

    return stash


def _add_human_centric(prior: Prior, settings: Settings, slot: str) -> Callable:
    """Make the patch that adds the human-centric difference to a cross-attention's result."""
    layer_on, area_on = _layers_on_devices(prior), _areas_on_grids(settings)
    shares = {stage: (1 - settings.gamma) * settings.strengths[stage] for stage in STAGES}

    def add(n, extra):
        active: ActivePlan | None = extra.get(slot)
        inputs = extra.pop(f"{slot}.inputs", None)
        share: Any = shares[extra["block"][0]] if inputs else 0
        if active is None or share == 0:
            return n
        place = _place(extra)
        layer, attention = layer_on(place, n.device, n.dtype), active.attentions[place]
        if settings.area is not None:
            _check_full_size(active.plan, n.shape[1], extra)
            share = share * area_on(token_grid(extra), n.device, n.dtype)
        record: Record | None = extra.get(RECORD)
        outputs = []
        for number, chunk in enumerate(chunks(len(n), extra)):
            rows, human = n[chunk.rows], active.plan.human.get(chunk.uuid)
            if human is not None and chunk.positive:
                at = _attended(attention, inputs, chunk, extra)
                rows = rows + share * _difference(at, layer, human, settings.mask)
                if record is not None:
                    record(place, number, share, _human_map(at, layer, human, settings.mask))
            outputs.append(rows)
        return torch.cat(outputs)

    return add


def _layers_on_devices(prior: Prior) -> Callable[[Place, torch.device, torch.dtype], PriorLayer]:
    @lru_cache(maxsize=4 * len(prior.layers))
    def layer_on(place: Place, device: torch.device, dtype: torch.dtype) -> PriorLayer:
        """A copy of the layer; in training the layer itself."""
        layer = prior.layers[place]
        return layer if layer.training else copy.deepcopy(layer).to(device, dtype)

    return layer_on


def _areas_on_grids(
    settings: Settings,
) -> Callable[[tuple[int, int], torch.device, torch.dtype], Tensor]:
    @lru_cache(maxsize=16)
    def area_on(grid: tuple[int, int], device: torch.device, dtype: torch.dtype) -> Tensor:
        """The artist's mask on a block's tokens [1 or B, h * w, 1]."""
        assert settings.area is not None
        return interpolate(settings.area, grid, mode="area").flatten(2).mT.to(device, dtype)

    return area_on


def _check_batch_size(rows: int, extra: Mapping[str, Any]) -> None:
    expected = extra["activations_shape"][0]
    if rows != expected:
        raise ValueError(
            f"{NODE}: another node in the model's chain (an attention couple) changes the batch of "
            f"the cross-attention from {expected} to {rows} rows. Use Compose Instances for "
            "several people, or remove one of the two nodes."
        )


def _check_full_size(plan: Plan, token_count: int, extra: Mapping[str, Any]) -> None:
    if tuple(extra["original_shape"][-2:]) != plan.size:
        raise ValueError(
            f"{NODE}: a mask can not be used with a conditioning that has an area, or with tiles. "
            "Remove the mask, or the area."
        )
    if math.prod(token_grid(extra)) != token_count:
        raise ValueError(
            f"{NODE}: a mask can not be used with a node that merges tokens. Remove the mask, or "
            "that node."
        )


def _place(extra: Mapping[str, Any]) -> Place:
    return (*extra["block"], extra["block_index"])


class Attended(NamedTuple):
    """Rows of one prompt at a block's cross-attention."""

    attention: Any
    q: Tensor  # [b, N, C]
    context: Tensor  # [b, T, D], for keys
    keys: Tensor  # [b, T, C], the base's
    values: Tensor  # [b, T, C]
    heads: int
    precision: Any  # the host's attn_precision

    def attend(self, keys: Tensor, values: Tensor) -> Tensor:
        """Compute attention, before the output layer."""
        attend = comfy.ldm.modules.attention.optimized_attention
        return attend(self.q, keys, values, self.heads, attn_precision=self.precision)


def _attended(
    attention: Any, inputs: Sequence[Tensor], chunk: Chunk, extra: Mapping[str, Any]
) -> Attended:
    n, context, value = (tensor[chunk.rows] for tensor in inputs)
    return Attended(
        attention,
        attention.to_q(n),
        context,
        attention.to_k(context),
        attention.to_v(value),
        extra["n_heads"],
        extra.get("attn_precision"),
    )


def _difference(at: Attended, layer: PriorLayer, human: HumanTokens, mask: str) -> Tensor:
    """What cross-attention would return if the human-centric map were its only one, less what it
    returns with the ordinary map only.
    """
    marks, context, keys, values = _same_length(at, human, mask)
    if mask == human_prior.BEFORE:  # attention over these tokens alone
        context, keys, values = (x[:, human.positions] for x in (context, keys, values))
    if mask == human_prior.AFTER:
        values = values * marks[:, None]
    trained = human_prior.human_keys(layer(context, keys), keys, marks[None], mask)
    change = at.attend(trained, values) - at.attend(at.keys, at.values)
    bias = at.attention.to_out(torch.zeros_like(change[:1, :1]))
    return at.attention.to_out(change) - bias


def _human_map(at: Attended, layer: PriorLayer, human: HumanTokens, mask: str) -> Tensor:
    """The map M_h [batch, heads, N, T] itself, which `_difference` applies."""
    marks, context, keys, _ = _same_length(at, human, mask)
    trained = human_prior.human_keys(layer(context, keys), keys, marks[None], mask)
    return human_prior.human_map(at.q.float(), trained.float(), marks[None], at.heads, mask)


def _same_length(at: Attended, human: HumanTokens, mask: str) -> tuple[Tensor, ...]:
    """The tokens' marks, and the context, keys and values of the same tokens. The host repeats
    short texts, other packs append to them: where other tokens count, they are marked alike, or
    not at all.
    """
    count, length = len(human.marks), at.context.shape[1]
    tensors = at.context, at.keys, at.values
    if mask != human_prior.KEYS or length == count:
        return human.marks, *(tensor[:, :count] for tensor in tensors)
    if length % count == 0:
        return human.marks.repeat(length // count), *tensors
    return pad(human.marks, (0, length - count)), *tensors
