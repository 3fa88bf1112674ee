"""Multi-scale alignment of body parts with their appearance, on a frozen UNet.

Inspired by HumanDiffusion (arXiv 2211.06235 and IJCV 2024). Its overview names the blocks: SAA, one
MAA at each scale of the decoder, the semantic map in each of them. Its internals were never
published: widths, tokens, masks and normalization below are ours.

A layer stands before an output block of the UNet and adds to `h`, the output of the block before:
    h + map_strength (gamma(y) GN(h) + beta(y)) + strength W_o softmax(q k + log y) v
y are the shares of the classes in each cell. What does not change over the sampling (tokens, keys,
values, masks, gamma and beta) is computed once, as `Aligned`.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import group_norm, scaled_dot_product_attention

from .plain_words import size
from .semantic_map import CLASSES, shares

VERSION = 1
GROUPS = 32
HIDDEN = -1e4  # added to the attention of a part on cells that do not show it


class Sizes(NamedTuple):
    """The sizes of an `Alignment`, beside the channels of its layers."""

    features: int  # of a part, from the memory
    width: int = 96
    tokens: int = 4  # of each part
    heads: int = 4
    hidden: int = 48  # of the map's convolutions
    masked: bool = True  # False: each cell attends to every part, for comparison


class PartFeatures(NamedTuple):
    """How the parts of B images should look."""

    features: Tensor  # [B, classes, D]; anything where has_feature is False
    has_feature: Tensor  # bool [B, classes]
    strength: Tensor  # [B, classes]
    labels: Tensor  # uint8 [B, H, W], the semantic map


class Aligned(NamedTuple):
    """What one layer computes from `PartFeatures` on its grid h x w, the same in every step."""

    key: Tensor  # [B, heads, 1 + classes * tokens, width / heads]
    value: Tensor
    mask: Tensor  # [B, 1, h * w, 1 + classes * tokens], the logarithms of shares
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

    def forward(self, features: Tensor, has_feature: Tensor) -> Tensor:
        """Turn features [B, classes, D] into tokens [B, classes * tokens, width].

        `has_feature`, bool [B, classes], says which features count; no part attends to the others.
        """
        scaled = features * math.sqrt(self.sizes.features)  # unit length -> unit variance
        tokens = self.into(scaled).unflatten(-1, self.part.shape[1:]) + self.part
        padding = ~has_feature.repeat_interleave(self.sizes.tokens, 1)
        padding = padding & ~padding.all(1, keepdim=True)  # attention over nothing is not a number
        return self.norm(self.attend(tokens.flatten(1, 2), src_key_padding_mask=padding))


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

    def align(self, tokens: Tensor, parts: PartFeatures, grid: tuple[int, int]) -> Aligned:
        """Compute what stays the same over the sampling, from the tokens of PartTokens."""
        y = shares(parts.labels, grid).to(tokens)
        count = tokens.shape[1] // len(CLASSES)
        key, value = self.key_value(tokens).chunk(2, -1)
        value = value * parts.strength.to(value).repeat_interleave(count, 1)[..., None]
        key, value = (self._split_heads(with_null_token(rows)) for rows in (key, value))
        mask = log_shares(y if self.masked else torch.ones_like(y), parts.has_feature, count)
        gamma, beta = self.map(y).chunk(2, 1)
        return Aligned(key, value, mask, gamma, beta)

    def forward(
        self, h: Tensor, aligned: Aligned, strength: float = 1.0, map_strength: float = 1.0
    ) -> Tensor:
        """Compute what is added to h [B, C, h, w]."""
        n = group_norm(h, GROUPS)
        query = self._split_heads(self.query(n).flatten(2).mT)
        attended = scaled_dot_product_attention(query, *aligned[:2], attn_mask=aligned.mask)
        attended = self.out(attended.transpose(1, 2).flatten(2).mT.unflatten(2, h.shape[-2:]))
        return map_strength * (aligned.gamma * n + aligned.beta) + strength * attended

    def _split_heads(self, rows: Tensor) -> Tensor:
        return rows.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def with_null_token(rows: Tensor) -> Tensor:
    """Put a token of zeros before the rows [B, N, C].

    Cells attend to it as far as they show no part that has a feature.
    """
    return torch.cat((torch.zeros_like(rows[:, :1]), rows), 1)


def log_shares(y: Tensor, has_feature: Tensor, tokens: int) -> Tensor:
    """Bias attention by area: a mask [B, 1, h * w, 1 + classes * tokens] that is added to q k.

    y [B, classes, h, w] are shares, has_feature is bool [B, classes]. With equal keys the softmax
    gives each part with a feature its share of the cell, and the remainder to the null token.
    """
    y = y.flatten(2).mT * has_feature[:, None]
    remainder = (1 - y.sum(-1, keepdim=True)).clamp(min=0)
    split = torch.cat((remainder, (y / tokens).repeat_interleave(tokens, -1)), -1)
    return split.clamp(min=1e-6).log().masked_fill(split <= 1e-6, HIDDEN)[:, None]


class Alignment(nn.Module):
    """All layers, by the number of the UNet's output block that each stands before."""

    def __init__(self, channels: Mapping[int, int], sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.tokens = PartTokens(sizes)
        self.layers = nn.ModuleDict({str(k): Layer(c, sizes) for k, c in channels.items()})

    @property
    def channels(self) -> dict[int, int]:
        """The channels of each layer, by its output block."""
        return {int(k): layer.channels for k, layer in self.layers.items()}  # type: ignore[misc]

    def at(self, block: int) -> Layer:
        """Return the layer before an output block; KeyError where there is none."""
        return self.layers[str(block)]  # type: ignore[return-value]


def sizes_metadata(alignment: Alignment) -> dict[str, int]:
    """List the sizes for the metadata of a file."""
    return {name: int(value) for name, value in alignment.sizes._asdict().items()}


def build_alignment(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Alignment:
    """Build the layers from a file's tensors and metadata.

    Raises one of `weights.MISFITS` for those of another kind of file.
    """
    numbers = {name: int(metadata[name]) for name in Sizes._fields}
    masked = bool(numbers.pop("masked"))
    sizes = Sizes(**numbers, masked=masked)
    channels = {
        int(key.split(".")[1]): tensor.shape[1]
        for key, tensor in tensors.items()
        if key.startswith("layers.") and key.endswith(".query.weight")
    }
    with torch.device("meta"):  # sizes that are not those of the tensors may need any memory
        layout = Alignment(channels, sizes).state_dict()
    for name, expected in layout.items():
        if name in tensors and tensors[name].shape != expected.shape:
            actual = size(tensors[name].shape)
            raise ValueError(
                f"found '{name}' with {actual} numbers instead of {size(expected.shape)}"
            )
    alignment = Alignment(channels, sizes)
    alignment.load_state_dict({key: tensor.float() for key, tensor in tensors.items()})
    return alignment.requires_grad_(False).eval()
