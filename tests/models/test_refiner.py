"""The structure-guided refiner's embedders: their sum, their hint, their names."""

import pytest
import torch
from torch import nn
from vitruvian.models import refiner
from vitruvian.models.refiner import CONDITIONS, SummedEmbedders


class Embedder(nn.Module):
    """Takes the arguments that the host passes to a hint block."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1, stride=2)

    def forward(self, hint, emb=1.0, context=None):
        return self.conv(hint) * emb


def summed(**options):
    torch.manual_seed(0)
    return SummedEmbedders({condition: Embedder() for condition in CONDITIONS}, **options)


def images(b=2, h=10, w=14):
    g = torch.Generator().manual_seed(1)
    return {condition: torch.rand(b, 3, h, w, generator=g) for condition in CONDITIONS}


@torch.no_grad()
def test_the_embeddings_are_summed_and_further_inputs_passed_on():
    net, hint_images = summed(), images()
    embeddings = net(refiner.stack_hint(hint_images), 2.0, None)
    for i in range(2):
        expected = torch.zeros(5, 5, 7)
        for condition in CONDITIONS:
            weight, bias = net[condition].conv.weight, net[condition].conv.bias
            embedded = nn.functional.conv2d(
                hint_images[condition][i : i + 1], weight, bias, stride=2, padding=1
            )
            expected += 2.0 * embedded[0]
        torch.testing.assert_close(embeddings[i], expected)


def test_a_missing_image_is_black():
    hint_images = images()
    for missing in CONDITIONS:
        black = {**hint_images, missing: torch.zeros_like(hint_images[missing])}
        assert torch.equal(
            refiner.stack_hint({**hint_images, missing: None}), refiner.stack_hint(black)
        )
        without = {
            condition: hint_images[condition] for condition in CONDITIONS if condition != missing
        }
        assert torch.equal(refiner.stack_hint(without), refiner.stack_hint(black))
    with pytest.raises(ValueError, match="connect one of 'pose_image', 'depth_image', 'normal"):
        refiner.stack_hint({"pose": None})


@pytest.mark.parametrize("single", CONDITIONS)
@torch.no_grad()
def test_one_image_is_the_single_condition(single):
    net, image = summed(single=single), images()["depth"]
    assert torch.equal(net(image), net(refiner.stack_hint({single: image})))


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_other_channels_are_refused(channels):
    with pytest.raises(ValueError, match=f"9 channels, or one image of 3, but .* {channels}"):
        summed()(torch.zeros(1, channels, 8, 8))


def test_dropped_conditions_are_black():
    hint = refiner.stack_hint(images())
    is_kept = torch.tensor([[True, False, True], [False, False, True]])
    hints = refiner.keep_conditions(hint, is_kept)
    for i, row in enumerate(is_kept.tolist()):
        for k, keep in enumerate(row):
            channels_of_condition = slice(3 * k, 3 * k + 3)
            assert torch.equal(
                hints[i, channels_of_condition], hint[i, channels_of_condition] * keep
            )
    assert refiner.keep_conditions((255 * hint).byte(), is_kept).dtype == torch.uint8


def controlnet():
    g = torch.Generator().manual_seed(2)
    shapes = {0: 3, 2: 4, 14: 4}
    blocks = {f"{k}.weight": torch.randn(4, n, 3, 3, generator=g) for k, n in shapes.items()}
    blocks |= {f"{k}.bias": torch.randn(4, generator=g) for k in shapes}
    return {refiner.BLOCK + name: t for name, t in blocks.items()} | {"zero_convs.0": torch.ones(1)}


def test_a_refiner_begins_as_a_controlnet():
    controlnet_tensors = controlnet()
    tensors = refiner.refiner_from_controlnet(controlnet_tensors)
    assert {k: t for k, t in tensors.items() if refiner.is_controlnet(k)} == controlnet_tensors
    pose_embedder = refiner.embedder_tensors(tensors, "pose")
    for condition in ("depth", "normal"):
        assert f"hint.{condition}.input_hint_block.0.weight" in tensors
        embedder = refiner.embedder_tensors(tensors, condition)
        assert embedder.keys() == pose_embedder.keys()
        for name in pose_embedder:  # the last convolution by number, not by spelling
            expected = (
                torch.zeros_like(pose_embedder[name])
                if name.startswith("14.")
                else pose_embedder[name]
            )
            assert torch.equal(embedder[name], expected)
            assert embedder[name] is not pose_embedder[name]


def test_tensors_of_other_networks_are_refused():
    with pytest.raises(ValueError, match="found nothing"):
        refiner.refiner_from_controlnet({"zero_convs.0": torch.ones(1)})
    with pytest.raises(ValueError, match="found 7 channels"):
        refiner.refiner_from_controlnet({f"{refiner.BLOCK}0.weight": torch.ones(1, 7, 3, 3)})
