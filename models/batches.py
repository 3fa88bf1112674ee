"""Pair the items of several batches: frame k of a pose with image k, mask k and latent k."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

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


def one_each(items: Sequence[T] | Any, count: int) -> list[T]:
    """List one item per place of a batch of `count`; a single item serves all places.

    items: a list, or a tensor whose first dimension is the batch. The counts fit, as paired_count
    has checked.
    """
    return [items[number if len(items) > 1 else 0] for number in range(count)]
