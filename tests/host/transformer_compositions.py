"""Compositions of people on the tiny transformers, and what a sampling of them calls.

Regions are columns of latent cells, so that everybody's shares are known without measuring masks.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor
from vitruvian.host import compose as host
from vitruvian.tests.host import slow_compose, transformer_networks

import nodes as core

Span = tuple[int, int]  # the first column of cells, and the one behind the last
HALVES: Sequence[Span] = ((0, 6), (6, 12))


class Regions(NamedTuple):
    """Where each person is in every frame, in columns of a latent of `width` cells."""

    frames: Sequence[Sequence[Span]]
    width: int = 12

    def masks(self, width: int, height: int) -> Tensor:
        """Draw them as Compose Instances does, [frames, people, height, width]."""
        masks = torch.zeros(len(self.frames), len(self.frames[0]), height, width)
        for frame, spans in zip(masks, self.frames, strict=True):
            for person, (start, stop) in zip(frame, spans, strict=True):
                person[:, start * width // self.width : stop * width // self.width] = 1
        return masks

    def shares(self, height: int, *, scene: bool = False, scene_share: float = 0.0) -> Tensor:
        """Return the shares [people (and scene), frames, height, width]: equal among those who
        cover a cell; where nobody does, the scene's or equal among all people.
        """
        people = len(self.frames[0])
        has_scene = scene or scene_share > 0
        shares = torch.zeros(people + has_scene, len(self.frames), height, self.width)
        for number, spans in enumerate(self.frames):
            for column in range(self.width):
                covering = [p for p, (start, stop) in enumerate(spans) if start <= column < stop]
                owners = covering or ([people] if scene else list(range(people)))
                for owner in owners:
                    shares[owner, number, :, column] = 1 / len(owners)
        if scene_share > 0:
            shares *= 1 - scene_share
            shares[-1] += scene_share
        return shares


SETTINGS = {
    "mode": host.EXACT, "harmony": 0.0, "scene": False, "shared_negative": True,
    "start_percent": 0.0, "end_percent": 1.0,
}  # fmt: skip


def compose(
    model: Any,
    prompts: tuple[list, list],
    people: Sequence[list],
    regions: Regions | None = None,
    **changes: Any,
) -> tuple[Any, list, list]:
    """Return MODEL, positive and negative of a composition without a ControlNet.

    prompts: positive and negative. people: the CONDITIONING of each. changes: of SETTINGS.
    """
    regions = regions or Regions((HALVES,))
    composition = host.Composition(
        people=tuple(conditioning[0] for conditioning in people),
        masks=regions.masks,
        hint=lambda _, width, height: torch.zeros(len(regions.frames), height, width, 3),
        canvas=(1, 1),
        order=(0,) * len(people),
        **{**SETTINGS, **changes},
    )
    control = host.ComposedControl(None, composition, 1.0)
    return (host.compose_model(model, composition), *host.attach(control, *prompts))


def sample(
    model: Any,
    positive: list,
    negative: list,
    *,
    size: tuple[int, int] = (8, 12),
    steps: int = 2,
    cfg: float = 1.0,
    batch: int = 1,
    **settings: Any,
) -> Tensor:
    """Sample with the host's KSampler from an empty latent of this size."""
    latent = transformer_networks.empty_latent(model, *size, batch)
    return core.common_ksampler(
        model, 3, steps, cfg, "euler", "simple", positive, negative, latent, **settings
    )[0]["samples"]


class Chunk(NamedTuple):
    """The rows of one conditioning entry in one call of the network, and what came out."""

    x: Tensor
    sigma: Tensor
    denoised: Tensor
    positive: bool


def watched(model: Any) -> tuple[Any, list[Chunk]]:
    """Clone a composed MODEL so that it notes every chunk of its calls, as the sampler sees it."""
    chunks: list[Chunk] = []

    def note(executor, x, t, c_concat, c_crossattn, control, options, **extra):
        out = executor(x, t, c_concat, c_crossattn, control, options, **extra)
        roles = options[host.KEY].roles
        parts = (tensor.chunk(len(options["uuids"])) for tensor in (x, t, out))
        for *rows, uuid in zip(*parts, options["uuids"], strict=True):
            chunks.append(Chunk(*rows, roles.get(uuid) == host.PEOPLE))
        return out

    model = model.clone()
    wrappers = model.wrappers[WrappersMP.APPLY_MODEL]
    model.wrappers[WrappersMP.APPLY_MODEL] = {"note": [note], **wrappers}  # outside ours
    return model, chunks


def distance(value: Tensor, expected: Tensor) -> float:
    """Return the largest difference, over the largest expected value."""
    return float((value - expected).abs().max() / expected.abs().max())


def check_exact(
    base: Any,
    chunks: Sequence[Chunk],
    prompts: tuple[list, list],
    people: Sequence[list],
    shares: Tensor,
    changed: Sequence[Any] = (),
) -> float:
    """Compare every chunk with the slow loop; return the largest distance. changed: the model of
    each person, where their weights differ.
    """
    assert any(chunk.positive for chunk in chunks)
    return max(
        distance(chunk.denoised, _slow(base, chunk, prompts, people, shares, changed))
        for chunk in chunks
    )


def _slow(
    base: Any,
    chunk: Chunk,
    prompts: tuple[list, list],
    people: Sequence[list],
    shares: Tensor,
    changed: Sequence[Any],
) -> Tensor:
    positive, negative = map(slow_compose.entry_of, prompts)
    if not chunk.positive:
        return slow_compose.plain(base, chunk.x, chunk.sigma, negative)
    entries: list[Mapping[str, Any]] = [
        slow_compose.with_text_of(positive, slow_compose.entry_of(person)) for person in people
    ]
    if len(shares) > len(people):
        entries.append(positive)
    return slow_compose.composed(base, chunk.x, chunk.sigma, entries, shares, changed)
