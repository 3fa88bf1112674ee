"""The kinds of control that the host loads, and which networks each of them fits.

Wrong pairs fail deep inside a block, or are left out by the host without a word: so they are
refused here, by the names that an artist knows. A control of a kind that is not listed, another
pack's, is let through.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import comfy.latent_formats
from comfy.cldm.control_types import UNION_CONTROLNET_TYPES

from .streams import NODE

FLUX_UNION_POSE = 4  # of Flux's union models; the host's list of types has SDXL's numbers
UNET, FLUX, CHROMA, QWEN, MMDIT, LUMINA, ANIMA, HUNYUAN, CASCADE = (
    "openaimodel.UNetModel",
    "flux.model.Flux",
    "chroma.model.Chroma",
    "qwen_image.model.QwenImageTransformer2DModel",
    "diffusionmodules.mmdit.MMDiT",
    "lumina.model.NextDiT",
    "anima.model.Anima",
    "hydit.models.HunYuanDiT",
    "cascade.stage_c.StageC",
)


class ControlKind(NamedTuple):
    """One kind of control network. Classes are named by the ends of their full names: an old host
    has not all of them, and a server loads the modules of its nodes under names of its own.
    """

    name: str  # of the models that it is for
    network: str  # its class
    bases: tuple[str, ...]  # the classes of networks that it fits
    size: Callable[[Any], Any]  # of layers that have to agree, None where it is not known
    base_size: Callable[[Any], Any]  # the same of a network that it fits
    modes: str = ""  # of a union: its attribute that counts the types of images it knows
    pose_mode: int = 0  # the type of a drawn pose
    latent_format: type | None = None  # of the latents that a model patch reads
    cells: int = 1  # a model patch sees a latent padded to a multiple of so many cells


def _text_width(network: Any) -> int | None:
    """The width of the texts that a UNet, or a ControlNet of one, attends to."""
    attentions = (m for name, m in network.named_modules() if name.endswith(".attn2"))
    return next((attention.to_k.in_features for attention in attentions), None)


def _lora_text_width(control: Any) -> int | None:
    weights = control.control_weights.items()
    return next((w.shape[1] for name, w in weights if name.endswith("attn2.to_k.down")), None)


def _adapter_text_width(adapter: Any) -> int | None:
    """A T2I-Adapter reads no text, but those for SDXL know that they are."""
    return SDXL_TEXT if adapter.xl else None


def _flux_size(network: Any) -> tuple[int, int]:
    """Width of the texts and cells per token: Flux.2 differs from Flux.1 in both."""
    return network.params.context_in_dim, network.params.patch_size


SDXL_TEXT = 2048

CONTROL_NETS = (
    ControlKind(
        "SD1.5, SD2.x or SDXL",
        "cldm.cldm.ControlNet",
        (UNET,),
        _text_width,
        _text_width,
        "num_control_type",
        UNION_CONTROLNET_TYPES["openpose"],
    ),
    ControlKind("SDXL", "controlnet.ControlLora", (UNET,), _lora_text_width, _text_width),
    ControlKind(
        "SD1.5 or SDXL", "t2i_adapter.adapter.Adapter", (UNET,), _adapter_text_width, _text_width
    ),
    ControlKind(
        "SD1.5",
        "t2i_adapter.adapter.Adapter_light",
        (UNET,),
        lambda adapter: None,
        _text_width,
    ),
    ControlKind(
        "Stable Cascade",
        "cascade.controlnet.ControlNet",
        (CASCADE,),
        lambda net: None,
        lambda net: None,
    ),
    ControlKind(
        "Flux.1",
        "flux.controlnet.ControlNetFlux",
        (FLUX, CHROMA),
        _flux_size,
        _flux_size,
        "num_union_modes",
        FLUX_UNION_POSE,
    ),
    ControlKind(
        "Qwen-Image",
        "qwen_image.controlnet.QwenImageControlNetModel",
        (QWEN,),
        lambda net: net.inner_dim,
        lambda net: net.inner_dim,
    ),
    ControlKind(
        "Qwen-Image",
        "qwen_image.controlnet.QwenImageFunControlNetModel",
        (QWEN,),
        lambda net: net.control_img_in.out_features,
        lambda net: net.inner_dim,
    ),
    ControlKind(
        "SD3",
        "cldm.mmdit.ControlNet",
        (MMDIT,),
        lambda net: net.hidden_size,
        lambda net: net.hidden_size,
    ),
    ControlKind(
        "SD3.5",
        "cldm.dit_embedder.ControlNetEmbedder",
        (MMDIT,),
        lambda net: net.hidden_size,
        lambda net: net.hidden_size,
    ),
    ControlKind(
        "HunyuanDiT",
        "hydit.controlnet.HunYuanControlNet",
        (HUNYUAN,),
        lambda net: None,
        lambda net: None,
    ),
)
MODEL_PATCHES = (
    ControlKind(
        "Z-Image",
        "lumina.controlnet.ZImage_Control",
        (LUMINA,),
        lambda net: net.control_all_x_embedder["2-1"].out_features,
        lambda net: net.dim,
        latent_format=comfy.latent_formats.Flux,
        cells=2,
    ),
    ControlKind(
        "Qwen-Image",
        "nodes_model_patch.QwenImageBlockWiseControlNet",
        (QWEN,),
        lambda net: net.img_in.out_features,
        lambda net: net.inner_dim,
        latent_format=comfy.latent_formats.Wan21,
    ),
    ControlKind(
        "Anima",
        "anima.lllite.AnimaLLLite",
        (ANIMA,),
        lambda net: net.model_dim,
        lambda net: net.model_channels,
        cells=2,
    ),
)
PATCH_NAMES = {
    LUMINA: "Z-Image's ControlNet (Fun union)",
    QWEN: "Qwen-Image's ControlNets (DiffSynth)",
    ANIMA: "Anima's LLLite",
}


def kind_of(network: Any, kinds: Sequence[ControlKind]) -> ControlKind | None:
    """Return the row of a control network; None for one that is not listed."""
    return next((kind for kind in kinds if _is_a(network, (kind.network,))), None)


def control_network(control_net: Any) -> Any:
    """Return the network of a CONTROL_NET; itself where it has none before sampling (Control
    LoRA).
    """
    networks = (getattr(control_net, name, None) for name in ("control_model", "t2i_model"))
    return next((network for network in networks if network is not None), control_net)


def check_control_net(model: Any, control_net: Any) -> None:
    """Refuse a CONTROL_NET that is not for the MODEL's kind of network."""
    network, base = control_network(control_net), model.get_model_object("diffusion_model")
    kind = kind_of(network, CONTROL_NETS)
    if kind is None or _fits(kind, network, base):
        return
    other = next((name for end, name in PATCH_NAMES.items() if _is_a(base, (end,))), None)
    advice = "Use a pose ControlNet for this model."
    if other is not None:
        advice += f" {other} goes to 'model_patch'."
    raise ValueError(f"the input 'control_net' is {_misfit(kind, network, base)}. {advice}")


def check_model_patch(model: Any, model_patch: Any) -> None:
    """Refuse a MODEL_PATCH that can not be given a pose, or not for the MODEL's kind of network."""
    network, base = model_patch.model, model.get_model_object("diffusion_model")
    kind = pose_patch_kind(network)
    if not _fits(kind, network, base):
        raise ValueError(
            f"the input 'model_patch' is {_misfit(kind, network, base)}. Connect one for this "
            "model, or a ControlNet to 'control_net' if it has one."
        )


def pose_patch_kind(network: Any) -> ControlKind:
    """Return the row of a MODEL_PATCH's network; ValueError for one that takes no pose."""
    kind = kind_of(network, MODEL_PATCHES)
    if kind is None:
        raise ValueError(
            f"the input 'model_patch' is no pose control ({type(network).__name__}). Connect "
            f"{', '.join(list(PATCH_NAMES.values())[:-1])} or {list(PATCH_NAMES.values())[-1]}; "
            "apply others with their own node before this one."
        )
    return kind


def latent_channels(control_net: Any) -> int | None:
    """Count the channels of the latents that a CONTROL_NET reads, None for images.

    The host takes those for SD3 to read its 16; a narrow one knows better.
    """
    if control_net.latent_format is None:
        return None
    network = control_network(control_net)
    narrow = _is_a(network, ("cldm.mmdit.ControlNet",))
    return network.in_channels if narrow else control_net.latent_format.latent_channels


def check_vae(vae: Any, latent_format: Any, name: str, channels: int | None = None) -> None:
    """Refuse a missing VAE, and one whose latents a control can not read.

    latent_format: what the control reads, None for images; name: of the input that it comes from;
    channels: of what it reads, by default its format's.
    """
    if latent_format is None:
        return
    if vae is None:
        raise ValueError(
            f"the input '{name}' is a control that reads latents, as those for Flux, SD3, "
            "Qwen-Image and Z-Image do. Connect the VAE of the model to the input 'vae'."
        )
    channels = channels or latent_format.latent_channels
    dimensions = latent_format.latent_dimensions
    if (vae.latent_channels, vae.latent_dim) != (channels, dimensions):
        raise ValueError(
            f"the input 'vae' is of another model: it makes latents of {vae.latent_channels} "
            f"channels in {vae.latent_dim} dimensions, but the input '{name}' reads {channels} "
            f"channels in {dimensions}. Connect the VAE of the model."
        )


def check_size(control_net: Any, size: Sequence[int]) -> None:
    """Refuse a latent of `size` cells that a ControlNet's own layers can not divide into tokens."""
    network = control_network(control_net)
    reads_images = getattr(network, "latent_input", None) is False  # of Flux: XLabs and MistoLine
    if reads_images and any(cells % network.params.patch_size for cells in size):
        pixels = 8 * network.params.patch_size
        raise ValueError(
            f"{NODE}: the input 'control_net' reads images whose sides are multiples of {pixels} "
            f"pixels, but the latent has {size[-1]} x {size[-2]} cells of 8. Give the image other "
            "sides, or use a ControlNet that reads latents."
        )


def with_pose_type(control_net: Any) -> Any:
    """Return a CONTROL_NET of a union set to poses; others, and those with a type, as they are."""
    network = control_network(control_net)
    kind = kind_of(network, CONTROL_NETS)
    modes = getattr(network, kind.modes, 0) if kind and kind.modes else 0
    if kind is None or modes <= kind.pose_mode or control_net.extra_args.get("control_type"):
        return control_net
    typed = control_net.copy()
    typed.set_extra_arg("control_type", [kind.pose_mode])
    return typed


def _fits(kind: ControlKind, network: Any, base: Any) -> bool:
    if not _is_a(base, kind.bases):
        return False
    size, base_size = kind.size(network), kind.base_size(base)
    return size is None or base_size is None or size == base_size


def _misfit(kind: ControlKind, network: Any, base: Any) -> str:
    if not _is_a(base, kind.bases):
        return f"for {kind.name}, but the model is another network ({type(base).__name__})"
    return (
        f"for {kind.name} and another size of it: {kind.size(network)} instead of the model's "
        f"{kind.base_size(base)}"
    )


def _is_a(network: Any, ends: Sequence[str]) -> bool:
    names = [f".{cls.__module__}.{cls.__qualname__}" for cls in type(network).__mro__]
    return any(name.endswith(f".{end}") for name in names for end in ends)
