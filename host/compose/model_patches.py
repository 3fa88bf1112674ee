"""The families' own controls that are no ControlNets: MODEL_PATCHes that read a drawn pose.

Z-Image's Fun union, Qwen-Image's block-wise ControlNets and Anima's LLLite. The host's own nodes
make their patches of blocks, for images that lie in the batch as the network's rows do: each row is
controlled by its own image.
"""

from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy_extras.nodes_model_patch as host_nodes
import torch
from torch import Tensor

from .control_kinds import ANIMA, pose_patch_kind


class DrawingEncoder:
    """The VAE as a control asks for it: it encodes the images one by one, and equal ones once.

    A VAE of videos would take a batch of images for the frames of one video. Several people,
    images of a batch and calls of the network ask for the same drawings again.

    vae: None where the control reads the images themselves.
    """

    def __init__(self, vae: Any, device: torch.device):
        self.vae, self.device = vae, device
        self._latents: list[tuple[Tensor, Tensor]] = []  # an image and its latent

    def encode(self, images: Tensor) -> Tensor:
        """Encode images [B, H, W, 3] to latents on the device that samples."""
        return torch.cat([self._latent(image) for image in images.split(1)])

    def spacial_compression_encode(self) -> int:
        """Return the pixels per latent cell, under the host's name."""
        return self.vae.spacial_compression_encode()

    def _latent(self, image: Tensor) -> Tensor:
        for encoded_image, latent in self._latents:
            if encoded_image.shape == image.shape and torch.equal(encoded_image, image):
                return latent
        # the VAE may push the sampled model out of a small GPU
        loaded = comfy.model_management.loaded_models(only_currently_used=True)
        latent = self.vae.encode(image).to(self.device)
        comfy.model_management.load_models_gpu(loaded)
        self._latents.append((image, latent))
        return latent


def drawn_patches(
    model_patch: Any, encoder: DrawingEncoder, images: Tensor, strength: float, model: Any
) -> dict[str, list]:
    """Return a MODEL_PATCH's patches of blocks by their kinds, for images [rows or 1, H, W, 3].

    model: the host's BaseModel that is sampled.
    """
    device = encoder.device
    # an empty MODEL collects the patches: a clone of the sampled one moves it when it is deleted
    empty = comfy.model_patcher.ModelPatcher(torch.nn.Module(), device, device)
    empty.add_object_patch("model_sampling", model.model_sampling)
    if ANIMA in pose_patch_kind(model_patch.model).bases:
        node = host_nodes.AnimaLLLiteApply()
        (patched,) = node.apply_patch(empty, model_patch, images, strength, 0.0, 1.0)
    else:
        node = host_nodes.QwenImageDiffsynthControlnet()
        (patched,) = node.diffsynth_controlnet(empty, model_patch, encoder, images, strength)
    return {
        kind: [patch.to(device) if hasattr(patch, "to") else patch for patch in patches]
        for kind, patches in patched.model_options["transformer_options"]["patches"].items()
    }
