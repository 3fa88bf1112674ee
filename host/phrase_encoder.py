"""Encode phrases with the checkpoint's CLIP into the space of a memory's features."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..models import memory as core
from ..models.memory import Memory
from ..models.semantic_map import CLASSES
from .part_encoder import TEXT_PROJECTION

PLACEHOLDER = "{phrase}"  # in a template
ANY_TEXT = "a person"  # to learn what a CLIP returns


def encode_phrases(
    clip: Any, texts: Sequence[str], memory: Memory, template: str = PLACEHOLDER
) -> Tensor:
    """Encode each text, put into the template -> features [N, D] of unit length in the memory's
    space. ValueError if neither the CLIP nor the memory has a projection into it.
    """
    if not texts:
        return torch.zeros(0, memory.width)
    if PLACEHOLDER not in template:
        raise ValueError(
            f"the template '{template}' has no {PLACEHOLDER} in it: write it where the phrase is "
            "to stand."
        )
    escaped = [text.replace("(", r"\(").replace(")", r"\)") for text in texts]
    features = torch.cat([_pooled(clip, template.replace(PLACEHOLDER, text)) for text in escaped])
    if not _projects(clip):
        features = features @ _memory_projection(memory, features.shape[1]).mT
    if memory.width not in (0, features.shape[1]):
        raise ValueError(
            f"the CLIP encodes a text as {features.shape[1]} numbers and the memory, of the image "
            f"encoder '{memory.encoder}', has {memory.width}. {_FITTING_ENCODERS}"
        )
    return normalize(features, dim=-1)


_FITTING_ENCODERS = (
    "Build the memory with the image encoder that belongs to the checkpoint's CLIP: ViT-L/14 for "
    "SD1.5, ViT-H/14 for SD2.x, ViT-bigG/14 for SDXL."
)


def _pooled(clip: Any, text: str, mode: bool | str = True) -> Tensor:
    """[1, D_text], behind the CLIP's own projection where it has one."""
    _check_schedule(clip)
    _, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=mode)
    if pooled is None:
        raise ValueError(
            "'clip' returns no pooled feature of a text. Connect the CLIP of SD1.5, SD2.x or SDXL."
        )
    return pooled.float().cpu()


def _check_schedule(clip: Any) -> None:
    """Refuse a CLIP whose hooks change over the sampling: the host would encode with their first
    strengths only.
    """
    scheduled = getattr(clip, "use_clip_schedule", False)
    hooks = clip.patcher.forced_hooks if scheduled else None
    if hooks is not None and len(hooks.get_hooks_for_clip_schedule()) > 1:
        raise ValueError(
            "the hooks of 'clip' change during the sampling, but a phrase is looked up once for "
            "all of it. Turn the schedule off in Set CLIP Hooks, or connect 'clip' as it is before "
            "that node."
        )


def _projects(clip: Any) -> bool:
    """Whether pooled outputs come out of a projection. Those of SD1.5 do not: the host leaves it
    out because checkpoints do not hold it. An identity counts as none.
    """
    projected, unprojected = (_pooled(clip, ANY_TEXT, mode) for mode in (True, "unprojected"))
    same_width = projected.shape == unprojected.shape
    return not (same_width and torch.allclose(projected, unprojected, rtol=1e-3, atol=1e-5))


def _memory_projection(memory: Memory, width: int) -> Tensor:
    """The memory's [D, D_text], for text features of `width` numbers."""
    matrix = memory.projection
    if matrix is None:
        raise ValueError(
            "'clip' has no projection into the space of images (checkpoints of SD1.5 hold none), "
            "and neither has the memory. Build the memory with Load Part Encoder from a complete "
            f"CLIP in a .safetensors file, which holds '{TEXT_PROJECTION}', or connect a CLIP that "
            "has one."
        )
    if matrix.shape[1] != width:
        raise ValueError(
            f"the memory's text projection takes {matrix.shape[1]} numbers and the CLIP encodes a "
            f"text as {width}. {_FITTING_ENCODERS}"
        )
    return matrix.float()


def text_projection(clip: Any, memory: Memory) -> Tensor:
    """Return the matrix [D, D_text] that `encode_phrases` applies: the CLIP's own, else the
    memory's. ValueError if there is none.
    """
    if not _projects(clip):
        return _memory_projection(memory, _pooled(clip, ANY_TEXT).shape[1])
    projections = {name: t for name, t in clip.get_sd().items() if name.endswith(TEXT_PROJECTION)}
    # SDXL has two encoders, its pooled output is that of clip_g
    names = [name for name in projections if "clip_g." in name] or [*projections]
    return projections[names[-1]].float().cpu()


def nearest_parts(features: Tensor, clip: Any, memory: Memory, template: str) -> list[int]:
    """Find, for features of phrases [N, D], the memory's classes whose names are most similar."""
    names = [CLASSES[part] for part in memory.parts]
    numbers, _ = core.nearest_slots(features, encode_phrases(clip, names, memory, template))
    return [memory.parts[k] for k in numbers.tolist()]
