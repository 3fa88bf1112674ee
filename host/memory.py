"""Build memories from encoded parts of images, and look up what phrases or images look like."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..models import memory as core
from ..models.memory import Memory, Part
from ..models.phrases import Phrase
from ..models.semantic_map import CLASSES
from .part_encoder import Crops, encoder_name, text_projection_of
from .phrase_encoder import PLACEHOLDER, encode_phrases, nearest_parts

OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Retrieval:
    """How a memory is searched."""

    template: str = PLACEHOLDER
    top_k: int = core.TOP_K
    temperature: float = core.TEMPERATURE
    blend: float = 0.0
    guess_class: bool = False  # of a phrase that has no listed word
    map_parts: frozenset[int] | None = None  # classes of the semantic map, None: any
    fill_randomly: bool = False  # classes of the map that no phrase names
    seed: int = 0


def build(crops: Crops, max_slots: int, clip_vision: Any, on_step: OnStep | None = None) -> Memory:
    """Build a memory of encoded parts, with at most `max_slots` of each class."""
    banks = core.build_banks(*crops, max_slots, on_step)
    return Memory(banks, encoder_name(clip_vision), text_projection_of(clip_vision))


def check_encoder(memory: Memory, clip_vision: Any) -> None:
    """Raise ValueError if the memory was built with another image encoder."""
    name = encoder_name(clip_vision)
    if memory.encoder != name:
        raise ValueError(
            f"the memory was built with the image encoder '{memory.encoder}', and 'clip_vision' is "
            f"'{name}'. Connect the encoder that the memory was built with."
        )


def retrieve(
    clip: Any, memory: Memory, phrases: Sequence[Phrase], retrieval: Retrieval
) -> tuple[tuple[Part, ...], list[str]]:
    """Look up how the parts that the phrases name look, and report in a line what became of each
    phrase. Of several phrases of one class the last one counts.
    """
    queries = encode_phrases(clip, [p.text for p in phrases], memory, retrieval.template)
    if retrieval.guess_class and memory.parts and any(p.part is None for p in phrases):
        phrases = _with_guesses(phrases, nearest_parts(queries, clip, memory, retrieval.template))
    parts, report = dict[int, Part](), list[str]()
    for phrase, query in zip(phrases, queries, strict=True):
        obstacle = _obstacle(phrase, memory, retrieval)
        if phrase.part is None or obstacle:
            report.append(f"{phrase.text}: {obstacle}, left to the prompt")
            continue
        earlier = parts.get(phrase.part)
        instead = f", instead of {earlier.phrase}" if earlier else ""
        strength = "" if phrase.strength == 1 else f" ({phrase.strength:g})"
        report.append(f"{phrase.text} -> {CLASSES[phrase.part]}{strength}{instead}")
        parts[phrase.part] = _refreshed(memory, phrase.part, phrase, query, retrieval)
    if retrieval.fill_randomly:
        for part in sorted((retrieval.map_parts or frozenset()) & set(memory.parts) - set(parts)):
            parts[part] = _random(memory, part, retrieval.seed)
            report.append(f"{CLASSES[part]}: drawn from the memory")
    return tuple(parts[part] for part in sorted(parts)), report


def _with_guesses(phrases: Sequence[Phrase], guesses: Sequence[int]) -> list[Phrase]:
    """Give each phrase without a class its guess."""
    return [
        Phrase(p.text, guess if p.part is None else p.part, p.strength)
        for p, guess in zip(phrases, guesses, strict=True)
    ]


def _obstacle(phrase: Phrase, memory: Memory, retrieval: Retrieval) -> str:
    """Say why a phrase is not looked up in the memory; empty if it is."""
    if phrase.part is None:
        return "names no class"
    name = CLASSES[phrase.part]
    if retrieval.map_parts is not None and phrase.part not in retrieval.map_parts:
        return f"there is no {name} in the map"
    return "" if phrase.part in memory.parts else f"the memory holds no {name}"


def _refreshed(
    memory: Memory, part: int, phrase: Phrase, query: Tensor, retrieval: Retrieval
) -> Part:
    retrieved = core.refresh(
        memory.banks[part],
        query[None],
        retrieval.top_k,
        retrieval.temperature,
        retrieval.blend,
    )
    return Part(part, phrase.text, phrase.strength, query, *(row[0] for row in retrieved))


def _random(memory: Memory, part: int, seed: int) -> Part:
    """Draw a slot of one class; the draw does not depend on which other classes are drawn."""
    retrieved = core.random_slot(memory.banks[part], (seed * len(CLASSES) + part) % 2**63)
    feature, slots, shares = (row[0] for row in retrieved)
    return Part(part, "random", 1.0, feature, feature, slots, shares)


def parts_from_images(
    crops: Crops,
    memory: Memory | None,
    classes: Iterable[int],
    strength: float,
    retrieval: Retrieval,
) -> tuple[Part, ...]:
    """Average how each of the classes looks in the images, refreshed by the memory where it holds
    the class.
    """
    parts = []
    for part in sorted(set(classes) & set(crops.parts.tolist())):
        query = normalize(crops.features[crops.parts == part].mean(0), dim=0)
        name = CLASSES[part]
        if memory is not None and part in memory.parts:
            phrase = Phrase(name, part, strength)
            parts.append(_refreshed(memory, part, phrase, query, retrieval))
        else:
            empty = torch.zeros(0)
            parts.append(Part(part, name, strength, query, query, empty.long(), empty))
    return tuple(parts)
