"""The border around preserved hands that gives way while the body is painted, as a patch of the
host's denoise-mask slot (Giving a Hand: sequential mask expansion), and the ControlNet that paints
the body.
"""

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from nodes import ControlNetApplyAdvanced

from ..models import hands

KEY = "vitruvian_mask_expansion"
SLOT = "denoise_mask_function"
FINE = 1000  # steps of a share of the sampling
HINT = 7  # channels of a body outpainter's hint: skeleton, hands, where they are


def cell(model: Any) -> int:
    """Pixels per latent cell; hosts that do not say it know models of 8 only."""
    return getattr(model.get_model_object("latent_format"), "spacial_downscale_ratio", 8)


def expand_mask(model: Any, expansion: float, start: float, end: float) -> Any:
    """A clone of MODEL that preserves a border around what the latent's noise mask preserves:
    `expansion` latent cells wide until `start`, narrower and narrower until `end`, none after it.
    """
    model = model.clone()
    if expansion == 0:
        return model
    before = model.model_options.get(SLOT)

    def expanding(sigma: Tensor, denoise_mask: Tensor, extra_options: dict[str, Any]) -> Tensor:
        """Whatever another pack makes of the mask, what it preserves wholly stays preserved."""
        sampling = extra_options["model"].inner_model.model_sampling
        width = hands.border_width(progress(sampling, float(sigma.max())), expansion, start, end)
        mask = denoise_mask
        if before is not None:
            mask = before(sigma, denoise_mask, extra_options=extra_options)
            mask = torch.where(denoise_mask == 0, 0.0, mask)
        border = hands.expand_mask(denoise_mask, width) < denoise_mask
        return torch.where(border, 0.0, mask)

    model.set_model_denoise_mask_function(expanding)
    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, _keep(expanding))
    return model


def progress(sampling: Any, sigma: float) -> float:
    """The share of the sampling that is over at `sigma`, as the host's percents count it."""
    shares = range(FINE + 1)
    return bisect_left(shares, -sigma, key=lambda k: -sampling.percent_to_sigma(k / FINE)) / FINE


def _keep(expanding: Callable) -> Callable:
    """Sees that the patch is at work, and gives back exactly what was preserved: some samplers end
    with a trace of noise.
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
                "Apply Mask Expansion: the latent has no noise mask, so there is nothing to preserve. "
                "Put Set Latent Noise Mask before the sampler."
            )
        if extra_args["model_options"].get(SLOT) is not expanding:
            raise ValueError(
                "Apply Mask Expansion: a node behind it (Differential Diffusion, or another Mask "
                "Expansion) takes its place. Connect that node before Apply Mask Expansion."
            )
        given = guider, sigmas, extra_args, callback, noise, latent_image, denoise_mask
        done = float(sigmas[-1]) == 0  # asked now: a sampler may write into the schedule
        samples = executor(*given, disable_pbar)
        return torch.where(denoise_mask == 0, latent_image, samples) if done else samples

    return wrapper


def outpaint_body(
    positive: Any,
    negative: Any,
    control_net: Any,
    skeleton: Tensor,
    picture: Tensor,
    mask: Tensor,
    strength: float,
    start: float,
    end: float,
) -> tuple[Any, Any]:
    """Both conditionings with the body outpainter `control_net`, behind what ControlNets they have.

    skeleton and picture [B, H, W, 3], mask [B, H, W], the hands. Raises ValueError for ControlNets
    that take another hint.
    """
    block = getattr(getattr(control_net, "control_model", None), "input_hint_block", None)
    channels = block[0].in_channels if block else "other"
    if channels != HINT:
        raise ValueError(
            f"this ControlNet reads {channels} channels, a body outpainter {HINT}. Load one, or "
            "use Apply ControlNet with the skeleton alone: Apply Mask Expansion works with it."
        )
    hint = hands.body_control_image(picture, mask)
    return ControlNetApplyAdvanced().apply_controlnet(
        positive, negative, control_net, skeleton, strength, start, end, extra_concat=[hint]
    )
