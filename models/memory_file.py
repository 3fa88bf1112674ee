"""The file of a memory: the features, counts and thumbnails of every class, in safetensors."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from . import weights
from .memory import Bank, Memory
from .part_crops import THUMBNAIL
from .plain_words import size
from .semantic_map import BACKGROUND, CLASSES

METHOD, VERSION = "memory", 1
FIELDS = tuple(field.name for field in dataclasses.fields(Bank))


def save(path: str | Path, memory: Memory) -> None:
    """Write a memory to a file; `load` returns it bit for bit."""
    tensors = {} if memory.projection is None else {"projection": memory.projection}
    for part in memory.parts:
        bank = memory.banks[part]
        tensors[f"bank.{part}.features"] = bank.features
        tensors[f"bank.{part}.counts"] = bank.counts
        tensors[f"bank.{part}.thumbnails"] = bank.thumbnails
    weights.save(path, tensors, {"method": METHOD, "version": VERSION, "encoder": memory.encoder})


def load(path: str | Path) -> Memory:
    """Read a memory from its file. Raises ValueError, naming the file, for any other file."""
    tensors, metadata = weights.load(path, method=METHOD, version=VERSION)
    projection = tensors.pop("projection", None)
    try:
        fields: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            start, part, name = key.split(".")
            if start != "bank" or not BACKGROUND < int(part) < len(CLASSES):
                raise ValueError(f"'{key}' is of no class")
            if name not in FIELDS:
                raise ValueError(f"'{key}' is nothing that a bank holds")
            fields.setdefault(int(part), {})[name] = tensor
        banks = {part: _read_bank(part, fields[part]) for part in sorted(fields)}
        memory = Memory(banks, metadata["encoder"], projection)
        _check_widths(memory)
    except KeyError as missing:
        raise ValueError(f"{path}: expected a memory with {missing}, found none.") from None
    except ValueError as error:
        raise ValueError(f"{path}: expected the banks of a memory: {error}.") from None
    return memory


def _read_bank(part: int, fields: Mapping[str, Tensor]) -> Bank:
    """The bank of these tensors; ValueError or KeyError if they are not those of one."""
    bank = Bank(**{name: fields[name] for name in FIELDS})
    name, count = CLASSES[part], len(bank.features)
    if bank.features.dim() != 2 or bank.features.dtype != torch.float32:
        raise ValueError(f"the features of '{name}' are no rows of numbers with 32 bits")
    if not torch.allclose(bank.features.norm(dim=-1), torch.ones(()), atol=1e-3):
        raise ValueError(f"the features of '{name}' are not of unit length")
    if bank.counts.shape != (count,) or not (bank.counts > 0).all():
        raise ValueError(f"the counts of '{name}' are not {count} numbers above 0")
    square = (count, THUMBNAIL, THUMBNAIL, 3)
    if bank.thumbnails.shape != square or bank.thumbnails.dtype != torch.uint8:
        raise ValueError(f"the thumbnails of '{name}' are not {size(square)} bytes")
    return bank


def _check_widths(memory: Memory) -> None:
    widths = {bank.features.shape[1] for bank in memory.banks.values()}
    if memory.projection is not None:
        if memory.projection.dim() != 2:
            raise ValueError("the projection is no matrix")
        widths.add(len(memory.projection))
    if len(widths) > 1:
        listed_widths = ", ".join(map(str, sorted(widths)))
        raise ValueError(f"features and projection have different widths: {listed_widths}")
