"""Read which words of a prompt the network attends to in a finished image.

The image's latent is noised again to the noise level of each moment, and the host's own sampling
evaluates the network there once. A patch behind all others of the model computes the ordinary map M
of every cross-attention; every human-centric prior in the chain then reports its own map M_h
(human_prior.RECORD), and adds share (M_h - M) to the combined map.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import comfy.sample
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ..models import human_prior as maths
from ..models.human_attention import word_maps
from . import human_prior, sampling
from .human_prior import Place
from .prompt_entries import acting_entry
from .sampling import run_as_sampler, token_grid, unet_of

NODE = "Show Human Attention"

Maps = dict[Place, Tensor]  # of each cross-attention: [words, h, w]


class MomentMaps(NamedTuple):
    """What the network attends to at one moment of the sampling."""

    ordinary: Maps  # with all priors silent
    with_priors: Maps | None  # None: the model has no prior


class Prompt(NamedTuple):
    """The text whose maps are read, as one conditioning entry that counts everywhere and always."""

    conditioning: Any
    columns: Sequence[Sequence[int]]  # of each word: the positions of its tokens

    @property
    def length(self) -> int:
        """Number of the text's tokens."""
        return self.conditioning[0][0].shape[1]


def read_maps(
    model: Any,
    conditioning: Any,
    samples: Tensor,
    moments: Sequence[float],
    seed: int,
    columns: Sequence[Sequence[int]],
    on_step: Callable[[int], Any],
) -> list[MomentMaps]:
    """Read the maps of words at moments of the sampling, shares of it in 0 to 1.

    For the first of the finished latents [B, C, h, w] and the prompt that acts then. `columns`
    holds the token positions of each word. `on_step` is called with 1 after each moment. ValueError
    for models that are no UNet or attend to other texts.
    """
    unet_of(model, NODE)
    latent = comfy.sample.fix_empty_latent_channels(model, samples[:1].float())
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))
    has_prior = bool(model.get_wrappers(WrappersMP.APPLY_MODEL, human_prior.KEY))

    def evaluate(moment: float, off: bool) -> Maps:
        prompt = Prompt([acting_entry(conditioning, moment)], columns)
        recorder = _Recorder(prompt, off)
        sigma = _sigma(model, moment)
        run_as_sampler(
            model, recorder.evaluate, latent, (prompt.conditioning,) * 2, sigma, noise, seed
        )
        return recorder.maps()

    results = []
    for moment in moments:
        ordinary = evaluate(moment, off=True)
        with_priors = evaluate(moment, off=False) if has_prior else None
        results.append(MomentMaps(ordinary, with_priors))
        on_step(1)
    return results


def _sigma(model: Any, moment: float) -> float:
    """A noise level that the network was trained for; the host has others for 0 and 1."""
    model_sampling = model.get_model_object("model_sampling")
    lowest, highest = float(model_sampling.sigma_min), float(model_sampling.sigma_max)
    return min(highest, max(lowest, float(model_sampling.percent_to_sigma(moment))))


class _Recorder:
    """Records the maps of one evaluation; `off`: as if the model had no priors."""

    def __init__(self, prompt: Prompt, off: bool) -> None:
        self._prompt, self._off = prompt, off
        self._maps: dict[Place, list[Tensor]] = defaultdict(list)  # of each call of the network
        self._ordinary: Maps = {}  # of the latest call
        self._attentions: Mapping[Place, nn.Module] = {}
        self._uuid: Any = None  # of the prompt's conditioning entry
        self._number: int | None = None  # of the prompt's chunk in this call

    def evaluate(self, denoise, x, sigmas, extra_args, callback=None, disable=None):
        """Evaluate the network once, in a sampler's place."""
        guider = denoise.inner_model
        self._attentions = human_prior.cross_attentions(guider.inner_model.diffusion_model)
        self._uuid = guider.conds["positive"][0]["uuid"]
        options = sampling.with_options(
            sampling.options_of(extra_args),
            **{human_prior.RECORD: self._combine, human_prior.OFF: self._off},
        )
        options = sampling.with_patch(options, "attn2_patch", self._record_ordinary)
        denoise(x, sigmas[:1], **sampling.replace_options(extra_args, options))
        return x

    def maps(self) -> Maps:
        """Return the maps of the first call: a guidance may have called the network again."""
        if not self._maps:
            raise ValueError(_wrong_texts("replaces the prompt"))
        return {place: maps[0] for place, maps in self._maps.items()}

    def _record_ordinary(self, n: Tensor, context: Tensor, value: Tensor, extra: dict[str, Any]):
        """An attention patch that changes nothing."""
        uuids = extra["uuids"]
        self._number = uuids.index(self._uuid) if self._uuid in uuids else None
        if self._number is not None:
            # a couple multiplies the rows of the attention, and may say so
            if len(n) != extra["original_shape"][0]:
                raise ValueError(_wrong_texts("changes the batch"))
            row = sampling.chunks(len(n), extra)[self._number].rows.start
            place = *extra["block"], extra["block_index"]
            layer = self._attentions[place]
            attention = _fold(
                _ordinary_map(layer, n[row, None], context[row, None], extra), self._prompt.length
            )
            ordinary = word_maps(attention, self._prompt.columns, token_grid(extra))
            self._ordinary[place] = ordinary
            self._maps[place].append(ordinary)
        return n, context, value

    def _combine(self, place: Place, number: int, share: Any, human_map: Tensor) -> None:
        """Add what a prior's map [batch, heads, N, T] changes in the ordinary one of its place."""
        if number != self._number:
            return
        ordinary = self._ordinary[place]
        grid = ordinary.shape[-2], ordinary.shape[-1]
        human = word_maps(human_map[0], self._prompt.columns, grid)
        local = share.float().cpu().view(grid) if isinstance(share, Tensor) else share
        self._maps[place][-1] = self._maps[place][-1] + local * (human - ordinary)


def _ordinary_map(attention: Any, n: Tensor, context: Tensor, extra: dict[str, Any]) -> Tensor:
    """The map M [heads, N, T]."""
    q, k = attention.to_q(n).float(), attention.to_k(context).float()
    return maths.attention_map(q, k, extra["n_heads"])[0]


def _fold(attention: Tensor, tokens: int) -> Tensor:
    """Sum a map [heads, N, T] over the repetitions of its text, which the host repeats to the
    length of a longer one beside it.
    """
    count = attention.shape[-1]
    if count % tokens:
        return attention
    return attention.unflatten(-1, (count // tokens, tokens)).sum(-2)


def _wrong_texts(what: str) -> str:
    return (
        f"another node in the model's chain (Compose Instances or an attention couple) {what}, so "
        "the prompt has no map of its own. Connect the model and the conditioning as they are "
        "before that node."
    )
