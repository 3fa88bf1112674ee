"""Pictures for benchmarks by the host's own nodes, in this process.

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
    """What the host's stock loaders gave."""

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


def pictures(
    loaded: Loaded,
    prompts: Sequence[str],
    hints: Tensor | None,
    size: int,
    *,
    seed: int = 0,
    batch: int = 10,
) -> Tensor:
    """One picture per prompt, [B,3,size,size] in 0..1: CLIPTextEncode, ControlNetApplyAdvanced if
    hints [B,3,size,size] are given, KSampler (euler, normal), VAEDecode, `batch` prompts at a
    time."""
    import nodes

    made = []
    with torch.inference_mode():
        for start in range(0, len(prompts), batch):
            rows = slice(start, start + batch)
            some = prompts[rows]
            encode = nodes.CLIPTextEncode().encode
            texts = [encode(loaded.clip, text)[0][0] for text in some]
            positive = [
                [
                    torch.cat([t for t, _ in texts]),
                    {"pooled_output": torch.cat([d["pooled_output"] for _, d in texts])},
                ]
            ]
            negative = encode(loaded.clip, "")[0]
            if hints is not None:
                apply = nodes.ControlNetApplyAdvanced().apply_controlnet
                hint = hints[rows].permute(0, 2, 3, 1)
                positive, negative = apply(
                    positive, negative, loaded.controlnet, hint, 1.0, 0.0, 1.0, vae=loaded.vae
                )
            latent = nodes.EmptyLatentImage().generate(size, size, len(some))[0]
            latent = nodes.common_ksampler(
                loaded.model,
                seed + start,
                STEPS,
                CFG,
                "euler",
                "normal",
                positive,
                negative,
                latent,
            )[0]
            made.append(nodes.VAEDecode().decode(loaded.vae, latent)[0].permute(0, 3, 1, 2))
    return torch.cat(made).clamp(0, 1).float().cpu()
