"""The body outpainter: what the trainer shows it is what the host shows it."""

import pytest
import torch
from vitruvian.host.registration import register
from vitruvian.lab.training import convert, hands, preview
from vitruvian.models.hands import body_control_image
from vitruvian.nodes.outpaint import VitruvianOutpaintBody

import nodes as core

register()
SIZE = 96
PROMPT = "a man in a park"


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def inputs():
    g = torch.Generator().manual_seed(1)
    pose_image, placed_image = (torch.rand(1, SIZE, SIZE, 3, generator=g) for _ in range(2))
    mask = torch.zeros(1, SIZE, SIZE)
    mask[:, 20:50, 30:60] = 1
    return pose_image, placed_image, mask


@pytest.fixture(scope="module")
def untrained(mini_weights):
    return hands.body_outpainter(convert.load_controlnet(preview.POSE_CONTROLNET))


def in_host(network, tmp_path):
    import comfy.controlnet

    convert.save_controlnet(tmp_path / "outpainter.safetensors", network, torch.float32)
    return comfy.controlnet.load_controlnet(str(tmp_path / "outpainter.safetensors"))


def conditionings(loaded):
    return [core.CLIPTextEncode().encode(loaded[1], words)[0] for words in (PROMPT, "")]


def sample(loaded, conds):
    empty = core.EmptyLatentImage().generate(SIZE, SIZE, 1)[0]
    sampled = core.common_ksampler(loaded[0], 7, 3, 3.0, "euler", "normal", *conds, empty)[0]
    return core.VAEDecode().decode(loaded[2], sampled)[0].movedim(-1, 1)


def test_before_training_it_is_the_pose_controlnet(loaded, untrained, tmp_path):
    pose_image, placed_image, mask = inputs()
    ours_conds = VitruvianOutpaintBody.execute(
        *conditionings(loaded),
        in_host(untrained, tmp_path),
        pose_image,
        placed_image,
        mask,
        1.0,
        0.0,
        1.0,
    ).result
    stock = core.ControlNetLoader().load_controlnet("vitruvian_mini_openpose.safetensors")[0]
    plain = core.ControlNetApplyAdvanced().apply_controlnet(
        *conditionings(loaded), stock, pose_image, 1.0, 0.0, 1.0
    )
    torch.testing.assert_close(sample(loaded, ours_conds), sample(loaded, plain), atol=1e-3, rtol=0)


def test_the_same_image_as_the_trainers_preview(loaded, untrained, tmp_path):
    pose_image, placed_image, mask = inputs()
    with torch.no_grad():
        weight = untrained.controlnet_cond_embedding.conv_in.weight
        g = torch.Generator().manual_seed(2)
        weight[:, 3:] = 0.3 * torch.randn(weight[:, 3:].shape, generator=g)
    conds = VitruvianOutpaintBody.execute(
        *conditionings(loaded),
        in_host(untrained, tmp_path),
        pose_image,
        placed_image,
        mask,
        1.0,
        0.0,
        1.0,
    ).result
    image = sample(loaded, conds)
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    hint = torch.cat((pose_image.movedim(-1, 1), body_control_image(placed_image, mask)), 1)
    expected = preview.sample(
        checkpoint, PROMPT, hint, untrained, sampling=preview.Sampling(7, 3, 3.0), size=(SIZE, SIZE)
    )
    torch.testing.assert_close(image, expected, atol=1e-3, rtol=0)
    blind = VitruvianOutpaintBody.execute(
        *conditionings(loaded),
        in_host(untrained, tmp_path),
        pose_image,
        placed_image,
        0 * mask,
        1.0,
        0.0,
        1.0,
    ).result
    assert not torch.allclose(sample(loaded, blind), image, atol=1e-2)


def test_strength_0_changes_nothing(loaded, untrained, tmp_path):
    conds = conditionings(loaded)
    unchanged = VitruvianOutpaintBody.execute(
        *conds, in_host(untrained, tmp_path), *inputs(), 0.0, 0.0, 1.0
    ).result
    assert all(a is b for a, b in zip(unchanged, conds, strict=True))


def test_other_controlnets_and_sizes_are_refused(loaded, untrained, tmp_path):
    stock = core.ControlNetLoader().load_controlnet("vitruvian_mini_openpose.safetensors")[0]
    pose_image, placed_image, mask = inputs()
    conds = conditionings(loaded)
    with pytest.raises(ValueError, match="Outpaint Body: this ControlNet reads 3 channels"):
        VitruvianOutpaintBody.execute(*conds, stock, pose_image, placed_image, mask, 1.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="reads other channels"):
        VitruvianOutpaintBody.execute(
            *conds, object(), pose_image, placed_image, mask, 1.0, 0.0, 1.0
        )
    with pytest.raises(ValueError, match="'pose_image' .96 x 96., 'placed_image' .96 x 48."):
        VitruvianOutpaintBody.execute(
            *conds,
            in_host(untrained, tmp_path),
            pose_image,
            placed_image[:, :48],
            mask,
            1.0,
            0.0,
            1.0,
        )
