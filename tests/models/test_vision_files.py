"""Image encoders from files, as the trainer reads them."""

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig
from vitruvian.lab.training.part_encoder import (
    DEVIATION,
    MEAN,
    load_encoder,
    save_encoder,
    start_encoder,
)
from vitruvian.lab.training.vision_files import open_vision, read_config
from vitruvian.models import weights
from vitruvian.models.memory import encoder_name

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
}


def images(side, count=3):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**SMALL, "vocab_size": 40, "projection_dim": 24},
        vision_config={**SMALL, "image_size": 28, "patch_size": 14, "projection_dim": 24},
        projection_dim=24,
    )
    return CLIPModel(config).eval()


def write(model, path, without=()):
    tensors = {k: t.contiguous() for k, t in model.state_dict().items() if k not in without}
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, path)
    return path


def test_a_whole_clip_gives_what_transformers_gives(clip, tmp_path):
    vision = open_vision(write(clip, tmp_path / "clip.safetensors"))
    assert (vision.side, vision.width) == (28, 24)
    mean, deviation = (torch.tensor(v)[:, None, None] for v in (MEAN, DEVIATION))
    pixels = images(28)
    with torch.no_grad():
        hidden = clip.vision_model((pixels - mean) / deviation).pooler_output
        expected = normalize(clip.visual_projection(hidden), dim=-1)
    torch.testing.assert_close(vision(pixels), expected)
    torch.testing.assert_close(vision(images(28, 1)).norm(dim=-1), torch.ones(1))
    torch.testing.assert_close(vision.text_projection, clip.text_projection.weight.detach())
    assert vision.name == encoder_name(clip.state_dict()) and vision.name.startswith("CLIP vision")


def test_an_image_encoder_alone_has_the_same_name_in_16_bits(clip, tmp_path):
    clip_vision = open_vision(write(clip, tmp_path / "clip.safetensors"))
    tensors = {key: t.half() for key, t in clip.state_dict().items() if "vis" in key}
    save_file(tensors, tmp_path / "half.safetensors")
    half = open_vision(tmp_path / "half.safetensors")
    assert half.text_projection is None and half.name == clip_vision.name
    torch.testing.assert_close(half(images(28)), clip_vision(images(28)), atol=1e-2, rtol=0)


def test_one_of_ours_gives_the_same(tmp_path):
    torch.manual_seed(3)
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=24,
        patch_size=8,
        projection_dim=10,
        hidden_act="quick_gelu",
    )
    file = tmp_path / "ours.safetensors"
    save_encoder(start_encoder(config, 20), file, "mini")
    vision, encoder = open_vision(file), load_encoder(file)
    assert (vision.side, vision.width) == (encoder.side, 10) == (24, 10)
    pixels = images(24)
    with torch.no_grad():
        torch.testing.assert_close(vision(pixels), encoder.encode_images(pixels))
    assert torch.equal(vision.text_projection, encoder.text_projection)
    assert not any(p.requires_grad for p in vision.network.parameters())


@pytest.mark.parametrize(
    ("width", "wide", "layers", "projected", "act", "positions"),
    [
        (1024, 4096, 24, 768, "quick_gelu", 257),
        (1280, 5120, 32, 1024, "gelu", 257),
        (1664, 8192, 48, 1280, "gelu", 257),
        (1024, 4096, 24, 768, "quick_gelu", 577),
    ],
)
def test_sizes_are_those_of_the_host_s_own_tables(width, wide, layers, projected, act, positions):
    def shaped(*shape):
        return torch.empty(shape, device="meta")

    tensors = {
        "vision_model.embeddings.patch_embedding.weight": shaped(width, 3, 14, 14),
        "vision_model.embeddings.position_embedding.weight": shaped(positions, width),
        "visual_projection.weight": shaped(projected, width),
        **{
            f"vision_model.encoder.layers.{k}.mlp.fc1.weight": shaped(wide, width)
            for k in range(layers)
        },
    }
    config = read_config(tensors)
    assert (config.hidden_size, config.intermediate_size) == (width, wide)
    assert (config.num_hidden_layers, config.num_attention_heads) == (layers, 16)
    assert (config.projection_dim, config.hidden_act) == (projected, act)
    assert (config.image_size, config.patch_size) == (224 if positions == 257 else 336, 14)
    assert config.layer_norm_eps == 1e-5


def test_other_files_are_named(clip, tmp_path):
    text = {"text_model.a": torch.zeros(1)}
    save_file(text, tmp_path / "text.safetensors")
    write(clip, tmp_path / "cut.safetensors", ("vision_model.post_layernorm.weight",))
    (tmp_path / "list.safetensors").write_text("{}")
    facts = {"method": "vision", "version": 1, "base": "mini"}
    weights.save(tmp_path / "bare.safetensors", text, facts)
    for name, message in (
        ("text", "expected a CLIP image encoder"),
        ("cut", "post_layernorm.weight"),
        ("bare", "expected an image encoder, its config"),
        ("list", "can not be read"),
        ("none", "expected an image encoder here, found no file"),
    ):
        with pytest.raises(ValueError, match=rf"(?s){name}\.safetensors.*{message}"):
            open_vision(tmp_path / f"{name}.safetensors")
