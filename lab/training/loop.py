"""The one training loop that all trainers share: seeded, resumable after a kill, with progress,
loss curve, EMA and bf16.

On several GPUs run it under `accelerate launch`: every process takes its share of each batch.
Step n sees the same samples and the same noise however often training was interrupted before it,
because both are drawn from (seed, n) and not from a stream.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

log = logging.getLogger(__name__)
Model = TypeVar("Model", bound=nn.Module)
REPORT_EVERY = 25  # steps: each reading of the loss waits for the GPU


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train. `batch` counts the samples of one step over all processes."""

    steps: int
    batch: int
    lr: float
    warmup: int = 100
    final_lr: float = 0.05  # share of `lr` left at the last step, reached along a cosine
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.998
    seed: int = 0
    precision: str = "bf16"  # "no", "bf16" or "fp16"
    save_every: int = 250
    workers: int = 0

    def rate(self, step: int) -> float:
        """The learning rate of `step` as a share of `lr`: linear warm-up, then a cosine."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.final_lr + (1 - self.final_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def native_precision() -> str:
    """Choose bf16 where the hardware computes in it; a processor that only emulates it is ten times
    slower than in float32.
    """
    native = torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if native else "no"


class _Batches:
    """Index lists from step `start` on: every epoch a permutation drawn from (seed, epoch), no
    sample left out.
    """

    def __init__(
        self, samples: int, schedule: Schedule, start: int, rank: int, processes: int
    ) -> None:
        self.samples, self.schedule, self.start = samples, schedule, start
        self.rank, self.processes = rank, processes

    def __len__(self) -> int:
        return self.schedule.steps - self.start

    def __iter__(self) -> Iterator[list[int]]:
        batch, epoch, order = self.schedule.batch, -1, torch.empty(0)
        for step in range(self.start, self.schedule.steps):
            rows = []
            for k in range(step * batch + self.rank, (step + 1) * batch, self.processes):
                if k // self.samples != epoch:
                    epoch = k // self.samples
                    g = torch.Generator().manual_seed(self.schedule.seed * 1_000_003 + epoch)
                    order = torch.randperm(self.samples, generator=g)
                rows.append(int(order[k % self.samples]))
            yield rows


def fit(
    model: Model,
    loss: Callable[[nn.Module, Any, torch.Generator], Tensor],
    dataset: Dataset,
    schedule: Schedule,
    out: Path,
    *,
    collate: Callable[[list], Any] | None = None,
    preview: Callable[[Model, Path], None] | None = None,
) -> Model:
    """Train the parameters of `model` that require gradients; returns it with their moving average
    (EMA) in place.

    `loss(model, batch, generator)` is the mean loss of one batch; it takes all its noise from
    `generator` (CPU).
    `out` receives checkpoints, loss.json, loss.png and whatever `preview(model, path prefix)`
    writes. Run again with the same `out` to go on from the last checkpoint; Ctrl-C saves one first,
    and it too leaves the average in place.
    """
    accelerator = Accelerator(mixed_precision=schedule.precision)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trainable, lr=schedule.lr, betas=(0.9, 0.99), weight_decay=schedule.weight_decay, fused=True
    )
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.rate)
    ema = EMAModel(trainable, decay=schedule.ema, use_ema_warmup=True, power=3 / 4, foreach=True)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    ema.to(accelerator.device)
    accelerator.register_for_checkpointing(ema, rates)
    start = _resume(accelerator, out)
    history = _read_history(out, start)
    samples = len(dataset)  # type: ignore[arg-type]
    rank, processes = accelerator.process_index, accelerator.num_processes
    batches = _Batches(samples, schedule, start, rank, processes)
    loader = DataLoader(
        dataset, batch_sampler=batches, collate_fn=collate, num_workers=schedule.workers
    )
    bar = tqdm(
        loader,
        initial=start,
        total=schedule.steps,
        disable=not accelerator.is_main_process,
        mininterval=5,
    )
    step, pending = start, []
    model.train()
    try:
        for batch in bar:
            g = torch.Generator().manual_seed(
                (schedule.seed * 7919 + step) * 64 + accelerator.process_index
            )
            with accelerator.autocast():
                value = loss(wrapped, batch, g)
            accelerator.backward(value)
            accelerator.clip_grad_norm_(trainable, schedule.clip)
            optimizer.step()
            rates.step()
            optimizer.zero_grad(set_to_none=True)
            ema.step(trainable)
            step += 1
            pending.append(value.detach())
            saves = step % schedule.save_every == 0 and step < schedule.steps
            if saves or step % REPORT_EVERY == 0 or step == schedule.steps:
                history += torch.stack(pending).float().tolist()
                pending = []
                bar.set_postfix(loss=f"{sum(history[-100:]) / len(history[-100:]):.4f}")
            if saves:
                _save(accelerator, out, step, history)
                _preview(accelerator, model, trainable, ema, preview, out / f"step-{step:06d}")
    except KeyboardInterrupt:
        history += [float(v) for v in pending]
        _save(accelerator, out, step, history)
        ema.copy_to(trainable)
        log.warning("Stopped at step %d; run again with the same folder %s to go on.", step, out)
        raise
    _save(accelerator, out, step, history)
    ema.copy_to(trainable)
    model.eval()
    if preview and accelerator.is_main_process:
        preview(model, out / "final")
    return model


@contextlib.contextmanager
def saving(
    learned: Callable[[], Mapping[str, Tensor]], save: Callable[[], None], out: Path
) -> Iterator[None]:
    """Call `save` after the training in this context, and when it is interrupted.

    An interrupted training that has learned nothing, so that the `learned` tensors are still as
    they were, does not save: a file of an earlier training at `out` is the better one.
    """
    initial = {name: tensor.detach().cpu().clone() for name, tensor in learned().items()}
    try:
        yield
    except KeyboardInterrupt:
        if any(not torch.equal(tensor.cpu(), initial[name]) for name, tensor in learned().items()):
            save()
            log.warning("What was learned so far is in %s.", out)
        raise
    save()


def _preview(
    accelerator: Accelerator,
    model: nn.Module,
    trainable: list,
    ema: EMAModel,
    preview,
    prefix: Path,
) -> None:
    """Let `preview` see the averaged weights, then go on with the trained ones."""
    if preview is None or not accelerator.is_main_process:
        return
    ema.store(trainable)
    ema.copy_to(trainable)
    model.eval()
    with torch.no_grad():
        preview(model, prefix)
    model.train()
    ema.restore(trainable)


def _save(accelerator: Accelerator, out: Path, step: int, history: list[float]) -> None:
    """Write a checkpoint, complete or not at all; the one before it is deleted only after that."""
    final, part = out / f"checkpoint-{step:06d}", out / "checkpoint.part"
    if accelerator.is_main_process:
        shutil.rmtree(part, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(part))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _write_history(out, history)
        if final.exists():  # a finished run was started again
            shutil.rmtree(part)
        else:
            os.replace(part, final)
        for old in sorted(out.glob("checkpoint-*"))[:-1]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def _resume(accelerator: Accelerator, out: Path) -> int:
    """Load the newest checkpoint of `out`, if there is one; returns the step to go on from."""
    out.mkdir(parents=True, exist_ok=True)
    checkpoints = sorted(out.glob("checkpoint-*"))
    if not checkpoints:
        return 0
    accelerator.load_state(str(checkpoints[-1]))
    return int(checkpoints[-1].name.rsplit("-", 1)[1])


def _read_history(out: Path, steps: int) -> list[float]:
    file = out / "loss.json"
    return json.loads(file.read_text("utf-8"))[:steps] if file.is_file() else []


def _write_history(out: Path, history: list[float]) -> None:
    part = out / "loss.json.part"
    part.write_text(json.dumps([round(v, 6) for v in history]), encoding="utf-8")
    os.replace(part, out / "loss.json")
    plot_loss(history, out / "loss.png")


def plot_loss(history: list[float], path: Path) -> None:
    """Draw the loss curve: every step faint, the running mean of a fiftieth of the run on top."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    width = max(1, len(history) // 50)
    values = torch.tensor(history, dtype=torch.float64)
    mean = values.unfold(0, width, 1).mean(-1) if len(history) >= width and len(history) else values
    chart, axes = plt.subplots(figsize=(8, 4.5), dpi=100)
    axes.plot(values, color="0.8", linewidth=0.7, label="each step")
    axes.plot(
        range(len(history) - len(mean) + 1, len(history) + 1),
        mean,
        color="#b5432b",
        label=f"mean of {width} steps",
    )
    if len(history) and float(values.min()) > 0:
        axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.legend(frameon=False)
    chart.tight_layout()
    chart.savefig(path)
    plt.close(chart)
