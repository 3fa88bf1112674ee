"""Other packs' patches in a call of several streams: each runs once per person, on rows that lie as
in an ordinary call of the network.

A patch may compare the chunks of a call: a guidance takes the first positive chunk and the first
negative one, and never looks for more. So it gets one group of the layout after the other, with the
host's own list of chunks.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

COMPARING = ("attn1_patch", "attn1_output_patch", "attn2_patch", "attn2_output_patch")
GROUPS = "vitruvian_groups"  # in the options of one attention: those of each group
OURS = f"{__name__.partition('.host.')[0]}.host."

Options = Mapping[str, Any]  # the host's transformer_options, or a block's extra_options


def has_comparing_patches(options: Options, kinds: Sequence[str] = COMPARING) -> bool:
    """Say whether another pack patches attention: its patches may compare chunks."""
    patches = options.get("patches", {})
    replaced = options.get("patches_replace", {})
    return any(
        not str(getattr(patch, "__module__", "")).startswith(OURS)
        for patch in (
            *(patch for kind in kinds for patch in patches.get(kind, [])),
            *(
                patch
                for kind in _replaced_kinds(kinds)
                for patch in replaced.get(kind, {}).values()
            ),
        )
    )


def has_foreign_patches(options: Options) -> bool:
    """Say whether another pack patches the blocks of a transformer, in whatever way."""
    kinds = {*options.get("patches", {}), *options.get("patches_replace", {})}
    return has_comparing_patches(options, tuple(kinds))


@contextmanager
def numbers_kept(options: Options, device: torch.device, *, is_last: bool) -> Iterator[None]:
    """Let other packs' patches that draw random numbers draw the same ones in every part of a call,
    and as many in all as in an ordinary call.
    """
    if is_last or not has_foreign_patches(options):
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


def _replaced_kinds(kinds: Sequence[str]) -> list[str]:
    return sorted({kind.split("_")[0] for kind in kinds})


def run_per_group(
    options: Options, labels: Sequence[Options], kinds: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return new transformer_options whose patches, all or those of some kinds, run per group.

    labels: what the options of each group say in the place of the call's, `cond_or_uncond` and
    `uuids`. The rows of the tensors are the groups', one after the other.
    """
    patches, replaced = options.get("patches", {}), options.get("patches_replace", {})
    replaced_kinds = replaced if kinds is None else _replaced_kinds(kinds)

    def per_group(patch: Any) -> Any:
        return _PerGroup(patch, labels).run if callable(patch) else patch

    return {
        **options,
        "patches": {
            kind: [per_group(patch) for patch in chain] if kinds is None or kind in kinds else chain
            for kind, chain in patches.items()
        },
        "patches_replace": {
            kind: {place: per_group(patch) for place, patch in by_place.items()}
            if kind in replaced_kinds
            else by_place
            for kind, by_place in replaced.items()
        },
    }


class _PerGroup:
    """One patch, run once for every group."""

    def __init__(self, patch: Callable, labels: Sequence[Options]):
        self.patch, self.labels = patch, labels

    def run(self, *arguments: Any) -> Any:
        parts = [self._split(argument) for argument in arguments]
        *earlier, last = zip(*parts, strict=True)
        results = []
        for group in earlier:
            # a patch that draws numbers draws the same ones for each person, and as many in all
            # as in an ordinary call
            with torch.random.fork_rng(_gpus(arguments)):
                results.append(self.patch(*group))
        return _joined([*results, self.patch(*last)])

    def _split(self, value: Any) -> list[Any]:
        """One part per group."""
        count = len(self.labels)
        if isinstance(value, Tensor) and value.dim() and len(value) % count == 0:
            return list(value.chunk(count))
        if isinstance(value, dict) and "cond_or_uncond" in value:
            return self._group_options(value)
        if isinstance(value, dict):
            split = {key: self._split(part) for key, part in value.items()}
            return [{key: part[k] for key, part in split.items()} for k in range(count)]
        return [value] * count

    def _group_options(self, options: dict[str, Any]) -> list[dict[str, Any]]:
        """The options of each group. Those of one attention are kept in the host's dict, which
        its patches share: one may leave there what another reads.
        """
        if GROUPS in options:
            return options[GROUPS]
        groups = [{**options, **labels, **self._shapes(options)} for labels in self.labels]
        if "n_heads" in options:
            options[GROUPS] = groups
        return groups

    def _shapes(self, options: Options) -> dict[str, Any]:
        count = len(self.labels)
        return {
            key: [options[key][0] // count, *options[key][1:]]
            for key in ("original_shape", "activations_shape")
            if key in options
        }


def _gpus(arguments: Sequence[Any]) -> list[torch.device]:
    """The graphics cards of these tensors, whose random numbers a patch may draw."""
    tensors = (value for value in arguments if isinstance(value, Tensor))
    return list({tensor.device for tensor in tensors if tensor.is_cuda})


def _joined(results: Sequence[Any]) -> Any:
    """Put the results of all groups together again."""
    first = results[0]
    if isinstance(first, Tensor) and first.dim():
        return torch.cat(list(results))
    if isinstance(first, tuple):
        return tuple(_joined(each) for each in zip(*results, strict=True))
    if isinstance(first, dict) and "cond_or_uncond" not in first:
        return {key: _joined([result[key] for result in results]) for key in first}
    return first
