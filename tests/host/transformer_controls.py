"""A tiny random ControlNet or MODEL_PATCH for each family that has one, of the host's own classes,
and the VAEs that they ask for.

    CONTROLS[name] -> a Control; `is_known(name)` tells whether this host has it
    make_control(name) -> a CONTROL_NET or a MODEL_PATCH
    apply(control, name, ...) -> a plain MODEL and prompts with the host's own apply node
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import comfy.cldm.dit_embedder
import comfy.cldm.mmdit
import comfy.controlnet
import comfy.latent_formats
import comfy.ldm.flux.controlnet
import comfy.ldm.qwen_image.controlnet as qwen
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.taesd.taesd
import comfy_extras.nodes_model_patch as patch_nodes
import torch
from torch import Tensor
from vitruvian.tests.host import transformer_networks
from vitruvian.tests.host.transformer_networks import CPU, POOLED, randomize

import nodes as core

FLOAT = {"device": CPU, "dtype": torch.float32, "operations": comfy.ops.disable_weight_init}


class Control(NamedTuple):
    """One kind of pose control."""

    model: str  # the family that it is tried with, in transformer_networks
    make: Callable[[], torch.nn.Module]  # its network
    is_patch: bool = False  # a MODEL_PATCH
    latent_format: str = ""  # of the latents that it reads instead of the image
    conds: tuple[str, ...] = ()  # what a ControlNet reads of the conditioning beside the text
    host_class: str = "ControlNet"
    pose_type: int | None = None  # of a union, as its model card numbers them


def _config(name: str, **changes: Any) -> dict[str, Any]:
    config = transformer_networks._accepted(transformer_networks.NETWORKS[name])
    return {**config, **changes, **FLOAT}


def _flux(**changes: Any) -> torch.nn.Module:
    return comfy.ldm.flux.controlnet.ControlNetFlux(**_config("Flux.1 dev", **changes))


def _lllite() -> torch.nn.Module:
    lllite = patch_nodes.comfy.ldm.anima.lllite
    width, inner, embedded = 64, 8, 16
    shapes = {
        "lllite_conditioning1.conv1.weight": (8, 3, 4, 4),
        "lllite_conditioning1.conv3.weight": (16, 8, 4, 4),
        "lllite_conditioning1.proj.weight": (embedded, 16, 1, 1),
    }
    for module in (
        "0_self_attn_q_proj",
        "1_self_attn_v_proj",
        "1_cross_attn_q_proj",
        "0_mlp_layer1",
    ):
        name = f"lllite_dit_blocks_{module}"
        shapes[f"{name}.down.weight"] = (inner, width)
        shapes[f"{name}.cond_to_film.weight"] = (2 * inner, embedded)
    weights = {name: torch.empty(shape) for name, shape in shapes.items()}
    return lllite.AnimaLLLite(weights, {}, **FLOAT)


def _embedder(double: bool) -> torch.nn.Module:
    return comfy.cldm.dit_embedder.ControlNetEmbedder(
        img_size=None,
        patch_size=2,
        in_chans=16,
        num_layers=2,
        main_model_double=2,
        double_y_emb=double,
        attention_head_dim=64,
        num_attention_heads=2,
        adm_in_channels=POOLED,
        **FLOAT,
    )


def _qwen_fun() -> torch.nn.Module:
    return qwen.QwenImageFunControlNetModel(
        inner_dim=64,
        num_attention_heads=2,
        attention_head_dim=32,
        num_control_blocks=2,
        injection_layers=(0, 1),
        **FLOAT,
    )


def _z_image(**changes: Any) -> torch.nn.Module:
    # the host counts on 30 layers of the model; with one layer of control two are enough
    return patch_nodes.comfy.ldm.lumina.controlnet.ZImage_Control(
        dim=256, n_heads=8, n_kv_heads=8, n_control_layers=1, **changes, **FLOAT
    )


CONTROLS = {
    "Flux InstantX": Control(
        "Flux.1 dev",
        lambda: _flux(latent_input=True, control_latent_channels=16),
        latent_format="Flux",
        conds=("y", "guidance"),
    ),
    "Flux union": Control(
        "Flux.1 dev",
        lambda: _flux(latent_input=True, control_latent_channels=16, num_union_modes=10),
        latent_format="Flux",
        conds=("y", "guidance"),
        pose_type=4,
    ),
    "Flux XLabs": Control("Flux.1 dev", _flux, conds=("y", "guidance")),
    "Flux on Chroma": Control(
        "Chroma",
        lambda: _flux(latent_input=True, control_latent_channels=16, guidance_embed=False),
        latent_format="Flux",
        conds=("y", "guidance"),
    ),
    "SD3 InstantX": Control(
        "SD3",
        lambda: comfy.cldm.mmdit.ControlNet(
            num_blocks=1, control_latent_channels=16, **_config("SD3")
        ),
        latent_format="SD3",
        conds=("y",),
    ),
    "SD3.5": Control(
        "SD3.5",
        lambda: _embedder(double=False),
        latent_format="SD3",
        conds=("y",),
        host_class="ControlNetSD35",
    ),
    "Qwen InstantX": Control(
        "Qwen-Image",
        lambda: qwen.QwenImageControlNetModel(**_config("Qwen-Image")),
        latent_format="Wan21",
    ),
    "Qwen Fun": Control(
        "Qwen-Image", _qwen_fun, latent_format="Wan21", host_class="QwenFunControlNet"
    ),
    "Qwen DiffSynth": Control(
        "Qwen-Image",
        lambda: patch_nodes.QwenImageBlockWiseControlNet(num_layers=2, dim=64, **FLOAT),
        is_patch=True,
        latent_format="Wan21",
    ),
    "Z-Image Fun": Control("Z-Image", _z_image, is_patch=True, latent_format="Flux"),
    "Z-Image Fun 2": Control(
        "Z-Image",
        lambda: _z_image(additional_in_dim=17, refiner_control=True),
        is_patch=True,
        latent_format="Flux",
    ),
    "Anima LLLite": Control("Anima", _lllite, is_patch=True),
}


def is_known(name: str) -> bool:
    """Tell whether this host has a control and its family."""
    control = CONTROLS[name]
    if control.is_patch and not name.startswith("Qwen"):
        return hasattr(patch_nodes, "ZImageFunControlnet")
    return transformer_networks.is_known(control.model) and hasattr(
        comfy.controlnet, control.host_class
    )


@functools.cache
def make_control(name: str, seed: int = 11) -> Any:
    """Make the CONTROL_NET or MODEL_PATCH with random weights."""
    control, network = CONTROLS[name], CONTROLS[name].make()
    randomize(network, seed)
    if control.is_patch:
        return comfy.model_patcher.ModelPatcher(network, load_device=CPU, offload_device=CPU)
    reads = getattr(comfy.latent_formats, control.latent_format, None)
    return getattr(comfy.controlnet, control.host_class)(
        network,
        compression_ratio=8 if reads is None else 1,
        latent_format=reads and reads(),
        load_device=CPU,
        extra_conds=list(control.conds),
    )


class VideoVae:
    """Stands for Qwen-Image's VAE, which takes a batch of images for one video as the host does.

    The host's own of that kind has too many weights to make them at random.
    """

    latent_channels, latent_dim = 16, 3

    def __init__(self, seed: int = 12):
        g = torch.Generator().manual_seed(seed)
        self.colors = torch.randn(16, 3, generator=g)

    def spacial_compression_encode(self) -> int:
        return 8

    def encode(self, images: Tensor) -> Tensor:
        small = torch.nn.functional.avg_pool2d(images.movedim(-1, 1), 8)[::4]  # frames
        return torch.einsum("fchw,dc->dfhw", small, self.colors)[None]


@functools.cache
def vae_of(name: str) -> Any:
    """Return the VAE that a control asks for; None for one that reads images."""
    reads = CONTROLS[name].latent_format
    if reads == "Wan21":
        return VideoVae()
    return image_vae() if reads else None


@functools.cache
def image_vae(channels: int = 16) -> Any:
    """Make a small VAE of the host's for images, with random weights."""
    network = comfy.taesd.taesd.TAESD(latent_channels=channels)
    randomize(network, 13)
    return comfy.sd.VAE(sd=network.state_dict(), device=CPU)


def apply(
    name: str,
    model: Any,
    prompts: tuple[list, list],
    image: Tensor,
    strength: float = 1.0,
    window: tuple[float, float] = (0.0, 1.0),
) -> tuple[Any, list, list]:
    """Apply a control with the host's own node: MODEL, positive and negative. A window of its own
    have ControlNets and LLLite.
    """
    control = make_control(name)
    if not CONTROLS[name].is_patch:
        if CONTROLS[name].pose_type is not None:
            control = control.copy()
            control.set_extra_arg("control_type", [CONTROLS[name].pose_type])
        node = core.ControlNetApplyAdvanced()
        conditionings = node.apply_controlnet(
            *prompts, control, image, strength, *window, vae=vae_of(name)
        )
        return model, *conditionings
    if name == "Anima LLLite":
        node = patch_nodes.AnimaLLLiteApply()
        return node.apply_patch(model, control, image, strength, *window)[0], *prompts
    node = patch_nodes.QwenImageDiffsynthControlnet()
    return node.diffsynth_controlnet(model, control, vae_of(name), image, strength)[0], *prompts


def patches_of(model: Any) -> Mapping[str, list]:
    """Return a MODEL's patches of blocks by kind."""
    return model.model_options["transformer_options"].get("patches", {})
