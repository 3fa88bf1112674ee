"""Test the features of pose images: those of a ResNet-50, or the averaged image itself."""

import pytest
import torch
from safetensors.torch import save_file
from vitruvian.models.pose_features import image_features, resnet50

models = pytest.importorskip("torchvision.models")


@pytest.fixture(scope="module")
def network():
    """Random weights, and statistics as a trained network would have them."""
    torch.manual_seed(0)
    net = models.resnet50().eval()
    for name, buffer in net.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    return net


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("missing", [(), ("fc.", "num_batches_tracked")])
def test_features_are_those_of_torchvision(network, images, tmp_path, missing):
    from torchvision.models.feature_extraction import create_feature_extractor
    from torchvision.transforms import Normalize

    weights = {k: t for k, t in network.state_dict().items() if not any(w in k for w in missing)}
    save_file(weights, tmp_path / "net.safetensors")
    levels = resnet50(tmp_path / "net.safetensors")(images)
    stages = create_feature_extractor(network, [f"layer{k}" for k in range(1, 5)])
    expected = stages(Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))(images)).values()
    assert [level.shape[1:] for level in levels] == [
        (256, 16, 24),
        (512, 8, 12),
        (1024, 4, 6),
        (2048, 2, 3),
    ]
    for level, torchvision_level in zip(levels, expected, strict=True):
        torch.testing.assert_close(level, torchvision_level)
        assert not level.requires_grad and torchvision_level.requires_grad


def test_a_wrong_file_is_named_with_what_was_expected_and_found(network, tmp_path):
    file = tmp_path / "net.safetensors"
    weights = network.state_dict()
    with pytest.raises(ValueError, match=r"net\.safetensors: expected .* ResNet-50 .* no file"):
        resnet50(file)
    file.write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"net\.safetensors: expected .* ResNet-50 .* not be read"):
        resnet50(file)
    save_file({k: t for k, t in weights.items() if k != "conv1.weight"}, file)
    with pytest.raises(
        ValueError, match=r"64 x 3 x 7 x 7 numbers at 'conv1.weight', found nothing"
    ):
        resnet50(file)
    save_file({**weights, "layer3.6.bn1.bias": torch.zeros(256)}, file)  # a ResNet-101
    with pytest.raises(ValueError, match=r"nothing at 'layer3.6.bn1.bias', found 256 numbers"):
        resnet50(file)
    save_file({**weights, "bn1.bias": torch.zeros(32)}, file)
    with pytest.raises(ValueError, match=r"64 numbers at 'bn1.bias', found 32"):
        resnet50(file)


def test_without_weights_the_image_itself_is_averaged(images):
    levels = image_features(images)
    assert [level.shape[2:] for level in levels] == [(8, 12), (4, 6), (2, 3), (1, 2)]
    torch.testing.assert_close(levels[0][0, :, 1, 2], images[0, :, 8:16, 16:24].mean((1, 2)))
    odd = image_features(images[..., :40, :72])
    assert [level.shape[2:] for level in odd] == [(5, 9), (3, 5), (2, 3), (1, 2)]
