"""The human-centric prior's layers on a frozen diffusers UNet, and their file."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ...models import human_prior, weights
from .convert import unet_names
from .denoise import attention_kernel, in_fastest_format

STAGES = {
    "input_blocks": human_prior.DOWN,
    "middle_block": human_prior.MID,
    "output_blocks": human_prior.UP,
}
log = logging.getLogger(__name__)


class HumanAttention(nn.Module):
    """A cross-attention's processor: the ordinary map and the human-centric one, combined.

    Between calls it holds its input `human`, bool [B, T], and its last human-centric map M_h.
    """

    def __init__(self, layer: human_prior.PriorLayer, gamma: float, mask: str) -> None:
        super().__init__()
        self.layer, self.gamma, self.mask = layer, gamma, mask
        self.human: Tensor | None = None
        self.human_map: Tensor | None = None

    def forward(
        self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None
    ):
        context, human = encoder_hidden_states, self.human
        assert human is not None
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        named = human.any(1)  # rows without a human word keep the ordinary map
        tokens = human | ~named[:, None]
        ordinary = human_prior.attention_map(q, k, attn.heads)
        k_human = human_prior.human_keys(self.layer(context, k), k, human, self.mask)
        self.human_map = human_prior.human_map(q, k_human, tokens, attn.heads, self.mask)
        combined = human_prior.combined_map(ordinary, self.human_map, self.gamma)
        attention = torch.where(named[:, None, None, None], combined, ordinary)
        out = human_prior.apply_map(attention, v)
        for layer in attn.to_out:
            out = layer(out)
        return out


class PriorDenoiser(nn.Module):
    """A frozen UNet and text encoder with a layer beside every cross-attention key."""

    def __init__(
        self,
        unet: nn.Module,
        text_encoder: nn.Module,
        *,
        hidden: int = human_prior.HIDDEN,
        gamma: float = human_prior.GAMMA,
        mask: str = human_prior.BEFORE,
    ) -> None:
        super().__init__()
        unet.requires_grad_(False)
        text_encoder.requires_grad_(False)
        self.unet, self.text_encoder = unet, text_encoder
        self.gamma, self.mask = gamma, mask
        self.attentions = add_layers(unet, hidden, gamma, mask)
        in_fastest_format(self)

    def forward(
        self, x: Tensor, t: Tensor, ids: Tensor, human: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Noisy latents [B,4,h,w], steps [B], token ids [B,77], human tokens [B,77] -> predicted
        noise and each layer's M_h [B, heads, N, 77], by the host's place.
        """
        with attention_kernel(x.device), self.with_human_tokens(human):
            context = self.text_encoder(ids).last_hidden_state
            noise = self.unet(x, t, context).sample
            maps = {
                place: processor.human_map
                for place, processor in self.attentions.items()
                if processor.human_map is not None
            }
        return noise, maps

    @contextmanager
    def with_human_tokens(self, human: Tensor) -> Iterator[None]:
        """Give the UNet's rows these human tokens [B, 77] while this context lasts."""
        for processor in self.attentions.values():
            processor.human = human
        try:
            yield
        finally:
            for processor in self.attentions.values():
                processor.human = processor.human_map = None


def add_layers(unet: nn.Module, hidden: int, gamma: float, mask: str) -> dict[str, HumanAttention]:
    """Give every cross-attention of a diffusers UNet its layer; returns them by the host's place,
    such as input_1_0.
    """
    places = unet_names(unet.state_dict())
    processors = {}
    for name, module in unet.named_modules():
        if name.endswith(".attn2"):
            inner, context = module.to_k.weight.shape  # type: ignore[union-attr, operator, misc]
            layer = human_prior.PriorLayer(int(context), int(inner), hidden)
            processor = HumanAttention(layer, gamma, mask)
            module.set_processor(processor)  # type: ignore[operator]
            processors[_place(places[f"{name}.to_k.weight"])] = processor
    return processors


def _place(key: str) -> str:
    """Name the place of a key: input_blocks.1.1.transformer_blocks.0.attn2... is input_1_0, the
    middle's is middle_0_0.
    """
    block, inner = key.split(".", 1)
    number = "0" if block == "middle_block" else inner.split(".")[0]
    transformer = key.split("transformer_blocks.")[1].split(".")[0]
    return f"{STAGES[block]}_{number}_{transformer}"


def prior_layers(model: PriorDenoiser) -> nn.ModuleDict:
    """Collect the layers by place; their tensors' names are the file's, without its prefix."""
    return nn.ModuleDict({place: p.layer for place, p in model.attentions.items()})


def save_prior(
    model: PriorDenoiser, path: Path, base: str, dtype: torch.dtype = torch.float16
) -> None:
    """Write the layers, and what they were trained with."""
    tensors = {human_prior.PREFIX + name: t for name, t in prior_layers(model).state_dict().items()}
    facts: dict[str, str | int | float] = {
        "method": "human_prior",
        "version": human_prior.VERSION,
        "base": base,
        "gamma": model.gamma,
        "mask": model.mask,
        human_prior.COUNT: len(model.attentions),
    }
    weights.save(path, tensors, facts, dtype)


def load_prior(model: PriorDenoiser, path: Path) -> None:
    """Go on from a prior's file; ValueError, naming it, if it does not fit. Another gamma or mask
    than the file's is only warned of.
    """
    tensors, facts = weights.load(path, method="human_prior", version=human_prior.VERSION)
    layers = {key.removeprefix(human_prior.PREFIX): t for key, t in tensors.items()}
    try:
        prior_layers(model).load_state_dict(layers)
    except RuntimeError as error:
        raise ValueError(
            f"{path}: a prior for another checkpoint or hidden width: {error}"
        ) from error
    for name, value in (("gamma", str(model.gamma)), ("mask", model.mask)):
        if (in_file := facts.get(name, value)) != value:
            log.warning(
                "%s was trained with %s %s and goes on with %s.", path, name, in_file, value
            )
