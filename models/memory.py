"""Stylized memory retrieval: how clothes and hair look in real images, by semantic class.

Inspired by HumanDiffusion (arXiv 2211.06235 and IJCV 2024). What is published: the parts of images,
cut out by a semantic map on blank ground, go through a frozen image encoder; their features update
a memory and query it; the memory returns refreshed features; at inference, texts query it instead.
How many slots there are, and how they are kept, compared and mixed, is ours.

A slot is a feature of unit length in the space that CLIP's images and texts share.
Shapes: features [N, D], queries [Q, D], thumbnails [N, h, w, 3].
Crops of parts come from part_crops.py; memory_file.py reads and writes the file of a memory, and
memory_drawing.py draws its slots.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

TOP_K, TEMPERATURE = 8, 0.02
MOMENTUM = 0.99  # of a slot when it is updated
ITERATIONS = 25  # of k-means at most
ROWS = 4096  # that are compared with all slots at once

OnStep = Callable[[int, int], None]  # steps done, steps in all; what it raises ends the work


@dataclass(frozen=True, eq=False)
class Bank:
    """The slots of one class."""

    features: Tensor  # float32 [N, D], unit length
    counts: Tensor  # float32 [N], how many crops each slot stands for
    thumbnails: Tensor  # uint8 [N, THUMBNAIL, THUMBNAIL, 3], of part_crops

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True, eq=False)
class Memory:
    """Banks by class, and the space that their features lie in."""

    banks: Mapping[int, Bank]
    encoder: str  # name of the image encoder that made the features
    projection: Tensor | None = None  # [D, D_text], of the text encoder's pooled output into the
    # space of the features; None: the text encoder has its own

    @property
    def width(self) -> int:
        """D; 0 for a memory without banks and projection."""
        widths = [bank.features.shape[1] for bank in self.banks.values()]
        widths += [] if self.projection is None else [len(self.projection)]
        return widths[0] if widths else 0

    @property
    def parts(self) -> list[int]:
        """The classes that have slots."""
        return sorted(part for part, bank in self.banks.items() if len(bank))


@dataclass(frozen=True, eq=False)
class Part:
    """How one class of an image should look, and where that comes from."""

    part: int
    phrase: str
    strength: float
    query: Tensor  # [D], of the phrase or the image
    feature: Tensor  # [D], refreshed
    slots: Tensor  # long [K]; empty if no memory was searched
    weights: Tensor  # [K]


class Answers(NamedTuple):
    """What a bank answers to Q queries, the nearest slots first."""

    features: Tensor  # [Q, D]
    slots: Tensor  # long [Q, K]
    weights: Tensor  # [Q, K], summing to 1


def encoder_name(tensors: Mapping[str, Tensor]) -> str:
    """Name the image encoder with these tensors (in the layout of transformers).

    The name holds its size and a checksum of its last matrix. Raises ValueError for an encoder
    without a projection into the space that texts share.
    """
    last = tensors.get("visual_projection.weight")
    patches = tensors.get("vision_model.embeddings.patch_embedding.weight")
    if last is None or patches is None:
        raise ValueError(
            "the image encoder has no projection into the space that images and texts share. "
            "Use one of CLIP's, for example ViT-L/14, not SigLIP or DINO."
        )
    rounded = last.detach().half().cpu().contiguous()  # files of 16 and 32 bits are alike
    checksum = zlib.crc32(rounded.numpy().tobytes())
    return f"CLIP vision {patches.shape[0]}/{patches.shape[-1]} {checksum:08x}"


# the memory


def build_banks(
    features: Tensor,
    parts: Tensor,
    thumbnails: Tensor,
    max_slots: int,
    on_step: OnStep | None = None,
) -> dict[int, Bank]:
    """Build banks of at most `max_slots` slots from crops, by spherical k-means.

    A crop has a row of features [M, D] of unit length, of parts [M] and of thumbnails. The order
    of the crops does not matter. Where there are few enough, each crop is a slot, and equal ones
    share it.
    """
    classes, stages = parts.unique().tolist(), ITERATIONS + 1
    banks = {}
    for number, part in enumerate(classes):

        def step(stage: int, done: int = number * stages) -> None:
            if on_step is not None:
                on_step(done + stage, len(classes) * stages)

        of_part = parts == part
        counts = torch.ones(int(of_part.sum()))
        crops = _join_equal(features[of_part].float(), counts, thumbnails[of_part])
        banks[part] = _cluster(crops, max_slots, step) if len(crops) > max_slots else crops
        step(stages)
    return banks


def update(memory: Memory, features: Tensor, parts: Tensor, momentum: float = MOMENTUM) -> Memory:
    """Move each slot towards the mean of the crops it is nearest to.

    m <- norm(momentum m + (1 - momentum) mean). The order of the crops does not matter; crops of
    classes without slots change nothing.
    """
    banks = dict(memory.banks)
    for part in parts.unique().tolist():
        if part in memory.parts:
            banks[part] = _move(banks[part], features[parts == part].float(), momentum)
    return replace(memory, banks=banks)


def merge(a: Memory, b: Memory) -> Memory:
    """Join the slots of two memories, equal slots into one.

    The result does not depend on the order of merging. Raises ValueError for memories of
    different spaces.
    """
    _check_same_space(a, b)
    banks = {}
    for part in sorted({*a.parts, *b.parts}):
        pair = [memory.banks[part] for memory in (a, b) if part in memory.parts]
        banks[part] = _join_equal(
            torch.cat([bank.features for bank in pair]),
            torch.cat([bank.counts for bank in pair]),
            torch.cat([bank.thumbnails for bank in pair]),
        )
    return Memory(banks, a.encoder, a.projection)


def refresh(
    bank: Bank,
    queries: Tensor,
    top_k: int = TOP_K,
    temperature: float = TEMPERATURE,
    blend: float = 0.0,
) -> Answers:
    """Answer queries [Q, D] with a mix of the nearest slots.

    w = softmax(cosines with the K nearest slots / temperature), r = sum w m, and the refreshed
    feature is norm(blend q + (1 - blend) r). Raises ValueError for a bank without slots.
    """
    if not len(bank):
        raise ValueError("the memory has no slots of this class to answer from.")
    queries = normalize(queries.float(), dim=-1)
    cosines, order = (queries @ bank.features.mT).sort(dim=-1, descending=True, stable=True)
    weights = (cosines[:, :top_k] / temperature).softmax(-1)
    slots = order[:, :top_k]
    mixture = torch.einsum("qk,qkd->qd", weights, bank.features[slots])
    return Answers(normalize(torch.lerp(mixture, queries, blend), dim=-1), slots, weights)


def random_slot(bank: Bank, seed: int) -> Answers:
    """Pick one slot at random, weighted by the crops it stands for, as the answer to one query."""
    generator = torch.Generator().manual_seed(seed)
    slot = torch.multinomial(bank.counts, 1, generator=generator)
    return Answers(bank.features[slot], slot[None], torch.ones(1, 1))


def nearest_slots(features: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
    """For each of [M, D] find the number of the nearest of the slots [N, D] and its cosine [M]."""
    chunks = [(rows @ slots.mT).max(-1) for rows in features.split(ROWS)]
    return torch.cat([best.indices for best in chunks]), torch.cat([best.values for best in chunks])


def spread_centers(
    features: Tensor, counts: Tensor, slots: int, step: Callable[[], None]
) -> Tensor:
    """Choose where k-means begins: the numbers of `slots` rows of [M, D] that lie far apart.

    The first is nearest to the mean of all, each next one farthest from those before.
    """
    middle = normalize((features * counts[:, None]).sum(0), dim=0)
    centers = [int((features @ middle).argmax())]
    closest = features @ features[centers[0]]
    while len(centers) < slots:
        centers.append(int(closest.argmin()))
        closest = torch.maximum(closest, features @ features[centers[-1]])
        if len(centers) % 64 == 0:
            step()
    return torch.tensor(centers)


def _cluster(crops: Bank, slots: int, step: Callable[[int], None]) -> Bank:
    """Spherical k-means of crops without equals, more than `slots` of them."""
    features, counts = crops.features, crops.counts
    centers = features[spread_centers(features, counts, slots, lambda: step(0))]
    assigned, cosines = nearest_slots(features, centers)
    for iteration in range(ITERATIONS):
        centers = _means(features, counts, assigned, centers)
        before, (assigned, cosines) = assigned, nearest_slots(features, centers)
        step(iteration + 1)
        if torch.equal(before, assigned):
            break
    totals = torch.zeros(len(centers)).index_add(0, assigned, counts)
    examples = _first_closest(assigned, cosines, len(centers))
    used = totals > 0
    return _join_equal(centers[used], totals[used], crops.thumbnails[examples[used]])


def _means(features: Tensor, counts: Tensor, assigned: Tensor, centers: Tensor) -> Tensor:
    """The mean directions of what is assigned to each center; of nothing, the center itself."""
    sums = torch.zeros_like(centers).index_add(0, assigned, features * counts[:, None])
    has_mean = sums.norm(dim=-1, keepdim=True) > 1e-6
    return torch.where(has_mean, normalize(sums, dim=-1), centers)


def _first_closest(assigned: Tensor, cosines: Tensor, slots: int) -> Tensor:
    """For each slot the number of the crop that is closest to it, long [slots]; 0 without one."""
    best = torch.full((slots,), -2.0).scatter_reduce(0, assigned, cosines, "amax")
    crops = len(assigned)
    numbers = torch.where(cosines == best[assigned], torch.arange(crops), crops)
    first = torch.full((slots,), crops).scatter_reduce(0, assigned, numbers, "amin")
    return first % crops


def _move(bank: Bank, features: Tensor, momentum: float) -> Bank:
    """The bank with its slots moved towards the features that are nearest to them."""
    _, place = torch.unique(features, dim=0, return_inverse=True)
    features = features[place.argsort(stable=True)]  # sums depend on their order
    assigned, _ = nearest_slots(features, bank.features)
    hits = torch.bincount(assigned, minlength=len(bank))[:, None]
    mean = torch.zeros_like(bank.features).index_add(0, assigned, features) / hits.clamp(min=1)
    moved = normalize(momentum * bank.features + (1 - momentum) * mean, dim=-1)
    updated = torch.where(hits > 0, moved, bank.features)
    return Bank(updated, bank.counts + hits[:, 0], bank.thumbnails)


def _join_equal(features: Tensor, counts: Tensor, thumbnails: Tensor) -> Bank:
    """Slots in the order of their numbers, equal ones joined.

    Of their thumbnails the one whose bytes sort first stays, so that nothing depends on the order
    of the rows.
    """
    slots, slot_of_row = torch.unique(features + 0.0, dim=0, return_inverse=True)  # makes -0 to 0
    example_rows: dict[int, int] = {}
    for row, slot in enumerate(slot_of_row.tolist()):
        example = example_rows.setdefault(slot, row)
        if example != row and _bytes(thumbnails[row]) < _bytes(thumbnails[example]):
            example_rows[slot] = row
    total = torch.zeros(len(slots)).index_add(0, slot_of_row, counts)
    return Bank(slots, total, thumbnails[[example_rows[slot] for slot in range(len(slots))]])


def _bytes(thumbnail: Tensor) -> bytes:
    return thumbnail.numpy().tobytes()


def _check_same_space(a: Memory, b: Memory) -> None:
    if a.encoder != b.encoder:
        raise ValueError(
            f"one memory was built with the image encoder '{a.encoder}', the other with "
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
        first, second = (_describe(memory.projection) for memory in (a, b))
        raise ValueError(
            f"the memories of '{a.encoder}' hold different text projections, {first} and "
            f"{second}. Build both with the same file in Load Part Encoder."
        )


def _describe(matrix: Tensor | None) -> str:
    if matrix is None:
        return "none"
    return f"one of {matrix.shape[0]} x {matrix.shape[1]} numbers"


# parts


def merge_parts(first: Sequence[Part], second: Sequence[Part]) -> tuple[Part, ...]:
    """Join two sets of parts; where both have a class, the second one counts.

    Raises ValueError for parts of different spaces.
    """
    widths = sorted({len(part.feature) for part in (*first, *second)})
    if len(widths) > 1:
        raise ValueError(
            f"the parts have features of {widths[0]} and of {widths[1]} numbers: make both with "
            "the same image encoder."
        )
    merged = {part.part: part for part in (*first, *second)}
    return tuple(merged[part] for part in sorted(merged))
