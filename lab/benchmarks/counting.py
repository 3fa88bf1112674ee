"""Count what one call of a network costs, without values: its weights have shapes only.

The host samples as always; the network, and whatever meets one of its tensors, computes shapes on
torch's device "meta". What goes in and comes out has values, so that all wrappers around the
network run as they are.
"""

from collections.abc import Iterator, Sequence
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
    with torch.inference_mode(), ShapesOnly(), _values_outside(model):
        run_as_sampler(model, call, latent, (positive, negative), sigma)
    return Cost(counter.get_total_flops(), sizes.largest)


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
