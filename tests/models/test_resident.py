"""Samples as columns: the same losses as from items, whole batches on one device, and a training
that goes on where it was stopped.
"""

from dataclasses import replace

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn
from torch.utils.data import Dataset
from vitruvian.lab.training import (
    appearance,
    denoise,
    hands,
    human_prior,
    loop,
    part_encoder,
    refiner,
    structure,
)
from vitruvian.lab.training.loop import MUON, Schedule, TrainingError
from vitruvian.lab.training.resident import Columns, read_columns
from vitruvian.lab.training.tokens import WordTokenizer, word_pieces
from vitruvian.models.pose_features import image_features

CELLS = 8
PIXELS = 8 * CELLS
TEXTS = (
    "a woman with light skin and long black hair wearing a red top, blue trousers and white shoes, "
    "waving, in a park, full body",
    "a man in a blue top and red trousers, standing, at night, full body",
)
WORDS = WordTokenizer.from_file()


class Items(Dataset):
    """Everything that any loss reads, in numbers that 16 bits hold."""

    def __init__(self, count=12, latent_channels=4, hint_channels=3):
        self.count, self.latent_channels = count, latent_channels
        self.hint_channels = hint_channels

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        g = torch.Generator().manual_seed(i)

        def floats(*shape):
            return torch.randn(shape, generator=g).half().float()

        def numbers(most, *shape):
            return torch.randint(most, shape, generator=g, dtype=torch.uint8)

        body = [[10.0 + i, 20.0, 1.0], [40.0, 30.0 + i, 1.0]]
        return {
            "latent": floats(self.latent_channels, CELLS, CELLS),
            "hint": numbers(256, self.hint_channels, PIXELS, PIXELS),
            "heat": floats(12, 4 * CELLS, 4 * CELLS).abs(),
            "mask": numbers(2, PIXELS, PIXELS).float(),
            "pose": floats(4, CELLS, CELLS),
            "size": torch.tensor([PIXELS + i, PIXELS, i, 2]),
            "labels": numbers(24, PIXELS, PIXELS),
            "features": floats(24, 6),
            "refreshed": floats(24, 6),
            "has_feature": numbers(2, 24).bool(),
            "crop": numbers(256, 3, 12, 12),
            "phrase": i % 5,
            "captions": {"full": TEXTS[i % 2], "brief": TEXTS[1], "bodies": [body]},
        }


class Guess(nn.Module):
    """Predicts something of all its inputs, in the form that a loss asks for."""

    def __init__(self, answer="noise"):
        super().__init__()
        self.answer, self.mix = answer, nn.Parameter(torch.tensor(0.4))

    def forward(self, x, *inputs):
        mixtures = (_mixture(value, len(x)) for value in _tensors(inputs))
        noise = self.mix * x + sum(mixtures)[:, None, None, None]
        if self.answer == "maps":
            ids = inputs[1]
            return noise, {
                "input_1_0": self.mix
                * ids.float().softmax(-1).expand(2, 64, -1, -1).permute(2, 0, 1, 3)
            }
        if self.answer == "mask":
            return noise, self.mix * inputs[2][:, :1].mean((1, 2, 3))[:, None, None] * torch.ones(
                len(x), PIXELS, PIXELS
            )
        if self.answer == "fit":
            return self.mix * x.flatten(1).mean(1, keepdim=True) * inputs[0].mean(1)
        return noise


def _mixture(value, count):
    """One number of each sample, in which every element of its tensor counts."""
    rows = value.float().flatten(1) if value.dim() > 1 else value.float()[:, None] / 1000
    weights = torch.arange(rows.shape[1]).add(1).cos() / rows.shape[1] ** 0.5
    mixed = (rows @ weights).sin() / 4
    return torch.cat((mixed, mixed.new_zeros(count - len(mixed))))


def _tensors(inputs):
    for value in inputs:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, tuple):
            yield from _tensors(value)


DENOISING = denoise.DenoisingLoss(WORDS, drop=0.3, brief=0.4, forget=0.2)
LOSSES = {
    "free": (DENOISING, Guess(), ("latent",), {}),
    "controlled": (replace(DENOISING, controlled=0.5), Guess(), ("latent", "hint"), {}),
    "structure": (
        structure.StructureLoss(WORDS, 0.3, 0.4, 0.4, focus=2.0),
        Guess(),
        ("latent", "pose", "size"),
        {"latent_channels": 12},
    ),
    "refiner": (
        refiner.RefinerLoss(DENOISING, 0.5, 0.2),
        Guess(),
        ("latent", "hint"),
        {"latent_channels": 12, "hint_channels": 9},
    ),
    "hands": (hands.HandLoss(DENOISING, blind=0.4), Guess("mask"), ("latent", "heat", "mask"), {}),
    "appearance": (
        appearance.AppearanceLoss(replace(DENOISING, controlled=0.5)),
        Guess(),
        ("latent", "hint", "labels", "features", "refreshed", "has_feature"),
        {},
    ),
    "human prior": (
        human_prior.PriorLoss(DENOISING, word_pieces(WORDS.words), image_features, 0.1),
        Guess("maps"),
        ("latent", "hint"),
        {},
    ),
    "part encoder": (
        part_encoder.ContrastLoss(torch.randn(5, 7, generator=torch.Generator().manual_seed(0))),
        Guess("fit"),
        ("crop", "phrase"),
        {},
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_columns_give_the_loss_of_the_items(name):
    loss, model, names, shape = LOSSES[name]
    data = Items(**shape)
    columns = read_columns(data, names, WORDS if "latent" in names else None)
    assert all(column.dtype != torch.float32 for column in columns.values())
    items = [data[i] for i in range(len(data))]
    of_items = loss(model, items, torch.Generator().manual_seed(5))
    of_columns = loss(model, columns, torch.Generator().manual_seed(5))
    torch.testing.assert_close(of_columns, of_items, rtol=2e-3, atol=0)
    other_rows = {key: column.roll(1, 0) for key, column in columns.items()}
    assert loss(model, other_rows, torch.Generator().manual_seed(5)) != of_columns


def test_a_batch_is_cut_from_every_column():
    columns = Columns(read_columns(Items(), ("latent", "hint"), WORDS))
    assert len(columns) == 12 and columns.device == torch.device("cpu")
    batch = columns.__getitems__([3, 0, 3])
    assert torch.equal(batch["hint"], torch.stack([Items()[i]["hint"] for i in (3, 0, 3)]))
    assert torch.equal(batch["ids"][0].long(), WORDS([TEXTS[1], TEXTS[1]]))
    assert {column.shape[0] for column in batch.values()} == {3}


class Mixer(nn.Module):
    """A network small enough to train in a test."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x, t, ids, hint=None):
        return self.last(self.first(x).tanh()) + 0.01 * (ids > 1).float().mean()


@pytest.fixture
def columns():
    yield Columns(read_columns(Items(), ("latent",), WORDS))
    AcceleratorState._reset_state(reset_partial_state=True)


SCHEDULE = Schedule(12, 5, 3e-3, warmup=2, precision="no", save_every=4, optimizer=MUON)


def test_a_stopped_training_on_columns_ends_as_one_that_was_not(columns, tmp_path):
    once = loop.fit(Mixer(), DENOISING, columns, SCHEDULE, tmp_path / "once").state_dict()
    with pytest.raises(TrainingError, match="stopped"):
        loop.fit(Mixer(), Stopping(7), columns, SCHEDULE, tmp_path / "twice")
    assert [*loop.list_checkpoints(tmp_path / "twice")] == [4]
    counted = Counting()
    model = loop.fit(Mixer(), counted, columns, SCHEDULE, tmp_path / "twice")
    assert counted.calls == 8 and not model.training
    twice = model.state_dict()
    assert all(torch.equal(once[key], twice[key]) for key in once)
    assert any(not torch.equal(once[key], start) for key, start in Mixer().state_dict().items())
    again = loop.fit(Mixer(), Stopping(0), columns, SCHEDULE, tmp_path / "twice").state_dict()
    assert all(torch.equal(once[key], again[key]) for key in once)  # finished: over at once


class Counting:
    """The loss of the tests, which counts how often it is asked."""

    def __init__(self):
        self.calls = 0

    def __call__(self, model, batch, g):
        self.calls += 1
        return DENOISING(model, batch, g)


class Stopping(Counting):
    """The same, until it was asked so often."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def __call__(self, model, batch, g):
        if self.calls == self.most:
            raise TrainingError("stopped")
        return super().__call__(model, batch, g)


def test_trainings_of_equal_seed_see_the_same_batches(columns, tmp_path):
    noted = {"one": [], "other": []}
    for name, batches in noted.items():

        def loss(model, batch, g, batches=batches):
            batches.append((batch["latent"].clone(), g.initial_seed()))
            return DENOISING(model, batch, g)

        loop.fit(Mixer(), loss, columns, replace(SCHEDULE, steps=3), tmp_path / name)
    for (latents, seed), (latents_again, seed_again) in zip(*noted.values(), strict=True):
        assert torch.equal(latents, latents_again) and seed == seed_again


def test_an_optimizer_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="adamw or muon, but is sgd"):
        replace(SCHEDULE, optimizer="sgd")
