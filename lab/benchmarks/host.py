"""Images for benchmarks by the host's own nodes, in this process.

`dev.py bench` has put the host on the path and read its command line.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

STEPS, CFG = 20, 4.0


class Loaded(NamedTuple):
    """Hold the outputs of the host's stock loaders."""

    model: Any
    clip: Any
    vae: Any
    controlnet: Any


def load(checkpoint: str, controlnet: str) -> Loaded:
    """Load by file name, with the pack registered as the host itself registers it."""
    import nodes

    pack = sys.modules[__package__.split(".")[0]]
    asyncio.run(pack.comfy_entrypoint())
    with torch.inference_mode():
        model, clip, vae = nodes.CheckpointLoaderSimple().load_checkpoint(checkpoint)[:3]
        return Loaded(model, clip, vae, nodes.ControlNetLoader().load_controlnet(controlnet)[0])


def text(loaded: Loaded, *prompts: str) -> Any:
    """Encode a prompt with CLIPTextEncode, or of one for each image of a batch."""
    import nodes

    with torch.inference_mode():
        each = [nodes.CLIPTextEncode().encode(loaded.clip, prompt)[0][0] for prompt in prompts]
        pooled = torch.cat([extra["pooled_output"] for _, extra in each])
        return [[torch.cat([tokens for tokens, _ in each]), {"pooled_output": pooled}]]


def sample(
    model: Any, positive: Any, negative: Any, latent: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Sample with KSampler (euler, normal)."""
    import nodes

    with torch.inference_mode():
        return nodes.common_ksampler(
            model, seed, STEPS, CFG, "euler", "normal", positive, negative, latent
        )[0]


def empty(size: int, count: int = 1) -> dict[str, Any]:
    import nodes

    return nodes.EmptyLatentImage().generate(size, size, count)[0]


def decode(loaded: Loaded, latent: dict[str, Any]) -> Tensor:
    """Decode a latent to images [B,3,H,W] in 0..1."""
    import nodes

    with torch.inference_mode():
        image = nodes.VAEDecode().decode(loaded.vae, latent)[0]
    return image.permute(0, 3, 1, 2).clamp(0, 1).float().cpu()


def controlled(
    loaded: Loaded, positive: Any, negative: Any, hint: Tensor, strength: float = 1.0
) -> tuple[Any, Any]:
    """Apply the ControlNet with hints [B,H,W,3]."""
    import nodes

    apply = nodes.ControlNetApplyAdvanced().apply_controlnet
    return apply(positive, negative, loaded.controlnet, hint, strength, 0.0, 1.0, vae=loaded.vae)


def images(
    loaded: Loaded,
    prompts: Sequence[str],
    hints: Tensor | None,
    size: int,
    *,
    seed: int = 0,
    batch: int = 10,
) -> Tensor:
    """Generate one image per prompt, [B,3,size,size] in 0..1, controlled by hints
    [B,3,size,size] if given, `batch` prompts at a time.
    """
    image_chunks = []
    for start in range(0, len(prompts), batch):
        rows = slice(start, start + batch)
        chunk = prompts[rows]
        conds = text(loaded, *chunk), text(loaded, "")
        if hints is not None:
            conds = controlled(loaded, *conds, hints[rows].movedim(1, -1))
        latent = sample(loaded.model, *conds, empty(size, len(chunk)), seed + start)
        image_chunks.append(decode(loaded, latent))
    return torch.cat(image_chunks)
