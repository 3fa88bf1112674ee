"""The reference images of people, which edit models such as Flux.1 Kontext, Flux.2 and
Qwen-Image-Edit read beside the prompt: latents in a person's conditioning.

Their tokens lie behind those of the image. The positive prompt's images come first, and everybody
sees them; behind them come a person's, which only that person sees. The negative prompt has its
own images and nobody's.

EXACT   a person's streams have that person's images. Streams whose images have other sizes run in
        passes of their own, so each is exactly a call of that person alone.
COUPLE  all people's images lie behind one another in one call, and masks keep them apart. Each has
        the position that it has in a call of its person alone, which the network is asked for.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any, NamedTuple

import comfy.model_base
import torch
from comfy.utils import repeat_to_batch_size
from torch import Tensor

from ..model_names import MODEL_NAMES
from ..module_hooks import hook_before, hooked_call, removed_at_the_end
from .streams import CHANGED, COUPLE, EXACT, KEY, NODE, Composition

LATENTS, METHOD = "ref_latents", "ref_latents_method"  # the host's names of conds
LISTS = (LATENTS, "ref_contexts", "siglip_feats")  # and of what else Z-Image Omni reads of images
IN_ENTRIES = "reference_latents"  # the host's name in a conditioning entry
METHOD_IN_ENTRIES = "reference_latents_method"
UNCLIP = "unclip_conditioning"  # in an entry: images for the pooled text of some UNets
UNCLIP_MODELS = tuple(
    getattr(comfy.model_base, name) for name in ("SD21UNCLIP", "SDXL", "SDXLRefiner")
)
AT_TIME_ZERO = "index_timestep_zero"  # a method that reads the images as free of noise
READERS = "Flux.1 Kontext, Flux.2 or Qwen-Image-Edit"

References = Mapping[str, Any]  # of one person or chunk, by the host's names; empty: no images


def check_references(model: Any, composition: Composition, modes: Sequence[str]) -> None:
    """Refuse images of people that a MODEL does not read, or not in this mode.

    modes: of the family, in which people can have reference images of their own.
    """
    network = model.get_model_object("diffusion_model")
    name = MODEL_NAMES.get(type(model.model).__name__, type(network).__name__)
    for number, (_, entry) in enumerate(composition.people, 1):
        if entry.get(UNCLIP) and not isinstance(model.model, UNCLIP_MODELS):
            raise ValueError(
                f"instance {number} carries an unCLIP image, which this model "
                f"({name}) does not read. Take away its unCLIP Conditioning, or "
                "connect SD2.1 unCLIP or SDXL."
            )
        if not entry.get(IN_ENTRIES):
            continue
        if not modes or not _reads_references(network):
            raise ValueError(
                f"instance {number} carries reference latents, which this model "
                f"({name}) does not read. Take away its Reference Latent, or "
                f"'reference' in Add Instance, or connect one that reads them, such as {READERS}."
            )
        if composition.mode not in modes:
            raise ValueError(
                f"instance {number} carries reference latents, and this model "
                f"({name}) can not be told in the mode '{composition.mode}' "
                f"whose they are. Set mode to {' or '.join(modes)}, or connect them to the "
                "positive prompt: then they are everybody's."
            )
        if "attention_mask_img_shape" in entry:
            raise ValueError(
                f"instance {number} carries reference latents and a style image with the "
                "strength_type attn_bias, which this model can not do at once. Set it to "
                "multiply in Apply Style Model."
            )
        _check_method(network, name, number, entry.get(METHOD_IN_ENTRIES))
    if composition.mode == COUPLE:
        _check_one_method(network, composition)


def _reads_references(network: Any) -> bool:
    """Say whether a network has an input for reference latents, on this host."""
    forward = getattr(network, "_forward", network.forward)
    return LATENTS in signature(forward).parameters


def _check_method(network: Any, name: str, number: int, method: str | None) -> None:
    """Refuse what the network of a model of this name does not do with the images of one person."""
    node = "Edit Model Reference Method"
    if method is None and getattr(network, "default_ref_method", "") is None:
        raise ValueError(
            f"instance {number} carries reference latents, but this model "
            f"({name}) reads them only by a method that is said. Connect {node} "
            "behind its Reference Latent, with index for example."
        )
    modulates_by_blocks = getattr(_settings(network), "global_modulation", None) is False
    if method == AT_TIME_ZERO and modulates_by_blocks:
        raise ValueError(
            f"instance {number} has the reference method '{AT_TIME_ZERO}', which Flux.1 can not "
            f"do. Set another one in {node}: offset, index or uxo."
        )


def is_at_time_zero(network: Any, conds: Mapping[str, Any]) -> bool:
    """Say whether a network reads the images of conds as free of noise: with a second vector of the
    time.
    """
    return (conds.get(METHOD) or _default_method(network)) == AT_TIME_ZERO


def _default_method(network: Any) -> str | None:
    """Return the method of a network where none is said; None on older hosts."""
    return getattr(_settings(network), "default_ref_method", None)


def _check_one_method(network: Any, composition: Composition) -> None:
    """Refuse several methods in the one call that all people share."""
    methods = {
        entry.get(METHOD_IN_ENTRIES) or _default_method(network)
        for _, entry in composition.people
        if entry.get(IN_ENTRIES)
    }
    if len(methods) > 1:
        named = " and ".join(sorted(f"'{method or 'the default'}'" for method in methods))
        raise ValueError(
            f"people have the reference methods {named}, but the mode couple reads all images by "
            "one. Set the same in Edit Model Reference Method for all, or set mode to exact."
        )


def _settings(network: Any) -> Any:
    """Return what knows the settings of a network: older families keep them in an object."""
    return getattr(network, "params", network)


def read_references(entry: Mapping[str, Any], device: torch.device) -> References:
    """Read the images of a person out of the conditioning entry that the host has encoded."""
    conds = entry["model_conds"]
    if LATENTS not in conds or not conds[LATENTS].cond:
        return {}
    references: dict[str, Any] = {
        name: [part.to(device) for part in conds[name].cond] for name in LISTS if name in conds
    }
    if METHOD in conds:
        references[METHOD] = conds[METHOD].cond
    return references


def joined_references(
    chunk: Mapping[str, Any], people: Sequence[References], batch: int
) -> dict[str, Any]:
    """Put the images of some people behind those of a chunk, as conds of `batch` rows; what is
    missing in them is as in the chunk.
    """
    joined: dict[str, Any] = {}
    for name in LISTS:
        parts = [part for references in people for part in references.get(name, ())]
        if parts:
            rows = [repeat_to_batch_size(part, batch) for part in parts]
            joined[name] = [*chunk.get(name, ()), *rows]
    methods = [references[METHOD] for references in people if METHOD in references]
    return joined | ({METHOD: methods[0]} if methods else {})


class ReferenceTokens(NamedTuple):
    """The tokens of the images of all people in one call of COUPLE, behind everybody's images."""

    lengths: tuple[int, ...]  # of each person's; 0: none
    positions: Tensor  # of all of them, from the image's first token [1, tokens, axes]


def reference_tokens(
    call: Any, embedder: str, alone: Sequence[Mapping[str, Any]], lengths: Sequence[int], cells: int
) -> ReferenceTokens:
    """Ask the network for the positions of the people's images.

    alone: the conds of each person's own stream. lengths: how many tokens of images each person
    has. cells: tokens of the image.
    """
    positions = []
    for conds, length in zip(alone, lengths, strict=True):
        if length:
            counted = _read_positions(call, embedder, conds)[:1]
            first = conds["c_crossattn"].shape[1]  # of the image, behind the text
            if counted.shape[1] < first + cells + length:
                raise RuntimeError(
                    f"{NODE}: the network has no positions for reference latents. {CHANGED}"
                )
            positions.append(counted[:, -length:] - counted[:, first, None])
    return ReferenceTokens(tuple(lengths), torch.cat(positions, 1))


class _PositionsRead(Exception):
    """Ends a call of the network that was begun only for its positions."""


def _read_positions(call: Any, embedder: str, conds: Mapping[str, Any]) -> Tensor:
    """Begin a call of the network with these conds, and return the positions [rows, tokens, axes]
    that it gives to its tokens.
    """
    read: list[Tensor] = []

    def stop(_, inputs):
        read.append(inputs[0])
        raise _PositionsRead

    conds = dict(conds)
    c_concat, c_crossattn = conds.pop("c_concat", None), conds.pop("c_crossattn")
    options = {key: call.options[key] for key in ("rope_options",) if key in call.options}
    x, t = call.x[: call.batch], call.t[: call.batch]
    with hooked_call(call.network, options, NODE) as hooked_options:
        hook = hook_before(call.network.get_submodule(embedder), stop)
        try:  # without the wrappers of other packs: this is no step of theirs
            call.executor.class_obj._apply_model(
                x, t, c_concat, c_crossattn, None, hooked_options, **conds
            )
        except _PositionsRead:
            return read[0]
        finally:
            hook.remove()
    raise RuntimeError(f"{NODE}: the network asks for no positions. {CHANGED}")


@contextmanager
def laid_references(
    network: Any, embedder: str, tokens: ReferenceTokens | None, text_length: int
) -> Iterator[None]:
    """While it lasts, the images of people have the positions that they have alone."""
    if tokens is None:
        yield
        return

    def before(_, inputs):
        positions = inputs[0]
        placed = tokens.positions.to(positions) + positions[:, text_length, None]
        count = placed.shape[1]
        return torch.cat((positions[:, :-count], placed), 1), *inputs[1:]

    with removed_at_the_end([hook_before(network.get_submodule(embedder), before)]):
        yield


Entries = Mapping[str, Sequence[Mapping[str, Any]]]  # the guider's lists, the people's too


def further_rows(composition: Composition, conds: Entries, shape: Sequence[int]) -> int:
    """Count the rows of latents that take as much memory as the reference images that the host
    does not count: it counts those of each conditioning entry once. shape: of the noise.
    """
    of_people, everybodys = _reference_cells(composition, conds)
    needed = shape[0] * (_together(composition, of_people) + everybodys)
    # the host doubles the rows, for positive and negative
    further = (needed - sum(of_people) - everybodys) / (2 * math.prod(shape[2:]))
    return max(0, math.ceil(further))


def stream_size(composition: Composition, conds: Entries, shape: Sequence[int]) -> float:
    """Return how much larger a stream is for its reference images: 1 without any."""
    of_people, everybodys = _reference_cells(composition, conds)
    return 1 + (_together(composition, of_people) + everybodys) / math.prod(shape[2:])


def _together(composition: Composition, of_people: Sequence[int]) -> int:
    """Count the cells of people's images that one stream reads at most."""
    return max(of_people) if composition.mode == EXACT else sum(of_people)


def _reference_cells(composition: Composition, conds: Entries) -> tuple[list[int], int]:
    """Count the cells of each person's reference images, and of those that everybody reads."""
    of_prompts = [entry for key, entries in conds.items() if key != KEY for entry in entries]
    everybodys = max((_cells(entry.get(IN_ENTRIES)) for entry in of_prompts), default=0)
    return [_cells(entry.get(IN_ENTRIES)) for _, entry in composition.people], everybodys


def _cells(latents: Sequence[Tensor] | None) -> int:
    return sum(math.prod(latent.shape[2:]) for latent in latents or ())
