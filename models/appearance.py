"""Multi-scale alignment of body parts with their appearance, on a frozen UNet.

Inspired by HumanDiffusion (arXiv 2211.06235 and IJCV 2024), whose figure names the blocks (SAA, one
MAA at each scale of the decoder, the semantic map in every one of them) and whose internals were
never published: widths, tokens, masks and normalisation below are ours.

A layer stands before an output block of the UNet, where the block before has left `h`:
    h + map_strength (gamma(y) GN(h) + beta(y)) + strength W_o softmax(q k + log y) v
y are the shares of the 24 classes in each cell. What does not change over the sampling (tokens,
keys, values, masks, gamma and beta) is made once, as `Aligned`.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import group_norm, scaled_dot_product_attention

from .semantic_map import CLASSES, shares

VERSION = 1
GROUPS = 32
NOWHERE = -1e4  # added to the attention of a part on cells where it is not
Place = int  # number of an output block, as the host counts them


class Sizes(NamedTuple):
    """Of an `Alignment`, beside its channels."""

    features: int  # of a part, from the memory
    width: int = 96
    tokens: int = 4  # of each part
    heads: int = 4
    hidden: int = 48  # of the map's convolutions
    masked: bool = True  # False: every part is seen from every cell, to compare with


class Worn(NamedTuple):
    """What the parts of B pictures look like."""

    features: Tensor  # [B, 24, D]; anything where nothing is known
    known: Tensor  # bool [B, 24]
    strength: Tensor  # [B, 24]
    labels: Tensor  # uint8 [B, H, W], the semantic map


class Aligned(NamedTuple):
    """What one layer has of `Worn` on its grid h x w, the same in every step."""

    key: Tensor  # [B, heads, 1 + 24 tokens, width / heads]
    value: Tensor
    mask: Tensor  # [B, 1, h w, 1 + 24 tokens], the logarithms of shares
    gamma: Tensor  # [B, C, h, w]
    beta: Tensor


class PartTokens(nn.Module):
    """SAA: self-attention between the tokens of a person's parts, F_ps."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        width = sizes.width
        self.into = nn.Linear(sizes.features, width * sizes.tokens)
        self.part = nn.Parameter(0.02 * torch.randn(len(CLASSES), sizes.tokens, width))
        self.attend = nn.TransformerEncoderLayer(
            width,
            sizes.heads,
            2 * width,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Tensor, known: Tensor) -> Tensor:
        """[B, 24, D], bool [B, 24] -> [B, 24 tokens, width]. No part sees one that is not known."""
        scaled = features * math.sqrt(self.sizes.features)  # unit length -> unit variance
        each = self.into(scaled).unflatten(-1, self.part.shape[1:]) + self.part
        hidden = ~known.repeat_interleave(self.sizes.tokens, 1)
        hidden = hidden & ~hidden.all(1, keepdim=True)  # attention over nothing is not a number
        return self.norm(self.attend(each.flatten(1, 2), src_key_padding_mask=hidden))


class Layer(nn.Module):
    """MAA and the semantic map at one scale; starts as the identity."""

    def __init__(self, channels: int, sizes: Sizes) -> None:
        super().__init__()
        width, self.channels = sizes.width, channels
        self.heads, self.masked = sizes.heads, sizes.masked
        self.query = nn.Conv2d(channels, width, 1)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Conv2d(width, channels, 1, bias=False)
        self.map = nn.Sequential(
            nn.Conv2d(len(CLASSES), sizes.hidden, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(sizes.hidden, 2 * channels, 3, padding=1),
        )
        for parameter in (self.out.weight, *self.map[2].parameters()):
            nn.init.zeros_(parameter)

    def align(self, tokens: Tensor, worn: Worn, grid: tuple[int, int]) -> Aligned:
        """What stays the same over the sampling; `tokens` from PartTokens."""
        y = shares(worn.labels, grid).to(tokens)
        count = tokens.shape[1] // len(CLASSES)
        key, value = self.key_value(tokens).chunk(2, -1)
        value = value * worn.strength.to(value).repeat_interleave(count, 1)[..., None]
        key, value = (self._split(with_nothing(each)) for each in (key, value))
        mask = log_shares(y if self.masked else torch.ones_like(y), worn.known, count)
        gamma, beta = self.map(y).chunk(2, 1)
        return Aligned(key, value, mask, gamma, beta)

    def forward(
        self, h: Tensor, aligned: Aligned, strength: float = 1.0, map_strength: float = 1.0
    ) -> Tensor:
        """h [B, C, h, w] -> what is added to it."""
        n = group_norm(h, GROUPS)
        query = self._split(self.query(n).flatten(2).mT)
        found = scaled_dot_product_attention(query, *aligned[:2], attn_mask=aligned.mask)
        found = self.out(found.transpose(1, 2).flatten(2).mT.unflatten(2, h.shape[-2:]))
        return map_strength * (aligned.gamma * n + aligned.beta) + strength * found

    def _split(self, rows: Tensor) -> Tensor:
        return rows.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def with_nothing(rows: Tensor) -> Tensor:
    """[B, N, C] with a token of zeros before: what cells attend to where no part is known."""
    return torch.cat((torch.zeros_like(rows[:, :1]), rows), 1)


def log_shares(y: Tensor, known: Tensor, tokens: int) -> Tensor:
    """How much each token may be seen from each cell, [B, 1, h w, 1 + 24 tokens].

    y [B, 24, h, w], known [B, 24]. With equal keys the softmax gives each known part its share of
    the cell, and the rest of the cell to the token of nothing.
    """
    y = y.flatten(2).mT * known[:, None]
    rest = (1 - y.sum(-1, keepdim=True)).clamp(min=0)
    split = torch.cat((rest, (y / tokens).repeat_interleave(tokens, -1)), -1)
    return split.clamp(min=1e-6).log().masked_fill(split <= 1e-6, NOWHERE)[:, None]


class Alignment(nn.Module):
    """All layers, by the output block of the UNet that each stands before."""

    def __init__(self, channels: Mapping[Place, int], sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.tokens = PartTokens(sizes)
        self.layers = nn.ModuleDict({str(k): Layer(c, sizes) for k, c in channels.items()})

    @property
    def channels(self) -> dict[Place, int]:
        return {int(k): layer.channels for k, layer in self.layers.items()}  # type: ignore[misc]

    def at(self, place: Place) -> Layer:
        """KeyError where none stands."""
        return self.layers[str(place)]  # type: ignore[return-value]


def facts_of(alignment: Alignment) -> dict[str, int]:
    """For the metadata of a file."""
    return {name: int(value) for name, value in alignment.sizes._asdict().items()}


def alignment_of(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> Alignment:
    """From a file's tensors and metadata; KeyError, RuntimeError or ValueError for others'."""
    found = {name: int(facts[name]) for name in Sizes._fields}
    masked = bool(found.pop("masked"))
    sizes = Sizes(**found, masked=masked)
    channels = {
        int(key.split(".")[1]): tensor.shape[1]
        for key, tensor in tensors.items()
        if key.startswith("layers.") and key.endswith(".query.weight")
    }
    made = Alignment(channels, sizes)
    made.load_state_dict({key: tensor.float() for key, tensor in tensors.items()})
    return made.requires_grad_(False).eval()
