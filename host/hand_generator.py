"""Apply the hand generator to the host's UNet: low-rank weights through the host's own LoRA code,
features of the hands' keypoints added to the UNet's first, and a mask read from its last.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import comfy.lora
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..models import weights
from ..models.batches import check_batch, one_each
from ..models.hand_generator import (
    STRIDE,
    VERSION,
    HandGenerator,
    KeypointFeatures,
    LoadedHandGenerator,
    heat_maps,
)
from ..models.pose import People, count, cover_canvas
from .sampling import chunks, run_as_sampler, unet_of

KEY = "vitruvian_hand_generator"
NODE = "Apply Hand Generator"
PREFIX = "hand."  # of the generator's own layers in a file

Features = Callable[[int, int, int], KeypointFeatures]  # of batch, height and width of a latent


def load(path: Path) -> LoadedHandGenerator:
    """Load a hand generator; ValueError, naming the file, for any other file."""
    tensors, _ = weights.load(path, method="hands", version=VERSION)
    layers = {
        key.removeprefix(PREFIX): tensor.float()
        for key, tensor in tensors.items()
        if key.startswith(PREFIX)
    }
    try:
        network = HandGenerator(len(layers["first.bias"])).requires_grad_(False)
        network.load_state_dict(layers)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{path}: expected the layers of a hand generator: {error}") from None
    low_rank = {key: tensor for key, tensor in tensors.items() if not key.startswith(PREFIX)}
    return LoadedHandGenerator(network.eval(), low_rank, path.name)


def apply(
    model: Any, loaded: LoadedHandGenerator, frames: Sequence[People], strength: float
) -> Any:
    """Clone MODEL so that it generates the hands of `frames`, one frame per image of the batch.

    ValueError for models that are no UNet or have another number of channels, and for frames of
    several people or without a single hand.
    """
    _check_frames(frames)
    unet = unet_of(model, NODE)
    channels = unet.input_blocks[0][0].out_channels
    if channels != loaded.network.channels:
        raise ValueError(
            f"{loaded.name} was trained for a UNet of {loaded.network.channels} channels, "
            f"but the model has {channels}: load the checkpoint that it was trained on."
        )
    model = model.clone()
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    model.add_patches(comfy.lora.load_lora(loaded.low_rank, keys), strength)
    features = _keypoint_features(loaded.network, frames)
    model.set_attachments(KEY, features)
    if strength != 0:
        model.set_model_input_block_patch(_add_features(features, strength))
    return model


def _check_frames(frames: Sequence[People]) -> None:
    for number, people in enumerate(frames, 1):
        if count(people) > 1:
            raise ValueError(
                f"frame {number} of 'hand_poses' has {count(people)} people, but an image gets the "
                "hands of one: connect 'hand_poses' of Cut Hands, or choose with Pick People."
            )
    if not any(people.left_hand.any() or people.right_hand.any() for people in frames):
        raise ValueError(
            "'hand_poses' has no points of hands: connect 'hand_poses' of Cut Hands, or turn on "
            "'include_hands' in Detect Pose."
        )


def _keypoint_features(network: HandGenerator, frames: Sequence[People]) -> Features:
    """Compute, on the CPU, what the network makes of the frames for a batch of latents. It is the
    same in every step.
    """

    @lru_cache(maxsize=2)
    def features(batch: int, height: int, width: int) -> KeypointFeatures:
        check_batch(NODE, {"hand_poses": len(frames)}, batch)
        heats = [_heat(people, height, width) for people in one_each(frames, batch)]
        return network(torch.stack(heats))

    return features


def _heat(people: People, height: int, width: int) -> Tensor:
    """Draw heat maps of one person's hands, or of none; the pose's canvas covers the image."""
    people = cover_canvas(people, STRIDE * width, STRIDE * height)
    no_hand = torch.zeros(1, 21, 3)
    left, right = (torch.cat((hand, no_hand))[0] for hand in (people.left_hand, people.right_hand))
    return heat_maps(left, right, STRIDE, height, width)


def _add_features(features: Features, strength: float) -> Callable:
    """Make the patch that adds the features to the positive chunks: only these saw them in
    training with classifier-free guidance.
    """

    @lru_cache(maxsize=2)
    def first(batch: int, height: int, width: int, device: Any, dtype: Any) -> Tensor:
        return strength * features(batch, height, width).first.to(device, dtype)

    def patch(h: Tensor, options: dict[str, Any]) -> Tensor:
        if options["block"] != ("input", 0):
            return h
        batch_chunks = chunks(len(h), options)
        addition = first(len(h) // len(batch_chunks), *h.shape[-2:], h.device, h.dtype)
        return torch.cat(
            [
                h[chunk.rows] + addition if chunk.positive else h[chunk.rows]
                for chunk in batch_chunks
            ]
        )

    return patch


def predict_masks(model: Any, loaded: LoadedHandGenerator, positive: Any, latent: Tensor) -> Tensor:
    """Predict where the hand is in finished latents [B, 4, h, w], as nodes carry them -> masks
    [B, 8h, 8w] in 0..1.

    The network runs once, at the lowest noise level. ValueError if `model` does not come from
    `apply`.
    """
    features = model.get_attachment(KEY)
    if features is None:
        raise ValueError(f"the model does not come from {NODE}: connect that node's output.")
    last_features: list[Tensor] = []

    def listen(executor, *args, **kwargs):
        unet = executor.class_obj.diffusion_model
        hook = unet.out.register_forward_pre_hook(
            lambda _, inputs: last_features.append(inputs[0].float().cpu())
        )
        try:
            return executor(*args, **kwargs)
        finally:
            hook.remove()

    def denoise_once(denoise, x, sigmas, extra_args=None, callback=None, disable=None):
        denoise(x, sigmas[0] * x.new_ones(len(x)), **(extra_args or {}))
        return x

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, listen)
    sigma = float(model.get_model_object("model_sampling").sigma_min)
    run_as_sampler(model, denoise_once, latent, (positive, positive), sigma)
    hint = features(len(latent), *latent.shape[-2:])
    logits = loaded.network.predict_mask(torch.cat(last_features), hint)
    height, width = (STRIDE * side for side in latent.shape[-2:])
    return logits.sigmoid()[:, :height, :width]
