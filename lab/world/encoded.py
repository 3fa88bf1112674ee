"""The mini world as the autoencoder sees it: latents, and images that passed it, kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import Tensor
from torch.utils.data import Dataset, Subset
from tqdm import tqdm

from ..training.loop import native_precision
from .dataset import WorldDataset


class LatentDataset(Dataset):
    """Serve an encoded world: {"latent" [4,h,w] normalized, "hint", "captions"}."""

    def __init__(self, world: Dataset, latents: np.ndarray) -> None:
        self.world, self.latents = world, latents

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, i: int) -> dict:
        return {**self.world[i], "latent": torch.from_numpy(self.latents[i].astype(np.float32))}


class Encoded(NamedTuple):
    """Hold latents z = (encoder output - shift) * scale, of mean 0 and variance 1 over the
    world.
    """

    data: LatentDataset
    scale: float
    shift: float


def encode_world(
    autoencoder: AutoencoderTiny,
    world: Path,
    out: Path,
    normalization: tuple[float, float] | None = None,
    names: tuple[str, ...] = ("hint",),
    keep: Callable[[dict], object] = lambda caption: True,
    of: str = "rgb",
) -> Encoded:
    """Encode every image `of` this kind in `world` once; the latents are saved in `out`, one file
    for each autoencoder.

    `normalization`: scale and shift of the VAE's checkpoint; without it they are those of this
    world. `names`: what else of the world the data gives. `keep`: which scenes, by caption.
    """
    images, named_arrays = WorldDataset(world, names=(of,)), WorldDataset(world, names=names)
    rows = [i for i, caption in enumerate(images.captions) if keep(caption)]
    kind = "latents" if of == "rgb" else f"latents-{of}"
    file = out / f"{kind}-{world.name}-{len(rows)}-{_fingerprint(autoencoder)}.npy"
    if not file.is_file():
        out.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part.npy")
        np.save(part, _encode(autoencoder, Subset(images, rows), of).half().numpy())
        part.replace(file)
    latents = torch.from_numpy(np.load(file)).float()
    scale, shift = normalization or (1 / float(latents.std()), float(latents.mean()))
    z = ((latents - shift) * scale).half().numpy()
    return Encoded(LatentDataset(Subset(named_arrays, rows), z), scale, shift)


def _fingerprint(module: torch.nn.Module) -> str:
    """Tells networks apart by their weights."""
    weights = hashlib.sha256()
    for p in module.parameters():
        weights.update(p.detach().cpu().contiguous().numpy().tobytes())
    return weights.hexdigest()[:8]


@torch.no_grad()
def _encode(
    autoencoder: AutoencoderTiny, images: Dataset, of: str = "rgb", batch: int = 16
) -> Tensor:
    """Raw latents [N,4,h,w] of images [3,H,W] or [H,W]; the error of bf16 is far below the
    autoencoder's own.
    """
    autoencoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # 3 x faster
    device = next(autoencoder.parameters()).device
    batch = batch if device.type == "cpu" else 8 * batch
    chunks = []
    count = len(images)  # type: ignore[arg-type]
    for start in tqdm(range(0, count, batch), desc="encode", mininterval=5):
        rows = range(start, min(start + batch, count))
        stacked = torch.stack([images[i][of] for i in rows])
        stacked = stacked if stacked.dim() == 4 else stacked[:, None].expand(-1, 3, -1, -1)
        x = stacked.to(device).float() / 127.5 - 1
        x = x.contiguous(memory_format=torch.channels_last)
        with _fastest(device):
            chunks.append(autoencoder.encode(x).latents.float().cpu())
    return torch.cat(chunks)


def _fastest(device: torch.device) -> torch.autocast:
    """bf16, unless that is the processor's slowest."""
    native = device.type != "cpu" or native_precision() == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=native)


def pass_autoencoder(
    autoencoder: AutoencoderTiny, world: Path, count: int, out: Path, of: str = "rgb"
) -> np.ndarray:
    """Give the first `count` images `of` this kind in `world`, or all if they are fewer, encoded
    and decoded once, uint8 [N,3,H,W]; kept in `out`.
    """
    kind = "passed" if of == "rgb" else f"passed-{of}"
    file = out / f"{kind}-{world.name}-{count}-{_fingerprint(autoencoder)}.npy"
    if not file.is_file():
        images = WorldDataset(world, names=(of,))
        first = Subset(images, range(min(count, len(images))))
        latents = _encode(autoencoder, first, of)
        part = file.with_suffix(".part.npy")
        np.save(part, torch.cat([_decode(autoencoder, z) for z in latents.split(16)]).numpy())
        part.replace(file)
    return np.load(file)


@torch.no_grad()
def _decode(autoencoder: AutoencoderTiny, latents: Tensor) -> Tensor:
    device = next(autoencoder.parameters()).device
    with _fastest(device):
        x = autoencoder.decode(latents.to(device)).sample.float().cpu()
    return ((x / 2 + 0.5) * 255).round().clamp(0, 255).byte()
