"""Test the evaluation of bodies against true ones."""

import pytest
import torch
from vitruvian.lab.evaluators import bodies, posenet, true_bodies
from vitruvian.lab.world.renderer import render
from vitruvian.lab.world.scenes import ACTIONS, FULL, sample_scenes
from vitruvian.models import pose

SIZE = 192


@pytest.fixture(scope="module")
def net(mini_weights):
    return posenet.load_posenet()


@pytest.fixture(scope="module")
def world(mini_weights):
    """The true bodies, and other bodies with their images, which are measured by them."""
    scenes = sample_scenes(40, 9, framing=FULL, people=1)
    return true_bodies.load(), render(scenes), scenes.people.action


def test_true_bodies_are_complete_and_do_their_actions(net, world):
    true, truth, actions = world
    read = bodies.read(net, truth.rgb)
    assert bodies.are_complete(read, true).float().mean() > 0.85
    assert (bodies.name_actions(read.joints, true) == actions).float().mean() > 0.8
    assert (bodies.name_actions(truth.body[..., :2], true) == actions).float().mean() > 0.8


def test_wrong_bodies_are_recognized(net, world):
    """Legs covered, a second body: hardly any is complete."""
    true, truth, _ = world
    without = truth.rgb.clone()
    for i, body in enumerate(truth.body):
        without[i, :, int(body[pose.R_HIP, 1]) :] = without[i, :, :1, :1]
    beside = (truth.instance >= 0).roll(60, -1)[:, None]
    double = torch.where(beside, truth.rgb.roll(60, -1), truth.rgb)
    for wrong in (without, double):
        assert bodies.are_complete(bodies.read(net, wrong), true).float().mean() < 0.3


def readings(count, seed, actions):
    """Bodies that are read evenly: those of action 1 have a first bone twice as long."""
    g = torch.Generator().manual_seed(seed)
    size = len(bodies.LIMBS)
    bones = 0.1 * (1 + 0.05 * torch.randn(count, len(bodies.BONES), generator=g))
    bones[:, 0] *= 1 + actions
    return bodies.Read(
        torch.zeros(count, 18, 2),
        0.4 + 0.01 * torch.randn(count, size, generator=g),
        0.2 * (1 + 0.1 * torch.randn(count, size, generator=g)),
        bones,
        torch.zeros(count, 4),
        torch.randn(count, generator=g),
    )


def true_of(read, actions):
    """True bodies whose limits are those of `read`."""
    limits = bodies.limits_of(read, actions)
    return bodies.TrueBodies(limits, torch.zeros(len(actions), 36), actions, read.features)


def test_limits_are_chosen_so_that_one_true_body_in_twenty_is_refused():
    actions = torch.arange(2_000) % 2
    read, other = (readings(2_000, seed, actions) for seed in (0, 1))
    true = true_of(read, actions)
    refused = [
        1 - bodies.are_complete(each, true, actions).float().mean() for each in (read, other)
    ]
    assert float(refused[0]) == pytest.approx(bodies.FALSE_ALARMS, abs=0.002)
    assert float(refused[1]) == pytest.approx(bodies.FALSE_ALARMS, abs=0.015)


def test_every_action_has_limits_of_its_own():
    actions = torch.arange(2_000) % 2
    true = true_of(readings(2_000, 0, actions), actions)
    other = readings(2_000, 1, actions)
    assert not bodies.are_complete(other, true, 1 - actions).any()


def test_each_reading_can_refuse_a_body():
    actions = torch.zeros(1_000, dtype=torch.long)
    read = readings(1_000, 0, actions)
    true = true_of(read, actions)
    for name, factor in (("certainty", 0.1), ("double", 5.0), ("bones", 2.0), ("bones", 0.5)):
        wrong = getattr(read, name).clone()
        wrong[:, 3] *= factor
        assert not bodies.are_complete(read._replace(**{name: wrong}), true, actions).any(), name
    more = read._replace(certainty=read.certainty + 0.5, double=read.double / 5)
    passed = bodies.are_complete(read, true, actions)
    assert bodies.are_complete(more, true, actions)[passed].all()
    assert not bodies.are_complete(read._replace(make=read.make - 9), true, actions).any()


def test_a_shape_is_the_same_wherever_and_however_large(world):
    _, truth, _ = world
    joints = truth.body[..., :2]
    torch.testing.assert_close(
        bodies.shape_of(0.5 * joints + torch.tensor([30.0, -7.0])), bodies.shape_of(joints)
    )
    assert len(ACTIONS) == len(set(ACTIONS))


def test_frechet_distance_of_known_gaussians():
    g = torch.Generator().manual_seed(0)
    narrow = torch.randn(20_000, 3, generator=g, dtype=torch.float64)
    wide = 2 * torch.randn(20_000, 3, generator=g, dtype=torch.float64) + torch.tensor([1.0, 0, 0])
    # |mean difference|^2 + sum of (2 - 1)^2 over three independent axes
    assert bodies.frechet(narrow, wide) == pytest.approx(1 + 3, rel=0.05)
    assert bodies.frechet(narrow, narrow) == pytest.approx(0, abs=1e-6)


def test_drift_counts_only_what_lies_outside_the_bodies(world):
    _, truth, _ = world
    joints, images = truth.body[:4, :, :2], truth.rgb[:4]
    free = bodies.surroundings(joints, SIZE)[:, None]
    inside = torch.where(free, images, 0.0)
    assert bodies.drift(inside, images, joints, joints) == 0
    outside = torch.where(free, images + 0.25, images)
    assert bodies.drift(outside, images, joints, joints) == pytest.approx(0.25, rel=1e-4)
    assert (truth.instance[:4] >= 0)[~free[:, 0]].float().mean() > 0.4
    assert (truth.instance[:4] >= 0)[free[:, 0]].float().mean() < 0.02
