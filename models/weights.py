"""Load and save our weight files: safetensors that say in their metadata what they are for."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

PREFIX = "vitruvian."  # of our keys in the metadata
SCALE_SUFFIX = ".scale"  # marks the tensor that the rows of an 8 bit tensor are multiplied with


def load(
    path: str | Path, *, method: str, version: int = 1, base: str | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Load the tensors and the metadata (without prefix) of a file that `save` wrote.

    Raises ValueError, naming the file, what was expected and what was found, if the file is
    missing, broken, made for another method, another base model (when `base` is given) or in a
    newer format than `version`.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: expected weights of '{method}' here, found no file.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = _ours(file.metadata() or {})
            _check(path, metadata, method, version, base)
            return _widened({key: file.get_tensor(key) for key in file.keys()}), metadata
    except SafetensorError as broken:
        raise ValueError(
            f"{path}: expected a complete .safetensors file, found one that can not be read "
            f"({broken}). It may have been cut short: copy it again."
        ) from broken


def read_method(path: str | Path) -> str | None:
    """Read which method a file is for; None for files that are not ours or can not be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get(f"{PREFIX}method")
    except (OSError, SafetensorError):
        return None


def save(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str | int | float],
    dtype: torch.dtype | None = None,
) -> None:
    """Save `tensors` with their metadata: method, version, base and hyper-parameters.

    Floating point tensors except scalars are stored as `dtype`. As int8, tensors of two and more
    axes take 8 bits and a scale for each row, others are float16; `load` returns all as float16.

    The file is replaced at once or not at all: after a failure the old one is still there.
    Raises ValueError for numbers that are not finite in `dtype` and OSError, naming the file, when
    it can not be written.
    """
    path = Path(path)
    narrow = torch.float16 if dtype == torch.int8 else dtype
    stored = {key: _stored(key, tensor, narrow) for key, tensor in tensors.items()}
    if dtype == torch.int8:
        stored = _narrowed(stored)
    facts = {PREFIX + key: str(value) for key, value in metadata.items()}
    partial_path = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # not save_file, which makes files that other users can not read
        partial_path.write_bytes(serialize(stored, facts))
        os.replace(partial_path, path)
    except (OSError, SafetensorError) as failure:
        raise OSError(
            f"{path} could not be written and is as it was before: {failure}"
        ) from failure
    finally:
        partial_path.unlink(missing_ok=True)


def _ours(metadata: Mapping[str, str]) -> dict[str, str]:
    return {key.removeprefix(PREFIX): v for key, v in metadata.items() if key.startswith(PREFIX)}


def _check(
    path: Path, metadata: Mapping[str, str], method: str, version: int, base: str | None
) -> None:
    file_method = metadata.get("method", "a file that is not Vitruvian's")
    if file_method != method:
        raise ValueError(f"{path}: expected weights of '{method}', found '{file_method}'.")
    if not metadata.get("version", "").isdecimal() or int(metadata["version"]) > version:
        raise ValueError(
            f"{path}: expected '{method}' weights of version {version} or older, found version "
            f"'{metadata.get('version')}'. Update Vitruvian."
        )
    if base is not None and metadata.get("base") != base:
        raise ValueError(
            f"{path}: expected '{method}' weights for the base model '{base}', "
            f"found weights for '{metadata.get('base')}'."
        )


def _stored(key: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor if dtype is None or tensor.dim() == 0 else tensor.to(dtype)
        if not torch.isfinite(tensor).all():
            raise ValueError(f"'{key}' holds numbers that are not finite in {tensor.dtype}.")
    return tensor.contiguous()


def _narrowed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Store matrices and kernels [N, ...] as int8 with a scale [N, 1, ...] each.

    The largest value of a row becomes 127 or -127.
    """
    narrowed = {}
    for key, tensor in tensors.items():
        if tensor.dim() < 2 or not tensor.is_floating_point():
            narrowed[key] = tensor
            continue
        rows = tensor.float()
        scale = rows.abs().amax(tuple(range(1, rows.dim())), keepdim=True).clamp(min=1e-5) / 127
        narrowed[key] = (rows / scale).round().to(torch.int8)
        narrowed[key + SCALE_SUFFIX] = scale
    return narrowed


def _widened(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Restore float16 tensors from the int8 tensors and scales that `_narrowed` made."""
    wide = {key: tensor for key, tensor in tensors.items() if not key.endswith(SCALE_SUFFIX)}
    for key in tensors:
        if key.endswith(SCALE_SUFFIX):
            name = key.removesuffix(SCALE_SUFFIX)
            wide[name] = (tensors[name] * tensors[key]).half()
    return wide
