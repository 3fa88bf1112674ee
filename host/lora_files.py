"""Read what the LoRA files of a person add to each layer of a network.

The names in a file are looked up by the host's own tables, so every layout that the host can load
is read; the weights stay as they are.
"""

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import comfy.lora
import comfy.lora_convert
import comfy.sd
from comfy.hooks import EnumHookType
from torch import Tensor, nn

from ..models.compose import PersonLora
from .lora_kinds import Change, add_changes
from .lora_reading import Target, read_change

__all__ = ["Change", "add_changes", "layer_changes", "loras_of_hooks", "text_encoder_patched"]
NETWORK = "diffusion_model."
TEXT_KEYS = re.compile(
    r"(lora_(prior_)?te\d*_|te\d*_|text_encoders?(_\d+)?\.|clip_[a-z]\.|t5xxl\.)"
)
LORA_KEYS = re.compile(
    r"lora|hada_|lokr_|oft_blocks|\.[ab][12]\.weight$|dora_scale|\.diff(_b)?$|[wb]_norm$|set_weight$"
)
_log = logging.getLogger(__name__)


def layer_changes(model: Any, loras: Sequence[PersonLora]) -> dict[str, tuple[Change, ...]]:
    """Read what a person's LoRAs add to each layer of the MODEL's network.

    Returns the changes in the order of the LoRAs, by the layer's path below `diffusion_model`. A
    LoRA of strength 0 has none. ValueError for a file that is no LoRA, is for another kind of
    model, or changes a layer by more than a sum.
    """
    changes: dict[str, tuple[Change, ...]] = {}
    for lora in loras:
        if lora.strength == 0:
            continue
        for path, change in _read_file(model.model, lora):
            before = changes.get(path, ())
            changes[path] = (*before, change.behind(before))
    return changes


class _ReadKeys(dict):
    """A LoRA file that notes which of its tensors are read."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        super().__init__(tensors)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default


def _read_file(network: nn.Module, lora: PersonLora) -> list[tuple[str, Change]]:
    """Read the path and the change of every layer that one file changes."""
    tensors = _ReadKeys(comfy.lora_convert.convert_lora(dict(lora.tensors)))
    _check_is_lora(lora, tensors)
    names = comfy.lora.model_lora_keys_unet(network, {})
    changes, unfit = [], set()
    for key, patch in comfy.lora.load_lora(tensors, names, log_missing=False).items():
        target = _target(network, key)
        change = target and read_change(target, patch, lora)
        if target is None or change is None:
            unfit.add(key)
        else:
            changes.append((target.path, change))
    stems = tuple(f"{name}{end}" for name, key in names.items() for end in "._" if key in unfit)
    fitting = {key for key in tensors.read if not (stems and key.startswith(stems))}
    _check_fit(lora, [key for key in tensors if not TEXT_KEYS.match(key)], fitting)
    return changes


def _target(network: nn.Module, key: Any) -> Target | None:
    """Find the layer of a key of the host: a name, (name, span) or (name, span, reorder)."""
    name, span, reorder = (*key, None, None)[:3] if isinstance(key, tuple) else (key, None, None)
    path, _, parameter = name.removeprefix(NETWORK).rpartition(".")
    try:
        layer = network.get_submodule(NETWORK + path) if path else None
    except AttributeError:
        layer = None
    if layer is None or getattr(layer, parameter, None) is None:
        return None
    return Target(layer, path, parameter, None if span is None else span[1:], reorder)


def _check_is_lora(lora: PersonLora, tensors: Mapping[str, Tensor]) -> None:
    if not any(LORA_KEYS.search(key) for key in tensors):
        raise ValueError(
            f"the file '{lora.name}' is not a LoRA: none of its {len(tensors)} keys is one of a "
            f"LoRA's, the first is '{next(iter(tensors), '')}'. Choose a LoRA; a checkpoint or "
            "another kind of file belongs to the loader of its kind."
        )


def _check_fit(lora: PersonLora, keys: Sequence[str], fitting: Collection[str]) -> None:
    """Refuse a file of which less than half fits this network; log what else does not."""
    unfit = [key for key in keys if key not in fitting]
    if len(unfit) * 2 > len(keys):
        raise ValueError(
            f"the LoRA '{lora.name}' is for another kind of model: {len(fitting)} of its "
            f"{len(keys)} keys fit this one. Choose a LoRA that was trained for this kind of "
            "model, or load the model that it was trained for."
        )
    if unfit:
        _log.warning(
            "LoRA '%s': %d of its %d keys do not fit this model and are left out, such as '%s'",
            lora.name,
            len(unfit),
            len(keys),
            unfit[0],
        )


def text_encoder_patched(clip: Any, loras: Sequence[PersonLora]) -> Any:
    """Return a clone of the CLIP with the text encoder's part of a person's LoRAs, patched by the
    host, or the same CLIP where they have none.
    """
    for lora in loras:
        tensors = {key: value for key, value in lora.tensors.items() if TEXT_KEYS.match(key)}
        if tensors and lora.strength_clip != 0:
            # the network's keys would be reported one by one as not loaded
            _, clip = comfy.sd.load_lora_for_models(None, clip, tensors, 0.0, lora.strength_clip)
    return clip


def loras_of_hooks(hooks: Any) -> tuple[PersonLora, ...]:
    """Return the LoRAs that a conditioning carries as the host's hooks.

    The host applied their text encoder's part when it encoded the prompt. ValueError for hooks of
    other kinds, and for a strength that changes over time.
    """
    return tuple(_hook_lora(hook, number) for number, hook in enumerate(hooks.hooks, 1))


def _hook_lora(hook: Any, number: int) -> PersonLora:
    if hook.hook_type != EnumHookType.Weight:
        raise ValueError(
            f"hook {number} is of the kind '{hook.hook_type.value}', but one person can have LoRAs "
            "only. Take it away from this prompt."
        )
    if not hook.need_weight_init:
        raise ValueError(
            f"hook {number} is a model as a LoRA, but one person can have LoRA files only. Extract "
            "a LoRA from that model, or take the hook away."
        )
    strengths = {keyframe.strength for keyframe in hook.hook_keyframe.keyframes} or {1.0}
    if len(strengths) > 1:
        raise ValueError(
            f"the strength of hook {number} changes over time, but that of a person's LoRA can "
            "not. Take away its keyframes, or give all of them the same strength."
        )
    strength = hook._strength_model * strengths.pop()
    return PersonLora(f"hook {number}", hook.weights, strength, 0.0)
