"""The trainer's image encoders are the host's: same names, same features."""

import pytest
import torch
from transformers import CLIPVisionConfig
from vitruvian.host import part_encoder as host
from vitruvian.lab.training.appearance_images import round_to_bytes
from vitruvian.lab.training.part_encoder import save_encoder, start_encoder
from vitruvian.lab.training.vision_files import open_vision
from vitruvian.models import part_crops

SIDE = 24


@pytest.fixture
def file(tmp_path):
    torch.manual_seed(4)
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=8,
        projection_dim=12,
        hidden_act="quick_gelu",
    )
    save_encoder(start_encoder(config, 20), tmp_path / "ours.safetensors", "mini")
    return tmp_path / "ours.safetensors"


def test_trainer_and_host_encode_parts_alike(file):
    ours, stock = open_vision(file), host.load(file)
    assert ours.name == host.encoder_name(stock)
    assert ours.side == host.crop_size(stock)
    torch.testing.assert_close(ours.text_projection, host.text_projection_of(stock).float())
    g = torch.Generator().manual_seed(5)
    labels = torch.randint(0, 24, (3, 4), generator=g).byte().repeat_interleave(20, 0)
    labels = labels.repeat_interleave(20, 1)
    crops = torch.stack(
        [
            crop
            for _, crop in part_crops.crop_parts(torch.rand(60, 80, 3, generator=g), labels, SIDE)
        ]
    )
    with torch.inference_mode():
        expected = host.encode_crops(stock, crops)
    features = ours(round_to_bytes(crops).movedim(-1, 1))
    torch.testing.assert_close(features, expected, atol=2e-3, rtol=1e-2)
