"""Turn parts of a semantic map into instances with their own prompt, without trained weights."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..models import semantic_map
from ..models.compose import Instance
from ..models.memory import Memory, Part
from ..models.mini import TEXT
from .phrase_encoder import text_projection


def instances_from_parts(
    parts: Sequence[Part], labels: Tensor, clip: Any, memory: Memory, token_count: int
) -> tuple[Instance, ...]:
    """Make an instance for each part that is on one of the maps [B, H, W], one for each image.

    An instance has the part's area and its phrase, encoded with the retrieved feature in the place
    of `token_count` tokens of the padding behind the words. ValueError if the maps have none of
    the parts.
    """
    instances = []
    for part in parts:
        mask = semantic_map.part_mask(labels, (part.part,))
        if mask.any():
            encoded = encode_part(clip, part, memory, token_count)
            weight = max(part.strength, 0.01)
            instances.append(Instance(encoded, 0, mask, weight=weight, name=part.phrase))
    if not instances:
        names = ", ".join(sorted(semantic_map.CLASSES[int(k)] for k in labels.unique()))
        raise ValueError(f"none of the parts is on the map, which has {names}.")
    return tuple(instances)


def encode_part(clip: Any, part: Part, memory: Memory, token_count: int) -> Any:
    """Encode a part's phrase and feature as a CONDITIONING.

    The pseudo-inverse of the text projection takes the feature from the image encoder's space back
    to the text encoder's. It gets the length of the end token's row, which the projection reads.
    """
    words = clip.tokenize(part.phrase)
    chunk = next(iter(words.values()))[0]
    end = [token[0] for token in chunk].index(TEXT.eos)
    padding = slice(end + 1, min(end + 1 + token_count, len(chunk)))
    back_projected = torch.linalg.pinv(text_projection(clip, memory)) @ part.feature
    width = len(back_projected)
    conditioning = []
    for encoded, entry in clip.encode_from_tokens_scheduled(words):
        end_row = encoded[0, end]
        # SDXL's two encoders are concatenated, the one with the projection is the second
        projected_row = end_row[-width:]
        scale = projected_row.norm() / back_projected.norm().to(projected_row)
        encoded = encoded.clone()
        encoded[:, padding] = torch.cat(
            (end_row[:-width], back_projected.to(projected_row) * scale)
        )
        conditioning.append([encoded, entry])
    return conditioning
