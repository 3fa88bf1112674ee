"""Tiny random MODELs of the host's image models that are in less use, and of its video models that
share a network with them; beside those of `transformer_networks`.
"""

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

import comfy.model_patcher
import comfy.supported_models
import torch
from torch import Generator, Tensor
from vitruvian.tests.host.transformer_networks import (
    COSMOS,
    CPU,
    FLUX,
    LUMINA,
    POOLED,
    TOKENS,
    WAN,
    WIDTH,
    Z_IMAGE,
    randomize,
)

SECOND = 40  # width of a second text
MakeText = Callable[[Generator, int], Tensor]  # random numbers, tokens of the prompt -> a part


class OtherNetwork(NamedTuple):
    """One model of the host, and what its text encoder gives beside the tokens."""

    supported: str  # a class of comfy.supported_models
    config: Mapping[str, Any]
    extra: Mapping[str, MakeText] = {}
    parameters: str = ""  # the class, below comfy.ldm, whose constructor takes the config
    size: tuple[int, int] = (8, 12)  # of a latent that is large enough
    tokens: int | None = None  # of every text; None: as many as the prompt has
    needs: str = ""  # a setting without which this host does not know the model


def _pooled(g: Generator, _: int) -> Tensor:
    return torch.randn(1, POOLED, generator=g)


def _all_tokens(_: Generator, tokens: int) -> Tensor:
    return torch.ones(1, tokens, dtype=torch.long)


def _layers(g: Generator, tokens: int) -> Tensor:
    """The tokens of another text encoder, out of three of its layers."""
    return torch.randn(1, 3, tokens + 3, SECOND, generator=g)


def _quoted_words(g: Generator, tokens: int) -> Tensor:
    """The letters of the words that are to be written in the image."""
    return torch.randn(1, tokens // 4, 1472, generator=g)


def _padded_text(g: Generator, _: int) -> Tensor:
    return torch.randn(1, 256, SECOND, generator=g)


def _padding_mask(_: Generator, tokens: int) -> Tensor:
    return (torch.arange(256) < tokens).long()[None]


# fmt: off
OMNIGEN2 = {
    "image_model": "omnigen2", "hidden_size": 60, "num_layers": 2, "num_refiner_layers": 1,
    "num_attention_heads": 2, "num_kv_heads": 1, "multiple_of": 8, "axes_dim_rope": (10, 10, 10),
    "axes_lens": (64, 64, 64), "text_feat_dim": WIDTH, "timestep_scale": 1000.0,
}
BOOGU = {
    **{key: value for key, value in OMNIGEN2.items() if key != "text_feat_dim"},
    "image_model": "boogu", "num_double_stream_layers": 2, "instruction_feat_dim": WIDTH,
}
IDEOGRAM4 = {
    "image_model": "ideogram4", "in_channels": 128, "num_layers": 2, "num_attention_heads": 2,
    "attention_head_dim": 32, "intermediate_size": 64, "adaln_dim": 16,
    "llm_features_dim": WIDTH, "mrope_section": (8, 4, 4),
}
ERNIE = {
    "image_model": "ernie", "hidden_size": 64, "num_attention_heads": 2, "num_layers": 2,
    "ffn_hidden_size": 64, "text_in_dim": WIDTH, "rope_axes_dim": (8, 12, 12),
}
HIDREAM = {
    "image_model": "hidream", "attention_head_dim": 32, "axes_dims_rope": [16, 8, 8],
    "caption_channels": [WIDTH, SECOND], "max_resolution": [64, 64], "in_channels": 16,
    "out_channels": 16, "llama_layers": [0, 1, 2, 2], "num_attention_heads": 2,
    "num_routed_experts": 4, "num_activated_experts": 2, "num_layers": 2, "num_single_layers": 2,
    "patch_size": 2, "text_emb_dim": POOLED,
}
LENS = {
    "image_model": "lens", "in_channels": 128, "out_channels": 32, "num_layers": 2,
    "attention_head_dim": 32, "num_attention_heads": 2, "enc_hidden_dim": WIDTH // 2,
    "axes_dims_rope": (8, 12, 12), "selected_layer_index": (0, 1),
}
KANDINSKY5 = {
    "image_model": "kandinsky5", "in_text_dim": WIDTH, "in_text_dim2": POOLED, "time_dim": 32,
    "model_dim": 64, "ff_dim": 64, "visual_embed_dim": 64, "num_text_blocks": 1,
    "num_visual_blocks": 2, "axes_dims": (8, 12, 12), "rope_scale_factor": (1.0, 1.0, 1.0),
}
MAGE_FLOW = {
    "image_model": "mage_flow", "in_channels": 128, "num_layers": 2, "attention_head_dim": 32,
    "num_attention_heads": 2, "joint_attention_dim": WIDTH, "axes_dims_rope": (8, 12, 12),
}
JOY_IMAGE = {
    "image_model": "joyimage", "in_channels": 16, "hidden_size": 64, "num_attention_heads": 2,
    "text_dim": WIDTH, "num_layers": 2, "rope_dim_list": [8, 12, 12], "theta": 256,
}
AURA_FLOW = {
    "in_channels": 4, "dim": 64, "n_layers": 3, "n_double_layers": 2, "n_heads": 2,
    "global_conddim": 64, "cond_seq_dim": WIDTH, "max_seq": 256,
}
PIXART = {
    "image_model": "pixart_sigma", "hidden_size": 96, "depth": 2, "num_heads": 2,
    "caption_channels": WIDTH, "model_max_length": 300, "micro_condition": False,
    "in_channels": 4, "input_size": 128, "pe_interpolation": 2,
}
HUNYUAN_DIT = {
    "image_model": "hydit", "hidden_size": 64, "depth": 4, "num_heads": 2, "mlp_ratio": 2.0,
    "text_states_dim": WIDTH, "text_states_dim_t5": SECOND,
}
HUNYUAN_IMAGE = {
    "image_model": "hunyuan_video", "in_channels": 64, "out_channels": 64, "vec_in_dim": None,
    "context_in_dim": WIDTH, "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 2,
    "depth_single_blocks": 2, "axes_dim": [16, 16], "theta": 256, "patch_size": [1, 1],
    "qkv_bias": True, "guidance_embed": True, "byt5": True, "meanflow": False,
    "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False,
}
HUNYUAN_REFINER = {
    **HUNYUAN_IMAGE, "in_channels": 128, "axes_dim": [8, 12, 12], "patch_size": [1, 1, 1],
    "byt5": False, "meanflow": True,
}
LONGCAT = {**FLUX, "vec_in_dim": None, "guidance_embed": False, "txt_ids_dims": [1, 2]}
OVIS = {**LONGCAT, "yak_mlp": True, "txt_norm": True}
RADIANCE = {
    **{key: value for key, value in FLUX.items() if key != "guidance_embed"},
    "image_model": "chroma_radiance", "in_channels": 3, "out_channels": 3, "vec_in_dim": None,
    "in_dim": 64, "out_dim": 64, "hidden_dim": 64, "n_layers": 1, "patch_size": 8, "depth": 19,
    "depth_single_blocks": 38, "nerf_hidden_size": 8, "nerf_mlp_ratio": 2, "nerf_depth": 2,
    "nerf_max_freqs": 4, "nerf_tile_size": 512, "nerf_final_head_type": "conv",
    "nerf_embedder_dtype": torch.float32, "use_x0": True, "use_sequential_txt_ids": True,
}
Z_IMAGE_PIXEL = {
    **Z_IMAGE, "image_model": "zimage_pixel", "patch_size": 8, "in_channels": 3,
    "decoder_hidden_size": 32, "decoder_num_res_blocks": 1, "decoder_in_channels": 192,
    "decoder_max_freqs": 4, "use_x0": True,
}
VACE = {**WAN, "model_type": "vace", "vace_layers": 1, "vace_in_dim": 96}
WAN22 = {**WAN, "in_dim": 48, "out_dim": 48}

# fmt: on
MASKED: Mapping[str, MakeText] = {"attention_mask": _all_tokens}
PIXELS = (32, 64)
OTHERS = {
    "OmniGen2": OtherNetwork("Omnigen2", OMNIGEN2, MASKED),
    "Boogu": OtherNetwork("Boogu", BOOGU, MASKED),
    "Ideogram 4": OtherNetwork("Ideogram4", IDEOGRAM4, MASKED),
    "ERNIE-Image": OtherNetwork("ErnieImage", ERNIE),
    "HiDream": OtherNetwork(
        "HiDream", HIDREAM, {"pooled_output": _pooled, "conditioning_llama3": _layers}
    ),
    "Lens": OtherNetwork("Lens", LENS, MASKED),
    "Kandinsky 5": OtherNetwork(
        "Kandinsky5Image", KANDINSKY5, {**MASKED, "pooled_output": _pooled}
    ),
    "Mage-Flow": OtherNetwork("MageFlow", MAGE_FLOW, MASKED),
    "JoyImage": OtherNetwork("JoyImage", JOY_IMAGE),
    "AuraFlow": OtherNetwork("AuraFlow", AURA_FLOW),
    "PixArt": OtherNetwork("PixArtSigma", PIXART, size=(48, 72)),
    "HunyuanDiT": OtherNetwork(
        "HunyuanDiT",
        HUNYUAN_DIT,
        {
            **MASKED,
            "conditioning_mt5xl": _padded_text,
            "attention_mask_mt5xl": _padding_mask,
        },
        tokens=77,
    ),
    "HunyuanImage 2.1": OtherNetwork(
        "HunyuanImage21",
        HUNYUAN_IMAGE,
        {**MASKED, "conditioning_byt5small": _quoted_words},
        "hunyuan_video.model.HunyuanVideoParams",
    ),
    "HunyuanImage 2.1 refiner": OtherNetwork(
        "HunyuanImage21Refiner", HUNYUAN_REFINER, MASKED, "hunyuan_video.model.HunyuanVideoParams"
    ),
    "LongCat-Image": OtherNetwork("LongCatImage", LONGCAT, {}, "flux.model.FluxParams"),
    "Ovis-Image": OtherNetwork("Flux", OVIS, {}, "flux.model.FluxParams", needs="txt_norm"),
    "NewBie": OtherNetwork(
        "Lumina2",
        {**LUMINA, "clip_text_dim": POOLED},
        {**MASKED, "pooled_output": _pooled},
        "lumina.model.NextDiT",
        needs="clip_text_dim",
    ),
    "Chroma Radiance": OtherNetwork(
        "ChromaRadiance", RADIANCE, {}, "chroma_radiance.model.ChromaRadianceParams", PIXELS
    ),
    "Z-Image in pixels": OtherNetwork("ZImagePixelSpace", Z_IMAGE_PIXEL, MASKED, size=PIXELS),
    "Cosmos Predict2": OtherNetwork("CosmosT2IPredict2", COSMOS),
    "Wan 2.2 5B": OtherNetwork("WAN22_T2V", WAN22),
    "Wan VACE": OtherNetwork("WAN21_Vace", VACE),
}


def is_known(name: str) -> bool:
    """Tell whether this host has the model's class, and knows all of its settings."""
    network = OTHERS[name]
    if not hasattr(comfy.supported_models, network.supported):
        return False
    return not network.needs or network.needs in _accepted(network)


def make_model(name: str, seed: int = 1) -> Any:
    """Make a MODEL on the CPU with random weights."""
    network = OTHERS[name]
    config = _accepted(network)
    model_config = getattr(comfy.supported_models, network.supported)(config)
    model_config.unet_config.update(config)  # smaller than what the host fixes
    model_config.set_inference_dtype(torch.float32, None)
    base = model_config.get_model({}, device=CPU)
    randomize(base.diffusion_model, seed)
    return comfy.model_patcher.ModelPatcher(base, load_device=CPU, offload_device=CPU)


def _accepted(network: OtherNetwork) -> dict[str, Any]:
    """The config without what this host's network does not have yet."""
    if not network.parameters:
        return dict(network.config)
    module, _, class_name = network.parameters.rpartition(".")
    class_ = getattr(import_module(f"comfy.ldm.{module}"), class_name)
    names = set(inspect.signature(class_).parameters) | {"image_model"}
    return {key: value for key, value in network.config.items() if key in names}


def text(name: str, seed: int, tokens: int = TOKENS) -> list:
    """Return a random CONDITIONING of so many tokens, as the model's text encoder gives it."""
    network, g = OTHERS[name], torch.Generator().manual_seed(1000 * seed + tokens)
    tokens = network.tokens or tokens
    extra = {key: make(g, tokens) for key, make in network.extra.items()}
    return [[torch.randn(1, tokens, WIDTH, generator=g), {"pooled_output": None, **extra}]]
