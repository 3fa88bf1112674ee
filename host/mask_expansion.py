"""Preserve a border around what a noise mask preserves, and let it shrink during the sampling
(Giving a Hand: sequential mask expansion). A patch of the host's denoise-mask slot.
"""

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..models import hands
from .sampling import latent_stride

KEY = "vitruvian_mask_expansion"
SLOT = "denoise_mask_function"
RESOLUTION = 1000  # steps in which the progress of a sampling is counted


def apply(model: Any, expansion: float, shrink_start: float, shrink_end: float) -> Any:
    """Clone MODEL so that it preserves a border around what the latent's noise mask preserves.

    The border is `expansion` pixels wide until the share `shrink_start` of the sampling, shrinks
    until `shrink_end`, and is gone after it.
    """
    model = model.clone()
    if expansion == 0:
        return model
    cells = expansion / latent_stride(model.get_model_object("latent_format"))
    earlier_function = model.model_options.get(SLOT)

    def expand(sigma: Tensor, denoise_mask: Tensor, extra_options: dict[str, Any]) -> Tensor:
        sampling = extra_options["model"].inner_model.model_sampling
        share = progress(sampling, float(sigma.max()))
        width = hands.border_width(share, cells, shrink_start, shrink_end)
        mask = denoise_mask
        if earlier_function is not None:
            mask = earlier_function(sigma, denoise_mask, extra_options=extra_options)
            # whatever another pack makes of the mask, what it preserves fully stays preserved
            mask = torch.where(denoise_mask == 0, 0.0, mask)
        border = hands.expand_mask(denoise_mask, width) < denoise_mask
        return torch.where(border, 0.0, mask)

    model.set_model_denoise_mask_function(expand)
    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, _preserve(expand))
    return model


def progress(model_sampling: Any, sigma: float) -> float:
    """Return the share of the sampling that is over at `sigma`, as the host counts percents."""

    def falling_sigma(step: int) -> float:
        return -model_sampling.percent_to_sigma(step / RESOLUTION)

    return bisect_left(range(RESOLUTION + 1), -sigma, key=falling_sigma) / RESOLUTION


def _preserve(expand: Callable) -> Callable:
    """Make the wrapper that checks that `expand` is at work, and restores exactly what was
    preserved: some samplers end with a trace of noise.
    """

    def wrapper(
        executor,
        guider,
        sigmas,
        extra_args,
        callback,
        noise,
        latent_image=None,
        denoise_mask=None,
        disable_pbar=False,
    ):
        if denoise_mask is None:
            raise ValueError(
                "Apply Mask Expansion: the latent has no noise mask, so there is nothing to "
                "preserve. Put Set Latent Noise Mask before the sampler."
            )
        if extra_args["model_options"].get(SLOT) is not expand:
            raise ValueError(
                "Apply Mask Expansion: a node behind it (Differential Diffusion, or another Mask "
                "Expansion) takes its place. Connect that node before Apply Mask Expansion."
            )
        ends_clean = float(sigmas[-1]) == 0  # read now: a sampler may write into the schedule
        samples = executor(
            guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar
        )
        return torch.where(denoise_mask == 0, latent_image, samples) if ends_clean else samples

    return wrapper
