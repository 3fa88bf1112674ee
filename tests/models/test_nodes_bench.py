"""The benchmark of what artists wait for: its people, and the slow way beside masks."""

import pytest
import torch
from vitruvian.lab.benchmarks import nodes as bench
from vitruvian.models import body_masks, hands, pose


def test_the_people_are_whole_and_have_both_hands():
    people = bench.standing_people(3, 512)
    assert pose.count(people) == 3 and len(hands.find_hands(people)) == 6
    assert ((people.body[..., :2] > 0) & (people.body[..., :2] < 512)).all()
    tall = body_masks.standing_heights(people)
    assert ((tall > 0.5 * 512) & (tall < 1.5 * 512)).all()


def test_masks_are_those_of_the_slow_way():
    people = bench.standing_people(2, 160)
    fast = body_masks.person_masks(people, 160, 160, dilation=bench.DILATION, feather=0.0)
    assert torch.equal(fast, bench.slow_masks(people))
    assert 0.05 < float(fast.mean()) < 0.5


@pytest.mark.parametrize("name", ["masks_8_1024", "hand_masks_1024", "skeletons_512", "poses_32"])
def test_a_case_is_timed_beside_a_copy(name):
    numbers = bench.timed(name, bench.cases()[name], 1)
    assert set(numbers) == {f"{name}_{ending}" for ending in ("seconds", "bytes", "copies")}
    assert numbers[f"{name}_bytes"] > 0 and numbers[f"{name}_seconds"] >= 0
