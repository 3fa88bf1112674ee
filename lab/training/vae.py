"""Trainer of the autoencoder (TAESD layout) on images: mean squared error on random crops."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn
from torch.utils.data import Dataset

from .loop import Schedule, fit


@dataclass(frozen=True)
class VAELoss:
    """|decode(encode(x) + noise) - x|^2 plus a pull of the latents towards unit size.

    The noise makes the decoder forgive what a denoiser leaves; the pull keeps latents from growing
    to escape it. With a `teacher`, images that are "kept" get its latents, so that what was
    trained on them can still read them.
    """

    crop: int = 96  # pixels
    noise: float = 0.06
    pull: float = 2e-4
    teacher: AutoencoderTiny | None = None
    keep: float = 0.1

    def __call__(self, vae: nn.Module, batch: list[dict], g: torch.Generator) -> Tensor:
        device = next(vae.parameters()).device
        x = torch.stack([self._crop(item["rgb"], g) for item in batch]).to(device)
        x = (x.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        cells = self.crop // 8
        noise = self.noise * torch.randn(len(x), 4, cells, cells, generator=g).to(device)
        if self.teacher is None:
            return vae(x, noise, self.pull)
        with torch.no_grad():
            target = self.teacher.encode(x).latents.float()
        weight = self.keep * torch.tensor([float(item["kept"]) for item in batch])
        return vae(x, noise, self.pull, target, weight.to(device))

    def _crop(self, image: Tensor, g: torch.Generator) -> Tensor:
        y, x = (int(torch.randint(n - self.crop + 1, (), generator=g)) for n in image.shape[-2:])
        crop = image[:, y : y + self.crop, x : x + self.crop]
        return crop.flip(-1) if torch.rand((), generator=g) < 0.5 else crop


class Autoencoder(nn.Module):
    """Encoder and decoder under one forward that gives the loss, as DDP needs it."""

    def __init__(self, vae: AutoencoderTiny) -> None:
        super().__init__()
        self.vae = vae

    def forward(
        self,
        x: Tensor,
        noise: Tensor,
        pull: float,
        target: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Images [B,3,H,W] in -1..1, noise [B,4,H/8,W/8] -> mean loss. `target`: latents that the
        encoder should give, and `weight` [B], how much each image's count.
        """
        z = self.vae.encode(x).latents
        back = self.vae.decode(z + noise).sample
        loss = torch.nn.functional.mse_loss(back.float(), x) + pull * z.float().square().mean()
        if target is not None and weight is not None:
            loss = loss + (weight * (z.float() - target).square().mean((1, 2, 3))).mean()
        return loss


def train_vae(
    vae: AutoencoderTiny, images: Dataset, loss: VAELoss, schedule: Schedule, out: Path
) -> AutoencoderTiny:
    """Train `vae` on images (items with "rgb" uint8 [3,H,W], and "kept" where the loss has a
    teacher); return it with EMA weights.
    """
    vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fit(Autoencoder(vae), loss, images, schedule, out, collate=list)
    return vae.eval()


@torch.no_grad()
def psnr(vae: AutoencoderTiny, images: Tensor) -> float:
    """Compute the mean peak signal-to-noise ratio in dB of the round trip of images [B,3,H,W] in
    -1..1.
    """
    back = torch.cat([vae.decode(vae.encode(x[None]).latents).sample for x in images])
    back = back.clamp(-1, 1)
    error = ((back - images) / 2).square().mean((1, 2, 3))
    return float((-10 * error.log10()).mean())
