"""Joint denoising of image, depth and normals: schedule, targets, fusion, images of geometry."""

import math

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from vitruvian.lab.world.renderer import render
from vitruvian.lab.world.scenes import FULL, sample_scenes
from vitruvian.models import structure

SHAPE = (2, 12, 6, 5)


@pytest.fixture
def schedule():
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return betas, (1 - betas).cumprod(0)


def test_no_signal_is_left_at_the_last_step(schedule):
    betas, abar = schedule
    rescaled = structure.zero_terminal_snr(abar)
    assert rescaled[-1] == 0 and rescaled[0] == pytest.approx(float(abar[0]), rel=1e-12)
    assert (rescaled.diff() < 0).all()
    reference = (1 - rescale_zero_terminal_snr(betas.float())).cumprod(0)
    torch.testing.assert_close(rescaled.float(), reference, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("abar", [0.0, 0.3, 1.0])
def test_clean_and_noise_come_back_from_velocity(abar):
    g = torch.Generator().manual_seed(1)
    clean, noise = torch.randn(SHAPE, generator=g), torch.randn(SHAPE, generator=g)
    alpha, sigma = torch.tensor(abar).sqrt(), torch.tensor(1 - abar).sqrt()
    noisy = alpha * clean + sigma * noise
    v = structure.velocity(clean, noise, alpha, sigma)
    torch.testing.assert_close(structure.clean_from_velocity(noisy, v, alpha, sigma), clean)
    torch.testing.assert_close(structure.noise_from_velocity(noisy, v, alpha, sigma), noise)
    if abar == 0:
        torch.testing.assert_close(v, -clean)


def test_fusion_matches_the_statistics_of_the_image():
    g = torch.Generator().manual_seed(2)
    rgb = torch.randn(2, 3, 8, 7, generator=g, dtype=torch.float64) * 2 + 1
    depth = torch.randn(2, 3, 8, 7, generator=g, dtype=torch.float64) * 9 - 4
    fused = structure.fuse([rgb, depth])
    for b in range(2):
        for c in range(3):
            image, near = rgb[b, c], depth[b, c]
            matched = (near - near.mean()) / near.std(correction=0) * image.std(correction=0)
            expected = (image + matched + image.mean()) / 2
            torch.testing.assert_close(fused[b, c], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(structure.fuse([rgb, depth], structure.SUM), 2 * fused)


def test_fusion_of_equal_or_scaled_features_changes_nothing():
    rgb = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(structure.fuse([rgb, rgb, rgb]), rgb, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(structure.fuse([rgb, 5 * rgb + 3]), rgb, atol=1e-4, rtol=1e-3)
    flat = structure.fuse([rgb, torch.zeros_like(rgb)])
    assert flat.isfinite().all()


@pytest.mark.parametrize("convention", structure.DEPTHS)
def test_depth_to_an_image_and_back(convention):
    depth = torch.rand(2, 5, 6) * 3 + 1
    depth[:, 0] = -math.inf
    image = structure.depth_to_image(depth, convention)
    assert image.shape == (2, 3, 5, 6) and image.min() == 0 and image.max() == 1
    back = structure.image_to_depth(image, convention)
    low, high = depth[:, 1:].amin((1, 2)), depth[:, 1:].amax((1, 2))
    expected = (depth - low[:, None, None]) / (high - low)[:, None, None]
    torch.testing.assert_close(back, expected.clamp(min=0))
    nearest = depth[0].argmax()
    white = image[0, 0].flatten()[nearest]
    assert white == (1 if convention == structure.MIDAS else 0)


def test_depth_of_nothing_is_all_far():
    nothing = structure.depth_to_image(torch.full((1, 4, 4), -math.inf))
    assert torch.equal(nothing, torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize("convention", structure.NORMALS)
def test_normals_to_an_image_and_back(convention):
    normal = torch.nn.functional.normalize(torch.randn(2, 3, 5, 6), dim=1)
    image = structure.normals_to_image(normal, convention)
    assert 0 <= image.min() and image.max() <= 1
    torch.testing.assert_close(structure.image_to_normals(image, convention), normal)
    red = structure.normals_to_image(torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1), convention)[0, 0]
    assert red == (0 if convention == structure.BAE else 1)


def test_nothing_faces_the_viewer():
    empty = structure.normals_to_image(torch.zeros(1, 3, 2, 2))
    assert torch.equal(empty[0, :, 0, 0], torch.tensor([0.5, 0.5, 1.0]))


def test_normals_of_a_plane_and_of_true_bodies():
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="ij")
    plane = (-0.5 * x + 0.25 * y)[None]  # it falls to the right and rises downwards
    expected = torch.nn.functional.normalize(torch.tensor([0.5, 0.25, 1.0]), dim=0)
    normals = structure.normals_from_depth(plane, 1.0)
    torch.testing.assert_close(normals, expected.view(1, 3, 1, 1).expand_as(normals))
    scenes = sample_scenes(4, 12, framing=FULL, people=1)
    truth = render(scenes)
    size = truth.depth.shape[-1]
    for i in range(4):
        meters = 1 / (float(scenes.scale[i]) * size)
        normals = structure.normals_from_depth(truth.depth[i, None], meters)[0]
        body = truth.instance[i] >= 0
        inner = -torch.nn.functional.max_pool2d(-body[None].float(), 5, 1, 2)[0] > 0
        facing = inner & (truth.normal[i, 2] > 0.7)  # a steep surface is one pixel wide
        agreement = (normals * truth.normal[i]).sum(0)[facing]
        assert float(agreement.median()) > 0.95


def test_light_from_one_side_leaves_the_other_dark():
    rgb = torch.full((1, 3, 1, 2), 0.8)
    normal = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]]).T.view(1, 3, 1, 2)
    lit = structure.relight(rgb, normal, torch.tensor([2.0, 0, 0]), ambient=0.25)
    torch.testing.assert_close(lit[0, 0, 0], torch.tensor([0.8, 0.2]))


@pytest.fixture(scope="module")
def base():
    """An SD1.5-like UNet's tensors by LDM name, narrow, with two blocks a level."""
    from vitruvian.lab.training import convert, networks
    from vitruvian.models import mini

    layout = mini.UNet(32, (1, 2), 2, (True, True), 4, 48, 32)
    unet = convert.unet_to_ldm(networks.build_unet(layout))
    return {key.removeprefix(convert.UNET): tensor for key, tensor in unet.items()}


def test_branches_are_the_first_level(base):
    joint = structure.add_experts(base)
    assert structure.count_experts(list(joint)) == structure.first_level_experts(list(base)) == 3
    branch = {k.removeprefix("expert.depth.") for k in joint if k.startswith("expert.depth.")}
    places = {".".join(name.split(".")[:2]) for name in branch if not name.startswith("out.")}
    assert places == {
        *(f"input_blocks.{i}" for i in range(4)),
        *(f"output_blocks.{i}" for i in range(3, 6)),
    }
    assert {name for name in branch if name.startswith("out.")} == {
        "out.0.weight",
        "out.0.bias",
        "out.2.weight",
        "out.2.bias",
    }


def test_branches_begin_as_copies_that_see_no_pose(base):
    joint = structure.add_experts(base)
    for modality in ("depth", "normal"):
        for name, tensor in joint.items():
            if name.startswith(f"expert.{modality}."):
                assert torch.equal(tensor, joint[name.split(".", 2)[2]])
    first = joint["input_blocks.0.0.weight"]
    assert torch.equal(first[:, :4], base["input_blocks.0.0.weight"]) and not first[:, 4:].any()
    assert not joint["label_emb.0.2.weight"].any()
    untouched = {name for name in base if name != "input_blocks.0.0.weight"}
    assert all(torch.equal(joint[name], base[name]) for name in untouched)


@pytest.mark.parametrize("fusion", structure.FUSIONS)
def test_the_fusion_can_be_read_from_the_names(base, fusion):
    joint = structure.add_experts(base, 2, fusion)
    assert structure.read_fusion(list(joint)) == fusion
    assert structure.count_experts(list(joint)) == 2


@pytest.mark.parametrize("experts", [0, 6])
def test_impossible_numbers_of_experts_are_refused(base, experts):
    with pytest.raises(ValueError, match=f"1 to 5 skips within a branch, found {experts}"):
        structure.add_experts(base, experts)


def test_a_learned_fusion_begins_as_the_mean():
    features = [torch.randn(2, 5, 3, 4) for _ in range(3)]
    mix = torch.nn.Conv2d(15, 5, 1, bias=False)
    mix.weight.data.copy_(structure.mean_kernel(5))
    with torch.no_grad():
        fused = structure.fuse(features, structure.LEARNED, mix)
    torch.testing.assert_close(fused, structure.fuse(features, structure.MEAN))
    assert torch.equal(structure.fuse(features, structure.OFF), features[0])
    pair = structure.fuse(features, structure.PAIR)
    torch.testing.assert_close(pair, structure.fuse(features[:2], structure.MEAN))


def test_sizes_are_embedded_as_sdxl_has_it():
    sizes = torch.tensor([[512, 640, 0, 96], [1, 2, 3, 4]])
    embedded = structure.size_embedding(sizes)
    assert embedded.shape == (2, structure.SIZE_WIDTH)
    reference = torch.empty_like(embedded)
    for row in range(2):
        for number in range(4):
            for k in range(128):
                angle = float(sizes[row, number]) * 10_000 ** (-k / 128)
                reference[row, number * 256 + k] = math.cos(angle)
                reference[row, number * 256 + 128 + k] = math.sin(angle)
    torch.testing.assert_close(embedded, reference, atol=2e-4, rtol=0)


def test_a_floor_separates_bodies_from_nothing():
    depth = torch.tensor([[[1.0, 2.0, -math.inf]]])
    row = structure.depth_to_image(depth, floor=0.4)[0, 0, 0]
    torch.testing.assert_close(row, torch.tensor([0.4, 1.0, 0.0]))
