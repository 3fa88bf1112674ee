"""The trainers' networks from an SD1.5 checkpoint give the host's numbers; the checkpoint is narrow
and random.
"""

import os

import pytest
import torch
from comfy import clip_model, ops, sd1_clip
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from safetensors.torch import save_file
from vitruvian.lab.training import bases

UNET = {
    "image_size": 32, "in_channels": 4, "model_channels": 32, "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4], "num_heads": 8, "use_spatial_transformer": True,
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "context_dim": 64,
    "legacy": False, "out_channels": 4, "dtype": torch.float32,
}  # fmt: skip
CLIP = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 128,
    "max_position_embeddings": 77, "hidden_act": "quick_gelu", "eos_token_id": 49407,
}  # fmt: skip
VAE = {
    "double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32,
    "ch_mult": [1, 2, 2, 2], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    layers = ops.disable_weight_init
    modules = (
        UNetModel(**UNET, operations=layers),
        clip_model.CLIPTextModel(CLIP, torch.float32, "cpu", layers),
        AutoencoderKL(embed_dim=4, ddconfig=VAE),
    )
    for network in modules:
        for name, p in network.named_parameters():
            spread = 0.1 if p.dim() < 2 else p[0].numel() ** -0.5
            p.data = torch.randn(p.shape) * spread + (p.dim() < 2 and name.endswith("weight"))
        network.eval().requires_grad_(False)
    return modules


@pytest.fixture(scope="module")
def checkpoint(networks, tmp_path_factory):
    unet, clip, vae = networks
    parts = {
        "model.diffusion_model.": unet,
        "cond_stage_model.transformer.text_model.": clip.text_model,
        "first_stage_model.": vae,
    }
    path = tmp_path_factory.mktemp("sd15") / "narrow.safetensors"
    save_file(
        {prefix + k: t for prefix, part in parts.items() for k, t in part.state_dict().items()},
        path,
    )
    return path


@pytest.fixture(scope="module")
def base(checkpoint):
    return bases.open_base(checkpoint)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_the_unet(networks, base):
    x, t, context = torch.randn(2, 4, 16, 24), torch.tensor([10, 700]), torch.randn(2, 77, 64)
    with torch.no_grad():
        close(base.unet(x, t, context).sample, networks[0](x, t, context))


def test_the_text_encoder_and_its_tokenizer(networks, base):
    texts = ["two people, waving", "ein Mann"]
    stock = sd1_clip.SDTokenizer()
    expected = torch.tensor(
        [[int(token) for token, _ in stock.tokenize_with_weights(text)[0]] for text in texts]
    )
    ids = base.tokenizer(texts)
    assert torch.equal(ids, expected)
    with torch.no_grad():
        close(base.text_encoder(ids).last_hidden_state, networks[1](ids)[0])


def test_its_tokens_as_pieces(base):
    pieces = base.pieces(base.tokenizer(["a cross-legged man"])[0].tolist())
    words = ["a</w>", "cross</w>", "-</w>", "legged</w>", "man</w>"]
    assert pieces == [None, *words, *[None] * 71]


def test_the_autoencoder(networks, base):
    images = torch.rand(1, 3, 64, 48)
    with torch.no_grad():
        moments = networks[2].quant_conv(networks[2].encoder(images * 2 - 1))
        latents = moments.chunk(2, 1)[0] * 0.18215
        close(base.encode(images), latents)
        decoded = networks[2].decoder(networks[2].post_quant_conv(latents / 0.18215))
        close(base.decode(latents), (decoded / 2 + 0.5).clamp(0, 1))


def test_other_files_are_refused(checkpoint, tmp_path, monkeypatch):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="broken.safetensors: .* can not be read"):
        bases.open_base(broken)
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="not a checkpoint of SD1.5's kind"):
        bases.open_base(tmp_path / "other.safetensors")
    monkeypatch.setenv("COMFYUI_PATH", os.fspath(tmp_path))
    with pytest.raises(ValueError, match="set COMFYUI_PATH"):
        bases.open_base(checkpoint)
