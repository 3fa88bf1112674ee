"""Mask expansion on the real host, and the hand nodes one after the other."""

import comfy_extras.nodes_differential_diffusion as differential
import pytest
import torch
from vitruvian.host import mask_expansion as host
from vitruvian.host.registration import register
from vitruvian.models import pose
from vitruvian.nodes import hands as ours

import nodes as core

register()


@pytest.fixture(scope="module")
def loaded(mini_weights):
    with torch.inference_mode():
        return core.CheckpointLoaderSimple().load_checkpoint("vitruvian_mini.safetensors")[:3]


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def text(loaded, words):
    return core.CLIPTextEncode().encode(loaded[1], words)[0]


def preserved(batch=1, height=16, width=16):
    """A latent whose middle is to be kept, and where that is."""
    mask = torch.ones(batch, 1, 8 * height, 8 * width)
    mask[..., 48:80, 40:88] = 0
    g = torch.Generator().manual_seed(3)
    latent = {"samples": torch.randn(batch, 4, height, width, generator=g), "noise_mask": mask}
    kept = torch.nn.functional.interpolate(mask, (height, width), mode="bilinear") == 0
    assert kept.sum() > 8
    return latent, kept.expand(batch, 4, -1, -1)


def sample(loaded, model, latent, sampler="euler", steps=4, **more):
    conds = text(loaded, "a man in a park"), text(loaded, "")
    return core.common_ksampler(model, 1, steps, 4.0, sampler, "normal", *conds, latent, **more)[0][
        "samples"
    ]


SAMPLERS = [
    "euler",
    "euler_ancestral",
    "dpmpp_2m",
    "dpmpp_sde",
    "uni_pc",
    "lcm",
    "dpm_adaptive",
    "heun",
]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_preserved_comes_back_exactly(loaded, sampler):
    latent, kept = preserved()
    model = host.expand_mask(loaded[0], 3.0, 0.2, 0.8)
    done = sample(loaded, model, latent, sampler)
    torch.testing.assert_close(done[kept], latent["samples"][kept], atol=1e-6, rtol=0)
    assert not torch.allclose(done[~kept], latent["samples"][~kept], atol=0.1)


@pytest.mark.parametrize("sampler", ["euler", "uni_pc"])
def test_no_expansion_is_the_plain_noise_mask_bit_for_bit(loaded, sampler):
    latent, _ = preserved()
    plain = sample(loaded, loaded[0], latent, sampler)
    assert torch.equal(
        sample(loaded, host.expand_mask(loaded[0], 0, 0.2, 0.8), latent, sampler), plain
    )
    assert not torch.equal(
        sample(loaded, host.expand_mask(loaded[0], 3.0, 0.2, 0.8), latent, sampler), plain
    )


def masks_seen(loaded, model, latent, **more):
    """The denoise mask of every call of the network."""
    inner, seen = model.model_options[host.SLOT], []

    def spy(sigma, mask, extra_options):
        seen.append(inner(sigma, mask, extra_options))
        return seen[-1]

    model = model.clone()
    model.model_options[host.SLOT] = spy
    model.wrappers = {}  # among them the check that the slot is ours
    sample(loaded, model, latent, **more)
    return seen


def test_the_border_gives_way_step_by_step(loaded):
    latent, kept = preserved(batch=2, height=13, width=19)
    seen = masks_seen(loaded, host.expand_mask(loaded[0], 3.0, 0.2, 0.8), latent, steps=8)
    painted = [int(mask.sum()) for mask in seen]
    assert painted == sorted(painted) and painted[0] < painted[3] < painted[-1]
    assert all((mask[kept] == 0).all() for mask in seen)
    assert all((a <= b).all() for a, b in zip(seen, seen[1:], strict=False))


def test_sampling_in_two_parts_sees_the_same_masks(loaded):
    latent, _ = preserved()
    model = host.expand_mask(loaded[0], 3.0, 0.2, 0.8)
    whole = masks_seen(loaded, model, latent, steps=6)
    halves = [
        *masks_seen(loaded, model, latent, steps=6, last_step=3),
        *masks_seen(loaded, model, latent, steps=6, start_step=3),
    ]
    assert len(whole) == len(halves)
    assert all(torch.equal(a, b) for a, b in zip(whole, halves, strict=True))


def test_differential_diffusion_before_it_leaves_the_core_alone(loaded):
    latent, kept = preserved()
    (other,) = differential.DifferentialDiffusion.execute(loaded[0], 1.0).result
    done = sample(loaded, host.expand_mask(other, 3.0, 0.2, 0.8), latent)
    torch.testing.assert_close(done[kept], latent["samples"][kept], atol=1e-6, rtol=0)


def test_misuse_says_what_to_mend(loaded):
    latent, _ = preserved()
    model = host.expand_mask(loaded[0], 3.0, 0.2, 0.8)
    with pytest.raises(ValueError, match="the latent has no noise mask"):
        sample(loaded, model, {"samples": latent["samples"]})
    (behind,) = differential.DifferentialDiffusion.execute(model, 1.0).result
    with pytest.raises(ValueError, match="Connect that node before Apply Mask Expansion"):
        sample(loaded, behind, latent)
    with pytest.raises(ValueError, match="'end' .* must be greater than 'start'"):
        ours.VitruvianApplyMaskExpansion.execute(loaded[0], 40, 0.8, 0.2)


def waving(width=256, height=256):
    """A person with a right hand of 21 points, as POSE_KEYPOINT."""
    hand = [(100.0, 120.0)]
    for finger in range(5):
        hand += [(84 + 8 * finger + 2 * k, 100 - 10 * k) for k in range(4)]
    body = [(0.0, 0.0, 0.0)] * 18
    body[pose.R_WRIST] = (100.0, 122.0, 1.0)
    body[pose.L_WRIST] = (200.0, 122.0, 1.0)
    return [
        {
            "people": [
                {
                    "pose_keypoints_2d": [v for point in body for v in point],
                    "hand_right_keypoints_2d": [v for x, y in hand for v in (x, y, 1.0)],
                }
            ],
            "canvas_width": width,
            "canvas_height": height,
        }
    ]


def without_hands():
    frames = waving()
    del frames[0]["people"][0]["hand_right_keypoints_2d"]
    return frames


def test_cut_mask_place_and_paste_give_the_picture_back():
    picture = torch.rand(1, 32, 32, 3).repeat_interleave(8, 1).repeat_interleave(8, 2)
    images, poses, boxes, count = ours.VitruvianCutHands.execute(
        waving(), "both", 128, 0.35, False, ours.STOP, picture
    ).result
    assert images.shape == (1, 128, 128, 3) and count == 1 and boxes[0][0]["label"] == "right hand"
    masks, union, count = ours.VitruvianDrawHandMasks.execute(
        poses, 0, 0, "both", 0.11, 0.2, ours.STOP
    ).result
    assert count == 1 and masks.shape == union.shape == (1, 128, 128)
    placed, where, repaint = ours.VitruvianPlaceHands.execute(
        images, masks, boxes, 0, 0, 0.1, picture
    ).result
    assert placed.shape == picture.shape and where.sum() > 200 and repaint.sum() > 200
    assert torch.equal(
        placed[0][(where[0] == 0) & (repaint[0] == 0)],
        picture[0][(where[0] == 0) & (repaint[0] == 0)],
    )
    assert float((placed - picture).abs().mean()) < 0.02
    (pasted,) = ours.VitruvianPasteHands.execute(
        torch.zeros_like(picture), placed, where, 0, 0.0
    ).result
    assert torch.equal(pasted[0][where[0] > 0], placed[0][where[0] > 0])
    (strip,) = ours.VitruvianPreviewMaskExpansion.execute(1 - where, 40, 0.2, 0.8, 5, placed).result
    assert strip.shape == (1, 256, 5 * 256, 3)


def test_boxes_of_a_large_pose_fit_a_small_picture():
    images, poses, boxes, count = ours.VitruvianCutHands.execute(
        waving(), "both", 128, 0.35, True, ours.STOP
    ).result
    masks = ours.VitruvianDrawHandMasks.execute(poses, 0, 0, "both", 0.11, 0.0, ours.STOP).result[0]
    small = ours.VitruvianPlaceHands.execute(images, masks, boxes, 64, 64, 0.0).result[1]
    rows, columns = (small[0] > 0).nonzero().double().mean(0).tolist()
    assert 18 < columns < 32 and 15 < rows < 31  # a quarter of where the hand is on 256 pixels


def test_a_picture_without_hands_passes_through():
    picture = torch.rand(1, 64, 64, 3)
    images, poses, boxes, count = ours.VitruvianCutHands.execute(
        without_hands(), "both", 128, 0.35, False, ours.GO_ON, picture
    ).result
    masks = torch.ones(1, 128, 128)
    placed, where, repaint = ours.VitruvianPlaceHands.execute(
        images, masks, boxes, 0, 0, 0.0, picture
    ).result
    assert torch.equal(placed, picture) and where.sum() == repaint.sum() == 0
    assert (
        ours.VitruvianDrawHandMasks.execute(
            without_hands(), 0, 0, "both", 0.11, 0.2, ours.GO_ON
        ).result[2]
        == 0
    )


def test_nodes_say_what_to_mend():
    with pytest.raises(
        ValueError, match="Draw Hand Masks: frame 1 of the pose has no hand .*'if_none'"
    ):
        ours.VitruvianDrawHandMasks.execute(without_hands(), 0, 0, "both", 0.11, 0.2, ours.STOP)
    with pytest.raises(ValueError, match="has no left hand"):
        ours.VitruvianCutHands.execute(waving(), "left", 128, 0.35, False, ours.STOP)
    image, mask = torch.zeros(1, 64, 64, 3), torch.zeros(1, 64, 64)
    with pytest.raises(ValueError, match="there are 2 boxes, but 1 pictures"):
        box = {"x": 1, "y": 1, "width": 9, "height": 9}
        ours.VitruvianPlaceHands.execute(image, mask, [[box, box]], 0, 0, 0.0, image)
    with pytest.raises(ValueError, match="connect the output 'boxes'"):
        ours.VitruvianPlaceHands.execute(image, mask, [["left"]], 0, 0, 0.0, image)
    with pytest.raises(ValueError, match="must have one size"):
        ours.VitruvianPasteHands.execute(image, image[:, :32], mask, 4, 0.5)
