"""The benchmark of what each person carries: who is asked what, what is read, what is promised."""

import json
import re
from dataclasses import replace

import pytest
import torch
from vitruvian.host.registration import register
from vitruvian.lab.benchmarks import host as bench_host
from vitruvian.lab.benchmarks import persons
from vitruvian.lab.evaluators import clothnet
from vitruvian.lab.recipes.person_loras import LOOKS, ORANGE_TOPS, POINTED_HATS
from vitruvian.lab.world.captions import person_caption
from vitruvian.lab.world.renderer import render
from vitruvian.models import weights

import nodes

register()
COUNT = 10
RESULTS = persons.RESULTS / "persons.json"


@pytest.fixture(scope="module")
def cases():
    return persons.pairs(COUNT, 5_000_000)


@pytest.fixture(scope="module")
def plain(cases):
    """The true images without what the LoRAs do."""
    return render(cases.scenes).rgb


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [(9, 10, 0.5958, 0.9821), (0, 20, 0.0, 0.1611), (200, 200, 0.9812, 1.0)],
)
def test_intervals_are_wilsons(hits, count, low, high):
    numbers = persons.wilson([True] * hits + [False] * (count - hits), "x")
    assert numbers["x"] == hits / count and numbers["x_count"] == count
    assert numbers["x_low"] == pytest.approx(low, abs=1e-4)
    assert numbers["x_high"] == pytest.approx(high, abs=1e-4)


def test_a_prompt_does_not_name_what_the_persons_lora_brings(cases):
    for i in range(COUNT):
        for side in persons.BOTH:
            prompt, look = cases.prompt(i, side), cases.look(i, side)
            assert (" top" in prompt) == (look != ORANGE_TOPS)
            assert " hat" not in prompt or look != POINTED_HATS
            assert re.search(r" wearing (an? )?[a-z ]+ (top|trousers|skirt)(,| and) ", prompt)
            assert re.search(r", full body$", prompt)


def test_no_prompt_names_what_the_other_ones_lora_does(cases):
    captions = [person_caption(cases.scenes, k) for k in range(2 * COUNT)]
    assert not any("purple hat" in caption for caption in captions)
    assert any(" hat" in caption for caption in captions)
    assert not (cases.scenes.people.top == persons._color("orange")).any()


def test_all_people_are_read_for_the_lora_of_one(cases, mini_weights):
    """In the true images everybody shows both looks, in the plain ones nobody does."""
    for wearers, people in ((persons.LEFT, 1), (persons.RIGHT, 1), (persons.BOTH, 2)):
        judged = persons.judge(cases.truth.rgb, cases, wearers)
        assert len(judged.hits) == len(judged.leaks) == people * COUNT
        assert all(judged.hits) and sum(judged.leaks) >= people * COUNT - 1


def test_nothing_is_read_where_nothing_was_changed(cases, plain, mini_weights):
    judged = persons.judge(plain, cases, persons.BOTH)
    assert not any(judged.hits + judged.leaks)


def test_only_whoever_has_a_look_is_read_to_have_it(cases, mini_weights):
    """Images where the left people alone were changed, each as their LoRA would."""
    people = cases.scenes.people
    looks = {
        look.name: torch.tensor(
            [side == 0 and cases.look(i, 0) == look for i in range(COUNT) for side in persons.BOTH]
        )
        for look in LOOKS
    }
    for look in LOOKS:
        changed = look.change(people)
        for name in ("top", "hat", "pointed"):
            values = torch.where(looks[look.name], getattr(changed, name), getattr(people, name))
            people = replace(people, **{name: values})
    images = render(replace(cases.scenes, people=people)).rgb
    judged = persons.judge(images, cases, persons.LEFT)
    assert all(judged.hits) and not any(judged.leaks)
    swapped = persons.judge(images, cases, persons.RIGHT)
    assert not any(swapped.hits) and not any(swapped.leaks)


def test_a_round_hat_of_the_color_is_no_pointed_one(cases, mini_weights):
    people = POINTED_HATS.change(cases.scenes.people)
    rounded = replace(people, pointed=torch.zeros_like(people.pointed))
    image = render(replace(cases.scenes, people=rounded)).rgb
    net = clothnet.load_clothnet()
    hats = [
        persons.shows(net, image[i], cases.place(i, side, POINTED_HATS), POINTED_HATS)
        for i in range(COUNT)
        for side in persons.BOTH
    ]
    assert sum(hats) <= 1


def test_places_too_small_are_not_read():
    place = torch.zeros(192, 192, dtype=torch.bool)
    place[90, 90 : 90 + persons.LEAST_PIXELS - 1] = True
    assert persons.shows(None, torch.rand(3, 192, 192), place, ORANGE_TOPS) is None


def test_each_scene_is_in_one_batch_and_the_left_people_of_a_batch_have_one_lora(cases):
    rows = persons.batches(cases)
    assert sorted(i for batch in rows for i in batch) == [*range(COUNT)]
    assert all(len({cases.look(i, 0).name for i in batch}) == 1 for batch in rows)
    assert {cases.look(i, 0).name for i in range(COUNT)} == {look.name for look in LOOKS}
    assert all(cases.look(i, 0) != cases.look(i, 1) for i in range(COUNT))


@pytest.mark.parametrize("look", LOOKS, ids=lambda look: look.name)
def test_the_hosts_loader_knows_every_key(look, loaded):
    model, clip, _ = loaded
    changed, _ = nodes.LoraLoader().load_lora(model, clip, look.file.name, 1.0, 1.0)
    tensors, _ = weights.load(look.file, method="lora", base="mini")
    assert len(changed.patches) == len(tensors) / 3


def test_the_hosts_way_gives_each_person_a_mask_and_a_lora_of_their_own(cases, loaded):
    controlnet = nodes.ControlNetLoader().load_controlnet("vitruvian_mini_openpose.safetensors")
    pack = bench_host.Loaded(*loaded, controlnet[0])
    rows = persons.batches(cases)[0]
    _, positive, negative = persons._hooked(pack, cases, persons.Loras({}), rows, persons.BOTH)
    for conds in (positive, negative):
        masks = [entry["mask"] for _, entry in conds]
        assert len(masks) == 2 and masks[0].shape == (len(rows), 192, 192)
        torch.testing.assert_close(masks[0] + masks[1], torch.ones_like(masks[0]))
        hooks = [entry["hooks"].hooks for _, entry in conds]
        assert [len(group) for group in hooks] == [1, 1]
        assert hooks[0][0].weights.keys() == hooks[1][0].weights.keys()
        assert any(
            not torch.equal(tensor, hooks[1][0].weights[key])
            for key, tensor in hooks[0][0].weights.items()
        )
    assert [entry["hooks"] is positive[0][1]["hooks"] for _, entry in negative] == [True, False]
    _, positive, _ = persons._hooked(pack, cases, persons.Loras({}), rows, persons.LEFT)
    assert ["hooks" in entry for _, entry in positive] == [True, False]


def test_what_was_missed_is_listed():
    numbers = {
        "lora_hit": 0.85,
        "lora_hit_ceiling": 0.95,
        "lora_leak": 0.06,
        "lora_ops_4": 1.02,
        "answers_read": 0.95,
        "sentences_right": 0.7,
    }
    verdict = persons.verdict(numbers)
    assert verdict["goal_lora_hit"] == pytest.approx(0.855)
    assert verdict["missed"] == ["lora_hit", "sentences_right", "lora_leak"]


def test_the_committed_numbers_are_whole_and_judged_by_the_same_goals():
    numbers = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert numbers["pairs"] >= 100
    shares = [name.removesuffix("_count") for name in numbers if name.endswith("_count")]
    ways = [f"lora_{what}{way}" for what in ("hit", "leak") for way in ("", "_couple", "_host")]
    assert {*ways, "lora_base", "lora_hit_ceiling"} <= {*shares}
    for name in shares:
        assert numbers[f"{name}_low"] <= numbers[name] <= numbers[f"{name}_high"]
        hits = numbers[name] * numbers[f"{name}_count"]
        assert hits == pytest.approx(round(hits))
    assert all(numbers[f"{name}_count"] >= 150 for name in ways)
    verdict = persons.verdict(numbers)
    assert {name: numbers[name] for name in verdict} == verdict


def test_loras_are_compared_with_the_hosts_on_the_same_people():
    ours, theirs = (
        persons.Judged([True] * 8, [False] * 8),
        persons.Judged([True, False] * 4, [True] * 8),
    )
    numbers = {**ours.shares("", ""), **theirs.shares("", "_host"), "lora_hit_ceiling": 1.0}
    compared = persons.decided(numbers, ours, theirs)
    assert compared["lora_hit_minus_host"] == 0.5 and compared["lora_leak_minus_host"] == -1
    assert [row["verdict"] for row in compared["decided"]] == ["shown", "shown"]
    assert compared["decided"][0]["p"] == pytest.approx(2 / 2**4)
    swapped = persons.decided({**numbers, "lora_hit_host": 1.0}, ours, ours)
    assert [row["verdict"] for row in swapped["decided"]] == ["denied", "denied"]
