"""Bodies from text alone: the human-centric prior against what else one can train on the same data.

On unseen prompts of the mini world that each name an action, through the host's own nodes, the same
seed for all:
  base      the checkpoint as it is
  human_prior       with the human-centric prior
  lora      with a low-rank change of its attention, as many numbers and steps, the same data
  finetune  all of its UNet trained on, as many steps, the same data
`train mini human-prior lora human-prior-finetuned` makes them; what has no file is left out.
  <x>_anatomy  share of images whose body has every limb once and of human proportions
  <x>_action   share whose pose is the action's that the prompt names
  <x>_fd       Frechet distance of the pose network's features to true images'
  <x>_drift    mean difference to the base's image outside the bodies
  cost         sampling time with the prior over that without, taken in turns
`ceiling`: the evaluators on the true images after a round trip through the VAE.
Ablations are read on some of the prompts, with the base's and the prior's numbers there:
settings of the same prior, and priors trained otherwise (`train mini human-prior-ablations`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from ...models import human_attention as word_attention
from ...models.mini import IMAGE_SIZE
from ..evaluators import bodies, posenet
from ..recipes.human_prior import ABLATIONS, FINETUNED, HUMAN_PRIOR
from ..recipes.lora import LORA
from ..recipes.recipe import BASELINES
from ..training import convert, preview
from ..world.captions import scene_caption
from ..world.renderer import render
from ..world.scenes import FULL, sample_scenes
from . import host
from .mini import RESULTS, UNSEEN

SHOWN = 6
MOMENT = 0.3  # share of the sampling at which maps are shown
PEOPLE = ("woman", "man", "body")
STRENGTHS = (0.5, 1.5, 2.0)

BATCH = 20  # prompts generated at once
Generate = Callable[[Sequence[str], int], Tensor]  # B prompts and a seed -> [B,3,H,W]


def run(quick: bool) -> dict[str, float]:
    """Measure the human prior against its baselines; the numbers of results/human_prior.json.

    Also writes human_prior.jpg beside it: a row per prompt, from left to right base, lora,
    human_prior, and the attention maps of the named action of base and human_prior.
    """
    count, few, reference_count = (8, 1, 200) if quick else (500, 20, 1000)
    loaded = host.load(preview.CHECKPOINT.name, preview.POSE_CONTROLNET.name)
    scenes = sample_scenes(count, UNSEEN + 300, framing=FULL, people=1)
    prompts = [scene_caption(scenes, i) for i in range(count)]
    alike = _alike(loaded, prompts)
    images_by_way, seconds = _in_turns(_baselines(loaded), prompts, alike)
    images_by_way["ceiling"] = _round_trip(render(scenes).rgb)
    judge = Judge(scenes.people.action, images_by_way["base"], reference_count)
    numbers: dict[str, float] = {"prompts": count}
    for name, images in images_by_way.items():
        numbers |= judge.of(name, images)
    numbers["cost"] = seconds["human_prior"] / seconds["base"]
    first = alike[:few]
    rows = sorted(i for group in first for i in group)
    numbers["ablation_prompts"] = len(rows)
    ablation_images = {name: images_by_way[name][rows] for name in ("base", "human_prior")}
    ablation_images |= _in_turns(_ablations(loaded), prompts, first)[0]
    for name, images in ablation_images.items():
        numbers |= judge.of(f"ablation_{name}", images, rows)
    _show(loaded, images_by_way, prompts)
    return numbers


class Judge:
    """Compare images with true bodies and with the base's images."""

    def __init__(self, actions: Tensor, base: Tensor, reference_count: int) -> None:
        self.net, self.actions, self.base = posenet.load_posenet(), actions, base
        self.base_read = bodies.read(self.net, base)
        true = sample_scenes(reference_count, UNSEEN + 301, framing=FULL, people=1)
        drawn = render(true)
        self.fidelity = bodies.read(self.net, drawn.rgb).features
        read = bodies.read(self.net, _round_trip(drawn.rgb))
        self.true = bodies.Bodies(read, bodies.shape_of(drawn.body[..., :2]), true.people.action)

    def of(self, name: str, images: Tensor, rows: Sequence[int] | None = None) -> dict[str, float]:
        """Measure images [B,3,H,W] of these prompts, or of all."""
        at = torch.arange(len(self.base)) if rows is None else torch.tensor(rows)
        read = bodies.read(self.net, images)
        named = bodies.name_actions(read.joints, self.true) == self.actions[at]
        before = self.base_read.joints[at]
        return {
            f"{name}_anatomy": float(bodies.are_complete(read, self.true).float().mean()),
            f"{name}_action": float(named.float().mean()),
            f"{name}_fd": bodies.frechet(read.features, self.fidelity),
            f"{name}_drift": bodies.drift(images, self.base[at], read.joints, before),
        }


def _baselines(loaded: host.Loaded) -> dict[str, Generate]:
    import comfy.sd

    generators = {
        "base": _plain(loaded, loaded.model),
        "human_prior": _with_prior(loaded, HUMAN_PRIOR),
    }
    with torch.inference_mode():
        if LORA.is_file():
            changed, _ = comfy.sd.load_lora_for_models(loaded.model, None, load_file(LORA), 1.0, 0)
            generators["lora"] = _plain(loaded, changed)
        if FINETUNED.is_file():
            other = comfy.sd.load_checkpoint_guess_config(str(FINETUNED), output_vae=False)[0]
            generators["finetune"] = _plain(loaded, other)
    return generators


def _ablations(loaded: host.Loaded) -> dict[str, Generate]:
    """The prior with other settings, and priors trained in other ways."""
    ways = {f"strength_{value:g}": _with_prior(loaded, HUMAN_PRIOR, value) for value in STRENGTHS}
    for name in ABLATIONS:
        file = BASELINES / f"{name}.safetensors"
        if file.is_file():
            ways[name] = _with_prior(loaded, file)
    return ways


def _plain(loaded: host.Loaded, model: Any) -> Generate:
    def generate(prompts: Sequence[str], seed: int) -> Tensor:
        return _sample(loaded, model, host.text(loaded, *prompts), seed)

    return generate


def _with_prior(loaded: host.Loaded, file: Path, strength: float = 1.0) -> Generate:
    """Of prompts whose human-centric words stand at the same places."""
    model = _patched(loaded, file, strength)

    def generate(prompts: Sequence[str], seed: int) -> Tensor:
        each = [_marked(loaded, prompt)[0] for prompt in prompts]
        positive = [[torch.cat([text for text, _ in each]), each[0][1]]]
        return _sample(loaded, model, positive, seed)

    return generate


def _patched(loaded: host.Loaded, file: Path, strength: float = 1.0) -> Any:
    from ...host import human_prior as prior

    with torch.inference_mode():
        prior_weights = prior.load(file)
        stages = dict.fromkeys(prior.STAGES, strength)
        return prior.apply(
            loaded.model,
            prior_weights,
            prior.Settings(prior_weights.gamma, prior_weights.mask, stages, 0.0, 1.0),
        )


def _marked(loaded: host.Loaded, prompt: str) -> Any:
    """The prompt as Human-Centric Prompt encodes it."""
    from ...host import human_prior as prior

    with torch.inference_mode():
        return prior.encode_prompt(loaded.clip, prompt, (), ())[0]


def _sample(loaded: host.Loaded, model: Any, positive: Any, seed: int) -> Tensor:
    latent = host.empty(IMAGE_SIZE, len(positive[0][0]))
    latent_out = host.sample(model, positive, host.text(loaded, ""), latent, seed)
    return host.decode(loaded, latent_out)


def _alike(loaded: host.Loaded, prompts: Sequence[str]) -> list[list[int]]:
    """Which prompts can be generated together, because the same tokens of them are marked."""
    from ...host import human_prior as prior

    groups: dict[tuple[bool, ...], list[int]] = {}
    for i, prompt in enumerate(prompts):
        marks = _marked(loaded, prompt)[0][1][prior.HUMAN]
        groups.setdefault(tuple(marks.tolist()), []).append(i)
    return [g[k : k + BATCH] for g in groups.values() for k in range(0, len(g), BATCH)]


def _in_turns(
    generators: Mapping[str, Generate], prompts: Sequence[str], groups: Sequence[Sequence[int]]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """All images by every generator, group after group, and the seconds each took in all."""
    images_by_way: dict[str, dict[int, Tensor]] = {name: {} for name in generators}
    seconds = dict.fromkeys(generators, 0.0)
    for generate in generators.values():
        generate(prompts[:1], 0)  # the first run loads and warms up
    for rows in tqdm(groups, desc="generate"):
        group = [prompts[i] for i in rows]
        for name, generate in generators.items():
            start = time.perf_counter()
            images = generate(group, rows[0])
            seconds[name] += time.perf_counter() - start
            images_by_way[name] |= dict(zip(rows, images, strict=True))
    ordered = {name: [images[i] for i in sorted(images)] for name, images in images_by_way.items()}
    return {name: torch.stack(images) for name, images in ordered.items()}, seconds


def _round_trip(images: Tensor) -> Tensor:
    """Images after the autoencoder, which all generated ones have passed."""
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    with torch.no_grad():
        return torch.cat(
            [
                preview.decode(checkpoint, preview.encode(checkpoint, chunk))
                for chunk in images.split(32)
            ]
        )


def _show(loaded: host.Loaded, images_by_way: Mapping[str, Tensor], prompts: Sequence[str]) -> None:
    """The sheet of the first prompts."""
    columns = [
        images_by_way[name] for name in ("base", "lora", "human_prior") if name in images_by_way
    ]
    rows = []
    for i in range(min(SHOWN, len(prompts))):
        rows += [column[i] for column in columns]
        rows += _maps(loaded, prompts[i], images_by_way["human_prior"][i], i)
    RESULTS.mkdir(exist_ok=True)
    preview.save_sheet(torch.stack(rows), RESULTS / "human_prior.jpg", columns=len(columns) + 2)


@torch.inference_mode()
def _maps(loaded: host.Loaded, prompt: str, image: Tensor, seed: int) -> list[Tensor]:
    """The finest maps of the named action over the prior's image, without the prior and with it,
    alike bright.
    """
    from ...host import human_attention
    from ...host import human_prior as prior

    positive = _marked(loaded, prompt)
    words = word_attention.marked_positions(
        positive[0][1][prior.WORDS], positive[0][1][prior.HUMAN].tolist()
    )
    columns = [tokens for word, tokens in words.items() if word not in PEOPLE]
    latent = loaded.vae.encode(image.movedim(0, -1)[None])
    (look,) = human_attention.read_maps(
        _patched(loaded, HUMAN_PRIOR),
        positive,
        latent,
        (MOMENT,),
        seed,
        columns[:1],
        lambda _: None,
    )
    assert look.with_priors is not None
    attention = [
        word_attention.average_layers(maps.values()) for maps in (look.ordinary, look.with_priors)
    ]
    finest = [next(iter(grids.values()))[0] for grids in attention]
    most = max(float(grid.max()) for grid in finest)
    ground = image.movedim(0, -1)
    return [word_attention.overlay_map(grid, most, ground).movedim(-1, 0) for grid in finest]
