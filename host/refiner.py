"""The structure-guided refiner as a CONTROL_NET of the host, and what the host's own nodes make of
three ControlNets where there is none (HyperHuman, section 3.3).
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfy.utils
from comfy.controlnet import ControlNet, load_controlnet_state_dict
from torch import Tensor

from ..models import refiner, weights
from ..models.refiner import CONDITIONS, NORMAL, RGB, SummedEmbedders

Pictures = Mapping[str, Tensor | None]  # by condition, [B, H, W, C]


def load(path: Path, single: str = NORMAL) -> ControlNet:
    """The refiner of a file. `single` names the condition of a hint that is one picture, as the
    stock Apply ControlNet gives it. ValueError, naming the file, for another.
    """
    tensors, _ = weights.load(path, method="refiner", version=refiner.VERSION)
    try:
        net = load_controlnet_state_dict(
            {name: tensor for name, tensor in tensors.items() if refiner.is_plain(name)}
        )
        if not isinstance(net, ControlNet):
            raise ValueError("no ControlNet is in it")
        return widen(net, tensors, single)
    except (KeyError, RuntimeError, ValueError) as wrong:
        raise ValueError(f"{path}: expected a structure refiner, found another: {wrong}") from wrong


def widen(net: ControlNet, tensors: Mapping[str, Tensor], single: str = NORMAL) -> ControlNet:
    """A pose ControlNet that no device has seen yet -> its network with a file's embedders in the
    place of its only one: copies of the host's own layers, which it casts and moves as the others.
    """
    block = net.control_model.input_hint_block
    embedders = {condition: copy.deepcopy(block) for condition in CONDITIONS}
    for condition, own in embedders.items():
        own.load_state_dict(refiner.embedder(tensors, condition))
    net.control_model.input_hint_block = SummedEmbedders(embedders, single)
    # anew: the old one has counted the layers already
    return ControlNet(
        net.control_model, load_device=net.load_device, manual_cast_dtype=net.manual_cast_dtype
    )


def apply(
    control_net: Any,
    positive: Any,
    negative: Any,
    pictures: Pictures,
    strength: float,
    start: float,
    end: float,
    vae: Any = None,
) -> tuple[Any, Any]:
    """Both conditionings with the refiner, behind what ControlNets they have.

    Pictures are brought to the size of the largest and the length of the longest batch. Raises
    ValueError for other ControlNets and if there is no picture.
    """
    block = getattr(getattr(control_net, "control_model", None), "input_hint_block", None)
    if not isinstance(block, SummedEmbedders):
        raise ValueError(
            "the input 'refiner' is another ControlNet. Connect Load Structure Refiner, or this "
            "one to 'pose_control_net', 'depth_control_net' or 'normal_control_net'."
        )
    stacked = refiner.hint(_alike(pictures)).movedim(1, -1)
    return _stock(positive, negative, control_net, stacked, strength, start, end, vae)


def stack(
    nets: Mapping[str, Any],
    positive: Any,
    negative: Any,
    pictures: Pictures,
    strengths: Mapping[str, float],
    start: float,
    end: float,
    vae: Any = None,
) -> tuple[Any, Any]:
    """Both conditionings with a ControlNet for each condition, one behind the other, where there
    are net and picture. Raises ValueError if there are nowhere both.
    """
    both = [
        condition
        for condition in CONDITIONS
        if nets.get(condition) is not None and pictures.get(condition) is not None
    ]
    if not both:
        raise ValueError(
            "no ControlNet has its picture. Connect 'refiner' and one of 'pose', 'depth' and "
            "'normal', or a picture and its ControlNet, such as 'depth' and 'depth_control_net'."
        )
    for condition in both:
        net, picture, strength = nets[condition], pictures[condition], strengths[condition]
        positive, negative = _stock(positive, negative, net, picture, strength, start, end, vae)
    return positive, negative


def _alike(pictures: Pictures) -> dict[str, Tensor]:
    """Those that are there as [B, 3, H, W] of one size and length. What has other proportions than
    the largest is cut as the host cuts a hint.
    """
    found = {
        condition: picture[..., :RGB].movedim(-1, 1)
        for condition, picture in pictures.items()
        if picture is not None
    }
    if not found:
        return {}
    length = max(len(picture) for picture in found.values())
    height, width = max((p.shape[2:] for p in found.values()), key=lambda size: size.numel())

    def like_largest(picture: Tensor) -> Tensor:
        if picture.shape[2:] != (height, width):
            picture = comfy.utils.common_upscale(picture, width, height, "bilinear", "center")
        return comfy.utils.repeat_to_batch_size(picture, length)

    return {condition: like_largest(picture) for condition, picture in found.items()}


def _stock(
    positive: Any,
    negative: Any,
    net: Any,
    picture: Any,
    strength: float,
    start: float,
    end: float,
    vae: Any,
) -> tuple[Any, Any]:
    """Apply ControlNet, which passes on pictures of any number of channels."""
    import nodes

    return nodes.ControlNetApplyAdvanced().apply_controlnet(
        positive, negative, net, picture, strength, start, end, vae=vae
    )
