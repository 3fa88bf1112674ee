"""The objective of the mini transformer: rectified flow on latents (Liu et al. 2022, Esser et al.
2024), and samples of it without the host.

A noisy latent is x = (1 - s) image + s noise at the level s; the network predicts its velocity,
noise - image, and a sampler follows that from level 1 to 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel

from ...models import mini
from .denoise import attention_kernel
from .mmdit import PoseControl, Transformer
from .tokens import UNKNOWN, WordTokenizer
from .transformer_files import Bundle


class FlowDenoiser(nn.Module):
    """Transformer, text encoder and ControlNet under one forward."""

    def __init__(
        self, transformer: Transformer, text_encoder: CLIPTextModel, control: PoseControl
    ) -> None:
        super().__init__()
        self.transformer, self.text_encoder, self.control = transformer, text_encoder, control

    def forward(self, x: Tensor, level: Tensor, ids: Tensor, hint: Tensor | None) -> Tensor:
        """Noisy latents [B,4,h,w], levels [B], token ids [B,77] -> velocities [B,4,h,w].

        The first len(hint) samples are controlled by `hint` [b,4,h,w], latents of drawn poses.
        """
        with attention_kernel(x.device):
            read = self.text_encoder(ids)
            text, residual = read.last_hidden_state, None
            if hint is not None:
                b = len(hint)
                residual = self.control(x[:b], level[:b], text[:b], hint)
            return self.transformer(x, level, text, read.pooler_output, residual)


@dataclass(frozen=True)
class FlowLoss:
    """Mean square of the velocity's error; noise levels are logit-normal and shifted to high ones.

    Cells near joints weigh more, as in `denoise.DenoisingLoss`. Batches are those of
    `resident.Columns`, with "hint" [N,4,h,w].
    """

    empty: tuple[int, ...]  # token ids of the empty caption
    controlled: float = 0.5  # share of each batch that sees its hint
    drop: float = 0.1  # share of captions left empty, for classifier-free guidance
    brief: float = 0.5  # share of captions in their short form, so that action words count
    forget: float = 0.01  # share of words replaced by the mini vocabulary's unknown word
    shift: float = 1.5  # of the levels in training
    focus: float = 3.0  # extra weight of the cells near a person's joints

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], g: torch.Generator) -> Tensor:
        device = next(model.parameters()).device
        luck = torch.Generator(device).manual_seed(g.initial_seed())  # noise is drawn where it is
        columns = {name: tensor.to(device) for name, tensor in batch.items()}
        z = columns["latent"].float()
        noise = torch.randn(z.shape, generator=luck, device=device)
        odds = torch.randn(len(z), generator=luck, device=device).exp() * self.shift
        level = odds / (1 + odds)
        x = torch.lerp(z, noise, level[:, None, None, None])
        count = round(self.controlled * len(z))
        hint = columns["hint"][:count].float() if count else None
        velocity = model(x, level, self._ids(columns["ids"].long(), luck), hint).float()
        error = (velocity - (noise - z)).square().mean(1)
        share = 1 + self.focus * columns["near"].float()
        return (error * share / share.mean((1, 2), keepdim=True)).mean()

    def _ids(self, ids: Tensor, luck: torch.Generator) -> Tensor:
        """Choose full, brief or no captions of [B,2,77], and forget words."""
        a, b = torch.rand(2, len(ids), generator=luck, device=ids.device)
        words = torch.where(b[:, None] < self.brief, ids[:, 1], ids[:, 0])
        lost = torch.rand(words.shape, generator=luck, device=ids.device) < self.forget
        words = words.masked_fill(lost & (words > UNKNOWN), UNKNOWN)
        return torch.where(a[:, None] < self.drop, ids.new_tensor(self.empty), words)


def levels(steps: int, shift: float = mini.TRANSFORMER.shift) -> Tensor:
    """The host's "normal" schedule: `steps` noise levels from 1 down, and the last 0."""
    lowest = shift / (1000 + shift - 1)
    even = torch.linspace(1.0, lowest, steps, dtype=torch.float64)
    return torch.cat((shift * even / (1 + (shift - 1) * even), even.new_zeros(1))).float()


class Sampling(NamedTuple):
    """The settings of the sampler (euler, normal)."""

    seed: int = 0
    steps: int = 20
    cfg: float = 4.0


@torch.no_grad()
def sample(
    bundle: Bundle,
    prompts: Sequence[str],
    hints: Tensor | None = None,
    sampling: Sampling = Sampling(),  # noqa: B008
    cells: tuple[int, int] = (24, 24),
) -> Tensor:
    """Generate normalized latents [B,4,*cells] of B prompts, and of hints [B,4,*cells] if given."""
    device = next(bundle.transformer.parameters()).device
    tokenizer = WordTokenizer.from_file(token_ids=bundle.token_ids)
    ids = tokenizer([*prompts] + [""] * len(prompts)).to(device)
    read = bundle.text_encoder(ids)
    words, pooled = read.last_hidden_state, read.pooler_output
    noise = torch.Generator().manual_seed(sampling.seed)
    shape = (len(prompts), mini.LATENT_CHANNELS, *cells)
    x = torch.randn(shape, generator=noise).to(device)
    steps = levels(sampling.steps).to(device)
    doubled: Any = None if hints is None else hints.to(device).repeat(2, 1, 1, 1)
    for level, following in zip(steps[:-1], steps[1:], strict=True):
        rows, at = x.repeat(2, 1, 1, 1), level.expand(2 * len(x))
        residual = None if doubled is None else bundle.control(rows, at, words, doubled)
        named, free = bundle.transformer(rows, at, words, pooled, residual).chunk(2)
        x = x + (following - level) * (free + sampling.cfg * (named - free))
    return x
