"""The structure-guided refiner's embedders: their sum, their hint, their names."""

import pytest
import torch
from torch import nn
from vitruvian.models import refiner
from vitruvian.models.refiner import CONDITIONS, SummedEmbedders


class Embedder(nn.Module):
    """Takes what the host gives a hint block."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1, stride=2)

    def forward(self, hint, emb=1.0, context=None):
        return self.conv(hint) * emb


def summed(**how):
    torch.manual_seed(0)
    return SummedEmbedders({condition: Embedder() for condition in CONDITIONS}, **how)


def images(b=2, h=10, w=14):
    g = torch.Generator().manual_seed(1)
    return {condition: torch.rand(b, 3, h, w, generator=g) for condition in CONDITIONS}


@torch.no_grad()
def test_the_embeddings_are_summed_and_the_rest_passed_on():
    net, given = summed(), images()
    found = net(refiner.stack_hint(given), 2.0, None)
    for i in range(2):
        slow = torch.zeros(5, 5, 7)
        for condition in CONDITIONS:
            weight, bias = net[condition].conv.weight, net[condition].conv.bias
            embedded = nn.functional.conv2d(
                given[condition][i : i + 1], weight, bias, stride=2, padding=1
            )
            slow += 2.0 * embedded[0]
        torch.testing.assert_close(found[i], slow)


def test_a_missing_picture_is_a_black_one():
    given = images()
    for missing in CONDITIONS:
        black = {**given, missing: torch.zeros_like(given[missing])}
        assert torch.equal(refiner.stack_hint({**given, missing: None}), refiner.stack_hint(black))
        lacking = {condition: given[condition] for condition in CONDITIONS if condition != missing}
        assert torch.equal(refiner.stack_hint(lacking), refiner.stack_hint(black))
    with pytest.raises(ValueError, match="connect one of pose, depth, normal"):
        refiner.stack_hint({"pose": None})


@pytest.mark.parametrize("single", CONDITIONS)
@torch.no_grad()
def test_one_picture_is_the_single_condition(single):
    net, picture = summed(single=single), images()["depth"]
    assert torch.equal(net(picture), net(refiner.stack_hint({single: picture})))


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_other_channels_are_refused(channels):
    with pytest.raises(ValueError, match=f"9 channels, or one picture of 3, but .* {channels}"):
        summed()(torch.zeros(1, channels, 8, 8))


def test_what_is_shown():
    hint = refiner.stack_hint(images())
    which = torch.tensor([[True, False, True], [False, False, True]])
    found = refiner.keep_conditions(hint, which)
    for i, row in enumerate(which.tolist()):
        for k, there in enumerate(row):
            part = slice(3 * k, 3 * k + 3)
            assert torch.equal(found[i, part], hint[i, part] * there)
    assert refiner.keep_conditions((255 * hint).byte(), which).dtype == torch.uint8


def controlnet():
    g = torch.Generator().manual_seed(2)
    shapes = {0: 3, 2: 4, 14: 4}
    blocks = {f"{k}.weight": torch.randn(4, n, 3, 3, generator=g) for k, n in shapes.items()}
    blocks |= {f"{k}.bias": torch.randn(4, generator=g) for k in shapes}
    return {refiner.BLOCK + name: t for name, t in blocks.items()} | {"zero_convs.0": torch.ones(1)}


def test_a_refiner_begins_as_a_controlnet():
    plain = controlnet()
    begun = refiner.refiner_from_controlnet(plain)
    assert {name: t for name, t in begun.items() if refiner.is_controlnet(name)} == plain
    own = refiner.embedder_tensors(begun, "pose")
    for condition in ("depth", "normal"):
        assert f"hint.{condition}.input_hint_block.0.weight" in begun
        other = refiner.embedder_tensors(begun, condition)
        assert other.keys() == own.keys()
        for name in own:  # the last convolution by number, not by spelling
            expected = torch.zeros_like(own[name]) if name.startswith("14.") else own[name]
            assert torch.equal(other[name], expected)
            assert other[name] is not own[name]


def test_what_is_no_pose_controlnet_is_refused():
    with pytest.raises(ValueError, match="found nothing"):
        refiner.refiner_from_controlnet({"zero_convs.0": torch.ones(1)})
    with pytest.raises(ValueError, match="found 7 channels"):
        refiner.refiner_from_controlnet({f"{refiner.BLOCK}0.weight": torch.ones(1, 7, 3, 3)})
