"""Show the output blocks of the host's UNet what the parts of people look like, as a chainable
patch (after HumanDiffusion; `models/appearance.py`).

What the trained layers compute from parts and map stays the same over one sampling. It is computed
in the first step and kept in the plan.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..models import semantic_map, weights
from ..models.appearance import VERSION, Aligned, Alignment, PartFeatures, build_alignment
from ..models.batches import check_batch
from ..models.memory import Part
from .sampling import Call, Sampling, Window, add_plan, chunks, unet_of

KEY = "vitruvian_appearance"
NODE = "Apply Appearance"


class Appearance(NamedTuple):
    """The trained layers of a file."""

    alignment: Alignment
    name: str


@dataclass(frozen=True)
class Settings:
    """The inputs of Apply Appearance that are no weights."""

    strength: float
    map_strength: float
    start_percent: float
    end_percent: float
    area: Tensor | None = None  # [1 or B, 1, H, W] in 0..1: where in the image


class Plan(NamedTuple):
    """What stays the same over one sampling."""

    window: Window
    size: tuple[int, int]  # of the latent
    aligned: dict[tuple, Aligned]  # by place, grid, rows, device and type; empty at the beginning


def load(path: Path) -> Appearance:
    """Load trained layers; ValueError, naming the file, for any other file."""
    tensors, facts = weights.load(path, method="appearance", version=VERSION)
    with weights.fitting(path, "the layers of an alignment"):
        return Appearance(build_alignment(tensors, facts), path.name)


def apply(
    model: Any, appearance: Appearance, parts: Sequence[Part], labels: Tensor, settings: Settings
) -> Any:
    """Clone MODEL so that its output blocks see the semantic map and what its parts look like.

    `labels` [B, H, W]: one map, or one per image. ValueError for models that are no UNet or have
    other blocks, and for parts of another memory.
    """
    check_fit(appearance, unet_of(model, NODE), parts)
    model = model.clone()
    if settings.strength == 0 and settings.map_strength == 0:
        return model
    part_features = collect_features(parts, labels, appearance.alignment.sizes.features)
    slot = f"{KEY}.{id(part_features)}"  # of this node's own plan: several people may be chained
    model.set_model_output_block_patch(_patch(appearance.alignment, part_features, settings, slot))
    add_plan(model, KEY, slot, _make_plan(settings, labels), _begin_call)
    return model


def check_fit(appearance: Appearance, unet: Any, parts: Sequence[Part]) -> None:
    """Raise ValueError if the layers were trained for another UNet or another memory's features."""
    for place, expected in appearance.alignment.channels.items():
        channels = channels_before(unet, place)
        if channels != expected:
            where = "no such block" if channels is None else f"{channels} channels"
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
    """Count the channels that enter an output block, without the skip connection; None if there is
    no such block.
    """
    if place >= len(unet.output_blocks):
        return None
    before = unet.middle_block if place == 0 else unet.output_blocks[place - 1]
    widths = [layer.out_channels for layer in before if hasattr(layer, "out_channels")]
    return widths[-1] if widths else None


def collect_features(parts: Sequence[Part], labels: Tensor, width: int) -> PartFeatures:
    """Collect the parts' features, `width` numbers each; of one class the last part counts."""
    count = len(semantic_map.CLASSES)
    features, has_feature = torch.zeros(1, count, width), torch.zeros(1, count).bool()
    strength = torch.ones(1, count)
    for part in parts:
        features[0, part.part] = part.feature
        has_feature[0, part.part] = True
        strength[0, part.part] = part.strength
    return PartFeatures(features, has_feature, strength, labels)


def _make_plan(settings: Settings, labels: Tensor) -> Callable[[Sampling], Plan]:
    def make_plan(sampling: Sampling) -> Plan:
        counts = {"semantic_map": len(labels)}
        if settings.area is not None:
            counts["mask"] = len(settings.area)
        check_batch(NODE, counts, len(sampling.noise))
        window = sampling.window(settings.start_percent, settings.end_percent)
        return Plan(window, sampling.size, {})

    return make_plan


def _begin_call(plan: Plan, call: Call) -> Plan:
    if tuple(call.x.shape[-2:]) != plan.size:
        raise ValueError(
            f"{NODE}: a map can not be used with a conditioning that has an area. "
            "Remove the area; parts have their own places in the map."
        )
    return plan


def _patch(
    alignment: Alignment, part_features: PartFeatures, settings: Settings, slot: str
) -> Callable:
    """Make the output block patch that adds the layers' results to the positive chunks."""

    @lru_cache(maxsize=2)
    def on_device(
        device: torch.device, dtype: torch.dtype
    ) -> tuple[Alignment, PartFeatures, Tensor]:
        """Copy the layers and their inputs to a device, and compute the parts' tokens."""
        layers = copy.deepcopy(alignment).to(device, dtype)
        features, *others = part_features
        moved = PartFeatures(features.to(device, dtype), *(tensor.to(device) for tensor in others))
        return layers, moved, layers.tokens(moved.features, moved.has_feature)

    @lru_cache(maxsize=16)
    def area(grid: tuple[int, int], device: torch.device, dtype: torch.dtype) -> Tensor:
        assert settings.area is not None
        return interpolate(settings.area, grid, mode="area").to(device, dtype)

    def aligned(plan: Plan, place: int, rows: int, h: Tensor) -> Aligned:
        """Return what the layer at a place needs for so many rows, computed in the first step."""
        grid = h.shape[-2], h.shape[-1]
        key = (place, grid, rows, h.device, h.dtype)
        if key not in plan.aligned:
            layers, moved, tokens = on_device(h.device, h.dtype)
            aligned_row = layers.at(place).align(tokens, moved, grid)
            plan.aligned[key] = Aligned(*(t.expand(rows, *t.shape[1:]) for t in aligned_row))
        return plan.aligned[key]

    def patch(h, skip, options):
        plan: Plan | None = options.get(slot)
        block, place = options["block"]
        if plan is None or block != "output" or place not in alignment.channels:
            return h, skip
        layer = on_device(h.device, h.dtype)[0].at(place)
        outputs = []
        for chunk in chunks(len(h), options):
            rows = h[chunk.rows]
            if chunk.positive:
                layer_inputs = aligned(plan, place, len(rows), h)
                change = layer(rows, layer_inputs, settings.strength, settings.map_strength)
                if settings.area is not None:
                    change = change * area((h.shape[-2], h.shape[-1]), h.device, h.dtype)
                rows = rows + change
            outputs.append(rows)
        return torch.cat(outputs), skip

    return patch
