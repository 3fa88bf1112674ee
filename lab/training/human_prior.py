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
from .batches import Batch, column
from .denoise import DenoisingLoss
from .human_prior_unet import PriorDenoiser, load_prior, prior_layers, save_prior
from .loop import Schedule, fit, saving
from .networks import build_scheduler
from .options import (
    LARGEST_WIDTH,
    Parser,
    add_tasks,
    begin_training,
    number,
    plain_errors,
    share,
    task_folders,
    training_parser,
    whole_number,
)
from .person_images import PersonDataset, PersonImage, collect_people

LARGEST_ALPHA = 1000.0
PREVIEWS = 6  # people on a validation image
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PriorLoss:
    """The denoising objective plus `alpha` times the alignment of every layer's map, weighted by
    `table` for the layer's stage and the sample's step.

    Items, or columns of them: those of DenoisingLoss with "hint", the pose image uint8 [3, 8h, 8w].
    """

    denoising: DenoisingLoss
    pieces: Pieces  # token ids as CLIP spells them
    features: Callable[[Tensor], Sequence[Tensor]]  # pose images [B,3,H,W] in 0..1 -> several sizes
    alpha: float = human_prior.ALIGNMENT_WEIGHT
    table: Mapping[str, Sequence[float]] = field(default_factory=human_prior.cosine_table)

    def __call__(self, model: nn.Module, batch: Batch, g: torch.Generator) -> Tensor:
        device = next(model.parameters()).device
        aligned: list[Tensor] = []

        def predict(x: Tensor, t: Tensor, ids: Tensor, _: Tensor | None) -> Tensor:
            human = human_tokens(self.pieces, ids)
            noise, maps = model(x, t, ids, human)
            if self.alpha > 0:
                hints = column(batch, "hint").to(device).float() / 255
                aligned.append(self._alignment(maps, human, hints, t, x.shape[2:]))
            return noise

        loss = self.denoising.loss_for(predict, device, batch, g)
        return loss + self.alpha * aligned[0] if aligned else loss

    def _alignment(
        self,
        maps: Mapping[str, Tensor],
        human: Tensor,
        hints: Tensor,
        t: Tensor,
        size: Sequence[int],
    ) -> Tensor:
        """Compute the alignment loss of every layer's map, the mean over images."""
        levels = feature_differences(self.features, hints)
        share = t.float() / build_scheduler().config["num_train_timesteps"]
        layers = (
            (place.split("_")[0], human_prior.map_grid(size, layer_map.shape[-2]), layer_map)
            for place, layer_map in maps.items()
        )
        return human_prior.weighted_alignment_loss(layers, human, levels, share, self.table).mean()


def human_tokens(pieces: Pieces, ids: Tensor) -> Tensor:
    """Mark the human-centric ones of the token ids [B, T], bool [B, T]."""
    rows = [
        human_token_mask(human_words(join_pieces(pieces(row))), len(row)) for row in ids.tolist()
    ]
    return torch.tensor(rows, device=ids.device)


def train_prior(
    model: PriorDenoiser,
    images: Dataset,
    loss: PriorLoss,
    schedule: Schedule,
    out: Path,
    *,
    preview: Callable[[PriorDenoiser, Path], None] | None = None,
) -> PriorDenoiser:
    """Train the layers; return `model` with EMA weights."""
    return fit(model, loss, images, schedule, out, collate=list, preview=preview)


def show_prior(
    tokenizer: Tokenizer,
    pieces: Pieces,
    texts: Sequence[str],
    above: Tensor,
    decode: Callable[[Tensor], Tensor],
    cells: tuple[int, int],
) -> Callable[[PriorDenoiser, Path], None]:
    """Build a `preview` for the loop: below the images `above` [N,3,8h,8w] a row of the same seed
    and N texts without the prior, and a row with it. `cells`: (h, w).
    """
    ids = tokenizer([""] * len(texts) + list(texts))

    def show(model: PriorDenoiser, prefix: Path) -> None:
        device = next(model.parameters()).device
        rows, named = [above], human_tokens(pieces, ids.to(device))
        with torch.no_grad():
            context = model.text_encoder(ids.to(device)).last_hidden_state
            for human in (named & False, named):
                with model.with_human_tokens(human):
                    latents = sampler.denoise(model.unet, context, cells)
                rows.append(decode(latents).cpu())
        sampler.save_sheet(torch.cat(rows), prefix.with_suffix(".png"), columns=len(texts))

    return show


def read_table(path: Path) -> dict[str, list[float]]:
    """Read the alignment's weights from a JSON file with a list each for the stages DOWN, MID and
    UP of models/human_prior.py; ValueError, naming the file, for another.
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
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: expected the weights of stages over t/T: {error}") from error
    return table


def check_captions(captions: Sequence[str], base: Base) -> None:
    """Raise ValueError if no caption has a word for people or what they do, which is all that the
    prior learns from; warn if some have none.
    """
    lacking = int((~human_tokens(base.pieces, base.tokenizer(captions)).any(1)).sum())
    if lacking == len(captions):
        raise ValueError(
            "--images: no caption has a word for people or what they do, such as woman or yoga."
        )
    if lacking:
        log.warning("%d captions have no word for people and teach nothing.", lacking)


def _parser() -> Parser:
    parser = training_parser("human_prior", __doc__, start="a prior to go on from", lr=1e-4)
    add_tasks(parser)
    parser.add_argument(
        "--encoder",
        type=Path,
        help="a ResNet-50's .safetensors file, whose features of the pose images the attention is "
        "aligned with; without it, the pose images themselves",
    )
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
        type=share,
        help=f"the ordinary map's share; without it, 0 with --mask {human_prior.KEYS}, whose "
        f"training starts at the base anyway, and {human_prior.GAMMA} otherwise",
    )
    parser.add_argument(
        "--hidden",
        type=whole_number(1, LARGEST_WIDTH),
        default=human_prior.HIDDEN,
        help="width of the layers",
    )
    parser.add_argument(
        "--alpha",
        type=number(0.0, LARGEST_ALPHA),
        default=human_prior.ALIGNMENT_WEIGHT,
        help="how much the alignment counts beside denoising, 0: not at all. Much more than "
        "%(default)g outweighs what denoising teaches",
    )
    return parser


def main(arguments: Sequence[str]) -> None:
    """Run `train human_prior`: a prior for a checkpoint, from a folder of photographs."""
    parser = _parser()
    options = parser.parse_args(arguments)
    with plain_errors(parser):
        schedule = begin_training(options)
        base, model, loss = _networks(options)
        size = options.size or base.size
        people = collect_people(options.images, size, task_folders=task_folders(options))
        check_captions([person.caption for person in people], base)
        preview = _preview_people(people[:PREVIEWS], base)
        data = PersonDataset(people, base)
        save = partial(save_prior, model, options.out, base.name)
        with saving(prior_layers(model).state_dict, save, options.out):
            train_prior(model, data, loss, schedule, options.work, preview=preview)


def _networks(options: argparse.Namespace) -> tuple[Base, PriorDenoiser, PriorLoss]:
    """Open the base and build what the options ask for; ValueError for what they can not mean."""
    gamma = options.gamma
    if gamma is None:
        gamma = 0.0 if options.mask == human_prior.KEYS else human_prior.GAMMA
    table = read_table(options.table) if options.table else human_prior.cosine_table()
    features = resnet50(options.encoder) if options.encoder else image_features
    base = open_base(options.checkpoint)
    model = PriorDenoiser(
        base.unet, base.text_encoder, hidden=options.hidden, gamma=gamma, mask=options.mask
    )
    if options.start:
        load_prior(model, options.start)
    denoising = DenoisingLoss(base.tokenizer, forget=0.0)
    return base, model, PriorLoss(denoising, base.pieces, features, options.alpha, table)


def _preview_people(
    people: Sequence[PersonImage], base: Base
) -> Callable[[PriorDenoiser, Path], None]:
    """Build a `preview` for the loop of these people."""
    above = torch.stack([person.rgb for person in people]) / 255
    texts = [person.caption for person in people]
    cells = (above.shape[2] // LATENT_STRIDE, above.shape[3] // LATENT_STRIDE)
    return show_prior(base.tokenizer, base.pieces, texts, above, base.decode, cells)
