"""Preserve a border around what a noise mask preserves, and let it shrink during the sampling
(Giving a Hand: sequential mask expansion).

The host has one slot for a function that changes the noise mask. It is filled when the sampling
begins, with whatever another node put there inside: so the order of the nodes does not matter.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..models import hands
from .sampling import latent_stride

KEY = "vitruvian_mask_expansion"
NODE = "Apply Mask Expansion"
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

    def width_at(share: float) -> float:
        return hands.border_width(share, cells, shrink_start, shrink_end)

    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, _preserve(width_at, cells))
    return model


def expand_mask(widths: "Widths", earlier: Callable | None) -> Callable:
    """Make the function for the host's slot; `earlier`: that of another node, or None."""

    def expand(sigma: Tensor, denoise_mask: Tensor, extra_options: dict[str, Any]) -> Tensor:
        mask = denoise_mask
        if earlier is not None:
            mask = earlier(sigma, denoise_mask, extra_options=extra_options)
            # whatever another node makes of the mask, what it preserves fully stays preserved
            mask = torch.where(denoise_mask == 0, 0.0, mask)
        width = widths.at(sigma.max())
        border = hands.expand_mask(denoise_mask, width, widths.widest) < denoise_mask
        return torch.where(border, 0.0, mask)

    return expand


class Widths(NamedTuple):
    """The width of the border in latent cells, at every thousandth of a sampling: looked up where
    the latents are, so that no step waits for the GPU.
    """

    sigmas: Tensor  # falling noise levels [RESOLUTION + 1], as the host counts percents
    widths: Tensor  # [RESOLUTION + 1]
    widest: float

    def at(self, sigma: Tensor) -> Tensor:
        """Return the width at a noise level, both []."""
        return self.widths.take((self.sigmas > sigma).sum().clamp(max=RESOLUTION))


def _widths(
    width_at: Callable[[float], float], widest: float, model_sampling: Any, device: torch.device
) -> Widths:
    """`width_at`: share of the sampling that is over -> width of the border in latent cells."""
    shares = [step / RESOLUTION for step in range(RESOLUTION + 1)]
    sigmas = [float(model_sampling.percent_to_sigma(share)) for share in shares]
    widths = [width_at(share) for share in shares]
    return Widths(torch.tensor(sigmas, device=device), torch.tensor(widths, device=device), widest)


def _preserve(width_at: Callable[[float], float], widest: float) -> Callable:
    """Make the wrapper that expands the mask, and restores exactly what was preserved: some
    samplers end with a trace of noise.
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
        _check_mask(denoise_mask)
        _check_noise(noise)
        ends_clean = float(sigmas[-1]) == 0  # read now: a sampler may write into the schedule
        options = extra_args["model_options"]
        model_sampling = guider.inner_model.model_sampling
        widths = _widths(width_at, widest, model_sampling, noise.device)
        expand = expand_mask(widths, options.get(SLOT))
        extra_args = {**extra_args, "model_options": {**options, SLOT: expand}}
        samples = executor(
            guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar
        )
        return torch.where(denoise_mask == 0, latent_image, samples) if ends_clean else samples

    return wrapper


def _check_mask(denoise_mask: Tensor | None) -> None:
    if denoise_mask is None:
        raise ValueError(
            f"{NODE}: the latent has no noise mask, so there is nothing to preserve. Put Set "
            "Latent Noise Mask before the sampler."
        )


def _check_noise(noise: Tensor) -> None:
    if not noise.any():
        raise ValueError(
            f"{NODE}: the sampler adds no noise (as the second part of a sampling), and ComfyUI "
            "would preserve the noise that the latent comes with. Sample a latent with a noise "
            "mask in one part, with noise added."
        )
