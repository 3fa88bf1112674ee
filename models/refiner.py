"""HyperHuman's structure-guided refiner (Liu et al. 2023, arXiv 2310.08579, section 3.3): a
ControlNet with a hint embedder of its own for each of pose, depth and normals, whose embeddings are
summed before the trainable copy of the encoder. The base stays frozen.

The paper's words on an embedder would halve the picture once too often for what they are added to;
as the channels in its table are those of a ControlNet's hint encoder, an embedder is that here.

A file is a pose ControlNet's in the host's names (LDM), so that stock loaders read it as one, and
beside it the other embedders: `hint.depth.input_hint_block...`, `hint.normal.input_hint_block...`.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

POSE, DEPTH, NORMAL = CONDITIONS = "pose", "depth", "normal"
VERSION = 1  # of the file
RGB = 3  # channels of one condition's picture
CHANNELS = len(CONDITIONS) * RGB  # of a hint
BLOCK = "input_hint_block."  # a ControlNet's embedder in LDM names


class SummedEmbedders(nn.ModuleDict):
    """One embedder for each of CONDITIONS, in the place of a ControlNet's only one. `single` names
    the condition of a hint that is one picture.
    """

    def __init__(self, embedders: Mapping[str, nn.Module], single: str = NORMAL) -> None:
        super().__init__({condition: embedders[condition] for condition in CONDITIONS})
        self.single = single

    def forward(self, pictures: Tensor, *others: object) -> Tensor:
        """A hint [B, 9, H, W], or [B, 3, H, W] of the `single` condition -> the sum of the
        embeddings. Every embedder gets the `others`, too. ValueError for other channels.
        """
        if pictures.shape[1] == RGB:
            pictures = hint({self.single: pictures})
        if pictures.shape[1] != CHANNELS:
            raise ValueError(
                f"a structure refiner reads pose, depth and normals, {CHANNELS} channels, or one "
                f"picture of {RGB}, but it was given {pictures.shape[1]}. Connect an image of red, "
                "green and blue, without transparency."
            )
        parts = zip(CONDITIONS, pictures.split(RGB, 1), strict=True)
        first, *rest = (self[condition](part, *others) for condition, part in parts)
        return sum(rest, first)


def hint(pictures: Mapping[str, Tensor | None]) -> Tensor:
    """Pictures [B, 3, H, W] by condition -> [B, 9, H, W]; one that is missing is black, as in
    training. ValueError if all are.
    """
    like = next((picture for picture in pictures.values() if picture is not None), None)
    if like is None:
        raise ValueError(f"there is no picture: connect one of {', '.join(CONDITIONS)}, or more.")
    found = (pictures.get(condition) for condition in CONDITIONS)
    return torch.cat([torch.zeros_like(like) if one is None else one for one in found], 1)


def shown(pictures: Tensor, which: Tensor) -> Tensor:
    """Hints [B, 9, H, W] with the pictures black that are not in `which`, bool [B, 3]."""
    return pictures * which.repeat_interleave(RGB, 1)[:, :, None, None].to(pictures)


def key(condition: str, name: str) -> str:
    """How a file calls the tensor `name` (LDM) of a condition's embedder."""
    return name if condition == POSE else f"hint.{condition}.{name}"


def is_plain(name: str) -> bool:
    """Whether a file's tensor is of its pose ControlNet."""
    return not name.startswith("hint.")


def embedder(tensors: Mapping[str, Tensor], condition: str) -> dict[str, Tensor]:
    """A condition's embedder of a file, by the names within it."""
    start = key(condition, BLOCK)
    return {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}


def from_controlnet(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A pose ControlNet's tensors (LDM) -> those of a refiner that begins as it: the embedders of
    depth and normals are copies of the pose's whose last convolution is zero.

    ValueError if there is no hint encoder of one picture in them.
    """
    first = tensors.get(f"{BLOCK}0.weight")
    if first is None or first.shape[1] != RGB:
        found = "nothing" if first is None else f"{first.shape[1]} channels"
        raise ValueError(f"expected a ControlNet whose '{BLOCK}0' reads {RGB}, found {found}")
    own = embedder(tensors, POSE)
    last = max(int(match[1]) for name in own if (match := re.match(r"(\d+)\.", name)))
    begun = dict(tensors)
    for condition in (DEPTH, NORMAL):
        for name, tensor in own.items():
            zero = name.startswith(f"{last}.")
            copied = torch.zeros_like(tensor) if zero else tensor.clone()
            begun[key(condition, BLOCK + name)] = copied
    return begun
