"""Train a human-centric prior on the MODEL wire, as the host's own LoRA trainer works: the host
prepares a sampling and evaluates the network, and the training loop runs in the sampler's place.

Only the layers beside the keys of a copy of the model are trained. The alignment loss is that of
`lab/training/human_prior.py`; the denoising loss weighs noise levels by min(SNR, limit) / SNR.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import comfy.model_management
import comfy.sample
import torch
from torch import Tensor

from ..models import human_prior as maths
from ..models import weights
from . import human_prior
from .sampling import options_of, replace_options, run_as_sampler, unet_of, with_options

NODE, SAVE_NODE = "Train Human Prior", "Save Human Prior"
SNR_LIMIT = 5.0  # of the loss's weights (Hang et al. 2023)
LARGEST_NORM = 1.0  # of all gradients together
LARGEST_WIDTH, LARGEST_SEED = 65_536, 2**64 - 1
SLOWEST, LARGEST_GAMMA = 1e-12, 1.0
BASES = {"SD15": "sd15", "SD20": "sd2", "SDXL": "sdxl"}  # the host's names -> vitruvian.base


@dataclass(frozen=True)
class Config:
    """How a prior is trained."""

    steps: int
    batch_size: int  # images of one step
    learning_rate: float
    hidden: int
    gamma: float
    mask: str  # of human_prior.MASKS
    alignment_weight: float
    seed: int

    def check(self) -> None:
        """Raise ValueError for numbers that no training can have; a wire can carry any."""
        for name, value, least, most in (
            ("steps", self.steps, 1, math.inf),
            ("samples_per_step", self.batch_size, 1, math.inf),
            ("hidden_size", self.hidden, 1, LARGEST_WIDTH),
            ("learning_rate", self.learning_rate, SLOWEST, 1.0),
            ("train_gamma", self.gamma, 0.0, LARGEST_GAMMA),
            ("alignment_weight", self.alignment_weight, 0.0, math.inf),
            ("seed", self.seed, 0, LARGEST_SEED),
        ):
            if not (least <= value <= most and math.isfinite(value)):  # nor NaN
                upper = "" if math.isinf(most) else f" to {most:g}"
                raise ValueError(f"'{name}' must be a number from {least:g}{upper}, not {value}.")
        if self.mask not in maths.MASKS:
            masks = ", ".join(f"'{mask}'" for mask in maths.MASKS)
            raise ValueError(f"'train_mask_tokens' is one of {masks}, not '{self.mask}'.")


class TrainingSet(NamedTuple):
    """N images of one size, their texts and their poses."""

    latents: Tensor  # finished, [N, C, h, w]
    texts: Sequence[Any]  # a conditioning entry of each image
    levels: Sequence[Tensor]  # features of the pose images, each [N, C, H, W]; may be empty


def initial_prior(model: Any, config: Config, start: human_prior.Prior | None) -> human_prior.Prior:
    """Make the prior before its first step: a copy of `start`, or layers that change nothing yet.
    ValueError if `start` is for another model.
    """
    attentions = human_prior.cross_attentions(unet_of(model, NODE))
    if start is not None:
        human_prior.check_fit(start, attentions)
        layers = {place: copy.deepcopy(layer) for place, layer in start.layers.items()}
    else:
        shapes = {place: human_prior.key_shape(layer) for place, layer in attentions.items()}
        layers = {
            place: maths.PriorLayer(context, inner, config.hidden)
            for place, (inner, context) in shapes.items()
        }
    for layer in layers.values():
        layer.train().requires_grad_(True)
    return human_prior.Prior(layers, config.gamma, config.mask, "the prior in training")


def train(
    model: Any,
    training_set: TrainingSet,
    config: Config,
    start: human_prior.Prior | None,
    on_step: Callable[[float, human_prior.Prior], None],
) -> human_prior.Prior:
    """Train a prior beside the MODEL, which stays as it is.

    `on_step` is called with each step's loss and the prior so far. Images whose texts name nobody
    teach nothing and are left out; ValueError if none remains, if `start` does not fit, and if a
    number is not finite: one of the inputs, or the loss, before it reaches the prior.
    """
    config.check()
    _check_finite(training_set)
    training_set = _with_human_words(training_set)
    if not training_set.texts:
        raise ValueError(
            "no text names a person, an action or a pose: encode the texts with Encode Human "
            "Prompt, whose output 'words' lists the words that it marked."
        )
    with torch.inference_mode(False), torch.enable_grad():
        with torch.random.fork_rng(devices=[]):  # other nodes' randomness stays as it is
            torch.default_generator.manual_seed(config.seed)
            prior = initial_prior(model, config, start)
        strengths = dict.fromkeys(human_prior.STAGES, 1.0)
        settings = human_prior.Settings(config.gamma, config.mask, strengths, 0.0, 1.0)
        patched = human_prior.apply(_copy_model(model), prior, settings)
        latents = _trainable(training_set.latents)
        latents = comfy.sample.fix_empty_latent_channels(patched, latents)
        texts = [[_trainable(text), _trainable_entry(entry)] for text, entry in training_set.texts]
        levels = [_trainable(level) for level in training_set.levels]
        loop = _training_loop(prior, levels, config, on_step)
        run_as_sampler(patched, loop, latents, (texts, texts[:1]), 1.0, seed=config.seed)
    for layer in prior.layers.values():
        layer.eval().requires_grad_(False).cpu()
    return prior


def _check_finite(training_set: TrainingSet) -> None:
    """Raise ValueError for images, texts or poses that hold NaN or infinity."""
    for name, tensors in (
        ("latents", [training_set.latents]),
        ("positive", [text for text, _ in training_set.texts]),
        ("pose_images", training_set.levels),
    ):
        if not all(weights.is_finite(tensor) for tensor in tensors):
            raise ValueError(
                f"'{name}' holds numbers that are not finite (NaN): look at what makes it, such as "
                "a VAE in half precision or a damaged file."
            )


def _with_human_words(training_set: TrainingSet) -> TrainingSet:
    """The images whose texts have human-centric words."""
    rows = [
        k
        for k, (_, entry) in enumerate(training_set.texts)
        if human_prior.HUMAN in entry and entry[human_prior.HUMAN].any()
    ]
    return TrainingSet(
        training_set.latents[rows],
        [training_set.texts[k] for k in rows],
        [level[rows] for level in training_set.levels],
    )


def _trainable(value: Tensor) -> Tensor:
    """A copy outside the host's inference mode, in which nothing can be differentiated."""
    return value.detach().clone()


def _trainable_entry(entry: dict[str, Any]) -> dict[str, Any]:
    return {k: _trainable(v) if isinstance(v, Tensor) else v for k, v in entry.items()}


def _copy_model(model: Any) -> Any:
    """A clone with weights of its own, outside the host's inference mode too."""
    clone, config = model.clone(), model.model.model_config
    clone.model = copy.deepcopy(model.model, {id(config): config})  # a config can not be copied
    clone.model.requires_grad_(False)
    return clone


def _training_loop(
    prior: human_prior.Prior, levels: Sequence[Tensor], config: Config, on_step: Callable
) -> Callable:
    """Make the function that trains in a sampler's place."""

    def loop(denoise, x, sigmas, extra_args, callback=None, disable=None):
        for layer in prior.layers.values():
            layer.to(x.device)
        parameters = [p for layer in prior.layers.values() for p in layer.parameters()]
        optimizer = torch.optim.AdamW(
            parameters, lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.01
        )
        generator = torch.Generator().manual_seed(config.seed)
        loss_of = _Loss(denoise, config, extra_args, generator)
        guider = denoise.inner_model
        texts = guider.conds["positive"]
        for step in range(config.steps):
            total = x.new_zeros(())
            rows = torch.randint(len(texts), (config.batch_size,), generator=generator)
            for i in rows.tolist():
                comfy.model_management.throw_exception_if_processing_interrupted()
                guider.conds["positive"] = [texts[i]]
                latent = denoise.latent_image[i, None]
                with _precision(guider.inner_model, x.device):
                    loss = loss_of(texts[i], latent, [level[i : i + 1] for level in levels])
                (loss / config.batch_size).backward()
                total += loss.detach() / config.batch_size
            norm = torch.nn.utils.clip_grad_norm_(parameters, LARGEST_NORM)
            # the step's one reading from the GPU
            loss_value, size = torch.stack((total.float(), norm.float())).tolist()
            if not math.isfinite(loss_value + size):
                raise ValueError(
                    f"the loss of step {step + 1} is no finite number ({loss_value:g}), and what "
                    "follows would be lost: train with a lower 'learning_rate' than "
                    f"{config.learning_rate:g}."
                )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            on_step(loss_value, prior)
        return x

    return loop


def _precision(model: Any, device: torch.device) -> torch.autocast:
    """Half precision where the model has it, but with the range that gradients need."""
    return torch.autocast(device.type, torch.bfloat16, enabled=model.get_dtype() != torch.float32)


@dataclass(frozen=True)
class _Loss:
    """The loss of one image at a random noise level."""

    denoise: Any
    config: Config
    extra_args: dict[str, Any]
    generator: torch.Generator

    def __call__(self, text: dict[str, Any], z: Tensor, levels: Sequence[Tensor]) -> Tensor:
        """Denoising, weighted by min(SNR, limit) / SNR, and the weighted alignment of its maps.

        text: the image's conditioning entry; z [1, C, h, w]; levels: its pose features.
        """
        model_sampling = self.denoise.inner_model.inner_model.model_sampling
        percent = float(torch.rand((), generator=self.generator))
        sigma = float(model_sampling.percent_to_sigma(percent))
        noise = torch.randn(z.shape, generator=self.generator).to(z)
        maps: list[tuple[str, tuple[int, int], Tensor]] = []

        def record(place: human_prior.Place, chunk: int, share: Any, human_map: Tensor) -> None:
            maps.append((place[0], maths.map_grid(z.shape[2:], human_map.shape[-2]), human_map))

        options = options_of(self.extra_args)
        if levels and self.config.alignment_weight > 0:
            options = with_options(options, **{human_prior.RECORD: record})
        extra_args = replace_options(self.extra_args, options)
        x0 = self.denoise(z + sigma * noise, z.new_full((1,), sigma), **extra_args)
        error = ((x0 - z).float() / sigma).square().mean()
        loss = min(1.0, SNR_LIMIT * sigma**2) * error
        if maps:
            human = text[human_prior.HUMAN].to(z.device)[None]
            features = [level.to(z.device) for level in levels]
            share = z.new_full((1,), 1 - percent)
            table = maths.cosine_table()
            alignment = maths.weighted_alignment_loss(maps, human, features, share, table)
            loss = loss + self.config.alignment_weight * alignment.mean()
        return loss


def save(prior: human_prior.Prior, path: Path, base: str) -> None:
    """Write a prior's file. An interrupted write leaves no file."""
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
        maths.COUNT: len(prior.layers),
    }
    weights.save(path, tensors, facts, torch.float16)


def base_of(model: Any) -> str:
    """Name the MODEL's family for `vitruvian.base` in a file; ValueError if it is no UNet."""
    unet_of(model, SAVE_NODE)
    return BASES.get(type(model.model.model_config).__name__, "mini")
