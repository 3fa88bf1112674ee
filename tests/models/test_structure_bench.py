"""What the benchmark of joint denoising and of the refiner computes."""

import copy

import pytest
import torch
from vitruvian.lab.benchmarks import intervals, velocity_errors
from vitruvian.lab.benchmarks import structure as bench
from vitruvian.lab.benchmarks import structure_refiner as refiner
from vitruvian.lab.benchmarks.decisions import DENIED, SHOWN
from vitruvian.lab.benchmarks.structure_judge import (
    PCK,
    Judge,
    Judged,
    Maps,
    average,
    difference,
    figures,
)
from vitruvian.lab.training import convert, networks, preview
from vitruvian.lab.training.structure import noise_schedule
from vitruvian.lab.world.dataset import draw_hint, structure_images
from vitruvian.lab.world.renderer import render
from vitruvian.lab.world.scenes import FULL, sample_scenes

COUNT = 3


@pytest.fixture(scope="module")
def world():
    scenes = sample_scenes(COUNT, 78, framing=FULL, people=1)
    return scenes, render(scenes)


@pytest.fixture(scope="module")
def judge(world, mini_weights):
    return Judge(world[1], references=4, seed=79)


@pytest.fixture(scope="module")
def checkpoint(mini_weights):
    return convert.load_checkpoint(preview.CHECKPOINT)


@pytest.fixture(scope="module")
def noised(world, checkpoint):
    scenes, truth = world
    hints = torch.stack([draw_hint(i, scenes, truth) for i in range(COUNT)])
    kinds = truth.rgb, *structure_images(truth)
    return velocity_errors.encode(checkpoint, ["a man"] * COUNT, kinds, hints)


@pytest.mark.parametrize("step", velocity_errors.STEPS)
def test_networks_of_both_schedules_see_the_same_noise(step):
    alphas, at = noise_schedule(False).double(), velocity_errors.matching_step(step)
    ratios = (alphas / (1 - alphas)).log()
    low, share = int(at), at - int(at)
    expected = noise_schedule(True)[step].double()
    between = ratios[low] + share * (ratios[low + 1] - ratios[low])
    assert float(between) == pytest.approx(float((expected / (1 - expected)).log()), abs=1e-3)
    assert at < step


def test_who_knows_the_image_has_no_error(noised):
    def perfect(noisy, step, scenes):
        alpha, sigma = velocity_errors.noise_level(step)
        noise = (noisy - alpha * scenes.latents) / sigma
        return (alpha * noise - sigma * scenes.latents)[:, :4]

    assert float(velocity_errors.errors(perfect, noised, 600).max()) < 1e-8
    nothing = velocity_errors.errors(lambda x, *_: torch.zeros_like(x[:, :4]), noised, 600)
    assert nothing.shape == (COUNT,)
    assert float(nothing.min()) > 0.1


def test_the_base_s_noise_counts_as_a_velocity(checkpoint, noised):
    untrained = networks.build_controlnet(checkpoint.unet)  # adds nothing
    predict, step = velocity_errors.controlled(checkpoint, untrained), 400
    values = velocity_errors.errors(predict, noised, step)
    alpha = float(noise_schedule(True)[step])
    noise = torch.randn(noised.latents.shape, generator=torch.Generator().manual_seed(step))
    noisy = alpha**0.5 * noised.latents + (1 - alpha) ** 0.5 * noise
    with torch.no_grad():
        t = torch.tensor([step])
        predicted = checkpoint.unet(noisy[:, :4], t, noised.context).sample
    expected = (predicted - noise[:, :4]).square().mean((1, 2, 3)) / alpha
    torch.testing.assert_close(values, expected, rtol=1e-3, atol=1e-5)


def test_one_condition_of_each_scene_fails_in_turns():
    g = torch.Generator().manual_seed(1)
    true = {name: torch.rand(6, 3, 16, 16, generator=g) for name in ("pose", "depth", "normal")}
    faults = refiner.faulty(true)
    for name, images in faults[refiner.TRUE].items():
        assert torch.equal(images, true[name])
    for k, name in enumerate(true):
        for i in range(6):
            black, other = (faults[f][name][i] for f in (refiner.MISSING, refiner.OTHER))
            if i % 3 == k:
                assert not black.any()
                assert torch.equal(other, true[name][i - 1])
            else:
                assert torch.equal(black, true[name][i])
                assert torch.equal(other, true[name][i])
    blurred = faults[refiner.BLURRED]
    assert torch.equal(blurred["pose"], true["pose"])
    for name in ("depth", "normal"):
        assert blurred[name].mean() == pytest.approx(float(true[name].mean()), abs=0.02)
        assert blurred[name].std() < true[name].std() / 3


def test_true_images_and_their_maps_fit(judge, world):
    true = Maps(world[1].rgb, *structure_images(world[1]))
    shifted = Maps(true.rgb, true.depth.roll(1, 0), true.normal.roll(1, 0))
    right, wrong = judge.read(true), judge.read(shifted)
    numbers = figures("true", right, (PCK, "another"))
    assert set(numbers) == {"true_pck", "true_pck_low", "true_pck_high", "true_pck_count"}
    assert numbers["true_pck"] > 0.9 and numbers["true_pck_count"] == COUNT
    for figure in ("depth_error", "normal_error"):
        off = difference(right, wrong, figure, "off")["off"]
        assert off < 0
        expected = float((right.parts[figure] - wrong.parts[figure]).mean())
        assert off == pytest.approx(expected, rel=1e-4)
    assert difference(right, wrong, PCK, "off")["off"] == 0
    assert judge.read(true.first(2)).parts[PCK].tolist() == right.parts[PCK][:2].tolist()
    assert right.first(2).features.shape[0] == 2


def test_a_scene_that_says_nothing_does_not_count():
    nothing = torch.zeros(2, 4, 4, dtype=torch.bool)
    nothing[0, 1, 1:3] = True
    values = average(torch.arange(32.0).view(2, 4, 4), nothing)
    assert values[0] == 5.5 and values[1].isnan()

    def judged(parts, wholes):
        return Judged(torch.zeros(3, 1), {"e": torch.tensor(parts)}, {"e": torch.tensor(wholes)})

    one = judged([1.0, 5.0, 3.0], [1.0, 0.0, 1.0])
    other = judged([0.5, 1.0, 9.0], [1.0, 1.0, 0.0])
    assert difference(one, other, "e", "off")["off"] == pytest.approx(0.5)


def test_colors_are_compared_where_both_show_a_body(judge, world):
    images = world[1].rgb
    same = judge.color_difference(images, images)
    assert float(same.nan_to_num().abs().max()) == 0
    is_body = (world[1].instance >= 0)[:, None]
    elsewhere = torch.where(is_body, images, 1 - images)
    assert float(judge.color_difference(images, elsewhere).max()) < 0.1
    painted = torch.where(is_body, (images + 0.4) % 1, images)
    assert float(judge.color_difference(images, painted).min()) > 0.2


@pytest.fixture
def many(judge):
    """A judge who knows 600 true images of three features."""
    near = copy.copy(judge)
    near.true = torch.randn(600, 3, generator=torch.Generator().manual_seed(1))
    return near


def apart(features):
    return Judged(features, {}, {})


def test_a_distance_is_that_of_two_gaussians(many):
    g = torch.Generator().manual_seed(2)
    noise = torch.randn(500, 3, generator=g)
    numbers = many.distance(apart(2 * noise + 1), "x_fd")
    assert numbers["x_fd_low"] < 3 + 3 < numbers["x_fd_high"]  # of the means and the spreads
    assert numbers["x_fd_high"] - numbers["x_fd_low"] < 3 and numbers["x_fd_count"] == 500


def test_distances_of_the_same_scenes_differ_more_surely(many):
    g = torch.Generator().manual_seed(3)
    scenes = torch.randn(500, 3, generator=g)
    one, other = apart(scenes), apart(scenes * 1.3 + 0.3)
    numbers = many.distance_difference(one, other, "off")
    assert numbers["off_high"] < 0
    alone = [many.distance(each, "x") for each in (one, other)]
    assert numbers["off"] == pytest.approx(alone[0]["x"] - alone[1]["x"])
    reaches = sum(each["x_high"] - each["x"] for each in alone)
    assert numbers["off_high"] - numbers["off"] < reaches
    same = many.distance_difference(one, one, "off")
    assert same["off"] == same["off_low"] == same["off_high"] == 0


def figure(name, value):
    return intervals.mean(torch.full((8,), value), name)


def test_a_question_is_answered_by_the_paired_difference():
    cost = figure("cost_separate", 0.5) | figure("cost_separate_minus_three", -0.5)
    numbers = {**cost, "three_runs": 1.0}
    (only,) = bench.decisions(numbers)
    assert only["verdict"] == SHOWN
    for name, value in {"joint": 0.5, "control": 0.7, "joint_minus_control": -0.2}.items():
        numbers |= figure(f"{name}_fd", value) | figure(f"{name}_pck", value)
    rows = {row["claim"]: row["verdict"] for row in bench.decisions(numbers)}
    assert rows["Joint denoising gives better images than a pose ControlNet"] == SHOWN
    assert (
        rows["Joint denoising puts bodies in their pose more often than a pose ControlNet"]
        == DENIED
    )
    assert len(rows) == 3
