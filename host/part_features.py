"""Features of parts of people and of phrases, from the host's own CLIP models.

Pictures go through a CLIP_VISION, words through the CLIP of the checkpoint. Both end in one space
only behind their projections, and those of texts are not in every file: SD1.5's checkpoints hold
none. So the image encoder's file may hold it beside (`text_projection.weight`), and the memory
keeps it.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import comfy.clip_vision
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import normalize

from ..models import memory as core
from ..models import weights
from ..models.memory import Memory, Part
from ..models.phrases import Phrase
from ..models.semantic_map import CLASSES

VISION, VERSION = "vision", 1  # method and version of a file of our own
PROJECTION = "text_projection.weight"  # [D, D_text]
PHRASE = "{phrase}"  # in a template
BATCH = 32  # crops

OnStep = Callable[[int, int], None]


class Crops(NamedTuple):
    """Parts of pictures, as a memory is filled with them."""

    features: Tensor  # [M, D], unit length
    parts: Tensor  # long [M]
    thumbnails: Tensor  # uint8 [M, s, s, 3]


@dataclass(frozen=True)
class Asked:
    """How a memory is asked."""

    template: str = PHRASE
    top_k: int = core.TOP_K
    temperature: float = core.TEMPERATURE
    blend: float = 0.0
    guess: bool = False  # the class of a phrase that has no known word
    there: frozenset[int] | None = None  # classes of the map, None: any
    random: bool = False  # draw classes of the map that no phrase names
    seed: int = 0


# the image encoder


def load_vision(path: Path) -> Any:
    """A CLIP_VISION of a file that the host knows, or of one of ours, of any size. The text
    projection that the file may hold becomes its attribute `vitruvian_text_projection`, else None.
    """
    own = weights.method_of(path) == VISION
    vision, projection = _load_own(path) if own else _load_hosts(path)
    vision.vitruvian_text_projection = projection
    return vision


def _load_own(path: Path) -> tuple[Any, Tensor | None]:
    """From the layout of transformers' CLIPVisionModelWithProjection; 'config' in the metadata is
    what the host's clip_vision_config_*.json are.
    """
    tensors, facts = weights.load(path, method=VISION, version=VERSION)
    projection = tensors.pop(PROJECTION, None)
    try:
        vision = comfy.clip_vision.ClipVisionModel(_opened(facts["config"]))
        missing, unknown = vision.load_sd(tensors)
    except (KeyError, ValueError, TypeError, RuntimeError) as wrong:
        raise ValueError(f"{path}: expected an image encoder and its config: {wrong}") from wrong
    if missing or unknown:
        told = ", ".join([*missing, *unknown][:3])
        raise ValueError(f"{path}: expected the tensors that its config tells of, not so: {told}.")
    return vision, projection


def _opened(config: str) -> int:
    """A file descriptor to read the text from: the host wants a file's name, but opens any that
    `open` takes.
    """
    there, into = os.pipe()
    os.write(into, config.encode())
    os.close(into)
    return there


def _load_hosts(path: Path) -> tuple[Any, Tensor | None]:
    vision = comfy.clip_vision.load(str(path))
    if vision is None:
        raise ValueError(
            f"{path}: expected an image encoder that ComfyUI knows (CLIP ViT-L/14, ViT-H/14 or "
            "ViT-bigG/14) or one that Vitruvian wrote, found another file."
        )
    return vision, _text_projection(path)


def _text_projection(path: Path) -> Tensor | None:
    """Of a whole CLIP in a .safetensors file; OpenCLIP's lies the other way round. ValueError for a
    file whose pictures have no projection: old hosts fill in whatever was in memory.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            if names.isdisjoint(("visual_projection.weight", "visual.proj")):
                raise ValueError(
                    f"{path}: expected an image encoder with a projection into the space that "
                    "pictures and texts share, such as CLIP ViT-L/14, found one without."
                )
            if PROJECTION in names:
                return file.get_tensor(PROJECTION).float()
            if "text_projection" in names:
                return file.get_tensor("text_projection").float().mT.contiguous()
    except SafetensorError:
        pass  # another format, which could only be read whole
    return None


def crop_size(clip_vision: Any) -> int:
    """Pixels of a side of what the encoder looks at."""
    return clip_vision.image_size


def encoder_name(clip_vision: Any) -> str:
    """What tells one image encoder from another, wherever it was loaded."""
    return core.encoder_name(clip_vision.get_sd())


def encode_crops(clip_vision: Any, crops: Tensor, batch: int = BATCH) -> Tensor:
    """Crops [N, S, S, 3] in 0..1 -> features [N, D] of unit length, float32 on the CPU."""
    found = [clip_vision.encode_image(part)["image_embeds"] for part in crops.split(batch)]
    return normalize(torch.cat(found).float().cpu(), dim=-1)


def look(
    clip_vision: Any,
    pictures: Iterable[tuple[Tensor, Tensor]],
    least: int = core.LEAST,
    shrink: int = 0,
    on_step: Callable[[], None] | None = None,
) -> Crops:
    """All parts of pictures [H, W, 3] with labels [H, W], less `shrink` pixels of their borders;
    `on_step` after each picture. ValueError if there are none.
    """
    encoder_name(clip_vision)
    features, parts, thumbnails = list[Tensor](), list[int](), list[Tensor]()
    for picture, labels in pictures:
        cut = core.crop_parts(picture, labels, crop_size(clip_vision), least, shrink)
        if cut:
            crops = torch.stack([crop for _, crop in cut])
            features.append(encode_crops(clip_vision, crops))
            thumbnails.append(core.thumbnails(crops))
            parts += [part for part, _ in cut]
        if on_step is not None:
            on_step()
    if not features:
        raise ValueError(
            f"no part in 'map' has {least} pixels or more: connect the maps of the pictures, with "
            "people in them."
        )
    return Crops(torch.cat(features), torch.tensor(parts), torch.cat(thumbnails))


# building


def build(crops: Crops, slots: int, clip_vision: Any, on_step: OnStep | None = None) -> Memory:
    """A memory of these parts alone."""
    return Memory(
        core.fill(*crops, slots, on_step), encoder_name(clip_vision), projection_of(clip_vision)
    )


def projection_of(clip_vision: Any) -> Tensor | None:
    """The text projection that Load Part Encoder found; other loaders do not look for it."""
    return getattr(clip_vision, "vitruvian_text_projection", None)


def check_encoder(memory: Memory, clip_vision: Any) -> None:
    """ValueError if the memory is of another encoder."""
    found = encoder_name(clip_vision)
    if memory.encoder != found:
        raise ValueError(
            f"the memory was made with the image encoder '{memory.encoder}', and 'clip_vision' is "
            f"'{found}'. Connect the encoder that the memory was made with."
        )


# words


def encode_phrases(
    clip: Any, texts: Sequence[str], memory: Memory, template: str = PHRASE
) -> Tensor:
    """Each text in the template -> features [N, D] of unit length in the memory's space. ValueError
    if the CLIP has no way there.
    """
    if not texts:
        return torch.zeros(0, memory.width)
    if PHRASE not in template:
        raise ValueError(
            f"the template '{template}' has no {PHRASE} in it: write it where the "
            "words are to stand."
        )
    plain = [text.replace("(", r"\(").replace(")", r"\)") for text in texts]
    pooled = torch.cat([_pooled(clip, template.replace(PHRASE, text)) for text in plain])
    if not _projects(clip):
        pooled = pooled @ _memorys_projection(memory, pooled.shape[1]).mT
    if memory.width not in (0, pooled.shape[1]):
        raise ValueError(
            f"the CLIP makes {pooled.shape[1]} numbers of a text and the memory, of the image "
            f"encoder '{memory.encoder}', has {memory.width}. {_FITTING}"
        )
    return normalize(pooled, dim=-1)


_FITTING = (
    "Build the memory with the image encoder that belongs to the checkpoint's CLIP: ViT-L/14 for "
    "SD1.5, ViT-H/14 for SD2.x, ViT-bigG/14 for SDXL."
)


def _pooled(clip: Any, text: str, how: bool | str = True) -> Tensor:
    """[1, D_text], behind the CLIP's own projection where it has one."""
    _, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=how)
    if pooled is None:
        raise ValueError(
            "'clip' gives no feature of a whole text. Connect the CLIP of SD1.5, SD2.x or SDXL."
        )
    return pooled.float().cpu()


def _projects(clip: Any) -> bool:
    """Whether pooled outputs come out of a projection: not so with SD1.5, where the host leaves it
    out because checkpoints do not hold it, and not where it is the identity.
    """
    with_it, without = (_pooled(clip, "a person", how) for how in (True, "unprojected"))
    same_width = with_it.shape == without.shape
    return not (same_width and torch.allclose(with_it, without, rtol=1e-3, atol=1e-5))


def _memorys_projection(memory: Memory, width: int) -> Tensor:
    """[D, D_text], for texts of `width` numbers."""
    matrix = memory.projection
    if matrix is None:
        raise ValueError(
            "'clip' has no projection into the space of pictures (checkpoints of SD1.5 hold none), "
            "and neither has the memory. Build the memory with Load Part Encoder from a whole CLIP "
            f"in a .safetensors file, which holds '{PROJECTION}', or connect a CLIP that has one."
        )
    if matrix.shape[1] != width:
        raise ValueError(
            f"the memory's text projection takes {matrix.shape[1]} numbers and the CLIP makes "
            f"{width} of a text. {_FITTING}"
        )
    return matrix.float()


def text_projection(clip: Any, memory: Memory) -> Tensor:
    """The matrix [D, D_text] behind `encode_phrases`: the CLIP's own, else the memory's."""
    if not _projects(clip):
        return _memorys_projection(memory, _pooled(clip, "a person").shape[1])
    found = {name: t for name, t in clip.get_sd().items() if name.endswith(PROJECTION)}
    pooling = [name for name in found if "clip_g." in name] or [*found]  # of SDXL's two that one
    return found[pooling[-1]].float().cpu()


def nearest_parts(features: Tensor, clip: Any, memory: Memory, template: str) -> list[int]:
    """For phrases [N, D] the classes of the memory whose names are the most alike."""
    names = [CLASSES[part] for part in memory.parts]
    found, _ = core.nearest(features, encode_phrases(clip, names, memory, template))
    return [memory.parts[k] for k in found.tolist()]


# asking


def retrieve(
    clip: Any, memory: Memory, phrases: Sequence[Phrase], asked: Asked
) -> tuple[tuple[Part, ...], list[str]]:
    """What the phrases' classes are to look like, and a line on what became of each phrase."""
    queries = encode_phrases(clip, [p.text for p in phrases], memory, asked.template)
    guessed = [*phrases]
    if asked.guess and memory.parts and any(p.part is None for p in phrases):
        found = nearest_parts(queries, clip, memory, asked.template)
        guessed = [
            Phrase(p.text, part if p.part is None else p.part, p.strength)
            for p, part in zip(phrases, found, strict=True)
        ]
    chosen, told = dict[int, Part](), list[str]()
    for phrase, query in zip(guessed, queries, strict=True):
        obstacle = _obstacle(phrase, memory, asked)
        if phrase.part is None or obstacle:
            told.append(f"{phrase.text}: {obstacle}, left to the prompt")
            continue
        earlier = chosen.get(phrase.part)
        instead = f", instead of {earlier.phrase}" if earlier else ""
        strength = "" if phrase.strength == 1 else f" ({phrase.strength:g})"
        told.append(f"{phrase.text} -> {CLASSES[phrase.part]}{strength}{instead}")
        chosen[phrase.part] = _asked(memory, phrase.part, phrase, query, asked)
    if asked.random:
        for part in sorted((asked.there or frozenset()) & set(memory.parts) - set(chosen)):
            chosen[part] = _random(memory, part, asked.seed)
            told.append(f"{CLASSES[part]}: drawn from the memory")
    return tuple(chosen[part] for part in sorted(chosen)), told


def _obstacle(phrase: Phrase, memory: Memory, asked: Asked) -> str:
    """Why the memory is not asked for a phrase; empty if it is."""
    if phrase.part is None:
        return "names no class"
    name = CLASSES[phrase.part]
    if asked.there is not None and phrase.part not in asked.there:
        return f"there is no {name} in the map"
    return "" if phrase.part in memory.parts else f"the memory holds no {name}"


def _asked(memory: Memory, part: int, phrase: Phrase, query: Tensor, asked: Asked) -> Part:
    found = core.refresh(
        memory.banks[part], query[None], asked.top_k, asked.temperature, asked.blend
    )
    return Part(part, phrase.text, phrase.strength, query, *(row[0] for row in found))


def _random(memory: Memory, part: int, seed: int) -> Part:
    """The draw for one class does not depend on which others are drawn."""
    found = core.random_slot(memory.banks[part], (seed * len(CLASSES) + part) % 2**63)
    feature, slots, shares = (row[0] for row in found)
    return Part(part, "random", 1.0, feature, feature, slots, shares)


def from_pictures(
    crops: Crops, memory: Memory | None, wanted: Iterable[int], strength: float, asked: Asked
) -> tuple[Part, ...]:
    """What the wanted classes look like in the pictures on average, refreshed by the memory where
    it holds them.
    """
    parts = []
    for part in sorted(set(wanted) & set(crops.parts.tolist())):
        query = normalize(crops.features[crops.parts == part].mean(0), dim=0)
        name = CLASSES[part]
        if memory is not None and part in memory.parts:
            phrase = Phrase(name, part, strength)
            parts.append(_asked(memory, part, phrase, query, asked))
        else:
            none = torch.zeros(0)
            parts.append(Part(part, name, strength, query, query, none.long(), none))
    return tuple(parts)
