"""Make the networks and inputs for which `fcn_ref.safetensors.xz` holds the outputs.

Names of weights are the usual LDM ones, without the prefixes of a checkpoint. The rule: sort one
network's names; the tensor at index i is `randn(generator of BASE + i) * 0.02`, plus 1 for weights
of norms. Nothing is left at zero, not even zero convolutions. Only the hint encoder's convolutions
are scaled by their fan-in: at 0.02 a hint fades to 1e-6 of the output over its 8 convolutions.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

UNET_BASE, CONTROL_NET_BASE, STD = 1_000_000, 2_000_000, 0.02
CHANNELS, CONTEXT, EMBEDDING, LEVELS, RES_BLOCKS = 320, 768, 1280, 4, 2
HAS_ATTENTION = [True, True, True, False]  # of each level, as in SD1.5
HINT_CHANNELS = [3, 16, 16, 32, 32, 96, 96, 256, CHANNELS]
LAST_HINT_WEIGHT = "input_hint_block.14.weight"
INPUT_SEED, PEOPLE, TOKENS, BIAS = 7, 3, 77, 1.5

Shapes = Iterator[tuple[str, tuple[int, ...]]]


def _norm(name: str, channels: int) -> Shapes:
    yield f"{name}.weight", (channels,)
    yield f"{name}.bias", (channels,)


def _conv(name: str, outputs: int, inputs: int, size: int) -> Shapes:
    yield f"{name}.weight", (outputs, inputs, size, size)
    yield f"{name}.bias", (outputs,)


def _linear(name: str, outputs: int, inputs: int, bias: bool = True) -> Shapes:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def _res_block(name: str, inputs: int, outputs: int) -> Shapes:
    yield from _norm(f"{name}.in_layers.0", inputs)
    yield from _conv(f"{name}.in_layers.2", outputs, inputs, 3)
    yield from _linear(f"{name}.emb_layers.1", outputs, EMBEDDING)
    yield from _norm(f"{name}.out_layers.0", outputs)
    yield from _conv(f"{name}.out_layers.3", outputs, outputs, 3)
    if inputs != outputs:
        yield from _conv(f"{name}.skip_connection", outputs, inputs, 1)


def _transformer(name: str, channels: int) -> Shapes:
    yield from _norm(f"{name}.norm", channels)
    yield from _conv(f"{name}.proj_in", channels, channels, 1)
    yield from _conv(f"{name}.proj_out", channels, channels, 1)
    block = f"{name}.transformer_blocks.0"
    for number in (1, 2, 3):
        yield from _norm(f"{block}.norm{number}", channels)
    for attention, source in (("attn1", channels), ("attn2", CONTEXT)):
        yield from _linear(f"{block}.{attention}.to_q", channels, channels, bias=False)
        yield from _linear(f"{block}.{attention}.to_k", channels, source, bias=False)
        yield from _linear(f"{block}.{attention}.to_v", channels, source, bias=False)
        yield from _linear(f"{block}.{attention}.to_out.0", channels, channels)
    yield from _linear(f"{block}.ff.net.0.proj", 8 * channels, channels)
    yield from _linear(f"{block}.ff.net.2", channels, 4 * channels)


def _encoder() -> Shapes:
    """Time embedding, input blocks and middle block, which both networks have."""
    yield from _linear("time_embed.0", EMBEDDING, CHANNELS)
    yield from _linear("time_embed.2", EMBEDDING, EMBEDDING)
    yield from _conv("input_blocks.0.0", CHANNELS, 4, 3)
    for level in range(LEVELS):
        first = 1 + level * (RES_BLOCKS + 1)
        for number in range(first, first + RES_BLOCKS):
            yield from _res_block(f"input_blocks.{number}.0", CHANNELS, CHANNELS)
            if HAS_ATTENTION[level]:
                yield from _transformer(f"input_blocks.{number}.1", CHANNELS)
        if level < LEVELS - 1:
            yield from _conv(f"input_blocks.{first + RES_BLOCKS}.0.op", CHANNELS, CHANNELS, 3)
    yield from _res_block("middle_block.0", CHANNELS, CHANNELS)
    yield from _transformer("middle_block.1", CHANNELS)
    yield from _res_block("middle_block.2", CHANNELS, CHANNELS)


def _unet() -> Shapes:
    yield from _encoder()
    number = 0
    for level in reversed(range(LEVELS)):
        for position in range(RES_BLOCKS + 1):
            block = f"output_blocks.{number}"
            yield from _res_block(f"{block}.0", 2 * CHANNELS, CHANNELS)
            if HAS_ATTENTION[level]:
                yield from _transformer(f"{block}.1", CHANNELS)
            if level and position == RES_BLOCKS:
                layer = 1 + HAS_ATTENTION[level]
                yield from _conv(f"{block}.{layer}.conv", CHANNELS, CHANNELS, 3)
            number += 1
    yield from _norm("out.0", CHANNELS)
    yield from _conv("out.2", 4, CHANNELS, 3)


def _control_net() -> Shapes:
    yield from _encoder()
    for number, (inputs, outputs) in enumerate(
        zip(HINT_CHANNELS[:-1], HINT_CHANNELS[1:], strict=True)
    ):
        yield from _conv(f"input_hint_block.{2 * number}", outputs, inputs, 3)
    for number in range(LEVELS * (RES_BLOCKS + 1)):
        yield from _conv(f"zero_convs.{number}.0", CHANNELS, CHANNELS, 1)
    yield from _conv("middle_block_out.0", CHANNELS, CHANNELS, 1)


def _std(name: str, shape: tuple[int, ...]) -> float:
    if name.startswith("input_hint_block.") and name.endswith(".weight"):
        fan_in = shape[1] * shape[2] * shape[3]
        return (0.5 if name == LAST_HINT_WEIGHT else 1.7) / fan_in**0.5
    return STD


def _fill(shapes: Shapes, base: int) -> dict[str, Tensor]:
    tensors = {}
    for index, (name, shape) in enumerate(sorted(shapes)):
        generator = torch.Generator().manual_seed(base + index)
        tensor = torch.randn(shape, generator=generator) * _std(name, shape)
        is_norm_weight = len(shape) == 1 and name.endswith(".weight")
        tensors[name] = 1 + tensor if is_norm_weight else tensor
    return tensors


def unet_state_dict() -> dict[str, Tensor]:
    """Make the UNet's 682 tensors: 111.5 million values."""
    return _fill(_unet(), UNET_BASE)


def control_net_state_dict() -> dict[str, Tensor]:
    """Make the ControlNet's 336 tensors: 47.6 million values."""
    return _fill(_control_net(), CONTROL_NET_BASE)


def fingerprint(tensors: dict[str, Tensor]) -> Tensor:
    """Return the first and last value of every tensor, in the order of their names."""
    ends = [(tensors[name].flatten()[0], tensors[name].flatten()[-1]) for name in sorted(tensors)]
    return torch.tensor(ends)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Make the latent [1, 4, 16, 24], a text per person [3, 77, 768] and the negative one [1, 77,
    768]; texts are rounded to float16 as the authors' code read them.
    """
    generator = torch.Generator().manual_seed(INPUT_SEED)

    def text(count: int) -> Tensor:
        words = torch.randn(count, TOKENS, CONTEXT, generator=generator)
        bias = torch.randn(count, 1, CONTEXT, generator=generator)
        return (words + BIAS * bias).half().float()

    latent = torch.randn(1, 4, 16, 24, generator=generator)
    return latent, text(PEOPLE), text(1)
