"""The denoising objective that the base and the ControlNet trainers share (Ho et al. 2020, with
Min-SNR weights).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .batches import Batch, caption_ids, column, count, first_of, near_joints
from .networks import build_scheduler
from .tokens import UNKNOWN


class Denoiser(nn.Module):
    """UNet, text encoder and, if given, a ControlNet under one forward, as DDP needs it."""

    def __init__(
        self, unet: nn.Module, text_encoder: nn.Module, controlnet: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.unet, self.text_encoder, self.controlnet = unet, text_encoder, controlnet
        in_fastest_format(self)
        # a tuple, so that they are not counted as modules a second time
        self._calls: tuple[Any, ...] = (unet, text_encoder, controlnet)

    def compile_networks(self) -> None:
        """Train through torch.compile; the modules stay plain for previews and for saving."""
        self._calls = tuple(m if m is None else torch.compile(m) for m in self._calls)

    def forward(self, x: Tensor, t: Tensor, ids: Tensor, hint: Tensor | None = None) -> Tensor:
        """Noisy latents [B,4,h,w], steps [B], token ids [B,77] -> predicted noise [B,4,h,w].

        The first len(hint) samples are controlled by `hint` [b,3,8h,8w] in 0..1, the others run
        free.
        """
        with attention_kernel(x.device):
            return self._predict(x, t, ids, hint)

    def _predict(self, x: Tensor, t: Tensor, ids: Tensor, hint: Tensor | None) -> Tensor:
        unet, text_encoder, controlnet = self._calls
        context = text_encoder(ids).last_hidden_state
        if hint is None or controlnet is None:
            return unet(x, t, context).sample
        b = len(hint)
        down, middle = controlnet(x[:b], t[:b], context[:b], hint, return_dict=False)

        def pad(residual: Tensor) -> Tensor:
            return torch.cat((residual, residual.new_zeros(len(x) - b, *residual.shape[1:])))

        down, middle = [pad(r) for r in down], pad(middle)
        return unet(
            x,
            t,
            context,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample


def in_fastest_format(networks: nn.Module) -> None:
    """Use channels last on a GPU; a CPU trains a third slower with them, for its group norms."""
    if torch.cuda.is_available():
        networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def attention_kernel(device: torch.device) -> AbstractContextManager:
    """Choose the attention kernel: on a CPU the plain product trains a third faster than the flash
    kernel at these sizes.
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


@dataclass(frozen=True)
class DenoisingLoss:
    """Noise prediction on latents, weighted by min(SNR, gamma) / SNR (Hang et al. 2023) times
    max(1, 1 / SNR)^stress.

    The second factor is ours. At high noise a small error in the noise is a large one in the
    image's overall colors; without stress a short training leaves it. Ours is `focus`, too:
    heads, hands and shoes are few cells, and without it the background's many are learned first.

    Items, or columns of them: {"latent" [4,h,w], "captions" {full, brief, bodies, ...}, and "hint"
    uint8 [3,8h,8w] if `controlled` > 0}.
    """

    tokenizer: Callable[[Sequence[str]], Tensor]  # -> ids [B,77]
    controlled: float = 0.0  # share of each batch that sees its hint
    drop: float = 0.1  # share of captions left empty, for classifier-free guidance
    brief: float = 0.15  # share of captions in their short form
    forget: float = 0.01  # share of words replaced by the mini vocabulary's unknown word
    gamma: float = 5.0
    stress: float = 0.5
    focus: float = 3.0  # extra weight of the cells near a person's joints

    def __call__(self, model: nn.Module, batch: Batch, g: torch.Generator) -> Tensor:
        return self.loss_for(model, next(model.parameters()).device, batch, g)

    def loss_for(
        self,
        predict: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor],
        device: torch.device,
        batch: Batch,
        g: torch.Generator,
    ) -> Tensor:
        """Compute the loss of `predict`(noisy latents, steps, token ids, hint or None) -> noise."""
        z = column(batch, "latent").float()
        noise = torch.randn(z.shape, generator=g, device=g.device)
        noises = build_scheduler()
        steps = noises.config["num_train_timesteps"]
        t = torch.randint(steps, (len(z),), generator=g, device=g.device)
        x = noises.add_noise(z, noise, t)  # type: ignore[arg-type]
        hint = None
        if self.controlled > 0:
            b = max(1, round(self.controlled * len(z)))
            hint = column(first_of(batch, b), "hint").to(device).float() / 255
        ids = self._ids(batch, g)
        share = 1 + self.focus * near_joints(batch, *z.shape[2:])
        share = (share / share.mean((1, 2), keepdim=True)).to(device)
        x, t, ids, noise = x.to(device), t.to(device), ids.to(device), noise.to(device)
        error = (predict(x, t, ids, hint).float() - noise).square().mean(1)
        error = (share * error).mean((1, 2))
        a = noises.alphas_cumprod.to(device)[t]
        snr = a / (1 - a)
        weight = snr.clamp(max=self.gamma) / snr * (1 / snr).clamp(min=1) ** self.stress
        return (error * weight).mean()

    def _ids(self, batch: Batch, g: torch.Generator) -> Tensor:
        luck = torch.rand(count(batch), 2, generator=g, device=g.device)
        ids = caption_ids(self.tokenizer, batch, luck[:, 0] < self.drop, luck[:, 1] < self.brief)
        chance = torch.rand(ids.shape, generator=g, device=g.device)
        return ids.masked_fill((chance < self.forget) & (ids > UNKNOWN), UNKNOWN)
