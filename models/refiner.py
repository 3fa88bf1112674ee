"""HyperHuman's structure-guided refiner (Liu et al. 2023, arXiv 2310.08579, section 3.3).

It is a ControlNet with an embedder for each of pose, depth and normals. Their embeddings are summed
before the trainable copy of the encoder; the base stays frozen.

The paper's words on an embedder would halve the image once too often for the features it is added
to; as the channels in the paper's table are those of a ControlNet's hint encoder, an embedder is
such an encoder here.

A file holds a pose ControlNet in the host's names (LDM), so that stock loaders read it as one, and
beside it the other embedders: `hint.depth.input_hint_block...`, `hint.normal.input_hint_block...`.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

POSE, DEPTH, NORMAL = CONDITIONS = "pose", "depth", "normal"
VERSION = 1  # of the file
RGB = 3  # channels of the image of one condition
CHANNELS = len(CONDITIONS) * RGB  # of a hint
BLOCK = "input_hint_block."  # a ControlNet's embedder in LDM names


class SummedEmbedders(nn.ModuleDict):
    """One embedder for each of CONDITIONS, in place of a ControlNet's single one.

    `single` names the condition of a hint that is only one image.
    """

    def __init__(self, embedders: Mapping[str, nn.Module], single: str = NORMAL) -> None:
        super().__init__({condition: embedders[condition] for condition in CONDITIONS})
        self.single = single

    def forward(self, images: Tensor, *inputs: object) -> Tensor:
        """Sum the embeddings of a hint [B, 9, H, W], or of [B, 3, H, W] of the `single` condition.

        Each embedder gets the further `inputs`, too. Raises ValueError for other channels.
        """
        if images.shape[1] == RGB:
            images = stack_hint({self.single: images})
        if images.shape[1] != CHANNELS:
            raise ValueError(
                f"a structure refiner reads pose, depth and normals, {CHANNELS} channels, or one "
                f"image of {RGB}, but it got {images.shape[1]}. Connect an image of red, green and "
                "blue, without transparency."
            )
        conditions = zip(CONDITIONS, images.split(RGB, 1), strict=True)
        pose, *depth_and_normals = (self[name](image, *inputs) for name, image in conditions)
        return sum(depth_and_normals, pose)


def stack_hint(images: Mapping[str, Tensor | None]) -> Tensor:
    """Stack the images [B, 3, H, W] of the conditions to a hint [B, 9, H, W].

    A missing image is black, as in training. Raises ValueError if all are missing.
    """
    like = next((image for image in images.values() if image is not None), None)
    if like is None:
        names = ", ".join(f"'{condition}_image'" for condition in CONDITIONS)
        raise ValueError(f"there is no image: connect one of {names}, or more.")
    present = (images.get(condition) for condition in CONDITIONS)
    return torch.cat([torch.zeros_like(like) if image is None else image for image in present], 1)


def keep_conditions(hints: Tensor, is_kept: Tensor) -> Tensor:
    """Black out the images of hints [B, 9, H, W] where `is_kept`, bool [B, 3], is False."""
    return hints * is_kept.repeat_interleave(RGB, 1)[:, :, None, None].to(hints)


def tensor_name(condition: str, name: str) -> str:
    """Name the tensor `name` (LDM) of a condition's embedder as a file does."""
    return name if condition == POSE else f"hint.{condition}.{name}"


def is_controlnet(name: str) -> bool:
    """Tell whether a file's tensor belongs to its pose ControlNet."""
    return not name.startswith("hint.")


def embedder_tensors(tensors: Mapping[str, Tensor], condition: str) -> dict[str, Tensor]:
    """Select the tensors of a condition's embedder from a file, by their names within it."""
    start = tensor_name(condition, BLOCK)
    return {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}


def refiner_from_controlnet(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn a pose ControlNet's tensors (LDM) into those of a refiner that gives the same result.

    The embedders of depth and normals are copies of the pose's whose last convolution is zero.
    Raises ValueError for tensors without a hint encoder of one image.
    """
    first = tensors.get(f"{BLOCK}0.weight")
    if first is None or first.shape[1] != RGB:
        actual = "nothing" if first is None else f"{first.shape[1]} channels"
        raise ValueError(f"expected a ControlNet whose '{BLOCK}0' reads {RGB}, found {actual}")
    pose_embedder = embedder_tensors(tensors, POSE)
    last = max(int(match[1]) for name in pose_embedder if (match := re.match(r"(\d+)\.", name)))
    refiner = dict(tensors)
    for condition in (DEPTH, NORMAL):
        for name, tensor in pose_embedder.items():
            is_last = name.startswith(f"{last}.")
            copied = torch.zeros_like(tensor) if is_last else tensor.clone()
            refiner[tensor_name(condition, BLOCK + name)] = copied
    return refiner
