"""Mask expansion on the real host: samplers, other patches, misuse."""

import comfy_extras.nodes_differential_diffusion as differential
import pytest
import torch
from vitruvian.host import mask_expansion as host
from vitruvian.host.registration import register
from vitruvian.nodes.mask_expansion import VitruvianApplyMaskExpansion

import nodes as core

register()
EXPANSION = 24  # pixels: three latent cells


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
    is_preserved = torch.nn.functional.interpolate(mask, (height, width), mode="bilinear") == 0
    assert is_preserved.sum() > 8
    return latent, is_preserved.expand(batch, 4, -1, -1)


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
    latent, is_preserved = preserved()
    model = host.apply(loaded[0], EXPANSION, 0.2, 0.8)
    samples = sample(loaded, model, latent, sampler)
    torch.testing.assert_close(
        samples[is_preserved], latent["samples"][is_preserved], atol=1e-6, rtol=0
    )
    assert not torch.allclose(samples[~is_preserved], latent["samples"][~is_preserved], atol=0.1)


@pytest.mark.parametrize("sampler", ["euler", "uni_pc"])
def test_no_expansion_is_the_plain_noise_mask_bit_for_bit(loaded, sampler):
    latent, _ = preserved()
    plain = sample(loaded, loaded[0], latent, sampler)
    assert torch.equal(sample(loaded, host.apply(loaded[0], 0, 0.2, 0.8), latent, sampler), plain)
    assert not torch.equal(
        sample(loaded, host.apply(loaded[0], EXPANSION, 0.2, 0.8), latent, sampler), plain
    )


def denoise_masks(loaded, model, latent, **more):
    """The denoise mask of every call of the network."""
    inner, masks = model.model_options[host.SLOT], []

    def spy(sigma, mask, extra_options):
        masks.append(inner(sigma, mask, extra_options))
        return masks[-1]

    model = model.clone()
    model.model_options[host.SLOT] = spy
    model.wrappers = {}  # among them the check that the slot is ours
    sample(loaded, model, latent, **more)
    return masks


def test_the_border_gives_way_step_by_step(loaded):
    latent, is_preserved = preserved(batch=2, height=13, width=19)
    masks = denoise_masks(loaded, host.apply(loaded[0], EXPANSION, 0.2, 0.8), latent, steps=8)
    counts = [int(mask.sum()) for mask in masks]
    assert counts == sorted(counts) and counts[0] < counts[3] < counts[-1]
    assert all((mask[is_preserved] == 0).all() for mask in masks)
    assert all((a <= b).all() for a, b in zip(masks, masks[1:], strict=False))


def test_sampling_in_two_parts_sees_the_same_masks(loaded):
    latent, _ = preserved()
    model = host.apply(loaded[0], EXPANSION, 0.2, 0.8)
    all_steps = denoise_masks(loaded, model, latent, steps=6)
    halves = [
        *denoise_masks(loaded, model, latent, steps=6, last_step=3),
        *denoise_masks(loaded, model, latent, steps=6, start_step=3),
    ]
    assert len(all_steps) == len(halves)
    assert all(torch.equal(a, b) for a, b in zip(all_steps, halves, strict=True))


def test_differential_diffusion_before_it_leaves_the_core_alone(loaded):
    latent, is_preserved = preserved()
    (other,) = differential.DifferentialDiffusion.execute(loaded[0], 1.0).result
    samples = sample(loaded, host.apply(other, EXPANSION, 0.2, 0.8), latent)
    torch.testing.assert_close(
        samples[is_preserved], latent["samples"][is_preserved], atol=1e-6, rtol=0
    )


def test_misuse_says_what_to_do(loaded):
    latent, _ = preserved()
    model = host.apply(loaded[0], EXPANSION, 0.2, 0.8)
    with pytest.raises(ValueError, match="the latent has no noise mask"):
        sample(loaded, model, {"samples": latent["samples"]})
    (behind,) = differential.DifferentialDiffusion.execute(model, 1.0).result
    with pytest.raises(ValueError, match="Connect that node before Apply Mask Expansion"):
        sample(loaded, behind, latent)
    with pytest.raises(
        ValueError, match="'shrink_end_percent' .* must be greater than 'shrink_start_percent'"
    ):
        VitruvianApplyMaskExpansion.execute(loaded[0], 40, 0.8, 0.2)
