"""Random weights of today's image models under their real file names, small enough for a test.

Every network is ComfyUI's own class, built as its loaders build it: with few blocks and, where
its detection reads them from the file, few channels. `narrow_host` does the rest.
"""

import json
import math
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from comfy import clip_model, ops, utils
from comfy.cldm import cldm
from comfy.ldm.modules.diffusionmodules import model as autoencoder
from comfy.ldm.modules.diffusionmodules import openaimodel
from comfy.taesd import taesd
from comfy.text_encoders import llama, t5

from . import narrow_host

Shapes = dict[str, tuple[int, ...]]
HERE = Path(t5.__file__).parent
TILE = (1 << 20) + 7  # random numbers that repeat
GAIN = 3.0  # of linear layers, so that a word is seen in the image although gates are near zero
TABLES = ("embed_tokens", "token_embedding", "shared.weight")
KNOWN_WORDS = 20_000  # the rest of a table of words are zeros that need no disk


def shapes_of(module: torch.nn.Module, prefix: str = "") -> Shapes:
    """Return the names and shapes of a module's weights, each name behind the prefix."""
    return {prefix + name: tuple(value.shape) for name, value in module.state_dict().items()}


def network(network_class: type, **arguments) -> torch.nn.Module:
    """Build a network of ComfyUI without memory, and without what the test's server narrows."""
    with torch.device("meta"), narrow_host.narrow():
        return network_class(
            **arguments, dtype=torch.bfloat16, device="meta", operations=ops.manual_cast
        )


def text_encoder(encoder_class: type, config: dict | None = None) -> torch.nn.Module:
    """Build a text encoder of ComfyUI without memory, with the sizes of the test's server."""
    sizes = narrow_host.TEXT_ENCODERS[encoder_class.__name__]
    return encoder_class({**(config or {}), **sizes}, torch.bfloat16, "meta", ops.manual_cast)


# text encoders


def clip(config_name: str, prefix: str = "") -> Shapes:
    config = json.loads((HERE.parent / config_name).read_text())
    return shapes_of(text_encoder(clip_model.CLIPTextModel, config), prefix)


def t5xxl() -> Shapes:
    config = json.loads((HERE / "t5_config_xxl.json").read_text())
    # ComfyUI tells T5-XXL by the width of its last block, which is left out here
    last = {"encoder.block.23.layer.1.DenseReluDense.wi_1.weight": (10240, 1)}
    return shapes_of(text_encoder(t5.T5, config)) | last


def language_model(name: str) -> Shapes:
    """Return a Qwen without its eyes, which no template uses."""
    model = text_encoder(getattr(llama, name))
    return {key: shape for key, shape in shapes_of(model).items() if "visual" not in key}


def qwen3vl_4b() -> Shapes:
    # the same sizes as Qwen3 4B, and two weights of its eyes by which ComfyUI tells it
    language = {
        key.replace("model.", "model.language_model.", 1): shape
        for key, shape in language_model("Qwen3_4B").items()
    }
    return language | {
        "model.visual.deepstack_merger_list.0.norm.weight": (4096,),
        "model.visual.merger.linear_fc2.weight": (2560, 4096),
    }


# autoencoders


def kl_autoencoder(channels: int, normalized: bool = False) -> Shapes:
    config = {
        "double_z": True,
        "z_channels": channels,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 128,
        "ch_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [],
    }
    with torch.device("meta"):
        shapes = shapes_of(autoencoder.Encoder(**config), "encoder.")
        shapes |= shapes_of(autoencoder.Decoder(**config), "decoder.")
    if normalized:  # Flux.2: patches of 2 x 2 latents, normalized
        width = 4 * channels
        shapes |= {f"bn.running_{name}": (width,) for name in ("mean", "var")}
        shapes |= {"quant_conv.weight": (2 * channels, 2 * channels, 1, 1)}
        shapes |= {"quant_conv.bias": (2 * channels,)}
        shapes |= {"post_quant_conv.weight": (channels, channels, 1, 1)}
        shapes |= {"post_quant_conv.bias": (channels,)}
    return shapes


def wan_autoencoder() -> Shapes:
    from comfy.ldm.wan.vae import WanVAE

    with torch.device("meta"):
        return shapes_of(WanVAE(96, 16, [1, 2, 4, 4], 2, [], [False, True, True], dropout=0.0))


# networks


def z_image() -> Shapes:
    from comfy.ldm.lumina.model import NextDiT

    return shapes_of(
        network(
            NextDiT,
            patch_size=2,
            in_channels=16,
            dim=3840,
            cap_feat_dim=2560,
            n_layers=2,
            n_heads=30,
            n_kv_heads=30,
            qk_norm=True,
            ffn_dim_multiplier=8 / 3,
            axes_dims=[32, 48, 48],
            axes_lens=[1536, 512, 512],
            z_image_modulation=True,
            pad_tokens_multiple=32,
        )
    )


def z_image_control() -> Shapes:
    from comfy.ldm.lumina.controlnet import ZImage_Control

    return shapes_of(network(ZImage_Control))


def qwen_image() -> Shapes:
    from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel

    return shapes_of(network(QwenImageTransformer2DModel, num_layers=2))


def qwen_image_control() -> Shapes:
    from comfy.ldm.qwen_image.controlnet import QwenImageControlNetModel

    return shapes_of(network(QwenImageControlNetModel, num_layers=1))


FLUX = {
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "hidden_size": 3072,
    "mlp_ratio": 4.0,
    "num_heads": 24,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": True,
}


def flux_arguments(**changes) -> dict:
    """Return Flux's arguments; an older ComfyUI takes no dimensions of the text's positions."""
    from comfy.ldm.flux.model import FluxParams

    field_names = FluxParams.__dataclass_fields__
    arguments = {**FLUX, "txt_ids_dims": [], **changes}
    return {name: value for name, value in arguments.items() if name in field_names}


def flux() -> Shapes:
    from comfy.ldm.flux.model import Flux

    return shapes_of(network(Flux, **flux_arguments()))


def flux_control() -> Shapes:
    """Return the union ControlNet's weights under diffusers' names, in which it is published."""
    from comfy.ldm.flux.controlnet import ControlNetFlux

    arguments = flux_arguments(depth_single_blocks=0)
    module = network(ControlNetFlux, latent_input=True, control_latent_channels=16, **arguments)
    shapes, hidden = shapes_of(module), module.hidden_size
    published: Shapes = {}
    targets = set()
    for name, target in utils.flux_to_diffusers({"depth": 1, "hidden_size": hidden}).items():
        key, part = (target, None) if isinstance(target, str) else target[:2]
        if key not in shapes or (part is None and key in targets):
            continue
        targets.add(key)
        published[name] = (part[2], *shapes[key][1:]) if part else shapes[key]
    return published | {name: shape for name, shape in shapes.items() if name not in targets}


def flux2_klein() -> Shapes:
    from comfy.ldm.flux.model import Flux

    changes = {
        "in_channels": 128,
        "out_channels": 128,
        "vec_in_dim": None,
        "context_in_dim": 3 * 2560,
        "hidden_size": 128,
        "num_heads": 1,
        "mlp_ratio": 3.0,
        "axes_dim": [32, 32, 32, 32],
        "theta": 2000,
        "patch_size": 1,
        "qkv_bias": False,
        "guidance_embed": False,
        "txt_ids_dims": [3],
        "global_modulation": True,
        "mlp_silu_act": True,
        "ops_bias": False,
    }
    return shapes_of(network(Flux, **flux_arguments(**changes)))


def krea2() -> Shapes:
    from comfy.ldm.krea2.model import SingleStreamDiT

    return shapes_of(network(SingleStreamDiT, features=128, heads=1, kvheads=1, layers=2))


def anima() -> Shapes:
    from comfy.ldm.anima.model import Anima

    return shapes_of(
        network(
            Anima,
            max_img_h=240,
            max_img_w=240,
            max_frames=128,
            in_channels=16,
            out_channels=16,
            patch_spatial=2,
            patch_temporal=1,
            model_channels=2048,
            num_blocks=1,
            num_heads=16,
            pos_emb_cls="rope3d",
            use_adaln_lora=True,
        ),
        "net.",
    )


SDXL = {
    "image_size": 32,
    "in_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 1, 1],
    "num_head_channels": 64,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 1,
    "context_dim": 2048,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "legacy": False,
}


def sdxl() -> Shapes:
    with torch.device("meta"):
        unet = openaimodel.UNetModel(
            **SDXL, out_channels=4, transformer_depth_output=[0] * 9, operations=ops.manual_cast
        )
        vae = taesd.TAESD()
    return {
        **shapes_of(unet, "model.diffusion_model."),
        **clip("sd1_clip_config.json", "conditioner.embedders.0.transformer."),
        **clip("clip_config_bigg.json", "conditioner.embedders.1.model.transformer."),
        **shapes_of(vae, "first_stage_model."),
    }


def sdxl_control() -> Shapes:
    with torch.device("meta"):
        return shapes_of(cldm.ControlNet(**SDXL, hint_channels=3, operations=ops.manual_cast))


# detectors of people


def rt_detr() -> Shapes:
    from comfy.ldm.rt_detr.rtdetr_v4 import RTv4

    with narrow_host.narrow():  # with memory: it computes while it is built
        return shapes_of(RTv4(enc_h=64, dtype=torch.bfloat16, operations=ops.manual_cast))


SDPOSE = {
    "image_size": 32,
    "in_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "num_head_channels": 64,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "transformer_depth": [0, 1],
    "transformer_depth_middle": -2,
    "context_dim": 1024,
    "legacy": False,
}


def sdpose() -> Shapes:
    with torch.device("meta"), narrow_host.narrow():
        unet = openaimodel.UNetModel(
            **SDPOSE,
            out_channels=4,
            transformer_depth_output=[0, 0, 0, 0],
            heatmap_head=True,
            operations=ops.manual_cast,
        )
        vae = taesd.TAESD()
    return {**shapes_of(unet, "model.diffusion_model."), **shapes_of(vae, "first_stage_model.")}


# LoRAs


def lora(
    shapes: Shapes, layers: str, rename: Callable[[str], str], parts: tuple[str, str]
) -> Shapes:
    """Return a LoRA of rank 4 of the linear layers whose names match, under its trainer's names."""
    return {
        f"{rename(layer)}.{part}.weight": shape
        for layer, (out, inner) in (
            (name.removesuffix(".weight"), shape)
            for name, shape in shapes.items()
            if re.fullmatch(layers, name)
        )
        for part, shape in zip(parts, ((out, 4), (4, inner)), strict=True)
    }


KOHYA = {"model.diffusion_model": "lora_unet", "conditioner.embedders.0.transformer": "lora_te1"}


def sdxl_lora() -> Shapes:
    def kohya(layer: str) -> str:
        (start,) = [start for start in KOHYA if layer.startswith(f"{start}.")]
        return KOHYA[start] + layer.removeprefix(start).replace(".", "_")

    layers = r".*(attn2\.to_[qkv]|embedders\.0\..*mlp\.fc1)\.weight"
    return lora(sdxl(), layers, kohya, ("lora_up", "lora_down"))


def flux2_klein_lora() -> Shapes:
    layers = r"(double_blocks.*(qkv|proj)|single_blocks.*linear[12])\.weight"
    return lora(flux2_klein(), layers, "diffusion_model.{}".format, ("lora_B", "lora_A"))


# file name: its weights
FILES: dict[str, Callable[[], Shapes]] = {
    "z_image_turbo_bf16.safetensors": z_image,
    "qwen_3_4b.safetensors": lambda: language_model("Qwen3_4B"),
    "ae.safetensors": lambda: kl_autoencoder(16),
    "Z-Image-Turbo-Fun-Controlnet-Union.safetensors": z_image_control,
    "qwen_image_fp8_e4m3fn.safetensors": qwen_image,
    "qwen_2.5_vl_7b_fp8_scaled.safetensors": lambda: language_model("Qwen25_7BVLI"),
    "qwen_image_vae.safetensors": wan_autoencoder,
    "Qwen-Image-InstantX-ControlNet-Union.safetensors": qwen_image_control,
    "flux1-dev.safetensors": flux,
    "clip_l.safetensors": lambda: clip("sd1_clip_config.json"),
    "t5xxl_fp16.safetensors": t5xxl,
    "FLUX.1-dev-ControlNet-Union-Pro-2.0.safetensors": flux_control,
    "flux-2-klein-base-4b.safetensors": flux2_klein,
    "flux2-vae.safetensors": lambda: kl_autoencoder(32, normalized=True),
    "krea2_turbo_fp8_scaled.safetensors": krea2,
    "qwen3vl_4b_fp8_scaled.safetensors": qwen3vl_4b,
    "anima-base-v1.0.safetensors": anima,
    "qwen_3_06b_base.safetensors": lambda: language_model("Qwen3_06B"),
    "sd_xl_base_1.0.safetensors": sdxl,
    "controlnet-openpose-sdxl-1.0.safetensors": sdxl_control,
    "rt_detr_v4-x-hgnet_fp16.safetensors": rt_detr,
    "sdpose_wholebody_fp16.safetensors": sdpose,
    "pixel-art-xl.safetensors": sdxl_lora,
    "toy_face_sdxl.safetensors": sdxl_lora,
    "my_character_flux2_klein.safetensors": flux2_klein_lora,
}


# the file


def random_numbers(name: str, shape: tuple[int, ...]) -> Iterator[bytes]:
    """Yield the first numbers of a tensor as bfloat16, spread so that activations stay finite."""
    count = math.prod(shape)
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    values = torch.randn(min(count, TILE), generator=generator)
    is_table = any(word in name for word in TABLES)
    if len(shape) == 1 or "gamma" in name or not shape:
        values = 0.02 * values + (0.0 if name.endswith(("bias", "mean")) else 1.0)
    elif not is_table:
        values *= (GAIN if len(shape) == 2 else 1.0) / math.sqrt(math.prod(shape[1:]))
    tile = values.bfloat16().view(torch.int16).numpy().tobytes()
    count = min(count, KNOWN_WORDS * shape[-1]) if is_table else count
    for start in range(0, count, TILE):
        yield tile[: 2 * min(TILE, count - start)]


def write(path: Path) -> None:
    """Write a file of the table `FILES`; rare words take no disk."""
    shapes = FILES[path.name]()
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        first = file.tell()
        for name, shape in shapes.items():
            file.seek(first + header[name]["data_offsets"][0])
            file.writelines(random_numbers(name, shape))
        file.truncate(first + end)
