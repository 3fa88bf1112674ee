"""Show how far a node is, and let Cancel stop it."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import comfy.utils
from comfy.model_management import throw_exception_if_processing_interrupted

Item = TypeVar("Item")


def watched(items: Iterable[Item]) -> Iterator[Item]:
    """Give items one after another while the bar of the node counts those that are done.

    A run that was cancelled stops before the next item.
    """
    remaining = [*items]
    count_one = step_of(comfy.utils.ProgressBar(len(remaining)))
    for item in remaining:
        throw_exception_if_processing_interrupted()
        yield item
        count_one()


def step_of(progress: Any) -> Callable[..., None]:
    """Return what counts one step, or more, on a bar, and stops a cancelled run: the bar alone does
    not always notice it, because hosts differ in how often it reports.
    """

    def step(count: int = 1) -> None:
        throw_exception_if_processing_interrupted()
        progress.update(count)

    return step
