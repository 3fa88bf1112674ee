"""Training a human-centric prior on the MODEL wire, as the host's own LoRA trainer does it: the
host's sampling evaluates the network, and a sampler that never samples makes the steps.

Trained are layers that `human_prior.apply` puts beside the keys of a copy of the model. The alignment is
that of `training/human_prior.py`, the objective its denoising without what is made for the mini world.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from ..models import human_prior as maths
from ..models import weights
from . import human_prior

SNR_LIMIT = 5.0  # of the loss's weights (Hang et al. 2023)
CLIP = 1.0  # of the gradients' norm
BASES = {"SD15": "sd15", "SD20": "sd2", "SDXL": "sdxl"}  # the host's names -> vitruvian.base


@dataclass(frozen=True)
class Course:
    """How a prior is trained."""

    steps: int
    batch: int  # pictures of a step
    rate: float
    hidden: int
    gamma: float
    mask: str
    alpha: float  # of the alignment
    seed: int


class Lessons(NamedTuple):
    """N pictures of one size: finished latents [N,C,h,w], a conditioning entry for each, and, if
    there are pose images, features of these, levels of [N,C,H,W].
    """

    latents: Tensor
    texts: Sequence[Any]
    levels: Sequence[Tensor]


def begin(model: Any, course: Course, start: human_prior.Prior | None) -> human_prior.Prior:
    """The prior before its first step: `start`, or layers that change nothing yet. ValueError if
    `start` is for another model.
    """
    attentions = human_prior.cross_attentions(human_prior.unet_of(model))
    if start is not None:
        human_prior.check(start, attentions)
        layers = {place: copy.deepcopy(layer) for place, layer in start.layers.items()}
    else:
        shapes = {place: human_prior.key_shape(own) for place, own in attentions.items()}
        layers = {
            place: maths.PriorLayer(context, inner, course.hidden)
            for place, (inner, context) in shapes.items()
        }
    for layer in layers.values():
        layer.train().requires_grad_(True)
    return human_prior.Prior(layers, course.gamma, course.mask, "the prior in training")


def train(
    model: Any,
    lessons: Lessons,
    course: Course,
    start: human_prior.Prior | None,
    on_step: Callable[[float, human_prior.Prior], None],
) -> human_prior.Prior:
    """Train a prior beside the MODEL, which stays as it is. `on_step` is told each step's loss and
    the prior so far. Pictures whose texts name nobody teach nothing and are left out; ValueError if
    that is all, or `start` does not fit.
    """
    lessons = _that_teach(lessons)
    if not lessons.texts:
        raise ValueError(
            "no text names a person, an action or a pose: encode the texts with Human-Centric "
            "Prompt, whose 'words' shows what it found."
        )
    with torch.inference_mode(False), torch.enable_grad():
        with torch.random.fork_rng(devices=[]):  # other nodes' randomness stays as it is
            torch.default_generator.manual_seed(course.seed)
            prior = begin(model, course, start)
        whole = human_prior.Settings(
            course.gamma, course.mask, dict.fromkeys(human_prior.STAGES, 1.0), 0.0, 1.0
        )
        patched = human_prior.apply(_own(model), prior, whole)
        latents = comfy.sample.fix_empty_latent_channels(patched, _own_tensor(lessons.latents))
        texts = [[_own_tensor(text), _own_tensors(entry)] for text, entry in lessons.texts]
        levels = [_own_tensor(level) for level in lessons.levels]
        sampler = comfy.samplers.KSAMPLER(_steps(prior, levels, course, on_step))
        comfy.sample.sample_custom(
            patched,
            torch.zeros_like(latents),
            1.0,
            sampler,
            torch.tensor([1.0, 0.0]),
            texts,
            texts[:1],
            latents,
            disable_pbar=True,
            seed=course.seed,
        )
    for layer in prior.layers.values():
        layer.eval().requires_grad_(False).cpu()
    return prior


def _that_teach(lessons: Lessons) -> Lessons:
    """Those whose texts have human-centric words."""
    named = [
        k
        for k, (_, entry) in enumerate(lessons.texts)
        if human_prior.HUMAN in entry and entry[human_prior.HUMAN].any()
    ]
    texts = [lessons.texts[k] for k in named]
    return Lessons(lessons.latents[named], texts, [level[named] for level in lessons.levels])


def _own_tensor(value: Tensor) -> Tensor:
    """A copy that is not of the host's inference mode, which nothing is differentiated through."""
    return value.detach().clone()


def _own_tensors(entry: dict[str, Any]) -> dict[str, Any]:
    return {k: _own_tensor(v) if isinstance(v, Tensor) else v for k, v in entry.items()}


def _own(model: Any) -> Any:
    """A clone with weights of its own, not of the host's inference mode either."""
    own, config = model.clone(), model.model.model_config
    own.model = copy.deepcopy(model.model, {id(config): config})  # a config knows no copying
    own.model.requires_grad_(False)
    return own


def _steps(
    prior: human_prior.Prior, levels: Sequence[Tensor], course: Course, on_step: Callable
) -> Callable:
    """A sampler's function that trains instead of sampling."""

    def loop(denoise, x, sigmas, extra_args, callback=None, disable=None):
        for layer in prior.layers.values():
            layer.to(x.device)
        trained = [p for layer in prior.layers.values() for p in layer.parameters()]
        optimizer = torch.optim.AdamW(trained, lr=course.rate, betas=(0.9, 0.99), weight_decay=0.01)
        g = torch.Generator().manual_seed(course.seed)
        guider = denoise.inner_model
        texts = guider.conds["positive"]
        for _ in range(course.steps):
            total = x.new_zeros(())
            for i in torch.randint(len(texts), (course.batch,), generator=g).tolist():
                guider.conds["positive"] = [texts[i]]
                own = [level[i : i + 1] for level in levels]
                with _precision(guider.inner_model, x.device):
                    loss = _loss(
                        denoise, texts[i], denoise.latent_image[i, None], own, course, extra_args, g
                    )
                (loss / course.batch).backward()
                total += loss.detach() / course.batch
            torch.nn.utils.clip_grad_norm_(trained, CLIP)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            on_step(float(total), prior)  # the step's one reading
        return x

    return loop


def _precision(model: Any, device: torch.device) -> torch.autocast:
    """Half precision where the model has it, but with the range that gradients need."""
    return torch.autocast(device.type, torch.bfloat16, enabled=model.get_dtype() != torch.float32)


def _loss(
    denoise: Any,
    text: dict[str, Any],
    z: Tensor,
    levels: Sequence[Tensor],
    course: Course,
    extra_args: dict[str, Any],
    g: torch.Generator,
) -> Tensor:
    """The denoising of one picture at a random noise level, weighted by min(SNR, limit) / SNR, and
    `alpha` times the alignment of its maps.
    """
    sampling = denoise.inner_model.inner_model.model_sampling
    done = float(torch.rand((), generator=g))  # share of the sampling
    sigma = float(sampling.percent_to_sigma(done))
    noise = torch.randn(z.shape, generator=g).to(z)
    seen: list[tuple[str, tuple[int, int], Tensor]] = []

    def record(place: human_prior.Place, chunk: int, share: Any, of_humans: Tensor) -> None:
        seen.append((place[0], maths.map_grid(z.shape[2:], of_humans.shape[-2]), of_humans))

    options = extra_args["model_options"]
    inner = options["transformer_options"]
    if levels and course.alpha > 0:
        inner = {**inner, human_prior.RECORD: record}
    told = {**extra_args, "model_options": {**options, "transformer_options": inner}}
    at = z.new_full((1,), sigma)
    x0 = denoise(z + sigma * noise, at, **told)
    error = ((x0 - z).float() / sigma).square().mean()
    loss = min(1.0, SNR_LIMIT * sigma**2) * error
    if seen:
        human = text[human_prior.HUMAN].to(z.device)[None]
        near = [level.to(z.device) for level in levels]
        share = z.new_full((1,), 1 - done)
        away = maths.weighted_alignment_loss(seen, human, near, share, maths.cosine_table())
        loss = loss + course.alpha * away.mean()
    return loss


def save(prior: human_prior.Prior, path: Path, base: str) -> None:
    """Write a prior's file, whole or not at all."""
    tensors = {
        f"{maths.PREFIX}{'_'.join(map(str, place))}.{name}": tensor.detach().cpu()
        for place, layer in prior.layers.items()
        for name, tensor in layer.state_dict().items()
    }
    facts: dict[str, str | int | float] = {
        "method": "human_prior",
        "version": maths.VERSION,
        "base": base,
        "gamma": prior.gamma,
        "mask": prior.mask,
    }
    weights.save(path, tensors, facts, torch.float16)


def base_of(model: Any) -> str:
    """The model's family, as `vitruvian.base` has it."""
    return BASES.get(type(model.model.model_config).__name__, "mini")
