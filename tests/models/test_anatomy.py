"""Test that the evaluator of anatomy finds bodies that are broken on purpose."""

from collections import Counter

import pytest
import torch
from vitruvian.lab.evaluators import bodies, broken_bodies, posenet, true_bodies
from vitruvian.lab.evaluators.autoencoded import round_trip
from vitruvian.lab.world.body import build_bodies
from vitruvian.lab.world.renderer import render
from vitruvian.lab.world.scenes import ACTIONS, FULL, sample_scenes

# a missing arm looks like one that is held behind the body
MOST_MISSED = {"lengthened": 0.35, "armless": 0.5, "three_legged": 0.2}
SCENES = 20


@pytest.fixture(scope="module")
def scenes():
    return sample_scenes(SCENES, 2_000_790, framing=FULL, people=1)


@pytest.fixture(scope="module")
def true(mini_weights):
    return true_bodies.load()


def complete(images, true):
    return bodies.are_complete(bodies.read(posenet.load_posenet(), round_trip(images)), true)


@pytest.mark.parametrize("way", broken_bodies.WAYS)
def test_broken_bodies_are_found(way, scenes, true):
    broken = broken_bodies.break_bodies(scenes, broken_bodies.WAYS[way])
    assert len(broken.rows) == len(set(broken.rows.tolist())) > SCENES / 2
    assert complete(broken.images, true).float().mean() < MOST_MISSED[way]


def test_true_bodies_pass(scenes, true):
    assert complete(render(scenes).rgb, true).float().mean() > 0.8


def test_a_limb_is_all_of_its_parts_and_no_other(scenes):
    people = scenes.people
    unbroken = build_bodies(people)
    for limb, side in zip(broken_bodies.ARMS, (0, 1), strict=True):
        parts = broken_bodies._parts(people, unbroken, limb)
        assert torch.equal(parts.all, (unbroken.limb == side).expand_as(parts.all))
    legs = [broken_bodies._parts(people, unbroken, leg).all for leg in broken_bodies.LEGS]
    trousers = people.bottom_kind == 0
    solid = unbroken.r.amax(-1) > 0
    assert not (legs[0] & legs[1] & solid)[trousers].any()
    assert ((legs[0] & solid).sum(1)[trousers] == 4).all()  # thigh, shin, heel and foot


def test_what_is_too_many_is_drawn_beside_what_was_there(scenes):
    broken = broken_bodies.break_bodies(scenes, broken_bodies.WAYS["three_legged"])
    unbroken = render(scenes.take(broken.rows.sort().values)).rgb[broken.rows.argsort().argsort()]
    assert ((broken.images - unbroken).abs().amax(1) > 0.05).sum((1, 2)).min() > 150


def test_the_file_says_what_made_it_and_is_small(true):
    from vitruvian.models import weights

    _, facts = weights.load(true_bodies.TRUE_BODIES, method="true_bodies", base="mini")
    assert {name: facts[name] for name in true_bodies.sources()} == true_bodies.sources()
    assert true_bodies.TRUE_BODIES.stat().st_size < 400_000
    counts = Counter(true.actions.tolist())
    assert len(counts) == len(ACTIONS) and min(counts.values()) * len(ACTIONS) >= 2_000


def test_bodies_that_other_networks_read_are_refused(true, tmp_path, monkeypatch):
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"another network")
    monkeypatch.setitem(true_bodies.NETWORKS, "posenet", other)
    with pytest.raises(ValueError, match="expected bodies read by other.safetensors"):
        true_bodies.load()


def test_a_saved_body_is_nearly_what_it_was(tmp_path):
    built = true_bodies.build(2)
    file = tmp_path / "bodies.safetensors"
    true_bodies.save(built, file)
    read = true_bodies.load(file)
    assert torch.equal(read.actions, built.actions)
    torch.testing.assert_close(read.shapes, built.shapes, atol=0.01, rtol=0)
    torch.testing.assert_close(read.limits.low, built.limits.low, atol=0.01, rtol=0.01)
    channel = built.features.abs().amax(0) / 100
    assert ((read.features - built.features).abs() <= channel).all()
