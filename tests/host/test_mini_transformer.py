"""The mini transformer in the host: the trainer's numbers through the host's own loaders and nodes,
and people composed on it.
"""

import comfy.controlnet
import comfy.model_detection
import comfy.model_management
import comfy.samplers
import comfy.sd
import comfy.supported_models
import pytest
import torch
from vitruvian.host import compose as host_compose
from vitruvian.host.mini_family import VitruvianMini, VitruvianMiniTransformer, register_family
from vitruvian.lab.training import convert, flow, preview, tokens, transformer_files
from vitruvian.models import mini

import nodes

CLOSE = {"atol": 1e-4, "rtol": 1e-4}
TEXT = "a woman in a red striped top and blue trousers, standing"
OTHER = "a man in a green top and white trousers, waving"
SIZE = 64


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A checkpoint and a ControlNet of random weights, also where training starts from zeros."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    bundle = transformer_files.build(tokens.WordTokenizer.from_file().token_ids)
    for module in bundle[:3]:
        for name, parameter in module.named_parameters():
            matrix = parameter.dim() > 1
            scale = parameter[0].numel() ** -0.5 if matrix else 0.1
            torch.nn.init.normal_(parameter, float(not matrix and name.endswith("weight")), scale)
    transformer_files.save(bundle, folder / "net.safetensors", folder / "pose.safetensors")
    return folder


@pytest.fixture(scope="module")
def reference(files):
    """The files as the trainer reads them: both sides start from the same float16 numbers."""
    return transformer_files.load(files / "net.safetensors", files / "pose.safetensors")


@pytest.fixture(scope="module")
def host(files):
    """The checkpoint as the host loads it: MODEL and CLIP."""
    register_family()
    path = str(files / "net.safetensors")
    return comfy.sd.load_checkpoint_guess_config(path, output_vae=False, output_clip=True)[:2]


@pytest.fixture(scope="module")
def vae():
    register_family()
    path = str(preview.CHECKPOINT)
    return comfy.sd.load_checkpoint_guess_config(path, output_vae=True, output_clip=False)[2]


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def encoded(clip, text):
    return nodes.CLIPTextEncode().encode(clip, text)[0]


def sampled(model, positive, negative, size=SIZE):
    latent = nodes.EmptyLatentImage().generate(size, size, 1)[0]
    sampler = "euler", "normal"
    return nodes.common_ksampler(model, 5, 6, 4.0, *sampler, positive, negative, latent)[0]


def velocity(model, x, level, text, pooled, control=None):
    """The network's velocity, taken back from the host's denoised latents."""
    comfy.model_management.load_models_gpu([model])
    denoised = model.model.apply_model(x, level, c_crossattn=text, y=pooled, control=control)
    return (x - denoised) / level[:, None, None, None]


def test_registers_once_and_behind_the_families_of_the_host():
    register_family()
    register_family()
    families = comfy.supported_models.models
    assert families[-2:].count(VitruvianMiniTransformer) == 1
    sd3 = {"in_channels": 16, "depth": 24, "pos_embed_scaling_factor": None}
    assert next(f for f in families if f.matches(sd3)) is comfy.supported_models.SD3
    assert not VitruvianMiniTransformer.matches({**sd3, "in_channels": 4})
    assert not VitruvianMini.matches({**sd3, "in_channels": 4, "depth": mini.TRANSFORMER.heads})


def test_the_family_is_found_with_all_its_blocks(host):
    assert isinstance(host[0].model.model_config, VitruvianMiniTransformer)
    assert len(host[0].model.diffusion_model.joint_blocks) == mini.TRANSFORMER.blocks


def test_noise_levels(host):
    levels = comfy.samplers.calculate_sigmas(host[0].model.model_sampling, "normal", 20)
    torch.testing.assert_close(flow.levels(20), levels, **CLOSE)


@pytest.mark.parametrize("height, width", [(24, 24), (16, 28)])
def test_transformer(host, reference, height, width):
    x, level = torch.randn(2, 4, height, width), torch.tensor([0.95, 0.2])
    width = mini.TRANSFORMER_TEXT.hidden
    text, pooled = torch.randn(2, 77, width), torch.randn(2, width)
    expected = reference.transformer(x, level, text, pooled)
    assert expected.std() > 0.5
    torch.testing.assert_close(velocity(host[0], x, level, text, pooled), expected, **CLOSE)


@pytest.mark.parametrize("text", ["", TEXT])
def test_text(host, reference, text):
    tokens_, extra = encoded(host[1], text)[0]
    tokenizer = tokens.WordTokenizer.from_file(token_ids=reference.token_ids)
    read = reference.text_encoder(tokenizer([text]))
    torch.testing.assert_close(tokens_, read.last_hidden_state, **CLOSE)
    torch.testing.assert_close(extra["pooled_output"], read.pooler_output, **CLOSE)


def test_same_latents_as_the_trainers_sampler(host, reference):
    positive, negative = encoded(host[1], TEXT), encoded(host[1], "")
    latents = sampled(host[0], positive, negative)["samples"]
    expected = flow.sample(reference, [TEXT], None, flow.Sampling(5, 6), (8, 8))
    torch.testing.assert_close(host[0].model.process_latent_in(latents), expected, **CLOSE)


def test_same_latents_with_a_drawn_pose(host, reference, files, vae):
    control_net = comfy.controlnet.load_controlnet(str(files / "pose.safetensors"))
    hint = torch.rand(1, SIZE, SIZE, 3)
    conds = encoded(host[1], TEXT), encoded(host[1], "")
    controlled = nodes.ControlNetApplyAdvanced().apply_controlnet(
        *conds, control_net, hint, 1.0, 0.0, 1.0, vae=vae
    )
    latents = sampled(host[0], *controlled)["samples"]
    drawn = preview.encode(convert.load_checkpoint(preview.CHECKPOINT), hint.movedim(-1, 1))
    expected = flow.sample(reference, [TEXT], drawn, flow.Sampling(5, 6), (8, 8))
    free = flow.sample(reference, [TEXT], None, flow.Sampling(5, 6), (8, 8))
    assert (expected - free).abs().mean() > 0.01
    torch.testing.assert_close(host[0].model.process_latent_in(latents), expected, **CLOSE)


def halves(width, height):
    masks = torch.zeros(1, 2, height, width)
    masks[:, 0, :, : width // 2] = 1
    masks[:, 1, :, width // 2 :] = 1
    return masks


def composed(host, texts, mode, control=(None, None)):
    composition = host_compose.Composition(
        people=tuple(encoded(host[1], text)[0] for text in texts),
        masks=halves,
        hint=lambda person, width, height: torch.rand(
            1, height, width, 3, generator=torch.Generator().manual_seed(max(0, person + 1))
        ),
        canvas=(SIZE, SIZE),
        order=(0, 0),
        mode=mode,
        harmony=0.0,
        scene=False,
        shared_negative=True,
        start_percent=0.0,
        end_percent=1.0,
    )
    conds = encoded(host[1], TEXT), encoded(host[1], "")
    control_net, vae = control
    attached = host_compose.ComposedControl(control_net, composition, 1.0, vae=vae)
    host_compose.check_controls(host[0], attached)
    conds = host_compose.attach(attached, *conds)
    return sampled(host_compose.compose_model(host[0], composition), *conds)["samples"]


@pytest.mark.parametrize("mode", [host_compose.EXACT, host_compose.COUPLE])
def test_people_are_composed(host, mode):
    alone = sampled(host[0], encoded(host[1], TEXT), encoded(host[1], ""))["samples"]
    torch.testing.assert_close(composed(host, [TEXT, TEXT], mode), alone, **CLOSE)
    two = composed(host, [TEXT, OTHER], mode)
    assert two.isfinite().all() and (two - alone).abs().mean() > 0.01


@pytest.mark.parametrize("mode", [host_compose.EXACT, host_compose.COUPLE])
def test_people_are_composed_with_poses(host, files, vae, mode):
    control_net = comfy.controlnet.load_controlnet(str(files / "pose.safetensors"))
    posed = composed(host, [TEXT, OTHER], mode, (control_net, vae))
    assert (posed - composed(host, [TEXT, OTHER], mode)).abs().mean() > 0.01
    with pytest.raises(ValueError, match="Connect the VAE of the model to the input 'vae'"):
        composed(host, [TEXT, OTHER], mode, (control_net, None))
