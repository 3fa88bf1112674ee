"""The one training loop that all trainers share: seeded, resumable after a kill, with progress,
loss curve, EMA and bf16.

On several GPUs run it under `accelerate launch`: every process takes its share of each batch.
Step n sees the same samples and the same noise however often training was interrupted before it,
because both are drawn from (seed, n) and not from a stream. A folder belongs to one training: with
other inputs it is refused (`fingerprint.py`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ...models.atomic_file import flush_to_disk, write_atomically
from ...models.weights import is_finite
from . import fingerprint
from .interrupts import Interrupts
from .muon import build_muon
from .resident import Columns

log = logging.getLogger(__name__)
Model = TypeVar("Model", bound=nn.Module)
REPORT_EVERY = 25  # steps
ADAMW, MUON = OPTIMIZERS = "adamw", "muon"
LARGEST_SEED = 2**32 - 1  # what `fit` multiplies it with still fits a generator
PARTS = 4  # of a trained weight in a checkpoint: itself, its average, two moments of AdamW
SPARE = 2**24  # bytes of a checkpoint beside its tensors
CHECKPOINT = re.compile(r"checkpoint-(\d+)")


class TrainingError(ValueError):
    """Stops a training that can not go on; the text is for the person who started it."""


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
    optimizer: str = ADAMW  # one of OPTIMIZERS

    def __post_init__(self) -> None:
        """Raise ValueError for numbers that no training can have."""
        for name, least in (("steps", 0), ("batch", 1), ("save_every", 1), ("warmup", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be {least} or more, but is {getattr(self, name)}.")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise ValueError(f"seed must be from 0 to {LARGEST_SEED}, but is {self.seed}.")
        if not (math.isfinite(self.lr) and self.lr >= 0):
            raise ValueError(f"lr must be a finite number above 0, but is {self.lr}.")
        if self.optimizer not in OPTIMIZERS:
            names = " or ".join(OPTIMIZERS)
            raise ValueError(f"optimizer must be {names}, but is {self.optimizer}.")

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
        batch, epoch, order = self.schedule.batch, -1, list[int]()
        for step in range(self.start, self.schedule.steps):
            rows = []
            for k in range(step * batch + self.rank, (step + 1) * batch, self.processes):
                if k // self.samples != epoch:
                    epoch = k // self.samples
                    g = torch.Generator().manual_seed(self.schedule.seed * 1_000_003 + epoch)
                    order = torch.randperm(self.samples, generator=g).tolist()
                rows.append(order[k % self.samples])
            yield rows


def fit(
    model: Model,
    loss: Callable[[nn.Module, Any, torch.Generator], Tensor],
    dataset: Dataset,
    schedule: Schedule,
    out: Path,
    *,
    collate: Callable[[Any], Any] | None = None,
    preview: Callable[[Model, Path], None] | None = None,
) -> Model:
    """Train the parameters of `model` that require gradients; returns it with their moving average
    (EMA) in place.

    `loss(model, batch, generator)` is the mean loss of one batch; it takes all its noise from
    `generator`, on the CPU or where the samples lie: those of `resident.Columns` come as a batch of
    columns, and `collate` is not asked.
    `out` receives checkpoints, loss.json, loss.png and whatever `preview(model, path prefix)`
    writes. Run again with the same `out` to go on from the last checkpoint; Ctrl-C and SIGTERM save
    one first, and they too leave the average in place. ValueError, before the first step, if `out`
    belongs to another training or has no room; TrainingError if the loss, a gradient or a weight is
    no longer finite, or a checkpoint can not be written: the last one stays.
    """
    inputs = _inputs(model, loss, dataset, schedule)
    accelerator = Accelerator(mixed_precision=schedule.precision)
    fingerprint.claim(out, "training", inputs, write=accelerator.is_main_process)
    state = _State(model, schedule, accelerator, out, build_optimizer(model, schedule))
    resident = isinstance(dataset, Columns)
    noise_device = dataset.device if isinstance(dataset, Columns) else torch.device("cpu")
    start = state.resume()
    batches = _Batches(
        len(dataset),  # type: ignore[arg-type]
        schedule,
        start,
        accelerator.process_index,
        accelerator.num_processes,
    )
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=dict if resident else collate,
        num_workers=0 if resident else schedule.workers,
    )
    bar = tqdm(
        loader,
        initial=start,
        total=schedule.steps,
        disable=not accelerator.is_main_process,
        mininterval=5,
    )
    model.train()
    with Interrupts() as interrupts:
        try:
            for batch in bar:
                state.compute_gradients(loss, batch, torch.Generator(noise_device))
                with interrupts.held():
                    state.step_on()
                    saves = state.step % schedule.save_every == 0 and state.step < schedule.steps
                    if saves:
                        state.save()
                if state.step % REPORT_EVERY == 0:
                    bar.set_postfix(loss=f"{fmean(state.history[-100:]):.4f}")
                if saves:
                    state.preview(preview)
        except KeyboardInterrupt:
            with contextlib.suppress(KeyboardInterrupt), interrupts.held():
                if state.step > start:
                    state.save()
                state.ema.copy_to(state.trainable)
            log.warning("Stopped at step %d; run again with %s to go on.", state.step, out)
            raise
        with interrupts.held():
            state.save()
            state.ema.copy_to(state.trainable)
    model.eval()
    if preview and accelerator.is_main_process:
        preview(model, out / "final")
    return model


def build_optimizer(model: nn.Module, schedule: Schedule) -> Optimizer:
    """Build the schedule's optimizer of the parameters that require gradients."""
    if schedule.optimizer == MUON:
        return build_muon(model, schedule.lr, schedule.weight_decay)
    return torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=schedule.lr,
        betas=(0.9, 0.99),
        weight_decay=schedule.weight_decay,
        fused=True,
    )


class _State:
    """What changes in a training, from its first step or its last checkpoint on."""

    def __init__(
        self,
        model: nn.Module,
        schedule: Schedule,
        accelerator: Accelerator,
        out: Path,
        optimizer: Optimizer,
    ) -> None:
        self.model, self.schedule, self.accelerator, self.out = model, schedule, accelerator, out
        self.trainable = [p for p in model.parameters() if p.requires_grad]
        _check_space(model, self.trainable, out)
        self.rates = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.rate)
        self.ema = EMAModel(
            self.trainable, decay=schedule.ema, use_ema_warmup=True, power=3 / 4, foreach=True
        )
        self.wrapped, self.optimizer = accelerator.prepare(model, optimizer)
        self.ema.to(accelerator.device)
        accelerator.register_for_checkpointing(self.ema, self.rates)
        self.step, self.history = 0, list[float]()
        self.loss = math.nan

    def resume(self) -> int:
        """Load the newest checkpoint, if there is one; returns the step to go on from."""
        self.out.mkdir(parents=True, exist_ok=True)
        checkpoints = list_checkpoints(self.out)
        if checkpoints:
            self.step = max(checkpoints)
            _check_steps(self.step, self.schedule, self.out)
            _load_state(self.accelerator, checkpoints[self.step])
        self.history = _read_history(self.out, self.step)
        return self.step

    def compute_gradients(self, loss: Callable, batch: Any, g: torch.Generator) -> None:
        """Compute the gradients of one step; TrainingError if they or the loss are not finite. The
        loss draws from `g`, which is seeded here.
        """
        index = self.accelerator.process_index
        g.manual_seed((self.schedule.seed * 7919 + self.step) * 64 + index)
        with self.accelerator.autocast():
            value = loss(self.wrapped, batch, g)
        self.accelerator.backward(value)
        norm = self.accelerator.clip_grad_norm_(self.trainable, self.schedule.clip)
        # one reading of the GPU in each step: weights that NaN has reached can not be saved
        self.loss, size = torch.stack((value.detach().float(), norm.float())).tolist()
        if not math.isfinite(self.loss):
            raise self._diverged(f"the loss is {self.loss}")
        # in fp16 gradients may be infinite: that step is left out, and their scale is lowered
        if not math.isfinite(size) and self.accelerator.scaler is None:
            raise self._diverged("a gradient is not finite")

    def step_on(self) -> None:
        """Change the weights and their average."""
        self.optimizer.step()
        self.rates.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.step(self.trainable)
        self.step += 1
        self.history.append(self.loss)

    def save(self) -> None:
        """Write a checkpoint of this step; TrainingError if it can not be or should not be."""
        if not all(is_finite(tensor) for tensor in (*self.trainable, *self.ema.shadow_params)):
            raise self._diverged("a weight is not finite")
        _save(self.accelerator, self.out, self.step, self.history)

    def preview(self, preview: Callable | None) -> None:
        """Let `preview` see the averaged weights, then go on with the trained ones."""
        if preview is None or not self.accelerator.is_main_process:
            return
        self.ema.store(self.trainable)
        self.ema.copy_to(self.trainable)
        self.model.eval()
        try:
            with torch.no_grad():
                preview(self.model, self.out / f"step-{self.step:06d}")
        finally:  # when it is interrupted, too: a checkpoint holds the trained weights
            self.model.train()
            self.ema.restore(self.trainable)

    def _diverged(self, what: str) -> TrainingError:
        return TrainingError(
            f"Stopped after step {self.step}: {what}. {_last_checkpoint(self.out)} Train with a "
            f"smaller learning rate (--lr) than {self.schedule.lr:g} and another --work; if it "
            "is so from the first step on, look for damaged images or weights among the inputs."
        )


def _inputs(model: nn.Module, loss: Callable, dataset: Dataset, schedule: Schedule) -> dict:
    """List what the steps of a training depend on. More steps may be asked for later."""
    same_for_all = replace(schedule, steps=0, save_every=1, workers=0)
    return {
        **fingerprint.settings(same_for_all),
        **fingerprint.settings(loss, "loss."),
        "the number of samples": str(len(dataset)),  # type: ignore[arg-type]
        "the network before its first step": fingerprint.digest_network(model),
    }


def _check_space(model: nn.Module, trainable: Sequence[Tensor], out: Path) -> None:
    """Raise ValueError if a checkpoint, and the next one beside it, have no room in `out`."""
    frozen = sum(tensor.nbytes for tensor in model.state_dict().values())
    needed = 2 * (frozen + (PARTS - 1) * sum(tensor.nbytes for tensor in trainable) + SPARE)
    nearest = out.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    free = shutil.disk_usage(nearest).free + _size(out)
    if free < needed:
        raise ValueError(
            f"--work {out}: two checkpoints of this training take {needed / 1e9:.2f} GB, and "
            f"{free / 1e9:.2f} GB are free. Free some, or choose a folder on another disk."
        )


def _size(folder: Path) -> int:
    """Sum up the bytes of the checkpoints in a folder, which later ones replace."""
    parts = (*folder.glob("checkpoint-*/*"), *folder.glob("checkpoint.part/*"))
    return sum(file.stat().st_size for file in parts if file.is_file())


def _check_steps(done: int, schedule: Schedule, out: Path) -> None:
    if done > schedule.steps:
        raise ValueError(
            f"--work {out} holds step {done} of this training, and --steps asks for "
            f"{schedule.steps}: ask for {done} or more, or choose another --work."
        )


@contextlib.contextmanager
def saving(
    learned: Callable[[], Mapping[str, Tensor]], save: Callable[[], None], out: Path
) -> Iterator[None]:
    """Call `save` after the training in this context, and when it is interrupted.

    An interrupted training that has learned nothing, so that the `learned` tensors are still as
    they were, does not save: a file of an earlier training at `out` is the better one. Neither does
    one that ends in an error. TrainingError if the file can not be written.
    """
    initial = {name: tensor.detach().cpu().clone() for name, tensor in learned().items()}
    try:
        yield
    except KeyboardInterrupt:
        if any(not torch.equal(tensor.cpu(), initial[name]) for name, tensor in learned().items()):
            _write(save)
            log.warning("What was learned so far is in %s.", out)
        raise
    _write(save)


def _write(save: Callable[[], None]) -> None:
    try:
        save()
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"{error} The checkpoint in --work holds what was learned: the same command writes it."
        ) from error


def list_checkpoints(out: Path) -> dict[int, Path]:
    """List the checkpoints of a folder by their steps."""
    numbered = ((CHECKPOINT.fullmatch(path.name), path) for path in out.glob("checkpoint-*"))
    return {int(match[1]): path for match, path in numbered if match}


def _last_checkpoint(out: Path) -> str:
    checkpoints = list_checkpoints(out)
    if not checkpoints:
        return f"There is no checkpoint in {out} yet."
    return f"The last good checkpoint is that of step {max(checkpoints)} in {out}."


def _save(accelerator: Accelerator, out: Path, step: int, history: list[float]) -> None:
    """Write a checkpoint, complete or not at all; the one before it is deleted only after that.
    TrainingError if it can not be written.
    """
    final, part = out / f"checkpoint-{step:06d}", out / "checkpoint.part"
    try:
        if accelerator.is_main_process:
            shutil.rmtree(part, ignore_errors=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(part))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            _write_history(out, history)
            _put_in_place(part, final)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch's writer raises the second
        shutil.rmtree(part, ignore_errors=True)
        raise TrainingError(
            f"The checkpoint of step {step} can not be written: {error}. {_last_checkpoint(out)} "
            "Make room in --work and run the same command again to go on from there."
        ) from error
    accelerator.wait_for_everyone()


def _put_in_place(part: Path, final: Path) -> None:
    """Give a complete checkpoint its name, and delete the older ones."""
    if final.exists():  # a finished run was started again
        shutil.rmtree(part)
    else:
        for path in (*part.rglob("*"), part):
            flush_to_disk(path)
        os.replace(part, final)
        flush_to_disk(final.parent)
    checkpoints = list_checkpoints(final.parent)
    for step in sorted(checkpoints)[:-1]:
        shutil.rmtree(checkpoints[step])


def _load_state(accelerator: Accelerator, checkpoint: Path) -> None:
    try:
        accelerator.load_state(str(checkpoint))
    except (OSError, RuntimeError, ValueError, LookupError, EOFError, SafetensorError) as error:
        raise ValueError(
            f"--work: the checkpoint {checkpoint} can not be read: {error}. Delete it to begin "
            "again, or choose another --work."
        ) from error


def _read_history(out: Path, steps: int) -> list[float]:
    file = out / "loss.json"
    return json.loads(file.read_text("utf-8"))[:steps] if file.is_file() else []


def _write_history(out: Path, history: list[float]) -> None:
    text = json.dumps([round(v, 6) for v in history])
    write_atomically(out / "loss.json", lambda part: part.write_text(text, encoding="utf-8"))
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
