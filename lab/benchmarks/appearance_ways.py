"""Ways to dress a person: words in the prompt, what a memory answers to the same words, both.

All with the same pose and seeds, through the host's own nodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...models import memory, semantic_map
from ...models.appearance import Alignment
from ...models.mini import IMAGE_SIZE
from ..world.dataset import draw_hint
from . import host
from .appearance_scenes import Cases

GROWN = 8  # pixels around a top that are inpainted with it
BLEND = 0.0  # share of the words' own features beside the memory's
FINEST = 4  # the output block before which the layer of the finest scale stands


class Sampling(NamedTuple):
    """Hold what goes to the sampler."""

    model: Any
    positive: Any
    negative: Any


Way = Callable[[Cases, int], Sampling]  # of one of the scenes


def prompted(loaded: host.Loaded, words: bool) -> Way:
    """Sample from a prompt and the pose alone; the prompt names the clothes, or none."""

    def way(cases: Cases, i: int) -> Sampling:
        prompt = (cases.captions if words else cases.bare)[i]
        conds = host.text(loaded, prompt), host.text(loaded, "")
        hint = draw_hint(i, cases.scenes, cases.truth).movedim(0, -1)[None]
        return Sampling(loaded.model, *host.controlled(loaded, *conds, hint))

    return way


class Layers(NamedTuple):
    """The trained layers and the memory that they get looks from."""

    appearance: Any  # as Load Appearance gives it
    garments: memory.Memory


def load_layers(file: Path, garments: memory.Memory) -> Layers:
    """Load trained layers from a file, which may lie where the host does not look."""
    from ...host.appearance import load

    with torch.inference_mode():
        return Layers(load(file), garments)


def one_scale(layers: Layers, place: int = FINEST) -> Layers:
    """Keep the layer of one scale only."""
    alignment = layers.appearance.alignment
    alone = Alignment({place: alignment.channels[place]}, alignment.sizes)
    tensors = alignment.state_dict()
    alone.load_state_dict({key: tensors[key] for key in alone.state_dict()})
    alone.requires_grad_(False).eval()
    return layers._replace(appearance=layers.appearance._replace(alignment=alone))


def applied(
    loaded: host.Loaded,
    layers: Layers,
    words: bool = False,
    blend: float = BLEND,
    looks: Mapping[int, str] | None = None,
) -> Way:
    """Sample with Apply Appearance; `looks`: everybody's phrases, else each person's own."""
    from ...nodes.appearance import VitruvianApplyAppearance

    plain = prompted(loaded, words)

    @torch.inference_mode()
    def way(cases: Cases, i: int) -> Sampling:
        sampling = plain(cases, i)
        (model,) = VitruvianApplyAppearance.execute(
            sampling.model,
            layers.appearance,
            retrieved(loaded, layers.garments, looks or cases.looks[i], blend),
            cases.maps[i : i + 1],
            strength=1.0,
            map_strength=1.0,
            start_percent=0.0,
            end_percent=1.0,
        ).result
        return sampling._replace(model=model)

    return way


@torch.inference_mode()
def retrieved(
    loaded: host.Loaded, garments: memory.Memory, looks: Mapping[int, str], blend: float = BLEND
) -> tuple[memory.Part, ...]:
    """Ask a memory for a person's phrases."""
    from ...nodes.retrieval import TO_PROMPT, VitruvianRetrieveAppearance

    text = ", ".join(f"{semantic_map.CLASSES[part]}: {phrase}" for part, phrase in looks.items())
    return VitruvianRetrieveAppearance.execute(
        garments,
        loaded.clip,
        text,
        "{phrase}",
        memory.TOP_K,
        memory.TEMPERATURE,
        blend,
        TO_PROMPT,
        TO_PROMPT,
        0,
    ).result[0]


def generate(loaded: host.Loaded, way: Way, cases: Cases, i: int) -> Tensor:
    """Generate the image of scene i [1,3,H,W]; its number is its seed."""
    return host.decode(loaded, host.sample(*way(cases, i), host.empty(IMAGE_SIZE), i))


@torch.inference_mode()
def edit(loaded: host.Loaded, way: Way, cases: Cases, i: int) -> Tensor:
    """Inpaint the top of the true image of scene i, and a little around it [1,3,H,W]."""
    import nodes

    before, mask = cases.truth.rgb[i : i + 1], top_mask(cases, i, GROWN)
    (latent,) = nodes.VAEEncode().encode(loaded.vae, before.movedim(1, -1))
    (latent,) = nodes.SetLatentNoiseMask().set_mask(latent, mask[0])
    after = host.decode(loaded, host.sample(*way(cases, i), latent, i))
    return torch.where(mask > 0, after, before)


def top_mask(cases: Cases, i: int, grow: int = 0) -> Tensor:
    """Mask the top of a person [1,1,H,W]."""
    return semantic_map.part_mask(cases.maps[i : i + 1], (semantic_map.TOP,), grow)[:, None]


def outside_psnr(after: Tensor, before: Tensor, masks: Tensor) -> float:
    """Compare images [B,3,H,W] where the masks [B,1,H,W] are 0, all together."""
    error = (after - before).square()[(masks == 0).expand_as(before)].mean()
    return -10 * math.log10(float(error.clamp(min=1e-10)))
