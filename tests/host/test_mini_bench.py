"""The benchmark of the mini weights: what is counted for each person, and what is compared."""

import pytest
import torch
from vitruvian.lab.benchmarks import mini
from vitruvian.lab.world.captions import scene_caption
from vitruvian.lab.world.renderer import render
from vitruvian.lab.world.scenes import FULL, sample_scenes

COUNT = 6


@pytest.fixture(scope="module")
def scenes():
    return sample_scenes(COUNT, 7_100_000, framing=FULL, people=1)


@pytest.fixture(scope="module")
def truth(scenes):
    return render(scenes)


def test_every_garment_of_a_true_image_has_its_color(scenes, truth):
    parts = mini.color_parts(truth.rgb, scenes, truth)
    for hits, judged in parts.values():
        assert torch.equal(hits, judged)
    worn = scenes.people.hat >= 0
    assert torch.equal(parts["hat"][1] | ~worn, torch.ones(COUNT, dtype=torch.bool))
    assert not (parts["hat"][1] & ~worn).any()
    swapped = mini.color_parts(truth.rgb.roll(1, 0), scenes, truth)
    assert sum(int(hits.sum()) for hits, _ in swapped.values()) < 2 * COUNT


def test_pose_figures_are_of_scenes_and_pairs(scenes, truth):
    images = {"": truth.rgb, "_baseline": truth.rgb.roll(1, 0), "_ceiling": truth.rgb}
    numbers = mini.of_pose(images, scenes, truth)
    assert numbers["color_accuracy"] == numbers["color_accuracy_ceiling"] == 1
    assert numbers["pck"] > 0.9 > 0.5 > numbers["pck_baseline"]
    for name in ("pck", "color_accuracy"):
        gain = numbers[name] - numbers[f"{name}_baseline"]
        assert numbers[f"{name}_gain"] == pytest.approx(gain)
        assert numbers[f"{name}_gain_count"] == COUNT
    assert numbers["color_accuracy_top_count"] == COUNT


def test_text_figures_know_chance_and_ceiling(scenes, truth, mini_weights):
    blank = torch.full((3, 3, *truth.rgb.shape[2:]), 0.5)
    numbers = mini.of_text(truth.rgb, blank, truth.rgb, scenes)
    assert numbers["anatomy"] == numbers["anatomy_ceiling"]
    assert numbers["anatomy_baseline"] == 0 and numbers["anatomy_baseline_count"] == 3
    assert numbers["anatomy_gain_count"] == 3
    assert numbers["action"] >= 0.5
    counts = [
        value
        for key, value in numbers.items()
        if key.startswith("action_of_") and key.endswith("_count")
    ]
    assert sum(counts) == COUNT


def test_nothing_is_timed_that_was_kept(monkeypatch, tmp_path, scenes):
    monkeypatch.setattr(mini.kept, "folder", lambda _: tmp_path)
    monkeypatch.setattr(mini, "CHUNK", 4)
    asked = []

    def images(loaded, prompts, hints, size, *, seed, batch):
        asked.append((list(prompts), None if hints is None else len(hints), seed))
        return torch.zeros(len(prompts), 3, 4, 4)

    monkeypatch.setattr(mini.host, "images", images)
    prompts = [scene_caption(scenes, i) for i in range(COUNT)]
    hints = torch.zeros(COUNT, 3, 4, 4)
    generated, seconds = mini._images(None, "pose", prompts, hints)
    assert generated.shape == (COUNT, 3, 4, 4) and seconds > 0
    assert asked == [(prompts[:4], 4, 0), (prompts[4:], 2, 4)]
    _, seconds = mini._images(None, "pose", prompts, hints)
    assert seconds == 0 and len(asked) == 2
