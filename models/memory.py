"""Stylized memory retrieval: what clothes and hair of real pictures look like, by semantic class.

Inspired by HumanDiffusion (arXiv 2211.06235 and IJCV 2024). Known of it: parts of pictures on blank
ground, cut out by a semantic map, go through a frozen image encoder; the features update a memory
and query it; the memory gives back refreshed features; in use, texts query it in their place. How
many slots there are, how they are kept, compared and mixed was never published and is ours.

A slot is a feature of unit length in the space that CLIP's pictures and texts share.
Shapes: features [N, D], queries [Q, D], pictures [H, W, 3] in 0..1, labels [H, W].
"""

import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from . import weights
from .semantic_map import BACKGROUND, CLASSES, part_mask

METHOD, VERSION = "memory", 1  # of the file
THUMBNAIL = 40  # pixels, of the picture that stands for a slot
LEAST = 24  # pixels; a smaller part is not looked at
GREY = 0.5  # of the blank ground
MARGIN = 0.08  # around a part, as a share of its longer side
TOP_K, TEMPERATURE = 8, 0.02
MOMENTUM = 0.99  # of a slot when it is updated
ITERATIONS = 25  # of k-means at most
ROWS = 4096  # that are compared with all slots at once
SHOWN = 2 * THUMBNAIL  # pixels of a slot in a drawing
PAPER, INK, BAR = (250, 250, 248), (60, 60, 60), (43, 67, 181)

OnStep = Callable[[int, int], None]  # done, total; what it raises ends the work


@dataclass(frozen=True, eq=False)
class Bank:
    """The slots of one class."""

    features: Tensor  # float32 [N, D], unit length
    counts: Tensor  # float32 [N], how many crops each slot stands for
    thumbnails: Tensor  # uint8 [N, THUMBNAIL, THUMBNAIL, 3]

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True, eq=False)
class Memory:
    """Banks by class. `encoder` names the image encoder whose features they are; `projection`
    [D, D_text] takes the text encoder's pooled output into their space (None: the text encoder has
    its own).
    """

    banks: Mapping[int, Bank]
    encoder: str
    projection: Tensor | None = None

    @property
    def width(self) -> int:
        """D; 0 where nothing tells."""
        told = [bank.features.shape[1] for bank in self.banks.values()]
        told += [] if self.projection is None else [len(self.projection)]
        return told[0] if told else 0

    @property
    def parts(self) -> list[int]:
        """The classes that have slots."""
        return sorted(part for part, bank in self.banks.items() if len(bank))


@dataclass(frozen=True, eq=False)
class Part:
    """What one class of a picture is to look like, and where that comes from."""

    part: int
    phrase: str
    strength: float
    query: Tensor  # [D], of the phrase or the photograph
    feature: Tensor  # [D], refreshed
    slots: Tensor  # long [K]; none if no memory was asked
    weights: Tensor  # [K]


class Retrieved(NamedTuple):
    """What a bank answers to Q queries, the nearest slots first."""

    features: Tensor  # [Q, D]
    slots: Tensor  # long [Q, K]
    weights: Tensor  # [Q, K], summing to 1


def encoder_name(tensors: Mapping[str, Tensor]) -> str:
    """Name of the image encoder with these tensors (in the layout of transformers): its size and a
    print of its last matrix. ValueError if it has none into the space that texts share.
    """
    last = tensors.get("visual_projection.weight")
    patches = tensors.get("vision_model.embeddings.patch_embedding.weight")
    if last is None or patches is None:
        raise ValueError(
            "the image encoder has no projection into the space that pictures and texts share. "
            "Use one of CLIP's, for example ViT-L/14, not SigLIP or DINO."
        )
    rounded = last.detach().half().cpu().contiguous()  # files of 16 and 32 bits are alike
    mark = zlib.crc32(rounded.numpy().tobytes())
    return f"CLIP vision {patches.shape[0]}/{patches.shape[-1]} {mark:08x}"


# crops


def crop_parts(
    picture: Tensor, labels: Tensor, size: int, least: int = LEAST, shrink: int = 0
) -> list[tuple[int, Tensor]]:
    """Every class but the background that has `least` pixels or more, with its pixels on grey
    ground [size, size, 3]; without its outermost `shrink` pixels, unless fewer than `least` remain.
    """
    least = max(1, least)
    there = sorted(parts_in(labels[None], least))
    return [(part, _crop(picture, _core(labels, part, least, shrink), size)) for part in there]


def _core(labels: Tensor, part: int, least: int, shrink: int) -> Tensor:
    """bool [H, W]. What a coarse map has too much is at its border."""
    core = part_mask(labels[None], [part], -shrink)[0] > 0
    return core if core.sum() >= least else labels == part


def _crop(picture: Tensor, mask: Tensor, size: int) -> Tensor:
    """The square around a bool mask [H, W], its middle in the square's."""
    (top, bottom), (left, right) = (
        (int(there[0]), int(there[-1]) + 1)
        for there in (mask.any(1).nonzero(), mask.any(0).nonzero())
    )
    tall, wide = bottom - top, right - left
    side = math.ceil(max(tall, wide) * (1 + 2 * MARGIN))
    y, x = (side - tall) // 2, (side - wide) // 2
    inside = mask[top:bottom, left:right, None]
    square = torch.full((side, side, 3), GREY)
    seen = picture[top:bottom, left:right].float()
    square[y : y + tall, x : x + wide] = torch.where(inside, seen, GREY)
    return _resized(square[None], size)[0]


def thumbnails(crops: Tensor) -> Tensor:
    """Crops [N, S, S, 3] in 0..1 -> uint8 [N, THUMBNAIL, THUMBNAIL, 3]."""
    return (_resized(crops, THUMBNAIL) * 255).round().clamp(0, 255).byte()


def _resized(pictures: Tensor, size: int) -> Tensor:
    """[N, S, S, 3] -> [N, size, size, 3]"""
    if pictures.shape[1] == size:
        return pictures
    channels = pictures.movedim(-1, 1)
    return interpolate(channels, (size, size), mode="bilinear", antialias=True).movedim(1, -1)


# the memory


def fill(
    features: Tensor, parts: Tensor, thumbnails: Tensor, slots: int, on_step: OnStep | None = None
) -> dict[int, Bank]:
    """Banks of at most `slots` slots for crops with features [M, D] of unit length, classes [M] and
    thumbnails, by spherical k-means. The crops' order does not matter; with few enough of them each
    is a slot, equal ones together.
    """
    classes, stages = parts.unique().tolist(), ITERATIONS + 1
    banks = {}
    for number, part in enumerate(classes):

        def step(stage: int, done: int = number * stages) -> None:
            if on_step is not None:
                on_step(done + stage, len(classes) * stages)

        own = parts == part
        crops = _joined(features[own].float(), torch.ones(int(own.sum())), thumbnails[own])
        banks[part] = _clustered(crops, slots, step) if len(crops) > slots else crops
        step(stages)
    return banks


def update(memory: Memory, features: Tensor, parts: Tensor, momentum: float = MOMENTUM) -> Memory:
    """Every slot that is the nearest to some of the crops moves towards their mean,
    m <- norm(mu m + (1 - mu) mean). The crops' order does not matter; those of classes without
    slots change nothing.
    """
    banks = dict(memory.banks)
    for part in parts.unique().tolist():
        if part in memory.parts:
            banks[part] = _moved(banks[part], features[parts == part].float(), momentum)
    return replace(memory, banks=banks)


def merge(a: Memory, b: Memory) -> Memory:
    """All slots of both, equal ones joined: the same whatever the order of merging. ValueError for
    memories of different spaces.
    """
    _check_same_space(a, b)
    banks = {}
    for part in sorted({*a.parts, *b.parts}):
        both = [memory.banks[part] for memory in (a, b) if part in memory.parts]
        banks[part] = _joined(
            torch.cat([bank.features for bank in both]),
            torch.cat([bank.counts for bank in both]),
            torch.cat([bank.thumbnails for bank in both]),
        )
    return Memory(banks, a.encoder, a.projection)


def refresh(
    bank: Bank,
    queries: Tensor,
    top_k: int = TOP_K,
    temperature: float = TEMPERATURE,
    blend: float = 0.0,
) -> Retrieved:
    """w = softmax(cosines with the K nearest slots / temperature), r = sum w m, and the refreshed
    feature norm(blend q + (1 - blend) r). ValueError for a bank without slots.
    """
    if not len(bank):
        raise ValueError("the memory has no slots of this class to answer from.")
    queries = normalize(queries.float(), dim=-1)
    cosines, order = (queries @ bank.features.mT).sort(dim=-1, descending=True, stable=True)
    shares = (cosines[:, :top_k] / temperature).softmax(-1)
    slots = order[:, :top_k]
    answer = torch.einsum("qk,qkd->qd", shares, bank.features[slots])
    return Retrieved(normalize(torch.lerp(answer, queries, blend), dim=-1), slots, shares)


def random_slot(bank: Bank, seed: int) -> Retrieved:
    """One slot at random, as probable as the crops it stands for, as the answer to one query."""
    generator = torch.Generator().manual_seed(seed)
    slot = torch.multinomial(bank.counts, 1, generator=generator)
    return Retrieved(bank.features[slot], slot[None], torch.ones(1, 1))


def nearest(features: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    """For each of [M, D] the number of the nearest of the slots [N, D] and its cosine, [M] each."""
    found = [(rows @ slots.mT).max(-1) for rows in features.split(ROWS)]
    return torch.cat([best.indices for best in found]), torch.cat([best.values for best in found])


def spread(features: Tensor, counts: Tensor, slots: int, step: Callable[[], None]) -> Tensor:
    """Where k-means begins: the numbers of `slots` of [M, D]. The first is nearest to the mean of
    all, each next one farthest from those before.
    """
    middle = normalize((features * counts[:, None]).sum(0), dim=0)
    chosen = [int((features @ middle).argmax())]
    closest = features @ features[chosen[0]]
    while len(chosen) < slots:
        chosen.append(int(closest.argmin()))
        closest = torch.maximum(closest, features @ features[chosen[-1]])
        if len(chosen) % 64 == 0:
            step()
    return torch.tensor(chosen)


def _clustered(crops: Bank, slots: int, step: Callable[[int], None]) -> Bank:
    """Spherical k-means of joined crops, more than `slots` of them."""
    features, counts = crops.features, crops.counts
    centres = features[spread(features, counts, slots, lambda: step(0))]
    which, close = nearest(features, centres)
    for iteration in range(ITERATIONS):
        centres = _means(features, counts, which, centres)
        before, (which, close) = which, nearest(features, centres)
        step(iteration + 1)
        if torch.equal(before, which):
            break
    stands_for = torch.zeros(len(centres)).index_add(0, which, counts)
    shown = _first_closest(which, close, len(centres))
    used = stands_for > 0
    return _joined(centres[used], stands_for[used], crops.thumbnails[shown[used]])


def _means(features: Tensor, counts: Tensor, which: Tensor, centres: Tensor) -> Tensor:
    """The mean directions of what is nearest to each centre; where there is none, the centre."""
    sums = torch.zeros_like(centres).index_add(0, which, features * counts[:, None])
    there = sums.norm(dim=-1, keepdim=True) > 1e-6
    return torch.where(there, normalize(sums, dim=-1), centres)


def _first_closest(which: Tensor, close: Tensor, slots: int) -> Tensor:
    """For each slot the number of the crop that is closest to it, long [slots]; 0 without one."""
    best = torch.full((slots,), -2.0).scatter_reduce(0, which, close, "amax")
    numbers = torch.where(close == best[which], torch.arange(len(which)), len(which))
    first = torch.full((slots,), len(which)).scatter_reduce(0, which, numbers, "amin")
    return first % len(which)


def _moved(bank: Bank, features: Tensor, momentum: float) -> Bank:
    _, place = torch.unique(features, dim=0, return_inverse=True)
    features = features[place.argsort(stable=True)]  # sums depend on their order
    which, _ = nearest(features, bank.features)
    found = torch.bincount(which, minlength=len(bank))[:, None]
    mean = torch.zeros_like(bank.features).index_add(0, which, features) / found.clamp(min=1)
    moved = normalize(momentum * bank.features + (1 - momentum) * mean, dim=-1)
    kept = torch.where(found > 0, moved, bank.features)
    return Bank(kept, bank.counts + found[:, 0], bank.thumbnails)


def _joined(features: Tensor, counts: Tensor, thumbnails: Tensor) -> Bank:
    """Slots in the order of their numbers, equal ones joined; of their thumbnails the one that
    comes first in that order stays, so that nothing depends on the order given.
    """
    kept, where = torch.unique(features + 0.0, dim=0, return_inverse=True)  # makes -0 to 0
    shown: dict[int, int] = {}
    for row, slot in enumerate(where.tolist()):
        other = shown.setdefault(slot, row)
        if other != row and _bytes(thumbnails[row]) < _bytes(thumbnails[other]):
            shown[slot] = row
    total = torch.zeros(len(kept)).index_add(0, where, counts)
    return Bank(kept, total, thumbnails[[shown[slot] for slot in range(len(kept))]])


def _bytes(thumbnail: Tensor) -> bytes:
    return thumbnail.numpy().tobytes()


def _check_same_space(a: Memory, b: Memory) -> None:
    if a.encoder != b.encoder:
        raise ValueError(
            f"one memory was made with the image encoder '{a.encoder}', the other with "
            f"'{b.encoder}': their features can not be compared. Build both with one encoder."
        )
    if a.width and b.width and a.width != b.width:
        raise ValueError(
            f"one memory of '{a.encoder}' has features of {a.width} numbers, the other of "
            f"{b.width}. Build both with one encoder."
        )
    same = (
        a.projection is b.projection
        if a.projection is None or b.projection is None
        else torch.equal(a.projection, b.projection)
    )
    if not same:
        told = [
            "none" if one is None else f"one of {one.shape[0]} x {one.shape[1]} numbers"
            for one in (a.projection, b.projection)
        ]
        raise ValueError(
            f"the memories of '{a.encoder}' hold different text projections, {told[0]} and "
            f"{told[1]}. Build both with the same file in Load Part Encoder."
        )


# parts


def parts_in(labels: Tensor, least: int = 1) -> frozenset[int]:
    """Classes but the background with `least` pixels or more in one of the maps [B, H, W]."""
    most = torch.stack([_pixels(one) for one in labels]).amax(0)
    return frozenset((most >= least).nonzero().flatten().tolist()) - {BACKGROUND}


def _pixels(labels: Tensor) -> Tensor:
    """How many pixels each class has, long [24]."""
    return torch.bincount(labels.flatten().long(), minlength=len(CLASSES))


def merge_parts(first: Sequence[Part], second: Sequence[Part]) -> tuple[Part, ...]:
    """Both, the second ones where both have a class. ValueError for parts of different spaces."""
    widths = sorted({len(part.feature) for part in (*first, *second)})
    if len(widths) > 1:
        raise ValueError(
            f"the parts have features of {widths[0]} and of {widths[1]} numbers: make both with "
            "the same image encoder."
        )
    both = {part.part: part for part in (*first, *second)}
    return tuple(both[part] for part in sorted(both))


# the file


def save(path: str | Path, memory: Memory) -> None:
    """Writes the memory; `load` gives it back bit for bit."""
    tensors = {} if memory.projection is None else {"projection": memory.projection}
    for part in memory.parts:
        bank = memory.banks[part]
        tensors[f"bank.{part}.features"] = bank.features
        tensors[f"bank.{part}.counts"] = bank.counts
        tensors[f"bank.{part}.thumbnails"] = bank.thumbnails
    weights.save(path, tensors, {"method": METHOD, "version": VERSION, "encoder": memory.encoder})


def load(path: str | Path) -> Memory:
    """A memory from its file; raises ValueError, naming the file, for any other."""
    tensors, facts = weights.load(path, method=METHOD, version=VERSION)
    projection = tensors.pop("projection", None)
    try:
        fields: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            start, part, name = key.split(".")
            if start != "bank" or not BACKGROUND < int(part) < len(CLASSES):
                raise ValueError(f"'{key}' is of no class")
            fields.setdefault(int(part), {})[name] = tensor
        banks = {part: _checked(part, fields[part]) for part in sorted(fields)}
        memory = Memory(banks, facts["encoder"], projection)
        _check_widths(memory)
    except KeyError as missing:
        raise ValueError(f"{path}: expected a memory with {missing}, found none.") from None
    except ValueError as wrong:
        raise ValueError(f"{path}: expected the banks of a memory: {wrong}.") from None
    return memory


def _checked(part: int, fields: Mapping[str, Tensor]) -> Bank:
    """ValueError or KeyError if these are not the tensors of a bank."""
    bank = Bank(**{name: fields[name] for name in ("features", "counts", "thumbnails")})
    name, count = CLASSES[part], len(bank.features)
    if bank.features.dim() != 2 or bank.features.dtype != torch.float32:
        raise ValueError(f"the features of '{name}' are no rows of float32")
    if not torch.allclose(bank.features.norm(dim=-1), torch.ones(()), atol=1e-3):
        raise ValueError(f"the features of '{name}' are not of unit length")
    if bank.counts.shape != (count,) or not (bank.counts > 0).all():
        raise ValueError(f"the counts of '{name}' are not {count} numbers above 0")
    square = (count, THUMBNAIL, THUMBNAIL, 3)
    if bank.thumbnails.shape != square or bank.thumbnails.dtype != torch.uint8:
        raise ValueError(f"the thumbnails of '{name}' are no {square} bytes")
    return bank


def _check_widths(memory: Memory) -> None:
    widths = {bank.features.shape[1] for bank in memory.banks.values()}
    if memory.projection is not None:
        if memory.projection.dim() != 2:
            raise ValueError("the projection is no matrix")
        widths.add(len(memory.projection))
    if len(widths) > 1:
        raise ValueError(f"features and projection have different widths {sorted(widths)}")


# pictures


def draw_slots(bank: Bank, slots: Tensor, weights: Tensor, title: str = "") -> Tensor:
    """Slots [K] side by side under a title, each above its weight [K] as a bar and a number,
    [H, W, 3] in 0..1.
    """
    import cv2
    import numpy as np

    head, foot, gap = 20, 26, 4
    width = max(len(slots) * (SHOWN + gap), 8 * len(title)) + gap
    canvas = np.full((head + SHOWN + foot, width, 3), PAPER, np.uint8)
    _write(canvas, title, gap, head - 6)
    for k, (slot, weight) in enumerate(zip(slots.tolist(), weights.tolist(), strict=True)):
        x, below = gap + k * (SHOWN + gap), head + SHOWN
        thumbnail: Any = bank.thumbnails[slot].numpy()
        shown = cv2.resize(thumbnail, (SHOWN, SHOWN), interpolation=cv2.INTER_NEAREST)
        canvas[head:below, x : x + SHOWN] = shown
        canvas[below + 3 : below + 8, x : x + max(1, round(weight * SHOWN))] = BAR
        _write(canvas, f"{weight:.2f}", x, below + 22)
    return torch.from_numpy(canvas).float() / 255


def draw_parts(parts: Iterable[Part], banks: Mapping[int, Bank]) -> Tensor:
    """`draw_slots` of every part that has some, one below the other; without any, one blank row."""
    rows = [
        draw_slots(banks[p.part], p.slots, p.weights, f"{p.phrase} ({CLASSES[p.part]})")
        for p in parts
        if len(p.slots)
    ]
    return stacked(rows or [torch.full((THUMBNAIL, SHOWN, 3), PAPER[0] / 255)])


def stacked(pictures: Sequence[Tensor]) -> Tensor:
    """Pictures [h, w, 3] one below the other, filled up to the widest."""
    width = max(picture.shape[1] for picture in pictures)
    canvas = torch.tensor(PAPER) / 255
    return torch.cat(
        [
            torch.cat((picture, canvas.expand(len(picture), width - picture.shape[1], 3)), 1)
            for picture in pictures
        ]
    )


def catalogue(bank: Bank, columns: int) -> Tensor:
    """All slots in rows, those that stand for most first, [H, W, 3] in 0..1."""
    gap, count = 2, len(bank)
    columns = max(1, min(columns, count))
    rows, cell = max(1, math.ceil(count / columns)), THUMBNAIL + gap
    canvas = (torch.tensor(PAPER) / 255).repeat(rows * cell + gap, columns * cell + gap, 1)
    order = bank.counts.argsort(descending=True, stable=True)
    for k, thumbnail in enumerate(bank.thumbnails[order].float() / 255):
        y, x = gap + k // columns * cell, gap + k % columns * cell
        canvas[y : y + THUMBNAIL, x : x + THUMBNAIL] = thumbnail
    return canvas


def _write(canvas: Any, text: str, x: int, y: int) -> None:
    import cv2

    cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, INK, 1, cv2.LINE_AA)
