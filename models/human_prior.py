"""The human-centric prior layer of HcP (Wang et al. 2024, arXiv 2403.05239): beside each
cross-attention key a small trained one for the words that name people and what they do.

Known of the paper: K_h = phi(C_h), M_h = softmax(Q K_h^T / sqrt(d)), M_h added to the ordinary map
M, an alignment loss of M_h with features of a pose image that weighs scales and steps differently.
Not known, and parameters here: how the maps are combined (GAMMA), where the mask falls (MASKS),
phi's layout, the features' stage, the weights' form.

Shapes: queries [B, N, C], contexts [B, T, D], human [B, T] bool, which tokens are human-centric.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import cos, pi

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, interpolate, scaled_dot_product_attention

VERSION = 1  # of the file
PREFIX = "human_prior."  # of its keys: human_prior.input_1_0.net.0.weight
HIDDEN = 32  # of a layer's bottleneck
GAMMA = 0.9  # of the ordinary map in the combined one
# Where tokens that are not human are masked out: BEFORE or AFTER the softmax, or, with KEYS, only
# out of what is learnt: they keep their frozen keys, so that training begins at the base itself.
BEFORE, AFTER, KEYS = MASKS = "before", "after", "keys"
DOWN, MID, UP = "input", "middle", "output"  # stages, as the host names its blocks
POINTS = 21  # of a table's row

Table = Mapping[str, Sequence[float]]  # weights of a stage at equal distances, from t = 0 to t = T


class PriorLayer(nn.Module):
    """phi: the frozen key plus what a bottleneck of `hidden` makes of the context; at first
    nothing, so training begins at the base.
    """

    def __init__(self, context: int, inner: int, hidden: int) -> None:
        super().__init__()
        self.context, self.inner = context, inner
        self.net = nn.Sequential(nn.Linear(context, hidden), nn.SiLU(), nn.Linear(hidden, inner))
        nn.init.zeros_(self.net[2].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.net[2].bias)  # type: ignore[arg-type]

    def forward(self, context: Tensor, key: Tensor) -> Tensor:
        """Context [B, T, D] and its frozen key [B, T, C] -> K_h [B, T, C]."""
        return key + self.net(context)


def attention_map(q: Tensor, k: Tensor, heads: int, allowed: Tensor | None = None) -> Tensor:
    """softmax(Q K^T / sqrt(d)) [B, heads, N, T], over the `allowed` [B, T] tokens only."""
    q, k = _split(q, heads), _split(k, heads)
    scores = q @ k.mT * q.shape[-1] ** -0.5
    if allowed is not None:
        scores = scores.masked_fill(~allowed[:, None, None], -torch.inf)
    return scores.softmax(-1)


def human_keys(learnt: Tensor, frozen: Tensor, human: Tensor, mask: str) -> Tensor:
    """K_h [B, T, C] as the map takes it, from the layer's and the base's keys."""
    return torch.where(human[..., None], learnt, frozen) if mask == KEYS else learnt


def human_map(q: Tensor, k: Tensor, human: Tensor, heads: int, mask: str = BEFORE) -> Tensor:
    """M_h [B, heads, N, T] of K_h. With BEFORE and AFTER it is zero at tokens that are not human:
    its rows sum to 1, or to what the human tokens have of the whole. With KEYS it is over all
    tokens. Rows of B need a human token each, with BEFORE.
    """
    if mask == BEFORE:
        return attention_map(q, k, heads, human)
    whole = attention_map(q, k, heads)
    return whole * human[:, None, None] if mask == AFTER else whole


def combined_map(ordinary: Tensor, of_humans: Tensor, gamma: float) -> Tensor:
    """gamma M + (1 - gamma) M_h."""
    return gamma * ordinary + (1 - gamma) * of_humans


def apply_map(attention: Tensor, v: Tensor) -> Tensor:
    """A map [B, heads, N, T] applied to values [B, T, C] -> [B, N, C]."""
    return _join(attention @ _split(v, attention.shape[1]))


def human_attention(
    q: Tensor, k: Tensor, v: Tensor, human: Tensor, heads: int, mask: str = BEFORE
) -> Tensor:
    """M_h V [B, N, C] without the map itself: since values are shared and attention is linear in
    the map, the combined map's result is gamma Attention(Q, K, V) + (1 - gamma) of this.
    """
    allowed = human[:, None, None] if mask == BEFORE else None
    if mask == AFTER:  # M_h V = M (V where human, 0 elsewhere)
        v = v * human[..., None]
    q, k, v = (_split(x, heads) for x in (q, k, v))
    return _join(scaled_dot_product_attention(q, k, v, allowed))


def combine_results(ordinary: Tensor, of_humans: Tensor, gamma: float) -> Tensor:
    """Results of both attentions -> the combined map's."""
    return ordinary + (1 - gamma) * (of_humans - ordinary)


def alignment_loss(
    of_humans: Tensor, human: Tensor, features: Tensor, grid: tuple[int, int]
) -> Tensor:
    """Sum over each picture's human tokens of 1 - cos(M_h^i, H), [B].

    of_humans [B, heads, h * w, T], its heads averaged; H is the magnitude over channels of a pose
    image's features [B, C, H, W] on the map's grid (h, w). That M_h^i becomes comparable with H so
    is ours; cosine as the distance is the paper's.
    """
    maps = of_humans.mean(1).mT  # [B, T, h * w]
    target = interpolate(features.norm(dim=1, keepdim=True), grid, mode="area").flatten(1)
    away = 1 - cosine_similarity(maps, target[:, None], dim=-1)  # [B, T]
    return (away * human).sum(1)


def map_grid(size: Sequence[int], tokens: int) -> tuple[int, int]:
    """Height and width of a map with so many tokens, of latents of this size: every level of a UNet
    halves both, rounding up.
    """
    height, width = size
    while height * width > tokens:
        height, width = -(-height // 2), -(-width // 2)
    return height, width


def weighted_alignment_loss(
    seen: Iterable[tuple[str, tuple[int, int], Tensor]],
    human: Tensor,
    levels: Sequence[Tensor],
    share: Tensor,
    table: Table,
) -> Tensor:
    """`alignment_loss` of every layer's map with the features nearest to it in size, weighted by its
    stage and each picture's step and summed, [B].

    seen: stage, grid and M_h of each layer; levels: features [B, C, H, W] of several sizes; share:
    t / T [B].
    """
    total = torch.zeros_like(share)
    for stage, grid, maps in seen:
        level = min(levels, key=lambda level: abs(level.shape[-1] - grid[1]))
        away = alignment_loss(maps.float(), human, level.float(), grid)
        total = total + stage_weight(table, stage, share) * away
    return total


def cosine_table(points: int = POINTS) -> dict[str, list[float]]:
    """How much each stage's alignment counts from t = 0, the last step, to t = T, the first: down
    blocks late, the middle early, up blocks between. That weights are cosines that differ by stage
    and step is the paper's; these three are a guess.
    """
    forms = {DOWN: (1, 0), MID: (1, 1), UP: (2, 1)}
    steps = [k / (points - 1) for k in range(points)]
    return {stage: [cos((a * u - b) * pi / 2) for u in steps] for stage, (a, b) in forms.items()}


def constant_table() -> dict[str, list[float]]:
    """Every stage alike at every step."""
    return {stage: [1.0, 1.0] for stage in (DOWN, MID, UP)}


def stage_weight(table: Table, stage: str, share: Tensor) -> Tensor:
    """The table's weight at t / T = `share`, any shape, linear between its points. ValueError for a
    table without the stage or with fewer than two points.
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
