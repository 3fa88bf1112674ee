"""Muon (Jordan et al. 2024): momentum whose matrices are made orthogonal before they change the
weights. Convolutions count as matrices; what is no hidden matrix is trained by Adam beside it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the iteration's odd polynomial
SIZE = 0.2  # root mean square of an update, about what Adam's is (Liu et al. 2025)
ADAPTED = 0.4  # the learning rate of the parameters that Adam trains, as a share of Muon's
NO_HIDDEN = ("embed", "adaLN", "final_layer")  # parts of the names of what is no hidden matrix


def orthogonal(matrices: Tensor) -> Tensor:
    """Move the singular values of matrices [K, R, C] near 1, by Newton and Schulz's iteration."""
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Matrices of one shape are handled together: few launches, whatever their number."""

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        adapted: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.01,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
    ) -> None:
        groups = [
            {"params": list(matrices), "lr": lr, "hidden": True},
            {"params": list(adapted), "lr": lr * ADAPTED, "hidden": False},
        ]
        defaults = {"weight_decay": weight_decay, "momentum": momentum, "betas": betas, "step": 0}
        super().__init__([group for group in groups if group["params"]], {"lr": lr, **defaults})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change the parameters that have a gradient."""
        for group in self.param_groups:
            group["step"] += 1
            trained = [p for p in group["params"] if p.grad is not None]
            if trained:
                torch._foreach_mul_(trained, 1 - group["lr"] * group["weight_decay"])
                (self._turn if group["hidden"] else self._adapt)(trained, group)

    def _state(self, parameters: Sequence[nn.Parameter], name: str) -> list[Tensor]:
        return [self.state[p].setdefault(name, torch.zeros_like(p)) for p in parameters]

    def _turn(self, matrices: list[nn.Parameter], group: dict) -> None:
        gradients = _gradients(matrices)
        momenta = self._state(matrices, "momentum")
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov's
        by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, p in enumerate(matrices):
            by_shape[len(p), p[0].numel()].append(i)
        for shape, rows in by_shape.items():
            turned = orthogonal(torch.stack([ahead[i].reshape(shape) for i in rows]))
            turned = turned * (-group["lr"] * SIZE * math.sqrt(max(shape)))
            updates = [turned[k].view(matrices[i].shape) for k, i in enumerate(rows)]
            torch._foreach_add_([matrices[i] for i in rows], updates)

    def _adapt(self, parameters: list[nn.Parameter], group: dict) -> None:
        gradients = _gradients(parameters)
        first, second = group["betas"]
        mean, square = self._state(parameters, "mean"), self._state(parameters, "square")
        torch._foreach_lerp_(mean, gradients, 1 - first)
        torch._foreach_mul_(square, second)
        torch._foreach_addcmul_(square, gradients, gradients, 1 - second)
        steps = group["step"]
        spread = torch._foreach_sqrt(torch._foreach_div(square, 1 - second**steps))
        torch._foreach_add_(spread, 1e-8)
        rate = -group["lr"] / (1 - first**steps)
        torch._foreach_addcdiv_(list[Tensor](parameters), mean, spread, rate)


def _gradients(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


def build_muon(model: nn.Module, lr: float, weight_decay: float = 0.01) -> Muon:
    """Build the optimizer of a model's parameters, for the trainers' loop."""
    hidden, adapted = hidden_matrices(model)
    return Muon(hidden, adapted, lr, weight_decay)


def hidden_matrices(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Split the parameters that are trained into hidden matrices and others."""
    hidden, adapted = list[nn.Parameter](), list[nn.Parameter]()
    for name, p in model.named_parameters():
        if p.requires_grad:
            inside = p.dim() >= 2 and not any(part in name for part in NO_HIDDEN)
            (hidden if inside else adapted).append(p)
    return hidden, adapted
