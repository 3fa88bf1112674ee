"""The hand generator on the host's UNet: low-rank changes through the host's own LoRA code, the
hint added to the first features, and the mask read from the last ones.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.sample
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..models import weights
from ..models.hand_generator import (
    STRIDE,
    VERSION,
    HandGenerator,
    KeypointFeatures,
    LoadedHandGenerator,
    heat_maps,
)
from ..models.pose import People

KEY = "vitruvian_hand_generator"
OWN = "hand."
POSITIVE = 0  # in the host's cond_or_uncond


def load(path: Path) -> LoadedHandGenerator:
    """A hand generator from its file; raises ValueError, naming the file, for any other."""
    tensors, _ = weights.load(path, method="hands", version=VERSION)
    own = {key.removeprefix(OWN): t.float() for key, t in tensors.items() if key.startswith(OWN)}
    try:
        network = HandGenerator(len(own["first.bias"])).requires_grad_(False)
        network.load_state_dict(own)
    except (KeyError, RuntimeError) as wrong:
        raise ValueError(f"{path}: expected the layers of a hand generator: {wrong}") from None
    changes = {key: t for key, t in tensors.items() if not key.startswith(OWN)}
    return LoadedHandGenerator(network.eval(), changes, path.name)


def generate(
    model: Any, loaded: LoadedHandGenerator, frames: Sequence[People], strength: float
) -> Any:
    """A clone of MODEL that paints the hands of `frames`, one frame per picture of the batch."""
    width = model.get_model_object("diffusion_model").input_blocks[0][0].out_channels
    if width != loaded.network.channels:
        raise ValueError(
            f"{loaded.name} was made for a UNet of {loaded.network.channels} channels, "
            f"but the model has {width}: load the checkpoint that it was trained on."
        )
    model = model.clone()
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    model.add_patches(comfy.lora.load_lora(loaded.low_rank, keys), strength)
    hints = _hints(loaded.network, frames)
    model.set_attachments(KEY, hints)
    if strength != 0:
        model.set_model_input_block_patch(_add_hint(hints, strength))
    return model


def _hints(
    network: HandGenerator, frames: Sequence[People]
) -> Callable[[int, int, int], KeypointFeatures]:
    """The hint of a batch of latents of so many cells, on the CPU: the same in every step."""

    @lru_cache(maxsize=2)
    def hints(batch: int, height: int, width: int) -> KeypointFeatures:
        each = [frames[min(k, len(frames) - 1)] for k in range(batch)]
        return network(torch.stack([_heat(people, height, width) for people in each]))

    return hints


def _heat(people: People, height: int, width: int) -> Tensor:
    """Heat maps of the first person's hands; the picture is covered by the pose's canvas."""
    cell = min(people.width / width, people.height / height)
    return heat_maps(people.left_hand[0], people.right_hand[0], cell, height, width)


def _add_hint(hints: Callable[[int, int, int], KeypointFeatures], strength: float) -> Callable:
    """To the positive chunks only, as classifier-free guidance was trained."""

    @lru_cache(maxsize=2)
    def first(batch: int, height: int, width: int, device: Any, dtype: Any) -> Tensor:
        return strength * hints(batch, height, width).first.to(device, dtype)

    def patch(h: Tensor, options: dict[str, Any]) -> Tensor:
        if options["block"] != ("input", 0):
            return h
        chunks = options["cond_or_uncond"]
        batch = len(h) // len(chunks)
        hint = first(batch, *h.shape[-2:], h.device, h.dtype)
        parts = [
            part + hint if kind == POSITIVE else part
            for part, kind in zip(h.split(batch), chunks, strict=True)
        ]
        return torch.cat(parts)

    return patch


def predict_mask(model: Any, loaded: LoadedHandGenerator, positive: Any, latent: Tensor) -> Tensor:
    """Where the hand is in finished latents [B, 4, h, w] as nodes carry them -> [B, 8h, 8w] in
    0..1. The network runs once, at the lowest noise level; `model` comes from `generate`.
    """
    hints = model.get_attachment(KEY)
    if hints is None:
        raise ValueError(
            "the model does not come from Apply Hand Generator: connect that node's output."
        )
    features: list[Tensor] = []

    def listen(executor, *args, **kwargs):
        unet = executor.class_obj.diffusion_model
        hook = unet.out.register_forward_pre_hook(lambda _, h: features.append(h[0].float().cpu()))
        try:
            return executor(*args, **kwargs)
        finally:
            hook.remove()

    def once(denoise, x, sigmas, extra_args=None, callback=None, disable=None):
        denoise(x, sigmas[0] * x.new_ones(len(x)), **(extra_args or {}))
        return x

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, listen)
    sigmas = torch.tensor([float(model.get_model_object("model_sampling").sigma_min), 0.0])
    comfy.sample.sample_custom(
        model,
        torch.zeros_like(latent),
        1.0,
        comfy.samplers.KSAMPLER(once),
        sigmas,
        positive,
        positive,
        latent,
        disable_pbar=True,
    )
    hint = hints(len(latent), *latent.shape[-2:])
    logits = loaded.network.predict_mask(torch.cat(features), hint)
    height, width = (STRIDE * side for side in latent.shape[-2:])
    return logits.sigmoid()[:, :height, :width]
