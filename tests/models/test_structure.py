"""Joint denoising of image, depth and normals: schedule, targets, fusion, pictures of geometry."""

import math

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from vitruvian.mini.renderer import render
from vitruvian.mini.world import FULL, sample_scenes
from vitruvian.models import structure

SHAPE = (2, 12, 6, 5)


@pytest.fixture
def schedule():
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return betas, (1 - betas).cumprod(0)


def test_no_signal_is_left_at_the_last_step(schedule):
    betas, abar = schedule
    made = structure.zero_terminal_snr(abar)
    assert made[-1] == 0 and made[0] == pytest.approx(float(abar[0]), rel=1e-12)
    assert (made.diff() < 0).all()
    reference = (1 - rescale_zero_terminal_snr(betas.float())).cumprod(0)
    torch.testing.assert_close(made.float(), reference, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("abar", [0.0, 0.3, 1.0])
def test_clean_and_noise_come_back_from_velocity(abar):
    g = torch.Generator().manual_seed(1)
    clean, noise = torch.randn(SHAPE, generator=g), torch.randn(SHAPE, generator=g)
    alpha, sigma = torch.tensor(abar).sqrt(), torch.tensor(1 - abar).sqrt()
    noisy = alpha * clean + sigma * noise
    v = structure.velocity(clean, noise, alpha, sigma)
    torch.testing.assert_close(structure.clean_of(noisy, v, alpha, sigma), clean)
    torch.testing.assert_close(structure.noise_of(noisy, v, alpha, sigma), noise)
    if abar == 0:
        torch.testing.assert_close(v, -clean)


def test_the_loss_is_the_sum_of_three():
    found, wanted = torch.zeros(SHAPE), torch.zeros(SHAPE)
    wanted[0, :4], wanted[0, 4:8], wanted[1, 8:] = 1, 2, 3
    torch.testing.assert_close(structure.joint_loss(found, wanted), torch.tensor([5.0, 9.0]))


def test_fusion_brings_the_others_to_the_pictures_statistics():
    g = torch.Generator().manual_seed(2)
    rgb = torch.randn(2, 3, 8, 7, generator=g, dtype=torch.float64) * 2 + 1
    depth = torch.randn(2, 3, 8, 7, generator=g, dtype=torch.float64) * 9 - 4
    made = structure.fuse([rgb, depth])
    for b in range(2):
        for c in range(3):
            one, other = rgb[b, c], depth[b, c]
            like = (other - other.mean()) / other.std(correction=0) * one.std(correction=0)
            expected = (one + like + one.mean()) / 2
            torch.testing.assert_close(made[b, c], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(structure.fuse([rgb, depth], structure.SUM), 2 * made)


def test_fusion_of_equal_or_scaled_features_is_the_pictures_own():
    rgb = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(structure.fuse([rgb, rgb, rgb]), rgb, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(structure.fuse([rgb, 5 * rgb + 3]), rgb, atol=1e-4, rtol=1e-3)
    flat = structure.fuse([rgb, torch.zeros_like(rgb)])
    assert flat.isfinite().all()


@pytest.mark.parametrize("convention", structure.DEPTHS)
def test_depth_to_a_picture_and_back(convention):
    depth = torch.rand(2, 5, 6) * 3 + 1
    depth[:, 0] = -math.inf
    picture = structure.depth_picture(depth, convention)
    assert picture.shape == (2, 3, 5, 6) and picture.min() == 0 and picture.max() == 1
    back = structure.depth_of(picture, convention)
    low, high = depth[:, 1:].amin((1, 2)), depth[:, 1:].amax((1, 2))
    expected = (depth - low[:, None, None]) / (high - low)[:, None, None]
    torch.testing.assert_close(back, expected.clamp(min=0))
    nearest = depth[0].argmax()
    white = picture[0, 0].flatten()[nearest]
    assert white == (1 if convention == structure.MIDAS else 0)


def test_depth_of_nothing_is_all_far():
    nothing = structure.depth_picture(torch.full((1, 4, 4), -math.inf))
    assert torch.equal(nothing, torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize("convention", structure.NORMALS)
def test_normals_to_a_picture_and_back(convention):
    normal = torch.nn.functional.normalize(torch.randn(2, 3, 5, 6), dim=1)
    picture = structure.normal_picture(normal, convention)
    assert 0 <= picture.min() and picture.max() <= 1
    torch.testing.assert_close(structure.normal_of(picture, convention), normal)
    red = structure.normal_picture(torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1), convention)[0, 0]
    assert red == (0 if convention == structure.BAE else 1)


def test_nothing_faces_the_viewer():
    empty = structure.normal_picture(torch.zeros(1, 3, 2, 2))
    assert torch.equal(empty[0, :, 0, 0], torch.tensor([0.5, 0.5, 1.0]))


def test_normals_of_a_plane_and_of_true_bodies():
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="ij")
    plane = (-0.5 * x + 0.25 * y)[None]  # it falls to the right and rises downwards
    expected = torch.nn.functional.normalize(torch.tensor([0.5, 0.25, 1.0]), dim=0)
    found = structure.normals_from_depth(plane, 1.0)
    torch.testing.assert_close(found, expected.view(1, 3, 1, 1).expand_as(found))
    scenes = sample_scenes(4, 12, framing=FULL, people=1)
    truth = render(scenes)
    size = truth.depth.shape[-1]
    for i in range(4):
        metres = 1 / (float(scenes.scale[i]) * size)
        found = structure.normals_from_depth(truth.depth[i, None], metres)[0]
        body = truth.instance[i] >= 0
        whole = -torch.nn.functional.max_pool2d(-body[None].float(), 5, 1, 2)[0] > 0
        facing = whole & (truth.normal[i, 2] > 0.7)  # a steep surface is one pixel wide
        agreement = (found * truth.normal[i]).sum(0)[facing]
        assert float(agreement.median()) > 0.95


def test_relit_from_the_side_the_far_side_is_dark():
    rgb = torch.full((1, 3, 1, 2), 0.8)
    normal = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]]).T.view(1, 3, 1, 2)
    lit = structure.relight(rgb, normal, torch.tensor([2.0, 0, 0]), ambient=0.25)
    torch.testing.assert_close(lit[0, 0, 0], torch.tensor([0.8, 0.2]))
