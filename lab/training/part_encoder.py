"""An image encoder in CLIP's layout whose features of body parts lie where a frozen text encoder's
phrases of them do, trained by contrast (Radford et al. 2021). Files: models/weights.py, method
"vision", names as transformers has them, with `text_projection.weight` beside.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, normalize
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from ...models import weights
from .batches import Batch, column

VERSION = 1
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's images
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
SHARPEST = 100.0  # the scale of cosines never grows above it, as in CLIP
CONFIG_KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
    "projection_dim",
    "hidden_act",
    "layer_norm_eps",
    "num_channels",
    "model_type",
)


class PartEncoder(nn.Module):
    """Image encoder and text projection into the space that both share."""

    def __init__(self, vision: CLIPVisionModelWithProjection, text_projection: Tensor) -> None:
        super().__init__()
        self.vision = vision
        self.text_projection = nn.Parameter(text_projection)
        self.sharpness = nn.Parameter(torch.tensor(3.0))

    @property
    def side(self) -> int:
        return self.vision.config.image_size

    def forward(self, images: Tensor, pooled: Tensor) -> Tensor:
        """Score how well each text fits each image, logits [N, P]."""
        scale = self.sharpness.exp().clamp(max=SHARPEST)
        return scale * self.encode_images(images) @ self.encode_text(pooled).mT

    def encode_images(self, images: Tensor) -> Tensor:
        """Encode images [N,3,S,S] in 0..1 -> unit features [N,D]."""
        mean, deviation = (torch.tensor(v).to(images)[:, None, None] for v in (MEAN, DEVIATION))
        if images.shape[-1] != self.side:
            images = interpolate(images, (self.side,) * 2, mode="bicubic", antialias=True)
        return normalize(self.vision((images - mean) / deviation).image_embeds, dim=-1)

    def encode_text(self, pooled: Tensor) -> Tensor:
        """Project the text encoder's pooled outputs [N, D_text] -> unit features [N, D]."""
        return normalize(pooled @ self.text_projection.mT, dim=-1)


def start_encoder(config: CLIPVisionConfig, text_width: int) -> PartEncoder:
    """Build an untrained encoder beside texts of this width."""
    projection = torch.randn(config.projection_dim, text_width) / text_width**0.5
    return PartEncoder(CLIPVisionModelWithProjection(config), projection)


@dataclass(frozen=True)
class ContrastLoss:
    """Cross-entropy of which of all phrases belongs to each crop. Items, or columns of them:
    {"crop" uint8 [3,S,S], "phrase": index}.
    """

    pooled: Tensor  # of every phrase [P, D_text]

    def __call__(self, model: nn.Module, batch: Batch, g: torch.Generator) -> Tensor:
        crops = column(batch, "crop") / 255
        right = column(batch, "phrase").long()
        device = next(model.parameters()).device
        fit = model(crops.to(device), self.pooled.to(device))
        return cross_entropy(fit, right.to(device))


def save_encoder(model: PartEncoder, path: Path, base: str) -> None:
    """Write an encoder; atomic."""
    config = model.vision.config.to_dict()
    tensors = dict(model.vision.state_dict())
    tensors = {key: t for key, t in tensors.items() if not key.endswith("position_ids")}
    tensors["text_projection.weight"] = model.text_projection
    facts: dict[str, str | int | float] = {
        "method": "vision",
        "version": VERSION,
        "base": base,
        "config": json.dumps({name: config[name] for name in CONFIG_KEYS}),
    }
    weights.save(path, tensors, facts, torch.float16)


def load_encoder(path: Path) -> PartEncoder:
    """Read an encoder, frozen; ValueError, naming the file, for any other."""
    tensors, facts = weights.load(path, method="vision", version=VERSION)
    config = CLIPVisionConfig(**json.loads(facts["config"]))
    tensors = {key: t.float() for key, t in tensors.items()}
    projection = tensors.pop("text_projection.weight")
    vision = CLIPVisionModelWithProjection(config)
    vision.load_state_dict(tensors)
    return PartEncoder(vision, projection).requires_grad_(False).eval()
