"""The alignment of parts on a frozen diffusers UNet, and its file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from ...models import weights
from ...models.appearance import VERSION, Aligned, Alignment, Sizes, Worn, alignment_of, facts_of
from .denoise import Denoiser, attention_kernel


class AppearanceDenoiser(nn.Module):
    """Frozen UNet, text encoder and ControlNet, and the layers of `alignment` before its output
    blocks.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        text_encoder: nn.Module,
        alignment: Alignment,
        controlnet: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.denoiser = Denoiser(unet, text_encoder, controlnet).requires_grad_(False)
        self.alignment = alignment
        self._now: dict[int, Aligned] = {}
        for place, block in output_blocks(unet).items():
            if place in alignment.channels:
                block.register_forward_pre_hook(self._before(place))

    def forward(
        self, x: Tensor, t: Tensor, ids: Tensor, worn: Worn, hint: Tensor | None = None
    ) -> Tensor:
        """As Denoiser's, with what the parts of each sample look like."""
        with attention_kernel(x.device), self.wearing(worn, x.shape[2:]):
            return self.denoiser(x, t, ids, hint)

    @contextmanager
    def wearing(self, worn: Worn, size: torch.Size) -> Iterator[None]:
        """While it lasts, the UNet's rows, latents of this size, look so."""
        tokens = self.alignment.tokens(worn.features, worn.known)
        for place, stride in strides_of(self.denoiser.unet).items():
            if place in self.alignment.channels:
                grid = (-(-size[0] // stride), -(-size[1] // stride))
                self._now[place] = self.alignment.at(place).align(tokens, worn, grid)
        try:
            yield
        finally:
            self._now.clear()

    def _before(self, place: int) -> Any:
        def change(block: nn.Module, inputs: tuple) -> tuple:
            """`inputs`: h with the skip connection behind it, and the time's embedding."""
            layer, aligned = self.alignment.at(place), self._now.get(place)
            if aligned is None:
                return inputs
            h, skip = inputs[0].split((layer.channels, inputs[0].shape[1] - layer.channels), 1)
            return torch.cat((h + layer(h, aligned), skip), 1), *inputs[1:]

        return change


def output_blocks(unet: UNet2DConditionModel) -> dict[int, nn.Module]:
    """The residual blocks of the decoder by the host's number of the output block."""
    blocks = (resnet for up in unet.up_blocks for resnet in up.resnets)
    return dict(enumerate(blocks))


def strides_of(unet: UNet2DConditionModel) -> dict[int, int]:
    """Latent cells per cell of each output block."""
    levels, each = len(unet.up_blocks), len(unet.up_blocks[0].resnets)
    return {k: 2 ** (levels - 1 - k // each) for k in range(levels * each)}


def start_alignment(unet: UNet2DConditionModel, sizes: Sizes) -> Alignment:
    """Untrained layers before the first output block of every scale; the UNet paints as before."""
    widths = [int(c) for c in unet.config["block_out_channels"]]
    each = len(unet.up_blocks[0].resnets)
    before = [widths[-1], *reversed(widths)][: len(widths)]  # the middle's, then each level's above
    return Alignment({level * each: c for level, c in enumerate(before)}, sizes)


def save_alignment(
    alignment: Alignment, path: Path, base: str, dtype: torch.dtype = torch.float16
) -> None:
    facts: dict[str, str | int | float] = {"method": "appearance", "version": VERSION, "base": base}
    weights.save(path, alignment.state_dict(), {**facts, **facts_of(alignment)}, dtype)


def load_alignment(path: Path) -> Alignment:
    """To train on; ValueError, naming the file, for any other."""
    tensors, facts = weights.load(path, method="appearance", version=VERSION)
    try:
        return alignment_of(tensors, facts).requires_grad_(True).train()
    except (KeyError, ValueError, RuntimeError) as wrong:
        raise ValueError(f"{path}: expected the layers of an alignment: {wrong}") from None
