"""The evaluators' weight files: 8 bits a weight."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from ...models import weights

Net = TypeVar("Net", bound=nn.Module)


def save(net: nn.Module, path: Path, name: str) -> None:
    """Write an evaluator's weights, of 8 bits each, under its name."""
    facts: dict[str, str | int | float] = {"method": name, "version": 1, "base": "mini"}
    weights.save(path, net.state_dict(), facts, torch.int8)


def load(net: Net, path: Path, name: str) -> Net:
    """Load an evaluator's weights into a new network, in eval mode."""
    tensors, _ = weights.load(path, method=name, base="mini")
    net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
    return net.eval()
