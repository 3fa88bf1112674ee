"""Low-rank changes of a frozen network's weights (LoRA, Hu et al. 2021), by torch's own
parametrization, in the keys that LoRA files have.

Not by the library peft: it would be one more dependency for the forty lines that are left when the
keys are the host's anyway.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .convert import unet_names

PREFIX = "diffusion_model."


class LowRank(nn.Module):
    """W -> W + up @ down; at first no change."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        out, columns = weight.shape[0], weight[0].numel()
        self.down = nn.Parameter(torch.randn(rank, columns) / columns**0.5)
        self.up = nn.Parameter(torch.zeros(out, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).view_as(weight)


def add_low_rank(network: nn.Module, rank: int, names: str = r".*") -> None:
    """Freeze `network`, and add a trainable LowRank to every linear and convolution weight whose
    name matches.
    """
    network.requires_grad_(False)
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Linear | nn.Conv2d) and re.fullmatch(names, name):
            parametrize.register_parametrization(
                module, "weight", LowRank(module.weight, min(rank, *module.weight.shape[:2]))
            )


def low_rank_tensors(unet: nn.Module) -> dict[str, Tensor]:
    """Collect the changes of a diffusers UNet as a LoRA file of the host's key layout has them."""
    tensors = {}
    for place, module, change in _changes(unet):
        shape, rank = module.weight.shape, len(change.down)
        tensors[f"{place}.lora_up.weight"] = change.up.detach().view(
            -1, rank, *[1] * (len(shape) - 2)
        )
        tensors[f"{place}.lora_down.weight"] = change.down.detach().view(rank, *shape[1:])
    return tensors


@torch.no_grad()
def set_low_rank(unet: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Set the changes that `low_rank_tensors` gave; ValueError for another rank's or UNet's."""
    for place, _, change in _changes(unet):
        for part, parameter in (("up", change.up), ("down", change.down)):
            tensor = tensors.get(f"{place}.lora_{part}.weight")
            if tensor is None or tensor.numel() != parameter.numel():
                shape = "none" if tensor is None else list(tensor.shape)
                expected = list(parameter.shape)
                raise ValueError(f"{place}: expected a change of {expected}, found {shape}.")
            parameter.copy_(tensor.view_as(parameter))


def _changes(unet: nn.Module) -> Iterator[tuple[str, Any, LowRank]]:
    """List place in the host's key layout, module and change of every changed weight."""
    plain = [re.sub(r"\.parametrizations\.weight\..*", ".weight", k) for k in unet.state_dict()]
    places = unet_names(dict.fromkeys(plain))
    for name, module in unet.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            (change,) = module.parametrizations["weight"]  # type: ignore[index]
            yield PREFIX + places[f"{name}.weight"].removesuffix(".weight"), module, change
