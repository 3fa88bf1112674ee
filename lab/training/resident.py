"""Samples that lie as columns where the network is, so that no step waits for the CPU: on a GPU a
whole world fits beside it. `loop.fit` trains on them as on any data set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .batches import nearness

FORMS = ("full", "brief")  # of captions, in the order of the column "ids"
READ_AT_ONCE = 64  # samples
Tokenize = Callable[[Sequence[str]], Tensor]


class Columns(Dataset):
    """Samples as tensors [N,...], all on one device; a batch is cut from each of them."""

    def __init__(self, columns: Mapping[str, Tensor]) -> None:
        self.columns = dict(columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {name: tensor[row] for name, tensor in self.columns.items()}

    def __getitems__(self, rows: list[int]) -> dict[str, Tensor]:
        """Cut a batch; torch's loader asks for it by this name."""
        index = torch.tensor(rows, device=self.device)
        return {name: tensor[index] for name, tensor in self.columns.items()}

    @property
    def device(self) -> torch.device:
        """Where the samples lie."""
        return next(iter(self.columns.values())).device


def read_columns(
    data: Dataset, names: Sequence[str], tokenizer: Tokenize | None = None, *, workers: int = 0
) -> dict[str, Tensor]:
    """Collect the tensors `names` of all samples, and with a tokenizer their captions: "ids"
    [N,2,77] of the full and the brief one, and "near" [N,h,w], how near each cell is to a joint.

    Floats take 16 bits. So many processes read the samples.
    """
    reader = partial(_read_items, tuple(names), tokenizer)  # which other processes can have
    loader = DataLoader(data, READ_AT_ONCE, num_workers=workers, collate_fn=reader)
    parts = list(loader)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _read_items(
    names: Sequence[str], tokenizer: Tokenize | None, items: Sequence[dict]
) -> dict[str, Tensor]:
    rows = {name: torch.stack([torch.as_tensor(item[name]) for item in items]) for name in names}
    if tokenizer is not None:
        captions = [item["captions"] for item in items]
        ids = tokenizer([caption[form] for caption in captions for form in FORMS])
        rows["ids"] = ids.unflatten(0, (-1, len(FORMS)))
        cells = rows["latent"].shape[2:]
        rows["near"] = torch.stack([nearness(caption["bodies"], *cells) for caption in captions])
    return {name: _narrow(tensor) for name, tensor in rows.items()}


def _narrow(tensor: Tensor) -> Tensor:
    if tensor.dtype == torch.long:  # token ids, numbers of phrases, sizes of images
        return tensor.short()
    return tensor.half() if tensor.dtype == torch.float32 else tensor
