"""Trainer of the hand generator of "Giving a Hand" on a frozen base: it learns denoising and the
hand's mask together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ...models import weights
from ...models.hand_generator import VERSION, HandGenerator, KeypointFeatures, mask_loss
from . import preview as sampler
from .bases import Base, open_base
from .batches import Batch, column, count
from .denoise import DenoisingLoss, attention_kernel, in_fastest_format
from .hand_images import HandDataset, collect_hands
from .loop import Schedule, fit, saving
from .low_rank import add_low_rank, low_rank_tensors, set_low_rank
from .networks import build_scheduler
from .options import (
    LARGEST_RANK,
    Parser,
    add_tasks,
    begin_training,
    plain_errors,
    task_folders,
    training_parser,
    whole_number,
)

RANK = 16
PREFIX = "hand."  # of the generator's own layers in its file
PREVIEWS = 6  # hands on a validation image
LEARNED = r"(conv_in|.*(to_q|to_k|to_v|to_out\.0|ff\.net\.0\.proj|ff\.net\.2|conv1|conv2))"


class HandDenoiser(nn.Module):
    """A frozen UNet with low-rank changes, its frozen text encoder, and the hand generator."""

    def __init__(self, unet: nn.Module, text_encoder: nn.Module, rank: int = RANK) -> None:
        super().__init__()
        add_low_rank(unet, rank, LEARNED)
        text_encoder.requires_grad_(False)
        self.unet, self.text_encoder = unet, text_encoder
        self.generator = HandGenerator(len(unet.get_parameter("conv_in.bias")))
        in_fastest_format(self)

    def forward(self, x: Tensor, t: Tensor, ids: Tensor, heat: Tensor) -> tuple[Tensor, Tensor]:
        """Noisy latents [B,4,h,w], steps [B], token ids [B,77], heat maps [B,12,4h,4w] -> predicted
        noise and mask logits [B,8h,8w].
        """
        hint = self.generator(heat)
        with attention_kernel(x.device), self.with_hint(hint) as features:
            context = self.text_encoder(ids).last_hidden_state
            noise = self.unet(x, t, context).sample
        return noise, self.generator.predict_mask(features[0], hint)

    @contextmanager
    def with_hint(self, hint: KeypointFeatures) -> Iterator[list[Tensor]]:
        """Add the hint to the last rows of the UNet's input, as many as the hint has, while this
        context lasts. The list receives the UNet's last features, call after call.
        """
        features: list[Tensor] = []

        def add(_: nn.Module, __: Any, h: Tensor) -> Tensor:
            zeros = hint.first.new_zeros(len(h) - len(hint.first), *h.shape[1:])
            return h + torch.cat((zeros, hint.first))

        def keep(_: nn.Module, inputs: tuple[Tensor]) -> None:
            features.append(inputs[0])

        hooks = [
            self.unet.get_submodule("conv_in").register_forward_hook(add),
            self.unet.get_submodule("conv_norm_out").register_forward_pre_hook(keep),
        ]
        try:
            yield features
        finally:
            for hook in hooks:
                hook.remove()


@dataclass(frozen=True)
class HandLoss:
    """The denoising objective plus `share` times the mask's, which counts more the less noise there
    is: the mask is read from a finished image.

    Items, or columns of them: those of DenoisingLoss, "heat" [12,4h,4w] and "mask" [8h,8w] in 0..1.
    """

    denoising: DenoisingLoss
    share: float = 0.5
    blind: float = 0.1  # share of samples without a heat map

    def __call__(self, model: nn.Module, batch: Batch, g: torch.Generator) -> Tensor:
        device = next(model.parameters()).device
        heat = column(batch, "heat").float()
        chance = torch.rand(count(batch), 1, 1, 1, generator=g, device=g.device)
        has_heat = chance >= self.blind
        target = column(batch, "mask").float().to(device)
        alphas = build_scheduler().alphas_cumprod.to(device)
        masks: list[Tensor] = []

        def predict(x: Tensor, t: Tensor, ids: Tensor, _: Tensor | None) -> Tensor:
            noise, logits = model(x, t, ids, (heat * has_heat).to(device))
            weight = alphas[t] * has_heat.flatten().to(device)
            masks.append((weight * mask_loss(logits.float(), target)).mean())
            return noise

        loss = self.denoising.loss_for(predict, device, batch, g)
        return loss + self.share * masks[0]


def train_hands(
    model: HandDenoiser,
    data: Dataset,
    loss: HandLoss,
    schedule: Schedule,
    out: Path,
    *,
    preview: Callable[[HandDenoiser, Path], None] | None = None,
) -> HandDenoiser:
    """Train the low-rank changes and the generator's layers; return `model` with EMA weights."""
    return fit(model, loss, data, schedule, out, collate=list, preview=preview)


def show_hands(
    tokenizer: Callable[[Sequence[str]], Tensor],
    prompts: Sequence[str],
    heat: Tensor,
    decode: Callable[[Tensor], Tensor],
    above: Tensor,
) -> Callable[[HandDenoiser, Path], None]:
    """Build a `preview` for the loop: below the images `above` a row of hands generated from heat
    maps [N,12,4h,4w], one prompt each, and a row of their masks.
    """

    def show(model: HandDenoiser, prefix: Path) -> None:
        device = next(model.parameters()).device
        ids = tokenizer([""] * len(prompts) + list(prompts)).to(device)
        hint = model.generator(heat.to(device))
        with torch.no_grad(), model.with_hint(hint) as features:
            context = model.text_encoder(ids).last_hidden_state
            cells = hint.first.shape[-2], hint.first.shape[-1]
            images = decode(sampler.denoise(model.unet, context, cells)).cpu()
            last = features[-1][len(prompts) :].contiguous()
            masks = model.generator.predict_mask(last, hint).sigmoid().cpu()
        rows = torch.cat((above, images, masks[:, None].expand(-1, 3, -1, -1)))
        sampler.save_sheet(rows, prefix.with_suffix(".png"), columns=len(prompts))

    return show


def hand_tensors(model: HandDenoiser) -> dict[str, Tensor]:
    """Collect what a generator's file holds: its own layers and the UNet's changes."""
    layers = {PREFIX + name: tensor for name, tensor in model.generator.state_dict().items()}
    return {**layers, **low_rank_tensors(model.unet)}


def save_hand_generator(
    model: HandDenoiser, path: Path, base: str, dtype: torch.dtype = torch.float16
) -> None:
    """Write the generator's file; atomic."""
    facts: dict[str, str | int | float] = {"method": "hands", "version": VERSION, "base": base}
    weights.save(path, hand_tensors(model), facts, dtype)


def load_hand_generator(model: HandDenoiser, path: Path) -> None:
    """Go on from a generator's file; ValueError, naming it, if it does not fit."""
    tensors, _ = weights.load(path, method="hands", version=VERSION)
    layers = {k.removeprefix(PREFIX): t for k, t in tensors.items() if k.startswith(PREFIX)}
    try:
        model.generator.load_state_dict(layers)
        set_low_rank(model.unet, tensors)
    except weights.MISFITS as error:
        raise ValueError(f"{path}: a generator for another checkpoint or rank: {error}") from error


def _parser() -> Parser:
    parser = training_parser("hands", __doc__, start="a hand generator to go on from", lr=2e-4)
    add_tasks(parser)
    rank = whole_number(1, LARGEST_RANK)
    parser.add_argument("--rank", type=rank, default=RANK, help="of the UNet's low-rank changes")
    return parser


def main(arguments: Sequence[str]) -> None:
    """Run `train hands`: a hand generator for a checkpoint, from a folder of photographs."""
    parser = _parser()
    options = parser.parse_args(arguments)
    with plain_errors(parser):
        schedule = begin_training(options)
        base = open_base(options.checkpoint)
        size = options.size or base.size
        hand_images = collect_hands(options.images, size, task_folders=task_folders(options))
        data = HandDataset(hand_images, base)
        torch.manual_seed(schedule.seed)
        model = HandDenoiser(base.unet, base.text_encoder, options.rank)
        if options.start:
            load_hand_generator(model, options.start)
        loss = HandLoss(DenoisingLoss(base.tokenizer, forget=0.0))
        preview = _preview_hands(data, base)
        save = partial(save_hand_generator, model, options.out, base.name)
        with saving(partial(hand_tensors, model), save, options.out):
            train_hands(model, data, loss, schedule, options.work, preview=preview)


def _preview_hands(data: HandDataset, base: Base) -> Callable[[HandDenoiser, Path], None]:
    """Build a `preview` for the loop of the first hands of the folder."""
    hand_images = data.hand_images[:PREVIEWS]
    heat = torch.stack([data[i]["heat"] for i in range(len(hand_images))])
    above = torch.stack([hand.rgb.movedim(-1, 0) for hand in hand_images])
    prompts = [hand.caption for hand in hand_images]
    return show_hands(base.tokenizer, prompts, heat, base.decode, above)
