"""What a training is made of, as short texts: a training goes on only with the same.

The record lies in the training's folder. A part of it is a name -> a number or word, or a DIGEST of
what is too long to be texts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...models.atomic_file import write_atomically

RECORD = "inputs.json"
CHECKPOINTS = "checkpoint-[0-9]*"
DIGEST = "sha256:"
BLOCK = 2**20  # bytes read at a time
LETTERS = 16  # of a digest, enough to tell the inputs of one folder apart

Inputs = Mapping[str, str]


def digest_files(files: Iterable[Path]) -> str:
    """Digest the names and the content of files."""
    total = hashlib.sha256()
    for file in files:
        total.update(file.name.encode(errors="surrogateescape") + b"\0" + _content(file).digest())
    return DIGEST + total.hexdigest()[:LETTERS]


def digest_path(path: Path) -> str:
    """Digest the content of a file whatever its name, or of all files in a folder."""
    if path.is_dir():
        return digest_files(file for file in sorted(path.iterdir()) if file.is_file())
    return DIGEST + _content(path).hexdigest()[:LETTERS]


def _content(file: Path) -> Any:
    """Digest the bytes of a file, some at a time."""
    total = hashlib.sha256()
    with file.open("rb") as content:
        while block := content.read(BLOCK):
            total.update(block)
    return total


def digest_network(network: nn.Module) -> str:
    """Digest all parameters and buffers of a network."""
    total = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        total.update(name.encode())
        if isinstance(tensor, Tensor) and tensor.numel():
            row = tensor.detach().cpu().contiguous().flatten()
            total.update(row.view(torch.uint8).numpy().data)
    return DIGEST + total.hexdigest()[:LETTERS]


def settings(subject: Any, prefix: str = "") -> dict[str, str]:
    """List the numbers and words of a dataclass, and of those in it; functions and tensors are
    left out.
    """
    values: dict[str, str] = {}
    if not dataclasses.is_dataclass(subject):
        return values
    for field in dataclasses.fields(subject):
        value, name = getattr(subject, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            values |= settings(value, f"{name}.")
        elif _is_plain(value):
            values[name] = repr(value)
    return values


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(item) for item in value.values())
    if isinstance(value, tuple | list):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def claim(folder: Path, part: str, inputs: Inputs, *, write: bool = True) -> None:
    """Record what the training in `folder` is made of; ValueError if its checkpoints are of others.

    `part` names who records, so that several may: those of other names stay. Without `write` it is
    only compared.
    """
    file = folder / RECORD
    parts = read_record(file)
    if any(folder.glob(CHECKPOINTS)):
        if part not in parts:
            raise ValueError(
                f"--work {folder} holds checkpoints of a training whose inputs are not known: "
                "choose another --work."
            )
        if differences := list_differences(parts[part], inputs):
            raise ValueError(
                f"--work {folder} belongs to another training: {differences}. Choose another "
                "--work for these inputs, or give those of before to go on."
            )
    if write and parts.get(part) != inputs:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**parts, part: dict(inputs)}, indent=1)
        write_atomically(file, lambda half: half.write_text(text, encoding="utf-8"))


def read_record(file: Path) -> dict[str, dict[str, str]]:
    """Read a record, {} if there is none or it can not be understood."""
    try:
        parts = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(parts, dict):
        return {}
    return {name: part for name, part in parts.items() if isinstance(part, dict)}


def list_differences(before: Inputs, now: Inputs) -> str:
    """Say what differs, "" if nothing does."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return "; ".join(_difference(name, before.get(name), now.get(name)) for name in names)


def _difference(name: str, before: str | None, now: str | None) -> str:
    texts = ["other content" if (text or "").startswith(DIGEST) else text for text in (before, now)]
    if texts[0] == texts[1]:
        return f"{name} changed"
    return f"{name} was {texts[0] or 'not given'} and is {texts[1] or 'not given'}"
