"""The alignment of parts with their appearance on the host's UNet, as a chainable patch of its
output blocks; and parts as regions of their own prompt, without trained weights.

Two wrappers ride on the model:
  SAMPLER_SAMPLE  makes a plan, which also keeps what stays the same over the sampling
  APPLY_MODEL     takes it away outside start and end: one reading of sigma per call
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor
from torch.nn.functional import interpolate

from ..models import semantic_map, weights
from ..models.appearance import VERSION, Aligned, Alignment, Worn, alignment_of
from ..models.compose import Instance
from ..models.memory import Memory, Part
from ..models.mini import TEXT
from .human_prior import POSITIVE, unet_of
from .phrase_encoder import text_projection

KEY = "vitruvian_appearance"


class Appearance(NamedTuple):
    """An alignment from its file."""

    alignment: Alignment
    name: str


@dataclass(frozen=True)
class Settings:
    """What the artist asked for."""

    strength: float
    map_strength: float
    start: float
    end: float
    area: Tensor | None = None  # [1, 1, H, W] in 0..1: where in the picture


class Plan(NamedTuple):
    """What stays the same over one sampling."""

    size: tuple[int, int]  # of the latent
    first: float  # the alignment is on from this sigma down
    last: float  # to this one
    made: dict[tuple, Aligned]  # by place, grid, rows, device and type: filled in the first step


def load(path: Path) -> Appearance:
    """An alignment from its file; raises ValueError, naming the file, for any other."""
    tensors, facts = weights.load(path, method="appearance", version=VERSION)
    try:
        return Appearance(alignment_of(tensors, facts), path.name)
    except (KeyError, ValueError, RuntimeError) as wrong:
        raise ValueError(f"{path}: expected the layers of an alignment: {wrong}") from None


def apply(
    model: Any, appearance: Appearance, parts: Sequence[Part], labels: Tensor, settings: Settings
) -> Any:
    """A clone of MODEL whose output blocks see the map and what its parts look like. ValueError for
    models that are no UNet or have other blocks, and for parts of another memory.
    """
    check(appearance, unet_of(model), parts)
    model = model.clone()
    if settings.strength == 0 and settings.map_strength == 0:
        return model
    worn = worn_of(parts, labels, appearance.alignment.sizes.features)
    slot = f"{KEY}.{id(worn)}"  # of this node's own plan: several people may be chained
    model.set_model_output_block_patch(_patch(appearance.alignment, worn, settings, slot))
    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, _make_plan(settings, slot, labels))
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, _begin_call(slot))
    return model


def check(appearance: Appearance, unet: Any, parts: Sequence[Part]) -> None:
    """ValueError if the alignment is for another UNet or another memory's features."""
    for place, expected in appearance.alignment.channels.items():
        found = channels_before(unet, place)
        if found != expected:
            where = "no such block" if found is None else f"{found} channels"
            raise ValueError(
                f"{appearance.name} was trained for another model: before output block {place} it "
                f"expects {expected} channels, the model has {where}. Load the checkpoint that it "
                "was trained for."
            )
    width = appearance.alignment.sizes.features
    for part in parts:
        if len(part.feature) != width:
            raise ValueError(
                f"'{part.phrase}' has {len(part.feature)} features, {appearance.name} was trained "
                f"with {width}. Use a memory of the image encoder that it was trained with."
            )


def channels_before(unet: Any, place: int) -> int | None:
    """Of what enters an output block, without the skip connection."""
    if place >= len(unet.output_blocks):
        return None
    before = unet.middle_block if place == 0 else unet.output_blocks[place - 1]
    widths = [layer.out_channels for layer in before if hasattr(layer, "out_channels")]
    return widths[-1] if widths else None


def worn_of(parts: Sequence[Part], labels: Tensor, width: int) -> Worn:
    """Of the last part of each class, where there are several."""
    count = len(semantic_map.CLASSES)
    features, known = torch.zeros(1, count, width), torch.zeros(1, count, dtype=torch.bool)
    strength = torch.ones(1, count)
    for part in parts:
        features[0, part.part] = part.feature
        known[0, part.part] = True
        strength[0, part.part] = part.strength
    return Worn(features, known, strength, labels)


def _make_plan(settings: Settings, slot: str, labels: Tensor) -> Callable:
    def wrapper(executor, guider, sigmas, extra_args, callback, noise, *args, **kwargs):
        if len(labels) not in (1, len(noise)):
            raise ValueError(
                f"Apply Appearance: the map has {len(labels)} pictures, the latent {len(noise)}. "
                "Give one map, or one for each picture of the batch."
            )
        sampling = guider.inner_model.model_sampling
        plan = Plan(
            (noise.shape[-2], noise.shape[-1]),
            float(sampling.percent_to_sigma(settings.start)),
            float(sampling.percent_to_sigma(settings.end)),
            {},
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
        plan: Plan | None = options.get(slot)
        if plan is not None and not plan.last <= float(t.max()) <= plan.first:
            del options[slot]
        elif plan is not None and tuple(x.shape[-2:]) != plan.size:
            raise ValueError(
                "Apply Appearance: a map can not be used with a conditioning that has an area. "
                "Remove the area; parts have their own places in the map."
            )
        return executor(x, t, c_concat, c_crossattn, control, options, **extra)

    return wrapper


def _patch(alignment: Alignment, worn: Worn, settings: Settings, slot: str) -> Callable:
    @lru_cache(maxsize=2)
    def there(device: torch.device, dtype: torch.dtype) -> tuple[Alignment, Worn, Tensor]:
        """Everything on the sampling's device, and the parts' tokens."""
        own = copy.deepcopy(alignment).to(device, dtype)
        moved = Worn(worn.features.to(device, dtype), *(each.to(device) for each in worn[1:]))
        return own, moved, own.tokens(moved.features, moved.known)

    @lru_cache(maxsize=16)
    def area(grid: tuple[int, int], device: torch.device, dtype: torch.dtype) -> Tensor:
        assert settings.area is not None
        return interpolate(settings.area, grid, mode="area").to(device, dtype)

    def change(h, skip, options):
        plan: Plan | None = options.get(slot)
        kind, place = options["block"]
        if plan is None or kind != "output" or place not in alignment.channels:
            return h, skip
        kinds = options["cond_or_uncond"]
        rows, grid = len(h) // len(kinds), tuple(h.shape[-2:])
        own, moved, tokens = there(h.device, h.dtype)
        layer = own.at(place)
        known = (place, grid, rows, h.device, h.dtype)
        if known not in plan.made:
            aligned = layer.align(tokens, moved, grid)
            plan.made[known] = Aligned(*(each.expand(rows, *each.shape[1:]) for each in aligned))
        parts = []
        for k, kind in enumerate(kinds):
            part = h[k * rows : (k + 1) * rows]
            if kind == POSITIVE:
                strengths = settings.strength, settings.map_strength
                added = layer(part, plan.made[known], *strengths)
                if settings.area is not None:
                    added = added * area(grid, h.device, h.dtype)
                part = part + added
            parts.append(part)
        return torch.cat(parts), skip

    return change


def as_regions(
    parts: Sequence[Part], labels: Tensor, clip: Any, memory: Memory, tokens: int
) -> tuple[Instance, ...]:
    """An instance for each part that the map shows: its area, and its phrase encoded with the
    retrieved appearance in the place of `tokens` of the padding behind the words.
    """
    made = []
    for part in parts:
        mask = semantic_map.part_mask(labels[:1], (part.part,))[0]
        if mask.any():
            encoded = encode_part(clip, part, memory, tokens)
            made.append(Instance(encoded, 0, mask, weight=max(part.strength, 0.01)))
    if not made:
        shown = ", ".join(sorted(semantic_map.CLASSES[int(k)] for k in labels.unique()))
        raise ValueError(f"none of the parts is on the map, which has {shown}.")
    return tuple(made)


def encode_part(clip: Any, part: Part, memory: Memory, tokens: int) -> Any:
    """The CONDITIONING of a part's phrase. A feature comes back from the image encoder's space
    through the pseudo-inverse of the text projection, as long as the end token's own row, which
    the projection reads.
    """
    words = clip.tokenize(part.phrase)
    chunk = next(iter(words.values()))[0]
    end = [token[0] for token in chunk].index(TEXT.eos)
    padding = slice(end + 1, min(end + 1 + tokens, len(chunk)))
    back = torch.linalg.pinv(text_projection(clip, memory)) @ part.feature
    changed = []
    for encoded, entry in clip.encode_from_tokens_scheduled(words):
        row = encoded[0, end]
        own = row[-len(back) :]  # SDXL's two encoders stand side by side, the projected one behind
        shown = back.to(own) * (own.norm() / back.norm().to(own))
        encoded = encoded.clone()
        encoded[:, padding] = torch.cat((row[: -len(back)], shown))
        changed.append([encoded, entry])
    return changed
