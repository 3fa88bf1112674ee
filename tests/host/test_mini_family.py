"""The mini family in the host: diffusers' numbers, through the host's own loaders and nodes."""

import comfy.controlnet
import comfy.lora
import comfy.model_detection
import comfy.model_management
import comfy.samplers
import comfy.sd
import comfy.supported_models
import comfy.utils
import diffusers
import pytest
import torch
from vitruvian.host.mini_family import VitruvianMini, register_family
from vitruvian.lab.training import convert, networks, preview, tokens
from vitruvian.lab.world import captions
from vitruvian.models import mini

import nodes

CLOSE = {"atol": 1e-4, "rtol": 1e-4}
SCALE, SHIFT = 0.7, -0.3  # of the latents


def randomized(module):
    """Random weights, signals of about unit size, also where training starts from zeros."""
    for name, parameter in module.named_parameters():
        matrix = parameter.dim() > 1
        scale = parameter[0].numel() ** -0.5 if matrix else 0.1
        torch.nn.init.normal_(parameter, float(not matrix and name.endswith("weight")), scale)
    return module


@pytest.fixture(scope="module")
def tokenizer():
    return tokens.WordTokenizer.from_file()


@pytest.fixture(scope="module")
def files(tmp_path_factory, tokenizer):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    unet = randomized(networks.build_unet())
    text_encoder = randomized(networks.build_text_encoder(len(tokenizer)))
    vae = randomized(networks.build_vae())
    checkpoint = convert.Checkpoint(unet, text_encoder, vae, tokenizer.token_ids, SCALE, SHIFT)
    convert.save_checkpoint(folder / "mini.safetensors", checkpoint)
    convert.save_controlnet(
        folder / "pose.safetensors", randomized(networks.build_controlnet(unet))
    )
    return folder


@pytest.fixture(scope="module")
def reference(files):
    """The file as diffusers modules: both sides start from the same float16 numbers."""
    return convert.load_checkpoint(files / "mini.safetensors")


@pytest.fixture(scope="module")
def host(files):
    """The file as the host loads it: MODEL, CLIP, VAE."""
    register_family()
    path = str(files / "mini.safetensors")
    return comfy.sd.load_checkpoint_guess_config(path, output_vae=True, output_clip=True)[:3]


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def test_registers_once_and_last_and_leaves_sd15_alone():
    register_family()
    register_family()
    families = comfy.supported_models.models
    assert families.count(VitruvianMini) == 1
    sd15 = {**comfy.supported_models.SD15.unet_config, "in_channels": 4}
    assert not VitruvianMini.matches(sd15)
    assert next(f for f in families if f.matches(sd15)) is comfy.supported_models.SD15


def test_the_family_is_found(host):
    assert isinstance(host[0].model.model_config, VitruvianMini)


def test_noise_schedule(host):
    alphas = networks.build_scheduler().alphas_cumprod
    expected = ((1 - alphas) / alphas) ** 0.5
    torch.testing.assert_close(host[0].model.model_sampling.sigmas, expected, **CLOSE)
    sigmas = comfy.samplers.calculate_sigmas(host[0].model.model_sampling, "normal", 20)
    torch.testing.assert_close(preview.noise_levels(20)[0], sigmas, **CLOSE)


def predict_noise(patcher, x, step, context, control=None):
    """The host's epsilon at a whole step, taken back from its denoised latents."""
    comfy.model_management.load_models_gpu([patcher])
    sigma = patcher.model.model_sampling.sigmas[step].expand(len(x))
    noisy = x * (1 + sigma[0] ** 2) ** 0.5
    denoised = patcher.model.apply_model(noisy, sigma, c_crossattn=context, control=control)
    return (noisy - denoised) / sigma[0]


@pytest.mark.parametrize("height, width", [(24, 24), (16, 28)])
@pytest.mark.parametrize("step", [0, 10, 700])
def test_unet(host, reference, height, width, step):
    x, context = torch.randn(2, 4, height, width), torch.randn(2, 77, mini.UNET.context_dim)
    noise = predict_noise(host[0], x, step, context)
    torch.testing.assert_close(noise, reference.unet(x, step, context).sample, **CLOSE)


def test_controlnet(host, reference, files):
    x, context = torch.randn(2, 4, 24, 24), torch.randn(2, 77, mini.UNET.context_dim)
    hint = torch.rand(1, 3, 192, 192)
    controlnet = convert.load_controlnet(files / "pose.safetensors")
    down, middle = controlnet(x, 300, context, hint.expand(2, -1, -1, -1), return_dict=False)
    expected = reference.unet(
        x,
        300,
        context,
        down_block_additional_residuals=down,
        mid_block_additional_residual=middle,
    ).sample
    assert (expected - reference.unet(x, 300, context).sample).abs().mean() > 0.01

    control = comfy.controlnet.load_controlnet(str(files / "pose.safetensors"))
    control = control.copy().set_cond_hint(hint)
    comfy.model_management.load_models_gpu([host[0], *control.get_models()])
    control.pre_run(host[0].model, host[0].model.model_sampling.percent_to_sigma)
    sigma = host[0].model.model_sampling.sigmas[300].expand(2)
    noisy = x * (1 + sigma[0] ** 2) ** 0.5
    residuals = control.get_control(noisy, sigma, {"c_crossattn": context}, 1, {})
    torch.testing.assert_close(
        predict_noise(host[0], x, 300, context, residuals), expected, **CLOSE
    )


def test_vae(host, reference):
    images = torch.rand(2, 3, 64, 96)
    latents = preview.encode(reference, images)
    torch.testing.assert_close(
        latents, (reference.vae.encode(images * 2 - 1).latents - SHIFT) * SCALE, **CLOSE
    )
    encoded_latents = nodes.VAEEncode().encode(host[2], images.movedim(1, -1))[0]["samples"]
    torch.testing.assert_close(host[0].model.process_latent_in(encoded_latents), latents, **CLOSE)

    z = torch.randn(2, 4, 8, 12)
    latent = {"samples": host[0].model.process_latent_out(z)}
    decoded = nodes.VAEDecode().decode(host[2], latent)[0].movedim(-1, 1)
    torch.testing.assert_close(decoded, preview.decode(reference, z), **CLOSE)


PROMPTS = [
    "",
    "a woman with light skin wearing a red striped top, blue trousers; standing",
    "A Gargantuan woman, naïvely waving: Red top.",
]


def encoded(clip, text):
    return nodes.CLIPTextEncode().encode(clip, text)[0][0][0]


@pytest.mark.parametrize("text", PROMPTS)
def test_text(host, reference, tokenizer, text):
    token_ids = [id for id, _ in host[1].tokenize(text)["l"][0]]
    rows = [tokenizer.token_ids[id] for id in tokenizer.encode(text)]
    if "Gargantuan" not in text:  # unknown words are one row here and several tokens there
        assert rows == token_ids
    row_of = {id: row for row, id in enumerate(tokenizer.token_ids)}
    ids = torch.tensor([[row_of.get(id, tokens.UNKNOWN) for id in token_ids]])
    torch.testing.assert_close(encoded(host[1], text), reference.text_encoder(ids)[0], **CLOSE)


def test_unknown_words_share_a_row(host):
    def row(word):
        return [id for id, _ in host[1].tokenize(word)["l"][0]][1]

    table = host[1].cond_stage_model.clip_l.transformer.get_input_embeddings().weight
    assert table.shape == (mini.TEXT.vocabulary, mini.TEXT.hidden)
    assert row("cathedral") != row("python")
    assert torch.equal(table[row("cathedral")], table[row("python")])
    assert not torch.equal(table[row("red")], table[row("blue")])


def test_weighted_text(host, tokenizer):
    plain, empty = encoded(host[1], "a red top"), encoded(host[1], "")
    weighted = encoded(host[1], "a (red:1.5) top")
    position = tokenizer.encode("a red top").index(tokenizer.encode("red")[1])
    expected = plain.clone()
    expected[0, position] = empty[0, position].lerp(plain[0, position], 1.5)
    torch.testing.assert_close(weighted, expected, **CLOSE)


def test_long_text(host):
    assert encoded(host[1], "a red top, " * 30).shape == (1, 154, mini.TEXT.hidden)


def test_same_image_as_the_preview(host, reference, files):
    """KSampler, ControlNetApplyAdvanced and VAEDecode against the preview, seed for seed."""
    hint = torch.rand(1, 3, 192, 192)
    positive = nodes.CLIPTextEncode().encode(host[1], PROMPTS[1])[0]
    negative = nodes.CLIPTextEncode().encode(host[1], "")[0]
    loaded = comfy.controlnet.load_controlnet(str(files / "pose.safetensors"))
    positive, negative = nodes.ControlNetApplyAdvanced().apply_controlnet(
        positive, negative, loaded, hint.movedim(1, -1), 1.0, 0.0, 1.0
    )
    empty = nodes.EmptyLatentImage().generate(192, 192, 2)[0]
    latents = nodes.KSampler().sample(
        host[0], 7, 4, 3.0, "euler", "normal", positive, negative, empty
    )[0]
    images = nodes.VAEDecode().decode(host[2], latents)[0].movedim(-1, 1)

    controlnet = convert.load_controlnet(files / "pose.safetensors")
    expected = preview.sample(
        reference, [PROMPTS[1]] * 2, hint, controlnet, sampling=preview.Sampling(7, 4, 3.0)
    )
    torch.testing.assert_close(images, expected, atol=1e-3, rtol=0)


def test_lora_keys(host):
    unet = comfy.lora.model_lora_keys_unet(host[0].model, {})
    text = comfy.lora.model_lora_keys_clip(host[1].cond_stage_model, {})
    assert "lora_unet_input_blocks_3_1_transformer_blocks_0_attn2_to_k" in unet
    assert "lora_te_text_model_encoder_layers_2_self_attn_q_proj" in text


def test_saved_by_the_host_and_loaded_again(host, tmp_path):
    path = str(tmp_path / "saved.safetensors")
    comfy.sd.save_checkpoint(path, host[0], host[1], host[2])
    again = comfy.sd.load_checkpoint_guess_config(path)[1]
    torch.testing.assert_close(encoded(again, PROMPTS[1]), encoded(host[1], PROMPTS[1]), **CLOSE)


SD15 = {
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


@pytest.mark.parametrize("config", [SD15, SDXL], ids=["SD1.5", "SDXL"])
def test_names_of_the_large_models(config):
    """Our names against the host's own table, on the real architectures (without their memory)."""
    with torch.device("meta"):
        tensors = diffusers.UNet2DConditionModel(**config).state_dict()
    host_table = comfy.utils.unet_to_diffusers(
        comfy.model_detection.unet_config_from_diffusers_unet(tensors)
    )
    names = convert.unet_names(tensors)
    assert names == {key: host_table[key] for key in tensors}


def test_the_vocabulary_is_the_hosts_and_covers_the_captions(host):
    clip = host[1].tokenizer.clip_l.tokenizer
    vocabulary = tokens.build_vocabulary(
        captions.WORDS, lambda word: clip(word, add_special_tokens=False)["input_ids"]
    )
    assert tokens.read_vocabulary() == vocabulary
