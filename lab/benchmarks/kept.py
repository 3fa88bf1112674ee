"""Keep generated images, so that a measurement that was cut off goes on where it was, and another
evaluator reads the same images.

`dev.py bench NAME --keep FOLDER`. Nothing in the folder knows the code that made it: delete it when
sampling or weights change.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from ...models.atomic_file import write_atomically

FOLDER = "VITRUVIAN_BENCH_KEEP"  # the command line's folder, for the benchmark's process


def folder(benchmark: str) -> Path | None:
    """Name the folder of a benchmark's images; None if none are to be kept."""
    root = os.environ.get(FOLDER)
    return Path(root) / benchmark if root else None


def kept_images(
    where: Path | None, way: str, rows: Sequence[int] | slice, make: Callable[[], Tensor]
) -> Tensor:
    """Give the images [B,3,H,W] of scenes `rows` by one `way`, rounded to 8 bits: those of folder
    `where`, or what `make` returns, which is kept there.
    """
    if where is None:
        return _to_images(_to_bytes(make()))
    file = where / way / f"{_name(rows)}.safetensors"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        content = save({"images": _to_bytes(make())})
        write_atomically(file, lambda part: part.write_bytes(content))
    return _to_images(load_file(file)["images"])


def _name(rows: Sequence[int] | slice) -> str:
    numbers = range(rows.start, rows.stop) if isinstance(rows, slice) else rows
    digest = hashlib.sha256(repr(list(numbers)).encode()).hexdigest()[:8]
    return f"{numbers[0]:05d}-{len(numbers)}-{digest}"


def _to_bytes(images: Tensor) -> Tensor:
    return (images * 255).round().clamp(0, 255).to(torch.uint8).cpu().contiguous()


def _to_images(pixels: Tensor) -> Tensor:
    return pixels.float() / 255
