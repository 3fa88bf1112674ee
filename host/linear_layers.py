"""Linear layers and convolutions of a network, whose weights are not read: they may be quantized,
wrapped or patched by others.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, conv2d, conv3d, linear
from torch.nn.modules.conv import _ConvNd

CONVOLUTIONS = {1: conv1d, 2: conv2d, 3: conv3d}  # by the number of their axes
COMPUTED = (torch.float32, torch.float16, torch.bfloat16)  # dtypes without a cast
PROBES = 256  # inputs at once where the response of a layer is measured
ChangeOutput = Callable[[Tensor, Tensor], None]  # output, input: changes the output in place


def is_linear(layer: nn.Module) -> bool:
    """Tell whether it is a linear layer, of any library, or a convolution."""
    return isinstance(layer, _ConvNd) or hasattr(layer, "in_features")


def channel_axis(layer: nn.Module) -> int:
    """Return the axis of the channels in the layer's output."""
    return 1 if isinstance(layer, _ConvNd) else -1


def layer_shape(layer: Any) -> tuple[int, int]:
    """Return rows and columns of the layer's weight, all of a convolution's kernel in a row."""
    if isinstance(layer, _ConvNd):
        kernel = torch.Size(layer.kernel_size).numel()
        return layer.out_channels, layer.in_channels // layer.groups * kernel
    return layer.out_features, layer.in_features


def apply_as(layer: Any, x: Tensor, matrix: Tensor) -> Tensor:
    """Apply a matrix [rows, columns] to x as the layer applies its weight, without a bias."""
    if isinstance(layer, _ConvNd):
        # the layer's own method knows its stride, dilation and padding of any kind
        return layer._conv_forward(x, matrix.reshape(len(matrix), -1, *layer.kernel_size), None)
    return linear(x, matrix.flatten(1))


def pointwise(layer: nn.Module, x: Tensor, matrix: Tensor) -> Tensor:
    """Apply a matrix [rows, columns] to the channels of every token or cell."""
    if isinstance(layer, _ConvNd):
        axes = len(layer.kernel_size)
        return CONVOLUTIONS[axes](x, matrix.reshape(*matrix.shape[:2], *[1] * axes))
    return linear(x, matrix.flatten(1))


def along_channels(layer: nn.Module, values: Tensor, output: Tensor) -> Tensor:
    """Shape one value per channel [C] so that it broadcasts to the output."""
    values = values.flatten().to(output)
    return values.reshape(-1, *[1] * (output.ndim - 2)) if channel_axis(layer) == 1 else values


def weighted(term: Tensor, weight: Tensor | None) -> Tensor:
    """Multiply by a weight that broadcasts, where there is one."""
    return term if weight is None else term * weight.to(term)


def zeros_output(
    layer: nn.Module, change: ChangeOutput, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Measure the output [rows] for an input of zeros: the bias of any kind of layer."""
    return _responses(layer, change, _probes(layer, 0, 0, device, dtype))[0]


def row_norms(
    layer: nn.Module, change: ChangeOutput, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Measure the norms [rows] of the weight's rows, in float32, by the response of the layer and
    a change to one input after the other.
    """
    zeros, columns = zeros_output(layer, change, device, dtype), layer_shape(layer)[1]
    squares = torch.zeros(len(zeros), device=device)
    for start in range(0, columns, PROBES):
        probes = _probes(layer, start, min(columns, start + PROBES), device, dtype)
        squares += (_responses(layer, change, probes) - zeros).float().square().sum(0)
    return squares.sqrt() + torch.finfo(torch.float32).eps


def _probes(layer: Any, start: int, end: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Make inputs that are 1 at one place each, from column `start` to `end` of the weight, or a
    single one of zeros where both are the same.
    """
    is_convolution = isinstance(layer, _ConvNd)
    size = (layer.in_channels, *layer.kernel_size) if is_convolution else (layer.in_features,)
    inputs = torch.zeros(
        max(1, end - start), *size, device=device, dtype=_input_dtype(layer, dtype)
    )
    if end > start:
        inputs.flatten(1)[:, start:end].fill_diagonal_(1)
    return inputs


def _input_dtype(layer: Any, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that the layer takes: its weight's where it does not cast that."""
    weight_dtype = layer.weight.dtype
    if getattr(layer, "comfy_cast_weights", False) or weight_dtype not in COMPUTED:
        return dtype
    return weight_dtype


def _responses(layer: Any, change: ChangeOutput, probes: Tensor) -> Tensor:
    """Measure the outputs [inputs, rows] of the layer and a change.

    `forward` and not the layer itself: hooks, such as ours, are left out, and what other nodes put
    in its place stays in.
    """
    place: list[int] = []
    if isinstance(layer, _ConvNd):
        probes, place = _padded(layer, probes)
    with torch.no_grad():
        output = layer.forward(probes)
        change(output, probes)
    index = (..., *place)
    return output[index]


def _padded(layer: Any, probes: Tensor) -> tuple[Tensor, list[int]]:
    """Lay the kernels under the first place of the output that sees no padding."""
    axes = zip(layer.kernel_size, layer.stride, layer.padding, layer.dilation, strict=True)
    places, sizes, kernels = [], [], [slice(None), slice(None)]
    for kernel, stride, padding, dilation in axes:
        place = -(-padding // stride)
        start = place * stride - padding
        places.append(place)
        sizes.append(start + dilation * (kernel - 1) + 1)
        kernels.append(slice(start, None, dilation))
    image = probes.new_zeros(*probes.shape[:2], *sizes)
    image[tuple(kernels)] = probes
    return image, places
