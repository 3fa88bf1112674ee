"""A training's folder: whose it is, what a NaN, a signal, a full disk and a kill leave in it."""

import json
import os
import shutil
import signal
import threading
from collections import namedtuple
from dataclasses import dataclass, replace

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn
from vitruvian.lab.training import fingerprint, loop
from vitruvian.lab.training.interrupts import Interrupts
from vitruvian.lab.training.loop import Schedule, TrainingError

SCHEDULE = Schedule(6, 2, 1e-2, warmup=0, precision="no", save_every=2)
SAMPLES = [torch.full((4,), float(i)) for i in range(10)]


@dataclass(frozen=True)
class Loss:
    """The distance from a sum; the last of `acts` is called with each step, counted from 1."""

    scale: float = 1.0

    def __call__(self, model, batch, g):
        x = torch.stack(batch)
        steps.append(len(steps) + 1)
        value = self.scale * (model(x) - x.sum(-1, keepdim=True)).square().mean()
        return acts[-1](steps[-1], model, value)


def nothing(number, model, value):
    return value


steps: list[int] = []
acts = [nothing]


@pytest.fixture(autouse=True)
def fresh_state():
    steps.clear()
    acts[:] = [nothing]
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def network(value=0.5):
    model = nn.Linear(4, 1)
    nn.init.constant_(model.weight, value)
    nn.init.zeros_(model.bias)
    return model


def fit(out, *, schedule=SCHEDULE, act=nothing, scale=1.0, value=0.5, samples=SAMPLES):
    steps.clear()
    acts.append(act)
    if schedule.precision != SCHEDULE.precision:
        AcceleratorState._reset_state(reset_partial_state=True)
    return loop.fit(network(value), Loss(scale), samples, schedule, out, collate=list)


def checkpoints(out):
    return sorted(loop.list_checkpoints(out))


def content(out):
    (step,) = checkpoints(out)
    return (loop.list_checkpoints(out)[step] / "model.safetensors").read_bytes()


def test_the_same_training_goes_on_and_a_longer_one_too(tmp_path):
    undisturbed = fit(tmp_path / "undisturbed", schedule=replace(SCHEDULE, steps=12))
    fit(tmp_path / "parts", schedule=replace(SCHEDULE, steps=12), act=stop_at(5))
    assert checkpoints(tmp_path / "parts") == [4]
    again = fit(tmp_path / "parts", schedule=replace(SCHEDULE, steps=12))
    assert torch.equal(undisturbed.weight, again.weight) and len(steps) == 8
    fit(tmp_path / "parts", schedule=replace(SCHEDULE, steps=14))
    assert len(steps) == 2 and checkpoints(tmp_path / "parts") == [14]


def stop_at(step):
    """Ctrl-C at this step, which the test takes for granted."""

    def act(number, model, value):
        if number == step:
            raise KeyboardInterrupt
        return value

    return act


@pytest.fixture(autouse=True)
def stops_quietly(monkeypatch):
    original = loop.fit

    def fit_until_stopped(*arguments, **more):
        try:
            return original(*arguments, **more)
        except KeyboardInterrupt:
            return None

    monkeypatch.setattr(loop, "fit", fit_until_stopped)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"schedule": replace(SCHEDULE, lr=2e-2)}, "lr was 0.01 and is 0.02"),
        ({"schedule": replace(SCHEDULE, batch=3)}, "batch was 2 and is 3"),
        ({"schedule": replace(SCHEDULE, seed=1)}, "seed was 0 and is 1"),
        ({"schedule": replace(SCHEDULE, precision="bf16")}, "precision was 'no' and is 'bf16'"),
        ({"scale": 2.0}, "loss.scale was 1.0 and is 2.0"),
        ({"value": 0.25}, "the network before its first step changed"),
        ({"samples": SAMPLES[:9]}, "the number of samples was 10 and is 9"),
    ],
)
def test_another_training_is_refused_and_the_old_one_stays(tmp_path, other, difference):
    fit(tmp_path)
    before = content(tmp_path), (tmp_path / "inputs.json").read_text()
    with pytest.raises(ValueError) as error:
        fit(tmp_path, **other)
    assert f"--work {tmp_path} belongs to another training: {difference}" in str(error.value)
    assert "Choose another --work" in str(error.value)
    assert not steps and before == (content(tmp_path), (tmp_path / "inputs.json").read_text())


def test_checkpoints_of_nobody_knows_what_are_refused(tmp_path):
    fit(tmp_path)
    for text in (None, "", "[]", '{"training": 3}', "{"):
        record = tmp_path / "inputs.json"
        record.unlink() if text is None else record.write_text(text)
        with pytest.raises(ValueError, match="not known|belongs to another"):
            fit(tmp_path)


def test_fewer_steps_than_were_done_are_refused(tmp_path):
    fit(tmp_path)
    with pytest.raises(ValueError, match="holds step 6 of this training, and --steps asks for 5"):
        fit(tmp_path, schedule=replace(SCHEDULE, steps=5))
    fit(tmp_path)  # finished: over at once
    assert not steps


def test_a_folder_without_a_checkpoint_takes_any_training(tmp_path):
    fit(tmp_path, act=stop_at(1))
    assert not checkpoints(tmp_path)
    fit(tmp_path, schedule=replace(SCHEDULE, lr=2e-2))
    assert checkpoints(tmp_path) == [6]


def poison_loss(number, model, value):
    return value * float("nan") if number == 5 else value


def overflow_loss(number, model, value):
    return value * 1e38 * 1e10 if number == 5 else value


def poison_gradient(number, model, value):
    if number == 5:
        model.weight.register_hook(lambda gradient: gradient * float("inf"))
    return value


def poison_weight(number, model, value):
    """No loss shows it: the step is the last before a checkpoint."""
    if number == 6:
        model.bias.data.fill_(float("nan"))
    return value


@pytest.mark.parametrize(
    ("act", "words", "kept"),
    [
        (poison_loss, "after step 4: the loss is nan", 4),
        (overflow_loss, "after step 4: the loss is inf", 4),
        (poison_gradient, "after step 4: a gradient is not finite", 4),
        (poison_weight, "after step 6: a weight is not finite", 4),
    ],
)
def test_a_training_stops_at_once_when_a_number_is_not_finite(tmp_path, act, words, kept):
    with pytest.raises(TrainingError) as error:
        fit(tmp_path, act=act)
    assert words in str(error.value) and f"that of step {kept} in {tmp_path}" in str(error.value)
    assert "smaller learning rate (--lr) than 0.01" in str(error.value)
    assert checkpoints(tmp_path) == [kept] and len(steps) in (5, 6)
    assert all(torch.isfinite(t).all() for t in (fit(tmp_path).state_dict()).values())


def test_nan_in_the_first_step_leaves_no_checkpoint(tmp_path):
    with pytest.raises(TrainingError, match="the loss is nan. There is no checkpoint"):
        fit(tmp_path, samples=[torch.full((4,), float("nan"))] * 4)
    assert not checkpoints(tmp_path) and len(steps) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_that_was_done(tmp_path, number):
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]

    def act(step, model, value):
        if step == 4:
            os.kill(os.getpid(), number)
        return value

    assert fit(tmp_path, act=act) is None
    assert (
        checkpoints(tmp_path) == [3] and len(json.loads((tmp_path / "loss.json").read_text())) == 3
    )
    assert handlers == [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    undisturbed = fit(tmp_path / "undisturbed")
    assert torch.equal(fit(tmp_path).weight, undisturbed.weight)


def test_a_signal_between_a_step_and_its_count_waits(tmp_path, monkeypatch):
    """A step that is done and not counted would be done twice."""
    original = loop.EMAModel.step

    def step(self, parameters):
        if len(steps) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, parameters)

    with monkeypatch.context() as patch:
        patch.setattr(loop.EMAModel, "step", step)
        assert fit(tmp_path) is None
    assert checkpoints(tmp_path) == [3]
    assert torch.equal(fit(tmp_path).weight, fit(tmp_path / "undisturbed").weight)


def test_a_stop_during_a_preview_keeps_the_trained_weights(tmp_path):
    """Not their average, which the preview sees."""

    def preview(model, prefix):
        if "step-000004" in prefix.name:
            raise KeyboardInterrupt

    loop.fit(network(), Loss(), SAMPLES, SCHEDULE, tmp_path, collate=list, preview=preview)
    assert torch.equal(fit(tmp_path).weight, fit(tmp_path / "undisturbed").weight)


def test_another_thread_trains_without_signals():
    def run():
        with Interrupts() as interrupts, interrupts.held():
            done.append(True)

    done = []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert done


def full_disk(monkeypatch, at):
    """Fail the writing of this and later checkpoints after some of it."""
    original, calls = loop.Accelerator.save_state, []

    def save_state(self, folder):
        calls.append(folder)
        original(self, folder)
        if len(calls) >= at:
            raise RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file")

    monkeypatch.setattr(loop.Accelerator, "save_state", save_state)


def test_a_full_disk_leaves_the_last_checkpoint_and_is_said(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        full_disk(patch, 2)
        with pytest.raises(TrainingError) as error:
            fit(tmp_path)
    assert "checkpoint of step 4 can not be written" in str(error.value)
    assert "good checkpoint is that of step 2" in str(error.value)
    assert checkpoints(tmp_path) == [2] and not (tmp_path / "checkpoint.part").exists()
    assert torch.equal(fit(tmp_path).weight, fit(tmp_path / "undisturbed").weight)


def test_a_disk_that_is_too_full_is_found_before_the_first_step(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**9, 10**9, 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match=r"--work .*two checkpoints .* take 0\.03 GB, and 0\.00"):
        fit(tmp_path)
    assert not steps and not checkpoints(tmp_path)


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    events, replace_file = [], os.replace

    def flush(path):
        events.append(path.name)

    def rename(before, after):
        events.append(f"-> {os.path.basename(after)}")
        replace_file(before, after)

    monkeypatch.setattr(loop, "flush_to_disk", flush)
    monkeypatch.setattr(loop.os, "replace", rename)
    fit(tmp_path, schedule=replace(SCHEDULE, steps=2))
    named = events.index("-> checkpoint-000002")
    assert {"model.safetensors", "optimizer.bin", "checkpoint.part"} <= set(events[:named])
    assert events[named + 1 :][0] == tmp_path.name


def test_checkpoints_are_counted_and_not_sorted_as_words(tmp_path):
    for name in ("checkpoint-999999", "checkpoint-1000000", "checkpoint-old", "checkpoint.part"):
        (tmp_path / name).mkdir()
    assert max(loop.list_checkpoints(tmp_path)) == 1_000_000
    assert len(loop.list_checkpoints(tmp_path)) == 2


def test_a_damaged_checkpoint_is_said(tmp_path):
    fit(tmp_path)
    (loop.list_checkpoints(tmp_path)[6] / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match="--work: the checkpoint .*000006 can not be read"):
        fit(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": -5},
        {"batch": 0},
        {"lr": float("nan")},
        {"lr": float("inf")},
        {"lr": -1e-3},
        {"seed": -1},
        {"seed": 2**64},
        {"save_every": 0},
        {"warmup": -1},
    ],
)
def test_numbers_that_no_training_has(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"^{name} must be"):
        replace(SCHEDULE, **wrong)


def test_a_digest_is_of_all_numbers_and_names():
    def digest(**tensors):
        module = nn.Module()
        for name, tensor in tensors.items():
            module.register_buffer(name, tensor)
        return fingerprint.digest_network(module)

    a = torch.randn(2, 3, 4, 4)
    same = digest(a=a)
    assert same == digest(a=a.to(memory_format=torch.channels_last))
    changed = a.clone()
    changed[1, 2, 3, 3] += 1e-6
    others = [changed, a.double(), a[:1], torch.zeros(0)]
    assert same not in [digest(a=t) for t in others] and same != digest(b=a)
    assert digest(a=torch.tensor(True)) != digest(a=torch.tensor(False))


def test_files_are_told_apart_by_name_and_content(tmp_path):
    def digest(**files):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
        return fingerprint.digest_path(folder)

    assert digest(a="1", b="2") == digest(b="2", a="1")
    assert len({digest(a="1", b="2"), digest(a="2", b="1"), digest(a="12"), digest(ab="12")}) == 4
