"""Load the structure-guided refiner as a CONTROL_NET of the host, and apply it, or three
ControlNets where there is no refiner (HyperHuman, section 3.3).
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfy.utils
from comfy.controlnet import ControlNet, load_controlnet_state_dict
from torch import Tensor

from ..models import refiner, weights
from ..models.batches import paired_count
from ..models.refiner import CONDITIONS, NORMAL, RGB, SummedEmbedders
from .control_net import ControlSettings, apply_control_net, hint_block, pair_with_latents

NODE = "Apply Structure Refiner"
Images = Mapping[str, Tensor | None]  # by condition, [B, H, W, C]


def load(path: Path, single: str = NORMAL) -> ControlNet:
    """Load a refiner; ValueError, naming the file, for any other file.

    `single` names the condition of a hint that is one image, as the stock Apply ControlNet gives
    it.
    """
    tensors, _ = weights.load(path, method="refiner", version=refiner.VERSION)
    with weights.fitting(path, "a structure refiner"):
        net = load_controlnet_state_dict(
            {name: tensor for name, tensor in tensors.items() if refiner.is_controlnet(name)}
        )
        if not isinstance(net, ControlNet):
            raise ValueError("found no ControlNet in it")
        # the host leaves what is missing as it happens to be
        weights.check_names(path, "a structure refiner", _tensor_names(net), tensors)
        return add_embedders(net, tensors, single)


def _tensor_names(net: ControlNet) -> list[str]:
    """List the names of a refiner's tensors by those of its pose ControlNet."""
    names = list(net.control_model.state_dict())
    block = [name for name in names if name.startswith(refiner.BLOCK)]
    embedders = [refiner.tensor_name(condition, name) for condition in CONDITIONS for name in block]
    return [*names, *embedders]


def add_embedders(
    net: ControlNet, tensors: Mapping[str, Tensor], single: str = NORMAL
) -> ControlNet:
    """Turn a pose ControlNet into a refiner: one embedder per condition instead of a single one.

    The embedders are copies of the host's own layers, which it casts and moves like the others.
    `net` must not have been loaded onto a device yet.
    """
    block = net.control_model.input_hint_block
    embedders = {condition: copy.deepcopy(block) for condition in CONDITIONS}
    for condition, embedder in embedders.items():
        embedder.load_state_dict(refiner.embedder_tensors(tensors, condition))
    net.control_model.input_hint_block = SummedEmbedders(embedders, single)
    # a new ControlNet: the old one has already counted its layers
    return ControlNet(
        net.control_model, load_device=net.load_device, manual_cast_dtype=net.manual_cast_dtype
    )


def apply(
    conditionings: tuple[Any, Any],
    control_net: Any,
    images: Images,
    settings: ControlSettings,
    vae: Any = None,
) -> tuple[Any, Any]:
    """Add the refiner behind the ControlNets of the conditionings (positive, negative).

    Images are brought to the size of the largest; a single image serves all of the others.
    ValueError for other ControlNets, if there is no image, and if the images' counts differ.
    """
    if not isinstance(hint_block(control_net), SummedEmbedders):
        raise ValueError(
            "the input 'refiner' is another ControlNet. Connect Load Structure Refiner, or this "
            "one to 'pose_control_net', 'depth_control_net' or 'normal_control_net'."
        )
    count = _count(images)
    hint = refiner.stack_hint(_of_one_size(images, count)).movedim(1, -1)
    return _apply(conditionings, control_net, hint, settings, vae, images)


def _apply(
    conditionings: tuple[Any, Any],
    control_net: Any,
    hint: Tensor,
    settings: ControlSettings,
    vae: Any,
    images: Images,
) -> tuple[Any, Any]:
    """Add a ControlNet whose hint shows these images, one for each latent or one for all."""
    if settings.strength == 0:
        return conditionings
    conditionings = apply_control_net(conditionings, control_net, hint, settings, vae=vae)
    return pair_with_latents(conditionings, NODE, _counts(images))


def _counts(images: Images) -> dict[str, int]:
    """The number of images by the name of their input."""
    return {f"{name}_image": len(image) for name, image in images.items() if image is not None}


def _count(images: Images) -> int:
    counts = _counts(images)
    return paired_count(counts) if counts else 0


def apply_control_nets(
    conditionings: tuple[Any, Any],
    nets: Mapping[str, Any],
    images: Images,
    factors: Mapping[str, float],
    settings: ControlSettings,
    vae: Any = None,
) -> tuple[Any, Any]:
    """Add one ControlNet after the other, for each condition that has a net and an image.

    Each condition's strength is that of the settings times its factor. ValueError if no condition
    has both.
    """
    usable = {
        condition: image
        for condition in CONDITIONS
        if nets.get(condition) is not None and (image := images.get(condition)) is not None
    }
    if not usable:
        raise ValueError(
            "no ControlNet has its image. Connect 'refiner' and one of 'pose_image', "
            "'depth_image' and 'normal_image', or an image and its ControlNet, such as "
            "'depth_image' and 'depth_control_net'."
        )
    _count(usable)
    for condition, image in usable.items():
        conditionings = _apply(
            conditionings,
            nets[condition],
            image,
            settings._replace(strength=settings.strength * factors[condition]),
            vae,
            {condition: image},
        )
    return conditionings


def _of_one_size(images: Images, count: int) -> dict[str, Tensor]:
    """Bring the images that exist to one size and count [B, 3, H, W]. Those with other
    proportions than the largest are cropped as the host crops a hint.
    """
    channels_first = {
        condition: image[..., :RGB].movedim(-1, 1)
        for condition, image in images.items()
        if image is not None
    }
    if not channels_first:
        return {}
    height, width = max(
        (image.shape[2:] for image in channels_first.values()), key=lambda size: size.numel()
    )

    def like_largest(image: Tensor) -> Tensor:
        if image.shape[2:] != (height, width):
            image = comfy.utils.common_upscale(image, width, height, "bilinear", "center")
        return image.expand(count, *image.shape[1:])

    return {condition: like_largest(image) for condition, image in channels_first.items()}
