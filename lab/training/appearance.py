"""Trainer of the alignment of parts with their appearance (inspired by HumanDiffusion) on a frozen
base: a reconstruction of pictures from their own parts' features, as the memory gives them back.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.data import Dataset

from ...models import memory, memory_file, semantic_map
from ...models.appearance import Alignment, Sizes, Worn
from ...models.mini import LATENT_STRIDE
from . import preview as sampler
from .appearance_images import DressedPictures, collect_dressed, memory_of
from .appearance_unet import AppearanceDenoiser, load_alignment, save_alignment, start_alignment
from .bases import Base, Tokenizer, open_base
from .denoise import DenoisingLoss
from .loop import Schedule, fit, keeping_learnt, native_precision
from .vision_files import Vision, open_vision

FORGOTTEN = 0.3  # share of parts about which nothing is told, so that the prompt keeps its say
OWN = 0.5  # largest share of a part's own feature beside the memory's
SLOTS = 512  # of each class in a new memory, as Build Memory has it
SHOWN = 6  # pictures on a validation picture


@dataclass(frozen=True)
class AppearanceLoss:
    """The denoising objective with parts' features out of the memory, mixed with up to `own` of the
    picture's.

    Items: those of DenoisingLoss and "labels" uint8 [8h,8w], "features" and "refreshed" [24,D],
    "known" bool [24].
    """

    denoising: DenoisingLoss
    forgotten: float = FORGOTTEN
    own: float = OWN

    def __call__(self, model: nn.Module, batch: Sequence[dict], g: torch.Generator) -> Tensor:
        device = next(model.parameters()).device
        worn = self.worn(batch, g, device)

        def predict(x: Tensor, t: Tensor, ids: Tensor, hint: Tensor | None) -> Tensor:
            return model(x, t, ids, worn, hint)

        return self.denoising.of(predict, device, batch, g)

    def worn(self, batch: Sequence[dict], g: torch.Generator, device: torch.device) -> Worn:
        image, memory, known, labels = (
            torch.stack([item[name] for item in batch])
            for name in ("features", "refreshed", "known", "labels")
        )
        share = self.own * torch.rand(len(batch), 1, 1, generator=g)
        told = known & (torch.rand(known.shape, generator=g) >= self.forgotten)
        features = normalize(torch.lerp(memory, image, share), dim=-1)
        return Worn(*(each.to(device) for each in (features, told, torch.ones(told.shape), labels)))


def train_appearance(
    model: AppearanceDenoiser,
    pictures: Dataset,
    loss: AppearanceLoss,
    schedule: Schedule,
    out: Path,
    *,
    preview: Callable[[AppearanceDenoiser, Path], None] | None = None,
) -> AppearanceDenoiser:
    """Train the layers; returns `model` with EMA weights."""
    return fit(model, loss, pictures, schedule, out, collate=list, preview=preview)


def show_appearance(
    tokenizer: Tokenizer, items: Sequence[dict], above: Tensor, decode: Callable[[Tensor], Tensor]
) -> Callable[[AppearanceDenoiser, Path], None]:
    """A `preview` for the loop: below the pictures `above` [N,3,8h,8w] the same maps with their own
    looks, and with the neighbour's, from prompts that say nothing of them.
    """
    ids = tokenizer([""] * len(items) + [item["captions"]["brief"] for item in items])
    cells = (above.shape[2] // LATENT_STRIDE, above.shape[3] // LATENT_STRIDE)
    features, known, labels = (
        torch.stack([item[name] for item in items]) for name in ("refreshed", "known", "labels")
    )

    def show(model: AppearanceDenoiser, prefix: Path) -> None:
        device = next(model.parameters()).device
        hints = None if model.denoiser.controlnet is None else _hints(items).to(device)
        rows = [above]
        with torch.no_grad():
            context = model.denoiser.text_encoder(ids.to(device)).last_hidden_state
            for turn in (0, 1):
                worn = Worn(
                    features.roll(turn, 0), known.roll(turn, 0), torch.ones(known.shape), labels
                )
                twice = Worn(*(torch.cat((each, each)).to(device) for each in worn))
                twice.known[: len(items)] = False  # without guidance's own half
                with model.wearing(twice, torch.Size(cells)):
                    latents = sampler.denoise(
                        model.denoiser.unet, context, cells, hints, model.denoiser.controlnet
                    )
                rows.append(decode(latents).cpu())
        sampler.save_sheet(torch.cat(rows), prefix.with_suffix(".png"), columns=len(items))

    return show


def _hints(items: Sequence[dict]) -> Tensor:
    """Of every item twice, as guidance needs them, [2N,3,8h,8w] in 0..1."""
    return torch.stack([item["hint"] for item in items]).float().repeat(2, 1, 1, 1) / 255


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dev.py train appearance", description=__doc__)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of photographs")
    parser.add_argument(
        "--maps",
        type=Path,
        help="folder of their semantic maps, name.png or name_segm.png for "
        "name.jpg: numbers from 0 to 23 as DeepFashion-MultiModal has them, or Vitruvian's "
        "colours; without it, name.map.png beside name.jpg",
    )
    parser.add_argument(
        "--vision",
        type=Path,
        required=True,
        help="the image encoder's .safetensors file: one of Vitruvian's, or a CLIP of the kind "
        "that the checkpoint's texts go through (ViT-L/14 for SD1.5), best whole, with its text "
        "projection",
    )
    parser.add_argument("--checkpoint", type=Path, default=sampler.CHECKPOINT, help="mini or SD1.5")
    remembers = parser.add_mutually_exclusive_group(required=True)
    remembers.add_argument("--memory", type=Path, help="a memory that the parts are refreshed by")
    remembers.add_argument(
        "--memory-out", type=Path, help="the .safetensors file of a new memory of these pictures"
    )
    parser.add_argument(
        "--slots", type=int, default=SLOTS, help="of each class in a new memory, at most"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints, pictures")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--start", type=Path, help="layers to go on from")
    parser.add_argument("--size", type=int, help="of the pictures; the checkpoint's own")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--precision", default=native_precision(), choices=("no", "bf16", "fp16"))
    return parser


def main(arguments: Sequence[str]) -> None:
    """`train appearance`: an alignment for a checkpoint, from photographs and their maps."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    schedule = Schedule(chosen.steps, chosen.batch, chosen.lr, precision=chosen.precision)
    torch.manual_seed(schedule.seed)
    try:
        base, vision = open_base(chosen.checkpoint), open_vision(chosen.vision)
        alignment = _begin(chosen.start, base, vision)
        data = _dressed(chosen, base, vision)
    except (OSError, ValueError) as wrong:
        parser.error(str(wrong))
    model = AppearanceDenoiser(base.unet, base.text_encoder, alignment)
    loss = AppearanceLoss(DenoisingLoss(base.tokenizer, drop=0.2, brief=0.4, forget=0.0))
    show = _show_dressed(data, base)
    save = partial(save_alignment, alignment, chosen.out, base.name)
    with keeping_learnt(alignment.state_dict, save, chosen.out):
        train_appearance(model, data, loss, schedule, chosen.work, preview=show)
    save()


def _begin(start: Path | None, base: Base, vision: Vision) -> Alignment:
    """The layers that training goes on from; ValueError for those of another base or encoder."""
    new = start_alignment(base.unet, Sizes(vision.width))
    if start is None:
        return new
    begun = load_alignment(start)
    if begun.channels != new.channels:
        raise ValueError(
            f"{start} was trained for another checkpoint: before output blocks it expects "
            f"{begun.channels} channels, this one has {new.channels}. Give its own in --checkpoint."
        )
    if begun.sizes.features != vision.width:
        raise ValueError(
            f"{start} was trained with features of {begun.sizes.features} numbers, and --vision "
            f"makes {vision.width}. Give the image encoder that it was trained with."
        )
    return begun


def _dressed(chosen: argparse.Namespace, base: Base, vision: Vision) -> DressedPictures:
    """The pictures with the memory that is given, or with a new one, which is written; ValueError
    if they do not go together.
    """
    if chosen.slots < 1:
        raise ValueError(f"--slots must be 1 or more, but it is {chosen.slots}.")
    kept = None if chosen.memory is None else _memory(chosen.memory, vision)
    found = collect_dressed(chosen.pictures, chosen.size or base.size, vision, chosen.maps)
    if kept is None:
        kept = memory_of(found, vision, chosen.slots)
        memory_file.save(chosen.memory_out, kept)
    return DressedPictures(found, base, kept)


def _memory(path: Path, vision: Vision) -> memory.Memory:
    """ValueError if it is of another image encoder."""
    kept = memory_file.load(path)
    if kept.encoder != vision.name:
        raise ValueError(
            f"{path} was made with the image encoder '{kept.encoder}', and --vision is "
            f"'{vision.name}'. Give the encoder that it was made with, or --memory-out to make a "
            "new one of these pictures."
        )
    return kept


def _show_dressed(data: DressedPictures, base: Base) -> Callable[[AppearanceDenoiser, Path], None]:
    """Above what is painted, the pictures and their maps."""
    shown = data.found[:SHOWN]
    pictures = torch.stack([picture.rgb for picture in shown]) / 255
    maps = semantic_map.color_image(torch.stack([picture.labels for picture in shown]))
    above = torch.cat((pictures, maps.movedim(-1, 1)))
    items = [data[i] for i in range(len(shown))]
    return show_appearance(base.tokenizer, items, above, base.decode)
