"""The evaluator of clothes."""

from dataclasses import replace

import pytest
import torch
from vitruvian.lab.benchmarks.appearance_judge import leaks, right
from vitruvian.lab.evaluators import clothnet, measurements
from vitruvian.lab.training import convert, preview
from vitruvian.lab.world.body import TOP
from vitruvian.lab.world.renderer import render
from vitruvian.lab.world.scenes import FULL, sample_scenes


@pytest.fixture(scope="module")
def scenes():
    return sample_scenes(24, 3_000_000, framing=FULL, people=1)


@pytest.fixture(scope="module")
def truth(scenes):
    return render(scenes)


@pytest.fixture(scope="module")
def net(mini_weights):
    return clothnet.load_clothnet()


@pytest.fixture(scope="module")
def readings(net, scenes, truth):
    """What is read in the true images after the autoencoder."""
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    images = preview.decode(checkpoint, preview.encode(checkpoint, truth.rgb))
    return clothnet.read_clothes(net, images, scenes, truth)


def share(hits):
    return sum(hits) / len(hits)


def test_colors_and_patterns_of_true_images_are_read(readings):
    assert share([r.color == r.named_color for r in readings]) > 0.9
    woven = [r for r in readings if r.garment in clothnet.PATTERNED]
    assert share([r.pattern == r.named_pattern for r in woven]) > 0.7
    assert share([right(r) for r in readings]) > 0.75


def test_readings_carry_what_is_named(readings, scenes):
    people = scenes.people
    (top,) = (r for r in readings if (r.person, r.garment) == (0, "top"))
    assert (top.named_color, top.named_pattern) == (int(people.top[0]), int(people.top_pattern[0]))
    worn = [int(people.bottom[0]), int(people.shoes[0]), int(people.hat[0])]
    assert top.others == tuple(color for color in worn if color >= 0)
    assert {r.person for r in readings if r.garment == "hat"} <= set(
        (people.hat >= 0).nonzero()[:, 0].tolist()
    )


def test_a_garment_of_another_color_is_read_as_wrong(net, scenes, truth):
    people = scenes.people
    colors = torch.where(people.bottom == people.top, people.shoes, people.bottom)
    swapped = render(replace(scenes, people=replace(people, top=colors))).rgb
    tops = [
        r
        for r in clothnet.read_clothes(net, swapped, scenes, truth)
        if r.garment == "top" and colors[r.person] != people.top[r.person]
    ]
    assert share([not right(r) for r in tops]) > 0.9
    assert share([leaks(r) for r in tops]) > 0.9


def test_a_garment_of_another_pattern_is_read_as_wrong(net, scenes, truth):
    people = scenes.people
    patterns = (people.top_pattern == 0).long()  # striped where it was plain, else plain
    woven = render(replace(scenes, people=replace(people, top_pattern=patterns))).rgb
    tops = [r for r in clothnet.read_clothes(net, woven, scenes, truth) if r.garment == "top"]
    assert share([not right(r) for r in tops]) > 0.9
    assert not any(leaks(r) for r in tops if r.color == r.named_color)


def test_people_together_are_read_apart(net):
    scenes = sample_scenes(8, 3_000_001, framing=FULL, people=2)
    truth = render(scenes)
    readings = clothnet.read_clothes(net, truth.rgb, scenes, truth)
    assert {r.person for r in readings} == set(range(16))
    assert share([r.color == r.named_color for r in readings]) > 0.9


def test_hardly_visible_garments_are_left_out(net, scenes, truth):
    without_tops = torch.where(truth.parsing == TOP, 0, truth.parsing)
    assert (without_tops == measurements.GARMENTS["shoes"]).sum() > 0
    readings = clothnet.read_clothes(net, truth.rgb, scenes, replace(truth, parsing=without_tops))
    assert {r.garment for r in readings} == {"bottom", "shoes", "hat"}
    nothing = replace(truth, parsing=torch.zeros_like(without_tops))
    assert clothnet.read_clothes(net, truth.rgb, scenes, nothing) == []


def test_garments_are_cut_out_whole_and_never_enlarged():
    image, mask = torch.rand(3, 192, 192), torch.zeros(192, 192, dtype=torch.bool)
    mask[0:30, 170:192] = True  # in the corner: half the square lies outside
    small = clothnet.cut(image, mask)
    assert small.shape == (4, clothnet.SIDE, clothnet.SIDE)
    inside = small[3] == 1
    assert inside.sum() == mask.sum() and torch.equal(small[:3, inside], image[:, mask])
    mask[:, 0:192] = True
    large = clothnet.cut(image, mask)
    assert large.shape == small.shape
    assert float(large[3].sum()) / clothnet.SIDE**2 == pytest.approx((192 / 196) ** 2, abs=0.01)
