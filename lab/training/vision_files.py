"""Open an image encoder for a trainer, from the file that artists use: one of ours, or a CLIP's in
transformers' layout as it lies in models/clip_vision. Sizes are read from the tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from ...models import weights
from ...models.memory import encoder_name
from ...models.structure_data import resize
from .part_encoder import DEVIATION, MEAN, load_encoder

METHOD = "vision"  # of a file that Vitruvian wrote
TEXT_PROJECTION = "text_projection.weight"  # [D, D_text]
EMBEDDINGS = "vision_model.embeddings."
LAYERS = "vision_model.encoder.layers."
OPEN_CLIP = {1280: 16, 1664: 16}  # heads of ViT-H's and ViT-bigG's widths, which have exact GELUs
HEAD_WIDTH = 64  # of OpenAI's


@dataclass(frozen=True, eq=False)
class Vision:
    """A frozen image encoder, where there is a GPU on it."""

    network: CLIPVisionModelWithProjection
    name: str  # as a memory has it
    text_projection: Tensor | None  # [D, D_text]; None: the file has none

    @property
    def side(self) -> int:
        """Pixels of a side of its input."""
        return self.network.config.image_size

    @property
    def width(self) -> int:
        """The number D of features."""
        return self.network.config.projection_dim

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Encode images [N,3,S,S] in 0..1 -> features [N,D] of unit length, on the CPU."""
        images = resize(images, self.side, self.side).to(self.network.device)
        mean, deviation = (images.new_tensor(v)[:, None, None] for v in (MEAN, DEVIATION))
        features = self.network((images - mean) / deviation).image_embeds
        return normalize(features.float(), dim=-1).cpu()


def open_vision(path: str | Path) -> Vision:
    """Open the image encoder of a file; ValueError, naming the file, if it is none of these."""
    path = Path(path)
    ours = weights.read_method(path) == METHOD
    network, projection = _open_ours(path) if ours else _open_clip(path)
    name = encoder_name(network.state_dict())
    return Vision(network.to(_device()), name, projection)  # type: ignore[arg-type]


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _open_ours(path: Path) -> tuple[CLIPVisionModelWithProjection, Tensor]:
    try:
        encoder = load_encoder(path)
    except weights.MISFITS as error:
        raise ValueError(
            f"{path}: expected an image encoder, its config and its text projection: {error}"
        ) from error
    return encoder.vision, encoder.text_projection.detach()


def _open_clip(path: Path) -> tuple[CLIPVisionModelWithProjection, Tensor | None]:
    tensors = weights.load_any(path, "an image encoder")
    projection = tensors.get(TEXT_PROJECTION)
    vision = {
        key: tensor.float()
        for key, tensor in tensors.items()
        if key.startswith(("vision_model.", "visual_projection."))
        and not key.endswith("position_ids")
    }
    try:
        network = CLIPVisionModelWithProjection(read_config(vision))
        network.load_state_dict(vision)
    except weights.MISFITS as error:
        raise ValueError(
            f"{path}: expected a CLIP image encoder as transformers names its tensors (ViT-L/14, "
            f"ViT-H/14 or ViT-bigG/14), or one that Vitruvian wrote: {error}"
        ) from error
    network.requires_grad_(False).eval()
    return network, None if projection is None else projection.float()


def read_config(tensors: Mapping[str, Tensor]) -> CLIPVisionConfig:
    """Read the sizes of a CLIP from its vision_model.* and visual_projection.weight; KeyError for
    others'.
    """
    width, channels, patch, _ = tensors[EMBEDDINGS + "patch_embedding.weight"].shape
    cells = math.isqrt(len(tensors[EMBEDDINGS + "position_embedding.weight"]) - 1)
    layers = {key.removeprefix(LAYERS).split(".")[0] for key in tensors if key.startswith(LAYERS)}
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=len(tensors[LAYERS + "0.mlp.fc1.weight"]),
        num_hidden_layers=len(layers),
        num_attention_heads=OPEN_CLIP.get(width, max(1, width // HEAD_WIDTH)),
        num_channels=channels,
        image_size=cells * patch,
        patch_size=patch,
        projection_dim=len(tensors["visual_projection.weight"]),
        hidden_act="gelu" if width in OPEN_CLIP else "quick_gelu",
    )
