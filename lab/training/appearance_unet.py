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
from ...models.appearance import (
    VERSION,
    Aligned,
    Alignment,
    PartFeatures,
    Sizes,
    build_alignment,
    sizes_metadata,
)
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
        self._aligned: dict[int, Aligned] = {}
        for place, block in output_blocks(unet).items():
            if place in alignment.channels:
                block.register_forward_pre_hook(self._before(place))

    def forward(
        self, x: Tensor, t: Tensor, ids: Tensor, parts: PartFeatures, hint: Tensor | None = None
    ) -> Tensor:
        """As Denoiser's, with the appearance of each sample's parts."""
        with attention_kernel(x.device), self.with_appearance(parts, x.shape[2:]):
            return self.denoiser(x, t, ids, hint)

    @contextmanager
    def with_appearance(self, parts: PartFeatures, size: torch.Size) -> Iterator[None]:
        """Give the UNet's rows, latents of this size, this appearance while the context lasts."""
        tokens = self.alignment.tokens(parts.features, parts.has_feature)
        for place, stride in output_strides(self.denoiser.unet).items():
            if place in self.alignment.channels:
                grid = (-(-size[0] // stride), -(-size[1] // stride))
                self._aligned[place] = self.alignment.at(place).align(tokens, parts, grid)
        try:
            yield
        finally:
            self._aligned.clear()

    def _before(self, place: int) -> Any:
        def change(block: nn.Module, inputs: tuple) -> tuple:
            """`inputs`: h with the skip connection behind it, and the time's embedding."""
            layer, aligned = self.alignment.at(place), self._aligned.get(place)
            if aligned is None:
                return inputs
            h, skip = inputs[0].split((layer.channels, inputs[0].shape[1] - layer.channels), 1)
            return torch.cat((h + layer(h, aligned), skip), 1), *inputs[1:]

        return change


def output_blocks(unet: UNet2DConditionModel) -> dict[int, nn.Module]:
    """List the residual blocks of the decoder by the host's number of the output block."""
    blocks = (resnet for up in unet.up_blocks for resnet in up.resnets)
    return dict(enumerate(blocks))


def output_strides(unet: UNet2DConditionModel) -> dict[int, int]:
    """Count the latent cells per cell of each output block."""
    levels, per_level = len(unet.up_blocks), len(unet.up_blocks[0].resnets)
    return {k: 2 ** (levels - 1 - k // per_level) for k in range(levels * per_level)}


def start_alignment(unet: UNet2DConditionModel, sizes: Sizes) -> Alignment:
    """Build untrained layers before the first output block of every scale, without any effect."""
    widths = [int(c) for c in unet.config["block_out_channels"]]
    per_level = len(unet.up_blocks[0].resnets)
    inputs = [widths[-1], *reversed(widths)][: len(widths)]  # the middle's, then each level's above
    return Alignment({level * per_level: c for level, c in enumerate(inputs)}, sizes)


def save_alignment(
    alignment: Alignment, path: Path, base: str, dtype: torch.dtype = torch.float16
) -> None:
    """Write the layers; atomic."""
    facts: dict[str, str | int | float] = {"method": "appearance", "version": VERSION, "base": base}
    weights.save(path, alignment.state_dict(), {**facts, **sizes_metadata(alignment)}, dtype)


def load_alignment(path: Path) -> Alignment:
    """Read the layers to train them further; ValueError, naming the file, for any other."""
    tensors, facts = weights.load(path, method="appearance", version=VERSION)
    try:
        return build_alignment(tensors, facts).requires_grad_(True).train()
    except weights.MISFITS as error:
        raise ValueError(f"{path}: expected the layers of an alignment: {error}") from None
