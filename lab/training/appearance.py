"""Trainer of the alignment of parts with their appearance (inspired by HumanDiffusion) on a frozen
base: a reconstruction of images from their own parts' features, as the memory gives them back.
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
from ...models.appearance import Alignment, PartFeatures, Sizes
from ...models.mini import LATENT_STRIDE
from . import preview as sampler
from .appearance_images import DressedDataset, build_memory, collect_dressed
from .appearance_unet import AppearanceDenoiser, load_alignment, save_alignment, start_alignment
from .bases import Base, Tokenizer, open_base
from .batches import Batch, column, count
from .denoise import DenoisingLoss
from .loop import Schedule, fit, saving
from .options import Parser, begin_training, plain_errors, training_parser, whole_number
from .vision_files import Vision, open_vision

FORGOTTEN = 0.3  # share of parts without a feature, so that the prompt still decides them
UNREFRESHED = 0.5  # largest share of a part's feature as the image has it, beside the memory's
SLOTS = 512  # of each class in a new memory, as Build Memory has it
LARGEST_SLOTS = 65_536
PREVIEWS = 6  # images on a validation sheet


@dataclass(frozen=True)
class AppearanceLoss:
    """The denoising objective with parts' features out of the memory, mixed with up to
    `unrefreshed` of the image's.

    Items, or columns of them: those of DenoisingLoss and "labels" uint8 [8h,8w], "features" and
    "refreshed" [24,D], "has_feature" bool [24].
    """

    denoising: DenoisingLoss
    forgotten: float = FORGOTTEN
    unrefreshed: float = UNREFRESHED

    def __call__(self, model: nn.Module, batch: Batch, g: torch.Generator) -> Tensor:
        device = next(model.parameters()).device
        parts = self.part_features(batch, g, device)

        def predict(x: Tensor, t: Tensor, ids: Tensor, hint: Tensor | None) -> Tensor:
            return model(x, t, ids, parts, hint)

        return self.denoising.loss_for(predict, device, batch, g)

    def part_features(self, batch: Batch, g: torch.Generator, device: torch.device) -> PartFeatures:
        """Mix the features of the parts and forget some."""
        features, refreshed = (column(batch, name).float() for name in ("features", "refreshed"))
        has_feature, labels = column(batch, "has_feature"), column(batch, "labels")
        luck = torch.rand(count(batch), 1, 1, generator=g, device=g.device)
        chance = torch.rand(has_feature.shape, generator=g, device=g.device)
        share, remembered = self.unrefreshed * luck, chance >= self.forgotten
        features = normalize(torch.lerp(refreshed, features, share), dim=-1)
        strengths = torch.ones(has_feature.shape)
        parts = PartFeatures(features, has_feature & remembered, strengths, labels)
        return PartFeatures(*(tensor.to(device) for tensor in parts))


def train_appearance(
    model: AppearanceDenoiser,
    data: Dataset,
    loss: AppearanceLoss,
    schedule: Schedule,
    out: Path,
    *,
    preview: Callable[[AppearanceDenoiser, Path], None] | None = None,
) -> AppearanceDenoiser:
    """Train the layers; return `model` with EMA weights."""
    return fit(model, loss, data, schedule, out, collate=list, preview=preview)


def show_appearance(
    tokenizer: Tokenizer, items: Sequence[dict], above: Tensor, decode: Callable[[Tensor], Tensor]
) -> Callable[[AppearanceDenoiser, Path], None]:
    """Build a `preview` for the loop: below the images `above` [N,3,8h,8w] images of the same maps
    with their own appearance, and with the neighbor's, from prompts that say nothing of it.
    """
    ids = tokenizer([""] * len(items) + [item["captions"]["brief"] for item in items])
    cells = (above.shape[2] // LATENT_STRIDE, above.shape[3] // LATENT_STRIDE)
    features, has_feature, labels = (
        torch.stack([item[name] for item in items])
        for name in ("refreshed", "has_feature", "labels")
    )

    def show(model: AppearanceDenoiser, prefix: Path) -> None:
        device = next(model.parameters()).device
        hints = None if model.denoiser.controlnet is None else _hints(items).to(device)
        rows = [above]
        with torch.no_grad():
            context = model.denoiser.text_encoder(ids.to(device)).last_hidden_state
            for turn in (0, 1):
                parts = PartFeatures(
                    features.roll(turn, 0),
                    has_feature.roll(turn, 0),
                    torch.ones(has_feature.shape),
                    labels,
                )
                doubled = PartFeatures(*(torch.cat((part, part)).to(device) for part in parts))
                doubled.has_feature[: len(items)] = False  # the unconditional half of guidance
                with model.with_appearance(doubled, torch.Size(cells)):
                    latents = sampler.denoise(
                        model.denoiser.unet, context, cells, hints, model.denoiser.controlnet
                    )
                rows.append(decode(latents).cpu())
        sampler.save_sheet(torch.cat(rows), prefix.with_suffix(".png"), columns=len(items))

    return show


def _hints(items: Sequence[dict]) -> Tensor:
    """Stack every item's hint twice, as guidance needs them, [2N,3,8h,8w] in 0..1."""
    return torch.stack([item["hint"] for item in items]).float().repeat(2, 1, 1, 1) / 255


def _parser() -> Parser:
    parser = training_parser("appearance", __doc__, start="layers to go on from", lr=1e-4)
    parser.add_argument(
        "--maps",
        type=Path,
        help="folder of their semantic maps, name.png or name_segm.png for "
        "name.jpg: numbers from 0 to 23 as DeepFashion-MultiModal has them, or Vitruvian's "
        "colors; without it, name.map.png beside name.jpg",
    )
    parser.add_argument(
        "--vision",
        type=Path,
        required=True,
        help="the image encoder's .safetensors file: one of Vitruvian's, or a CLIP of the kind "
        "that the checkpoint's texts go through (ViT-L/14 for SD1.5), best with its text "
        "projection",
    )
    memories = parser.add_mutually_exclusive_group(required=True)
    memories.add_argument("--memory", type=Path, help="a memory that the parts are refreshed by")
    memories.add_argument(
        "--memory-out", type=Path, help="the .safetensors file of a new memory of these images"
    )
    parser.add_argument(
        "--slots",
        type=whole_number(1, LARGEST_SLOTS),
        default=SLOTS,
        help="of each class in a new memory, at most",
    )
    return parser


def main(arguments: Sequence[str]) -> None:
    """Run `train appearance`: an alignment for a checkpoint, from photographs and their maps."""
    parser = _parser()
    options = parser.parse_args(arguments)
    with plain_errors(parser):
        schedule = begin_training(options)
        base, vision = open_base(options.checkpoint), open_vision(options.vision)
        alignment = _first_alignment(options.start, base, vision)
        data = _dressed_data(options, base, vision)
        model = AppearanceDenoiser(base.unet, base.text_encoder, alignment)
        loss = AppearanceLoss(DenoisingLoss(base.tokenizer, drop=0.2, brief=0.4, forget=0.0))
        preview = _preview_dressed(data, base)
        save = partial(save_alignment, alignment, options.out, base.name)
        with saving(alignment.state_dict, save, options.out):
            train_appearance(model, data, loss, schedule, options.work, preview=preview)


def _first_alignment(start: Path | None, base: Base, vision: Vision) -> Alignment:
    """Build the first layers of a training; ValueError for those of another base or encoder."""
    new = start_alignment(base.unet, Sizes(vision.width))
    if start is None:
        return new
    alignment = load_alignment(start)
    if alignment.channels != new.channels:
        raise ValueError(
            f"{start} was trained for another checkpoint: before output blocks it expects "
            f"{alignment.channels} channels, this one has {new.channels}. Give its own in "
            "--checkpoint."
        )
    if alignment.sizes.features != vision.width:
        raise ValueError(
            f"{start} was trained with features of {alignment.sizes.features} numbers, and "
            f"--vision makes {vision.width}. Give the image encoder that it was trained with."
        )
    return alignment


def _dressed_data(options: argparse.Namespace, base: Base, vision: Vision) -> DressedDataset:
    """Read the images, and a memory or build a new one of them, which is written; ValueError if
    they do not go together.
    """
    garments = None if options.memory is None else _read_memory(options.memory, vision)
    images = collect_dressed(options.images, options.size or base.size, vision, options.maps)
    if garments is None:
        garments = build_memory(images, vision, options.slots)
        memory_file.save(options.memory_out, garments)
    return DressedDataset(images, base, garments)


def _read_memory(path: Path, vision: Vision) -> memory.Memory:
    """Read a memory; ValueError if it is of another image encoder."""
    garments = memory_file.load(path)
    if garments.encoder != vision.name:
        raise ValueError(
            f"{path} was made with the image encoder '{garments.encoder}', and --vision is "
            f"'{vision.name}'. Give the encoder that it was made with, or --memory-out to make a "
            "new one of these images."
        )
    return garments


def _preview_dressed(
    data: DressedDataset, base: Base
) -> Callable[[AppearanceDenoiser, Path], None]:
    """Build a `preview` for the loop of the first images, with them and their maps above."""
    first = data.images[:PREVIEWS]
    rgb = torch.stack([image.rgb for image in first]) / 255
    maps = semantic_map.color_image(torch.stack([image.labels for image in first]))
    above = torch.cat((rgb, maps.movedim(-1, 1)))
    items = [data[i] for i in range(len(first))]
    return show_appearance(base.tokenizer, items, above, base.decode)
