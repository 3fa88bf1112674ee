"""Count what one call of a network costs, without values: its weights have shapes only.

The host samples as always; the network, and whatever meets one of its tensors, computes shapes on
torch's device "meta". What goes in and comes out has values, so that all wrappers around the
network run as they are.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from ...host.sampling import run_as_sampler

META = torch.device("meta")
OVERRIDE = "optimized_attention_override"
EXPERTS = 4  # of HiDream
SAMPLED = 0.3  # share of a sampling at which the call is


class Cost(NamedTuple):
    """What one call of the network costs."""

    operations: int  # floating-point operations of all products of matrices: 2 per multiply-add
    attention_bytes: int  # of queries, keys, values and mask of the largest attention
    peak_bytes: int  # of all tensors inside the network that live at once, without its weights


class ShapesOnly(TorchDispatchMode):
    """While it lasts, an operation on a tensor without values has a result without values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = tree_flatten((args, kwargs))[0]
        if any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in leaves):
            args, kwargs = tree_map_only(Tensor, _shape, (args, kwargs))
            if func is torch.ops.aten.index.Tensor:
                args = (args[0], _expert_rows(*args))
            if kwargs.get("device") is not None:
                kwargs = {**kwargs, "device": META}
        return func(*args, **kwargs)


def _expert_rows(tokens: Tensor, indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Give every expert as many rows of tokens (HiDream): the sum is the same however a network
    divides them.
    """
    share = torch.zeros(len(tokens) // EXPERTS, dtype=torch.int64, device=META)
    return [share if each is not None and each.dtype == torch.bool else each for each in indices]


def _shape(tensor: Tensor) -> Tensor:
    if tensor.is_meta:
        return tensor
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META)


class PeakBytes(TorchDispatchMode):
    """Counts the bytes of the tensors without values that live at once, while it lasts. What a
    kernel needs for itself, and what was there before, as weights, does not count.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._weights = {weight.untyped_storage()._cdata for weight in weights}
        self._tensors: dict[int, int] = {}  # storage -> tensors that look into it

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_flatten(result)[0]:
            if isinstance(leaf, Tensor) and leaf.is_meta:
                self._add(leaf)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._weights:
            return
        if not self._tensors.get(key):
            self.bytes += size
            self.peak = max(self.peak, self.bytes)
        self._tensors[key] = self._tensors.get(key, 0) + 1
        weakref.finalize(tensor, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._tensors[key] -= 1
        if not self._tensors[key]:
            del self._tensors[key]
            self.bytes -= size


WAITING = ("item", "_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select")
FROM_VALUES = "lift_fresh"  # of torch.tensor: what is uploaded where the latents are elsewhere


class Waits(TorchDispatchMode):
    """Counts the operations for whose values Python waits, while it lasts: each stops the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = args[1] if name in ("index", "index_put_") else ()
        by_mask = any(each is not None and each.dtype == torch.bool for each in masks)
        self.count += name in (*WAITING, FROM_VALUES) or by_mask
        return func(*args, **(kwargs or {}))


def waits_per_step(sample: Callable[[int], Any]) -> float:
    """Count how often a sampling waits in each step; sample: the number of its steps -> anything.
    What it does once, before the first step or behind the last one, does not count.
    """
    counts = {}
    for steps in (2, 2, 6):  # the first one loads
        with torch.inference_mode(), Waits() as waits:
            sample(steps)
        counts[steps] = waits.count
    return (counts[6] - counts[2]) / 4


class AttentionSizes:
    """An attention override of the host that remembers the largest attention, in bytes.

    It is the innermost: what other overrides make of queries, keys and mask is what it sees.
    """

    def __init__(self) -> None:
        self.largest = 0

    def __call__(self, kernel, queries, keys, values, heads, mask=None, *args, **kwargs):
        tensors = sum(each.numel() * each.element_size() for each in (queries, keys, values))
        # an expanded mask counts once
        size = tensors + (0 if mask is None else mask.untyped_storage().nbytes())
        self.largest = max(self.largest, size)
        return attention_pytorch(queries, keys, values, heads, mask, *args, **kwargs)


def cost(model: ModelPatcher, positive: Any, negative: Any, latent: Tensor) -> Cost:
    """Count one call of the network for the positive prompt alone (guidance 1).

    `model` has no values, and any patches.
    """
    model, sizes, counter = model.clone(), AttentionSizes(), FlopCounterMode(display=False)
    options = model.model_options["transformer_options"]
    model.model_options["transformer_options"] = {**options, OVERRIDE: sizes}

    def call(denoise, x, sigmas, extra_args, **_):
        with counter:
            return denoise(x, sigmas[:1], **extra_args)

    sigma = float(model.get_model_object("model_sampling").percent_to_sigma(SAMPLED))
    peak = PeakBytes(model.get_model_object("diffusion_model").parameters())
    with torch.inference_mode(), ShapesOnly(), _values_outside(model), peak:
        run_as_sampler(model, call, latent, (positive, negative), sigma)
    return Cost(counter.get_total_flops(), sizes.largest, peak.peak)


@contextmanager
def _values_outside(model: ModelPatcher) -> Iterator[None]:
    """Take the values from what goes into the network, and give zeros to what comes out of it."""

    def without_values(_, args, kwargs):
        named = {
            name: value if name == "transformer_options" else tree_map_only(Tensor, _shape, value)
            for name, value in kwargs.items()
        }
        return tree_map_only(Tensor, _shape, args), named

    def with_values(_, __, output):
        return torch.zeros(output.shape, dtype=output.dtype)

    network = model.get_model_object("diffusion_model")
    hooks = [
        network.register_forward_pre_hook(without_values, with_kwargs=True),
        network.register_forward_hook(with_values),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
