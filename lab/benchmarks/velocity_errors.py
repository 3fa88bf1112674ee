"""How well networks tell the noise from the image, step by step: the loss of joint denoising is one
of velocities, and the base's own prediction of the noise is turned into one.

All networks see the same noise at the same noise levels, those of steps of the base's schedule; the
schedule that ends without signal reaches a level somewhat earlier.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ...models import structure
from ...models.mini import LATENT_CHANNELS
from ..training import convert, preview
from ..training.joint_unet import JointUNet
from ..training.structure import noise_schedule
from ..training.tokens import WordTokenizer

STEPS = (950, 800, 600, 400, 200)
BATCH = 20


class Scenes(NamedTuple):
    """Hold N scenes as the networks take them."""

    latents: Tensor  # [N,12,h,w] of image, depth and normals
    context: Tensor  # [N,T,C] of the captions
    hints: Tensor  # drawn poses [N,3,H,W] in 0..1
    poses: Tensor  # their latents [N,4,h,w]
    sizes: Tensor  # [N,4]

    def at(self, rows: slice) -> Scenes:
        """Select scenes."""
        return Scenes(*(part[rows] for part in self))


Predict = Callable[[Tensor, int, Scenes], Tensor]  # noisy latents, step -> the image's velocity


@torch.no_grad()
def encode(
    checkpoint: convert.Checkpoint, captions: list[str], kinds: tuple[Tensor, ...], hints: Tensor
) -> Scenes:
    """Encode the image, depth and normals [N,3,H,W] of scenes, their captions and poses."""
    ids = WordTokenizer.from_file(token_ids=checkpoint.token_ids)(captions)
    latents = torch.cat([_encode(checkpoint, images) for images in kinds], 1)
    black = _encode(checkpoint, torch.zeros_like(hints[:1]))
    height, width = hints.shape[2:]
    return Scenes(
        latents,
        checkpoint.text_encoder(ids).last_hidden_state,
        hints,
        _encode(checkpoint, hints) - black,
        torch.tensor([[height, width, 0, 0]]).expand(len(hints), -1),
    )


def _encode(checkpoint: convert.Checkpoint, images: Tensor) -> Tensor:
    return torch.cat([preview.encode(checkpoint, chunk) for chunk in images.split(BATCH)])


def errors(predict: Predict, scenes: Scenes, step: int) -> Tensor:
    """Average the squared error [N] of the velocity of the images at a step of the base."""
    alpha, sigma = noise_level(step)
    g = torch.Generator().manual_seed(step)
    noise = torch.randn(scenes.latents.shape, generator=g)
    noisy = alpha * scenes.latents + sigma * noise
    target = structure.velocity(scenes.latents, noise, alpha, sigma)[:, :LATENT_CHANNELS]
    predicted = []
    with torch.no_grad():
        for start in range(0, len(noisy), BATCH):
            rows = slice(start, start + BATCH)
            predicted.append(predict(noisy[rows], step, scenes.at(rows)))
    return (torch.cat(predicted) - target).square().mean((1, 2, 3))


def noise_level(step: int) -> tuple[Tensor, Tensor]:
    """Look up how much is left of the latents, and how much noise is added, at a base's step."""
    alpha = noise_schedule(True)[step]
    return alpha.sqrt(), (1 - alpha).sqrt()


def matching_step(step: int) -> float:
    """Find where the schedule that ends without signal has the noise level of a base's step."""
    alphas = noise_schedule(False)
    later = int((alphas >= noise_schedule(True)[step]).sum())  # the first step with less signal
    ends = alphas[[later - 1, later]].logit()
    share = (ends[0] - noise_schedule(True)[step].logit()) / (ends[0] - ends[1])
    return later - 1 + float(share)


def joint(unet: JointUNet) -> Predict:
    """Predict with a joint network, of the noisy image, depth and normals and the pose."""

    def predict(noisy: Tensor, step: int, scenes: Scenes) -> Tensor:
        t = torch.full((len(noisy),), matching_step(step))
        velocities = unet(noisy, t, scenes.context, scenes.poses, scenes.sizes)
        return velocities[:, :LATENT_CHANNELS]

    return predict


def controlled(checkpoint: convert.Checkpoint, controlnet: torch.nn.Module) -> Predict:
    """Predict with the base, of the noisy image alone, and its pose ControlNet."""

    def predict(noisy: Tensor, step: int, scenes: Scenes) -> Tensor:
        image, t = noisy[:, :LATENT_CHANNELS], torch.full((len(noisy),), step)
        down, middle = controlnet(image, t, scenes.context, scenes.hints, return_dict=False)
        noise = checkpoint.unet(
            image,
            t,
            scenes.context,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample
        return velocity_of_noise(image, noise, *noise_level(step))

    return predict


def velocity_of_noise(noisy: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Turn a predicted noise into the velocity that it means."""
    return structure.velocity((noisy - sigma * noise) / alpha, noise, alpha, sigma)
