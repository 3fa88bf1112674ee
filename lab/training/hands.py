"""Trainers of "Giving a Hand" on a frozen base: the hand generator, which learns denoising and the
hand's mask together, and the body outpainter, a pose ControlNet that sees the hands too.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel
from torch import Tensor, nn
from torch.utils.data import Dataset

from ...models import weights
from ...models.hand_generator import VERSION, HandGenerator, KeypointFeatures, mask_loss
from . import preview as sampler
from .bases import open_base
from .denoise import DenoisingLoss, attention_kernel, in_fastest_format
from .hand_images import HandPictures, collect_hands
from .loop import Schedule, fit, native_precision
from .low_rank import add_low_rank, low_rank_tensors, set_low_rank
from .networks import build_scheduler

RANK = 16
SHOWN = 6  # hands on a validation picture
LEARNT = r"(conv_in|.*(to_q|to_k|to_v|to_out\.0|ff\.net\.0\.proj|ff\.net\.2|conv1|conv2))"


class HandDenoiser(nn.Module):
    """A frozen UNet with low-rank changes, its frozen text encoder, and the hand generator."""

    def __init__(self, unet: nn.Module, text_encoder: nn.Module, rank: int = RANK) -> None:
        super().__init__()
        add_low_rank(unet, rank, LEARNT)
        text_encoder.requires_grad_(False)
        self.unet, self.text_encoder = unet, text_encoder
        self.generator = HandGenerator(len(unet.get_parameter("conv_in.bias")))
        in_fastest_format(self)

    def forward(self, x: Tensor, t: Tensor, ids: Tensor, heat: Tensor) -> tuple[Tensor, Tensor]:
        """Noisy latents [B,4,h,w], steps [B], token ids [B,77], heat maps [B,12,4h,4w] -> predicted
        noise and mask logits [B,8h,8w].
        """
        hint = self.generator(heat)
        with attention_kernel(x.device), self.seeing(hint) as features:
            context = self.text_encoder(ids).last_hidden_state
            noise = self.unet(x, t, context).sample
        return noise, self.generator.predict_mask(features[0], hint)

    @contextmanager
    def seeing(self, hint: KeypointFeatures) -> Iterator[list[Tensor]]:
        """While it lasts the UNet sees the hint in its last rows, as many as the hint has; the list
        receives its last features, call after call.
        """
        features: list[Tensor] = []

        def add(_: nn.Module, __: Any, h: Tensor) -> Tensor:
            unseen = hint.first.new_zeros(len(h) - len(hint.first), *h.shape[1:])
            return h + torch.cat((unseen, hint.first))

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
    is: the mask is read from a finished picture.

    Items: those of DenoisingLoss, "heat" [12,4h,4w] and "mask" [8h,8w] in 0..1.
    """

    denoising: DenoisingLoss
    share: float = 0.5
    blind: float = 0.1  # share of samples that see no heat map

    def __call__(self, model: nn.Module, batch: Sequence[dict], g: torch.Generator) -> Tensor:
        device = next(model.parameters()).device
        heat = torch.stack([item["heat"] for item in batch])
        seen = torch.rand(len(batch), 1, 1, 1, generator=g) >= self.blind
        target = torch.stack([item["mask"] for item in batch]).float().to(device)
        alphas = build_scheduler().alphas_cumprod.to(device)
        masks: list[Tensor] = []

        def predict(x: Tensor, t: Tensor, ids: Tensor, _: Tensor | None) -> Tensor:
            noise, logits = model(x, t, ids, (heat * seen).to(device))
            shown = alphas[t] * seen.flatten().to(device)
            masks.append((shown * mask_loss(logits.float(), target)).mean())
            return noise

        loss = self.denoising.of(predict, device, batch, g)
        return loss + self.share * masks[0]


def train_hands(
    model: HandDenoiser,
    hands: Dataset,
    loss: HandLoss,
    schedule: Schedule,
    out: Path,
    *,
    preview: Callable[[HandDenoiser, Path], None] | None = None,
) -> HandDenoiser:
    """Train the low-rank changes and the generator's layers; returns `model` with EMA weights."""
    return fit(model, loss, hands, schedule, out, collate=list, preview=preview)


def show_hands(
    tokenizer: Callable[[Sequence[str]], Tensor],
    prompts: Sequence[str],
    heat: Tensor,
    decode: Callable[[Tensor], Tensor],
    above: Tensor,
) -> Callable[[HandDenoiser, Path], None]:
    """A `preview` for the loop: below the pictures `above` a row of hands painted to heat maps
    [N,12,4h,4w], one prompt each, and a row of their masks.
    """

    def show(model: HandDenoiser, prefix: Path) -> None:
        device = next(model.parameters()).device
        ids = tokenizer([""] * len(prompts) + list(prompts)).to(device)
        hint = model.generator(heat.to(device))
        with torch.no_grad(), model.seeing(hint) as features:
            context = model.text_encoder(ids).last_hidden_state
            cells = hint.first.shape[-2], hint.first.shape[-1]
            pictures = decode(sampler.denoise(model.unet, context, cells)).cpu()
            last = features[-1][len(prompts) :].contiguous()
            masks = model.generator.predict_mask(last, hint).sigmoid().cpu()
        rows = torch.cat((above, pictures, masks[:, None].expand(-1, 3, -1, -1)))
        sampler.save_sheet(rows, prefix.with_suffix(".png"), columns=len(prompts))

    return show


def save_hand_generator(model: HandDenoiser, path: Path, base: str) -> None:
    """Write the generator's file: its own layers and the UNet's changes."""
    own = {f"hand.{name}": tensor for name, tensor in model.generator.state_dict().items()}
    facts: dict[str, str | int | float] = {"method": "hands", "version": VERSION, "base": base}
    weights.save(path, {**own, **low_rank_tensors(model.unet)}, facts, torch.float16)


def load_hand_generator(model: HandDenoiser, path: Path) -> None:
    """Go on from a generator's file; ValueError, naming it, if it does not fit."""
    tensors, _ = weights.load(path, method="hands", version=VERSION)
    own = {k.removeprefix("hand."): t for k, t in tensors.items() if k.startswith("hand.")}
    try:
        model.generator.load_state_dict(own)
        set_low_rank(model.unet, tensors)
    except (RuntimeError, ValueError) as wrong:
        raise ValueError(f"{path}: a generator for another checkpoint or rank: {wrong}") from wrong


def body_outpainter(controlnet: ControlNetModel) -> ControlNetModel:
    """A copy of a pose ControlNet whose hint has room for `models.hands.body_hint`, before training
    with no effect: train it with `controlnet.train_controlnet` on hints of 7 channels.
    """
    widened = copy.deepcopy(controlnet)
    layer = widened.controlnet_cond_embedding.conv_in
    weight = layer.weight.detach()
    blind = weight.new_zeros(len(weight), 4, *weight.shape[2:])
    layer.weight = nn.Parameter(torch.cat((weight, blind), 1))
    layer.in_channels += 4
    widened.register_to_config(conditioning_channels=layer.in_channels)
    return widened


def main(arguments: Sequence[str]) -> None:
    """`train hands`: a hand generator for a checkpoint, from a folder of photographs."""
    parser = argparse.ArgumentParser(prog="dev.py train hands", description=__doc__)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--checkpoint", type=Path, default=sampler.CHECKPOINT, help="mini or SD1.5")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints, pictures")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--tasks", type=Path, help="MediaPipe's .task files, if it brings none")
    parser.add_argument("--start", type=Path, help="a hand generator to go on from")
    parser.add_argument("--size", type=int, help="of a hand's picture; the checkpoint's own")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--rank", type=int, default=RANK)
    parser.add_argument("--precision", default=native_precision(), choices=("no", "bf16", "fp16"))
    chosen = parser.parse_args(arguments)
    try:
        base = open_base(chosen.checkpoint)
        folders = [str(chosen.tasks)] if chosen.tasks else []
        size = chosen.size or base.size
        found = collect_hands(chosen.pictures, size, task_folders=folders)
    except ValueError as wrong:
        parser.error(str(wrong))
    data = HandPictures(found, base)
    schedule = Schedule(chosen.steps, chosen.batch, chosen.lr, precision=chosen.precision)
    torch.manual_seed(schedule.seed)
    model = HandDenoiser(base.unet, base.text_encoder, chosen.rank)
    if chosen.start:
        try:
            load_hand_generator(model, chosen.start)
        except ValueError as wrong:
            parser.error(str(wrong))
    shown = range(min(SHOWN, len(data)))
    prompts, heat = [found[i].caption for i in shown], torch.stack([data[i]["heat"] for i in shown])
    above = torch.stack([found[i].rgb.movedim(-1, 0) for i in shown])
    show = show_hands(base.tokenizer, prompts, heat, base.decode, above)
    loss = HandLoss(DenoisingLoss(base.tokenizer, forget=0.0))
    train_hands(model, data, loss, schedule, chosen.work, preview=show)
    save_hand_generator(model, chosen.out, base.name)
