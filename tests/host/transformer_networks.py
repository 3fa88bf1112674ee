"""A tiny random MODEL for each family of diffusion transformers, of the host's own classes, and
conditionings as the family's text encoder gives them.

    NETWORKS[name] -> a Network; `is_known(name)` tells whether this host has the family
    make_model(name) -> a MODEL on the CPU that every sampler of the host can sample
    text(name, seed, tokens) -> a CONDITIONING
    empty_latent(model, height, width) -> what an empty latent node gives
"""

import dataclasses
import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple
from unittest.mock import patch

import comfy.model_patcher
import comfy.supported_models
import torch

WIDTH, POOLED = 48, 32  # of a text's tokens and of its pooled text
TOKENS = 20  # of a text, where a test does not say it
CPU = torch.device("cpu")


class Network(NamedTuple):
    """One family as the host knows it, and what its text encoder gives."""

    supported: str  # a class of comfy.supported_models
    module: str  # the network's, below comfy.ldm
    parameters: str  # the class whose constructor takes the config
    config: Mapping[str, Any]
    pooled: bool = False  # a pooled text comes with the tokens
    attention_mask: bool = False  # a mask of all tokens comes with them
    token_ids: bool = False  # the ids of another tokenizer come with them


FLUX = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": POOLED,
    "context_in_dim": WIDTH, "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 2,
    "depth_single_blocks": 2, "axes_dim": [8, 12, 12], "theta": 10000, "patch_size": 2,
    "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
}  # fmt: skip
FLUX2 = {
    **FLUX, "image_model": "flux2", "in_channels": 128, "out_channels": 128, "vec_in_dim": None,
    "axes_dim": [8, 8, 8, 8], "theta": 2000, "patch_size": 1, "qkv_bias": False, "ops_bias": False,
    "global_modulation": True, "mlp_silu_act": True, "default_ref_method": "index",
    "ref_index_scale": 10.0, "txt_ids_dims": [3],
}  # fmt: skip
CHROMA = {
    **FLUX, "image_model": "chroma", "in_channels": 64, "out_channels": 64, "vec_in_dim": None,
    "in_dim": 64, "out_dim": 64, "hidden_dim": 64, "n_layers": 1,
}  # fmt: skip
QWEN = {
    "image_model": "qwen_image", "in_channels": 64, "num_layers": 2, "attention_head_dim": 32,
    "num_attention_heads": 2, "joint_attention_dim": WIDTH, "axes_dims_rope": (8, 12, 12),
}  # fmt: skip
LUMINA = {
    "image_model": "lumina2", "in_channels": 16, "dim": 64, "n_layers": 2, "n_refiner_layers": 1,
    "n_heads": 2, "n_kv_heads": 1, "cap_feat_dim": WIDTH, "axes_dims": [8, 12, 12],
    "axes_lens": [300, 64, 64], "qk_norm": True, "rope_theta": 10000.0,
}  # fmt: skip
Z_IMAGE = {
    **LUMINA, "dim": 256, "n_heads": 8, "n_kv_heads": 8, "rope_theta": 256.0,
    "z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 32,
}  # fmt: skip
SD3 = {
    "input_size": None, "patch_size": 2, "in_channels": 16, "out_channels": 16, "depth": 2,
    "adm_in_channels": POOLED, "pos_embed_max_size": 16, "num_patches": 256,
    "pos_embed_scaling_factor": None, "context_embedder_config": {
        "target": "torch.nn.Linear", "params": {"in_features": WIDTH, "out_features": 128},
    },
}  # fmt: skip
SD35 = {**SD3, "qk_norm": "rms", "x_block_self_attn_layers": [0]}
KREA2 = {
    "image_model": "krea2", "features": 64, "channels": 16, "patch": 2, "layers": 2, "heads": 2,
    "kvheads": 1, "tdim": 32, "txtdim": 24, "txtlayers": 2, "txtheads": 2, "txtkvheads": 2,
}  # fmt: skip
COSMOS = {
    "max_img_h": 64, "max_img_w": 64, "max_frames": 4, "in_channels": 16, "out_channels": 16,
    "patch_spatial": 2, "patch_temporal": 1, "model_channels": 64, "num_blocks": 2, "num_heads": 2,
    "crossattn_emb_channels": WIDTH, "pos_emb_cls": "rope3d", "pos_emb_learnable": True,
    "use_adaln_lora": True, "adaln_lora_dim": 16, "rope_h_extrapolation_ratio": 4.0,
    "rope_w_extrapolation_ratio": 4.0, "rope_enable_fps_modulation": False,
}  # fmt: skip
WAN = {
    "image_model": "wan2.1", "model_type": "t2v", "text_len": 512, "in_dim": 16, "dim": 64,
    "ffn_dim": 64, "freq_dim": 32, "text_dim": WIDTH, "out_dim": 16, "num_heads": 2,
    "num_layers": 2,
}  # fmt: skip

NETWORKS = {
    "Flux.1 dev": Network("Flux", "flux.model", "FluxParams", FLUX, pooled=True),
    "Flux.1 schnell": Network(
        "FluxSchnell", "flux.model", "FluxParams", {**FLUX, "guidance_embed": False}, pooled=True
    ),
    "Flux.1 Fill": Network(
        "FluxInpaint", "flux.model", "FluxParams", {**FLUX, "in_channels": 96}, pooled=True
    ),
    "Flux.2 dev": Network("Flux2", "flux.model", "FluxParams", FLUX2),
    "Flux.2 Klein": Network(
        "Flux2", "flux.model", "FluxParams", {**FLUX2, "guidance_embed": False}
    ),
    "Chroma": Network("Chroma", "chroma.model", "ChromaParams", CHROMA),
    "Qwen-Image": Network("QwenImage", "qwen_image.model", "QwenImageTransformer2DModel", QWEN),
    "Z-Image": Network("ZImage", "lumina.model", "NextDiT", Z_IMAGE, attention_mask=True),
    "Lumina 2": Network("Lumina2", "lumina.model", "NextDiT", LUMINA, attention_mask=True),
    "SD3": Network("SD3", "modules.diffusionmodules.mmdit", "MMDiT", SD3, pooled=True),
    "SD3.5": Network("SD3", "modules.diffusionmodules.mmdit", "MMDiT", SD35, pooled=True),
    "Krea 2": Network("Krea2", "krea2.model", "SingleStreamDiT", KREA2),
    "Anima": Network(
        "Anima",
        "cosmos.predict2",
        "MiniTrainDIT",
        {**COSMOS, "image_model": "anima"},
        token_ids=True,
    ),
    "Wan 2.1": Network("WAN21_T2V", "wan.model", "WanModel", WAN),
}


def is_known(name: str) -> bool:
    """Tell whether this host has the family's class."""
    return hasattr(comfy.supported_models, NETWORKS[name].supported)


def make_model(
    name: str,
    dtype: torch.dtype = torch.float32,
    cast: torch.dtype | None = None,
    seed: int = 1,
) -> Any:
    """Make the family's MODEL with random weights of this dtype; `cast`: what the host computes in
    where it is another one.
    """
    network = NETWORKS[name]
    config_class = getattr(comfy.supported_models, network.supported)
    model_config = config_class(_accepted(network))
    model_config.set_inference_dtype(dtype, cast)
    with _small_text_adapter(network):
        base = model_config.get_model({}, device=CPU)
    randomize(base.diffusion_model, seed)
    return comfy.model_patcher.ModelPatcher(base, load_device=CPU, offload_device=CPU)


def _accepted(network: Network) -> dict[str, Any]:
    """The config without what this host's network does not have yet."""
    class_ = getattr(import_module(f"comfy.ldm.{network.module}"), network.parameters)
    if dataclasses.is_dataclass(class_):
        names = {field.name for field in dataclasses.fields(class_)} | {"image_model"}
    else:
        names = set(inspect.signature(class_.__init__).parameters)
    return {key: value for key, value in network.config.items() if key in names}


def _small_text_adapter(network: Network) -> Any:
    """Make Anima's adapter of texts, whose size the host fixes, as narrow as the rest."""
    if not network.token_ids:
        return patch.dict({}, {})
    module = import_module("comfy.ldm.anima.model")
    size = {"source_dim": WIDTH, "target_dim": WIDTH, "model_dim": WIDTH, "num_layers": 1}
    adapter = module.LLMAdapter
    return patch.object(
        module, "LLMAdapter", lambda **settings: adapter(**size, num_heads=2, **settings)
    )


def randomize(network: torch.nn.Module, seed: int) -> None:
    """Give a network weights that keep activations near 1; nothing stays zero."""
    g = torch.Generator().manual_seed(seed)
    for name, p in network.named_parameters():
        if p.dim() > 1:
            values = torch.randn(p.shape, generator=g) / p[0].numel() ** 0.5
        else:
            values = torch.randn(p.shape, generator=g) * 0.1 + name.endswith(("weight", "scale"))
        p.data = values.to(p.dtype)
    for name, buffer in network.named_buffers():
        if name == "pos_embed":  # of SD3: in the checkpoint
            buffer.copy_(torch.randn(buffer.shape, generator=g))


def text(name: str, seed: int, tokens: int = TOKENS) -> list:
    """Return a random CONDITIONING of so many tokens, as the family's text encoder gives it."""
    network, g = NETWORKS[name], torch.Generator().manual_seed(1000 * seed + tokens)
    entry: dict[str, Any] = {"pooled_output": None}
    if network.pooled:
        entry["pooled_output"] = torch.randn(1, POOLED, generator=g)
    if network.attention_mask:
        entry["attention_mask"] = torch.ones(1, tokens, dtype=torch.long)
    if network.token_ids:
        entry["t5xxl_ids"] = torch.randint(2, 32000, (tokens + 3,), generator=g, dtype=torch.int)
        entry["t5xxl_weights"] = torch.rand(tokens + 3, generator=g) + 0.5
    return [[torch.randn(1, tokens, WIDTH, generator=g), entry]]


def empty_latent(model: Any, height: int = 8, width: int = 12, batch: int = 1) -> dict[str, Any]:
    """Return an empty LATENT of so many cells."""
    latent_format = model.get_model_object("latent_format")
    frames = [1] * (latent_format.latent_dimensions - 2)
    shape = (batch, latent_format.latent_channels, *frames, height, width)
    return {"samples": torch.zeros(shape)}
