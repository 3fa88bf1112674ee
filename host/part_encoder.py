"""Encode cut-out parts of people with the host's CLIP_VISION models.

A memory compares images of parts with words, so both must end in one space. Images reach it through
the image encoder's own projection. Texts need the projection of the text encoder, which SD1.5's
checkpoints do not hold: an image encoder's file may hold it beside the encoder
(`text_projection.weight`), and a memory that is built with that encoder keeps it.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import comfy.clip_vision
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import normalize

from ..models import memory, part_crops, weights

METHOD, VERSION = "vision", 1  # of a Vitruvian image encoder's file
TEXT_PROJECTION = "text_projection.weight"  # [D, D_text]
TRANSFORMERS = "vision_model."  # before the names of transformers' layout
COUNTERS = "position_ids"  # of its layers, which not every file holds
LONGEST_CONFIG = 4096  # bytes: every system's pipe holds as many
BATCH = 32  # crops


class Crops(NamedTuple):
    """Parts cut out of images, encoded: what a memory is filled with."""

    features: Tensor  # [M, D], unit length
    parts: Tensor  # long [M], the class of each
    thumbnails: Tensor  # uint8 [M, s, s, 3]


def load(path: Path) -> Any:
    """Load a CLIP_VISION from a file that the host knows, or from a Vitruvian one of any size.

    The text projection that the file may hold becomes the attribute `vitruvian_text_projection`,
    else None. ValueError, naming the file, for any other file.
    """
    is_ours = weights.read_method(path) == METHOD
    encoder, projection = _load_ours(path) if is_ours else _load_stock(path)
    encoder.vitruvian_text_projection = projection
    return encoder


def _load_ours(path: Path) -> tuple[Any, Tensor | None]:
    """Read the layout of transformers' CLIPVisionModelWithProjection; 'config' in the metadata
    has the content of one of the host's clip_vision_config_*.json.
    """
    tensors, facts = weights.load(path, method=METHOD, version=VERSION)
    projection = tensors.pop(TEXT_PROJECTION, None)
    with weights.fitting(path, "an image encoder and its config"):
        encoder = comfy.clip_vision.ClipVisionModel(_file_descriptor(_config_text(facts)))
        missing, unknown = encoder.load_sd(tensors)
    if missing or unknown:
        raise ValueError(
            f"{path}: expected what its config describes, this does not match: "
            f"{weights.listed([*missing, *unknown])}. {weights.CHOOSE}"
        )
    return encoder, projection


def _config_text(facts: Mapping[str, str]) -> str:
    """Return the config in a file's metadata; ValueError if it is no JSON object, or a text that
    a pipe can not hold.
    """
    text = facts["config"]
    if len(text.encode()) > LONGEST_CONFIG or not isinstance(json.loads(text), dict):
        raise ValueError("found another text as config")
    return text


def _file_descriptor(text: str) -> int:
    """Open a text for reading: the host takes the name of a config file and passes it to `open`,
    which accepts a descriptor as well.
    """
    reading_end, writing_end = os.pipe()
    os.write(writing_end, text.encode())
    os.close(writing_end)
    return reading_end


def _load_stock(path: Path) -> tuple[Any, Tensor | None]:
    kind = (
        "an image encoder that ComfyUI knows (CLIP ViT-L/14, ViT-H/14 or ViT-bigG/14) or one that "
        "Vitruvian wrote"
    )
    if path.suffix == ".safetensors":
        with weights.opened(path, kind) as file:
            names = set(file.keys())
    else:
        names = set[str]()
    with weights.fitting(path, kind):
        try:
            encoder = comfy.clip_vision.load(str(path))
        except Exception as error:  # each of the host's formats has errors of its own
            raise ValueError("found one that can not be read") from error
    if encoder is None:
        raise ValueError(f"{path}: expected {kind}, found another file. {weights.CHOOSE}")
    projection, tensors = read_text_projection(path), encoder.get_sd()
    if any(name.startswith(TRANSFORMERS) for name in names):  # other layouts the host renames
        missing = {name for name in tensors if not name.endswith(COUNTERS)} - names
        if missing:  # the host leaves them as they happen to be
            raise ValueError(
                f"{path}: expected {kind}, found no {weights.listed(missing)} in it. "
                f"{weights.CHOOSE}"
            )
    weights.check_finite(path, tensors)
    return encoder, projection


def read_text_projection(path: Path) -> Tensor | None:
    """Read the text projection [D, D_text] of a complete CLIP in a .safetensors file; None if the
    file has none. OpenCLIP stores its transpose.

    ValueError for a file without a projection of images: old hosts leave that one uninitialized.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            if names.isdisjoint(("visual_projection.weight", "visual.proj")):
                raise ValueError(
                    f"{path}: expected an image encoder with a projection into the space that "
                    "images and texts share, such as CLIP ViT-L/14, found one without. "
                    f"{weights.CHOOSE}"
                )
            if TEXT_PROJECTION in names:
                return file.get_tensor(TEXT_PROJECTION).float()
            if "text_projection" in names:
                return file.get_tensor("text_projection").float().mT.contiguous()
    except SafetensorError:
        pass  # a format whose tensors can not be read one by one
    return None


def crop_size(clip_vision: Any) -> int:
    """Return the side of the square images that the encoder reads, in pixels."""
    return clip_vision.image_size


def encoder_name(clip_vision: Any) -> str:
    """Name an image encoder by its weights, so that two loads of one file have one name."""
    return memory.encoder_name(clip_vision.get_sd())


def text_projection_of(clip_vision: Any) -> Tensor | None:
    """Return the text projection that Load Part Encoder read; other loaders do not look for it."""
    return getattr(clip_vision, "vitruvian_text_projection", None)


def encode_crops(clip_vision: Any, crops: Tensor, batch: int = BATCH) -> Tensor:
    """Encode crops [N, S, S, 3] in 0..1 -> features [N, D] of unit length, float32 on the CPU."""
    embeddings = [clip_vision.encode_image(rows)["image_embeds"] for rows in crops.split(batch)]
    return normalize(torch.cat(embeddings).float().cpu(), dim=-1)


def encode_parts(
    clip_vision: Any,
    labeled_images: Iterable[tuple[Tensor, Tensor]],
    min_pixels: int = part_crops.MIN_PIXELS,
    shrink: int = 0,
    on_image: Callable[[], None] | None = None,
) -> Crops:
    """Cut out and encode all parts of images [H, W, 3] with their labels [H, W].

    Each part loses `shrink` pixels of its border. `on_image` is called after each image. ValueError
    if no part has `min_pixels`.
    """
    encoder_name(clip_vision)
    features, parts, thumbnails = list[Tensor](), list[int](), list[Tensor]()
    for image, labels in labeled_images:
        cutouts = part_crops.crop_parts(image, labels, crop_size(clip_vision), min_pixels, shrink)
        if cutouts:
            crops = torch.stack([crop for _, crop in cutouts])
            features.append(encode_crops(clip_vision, crops))
            thumbnails.append(part_crops.thumbnails(crops))
            parts += [part for part, _ in cutouts]
        if on_image is not None:
            on_image()
    if not features:
        raise ValueError(
            f"no part in 'semantic_map' has {min_pixels} pixels or more: connect the maps of the "
            "images, with people in them."
        )
    return Crops(torch.cat(features), torch.tensor(parts), torch.cat(thumbnails))
