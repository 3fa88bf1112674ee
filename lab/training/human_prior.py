"""Trainer of the human-centric prior (HcP) on a frozen base: only the layers beside the keys of
cross-attention are trained, by the denoising objective and by alignment with pose images.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ...models import human_prior
from ...models.human_tokens import human_token_mask, human_words, join_pieces
from ...models.mini import LATENT_STRIDE
from ...models.pose_features import feature_differences, image_features, resnet50
from . import preview as sampler
from .bases import Base, Pieces, Tokenizer, open_base
from .denoise import DenoisingLoss
from .human_prior_unet import PriorDenoiser, layers_of, load_prior, save_prior
from .loop import Schedule, fit, keeping_learnt, native_precision
from .networks import build_scheduler
from .person_images import PersonPicture, PersonPictures, collect_people

ALPHA = 0.1  # of the alignment; the paper's value is not known
SHOWN = 6  # people on a validation picture
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PriorLoss:
    """The denoising objective plus `alpha` times the alignment of every layer's map, weighted by
    `table` for the layer's stage and the sample's step.

    Items: those of DenoisingLoss with "hint", the pose image uint8 [3, 8h, 8w].
    """

    denoising: DenoisingLoss
    pieces: Pieces  # token ids as CLIP spells them
    features: Callable[[Tensor], Sequence[Tensor]]  # pose images [B,3,H,W] in 0..1 -> several sizes
    alpha: float = ALPHA
    table: Mapping[str, Sequence[float]] = field(default_factory=human_prior.cosine_table)

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
        self,
        seen: Mapping[str, Tensor],
        human: Tensor,
        hints: Tensor,
        t: Tensor,
        size: Sequence[int],
    ) -> Tensor:
        """Mean over pictures."""
        levels = feature_differences(self.features, hints)
        share = t.float() / build_scheduler().config["num_train_timesteps"]
        layers = (
            (place.split("_")[0], human_prior.map_grid(size, maps.shape[-2]), maps)
            for place, maps in seen.items()
        )
        return human_prior.weighted_alignment_loss(layers, human, levels, share, self.table).mean()


def human_of(pieces: Pieces, ids: Tensor) -> Tensor:
    """Which of the token ids [B, T] are human-centric, bool [B, T]."""
    rows = [
        human_token_mask(human_words(join_pieces(pieces(row))), len(row)) for row in ids.tolist()
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


def show_prior(
    tokenizer: Tokenizer,
    pieces: Pieces,
    texts: Sequence[str],
    above: Tensor,
    decode: Callable[[Tensor], Tensor],
    cells: tuple[int, int],
) -> Callable[[PriorDenoiser, Path], None]:
    """A `preview` for the loop: below the pictures `above` [N,3,8h,8w] a row of the same seed and
    N texts without the prior, and a row with it. `cells`: (h, w).
    """
    ids = tokenizer([""] * len(texts) + list(texts))

    def show(model: PriorDenoiser, prefix: Path) -> None:
        device = next(model.parameters()).device
        rows, named = [above], human_of(pieces, ids.to(device))
        with torch.no_grad():
            context = model.text_encoder(ids.to(device)).last_hidden_state
            for human in (named & False, named):
                with model.attending(human):
                    latents = sampler.denoise(model.unet, context, cells)
                rows.append(decode(latents).cpu())
        sampler.save_sheet(torch.cat(rows), prefix.with_suffix(".png"), columns=len(texts))

    return show


def read_table(path: Path) -> dict[str, list[float]]:
    """Weights of the alignment from a JSON file of a list each for human_prior.DOWN, human_prior.MID and human_prior.UP;
    ValueError, naming the file, if it is another.
    """
    stages = (human_prior.DOWN, human_prior.MID, human_prior.UP)
    try:
        table = json.loads(path.read_text("utf-8"))
        if not isinstance(table, dict) or not set(table) <= set(stages):
            raise ValueError(f"it must be an object of the lists {', '.join(stages)}")
        for stage in stages:
            human_prior.stage_weight(table, stage, torch.zeros(()))
            if not all(math.isfinite(weight) for weight in table[stage]):
                raise ValueError(f"the numbers for '{stage}' must be finite")
    except (OSError, TypeError, ValueError) as wrong:
        raise ValueError(f"{path}: expected the weights of stages over t/T: {wrong}") from wrong
    return table


def check_captions(captions: Sequence[str], base: Base) -> None:
    """ValueError if no caption has a word for people or what they do, which is all that the prior
    learns from; a warning if some have none.
    """
    lacking = int((~human_of(base.pieces, base.tokenizer(captions)).any(1)).sum())
    if lacking == len(captions):
        raise ValueError("no caption has a word for people or what they do, such as woman or yoga.")
    if lacking:
        log.warning("%d captions have no word for people and teach nothing.", lacking)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dev.py train human_prior", description=__doc__)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--checkpoint", type=Path, default=sampler.CHECKPOINT, help="mini or SD1.5")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints, pictures")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--tasks", type=Path, help="MediaPipe's .task files, if it brings none")
    parser.add_argument(
        "--encoder",
        type=Path,
        help="a ResNet-50's .safetensors file, whose features of the pose images the attention is "
        "aligned with; without it, the pose images themselves",
    )
    parser.add_argument("--start", type=Path, help="a prior to go on from")
    parser.add_argument(
        "--table",
        type=Path,
        help="a .json file of the alignment's weights from t = 0 to t = T: "
        '{"input": [...], "middle": [...], "output": [...]}',
    )
    parser.add_argument(
        "--mask",
        default=human_prior.KEYS,
        choices=human_prior.MASKS,
        help="how words that name nobody are left out, see Apply Human Prior",
    )
    parser.add_argument(
        "--gamma",
        type=float,
        help="the ordinary map's share; without it, 0 with "
        f"--mask {human_prior.KEYS}, whose training starts at the base anyway, and {human_prior.GAMMA} otherwise",
    )
    parser.add_argument(
        "--hidden", type=int, default=human_prior.HIDDEN, help="width of the layers"
    )
    parser.add_argument("--alpha", type=float, default=ALPHA, help="how much the alignment counts")
    parser.add_argument("--size", type=int, help="of the pictures; the checkpoint's own")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--precision", default=native_precision(), choices=("no", "bf16", "fp16"))
    return parser


def main(arguments: Sequence[str]) -> None:
    """`train human_prior`: a human-centric prior for a checkpoint, from a folder of photographs."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    schedule = Schedule(chosen.steps, chosen.batch, chosen.lr, precision=chosen.precision)
    torch.manual_seed(schedule.seed)
    try:
        base, model, loss = _networks(chosen)
        folders = [str(chosen.tasks)] if chosen.tasks else []
        size = chosen.size or base.size
        found = collect_people(chosen.pictures, size, task_folders=folders)
        check_captions([person.caption for person in found], base)
    except ValueError as wrong:
        parser.error(str(wrong))
    show = _show_people(found[:SHOWN], base)
    data = PersonPictures(found, base)
    save = partial(save_prior, model, chosen.out, base.name)
    with keeping_learnt(layers_of(model).state_dict, save, chosen.out):
        train_prior(model, data, loss, schedule, chosen.work, preview=show)
    save()


def _networks(chosen: argparse.Namespace) -> tuple[Base, PriorDenoiser, PriorLoss]:
    """As the arguments ask; ValueError for what they can not mean."""
    gamma = chosen.gamma
    if gamma is None:
        gamma = 0.0 if chosen.mask == human_prior.KEYS else human_prior.GAMMA
    if not 0 <= gamma <= 1:
        raise ValueError(f"--gamma is a share from 0 to 1, but it is {gamma}.")
    table = read_table(chosen.table) if chosen.table else human_prior.cosine_table()
    features = resnet50(chosen.encoder) if chosen.encoder else image_features
    base = open_base(chosen.checkpoint)
    how = {"hidden": chosen.hidden, "gamma": gamma, "mask": chosen.mask}
    model = PriorDenoiser(base.unet, base.text_encoder, **how)
    if chosen.start:
        load_prior(model, chosen.start)
    denoising = DenoisingLoss(base.tokenizer, forget=0.0)
    return base, model, PriorLoss(denoising, base.pieces, features, chosen.alpha, table)


def _show_people(
    people: Sequence[PersonPicture], base: Base
) -> Callable[[PriorDenoiser, Path], None]:
    above = torch.stack([person.rgb for person in people]) / 255
    texts = [person.caption for person in people]
    cells = (above.shape[2] // LATENT_STRIDE, above.shape[3] // LATENT_STRIDE)
    return show_prior(base.tokenizer, base.pieces, texts, above, base.decode, cells)
