"""Pair the items of several batches: frame k of a pose with image k, mask k and latent k."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, overload

from torch import Tensor

T = TypeVar("T")


def paired_count(counts: Mapping[str, int]) -> int:
    """Return how many items the inputs of these counts give together, one by one.

    counts: name of an input -> its number of frames, images, masks or latents. An input with one
    item serves all items of the others. Raises ValueError for any other difference.
    """
    longest = max(counts.values())
    if set(counts.values()) <= {1, longest} and longest > 0:
        return longest
    listed = [f"'{name}' has {count}" for name, count in counts.items()]
    raise ValueError(
        f"the inputs go together one by one, but {', '.join(listed[:-1])} and {listed[-1]}: give "
        "them equally many, or a single one, which serves all."
    )


@overload
def one_each(items: Tensor, count: int) -> list[Tensor]: ...


@overload
def one_each(items: Sequence[T], count: int) -> list[T]: ...


def one_each(items: Any, count: int) -> list[Any]:
    """List one item per place of a batch of `count`; a single item serves all places.

    items: a list, or a tensor whose first dimension is the batch. The counts fit, as paired_count
    has checked.
    """
    return [items[number if len(items) > 1 else 0] for number in range(count)]


def check_batch(node: str, counts: Mapping[str, int], batch: int) -> None:
    """Raise ValueError unless each input has one item for every latent of a batch, or a single one.

    For inputs that meet the latents only when they are sampled, where the host does not say which
    node speaks. node: its display name; counts: as for paired_count.
    """
    for name, count in counts.items():
        if count not in (1, batch):
            raise ValueError(
                f"{node}: '{name}' has {count} items, but {batch} latents are sampled at once: "
                "give one for every latent, or a single one, which serves all."
            )
