"""What composing costs on each family of networks at its true size, and how exact it is.

Each network has its published widths and depths, 1024 x 1024 pixels, and prompts as long as the
family's text encoder makes a sentence of 40 words. One call of the network for the positive prompt
is counted, without values, through the host's own sampling (counting.py). For N = 2, 4 and 8
people in columns of the image, over one plain person:
  <family>_<mode>_ops_N     multiply-adds of all products of matrices. A masked attention counts all
                            pairs of tokens, as kernels compute them
  <family>_<mode>_peak_N    bytes of all tensors in the network that live at once, weights left
                            out, on a card with room for no more than one plain call
  <family>_<mode>_memory_N  bytes of queries, keys, values and mask of the largest attention. What a
                            kernel needs beside them is its own matter
Of tiny networks of the same kinds with random weights, on the CPU:
  <family>_exact_error      two people, half of the image each, and a plain loop over the people,
                            mixed before the network's head
  <family>_couple_error     one of two people has the entire image, and that person alone
Errors are the largest difference over the largest value. `<family>_prompt_effect` is the same
between the two people alone: what errors would be if prompts were mixed up.
`<family>_parameters` is in billions, `<family>_plain_ops` in 10^12 floating-point operations (two
per multiply-add), `<family>_text_tokens` the length of a prompt. couple needs at most 1.3 and exact
at most 4.2 times the operations of one person for four people: `above_bars` lists what needs more.
Where a family has not the mode couple, `<family>_couple_refused` says why, and costs are not
counted: its attention can not be told anything, not even to count.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from ...host import compose
from ...host.compose.families import compose_family
from ...host.sampling import run_as_sampler
from ...models.compose import PersonLora
from . import counting, networks
from .counting import SAMPLED

log = logging.getLogger(__name__)
MODES = (compose.EXACT, compose.COUPLE)
PEOPLE = (2, 4, 8)
BARS = {compose.EXACT: 4.2, compose.COUPLE: 1.3}  # for four people
PIXELS, TINY_CELLS = 1024, 16
QUICK = ("sd15", "flux1", "z_image", "anima")


def run(quick: bool) -> dict[str, Any]:
    """Count and compare on all families; the numbers of results/families.json."""
    numbers: dict[str, Any] = {}
    for key in QUICK if quick else networks.FAMILIES:
        log.info("%s", key)
        numbers |= errors(key)
        if f"{key}_couple_error" in numbers:
            numbers |= costs(key)
    numbers["above_bars"] = [
        name
        for mode, bar in BARS.items()
        for name, value in numbers.items()
        if name.endswith(f"_{mode}_ops_4") and value > bar
    ]
    return numbers


def costs(key: str) -> dict[str, float]:
    """Count one call of the network of a family, alone and for N people."""
    model, negative = networks.true_network(key), networks.prompt(key)
    latent = networks.empty_latent(model, PIXELS)["samples"]
    plain = counting.cost(model, networks.prompt(key), negative, latent)
    weights = model.model.diffusion_model.parameters()
    numbers: dict[str, float] = {
        f"{key}_parameters": sum(weight.numel() for weight in weights) / 1e9,
        f"{key}_text_tokens": networks.FAMILIES[key].tokens,
        f"{key}_plain_ops": plain.operations / 1e12,
    }
    for mode in MODES:
        for count in PEOPLE:
            people = [networks.prompt(key, seed=number) for number in range(count)]
            composed = composition(model, people, columns(count), mode)
            composed_cost = counting.cost(*composed, latent)
            numbers[f"{key}_{mode}_ops_{count}"] = composed_cost.operations / plain.operations
            numbers[f"{key}_{mode}_memory_{count}"] = (
                composed_cost.attention_bytes / plain.attention_bytes
            )
            numbers[f"{key}_{mode}_peak_{count}"] = composed_cost.peak_bytes / plain.peak_bytes
    return numbers


def errors(key: str) -> dict[str, Any]:
    """Compare compositions of two people on the tiny network of a family with plain calls.

    Where a family has not the mode couple, there is the reason instead.
    """
    model = networks.tiny_network(key)
    people = [networks.prompt(key, tiny=True, seed=number) for number in range(2)]
    pixels = TINY_CELLS * model.get_model_object("latent_format").spacial_downscale_ratio
    latent = networks.empty_latent(model, pixels)["samples"]
    border = TINY_CELLS // 2 - 1  # odd: it goes through tokens
    shares = torch.zeros(2, TINY_CELLS, TINY_CELLS)
    shares[0, :, :border], shares[1, :, border:] = 1, 1
    exact = composition(model, people, shares, compose.EXACT)
    alone = [denoise(model, person, person, latent) for person in people]
    numbers: dict[str, Any] = {
        f"{key}_prompt_effect": distance(*alone),
        f"{key}_exact_error": distance(
            denoise(*exact, latent), one_by_one(key, model, people, shares, latent)
        ),
    }
    family = compose_family(model, compose.EXACT)
    if compose.COUPLE not in family.modes:
        return numbers | {f"{key}_couple_refused": family.why_not_couple}
    everywhere = torch.eye(2)[:, :, None, None]  # of each owner
    couple = [composition(model, people, regions, compose.COUPLE) for regions in everywhere]
    numbers[f"{key}_couple_error"] = max(
        distance(denoise(*each, latent), expected)
        for each, expected in zip(couple, alone, strict=True)
    )
    return numbers


def columns(count: int) -> Tensor:
    """Give everybody a column of the image, [people, 1, people]."""
    return torch.eye(count)[:, None]


def composition(
    model: Any,
    people: Sequence[list],
    regions: Tensor,
    mode: str,
    loras: tuple[tuple[PersonLora, ...], ...] = (),
) -> tuple[Any, list, list]:
    """Return MODEL, positive and negative of a composition without poses.

    people: the CONDITIONING of each. regions [people, h, w] of 0 and 1: the image in cells. loras:
    of each person.
    """

    def masks(width: int, height: int) -> Tensor:
        return interpolate(regions[None], (height, width), mode="nearest")

    plan = compose.Composition(
        people=tuple(person[0] for person in people),
        masks=masks,
        hint=lambda _, width, height: torch.zeros(1, height, width, 3),
        canvas=(PIXELS, PIXELS),
        order=(0,) * len(people),
        mode=mode,
        harmony=0.0,
        scene=False,
        shared_negative=True,
        start_percent=0.0,
        end_percent=1.0,
        loras=loras,
    )
    composed = compose.compose_model(model, plan)
    control = compose.ComposedControl(None, plan, 1.0)
    return composed, *compose.attach(control, people[0], people[0])


def denoise(model: Any, positive: Any, negative: Any, latent: Tensor) -> Tensor:
    """Ask a MODEL once for the image without noise, guidance 1."""
    sigma = float(model.get_model_object("model_sampling").percent_to_sigma(SAMPLED))
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(1))

    def call(denoiser, x, sigmas, extra_args, **_):
        return denoiser(x, sigmas[:1], **extra_args)

    with torch.inference_mode():
        return run_as_sampler(model, call, latent, (positive, negative), sigma, noise)


def one_by_one(
    key: str, model: Any, people: Sequence[list], shares: Tensor, latent: Tensor
) -> Tensor:
    """Compose by plain calls, one after the other: what the heads read is mixed by the shares
    [people, h, w], and so is what all calls with the mixed heads give.
    """
    family = networks.FAMILIES[key]
    head = model.get_model_object("diffusion_model").get_submodule(family.head)
    by_token = avg_pool2d(shares[None], family.patch)[0]
    inputs: list[Tensor] = []

    def call_each(change: Callable[[Tensor], Tensor]) -> list[Tensor]:
        hook = head.register_forward_pre_hook(lambda _, read: (change(read[0]), *read[1:]))
        try:
            return [denoise(model, person, person, latent) for person in people]
        finally:
            hook.remove()

    def keep(read: Tensor) -> Tensor:
        inputs.append(read.clone())
        return read

    call_each(keep)
    weights = by_token.flatten(1)[:, None, :, None]  # [people, 1, tokens, 1]
    tokens = torch.stack([_tokens(read, family) for read in inputs])
    mixed = (weights * tokens[:, :, _image(tokens[0], weights.shape[2], family)]).sum(0)
    results = torch.stack(call_each(lambda read: _with_image(read, mixed, family)))
    by_cell = by_token.repeat_interleave(family.patch, -1).repeat_interleave(family.patch, -2)
    return torch.einsum("p...hw,phw->...hw", results, by_cell)


def _tokens(read: Tensor, family: networks.Published) -> Tensor:
    """What a head reads as rows of tokens [1, tokens, C]."""
    return (read.movedim(1, -1) if family.is_unet else read).flatten(1, -2)


def _image(tokens: Tensor, count: int, family: networks.Published) -> slice:
    """Where the image's tokens are."""
    start = 0 if family.image_first else tokens.shape[1] - count
    return slice(start, start + count)


def _with_image(read: Tensor, image: Tensor, family: networks.Published) -> Tensor:
    """What a head reads, with other tokens of the image."""
    tokens = _tokens(read, family).clone()
    tokens[:, _image(tokens, image.shape[1], family)] = image
    if family.is_unet:
        return tokens.view_as(read.movedim(1, -1)).movedim(-1, 1)
    return tokens.view_as(read)


def distance(value: Tensor, expected: Tensor) -> float:
    """Return the largest difference over the largest expected value."""
    return float((value - expected).abs().max() / expected.abs().max())
