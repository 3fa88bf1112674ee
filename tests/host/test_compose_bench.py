"""The benchmark of composing: who is where, what is counted, and what decides a claim."""

import pytest
import torch
from vitruvian.host.registration import register
from vitruvian.lab.benchmarks import compose, compose_ways, kept
from vitruvian.lab.benchmarks import host as bench_host
from vitruvian.lab.training import preview
from vitruvian.lab.world.captions import scene_caption

register()


@pytest.fixture(scope="module")
def crowds():
    return compose_ways.draw(3, 3, 7_000_000)


@pytest.fixture(scope="module")
def read(crowds):
    return compose.read_all({"truth": crowds.truth.rgb}, crowds)["truth"]


def test_people_are_listed_from_left_to_right(crowds):
    for i in range(3):
        necks = crowds.frame(i).body[:, 1, 0]
        assert torch.equal(necks, necks.sort().values)
        for k, prompt in zip(crowds.people_of(i), crowds.prompts(i), strict=True):
            assert prompt.endswith(", full body")
            assert torch.equal(
                crowds.truth.body[k], crowds.frame(i).body[crowds.people_of(i).index(k)]
            )


def test_a_scene_alone_is_read_as_among_others(crowds, read):
    last = crowds.only([2])
    assert len(last.scenes) == 1 and len(last.scenes.people) == 3
    assert scene_caption(last.scenes, 0) == scene_caption(crowds.scenes, 2)
    assert torch.equal(last.truth.instance, crowds.truth.instance[2:].sub(6).clamp(min=-1))
    again = compose.read_all({"truth": last.truth.rgb}, last)["truth"]
    assert again.hits[0] == read.hits[2] and again.near[0] == read.near[2]


def test_true_images_have_all_colors_and_others_have_not(crowds, read):
    assert torch.equal(read.hits, read.garments) and (read.garments >= 6).all()
    swapped = compose.read_all({"other": crowds.truth.rgb.roll(1, 0)}, crowds)["other"]
    assert (swapped.hits < read.hits).all()
    assert torch.equal(swapped.garments, read.garments)
    numbers = compose.figures({"exact": read, "one_prompt": swapped}, "3")
    assert numbers["exact_acc_3"] == 1
    assert numbers["exact_minus_one_prompt_acc_3"] == pytest.approx(1 - numbers["one_prompt_acc_3"])
    assert numbers["exact_minus_one_prompt_pck_3_low"] > 0
    assert numbers["exact_acc_3_count"] == 3


def test_pairs_of_fewer_scenes_stay_pairs(crowds, read):
    images = {"exact": crowds.truth.rgb, "native": crowds.truth.rgb[:2]}
    groups = [compose.read_all(images, crowds)] * 2
    numbers = compose.figures(compose.joined(groups), compose.CROWDS)
    assert numbers["exact_acc_crowds_count"] == 6
    assert numbers["exact_beside_native_acc_crowds_count"] == 4
    assert numbers["exact_beside_native_minus_native_pck_crowds_low"] == 0


def test_touching_pairs_touch():
    pairs = compose_ways.draw_touching(4, 7_000_001)
    assert len(pairs.scenes) == 4
    assert all(compose_ways.do_touch(instance) for instance in pairs.truth.instance)
    assert pairs.truth.instance.max() == 7
    apart = torch.tensor([[0, 0, -1, 1], [0, -1, 1, 1]])
    assert not compose_ways.do_touch(apart)
    assert compose_ways.do_touch(torch.tensor([[0, -1], [1, -1]]))


def test_five_people_have_a_caption_without_a_number():
    five = compose_ways.draw(5, 1, 7_000_002)
    caption = scene_caption(five.scenes, 0)
    assert caption.startswith("people ") and caption.count(";") == 4
    assert len(five.prompts(0)) == 5


@pytest.mark.parametrize("first_kept", [False, True])
def test_what_is_kept_is_sampled_again_only_for_its_time(tmp_path, monkeypatch, first_kept):
    monkeypatch.setattr(compose, "COSTED", 1)
    calls = []

    def way(rows):
        calls.append(rows[0])
        return torch.zeros(1, 3, 4, 4)

    if first_kept:
        kept.kept_images(tmp_path, "2/way", [0], lambda: torch.ones(1, 3, 4, 4))
    images, seconds = compose.sample_all({"way": way}, {"way": 2}, tmp_path, "2")
    assert calls == [0, 1] and len(seconds["way"]) == 2
    assert images["way"].mean((1, 2, 3)).tolist() == [float(first_kept), 0.0]
    compose.sample_all({"way": way}, {"way": 2}, tmp_path, "2")
    assert calls == [0, 1, 0]


def test_a_prompt_for_each_person_keeps_colors_apart(mini_weights, crowds):
    """The ways end to end: exact follows each person's prompt, and prompts swapped among people
    give the colors away.
    """
    loaded = bench_host.load(preview.CHECKPOINT.name, preview.POSE_CONTROLNET.name)
    images = {
        "exact": compose_ways.composed(loaded, crowds, "exact")([0]),
        "one_prompt": compose_ways.one_prompt(loaded, crowds)([0]),
        "native": compose_ways.native(loaded, crowds)([0]),
    }
    measured = compose.read_all(images, crowds)
    assert measured["exact"].hits[0] >= measured["one_prompt"].hits[0]
    assert measured["exact"].hits[0] >= 0.7 * measured["exact"].garments[0]
    assert {len(image) for image in images.values()} == {1}
