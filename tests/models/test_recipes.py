"""The recipes of the mini weights: their order, their worlds, and all of them on a GPU."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn
from vitruvian.lab import recipes
from vitruvian.lab.recipes import everything, worlds
from vitruvian.lab.recipes.everything import lanes, plan, report
from vitruvian.lab.recipes.recipe import NO_TRAINING, Recipe, Run
from vitruvian.lab.training import loop
from vitruvian.lab.training.loop import MUON, Schedule
from vitruvian.lab.training.resident import Columns
from vitruvian.lab.world import dataset

BY_NAME = {recipe.name: recipe for recipe in recipes.RECIPES}
STAGES = [stage for lane in plan.LANES.values() for stage in lane]
READS = {  # recipe -> those whose files it reads
    "further": ["base"],
    "controlnet": ["further"],
    "vae-maps": ["further"],
    "posenet": ["vae-maps"],
    "handnet": ["vae-maps"],
    "surfacenet": ["vae-maps"],
    "clothnet": ["vae-maps"],
    "anatomynet": ["posenet"],
    "true-bodies": ["posenet", "anatomynet"],
    "hand-generator": ["further"],
    "human-prior": ["further"],
    "human-prior-ablations": ["further"],
    "lora": ["human-prior"],  # which says how large it is
    "orange-tops": ["controlnet"],
    "pointed-hats": ["controlnet"],
    "structure": ["vae-maps"],
    "structure-rgb-only": ["vae-maps"],
    "refiner": ["controlnet"],
    "refiner-ablations": ["controlnet"],
    "part-encoder": ["further"],
    "memory": ["part-encoder"],
    "appearance": ["part-encoder", "controlnet"],
    "appearance-ablations": ["part-encoder", "controlnet"],
}


@pytest.fixture
def stand_ins(monkeypatch):
    """Recipes that only note the runs they are given."""
    runs = []
    fakes = tuple(
        replace(recipe, train=lambda run, name=recipe.name: runs.append((name, run)))
        for recipe in recipes.RECIPES
    )
    monkeypatch.setattr(recipes, "RECIPES", fakes)
    return runs


def test_later_recipes_read_what_earlier_ones_wrote():
    order = [recipe.name for recipe in recipes.RECIPES]
    assert len(set(order)) == len(order)
    for name, sources in READS.items():
        assert all(order.index(source) < order.index(name) for source in sources), name
        if BY_NAME[name].default:
            assert all(BY_NAME[source].default for source in sources), name


def test_mini_runs_the_default_recipes_in_order_at_a_share(stand_ins, tmp_path):
    recipes.main(["--work", str(tmp_path / "work"), "--share", "0.1"])
    assert [name for name, _ in stand_ins] == list(recipes.DEFAULTS)
    for name, run in stand_ins:
        steps = BY_NAME[name].schedule.steps
        assert run.schedule.steps == (max(1, round(steps / 10)) if steps else 0)
    recipes.main(["structure", "--work", str(tmp_path / "whole")])
    assert stand_ins[-1][1].schedule.steps == BY_NAME["structure"].schedule.steps


def test_a_folder_keeps_its_share(stand_ins, tmp_path, capsys):
    recipes.main(["vae", "--work", str(tmp_path), "--share", "0.02"])
    for share in ("1", "0.5"):
        with pytest.raises(SystemExit):
            recipes.main(["vae", "--work", str(tmp_path), "--share", share])
    assert "holds worlds of 0.02 of their size" in capsys.readouterr().err
    world = worlds.BODIES.in_folder(tmp_path)
    assert world.scenes == round(0.02 * worlds.BODIES.scenes) and world.shards == 1
    assert worlds.BODIES.in_folder(tmp_path / "other").scenes == worlds.BODIES.scenes


@pytest.fixture
def quick(monkeypatch):
    """Three scenes a shard, in this process."""
    monkeypatch.setattr(dataset, "SHARD", 3)

    class Pool:
        def __init__(self, *_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def submit(self, work, *arguments):
            written.append((arguments[0].folder.name, arguments[1]))
            result = work(*arguments)
            return type("Done", (), {"result": lambda self: result})()

    written = []
    monkeypatch.setattr(dataset, "ProcessPoolExecutor", Pool)
    return written


def test_only_the_kinds_of_images_that_are_needed_are_written(quick, tmp_path):
    plain = dataset.World(tmp_path / "one", 3, 7, worlds.ALONE, ("rgb",))
    list(dataset.write_worlds([plain]))
    assert {file.stem.split("-")[0] for file in plain.folder.glob("*.npy")} == {"rgb"}
    before = np.load(plain.folder / "rgb-00000.npy")
    complete = replace(plain, kinds=dataset.KINDS)
    assert plain.missing() == [] and complete.missing() == [0]
    list(dataset.write_worlds([complete]))
    names = {file.stem.split("-")[0] for file in plain.folder.glob("*.npy")}
    assert names == set(dataset.KINDS)
    assert np.array_equal(np.load(plain.folder / "rgb-00000.npy"), before)
    item = dataset.WorldDataset(plain.folder, names=dataset.KINDS)[1]
    assert item["hint"].any() and item["depth"].any() and item["normal"].any()


def test_worlds_are_written_in_order_and_only_once(quick, tmp_path):
    two = [
        dataset.World(tmp_path / name, scenes, seed, worlds.ALONE, ("rgb",))
        for name, scenes, seed in (("a", 6, 1), ("b", 3, 50))
    ]
    assert [world.folder.name for world in dataset.write_worlds(two)] == ["a", "b"]
    assert quick == [("a", 0), ("a", 1), ("b", 0)]
    assert [world.folder.name for world in dataset.write_worlds(two)] == ["a", "b"]
    assert len(quick) == 3
    with pytest.raises(ValueError, match="another world"):
        list(dataset.write_worlds([replace(two[1], seed=51)]))


def test_every_stage_is_a_recipe_and_comes_after_what_it_reads():
    assert all(stage.recipe in BY_NAME for stage in STAGES)
    first = [stage.recipe for stage in plan.LANES[plan.FIRST]]
    assert first == ["further", "controlnet"]
    for lane in plan.LANES.values():
        names = [stage.recipe for stage in lane]
        for k, name in enumerate(names):
            # autoencoder, maps and evaluators stay
            sources = set(READS[name]) - {"base", "vae-maps"}
            assert sources <= {*first, *names[:k]}, name
    names = {world.name for world in plan.WORLDS} | {plan.CROPS, plan.LOOKS}
    assert {name for stage in STAGES for name in stage.worlds} <= names


def test_the_plan_says_enough_samples_and_fits_its_time():
    samples = {stage.recipe: stage.samples for stage in STAGES}
    assert samples["controlnet"] >= 150_000 and samples["further"] >= 2 * 754_176
    arms = ("human-prior", "human-prior-ablations", "lora")
    assert len({samples[arm] for arm in arms}) == 1
    assert samples["structure"] == samples["structure-rgb-only"]
    assert samples["refiner"] == samples["refiner-ablations"]
    assert 300 < plan.expected_seconds() < 25 * 60


def test_a_larger_batch_learns_faster_by_its_root_up_to_a_limit():
    schedule = Schedule(1000, 16, 1e-3, warmup=100)
    larger = plan.scaled(schedule, 64, 16_000)
    assert (larger.steps, larger.batch, larger.warmup) == (250, 64, 25)
    assert larger.lr == pytest.approx(2e-3)
    assert plan.scaled(schedule, 16, 16_000) == schedule
    assert plan.scaled(schedule, 4096, 16_000).lr == pytest.approx(plan.FASTEST * 1e-3)
    assert plan.scaled(schedule, 100, 250).steps == 3
    base = plan.stage_schedule(BY_NAME["further"], plan.LANES[plan.FIRST][0])
    assert base.lr == pytest.approx(2.4e-3) and base.optimizer == MUON  # as the weights were made
    assert plan.stage_schedule(BY_NAME["memory"], plan.Stage("memory")) == NO_TRAINING
    assert base.save_every == 700 and base.steps == 982
    refiner = plan.stage_schedule(BY_NAME["refiner"], plan.LANES["refiner"][0])
    assert (refiner.steps, refiner.save_every) == (258, 86)


class Curve(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 2))

    def forward(self, x):
        return self.layers(x)


def _error_after(schedule, folder):
    """Train on a noisy curve and measure the error on points that were not trained on."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(2304, 8, generator=g)
    y = torch.stack((x[:, 0] * x[:, 1], (x[:, 2] + x[:, 3]).sin()), 1)
    noisy = y + 0.3 * torch.randn(y.shape, generator=g)
    data = Columns({"x": x[:2048], "y": noisy[:2048]})

    def loss(model, batch, _):
        return (model(batch["x"]) - batch["y"]).square().mean()

    model = loop.fit(Curve(), loss, data, schedule, folder)
    AcceleratorState._reset_state(reset_partial_state=True)
    with torch.no_grad():
        return float((model(x[2048:]) - y[2048:]).square().mean())


def test_the_rule_keeps_what_is_learned_from_as_many_samples(tmp_path):
    """Eight times the batch, an eighth of the steps: unscaled it lags, by the rule it does not."""
    tried = Schedule(3200, 16, 1e-2, warmup=20, precision="no", save_every=10_000)
    samples = tried.steps * tried.batch
    larger = plan.scaled(tried, 128, samples)
    before = _error_after(tried, tmp_path / "tried")
    ruled = _error_after(larger, tmp_path / "ruled")
    lagging = _error_after(replace(larger, lr=tried.lr), tmp_path / "lagging")
    assert ruled < 1.25 * before
    assert ruled < 0.5 * lagging


def _note(run, name):
    file = run.work / "trained.txt"
    with file.open("a") as notes:
        notes.write(f"{name} {run.schedule.steps} {run.schedule.precision} {run.device}\n")


def _fakes(failing=""):
    def train(name, run):
        if name == failing:
            raise ValueError("it failed")
        _note(run, name)

    return {
        stage.recipe: Recipe(
            stage.recipe, BY_NAME[stage.recipe].schedule, lambda run, n=stage.recipe: train(n, run)
        )
        for stage in STAGES
    }


def _finish_worlds(work):
    for name in {name for stage in STAGES for name in stage.worlds}:
        report.finish(work, name, {})


def test_a_finished_stage_is_left_out(tmp_path):
    _finish_worlds(tmp_path)
    run = Run(tmp_path, replace(NO_TRAINING, precision="no"), 1, device="cpu")
    with pytest.raises(ValueError, match="it failed"):
        lanes.run_lane("appearance", _fakes("memory"), run, 0.01)
    lanes.run_lane("appearance", _fakes(), run, 0.01)
    lanes.run_lane("appearance", _fakes(), run, 0.01)
    names = [line.split()[0] for line in (tmp_path / "trained.txt").read_text().splitlines()]
    assert names == ["part-encoder", "memory", "appearance"]
    assert "memory" in report.table(tmp_path)


def test_a_stage_takes_the_share_precision_and_batch_of_the_run(tmp_path):
    _finish_worlds(tmp_path)
    schedule = replace(NO_TRAINING, precision="bf16")
    steps = BY_NAME["structure"].schedule.steps
    for device, length in (("cpu", steps), ("cuda", -(-115_200 // 192))):
        work = tmp_path / device
        _finish_worlds(work)
        lanes.run_lane("structure", _fakes(), Run(work, schedule, 1, device=device), 0.1)
        assert (work / "trained.txt").read_text().split() == [
            "structure",
            str(round(0.1 * length)),
            "bf16",
            device,
        ]


SCRIPT = """
import sys, time
from pathlib import Path
work, lane = Path(sys.argv[-3]), sys.argv[-1]
with (work / "order.txt").open("a") as notes:
    notes.write(f"{lane} begins\\n")
time.sleep(5 if lane == 'worlds' and FAILING == 'first' else 0.2)
if lane == FAILING:
    sys.exit(3)
with (work / "order.txt").open("a") as notes:
    notes.write(f"{lane} ends\\n")
"""


@pytest.fixture
def processes(monkeypatch, tmp_path):
    """Let run_all start scripts that only note that they ran; returns what they noted."""

    def run(failing=""):
        script = tmp_path / "lane.py"
        script.write_text(SCRIPT.replace("FAILING", repr(failing)))
        monkeypatch.setattr(lanes, "ENTRY", script)
        monkeypatch.setattr(lanes, "POLL", 0.05)
        failed = lanes.run_all(tmp_path, ["--work", str(tmp_path)])
        return failed, (tmp_path / "order.txt").read_text().splitlines()

    return run


def test_the_first_lane_has_the_card_to_itself(processes):
    failed, notes = processes()
    assert failed == []
    first_end = notes.index(f"{plan.FIRST} ends")
    later = [lane for lane in plan.LANES if lane != plan.FIRST]
    assert all(notes.index(f"{lane} begins") > first_end for lane in later)
    assert all(f"{lane} ends" in notes for lane in plan.LANES)


def test_a_lane_that_fails_is_named_and_the_others_end(processes):
    failed, notes = processes("refiner")
    assert failed == ["refiner"] and "structure ends" in notes


def test_without_the_base_nothing_else_begins(processes):
    failed, notes = processes(plan.FIRST)
    assert failed == [plan.FIRST]
    assert not any(line.startswith("structure") for line in notes)
    assert "worlds ends" not in notes  # it is stopped, and does not render on


def test_a_gpu_that_is_not_there_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        everything.main(["--gpu", "--work", str(tmp_path)])
    assert "--gpu: torch finds no CUDA device" in capsys.readouterr().err


def test_losses_are_told_by_their_first_and_last_tenth(tmp_path):
    (tmp_path / "further").mkdir()
    losses = [1.0] * 10 + [0.5] * 80 + [0.25] * 10
    (tmp_path / "further" / "loss.json").write_text(json.dumps(losses))
    facts = {"losses": report.losses_of(tmp_path, time.time() - 60), "seconds": 20, "samples": 500}
    assert facts["losses"]["further"] == {"steps": 100, "loss_first": 1.0, "loss_last": 0.25}
    report.finish(tmp_path, "further", facts)
    assert "25  further 1.0000 to 0.2500" in report.table(tmp_path)
    assert report.losses_of(tmp_path, time.time() + 60) == {}
