"""Load and save our weight files: safetensors that say in their metadata what they are for."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from .atomic_file import write_atomically
from .plain_words import reason, size

PREFIX = "vitruvian."  # of our keys in the metadata
MISFITS = (  # what builders of networks raise for tensors and metadata of another kind
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
LISTED = 3  # names in an error
LONGEST_VERSION = 9  # digits
CHOOSE = "Choose another file."
# what PyTorch says of tensors that a network lacks, does not know, or has in other sizes
MISSING = re.compile(r"Missing key\(s\) in state_dict: ((?:\"[^\"]*\"(?:, )?)+)")
UNKNOWN = re.compile(r"Unexpected key\(s\) in state_dict: ((?:\"[^\"]*\"(?:, )?)+)")
NAME = re.compile(r"\"([^\"]*)\"")
SIZES = re.compile(r"size mismatch for (\S+): .*?Size\(\[([^\]]*)\]\).*?Size\(\[([^\]]*)\]\)")
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
    kind = f"weights of '{method}'"
    with opened(path, kind) as file:
        metadata = _ours(file.metadata() or {})
        _check(path, metadata, method, version, base)
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    try:
        tensors = widened(tensors)
    except (KeyError, RuntimeError):
        raise ValueError(
            f"{path}: expected {kind}, found a scale of 8 bit numbers that are not there. {CHOOSE}"
        ) from None
    check_finite(path, tensors)
    return tensors, metadata


@contextmanager
def opened(path: Path, kind: str) -> Iterator[Any]:
    """Open a .safetensors file for reading, tensor by tensor.

    `kind` says what is expected in it. ValueError, naming the file, if it can not be read.
    """
    obstacle = _what_is_no_file(path)
    if obstacle:
        raise ValueError(f"{path}: expected {kind} here, found {obstacle}. {CHOOSE}")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except OSError as failure:
        raise ValueError(
            f"{path}: expected {kind}, and it can not be read: {reason(failure)}."
        ) from None
    except SafetensorError as broken:
        raise ValueError(
            f"{path}: expected {kind} in a complete .safetensors file, found one that can not be "
            "read. It is damaged or was cut short: copy or download it again."
        ) from broken


def load_any(path: str | Path, kind: str) -> dict[str, Tensor]:
    """Load the tensors of a .safetensors file, whoever wrote it.

    `kind` says what is expected in it. ValueError, naming the file, if it can not be read or holds
    numbers that are not finite.
    """
    path = Path(path)
    with opened(path, kind) as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    check_finite(path, tensors)
    return tensors


@contextmanager
def fitting(path: str | Path, kind: str) -> Iterator[None]:
    """Turn the errors of what builds a network from a file into one ValueError that names the file
    and what was expected in it.
    """
    try:
        yield
    except MISFITS as error:
        text = " ".join(str(error).split())
        if text.startswith(str(path)):
            raise
        raise ValueError(f"{path}: expected {kind}, {_misfit(error, text)}. {CHOOSE}") from error


def _misfit(error: Exception, text: str) -> str:
    """Say what was found instead, from an error of whoever built a network and its text.

    PyTorch lists the tensors that do not fit; other texts than ours mean nothing to an artist.
    """
    if isinstance(error, KeyError):
        return f"found no {text}"
    if isinstance(error, ValueError) and text.startswith("found"):
        return text.rstrip(".")
    facts = [f"found no {listed(NAME.findall(names))}" for names in MISSING.findall(text)]
    facts += [f"found {listed(NAME.findall(names))} as well" for names in UNKNOWN.findall(text)]
    for name, *sizes in SIZES.findall(text)[:1]:
        actual, expected = (size(numbers.split(", ")) for numbers in sizes)
        facts.append(f"found '{name}' with {actual} numbers instead of {expected}")
    return ", ".join(facts) or "found other numbers than such a file has"


def check_finite(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError, naming the file, for tensors that hold NaN or infinity."""
    broken = [key for key, tensor in tensors.items() if not is_finite(tensor)]
    if broken:
        raise ValueError(
            f"{path}: expected finite numbers, found NaN or infinity in {listed(broken)}. The "
            "training that made it failed, or the file is damaged: take another."
        )


def is_finite(tensor: Tensor) -> bool:
    """Tell whether a tensor holds neither NaN nor infinity."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    if tensor.element_size() == 1:  # 8 bits know no reductions
        tensor = tensor.half()
    # NaN spreads to both ends and infinity is one: no second tensor of this size is needed
    return all(end.isfinite() for end in torch.aminmax(tensor))


def check_names(
    path: str | Path, kind: str, expected: Iterable[str], present: Iterable[str]
) -> None:
    """Raise ValueError, naming the file and what is expected in it, unless the tensors present are
    those expected.
    """
    expected, present = set(expected), set(present)
    if missing := expected - present:
        raise ValueError(f"{path}: expected {kind}, found no {listed(missing)} in it. {CHOOSE}")
    if unknown := present - expected:
        raise ValueError(
            f"{path}: expected {kind}, found {listed(unknown)} in it as well. {CHOOSE}"
        )


def listed(names: Iterable[str]) -> str:
    """List some names in quotation marks, and count the others."""
    names = sorted(names)
    first_names = ", ".join(f"'{name}'" for name in names[:LISTED])
    return first_names if len(names) <= LISTED else f"{first_names} and {len(names) - LISTED} more"


def _what_is_no_file(path: Path) -> str:
    """Say what is at a path that is no file, "" for a file."""
    if os.path.isfile(path):  # which, unlike Path, knows no names that are too long
        return ""
    if os.path.isdir(path):
        return "a folder"
    return "a link to a missing file" if os.path.islink(path) else "no file"


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

    Floating point tensors except scalars and the scales of `narrowed` are stored as `dtype`. As
    int8, tensors of two and more axes take 8 bits and a scale for each row, others are float16;
    `load` returns all as float16.

    The file is replaced at once or not at all: after a failure the old one is still there.
    Raises ValueError for numbers that are not finite in `dtype` and OSError, naming the file, when
    it can not be written.
    """
    path = Path(path)
    narrow = torch.float16 if dtype == torch.int8 else dtype
    stored = {key: _stored(key, tensor, narrow) for key, tensor in tensors.items()}
    if dtype == torch.int8:
        stored = narrowed(stored)
    facts = {PREFIX + key: str(value) for key, value in metadata.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # not save_file, which makes files that other users can not read
        write_atomically(path, lambda part: part.write_bytes(serialize(stored, facts)))
    except (OSError, SafetensorError) as failure:
        words = reason(failure) if isinstance(failure, OSError) else failure
        raise OSError(f"{path} could not be written and is as it was before: {words}") from failure


def narrowed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Store matrices and kernels [N, ...] as int8 with a scale [N, 1, ...] each; others stay.

    The largest value of a row becomes 127 or -127.
    """
    narrow = {}
    for key, tensor in tensors.items():
        if tensor.dim() < 2 or not tensor.is_floating_point():
            narrow[key] = tensor
            continue
        rows = tensor.detach().float()
        scale = rows.abs().amax(tuple(range(1, rows.dim())), keepdim=True).clamp(min=1e-5) / 127
        narrow[key] = (rows / scale).round().to(torch.int8)
        narrow[key + SCALE_SUFFIX] = scale
    return narrow


def widened(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Restore float16 tensors from the int8 tensors and scales of `narrowed`; others stay."""
    wide = {key: tensor for key, tensor in tensors.items() if not key.endswith(SCALE_SUFFIX)}
    for key in tensors:
        if key.endswith(SCALE_SUFFIX):
            name = key.removesuffix(SCALE_SUFFIX)
            wide[name] = (tensors[name] * tensors[key]).half()
    return wide


def _ours(metadata: Mapping[str, str]) -> dict[str, str]:
    return {key.removeprefix(PREFIX): v for key, v in metadata.items() if key.startswith(PREFIX)}


def _check(
    path: Path, metadata: Mapping[str, str], method: str, version: int, base: str | None
) -> None:
    file_method = metadata.get("method")
    if file_method != method:
        actual = f"'{file_method}'" if file_method else "a file that is not Vitruvian's"
        raise ValueError(f"{path}: expected weights of '{method}', found {actual}. {CHOOSE}")
    number = metadata.get("version", "")
    if not number.isdecimal() or len(number) > LONGEST_VERSION:
        raise ValueError(
            f"{path}: expected a number as version in its metadata, found '{number[:40]}'. The "
            "file is damaged: copy it again."
        )
    if int(number) > version:
        raise ValueError(
            f"{path}: expected '{method}' weights of version {version} or older, found version "
            f"'{number}'. Update Vitruvian."
        )
    if base is not None and metadata.get("base") != base:
        raise ValueError(
            f"{path}: expected '{method}' weights for the base model '{base}', "
            f"found weights for '{metadata.get('base', 'an unknown one')}'. {CHOOSE}"
        )


def _stored(key: str, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        exact = dtype is None or tensor.dim() == 0 or key.endswith(SCALE_SUFFIX)
        tensor = tensor if exact else tensor.to(dtype)
        if not is_finite(tensor):
            bits = 8 * tensor.element_size()
            raise ValueError(
                f"'{key}' holds numbers that are not finite with {bits} bits: the training failed. "
                "Train again with a lower learning rate."
            )
    return tensor.contiguous()
