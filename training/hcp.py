"""Trainer of the human-centric prior (HcP) on a frozen base: only the layers beside the keys of
cross-attention are trained, by the denoising objective and by alignment with pose images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..models import hcp, weights
from ..models.human_tokens import END, human_positions, human_words, words_of
from .convert import unet_names
from .denoise import DenoisingLoss, attention_kernel
from .loop import Schedule, fit
from .networks import build_scheduler
from .tokens import UNKNOWN

HIDDEN = 32  # of a layer's bottleneck
ALPHA = 0.1  # of the alignment; the paper's value is not known
STAGES = {"input_blocks": hcp.DOWN, "middle_block": hcp.MID, "output_blocks": hcp.UP}


class HumanAttention(nn.Module):
    """A cross-attention's processor: the ordinary map and the human-centric one, combined.

    Between calls it holds what it is told (`human`, bool [B, T]) and what it made (`seen`, M_h).
    """

    def __init__(self, layer: hcp.PriorLayer, gamma: float, mask: str) -> None:
        super().__init__()
        self.layer, self.gamma, self.mask = layer, gamma, mask
        self.human: Tensor | None = None
        self.seen: Tensor | None = None

    def forward(
        self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None
    ):
        context, human = encoder_hidden_states, self.human
        assert human is not None
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        named = human.any(1)  # rows without a human word keep the ordinary map
        whole = human | ~named[:, None]
        ordinary = hcp.attention_map(q, k, attn.heads)
        self.seen = hcp.human_map(q, self.layer(context, k), whole, attn.heads, self.mask)
        combined = hcp.combined_map(ordinary, self.seen, self.gamma)
        attention = torch.where(named[:, None, None, None], combined, ordinary)
        out = hcp.read(attention, v)
        for layer in attn.to_out:
            out = layer(out)
        return out


class PriorDenoiser(nn.Module):
    """A frozen UNet and text encoder with a layer beside every cross-attention key."""

    def __init__(
        self, unet: nn.Module, text_encoder: nn.Module, *, hidden: int = HIDDEN,
        gamma: float = hcp.GAMMA, mask: str = hcp.BEFORE,
    ) -> None:  # fmt: skip
        super().__init__()
        unet.requires_grad_(False)
        text_encoder.requires_grad_(False)
        self.unet, self.text_encoder = unet, text_encoder
        self.gamma, self.mask = gamma, mask
        self.attentions = add_layers(unet, hidden, gamma, mask)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self, x: Tensor, t: Tensor, ids: Tensor, human: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Noisy latents [B,4,h,w], steps [B], token ids [B,77], human tokens [B,77] -> predicted
        noise and each layer's M_h [B, heads, N, 77], by the host's place.
        """
        with attention_kernel(x.device), self.attending(human):
            context = self.text_encoder(ids).last_hidden_state
            noise = self.unet(x, t, context).sample
            seen = {place: p.seen for place, p in self.attentions.items() if p.seen is not None}
        return noise, seen

    @contextmanager
    def attending(self, human: Tensor) -> Iterator[None]:
        """While it lasts, the UNet's rows have these human tokens [B, 77]."""
        for processor in self.attentions.values():
            processor.human = human
        try:
            yield
        finally:
            for processor in self.attentions.values():
                processor.human = processor.seen = None


def add_layers(
    unet: nn.Module, hidden: int, gamma: float, mask: str
) -> dict[str, HumanAttention]:
    """Give every cross-attention of a diffusers UNet its layer; returns them by the host's place,
    such as input_1_0.
    """
    places = unet_names(unet.state_dict())
    made = {}
    for name, module in unet.named_modules():
        if name.endswith(".attn2"):
            inner, context = module.to_k.weight.shape  # type: ignore[union-attr, operator, misc]
            layer = hcp.PriorLayer(int(context), int(inner), hidden)
            processor = HumanAttention(layer, gamma, mask)
            module.set_processor(processor)  # type: ignore[operator]
            made[_place(places[f"{name}.to_k.weight"])] = processor
    return made


def _place(key: str) -> str:
    """input_blocks.1.1.transformer_blocks.0.attn2... -> input_1_0, the middle's -> middle_0_0."""
    block, rest = key.split(".", 1)
    number = "0" if block == "middle_block" else rest.split(".")[0]
    transformer = key.split("transformer_blocks.")[1].split(".")[0]
    return f"{STAGES[block]}_{number}_{transformer}"


@dataclass(frozen=True)
class PriorLoss:
    """The denoising objective plus `alpha` times the alignment of every layer's map, weighted by
    `table` for the layer's stage and the sample's step.

    Items: those of DenoisingLoss with "hint", the pose image uint8 [3, 8h, 8w].
    """

    denoising: DenoisingLoss
    pieces: Callable[[Sequence[int]], Sequence[str | None]]  # token ids as CLIP spells them
    features: Callable[[Tensor], Sequence[Tensor]]  # pose images [B,3,H,W] in 0..1 -> several sizes
    alpha: float = ALPHA
    table: Mapping[str, Sequence[float]] = field(default_factory=hcp.cosine_table)

    def __call__(self, model: nn.Module, batch: Sequence[dict], g: torch.Generator) -> Tensor:
        device = next(model.parameters()).device
        aligned: list[Tensor] = []
        hints = torch.stack([item["hint"] for item in batch]).float() / 255

        def predict(x: Tensor, t: Tensor, ids: Tensor, _: Tensor | None) -> Tensor:
            human = human_of(self.pieces, ids)
            noise, seen = model(x, t, ids, human)
            if self.alpha > 0:
                aligned.append(self._alignment(seen, human, hints.to(device), t, x.shape[2:]))
            return noise

        loss = self.denoising.of(predict, device, batch, g)
        return loss + self.alpha * aligned[0] if aligned else loss

    def _alignment(
        self, seen: Mapping[str, Tensor], human: Tensor, hints: Tensor, t: Tensor,
        size: Sequence[int],
    ) -> Tensor:  # fmt: skip
        """Weighted sum over layers, mean over pictures."""
        with torch.no_grad():
            levels = [level.float() for level in self.features(hints)]
        share = t.float() / build_scheduler().config["num_train_timesteps"]
        total = torch.zeros(len(t), device=t.device)
        for place, maps in seen.items():
            grid = grid_of(size, maps.shape[-2])
            level = min(levels, key=lambda level: abs(level.shape[-1] - grid[1]))
            away = hcp.alignment(maps.float(), human, level, grid)
            total = total + hcp.stage_weight(self.table, place.split("_")[0], share) * away
        return total.mean()


def grid_of(size: Sequence[int], tokens: int) -> tuple[int, int]:
    """Height and width of a map with so many tokens, of latents of this size: every level of a UNet
    halves both, rounding up.
    """
    height, width = size
    while height * width > tokens:
        height, width = -(-height // 2), -(-width // 2)
    return height, width


def human_of(pieces: Callable[[Sequence[int]], Sequence[str | None]], ids: Tensor) -> Tensor:
    """Which of the token ids [B, T] are human-centric, bool [B, T]."""
    rows = [
        human_positions(human_words(words_of(pieces(row))), len(row)) for row in ids.tolist()
    ]
    return torch.tensor(rows, device=ids.device)


def train_prior(
    model: PriorDenoiser,
    pictures: Dataset,
    loss: PriorLoss,
    schedule: Schedule,
    out: Path,
    *,
    preview: Callable[[PriorDenoiser, Path], None] | None = None,
) -> PriorDenoiser:
    """Train the layers; returns `model` with EMA weights."""
    return fit(model, loss, pictures, schedule, out, collate=list, preview=preview)


def save_prior(model: PriorDenoiser, path: Path, base: str) -> None:
    """Write the layers, and what they were trained with."""
    tensors = {
        f"{hcp.PREFIX}{place}.{name}": tensor
        for place, processor in model.attentions.items()
        for name, tensor in processor.layer.state_dict().items()
    }
    facts: dict[str, str | int | float] = {
        "method": "hcp", "version": hcp.VERSION, "base": base, "gamma": model.gamma,
        "mask": model.mask,
    }  # fmt: skip
    weights.save(path, tensors, facts, torch.float16)


def word_pieces(words: Mapping[str, Sequence[int]]) -> Callable[[Sequence[int]], list[str | None]]:
    """A spelling for the compact ids of `tokens.WordTokenizer`: a word of one id is itself, the
    first of several has its letters and the last its end.
    """
    spelled: dict[int, str] = {}
    for word, ids in words.items():
        for k, number in enumerate(ids):
            if number != UNKNOWN:
                spelled.setdefault(number, word * (k == 0) + END * (k == len(ids) - 1))
    return partial(_spell, spelled)


def _spell(spelled: Mapping[int, str], ids: Sequence[int]) -> list[str | None]:
    return [spelled.get(number) for number in ids]
