"""Test the evaluation of bodies against true ones."""

import pytest
import torch
from vitruvian.lab.evaluators import bodies, posenet
from vitruvian.lab.world.renderer import render
from vitruvian.lab.world.scenes import ACTIONS, FULL, sample_scenes
from vitruvian.models import pose

SIZE = 192


@pytest.fixture(scope="module")
def net(mini_weights):
    return posenet.load_posenet()


@pytest.fixture(scope="module")
def world(net):
    """True bodies, and other bodies with their images, which are measured by them."""
    reference_scenes, test_scenes = (
        sample_scenes(n, seed, framing=FULL, people=1) for n, seed in ((300, 8), (40, 9))
    )
    reference, truth = render(reference_scenes), render(test_scenes)
    true = bodies.Bodies(
        bodies.read(net, reference.rgb),
        bodies.shape_of(reference.body[..., :2]),
        reference_scenes.people.action,
    )
    return true, truth, test_scenes.people.action


def test_true_bodies_are_complete_and_do_their_actions(net, world):
    true, truth, actions = world
    read = bodies.read(net, truth.rgb)
    assert bodies.are_complete(read, true).float().mean() > 0.75
    assert (bodies.name_actions(read.joints, true) == actions).float().mean() > 0.8
    assert (bodies.name_actions(truth.body[..., :2], true) == actions).float().mean() > 0.8


def test_wrong_bodies_are_recognized(net, world):
    """Legs covered, a second body, legs twice as long: hardly any is complete."""
    true, truth, _ = world
    without = truth.rgb.clone()
    for i, body in enumerate(truth.body):
        without[i, :, int(body[pose.R_HIP, 1]) :] = without[i, :, :1, :1]
    beside = (truth.instance >= 0).roll(60, -1)[:, None]
    double = torch.where(beside, truth.rgb.roll(60, -1), truth.rgb)
    for wrong in (without, double):
        assert bodies.are_complete(bodies.read(net, wrong), true).float().mean() < 0.3
    read = bodies.read(net, truth.rgb)
    longer = read.joints.clone()
    knees, ankles = [pose.R_KNEE, pose.L_KNEE], [pose.R_ANKLE, pose.L_ANKLE]
    longer[:, ankles] += 2 * (longer[:, ankles] - longer[:, knees])
    lengths = bodies._lengths(longer)
    stretched = read._replace(bones=lengths / lengths.sum(1, keepdim=True))
    assert bodies.are_complete(stretched, true).float().mean() < 0.5


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
