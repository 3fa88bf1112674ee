"""Trainer of the structure-guided refiner (HyperHuman, section 3.3) on a frozen base: a ControlNet
that sees pose, depth and normals, each of which may be missing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.data import Dataset

from ...models import refiner, structure, weights
from ...models.mini import LATENT_CHANNELS
from ...models.refiner import CONDITIONS, SummedEmbedders
from . import networks
from . import preview as sampler
from .bases import Base, open_base
from .batches import Batch, column, count
from .convert import controlnet_from_ldm, controlnet_to_ldm, fill_module, rename_tensors, unet_names
from .denoise import Denoiser, DenoisingLoss
from .loop import Schedule, fit, saving
from .options import (
    Parser,
    add_tasks,
    begin_training,
    plain_errors,
    share,
    task_folders,
    training_parser,
)
from .structure_images import Conventions, StructureDataset, collect_structure

DROP = 0.5  # the paper's rate; that each condition is dropped by itself is ours
EMBEDDING = "controlnet_cond_embedding."  # of diffusers' ControlNet
PREVIEWS = 6  # images on a validation sheet


def start_refiner(controlnet: ControlNetModel) -> ControlNetModel:
    """Build a refiner that begins exactly as this pose ControlNet, which stays as it is.

    Its hint is [B,9,8h,8w] in 0..1. ValueError if the ControlNet reads anything but one image.
    """
    return _refiner(controlnet, refiner.refiner_from_controlnet(controlnet_to_ldm(controlnet)))


def _refiner(like: ControlNetModel, tensors: dict[str, Tensor]) -> ControlNetModel:
    """Build the refiner of these tensors, by a file's names, in a ControlNet's shape."""
    net = copy.deepcopy(like)
    embedder = net.controlnet_cond_embedding
    summed = SummedEmbedders({condition: copy.deepcopy(embedder) for condition in CONDITIONS})
    net.controlnet_cond_embedding = summed
    return fill_module(net, tensors, refiner_names, "")


def refiner_names(keys: Iterable[str]) -> dict[str, str]:
    """Name the keys of a refiner: {diffusers key: the file's}."""
    keys = list(keys)
    names = unet_names(key for key in keys if not key.startswith(EMBEDDING))
    for condition in CONDITIONS:
        prefix = f"{EMBEDDING}{condition}."
        inner = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
        ldm = unet_names(EMBEDDING + name for name in inner)
        names |= {
            prefix + name: refiner.tensor_name(condition, ldm[EMBEDDING + name]) for name in inner
        }
    return names


@dataclass(frozen=True)
class RefinerLoss:
    """The denoising objective with every sample's hint, of which each condition is black with
    probability `drop`, whatever becomes of the others, and the caption empty with `drop_text`.

    Items, or columns of them: {"latent" [4,h,w], or more channels of which the first 4 are the
    image's, "captions" as DenoisingLoss has them, "hint" uint8 [9,8h,8w]}.
    """

    denoising: DenoisingLoss
    drop: float = DROP
    drop_text: float = DROP
    keep_only: Collection[str] = CONDITIONS  # the others are always black, and nothing learns them

    def __call__(self, model: nn.Module, batch: Batch, g: torch.Generator) -> Tensor:
        denoising = replace(self.denoising, controlled=1.0, drop=self.drop_text)
        return denoising(model, self.drop_conditions(batch, g), g)

    def drop_conditions(self, batch: Batch, g: torch.Generator) -> Batch:
        """Drop conditions at random; returns the batch as a ControlNet's loss takes it."""
        trained = torch.tensor([condition in self.keep_only for condition in CONDITIONS])
        chance = torch.rand(count(batch), len(CONDITIONS), generator=g, device=g.device)
        conditions = (chance >= self.drop) & trained.to(g.device)
        hints = refiner.keep_conditions(column(batch, "hint"), conditions)
        if isinstance(batch, Mapping):
            return {**batch, "latent": batch["latent"][:, :LATENT_CHANNELS], "hint": hints}
        return [
            {**item, "latent": item["latent"][:LATENT_CHANNELS], "hint": hint}
            for item, hint in zip(batch, hints, strict=True)
        ]


def train_refiner(
    model: Denoiser,
    data: Dataset,
    loss: RefinerLoss,
    schedule: Schedule,
    out: Path,
    *,
    preview: Callable[[Denoiser, Path], None] | None = None,
) -> Denoiser:
    """Train only `model.controlnet`, a refiner, and of its embedders those that the loss keeps.
    Returns `model` with EMA weights.
    """
    if model.controlnet is None:
        raise ValueError("train_refiner needs a Denoiser with a refiner (start_refiner)")
    model.requires_grad_(False)
    model.controlnet.requires_grad_(True)
    for condition in set(CONDITIONS).difference(loss.keep_only):
        model.controlnet.get_submodule(EMBEDDING + condition).requires_grad_(False)
    return fit(model, loss, data, schedule, out, collate=list, preview=preview)


def save_refiner(
    controlnet: nn.Module, path: str | Path, base: str, dtype: torch.dtype = torch.float16
) -> None:
    """Write a refiner for Load Structure Refiner; atomic."""
    facts = {"method": "refiner", "base": base}
    tensors = rename_tensors(controlnet, refiner_names, "")
    weights.save(path, tensors, {**facts, "version": refiner.VERSION}, dtype)


def load_refiner(path: str | Path, unet: UNet2DConditionModel, base: str) -> ControlNetModel:
    """Read what `save_refiner` wrote, for a base with this UNet, float32 in eval mode; ValueError,
    naming the file, for another.
    """
    tensors, _ = weights.load(path, method="refiner", version=refiner.VERSION, base=base)
    try:
        return _refiner(networks.build_controlnet(unet), tensors).eval()
    except weights.MISFITS as error:
        raise ValueError(f"{path}: expected a refiner for this checkpoint: {error}") from error


def begin_refiner(path: Path | None, unet: UNet2DConditionModel, base: str) -> ControlNetModel:
    """Build the refiner that a training on this base begins with: that of a refiner's file, of a
    pose ControlNet's in the names of LDM or diffusers, or without a file a copy of the UNet's
    encoder. ValueError, naming the file, if it does not fit.
    """
    empty = networks.build_controlnet(unet)
    if path is None:
        return start_refiner(empty)
    tensors = weights.load_any(path, "a pose ControlNet or a refiner")
    if not all(refiner.is_controlnet(name) for name in tensors):
        return load_refiner(path, unet, base)
    if any(name.endswith(weights.SCALE_SUFFIX) for name in tensors):  # 8 bits, which are ours alone
        tensors, _ = weights.load(path, method="controlnet", base=base)
    try:
        return start_refiner(controlnet_from_ldm(empty, _ldm(tensors)))
    except weights.MISFITS as error:
        raise ValueError(f"{path}: expected a ControlNet for this checkpoint: {error}") from error


def _ldm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a ControlNet file's tensors to LDM names, without the prefix that some have."""
    if f"{EMBEDDING}conv_in.weight" in tensors:
        return {name: tensors[key] for key, name in unet_names(tensors).items()}
    return {name.removeprefix("control_model."): tensor for name, tensor in tensors.items()}


def read_keep(text: str) -> tuple[str, ...]:
    """Split the conditions of --keep, joined by +; ValueError for others."""
    conditions = tuple(name.strip() for name in text.split("+"))
    if not set(conditions) <= set(CONDITIONS):
        raise ValueError(
            f"--keep takes some of {', '.join(CONDITIONS)} joined by +, such as depth+normal, but "
            f"it is '{text}'."
        )
    return conditions


def show_refiner(
    tokenizer: Callable[[Sequence[str]], Tensor],
    texts: Sequence[str],
    hints: Tensor,
    decode: Callable[[Tensor], Tensor],
    above: Tensor,
) -> Callable[[Denoiser, Path], None]:
    """Build a `preview` for the loop: images `above` in rows of len(texts), under them what the
    refiner generates from the hints [N,9,8h,8w] in 0..1 with all conditions, and with each of them
    alone.
    """
    combinations = torch.cat((torch.ones(1, len(CONDITIONS)), torch.eye(len(CONDITIONS)))).bool()
    cells = hints.shape[2] // 8, hints.shape[3] // 8

    def show(model: Denoiser, prefix: Path) -> None:
        device = next(model.parameters()).device
        ids = tokenizer([""] * len(texts) + [*texts]).to(device)
        rows = [above]
        with torch.no_grad():
            context = model.text_encoder(ids).last_hidden_state
            for conditions in combinations:
                visible = refiner.keep_conditions(hints, conditions.expand(len(hints), -1))
                control: Any = visible.repeat(2, 1, 1, 1).to(device), model.controlnet
                latents = sampler.denoise(model.unet, context, cells, *control)
                rows.append(decode(latents).cpu())
        sampler.save_sheet(torch.cat(rows), prefix.with_suffix(".png"), columns=len(texts))

    return show


def _parser() -> Parser:
    parser = training_parser(
        "refiner",
        __doc__,
        images="folder of photographs with name.depth.png, name.normal.png and best name.pose.png "
        "beside each name.jpg, as Save Structure Data makes it",
        start="a pose ControlNet to begin as, or a refiner to go on from; without it, a copy of "
        "the checkpoint's encoder that has everything to learn",
        lr=1e-5,
    )
    add_tasks(parser)
    parser.add_argument(
        "--drop", type=share, default=DROP, help="how often each condition is black"
    )
    parser.add_argument(
        "--drop-text", type=share, default=DROP, help="how often the caption is empty"
    )
    parser.add_argument(
        "--keep",
        default="+".join(CONDITIONS),
        help="the conditions to train with, the others always black: depth+normal, for example",
    )
    parser.add_argument(
        "--depth", default=structure.MIDAS, choices=structure.DEPTHS, help="of name.depth.png"
    )
    parser.add_argument(
        "--normal",
        default=structure.RIGHT_UP,
        choices=structure.NORMALS,
        help="what red means in name.normal.png",
    )
    return parser


def main(arguments: Sequence[str]) -> None:
    """Run `train refiner`: a structure refiner for a checkpoint, from a folder of photographs,
    their depth and their normals.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    with plain_errors(parser):
        schedule = begin_training(options)
        conditions = read_keep(options.keep)
        base = open_base(options.checkpoint)
        net = begin_refiner(options.start, base.unet, base.name)
        images = collect_structure(
            options.images,
            options.size or base.size,
            Conventions(options.depth, options.normal),
            task_folders=task_folders(options),
        )
        data = StructureDataset(images, base)
        denoising = DenoisingLoss(base.tokenizer, forget=0.0)
        loss = RefinerLoss(denoising, options.drop, options.drop_text, conditions)
        model = Denoiser(base.unet, base.text_encoder, net)
        preview = _preview_images(data, base)
        save = partial(save_refiner, net, options.out, base.name)
        with saving(net.state_dict, save, options.out):
            train_refiner(model, data, loss, schedule, options.work, preview=preview)


def _preview_images(data: StructureDataset, base: Base) -> Callable[[Denoiser, Path], None]:
    """Build a `preview` for the loop of the first images, with pose, depth and normals above."""
    images = data.images[:PREVIEWS]
    kinds = [
        torch.stack([getattr(image, kind) for image in images]) / 255
        for kind in ("rgb", *CONDITIONS)
    ]
    texts = [image.caption for image in images]
    hints = torch.cat(kinds[1:], 1)
    return show_refiner(base.tokenizer, texts, hints, base.decode, torch.cat(kinds))
