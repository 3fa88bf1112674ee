"""Weights of the true SD1.5 signature, random and as small as the host's detection allows."""

import pytest
import torch
from safetensors.torch import save_file

# Two levels instead of four; widths, heads and context are SD1.5's own, which the host looks at.
UNET = {
    "image_size": 32,
    "in_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 1],
    "num_heads": 8,
    "use_spatial_transformer": True,
    "transformer_depth": [1, 1],
    "transformer_depth_middle": 1,
    "context_dim": 768,
    "legacy": False,
}
CLIP = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "eos_token_id": 49407,
}


def random_like(module, prefix=""):
    """float16 weights under the module's names, with a spread for which everything stays finite."""
    return {
        prefix + name: (0.02 * torch.randn(tensor.shape)).half()
        for name, tensor in module.state_dict().items()
    }


@pytest.fixture(scope="session")
def sd15(server):
    """Names of a random SD1.5 checkpoint and pose ControlNet in the server's model folders."""
    from comfy import clip_model, ops
    from comfy.cldm.cldm import ControlNet
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from comfy.taesd.taesd import Decoder, Encoder

    torch.manual_seed(0)
    layers = ops.manual_cast
    with torch.device("meta"):
        unet = UNetModel(
            **UNET, out_channels=4, transformer_depth_output=[1] * 4, operations=layers
        )
        controlnet = ControlNet(**UNET, hint_channels=3, operations=layers)
        clip = clip_model.CLIPTextModel(CLIP, torch.float16, "meta", layers)
        encoder, decoder = Encoder(), Decoder()
    checkpoint = {
        **random_like(unet, "model.diffusion_model."),
        **random_like(clip.text_model, "cond_stage_model.transformer.text_model."),
        **random_like(encoder, "first_stage_model.taesd_encoder."),
        **random_like(decoder, "first_stage_model.taesd_decoder."),
    }
    for folder, tensors in (("checkpoints", checkpoint), ("controlnet", random_like(controlnet))):
        path = server.base / "models" / folder / f"random_sd15_{folder}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)
    return {
        "ckpt_name": "random_sd15_checkpoints.safetensors",
        "control_net_name": "random_sd15_controlnet.safetensors",
    }
