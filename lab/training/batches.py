"""What the losses read from a batch: from a list of items as a data set gives them, or from columns
of `resident.Columns`, which have "ids" and "near" in the place of "captions".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ...models.mini import LATENT_STRIDE
from .tokens import BOS, EOS

Batch = Sequence[dict] | Mapping[str, Tensor]


def column(batch: Batch, name: str) -> Tensor:
    """Read the tensor `name` of all samples, [B, ...]."""
    if isinstance(batch, Mapping):
        return batch[name]
    return torch.stack([torch.as_tensor(item[name]) for item in batch])


def count(batch: Batch) -> int:
    """Count the samples."""
    return len(next(iter(batch.values()))) if isinstance(batch, Mapping) else len(batch)


def first_of(batch: Batch, size: int) -> Batch:
    """Take the first samples."""
    if isinstance(batch, Mapping):
        return {name: tensor[:size] for name, tensor in batch.items()}
    return batch[:size]


def caption_ids(
    tokenizer: Callable[[Sequence[str]], Tensor], batch: Batch, empty: Tensor, brief: Tensor
) -> Tensor:
    """Tokenize the captions [B,77]: none where `empty`, bool [B], the short form where `brief`."""
    if isinstance(batch, Mapping):
        forms = batch["ids"].long()  # [B, 2, 77], full and brief
        ids = torch.where(brief[:, None], forms[:, 1], forms[:, 0])
        nothing = torch.full_like(ids[:1], EOS)
        nothing[:, 0] = BOS
        return torch.where(empty[:, None], nothing, ids)
    texts = [
        "" if is_empty else item["captions"]["brief" if is_brief else "full"]
        for item, is_empty, is_brief in zip(batch, empty.tolist(), brief.tolist(), strict=True)
    ]
    return tokenizer(texts)


def near_joints(batch: Batch, height: int, width: int) -> Tensor:
    """Measure how near each cell of each sample is to a joint, [B,height,width]."""
    if isinstance(batch, Mapping):
        return batch["near"].float()
    return torch.stack([nearness(item["captions"]["bodies"], height, width) for item in batch])


def nearness(bodies: Sequence, height: int, width: int, reach: float = 1.5) -> Tensor:
    """Measure how near each cell is to a joint, [height,width]: 1 on it, exp(-1/2) `reach` cells
    off.

    `bodies` [N][18][x, y, confidence] in pixels; joints of confidence 0 count for nothing.
    """
    joints = torch.tensor(bodies, dtype=torch.float32).reshape(-1, 3)
    joints = joints[joints[:, 2] > 0]
    if not len(joints):
        return torch.zeros(height, width)
    x, y = (joints[:, :2] / LATENT_STRIDE).unbind(1)
    dx, dy = torch.arange(width) + 0.5 - x[:, None], torch.arange(height) + 0.5 - y[:, None]
    square = dy[:, :, None] ** 2 + dx[:, None, :] ** 2
    return torch.exp(-square.amin(0) / (2 * reach**2))
