"""Key layouts: SD1.5's real places, inverse maps, other widths, and what bad checkpoints say."""

from dataclasses import replace

import pytest
import torch
from vitruvian.lab.training import convert, networks, preview, tokens
from vitruvian.models import mini, pose, weights

LAYOUTS = {
    "mini": mini.UNET,
    "sd15 places": replace(
        mini.UNET,
        model_channels=32,
        channel_mult=(1, 2, 4, 4),
        attention=(True, True, True, False),
        context_dim=48,
        res_blocks=2,
    ),
    "one block": replace(mini.UNET, model_channels=32, res_blocks=1),
    "one level": replace(
        mini.UNET, model_channels=32, channel_mult=(1,), attention=(True,), res_blocks=3
    ),
}
# Places in the published SD1.5 checkpoint, each with diffusers' name of the same weight.
SD15 = {
    "conv_in.weight": "input_blocks.0.0.weight",
    "down_blocks.0.resnets.1.conv1.weight": "input_blocks.2.0.in_layers.2.weight",
    "down_blocks.0.downsamplers.0.conv.bias": "input_blocks.3.0.op.bias",
    "down_blocks.1.resnets.0.conv_shortcut.weight": "input_blocks.4.0.skip_connection.weight",
    "down_blocks.2.attentions.1.transformer_blocks.0.attn2.to_k.weight": (
        "input_blocks.8.1.transformer_blocks.0.attn2.to_k.weight"
    ),
    "down_blocks.3.resnets.1.time_emb_proj.weight": "input_blocks.11.0.emb_layers.1.weight",
    "mid_block.attentions.0.proj_in.weight": "middle_block.1.proj_in.weight",
    "up_blocks.0.upsamplers.0.conv.weight": "output_blocks.2.1.conv.weight",
    "up_blocks.1.upsamplers.0.conv.weight": "output_blocks.5.2.conv.weight",
    "up_blocks.3.resnets.2.norm2.weight": "output_blocks.11.0.out_layers.0.weight",
    "up_blocks.3.attentions.2.proj_out.bias": "output_blocks.11.1.proj_out.bias",
    "conv_out.weight": "out.2.weight",
}
CONTROL = {
    "controlnet_cond_embedding.conv_in.weight": "input_hint_block.0.weight",
    "controlnet_cond_embedding.blocks.5.weight": "input_hint_block.12.weight",
    "controlnet_cond_embedding.conv_out.weight": "input_hint_block.14.weight",
    "controlnet_down_blocks.11.weight": "zero_convs.11.0.weight",
    "controlnet_mid_block.bias": "middle_block_out.0.bias",
}


def test_sd15_places():
    unet = networks.build_unet(LAYOUTS["sd15 places"])
    names = convert.unet_names(unet.state_dict())
    assert {key: names[key] for key in SD15} == SD15
    names = convert.unet_names(networks.build_controlnet(unet).state_dict())
    assert {key: names[key] for key in CONTROL} == CONTROL


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_there_and_back(layout):
    unet = networks.build_unet(layout)
    tensors = convert.unet_to_ldm(unet)
    assert len(tensors) == len(unet.state_dict())  # no two keys share a name
    again = convert.unet_from_ldm(networks.build_unet(layout), tensors).state_dict()
    assert all(torch.equal(again[key], value) for key, value in unet.state_dict().items())

    controlnet = networks.build_controlnet(unet)
    tensors = convert.controlnet_to_ldm(controlnet)
    assert len(tensors) == len(controlnet.state_dict())
    empty = networks.build_controlnet(networks.build_unet(layout))
    again = convert.controlnet_from_ldm(empty, tensors).state_dict()
    assert all(torch.equal(again[key], value) for key, value in controlnet.state_dict().items())


def test_an_untrained_controlnet_adds_nothing():
    unet = networks.build_unet()
    x, context = torch.randn(1, 4, 8, 8), torch.randn(1, 77, mini.UNET.context_dim)
    down, middle = networks.build_controlnet(unet)(
        x, 5, context, torch.rand(1, 3, 64, 64), return_dict=False
    )
    assert not any(residual.any() for residual in (*down, middle))


@pytest.fixture(scope="module")
def tokenizer():
    return tokens.WordTokenizer.from_file()


@pytest.fixture(scope="module")
def modules(tokenizer):
    return (
        networks.build_unet(),
        networks.build_text_encoder(len(tokenizer)),
        networks.build_vae(),
        tokenizer.token_ids,
    )


def test_checkpoint_round_trip(modules, tmp_path):
    path = tmp_path / "mini.safetensors"
    checkpoint = convert.Checkpoint(*modules, latent_scale=0.6, latent_shift=0.2)
    convert.save_checkpoint(path, checkpoint, torch.float32)
    loaded = convert.load_checkpoint(path)
    for module, again in zip(modules[:3], loaded[:3], strict=True):
        state = again.state_dict()
        assert all(torch.equal(state[key], value) for key, value in module.state_dict().items())
    assert loaded.token_ids == modules[3]
    assert loaded.latent_scale == pytest.approx(0.6) and loaded.latent_shift == pytest.approx(0.2)


def test_a_file_of_the_wrong_kind(modules, tmp_path):
    path = tmp_path / "mini.safetensors"
    convert.save_checkpoint(path, convert.Checkpoint(*modules, 1.0, 0.0))
    with pytest.raises(ValueError, match="expected weights of 'controlnet', found 'checkpoint'"):
        convert.load_controlnet(path)


@pytest.mark.parametrize("harm", ["missing", "narrow"])
def test_a_checkpoint_of_other_numbers(modules, tmp_path, harm):
    path = tmp_path / "other.safetensors"
    key = convert.UNET + "out.2.weight"
    tensors = convert.unet_to_ldm(modules[0])
    tensors = {**tensors, **convert.vae_to_ldm(modules[2], 1.0, 0.0)}
    tensors = {**tensors, **convert.text_to_ldm(modules[1], modules[3])}
    tensors[key] = tensors[key][:, :32]
    if harm == "missing":
        del tensors[key]
    weights.save(path, tensors, {"method": "checkpoint", "version": 1, "base": "mini"})
    with pytest.raises(ValueError, match="models/mini.py") as error:
        convert.load_checkpoint(path)
    assert str(path) in str(error.value) and key in str(error.value)


def test_preview_makes_images_of_its_seed(modules):
    model = convert.Checkpoint(*modules, latent_scale=1.0, latent_shift=0.0)

    def sample(seed):
        sampling = preview.Sampling(seed, steps=2)
        return preview.sample(model, ["a man", "a woman"], sampling=sampling, size=(64, 96))

    first = sample(3)
    assert first.shape == (2, 3, 64, 96) and 0 <= first.min() and first.max() <= 1
    assert torch.equal(first, sample(3))
    assert not torch.equal(first, sample(4))


def test_preview_wants_a_controlnet_for_hints(modules):
    model = convert.Checkpoint(*modules, latent_scale=1.0, latent_shift=0.0)
    with pytest.raises(ValueError, match="both or neither"):
        preview.sample(model, "a man", torch.rand(1, 3, 64, 64), size=(64, 64))


def test_tokens(tokenizer):
    ids = tokenizer.encode("A red top, unheardof.")
    assert ids[0] == tokens.BOS and len(ids) == 77
    assert ids[5] == tokens.UNKNOWN and ids[7:] == [tokens.EOS] * 70
    assert tokenizer.encode("red " * 100)[-1] == tokens.EOS
    assert tokenizer(["a", "red top"]).shape == (2, 77)


def test_words_added_later_are_unknown_to_older_weights():
    older = tokens.WordTokenizer({"red": [736]})
    table = {"red": [736], "blue": [1746]}
    again = tokens.WordTokenizer(table, older.token_ids)
    assert again.encode("red")[1] == older.encode("red")[1]
    assert again.encode("blue")[1] == tokens.UNKNOWN


def test_a_photograph_is_put_in_a_square_without_stretching():
    body = torch.zeros(1, 18, 3)
    body[0, 0] = torch.tensor([10.0, 30.0, 1.0])
    parts = [body, *pose.no_people(1, 1)[1:5]]
    people = preview.in_square(pose.people_from_points(parts, 100, 300))
    assert (people.width, people.height) == (300, 300)
    assert people.body[0, 0].tolist() == [110, 30, 1]
    assert not people.body[0, 1:].any()  # missing points stay missing


def test_preview_says_what_is_wrong_with_the_photograph(tmp_path):
    with pytest.raises(ValueError, match="missing.png can not be read"):
        preview.preview(tmp_path / "missing.png", tmp_path / "out.png")
    assert not list(tmp_path.iterdir())
