"""Trainer of the structure-guided refiner (HyperHuman, section 3.3) on a frozen base: a ControlNet
that sees pose, depth and normals, each of which may be missing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..models import refiner, weights
from ..models.mini import LATENT_CHANNELS
from ..models.refiner import CONDITIONS, SummedEmbedders
from . import networks
from . import preview as sampler
from .convert import controlnet_to_ldm, filled, named, unet_names
from .denoise import Denoiser, DenoisingLoss
from .loop import Schedule, fit

DROP = 0.5  # the paper's rate; that each condition is dropped by itself is ours
EMBEDDING = "controlnet_cond_embedding."  # of diffusers' ControlNet


def start_refiner(controlnet: ControlNetModel) -> ControlNetModel:
    """A refiner that begins exactly as this pose ControlNet, which stays as it is: its hint is
    [B,9,8h,8w] in 0..1. ValueError if it reads anything but one picture.
    """
    return _refiner(controlnet, refiner.from_controlnet(controlnet_to_ldm(controlnet)))


def _refiner(like: ControlNetModel, tensors: dict[str, Tensor]) -> ControlNetModel:
    """The refiner of these tensors, by a file's names, of a ControlNet's shape."""
    made = copy.deepcopy(like)
    one = made.controlnet_cond_embedding
    summed = SummedEmbedders({condition: copy.deepcopy(one) for condition in CONDITIONS})
    made.controlnet_cond_embedding = summed
    return filled(made, tensors, refiner_names, "")


def refiner_names(keys: Iterable[str]) -> dict[str, str]:
    """{diffusers key: the file's} for the keys of a refiner."""
    keys = list(keys)
    names = unet_names(key for key in keys if not key.startswith(EMBEDDING))
    for condition in CONDITIONS:
        own = f"{EMBEDDING}{condition}."
        inner = [key.removeprefix(own) for key in keys if key.startswith(own)]
        ldm = unet_names(EMBEDDING + name for name in inner)
        names |= {own + name: refiner.key(condition, ldm[EMBEDDING + name]) for name in inner}
    return names


@dataclass(frozen=True)
class RefinerLoss:
    """The denoising objective with every sample's hint, of which each condition is black with
    probability `drop`, whatever becomes of the others, and the caption empty with `drop_text`.

    Items: {"latent" [4,h,w], or more channels of which the first 4 are the picture's, "captions" as
    DenoisingLoss has them, "hint" uint8 [9,8h,8w]}.
    """

    denoising: DenoisingLoss
    drop: float = DROP
    drop_text: float = DROP
    keep_only: Collection[str] = CONDITIONS  # the others are always black, and nothing learns them

    def __call__(self, model: nn.Module, batch: Sequence[dict], g: torch.Generator) -> Tensor:
        denoising = replace(self.denoising, controlled=1.0, drop=self.drop_text)
        return denoising(model, self.dropped(batch, g), g)

    def dropped(self, batch: Sequence[dict], g: torch.Generator) -> list[dict]:
        """The items as a ControlNet's loss takes them, conditions dropped."""
        kept = torch.tensor([condition in self.keep_only for condition in CONDITIONS])
        which = (torch.rand(len(batch), len(CONDITIONS), generator=g) >= self.drop) & kept
        hints = refiner.shown(torch.stack([item["hint"] for item in batch]), which)
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
    facts = {"method": "refiner", "version": refiner.VERSION, "base": base}
    weights.save(path, named(controlnet, refiner_names, ""), facts, dtype)


def load_refiner(path: str | Path, unet: UNet2DConditionModel, base: str) -> ControlNetModel:
    """What `save_refiner` wrote, for a base with this UNet, float32 in eval mode; ValueError,
    naming the file, for another.
    """
    tensors, _ = weights.load(path, method="refiner", version=refiner.VERSION, base=base)
    try:
        return _refiner(networks.build_controlnet(unet), tensors).eval()
    except (KeyError, ValueError) as wrong:
        raise ValueError(f"{path}: expected a refiner for this checkpoint: {wrong}") from wrong


def show_refiner(
    tokenizer: Callable[[Sequence[str]], Tensor],
    texts: Sequence[str],
    hints: Tensor,
    decode: Callable[[Tensor], Tensor],
    above: Tensor,
) -> Callable[[Denoiser, Path], None]:
    """A `preview` for the loop: pictures `above` in rows of len(texts), under them what the refiner
    makes of the hints [N,9,8h,8w] in 0..1 with all conditions, and with each of them alone.
    """
    rows = torch.cat((torch.ones(1, len(CONDITIONS)), torch.eye(len(CONDITIONS)))).bool()
    cells = hints.shape[2] // 8, hints.shape[3] // 8

    def show(model: Denoiser, prefix: Path) -> None:
        device = next(model.parameters()).device
        ids = tokenizer([""] * len(texts) + [*texts]).to(device)
        made = [above]
        with torch.no_grad():
            context = model.text_encoder(ids).last_hidden_state
            for which in rows:
                given = refiner.shown(hints, which.expand(len(hints), -1)).repeat(2, 1, 1, 1)
                latents = sampler.denoise(
                    model.unet, context, cells, given.to(device), model.controlnet  # type: ignore[arg-type]
                )
                made.append(decode(latents).cpu())
        sampler.save_sheet(torch.cat(made), prefix.with_suffix(".png"), columns=len(texts))

    return show
