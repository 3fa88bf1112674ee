"""What stays the same over one sampling: the people's encoded prompts, their places, controls."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import comfy.model_management
import torch
from torch import Tensor

from ...models import compose
from ..sampling import Sampling, Window, latent_stride
from . import control as controls
from .person_loras import Changes, PlacedChanges, place_changes
from .references import read_references, stream_size
from .streams import KEY, NODE, TEXT_CONDS, Composition, PeopleTexts, Shares

MARGIN = 1.5  # of the host: how much more free memory there must be than a call takes
Once = Callable[[Any, Callable[[], Any]], Any]  # a key, what computes its value -> the value


def memory() -> Once:
    """Make a function that computes what it is asked for once, and returns it from then on."""
    values: dict[Any, Any] = {}

    def once(key: Any, compute: Callable[[], Any]) -> Any:
        if key not in values:
            values[key] = compute()
        return values[key]

    return once


class Plan(NamedTuple):
    """What stays the same over one sampling."""

    window: Window
    composition: Composition
    family: Any  # the row of FAMILIES
    people: PeopleTexts
    controls: Mapping[Any, controls.ComposedControl]  # of the entries that are composed, by uuid
    roles: Mapping[Any, str]  # of the same entries
    encoded: Mapping[Any, Tensor]  # their own texts [1, tokens, C]
    shares: Shares
    size: tuple[int, int]  # of the latent
    loras: PlacedChanges
    streams_at_once: int  # that the memory has room for, of as many rows as there are images
    once: Once  # for what is computed once per sampling


def plan_maker(
    composition: Composition, family: Any, changes: Sequence[Changes]
) -> Callable[[Sampling], Plan]:
    """Return the function that plans one sampling of a composition on a family of networks.

    changes: what the LoRAs of each person change.
    """

    def make_plan(sampling: Sampling) -> Plan:
        conds, device = sampling.guider.conds, sampling.noise.device
        # where another entry has an area, the host adds entries of that area behind ours
        people = conds[KEY][: len(composition.people)]
        texts = PeopleTexts(
            tuple(entry["uuid"] for entry in people),
            tuple(_text_of(entry).to(device) for entry in people),
            tuple(_vector_of(entry) for entry in people),
            tuple(_text_conds(entry, device) for entry in people),
            tuple(read_references(entry, device) for entry in people),
        )
        _check_rows(texts, len(sampling.noise))
        _check_frames(sampling.noise)
        roles = controls.roles_of(conds, composition)
        composed = {entry["uuid"]: entry for entry in sampling.entries if entry["uuid"] in roles}
        attached = {uuid: controls.control_of(e, composition) for uuid, e in composed.items()}
        control_by_uuid = {uuid: control for uuid, control in attached.items() if control}
        return Plan(
            sampling.window(composition.start_percent, composition.end_percent),
            composition,
            family,
            texts,
            control_by_uuid,
            roles,
            {uuid: _text_of(entry).to(device) for uuid, entry in composed.items()},
            _shares(next(iter(control_by_uuid.values())), sampling),
            sampling.size,
            _placed(changes, sampling),
            _streams_at_once(sampling, composition),
            memory(),
        )

    return make_plan


def _placed(changes: Sequence[Changes], sampling: Sampling) -> PlacedChanges:
    model = sampling.guider.inner_model
    dtype = model.manual_cast_dtype or model.get_dtype()
    return place_changes(changes, sampling.noise.device, dtype)


def _streams_at_once(sampling: Sampling, composition: Composition) -> int:
    """Count the streams that fit into the free memory, as the host counts the entries that it puts
    into one call.
    """
    patcher, device = sampling.guider.model_patcher, sampling.noise.device
    free = getattr(patcher, "get_free_memory", comfy.model_management.get_free_memory)(device)
    shape = list(sampling.noise.shape)
    size = stream_size(composition, sampling.guider.conds, shape)
    needed = MARGIN * size * sampling.guider.inner_model.memory_required(shape)
    return max(1, int(free / needed))


def _check_rows(texts: PeopleTexts, images: int) -> None:
    """Refuse a prompt for several images where the latent has another number of them."""
    for number, context in enumerate(texts.contexts, 1):
        if len(context) not in (1, images):
            raise ValueError(
                f"{NODE}: the prompt of instance {number} is for {len(context)} images, but the "
                f"sampler's latent has {images}. Give it one prompt, or one for each image."
            )


def _check_frames(latent: Tensor) -> None:
    """Refuse a video [B, C, frames, h, w]: a person has one place."""
    if latent.dim() == 5 and latent.shape[2] != 1:
        raise ValueError(
            f"{NODE}: the sampler's latent is a video of {latent.shape[2]} frames. Give it a "
            "latent with one frame (length 1): people are composed in images."
        )


def _text_of(entry: Mapping[str, Any]) -> Tensor:
    return entry["model_conds"]["c_crossattn"].cond


def _vector_of(entry: Mapping[str, Any]) -> Tensor | None:
    return entry["model_conds"]["y"].cond if "y" in entry["model_conds"] else None


def _text_conds(entry: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """What belongs to a person's text beside its tokens and its vector, as the host encoded it."""
    conds = {name: c.cond for name, c in entry["model_conds"].items() if name in TEXT_CONDS}
    return {name: c.to(device) if isinstance(c, Tensor) else c for name, c in conds.items()}


def _shares(control: controls.ComposedControl, sampling: Sampling) -> Shares:
    composition, (height, width) = control.composition, sampling.size
    stride = latent_stride(sampling.guider.inner_model.latent_format)
    masks = control.drawings.masks(stride * width, stride * height)
    images = sampling.noise.shape[0]
    if len(masks) not in (1, images):
        raise ValueError(
            f"{NODE}: the pose or a mask has {len(masks)} frames, but the sampler's latent has "
            f"{images} images. Give them equally many, or a single frame, which serves all images."
        )
    occupied = [
        compose.occupancies(frame, height, width).to(sampling.noise.device) for frame in masks
    ]
    hard = [compose.hard_shares(o, composition.order, scene=composition.scene) for o in occupied]
    soft = [compose.soft_shares(o, scene=composition.scene) for o in occupied]
    soft_from = sampling.window(1 - composition.harmony, 1.0).first
    return Shares(
        _with_levers(torch.cat(hard, 1), composition),
        _with_levers(torch.cat(soft, 1), composition),
        soft_from if composition.harmony > 0 else -1.0,
    )


def _with_levers(shares: Tensor, composition: Composition) -> Tensor:
    """Soften the borders of the regions, and give the scene its share of every place."""
    shares = compose.feather_shares(shares, composition.feather)
    return compose.share_with_scene(shares, composition.scene_share, composition.scene)
