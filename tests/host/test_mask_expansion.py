"""Mask expansion on the real host: samplers, other patches, misuse."""

from types import SimpleNamespace

import comfy.sample
import comfy.samplers
import comfy_extras.nodes_differential_diffusion as differential
import pytest
import torch
from comfy.patcher_extension import WrappersMP
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


def listening(model, masks):
    """A clone of the model that puts every denoise mask of its samplings into `masks`."""

    def spy(executor, guider, sigmas, extra_args, *args, **kwargs):
        """Behind the node's own wrapper, so that its function is in the slot."""
        options = extra_args["model_options"]
        inner = options[host.SLOT]

        def listen(sigma, mask, extra_options):
            masks.append(inner(sigma, mask, extra_options=extra_options))
            return masks[-1]

        options = {**options, host.SLOT: listen}
        return executor(guider, sigmas, {**extra_args, "model_options": options}, *args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "spy", spy)
    return model


def denoise_masks(loaded, model, latent, **more):
    """The denoise mask of every call of the network."""
    masks: list = []
    sample(loaded, listening(model, masks), latent, **more)
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


def test_differential_diffusion_before_or_behind_it(loaded):
    """Both act, whatever the order of the nodes: a soft mask is thresholded and has its border."""
    latent, is_preserved = preserved()
    latent["noise_mask"] = latent["noise_mask"] * 0.7

    def differentiate(model):
        return differential.DifferentialDiffusion.execute(model, 1.0).result[0]

    def expand(model):
        return host.apply(model, EXPANSION, 0.2, 0.8)

    before, behind = expand(differentiate(loaded[0])), differentiate(expand(loaded[0]))
    masks = [denoise_masks(loaded, model, latent, steps=8) for model in (before, behind)]
    slow = differentiate(loaded[0]).model_options[host.SLOT]
    soft = torch.nn.functional.interpolate(latent["noise_mask"], (16, 16), mode="bilinear")
    kept = (soft[0, 0] < 0.5).nonzero().float()
    cells = torch.cartesian_prod(torch.arange(16.0), torch.arange(16.0))
    away = torch.cdist(cells, kept).amin(1).view(16, 16)
    sampling = loaded[0].model.model_sampling
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", 8)
    model = SimpleNamespace(inner_model=loaded[0].model)
    for sigma, one, other in zip(sigmas, *masks, strict=False):
        thresholded = slow(
            sigma[None], soft.expand(1, 4, -1, -1), extra_options={"model": model, "sigmas": sigmas}
        )
        share = next(k for k in range(1001) if sampling.percent_to_sigma(k / 1000) <= sigma) / 1000
        width = 3 * (1 - min(1, max(0, (share - 0.2) / 0.6)))
        expected = thresholded * (soft > 0) * ~((away > 0) & (away <= width))
        assert torch.equal(one, expected) and torch.equal(other, expected)
    assert len(masks[0]) == 8 and len({float(mask.sum()) for mask in masks[0]}) > 3
    samples = sample(loaded, behind, latent)
    torch.testing.assert_close(
        samples[is_preserved], latent["samples"][is_preserved], atol=1e-6, rtol=0
    )


def test_two_of_them_preserve_the_wider_border(loaded):
    latent, _ = preserved()
    wide, narrow = (
        lambda model: host.apply(model, EXPANSION, 0.0, 1.0),
        lambda model: host.apply(model, 8, 0.9, 1.0),
    )
    one, other = (
        denoise_masks(loaded, m, latent, steps=8) for m in (wide(loaded[0]), narrow(loaded[0]))
    )
    for both in (wide(narrow(loaded[0])), narrow(wide(loaded[0]))):
        for a, b, c in zip(one, other, denoise_masks(loaded, both, latent, steps=8), strict=True):
            assert torch.equal(torch.minimum(a, b), c)


def test_the_mask_depends_on_the_noise_level_alone(loaded):
    """Not on the sampler, the number of steps, the schedule, the order of the calls."""
    latent, _ = preserved()
    model, by_sigma = host.apply(loaded[0], EXPANSION, 0.2, 0.8), {}
    sigmas = torch.tensor([9.0, 6.0, 3.0, 1.5, 0.7, 0.3])
    schedules = [sigmas, sigmas[::2], sigmas.flip(0), torch.tensor([3.0, 0.7, 3.0, 0.7])]
    for schedule in schedules:
        masks: list = []

        def visit(denoise, x, sigmas, extra_args, callback=None, disable=None, schedule=schedule):
            for sigma in schedule:
                denoise(x, sigma[None], **extra_args)
            return x

        comfy.sample.sample_custom(
            listening(model, masks),
            torch.randn(latent["samples"].shape),
            1.0,
            comfy.samplers.KSAMPLER(visit),
            torch.tensor([9.0, 0.3]),
            text(loaded, ""),
            text(loaded, ""),
            latent["samples"],
            noise_mask=latent["noise_mask"],
            disable_pbar=True,
        )
        for sigma, mask in zip(schedule.tolist(), masks, strict=True):
            assert torch.equal(by_sigma.setdefault(sigma, mask), mask)
    assert len({float(mask.sum()) for mask in by_sigma.values()}) > 3


def test_misuse_says_what_to_do(loaded):
    latent, _ = preserved()
    model = host.apply(loaded[0], EXPANSION, 0.2, 0.8)
    with pytest.raises(ValueError, match="Apply Mask Expansion: the latent has no noise mask"):
        sample(loaded, model, {"samples": latent["samples"]})
    with pytest.raises(
        ValueError, match="'shrink_end_percent' .* must be greater than 'shrink_start_percent'"
    ):
        VitruvianApplyMaskExpansion.execute(loaded[0], 40, 0.8, 0.2)


def test_a_second_part_that_would_preserve_noise_is_refused(loaded):
    latent, _ = preserved()
    model = host.apply(loaded[0], EXPANSION, 0.2, 0.8)
    noisy = sample(loaded, model, latent, last_step=2, force_full_denoise=False)
    second = {**latent, "samples": noisy}
    with pytest.raises(ValueError, match="Apply Mask Expansion: the sampler adds no noise"):
        sample(loaded, model, second, start_step=2, disable_noise=True)
