"""Test what the hands' benchmark measures: the ring around a hand, its scenes and its claims."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import avg_pool2d
from vitruvian.lab.benchmarks import decisions, hand_ring, hand_scenes, hands
from vitruvian.lab.world.renderer import render
from vitruvian.models.hands import distance_map, hand_size

WAYS = ("one_stage", "two_stage", "naive", "differential", "inpaint", "ceiling")


@pytest.fixture(scope="module")
def uppers():
    return hand_scenes.upper_bodies(6, 77)


@pytest.fixture(scope="module")
def rings(uppers):
    rings = {at: hand_ring.find_ring(uppers.truth, *at) for at in uppers.judged}
    rings = {at: ring for at, ring in rings.items() if ring is not None}
    assert len(rings) >= 5
    return rings


def gap(truth, scene, side, ring):
    """The true image with the middle third of the ring's forearm hidden behind green."""
    label = (hands.RIGHT_HAND, hands.LEFT_HAND)[side]
    size = hand_size(truth.hands[scene, side])
    away = distance_map(truth.parsing[scene] == label, 40) / size
    image = truth.rgb[scene].clone()
    broken = ring.forearm & (away > 0.06) & (away < 0.14)
    image[:, broken] = torch.tensor([0.1, 0.9, 0.2])[:, None]
    return image


def test_a_broken_forearm_is_told_from_a_continuous_one(uppers, rings):
    truth = uppers.truth
    for (scene, side), ring in rings.items():
        true = truth.rgb[scene]
        blurred = avg_pool2d(true[None], 3, 1, 1)[0]  # as an autoencoder softens it
        continuous = hand_ring.read_ring(blurred, true, ring)
        broken = hand_ring.read_ring(gap(truth, scene, side, ring), true, ring)
        for name in hand_ring.NAMES:
            assert broken[name] > 2 * continuous[name], (scene, side, name)


def test_a_forearm_of_another_color_is_told_and_a_darker_image_has_no_seam(uppers, rings):
    for (scene, _), ring in rings.items():
        true = uppers.truth.rgb[scene]
        forearm = true[:, ring.forearm]
        tinted = true.clone()
        tinted[:, ring.forearm] = forearm + torch.where(forearm < 0.5, 0.2, -0.2)
        read = hand_ring.read_ring(tinted, true, ring)
        assert read["ring_error"] > 0.15 and read["ring_color"] > 0.1 and read["ring_edge"] > 0
        darker = hand_ring.read_ring(true - 0.05, true, ring)  # everywhere: no step, no edge
        assert darker["ring_color"] == pytest.approx(0, abs=1e-5)
        assert darker["ring_edge"] == pytest.approx(0, abs=1e-5)


def test_only_forearm_and_hand_count_and_only_near_the_wrist(uppers, rings):
    for (scene, side), ring in rings.items():
        true = uppers.truth.rgb[scene]
        elsewhere = torch.where(ring.forearm | ring.hand, true, 1 - true)
        read = hand_ring.read_ring(elsewhere, true, ring)
        assert [read[name] for name in hand_ring.NAMES] == [0.0, 0.0, 0.0]
        assert not ring.beyond.any() or read[hand_ring.BEYOND] > 0.05
        wrist = uppers.truth.hands[scene, side, 0, :2]
        size = hand_size(uppers.truth.hands[scene, side])
        y, x = ring.forearm.nonzero().T
        away = torch.stack((x, y), -1) + 0.5 - wrist
        assert away.norm(dim=-1).max() < 0.6 * size  # a fifth beyond the hand's own outline
        assert not (ring.forearm & (ring.hand | ring.beyond)).any()


def test_a_forearm_behind_somebody_is_not_judged(uppers):
    truth, (scene, side) = uppers.truth, uppers.judged[0]
    hidden = replace(truth, instance=torch.full_like(truth.instance, 99))
    assert hand_ring.find_ring(hidden, scene, side) is None
    read = hand_ring.read_rings(truth.rgb, hidden, [(scene, side)])
    assert all(values.isnan().all() for values in read.values())


def test_touching_hands_touch_and_everything_else_stays():
    both = hand_scenes.touching_hands(4, 78)
    assert len(both.scenes) == 4 and len(both.judged) == 8
    assert max(map(hand_scenes.hand_gap, both.truth.hands)) <= hand_scenes.TOUCH
    scenes = hand_scenes.upper_bodies(4, 79).scenes
    held = hand_scenes.hold_together(scenes, 0)
    assert torch.equal(held.people.top, scenes.people.top)
    assert torch.equal(held.people.limbs[:, 4:], scenes.people.limbs[:, 4:])


def test_the_first_scenes_are_rendered_alike(uppers):
    few = hand_scenes.first_scenes(uppers, 2)
    assert torch.equal(render(few.scenes).rgb, few.truth.rgb)
    assert few.judged == [at for at in uppers.judged if at[0] < 2]


def values_of(uppers, error):
    """Values of every judged hand: each way's error, the rest alike; one hand has no ring."""
    count = len(uppers.judged)
    spread = torch.linspace(0, 0.01, count)
    ring = torch.full((count,), 0.2).index_fill(0, torch.tensor([0]), float("nan"))
    return {
        way: {
            "hand_error": of_way + spread,
            "finger_count_accuracy": torch.ones(count).double(),
            **{name: ring + of_way + spread for name in (*hand_ring.NAMES, hand_ring.BEYOND)},
        }
        for way, of_way in error.items()
    }


def numbers_of(uppers, error):
    values = values_of(uppers, error)
    numbers = hands._figures(values, uppers) | hands._against_one_stage(values, uppers)
    for way in hands.OTHER_BORDERS:
        ending = f"_{way}"
        endings = {"ring_error": ending, hand_ring.BEYOND: ending}
        numbers |= hands._differences(values, uppers, way, endings)
    return numbers | {hands._touching(key): value for key, value in numbers.items()}


def test_claims_are_decided_by_the_differences_of_their_own_figures(uppers):
    errors = (0.2, 0.1, 0.1, 0.15, 0.05, 0.01)
    numbers = numbers_of(uppers, dict(zip(WAYS, errors, strict=True)))
    verdicts = {row["claim"]: row["verdict"] for row in hands._decide(numbers)}
    joins = hands.JOINS
    assert verdicts[hands.NEARER.words] == verdicts[hands.CROSSED.words] == decisions.SHOWN
    assert verdicts[hands.COUNTED.words] == decisions.DENIED  # alike
    assert verdicts[joins["naive"].words] == decisions.DENIED
    assert verdicts[joins["differential"].words] == decisions.SHOWN
    assert verdicts[joins["inpaint"].words] == decisions.DENIED
    assert verdicts[hands.AROUND.words] == decisions.DENIED


@pytest.mark.parametrize(("ours", "verdict"), [(0.08, "shown"), (0.12, "denied")])
def test_half_the_error_is_shown_by_half_the_error_only(uppers, ours, verdict):
    errors = (0.2, ours, 0.1, 0.1, 0.1, 0.01)
    rows = hands._decide(numbers_of(uppers, dict(zip(WAYS, errors, strict=True))))
    row = next(row for row in rows if row["claim"] == hands.HALVES.words)
    assert row["verdict"] == verdict
    assert row["baseline"] == pytest.approx(0.1, abs=0.01)


def test_a_figure_is_of_hands_and_its_interval_of_scenes(uppers):
    of_hands = torch.arange(len(uppers.judged)).double()
    of_hands[0] = float("nan")
    parts, counts = hands._by_scene(of_hands, uppers)
    assert len(parts) == len(uppers.scenes)
    assert float(parts.sum() / counts.sum()) == pytest.approx(float(of_hands[1:].mean()))
