"""Apply the hand generator to the host's UNet: low-rank weights through the host's own LoRA code,
features of the hands' keypoints added to the UNet's first, and a mask read from its last.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import comfy.lora
import torch
from comfy.patcher_extension import WrappersMP
from comfy.utils import get_attr
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
from ..models.plain_words import size
from ..models.pose import People, count, cover_canvas
from .module_hooks import hook_before, hooked_call
from .prompt_entries import acting_entry
from .sampling import Call, Sampling, Window, add_plan, chunks, run_as_sampler, unet_of

KEY = "vitruvian_hand_generator"
NODE = "Apply Hand Generator"
MASK_NODE = "Predict Hand Masks"
PREFIX = "hand."  # of the generator's own layers in a file
UP, DOWN = ".lora_up.weight", ".lora_down.weight"  # of a pair of low-rank tensors

Features = Callable[[int, int, int], KeypointFeatures]  # of batch, height and width of a latent


def load(path: Path) -> LoadedHandGenerator:
    """Load a hand generator; ValueError, naming the file, for any other file."""
    tensors, _ = weights.load(path, method="hands", version=VERSION)
    layers = {
        key.removeprefix(PREFIX): tensor.float()
        for key, tensor in tensors.items()
        if key.startswith(PREFIX)
    }
    with weights.fitting(path, "the layers of a hand generator"):
        network = HandGenerator(len(layers["first.bias"])).requires_grad_(False)
        network.load_state_dict(layers)
    low_rank = {key: tensor for key, tensor in tensors.items() if not key.startswith(PREFIX)}
    with weights.fitting(path, "the low-rank changes of a hand generator"):
        _check_pairs(low_rank)
    return LoadedHandGenerator(network.eval(), low_rank, path.name)


def _check_pairs(low_rank: Mapping[str, Tensor]) -> None:
    """Raise ValueError or KeyError unless the tensors come in pairs that can be multiplied."""
    for key, tensor in low_rank.items():
        if not key.endswith((UP, DOWN)):
            raise ValueError(f"found '{key}' in it")
        partner = low_rank[
            key.removesuffix(UP) + DOWN if key.endswith(UP) else key.removesuffix(DOWN) + UP
        ]
        up, down = (tensor, partner) if key.endswith(UP) else (partner, tensor)
        if up.shape[1] != down.shape[0]:
            ranks = f"{up.shape[1]} and {len(down)} ranks"
            raise ValueError(f"found '{key}' and its partner with {ranks}")


def _check_changes(model: Any, loaded: LoadedHandGenerator, keys: Mapping[str, str]) -> None:
    """Raise ValueError unless the model has every weight that the generator changes, in its shape:
    the host leaves out those that it does not find.
    """
    for key, up in loaded.low_rank.items():
        if key.endswith(UP):
            place = key.removesuffix(UP)
            down = loaded.low_rank[place + DOWN]
            weight = get_attr(model.model, keys[place]) if place in keys else torch.zeros(0)
            if weight.shape[:1] + weight.shape[1:2] != (len(up), *down.shape[1:2]):
                shape = size(weight.shape) if weight.numel() else "none"
                raise ValueError(
                    f"{loaded.name} was trained for another model: it changes a weight '{place}' "
                    f"of {len(up)} x {down.shape[1]}, and the model has {shape}. Load the "
                    "checkpoint that it was trained on."
                )


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
    _check_changes(model, loaded, keys)
    model.add_patches(comfy.lora.load_lora(loaded.low_rank, keys), strength)
    features = _keypoint_features(loaded.network, frames)
    model.set_attachments(KEY, features)
    if strength != 0:
        model.set_model_input_block_patch(_add_features(features, strength))
        slot = f"{KEY}.{id(features)}"  # of this node's own plan
        add_plan(model, KEY, slot, _make_plan(len(frames)), _check_size)
    return model


class Plan(NamedTuple):
    """What stays the same over one sampling."""

    window: Window
    size: tuple[int, int]  # of the latent


def _make_plan(frame_count: int) -> Callable[[Sampling], Plan]:
    def make_plan(sampling: Sampling) -> Plan:
        check_batch(NODE, {"hand_poses": frame_count}, len(sampling.noise))
        return Plan(sampling.window(0.0, 1.0), sampling.size)

    return make_plan


def _check_size(plan: Plan, call: Call) -> None:
    if tuple(call.x.shape[-2:]) != plan.size:
        raise ValueError(
            f"{NODE}: the hand would be drawn into every part of the image, because the image is "
            "sampled in parts: by a conditioning that has an area, or by a node that samples "
            "tiles. Remove the area, or that node."
        )


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

    The network runs once, at the lowest noise level, with the prompt that acts there. ValueError if
    `model` does not come from `apply`, or if there is no such prompt.
    """
    features = model.get_attachment(KEY)
    if features is None:
        raise ValueError(f"the model does not come from {NODE}: connect that node's output.")
    prompt = [acting_entry(positive, 1.0)]
    last_features: list[Tensor] = []

    def listen(
        executor,
        x,
        t,
        c_concat=None,
        c_crossattn=None,
        control=None,
        transformer_options=None,
        **extra,
    ):
        """Keep what the network's last layers read in its first call: a guidance may call it
        again, or beside the prompt for another.
        """
        options, network = transformer_options or {}, executor.class_obj.diffusion_model
        batch_chunks = chunks(len(x), options)
        positive_rows = [chunk.rows for chunk in batch_chunks if chunk.positive]

        def keep(_, inputs):
            if not last_features and positive_rows:
                last_features.append(inputs[0][positive_rows[0]].float().cpu())

        with hooked_call(network, options, MASK_NODE) as hooked_options:
            hook = hook_before(network.out, keep)
            try:
                return executor(x, t, c_concat, c_crossattn, control, hooked_options, **extra)
            finally:
                hook.remove()

    def denoise_once(denoise, x, sigmas, extra_args=None, callback=None, disable=None):
        denoise(x, sigmas[0] * x.new_ones(len(x)), **(extra_args or {}))
        return x

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, listen)
    sigma = float(model.get_model_object("model_sampling").sigma_min)
    run_as_sampler(model, denoise_once, latent, (prompt, prompt), sigma)
    hint = features(len(latent), *latent.shape[-2:])
    logits = loaded.network.predict_mask(last_features[0], hint)
    height, width = (STRIDE * side for side in latent.shape[-2:])
    return logits.sigmoid()[:, :height, :width]
