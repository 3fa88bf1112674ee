"""Add a small trained key to each cross-attention, for the words that name people and actions.

This is the human-centric prior layer of HcP (Wang et al. 2024, arXiv 2403.05239). Known from the
paper: K_h = phi(C_h), M_h = softmax(Q K_h^T / sqrt(d)), M_h added to the ordinary map M, and a loss
that aligns M_h with features of a pose image and weighs scales and steps differently. Not known,
and parameters here: how the maps are combined (GAMMA), where the mask is applied (MASKS), phi's
layout, the features' stage, the weights' form.

Shapes: queries [B, N, C], contexts [B, T, D], human [B, T] bool, which tokens are human-centric.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import cos, pi

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, interpolate, scaled_dot_product_attention

VERSION = 1  # of the file
COUNT = "layers"  # in its metadata: how many there are
PREFIX = "human_prior."  # of its keys: human_prior.input_1_0.net.0.weight
HIDDEN = 32  # of a layer's bottleneck
GAMMA = 0.9  # of the ordinary map in the combined one
# Of the alignment beside the denoising loss; the paper's value is not known. On the mini model its
# gradient is then 1.3 times the denoising one at first and a fifth of it at the end. At 0.02 it is
# 50 and 7 times as large, so that denoising teaches next to nothing.
ALIGNMENT_WEIGHT = 0.0005
# Where tokens that are not human are masked: BEFORE or AFTER the softmax, or, with KEYS, in the
# keys: they keep the base's keys, so that training begins with the base itself.
BEFORE, AFTER, KEYS = MASKS = "before", "after", "keys"
DOWN, MID, UP = "input", "middle", "output"  # stages, as the host names its blocks
POINTS = 21  # of a table's row

Table = Mapping[str, Sequence[float]]  # weights of a stage at equal distances, from t = 0 to t = T


class PriorLayer(nn.Module):
    """Compute phi: the frozen key plus the output of a small network on the context.

    The network has one hidden layer of `hidden` features. Its output is 0 at first, so training
    begins with the base.
    """

    def __init__(self, context: int, inner: int, hidden: int) -> None:
        super().__init__()
        self.context, self.inner = context, inner
        self.net = nn.Sequential(nn.Linear(context, hidden), nn.SiLU(), nn.Linear(hidden, inner))
        nn.init.zeros_(self.net[2].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.net[2].bias)  # type: ignore[arg-type]

    def forward(self, context: Tensor, key: Tensor) -> Tensor:
        """Compute K_h [B, T, C] from the context [B, T, D] and its frozen key [B, T, C]."""
        return key + self.net(context)


def attention_map(q: Tensor, k: Tensor, heads: int, allowed: Tensor | None = None) -> Tensor:
    """Compute softmax(Q K^T / sqrt(d)) [B, heads, N, T], over the `allowed` [B, T] tokens only."""
    q, k = _split(q, heads), _split(k, heads)
    scores = q @ k.mT * q.shape[-1] ** -0.5
    if allowed is not None:
        scores = scores.masked_fill(~allowed[:, None, None], -torch.inf)
    return scores.softmax(-1)


def human_keys(trained: Tensor, frozen: Tensor, human: Tensor, mask: str) -> Tensor:
    """Choose the keys K_h [B, T, C] of the human map from the layer's and the base's keys."""
    return torch.where(human[..., None], trained, frozen) if mask == KEYS else trained


def human_map(q: Tensor, k: Tensor, human: Tensor, heads: int, mask: str = BEFORE) -> Tensor:
    """Compute M_h [B, heads, N, T] from the queries and K_h.

    With BEFORE and AFTER it is zero at tokens that are not human: with BEFORE its rows sum to 1,
    with AFTER to the human tokens' share of the map over all tokens. With KEYS it is the map over
    all tokens. With BEFORE, each row of the batch needs a human token.
    """
    if mask == BEFORE:
        return attention_map(q, k, heads, human)
    over_all_tokens = attention_map(q, k, heads)
    return over_all_tokens * human[:, None, None] if mask == AFTER else over_all_tokens


def combined_map(ordinary: Tensor, of_humans: Tensor, gamma: float) -> Tensor:
    """Combine both maps: gamma M + (1 - gamma) M_h."""
    return gamma * ordinary + (1 - gamma) * of_humans


def apply_map(attention: Tensor, v: Tensor) -> Tensor:
    """Apply a map [B, heads, N, T] to values [B, T, C] -> [B, N, C]."""
    return _join(attention @ _split(v, attention.shape[1]))


def human_attention(
    q: Tensor, k: Tensor, v: Tensor, human: Tensor, heads: int, mask: str = BEFORE
) -> Tensor:
    """Compute M_h V [B, N, C] without storing the map M_h.

    Since values are shared and attention is linear in the map, the result of the combined map is
    gamma Attention(Q, K, V) + (1 - gamma) M_h V.
    """
    allowed = human[:, None, None] if mask == BEFORE else None
    if mask == AFTER:  # M_h V = M (V where human, 0 elsewhere)
        v = v * human[..., None]
    q, k, v = (_split(x, heads) for x in (q, k, v))
    return _join(scaled_dot_product_attention(q, k, v, allowed))


def combine_results(ordinary: Tensor, of_humans: Tensor, gamma: float) -> Tensor:
    """Combine the results of both attentions: gamma M V + (1 - gamma) M_h V."""
    return ordinary + (1 - gamma) * (of_humans - ordinary)


def alignment_loss(
    of_humans: Tensor, human: Tensor, features: Tensor, grid: tuple[int, int]
) -> Tensor:
    """Compute the sum of 1 - cos(M_h^i, H) over the human tokens i of each image, [B].

    M_h^i: of_humans [B, heads, h * w, T], averaged over the heads. H: the magnitude over channels
    of a pose image's features [B, C, H, W], on the map's grid (h, w). The cosine is the paper's;
    how M_h^i and H are made comparable is our choice.
    """
    maps = of_humans.mean(1).mT  # [B, T, h * w]
    target = interpolate(features.norm(dim=1, keepdim=True), grid, mode="area").flatten(1)
    away = 1 - cosine_similarity(maps, target[:, None], dim=-1)  # [B, T]
    return (away * human).sum(1)


def map_grid(size: Sequence[int], tokens: int) -> tuple[int, int]:
    """Find height and width of a map with this number of tokens, for latents of this size.

    Every level of a UNet halves both, rounding up.
    """
    height, width = size
    while height * width > tokens:
        height, width = -(-height // 2), -(-width // 2)
    return height, width


def weighted_alignment_loss(
    layers: Iterable[tuple[str, tuple[int, int], Tensor]],
    human: Tensor,
    levels: Sequence[Tensor],
    share: Tensor,
    table: Table,
) -> Tensor:
    """Sum the alignment losses of all layers, weighted by their stage and each image's step, [B].

    layers: stage, grid and M_h of each layer; levels: features [B, C, H, W] of several sizes, of
    which each layer takes the nearest one; share: t / T [B].
    """
    total = torch.zeros_like(share)
    for stage, grid, maps in layers:
        level = min(levels, key=lambda level: abs(level.shape[-1] - grid[1]))
        away = alignment_loss(maps.float(), human, level.float(), grid)
        total = total + stage_weight(table, stage, share) * away
    return total


def cosine_table(points: int = POINTS) -> dict[str, list[float]]:
    """Build the weights of each stage's alignment loss from t = 0, the last step, to t = T.

    Down blocks count late in a sampling, the middle early, up blocks between. That the weights are
    cosines that differ by stage and step is the paper's; these three are a guess.
    """
    forms = {DOWN: (1, 0), MID: (1, 1), UP: (2, 1)}
    steps = [k / (points - 1) for k in range(points)]
    return {stage: [cos((a * u - b) * pi / 2) for u in steps] for stage, (a, b) in forms.items()}


def constant_table() -> dict[str, list[float]]:
    """Build weights that are 1 for every stage at every step."""
    return {stage: [1.0, 1.0] for stage in (DOWN, MID, UP)}


def stage_weight(table: Table, stage: str, share: Tensor) -> Tensor:
    """Look up a stage's weight at t / T = `share` of any shape, linear between the table's points.

    Raises ValueError for a table without the stage or with fewer than two points.
    """
    row = table.get(stage, ())
    if len(row) < 2:
        raise ValueError(
            f"the weights' table needs two numbers or more for each of '{DOWN}', '{MID}' and "
            f"'{UP}'; for '{stage}' it has {len(row)}."
        )
    points = torch.tensor(row, dtype=share.dtype, device=share.device)
    at = share.clamp(0, 1) * (len(row) - 1)
    low = at.floor().long().clamp(max=len(row) - 2)
    return torch.lerp(points[low], points[low + 1], at - low)


def _split(x: Tensor, heads: int) -> Tensor:
    """[B, N, C] -> [B, heads, N, C / heads]"""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _join(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)
