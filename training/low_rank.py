"""Low-rank changes of a frozen network's weights (LoRA, Hu et al. 2021), by torch's own
parametrisation, in the keys that LoRA files have.
"""

from __future__ import annotations

import re

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
    """Freeze `network` and let a LowRank of every linear and convolution weight whose name matches
    be trained.
    """
    network.requires_grad_(False)
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Linear | nn.Conv2d) and re.fullmatch(names, name):
            parametrize.register_parametrization(
                module, "weight", LowRank(module.weight, min(rank, *module.weight.shape[:2]))
            )


def low_rank_tensors(unet: nn.Module) -> dict[str, Tensor]:
    """The changes of a diffusers UNet as a LoRA file of the host's key layout has them."""
    found = {}
    for name, module in unet.named_modules():
        if not parametrize.is_parametrized(module, "weight"):
            continue
        (change,) = module.parametrizations["weight"]  # type: ignore[index]
        shape = module.weight.shape
        rank = len(change.down)
        found[f"{name}.weight"] = (
            change.up.detach().view(-1, rank, *[1] * (len(shape) - 2)),
            change.down.detach().view(rank, *shape[1:]),
        )
    tensors = {}
    plain = [re.sub(r"\.parametrizations\.weight\..*", ".weight", k) for k in unet.state_dict()]
    places = unet_names(dict.fromkeys(plain))
    for name, (up, down) in found.items():
        place = PREFIX + places[name].removesuffix(".weight")
        tensors[f"{place}.lora_up.weight"] = up
        tensors[f"{place}.lora_down.weight"] = down
    return tensors
