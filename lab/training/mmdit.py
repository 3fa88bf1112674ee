"""The mini transformer and its pose ControlNet: SD3's networks, narrow, with the key layout and the
arithmetic of the host's.

Esser et al. 2024, "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis",
section 4: image and text are two streams of tokens with weights of their own that attend to each
other. Parity with the host is tested, not assumed.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...models import mini

TIME_WAVES = 256  # sines and cosines of a time
CENTER = 7.5  # place of the middle of an image; its shorter side spans twice as much
LONGEST_WAVE = 10_000.0
EPSILON = 1e-6
STEPS = 1000.0  # the network reads noise levels 0..1 as times 0..1000


def waves(places: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Sines and cosines of places [N], `count` of each, from wave length 2 pi on: [N,count]."""
    rates = LONGEST_WAVE ** -(torch.arange(count, device=places.device) / count)
    angles = places[:, None].float() * rates
    return angles.sin(), angles.cos()


def cell_places(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Encode where each of `height` x `width` tokens lies, [1,height * width,channels]."""
    shorter = min(height, width)

    def along(count: int) -> Tensor:
        reach = count / shorter * CENTER
        line = torch.linspace(CENTER - reach, CENTER + reach, count, device=device)
        return torch.cat(waves(line, channels // 4), 1)

    across = along(width)[None].expand(height, -1, -1)
    down = along(height)[:, None].expand(-1, width, -1)
    return torch.cat((across, down), -1).flatten(0, 1)[None]


class Normalized(nn.Module):
    """Root mean square norm of each head's queries or keys."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), EPSILON)


class Attention(nn.Module):
    """The projections of one stream's attention; `last`: nothing reads its result."""

    def __init__(self, layout: mini.Transformer, last: bool) -> None:
        super().__init__()
        self.heads = layout.heads
        self.qkv = nn.Linear(layout.width, 3 * layout.width)
        if not last:
            self.proj = nn.Linear(layout.width, layout.width)
        self.ln_q = Normalized(layout.width // layout.heads)
        self.ln_k = Normalized(layout.width // layout.heads)

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens [B,T,C] -> three of [B,heads,T,C / heads]."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        return self.ln_q(q), self.ln_k(k), v


def _modulation(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(nn.SiLU(), nn.Linear(width, count * width))


def _scaled(x: Tensor, scale: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], eps=EPSILON) * (1 + scale[:, None])


class Stream(nn.Module):
    """One stream of a joint block. `last`: the stream ends in this block's attention."""

    def __init__(self, layout: mini.Transformer, last: bool = False) -> None:
        super().__init__()
        width, self.last = layout.width, last
        self.attn = Attention(layout, last)
        self.adaLN_modulation = _modulation(width, 1 if last else 4)
        if not last:
            hidden = int(width * layout.mlp_ratio)
            parts = {
                "fc1": nn.Linear(width, hidden),
                "act": nn.GELU("tanh"),
                "fc2": nn.Linear(hidden, width),
            }
            self.mlp = nn.Sequential(OrderedDict(parts))

    def modulations(self, condition: Tensor) -> tuple[Tensor, ...]:
        """Scales and gates of attention, then of the MLP, for conditions [B,C]."""
        return self.adaLN_modulation(condition).chunk(1 if self.last else 4, 1)

    def add(self, x: Tensor, attended: Tensor, modulations: tuple[Tensor, ...]) -> Tensor:
        """Add to tokens [B,T,C] what they have attended to and the MLP of that."""
        _, gate, scale, mlp_gate = modulations
        x = x + gate[:, None] * self.attn.proj(attended)
        return x + mlp_gate[:, None] * self.mlp(_scaled(x, scale))


class JointBlock(nn.Module):
    """Text and image, which attend to each other."""

    def __init__(self, layout: mini.Transformer, last: bool = False) -> None:
        super().__init__()
        self.context_block = Stream(layout, last)
        self.x_block = Stream(layout)

    def forward(self, text: Tensor, image: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        streams = (self.context_block, text), (self.x_block, image)
        tables = [stream.modulations(condition) for stream, _ in streams]
        parts = [
            stream.attn.queries_keys_values(_scaled(x, table[0]))
            for (stream, x), table in zip(streams, tables, strict=True)
        ]
        q, k, v = (torch.cat(pair, 2) for pair in zip(*parts, strict=True))
        attended = functional.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v)
        attended = attended.transpose(1, 2).flatten(2)
        words = text.shape[1]
        if not self.context_block.last:
            text = self.context_block.add(text, attended[:, :words], tables[0])
        return text, self.x_block.add(image, attended[:, words:], tables[1])


def _vector_embedder(inputs: int, width: int) -> nn.Module:
    layers = (nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width))
    return nn.ModuleDict({"mlp": nn.Sequential(*layers)})


class _Patches(nn.Module):
    """Latents [B,C,h,w] -> tokens [B,h / p * w / p,width]."""

    def __init__(self, layout: mini.Transformer) -> None:
        super().__init__()
        self.proj = nn.Conv2d(mini.LATENT_CHANNELS, layout.width, layout.patch, stride=layout.patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class _Embedders(nn.Module):
    """What the transformer and its ControlNet read their inputs with."""

    def __init__(self, layout: mini.Transformer, text_width: int) -> None:
        super().__init__()
        self.layout = layout
        self.x_embedder = _Patches(layout)
        self.t_embedder = _vector_embedder(TIME_WAVES, layout.width)
        self.context_embedder = nn.Linear(text_width, layout.width)

    def read_image(self, x: Tensor) -> Tensor:
        """Latents [B,4,h,w] -> tokens that know their places."""
        height, width = (side // self.layout.patch for side in x.shape[2:])
        tokens = self.x_embedder(x)
        return tokens + cell_places(height, width, self.layout.width, x.device).to(tokens.dtype)

    def read_level(self, level: Tensor) -> Tensor:
        """Noise levels [B] in 0..1 -> conditions [B,width]."""
        sines, cosines = waves(level * STEPS, TIME_WAVES // 2)
        return self.t_embedder["mlp"](torch.cat((cosines, sines), 1))  # type: ignore[index]


class _Head(nn.Module):
    """Tokens [B,T,C] and conditions [B,C] -> values of their patches [B,T,p * p * 4]."""

    def __init__(self, layout: mini.Transformer) -> None:
        super().__init__()
        self.linear = nn.Linear(layout.width, layout.patch**2 * mini.LATENT_CHANNELS)
        self.adaLN_modulation = _modulation(layout.width, 2)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition).chunk(2, 1)
        return self.linear(_scaled(x, scale) + shift[:, None])


class Transformer(_Embedders):
    """Predict the velocity noise - image of latents [B,4,h,w] at noise levels [B] in 0..1, from
    text tokens [B,T,C] and pooled text [B,C].
    """

    def __init__(
        self,
        layout: mini.Transformer = mini.TRANSFORMER,
        text_width: int = mini.TRANSFORMER_TEXT.hidden,
    ) -> None:
        super().__init__(layout, text_width)
        self.y_embedder = _vector_embedder(text_width, layout.width)
        numbers = range(1, layout.blocks + 1)
        self.joint_blocks = nn.ModuleList(JointBlock(layout, n == layout.blocks) for n in numbers)
        self.final_layer = _Head(layout)
        initialize(self)
        nn.init.zeros_(self.final_layer.linear.weight)

    def forward(
        self,
        x: Tensor,
        level: Tensor,
        text: Tensor,
        pooled: Tensor,
        residual: Tensor | None = None,
    ) -> Tensor:
        """`residual` [b,T,C] of a ControlNet is added to the first b images behind block 0."""
        condition = self.read_level(level) + self.y_embedder["mlp"](pooled)  # type: ignore[index]
        words, image = self.context_embedder(text), self.read_image(x)
        for number, block in enumerate(self.joint_blocks):
            words, image = block(words, image, condition)
            if number == 0 and residual is not None:
                free = residual.new_zeros(len(image) - len(residual), *residual.shape[1:])
                image = image + torch.cat((residual, free))
        patch, height = self.layout.patch, x.shape[2]
        values = self.final_layer(image, condition)
        values = values.unflatten(1, (height // patch, -1)).unflatten(-1, (patch, patch, -1))
        return values.permute(0, 5, 1, 3, 2, 4).reshape(x.shape)


class PoseControl(_Embedders):
    """One more joint block, which also sees the latents of a drawn pose: SD3's ControlNet.

    Its result is added behind the transformer's first block, once: the host spreads the results
    over as many blocks as the transformer has heads, less one.
    """

    def __init__(
        self,
        layout: mini.Transformer = mini.TRANSFORMER,
        text_width: int = mini.TRANSFORMER_TEXT.hidden,
    ) -> None:
        super().__init__(layout, text_width)
        self.pos_embed_input = _Patches(layout)
        self.joint_blocks = nn.ModuleList([JointBlock(layout)])
        self.controlnet_blocks = nn.ModuleList([nn.Linear(layout.width, layout.width)])
        initialize(self)
        nn.init.zeros_(self.controlnet_blocks[0].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor, level: Tensor, text: Tensor, hint: Tensor) -> Tensor:
        """Noisy latents, noise levels, text and the normalized latents of a pose's drawing."""
        image = self.read_image(x) + self.pos_embed_input(hint)
        _, image = self.joint_blocks[0](self.context_embedder(text), image, self.read_level(level))
        return self.controlnet_blocks[0](image)


def initialize(network: nn.Module) -> None:
    """Begin with signals of unit size, and with modulations that leave every block out."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=1 / math.sqrt(module.weight[0].numel()))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if "adaLN" in name:
                nn.init.zeros_(module.weight)
