"""How well a human prior denoises people, and where it looks: on the true latents of unseen scenes,
noised to some steps, without sampling.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.utils import parametrize

from ...models import human_prior, weights
from ..recipes.human_prior import HUMAN_PRIOR
from ..recipes.lora import LAYERS, LORA
from ..training import convert, low_rank, preview
from ..training.human_prior import human_tokens
from ..training.human_prior_unet import PriorDenoiser, load_prior
from ..training.networks import build_scheduler
from ..training.tokens import WordTokenizer, word_pieces
from ..world.captions import scene_caption
from ..world.renderer import render
from ..world.scenes import Scenes
from .human_prior_ways import BASE, LOW_RANK, PRIOR, arm_files

STEPS = (980, 900, 700, 400, 100)  # of the training's 1000, from noise to image
BATCH = 20


class NoisyPeople(NamedTuple):
    """Hold N true scenes and the noise that every way has to find in them."""

    latents: Tensor  # [N,4,h,w]
    noise: Tensor  # [steps,N,4,h,w]
    ids: Tensor  # of the captions [N,77]
    human: Tensor  # which of them name people and actions [N,77]
    silhouettes: Tensor  # where somebody is [N,1,H,W]


class Denoised(NamedTuple):
    """Hold what one way did with N scenes at S steps."""

    errors: Tensor  # [N,S] mean square of the noise that was missed
    cosines: Tensor  # [N,S] of the human words' maps and the silhouette, mean over words and layers


def noisy_people(scenes: Scenes) -> NoisyPeople:
    """Encode scenes of one person each and draw noise for every step."""
    checkpoint, truth = convert.load_checkpoint(preview.CHECKPOINT), render(scenes)
    tokenizer = WordTokenizer.from_file(token_ids=checkpoint.token_ids)
    with torch.no_grad():
        chunks = truth.rgb.split(BATCH)
        latents = torch.cat([preview.encode(checkpoint, chunk) for chunk in chunks])
    ids = tokenizer([scene_caption(scenes, i) for i in range(len(scenes))])
    return NoisyPeople(
        latents,
        torch.randn((len(STEPS), *latents.shape), generator=torch.Generator().manual_seed(0)),
        ids,
        human_tokens(word_pieces(tokenizer.words), ids),
        (truth.instance >= 0).float()[:, None],
    )


def denoisers() -> dict[str, Callable[[], PriorDenoiser]]:
    """List the ways, each as a function that loads its network.

    The base and the LoRA get layers that change nothing, so that their maps can be read, too.
    """
    priors = {PRIOR: HUMAN_PRIOR, **arm_files()}
    return {
        BASE: _open_base,
        LOW_RANK: _open_low_rank,
        **{name: partial(open_prior, file) for name, file in priors.items()},
    }


def open_prior(file: Path) -> PriorDenoiser:
    """Load the base with a prior of a file, as it was trained."""
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    tensors, facts = weights.load(file, method="human_prior", version=human_prior.VERSION)
    hidden = next(len(t) for name, t in tensors.items() if name.endswith("net.0.weight"))
    model = PriorDenoiser(
        checkpoint.unet,
        checkpoint.text_encoder,
        hidden=hidden,
        gamma=float(facts["gamma"]),
        mask=facts["mask"],
    )
    load_prior(model, file)
    return model


def _open_base() -> PriorDenoiser:
    return _silent_prior(convert.load_checkpoint(preview.CHECKPOINT))


def _open_low_rank() -> PriorDenoiser:
    checkpoint, changes = convert.load_checkpoint(preview.CHECKPOINT), load_file(LORA)
    rank = max(len(t) for name, t in changes.items() if name.endswith("lora_down.weight"))
    low_rank.add_low_rank(checkpoint.unet, rank, LAYERS)
    low_rank.set_low_rank(checkpoint.unet, changes)
    for module in checkpoint.unet.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")  # the changed weight stays
    return _silent_prior(checkpoint)


def _silent_prior(checkpoint: convert.Checkpoint) -> PriorDenoiser:
    return PriorDenoiser(checkpoint.unet, checkpoint.text_encoder, gamma=0.0, mask=human_prior.KEYS)


@torch.no_grad()
def denoise(model: PriorDenoiser, people: NoisyPeople) -> Denoised:
    """Let a network find the noise of every step in every scene."""
    noises = build_scheduler()
    results = []
    for step, noise in zip(STEPS, people.noise, strict=True):
        t = torch.full((len(noise),), step)
        noisy = noises.add_noise(people.latents, noise, t)  # type: ignore[arg-type]
        parts = []
        for rows in torch.arange(len(noise)).split(BATCH):
            predicted, maps = model(noisy[rows], t[rows], people.ids[rows], people.human[rows])
            errors = (predicted - noise[rows]).square().mean((1, 2, 3))
            parts.append((errors, _on_bodies(maps, people, rows)))
        results.append([torch.cat(part) for part in zip(*parts, strict=True)])
    errors, cosines = zip(*results, strict=True)
    return Denoised(torch.stack(errors, 1), torch.stack(cosines, 1))


def _on_bodies(maps: dict[str, Tensor], people: NoisyPeople, rows: Tensor) -> Tensor:
    """Compute the cosine of the maps [b,heads,N,77] and the silhouettes, [b]."""
    size, human = people.latents.shape[2:], people.human[rows]
    cosines = []
    for layer_map in maps.values():
        grid = human_prior.map_grid(size, layer_map.shape[-2])
        away = human_prior.alignment_loss(layer_map, human, people.silhouettes[rows], grid)
        cosines.append(1 - away / human.sum(1))
    return torch.stack(cosines).mean(0)


def flat_cosines(model: PriorDenoiser, people: NoisyPeople) -> Tensor:
    """Compute the same cosine [N] of maps that look everywhere alike: what shows nothing."""
    rows = torch.arange(1)
    t = torch.full((1,), STEPS[0])
    with torch.no_grad():
        _, maps = model(people.latents[rows], t, people.ids[rows], people.human[rows])
    everything = torch.arange(len(people.latents))
    flat = {
        place: torch.ones(len(everything), 1, *layer_map.shape[-2:])
        for place, layer_map in maps.items()
    }
    return _on_bodies(flat, people, everything)
