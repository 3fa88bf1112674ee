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
TRAINER_PREFIX = "lora_unet_"  # of the trainer kohya's files, which most people have


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
    tensors: dict[str, Tensor] = {}
    places = _places(unet)
    for name, module, change in _changes(unet):
        tensors |= _matrices(places[name], module, change)
    return tensors


def trainer_tensors(unet: nn.Module, gain: float = 1.0) -> dict[str, Tensor]:
    """Collect the changes of a diffusers UNet, times a gain, as files of the trainer kohya have
    them: by the names in diffusers, each with an alpha.
    """
    tensors: dict[str, Tensor] = {}
    for name, module, change in _changes(unet):
        place = TRAINER_PREFIX + name.replace(".", "_")
        tensors |= _matrices(place, module, change)
        tensors[f"{place}.alpha"] = torch.tensor(gain * len(change.down))
    return tensors


def _matrices(place: str, module: Any, change: LowRank) -> dict[str, Tensor]:
    """Both matrices of a change in the shapes of the layer's weight, by their keys in a file."""
    shape, rank = module.weight.shape, len(change.down)
    return {
        f"{place}.lora_up.weight": change.up.detach().view(-1, rank, *[1] * (len(shape) - 2)),
        f"{place}.lora_down.weight": change.down.detach().view(rank, *shape[1:]),
    }


@torch.no_grad()
def set_low_rank(unet: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Set the changes that `low_rank_tensors` gave; ValueError for another rank's or UNet's."""
    places = _places(unet)
    for name, _, change in _changes(unet):
        place = places[name]
        for part, parameter in (("up", change.up), ("down", change.down)):
            tensor = tensors.get(f"{place}.lora_{part}.weight")
            if tensor is None or tensor.numel() != parameter.numel():
                shape = "none" if tensor is None else list(tensor.shape)
                expected = list(parameter.shape)
                raise ValueError(f"{place}: expected a change of {expected}, found {shape}.")
            parameter.copy_(tensor.view_as(parameter))


def _changes(unet: nn.Module) -> Iterator[tuple[str, Any, LowRank]]:
    """List name, module and change of every changed weight."""
    for name, module in unet.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            (change,) = module.parametrizations["weight"]  # type: ignore[index]
            yield name, module, change


def _places(unet: nn.Module) -> dict[str, str]:
    """Map the names of a UNet's modules to the keys of LoRA files of the host's layout."""
    plain = [re.sub(r"\.parametrizations\.weight\..*", ".weight", k) for k in unet.state_dict()]
    return {
        name.removesuffix(".weight"): PREFIX + place.removesuffix(".weight")
        for name, place in unet_names(dict.fromkeys(plain)).items()
    }
