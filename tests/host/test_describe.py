"""Describe People gives Instances from Text what it reads, by rule and through an answer."""

import json
from pathlib import Path

import execution
import pytest
import torch
from vitruvian.host.registration import register
from vitruvian.nodes.describe import VitruvianDescribePeople
from vitruvian.nodes.instances import VitruvianInstancesFromText

register()
ROOT = Path(__file__).parents[2]
POSES = ROOT / "workflows" / "poses"
SENTENCE = "a nun in red on the right and a cook on the left, both wearing hats, in a park"
LINES = "a cook wearing a hat\na nun in red wearing a hat"


def describe(sentence=SENTENCE, count=0, **inputs):
    names = [output.display_name for output in VitruvianDescribePeople.define_schema().outputs]
    values = VitruvianDescribePeople.execute(sentence, count, **inputs).result
    return dict(zip(names, values, strict=True))


def pose(name):
    return json.loads((POSES / f"{name}.json").read_text())


def test_a_sentence_is_divided_without_a_pose():
    described = describe()
    assert described["prompts"] == LINES
    assert (described["setting"], described["count"], described["sure"]) == ("in a park", 2, True)
    assert "exactly 2 lines" in described["request"] and SENTENCE in described["request"]
    assert described["report"].splitlines()[:2] == [
        f"{k}. {line}" for k, line in enumerate(LINES.splitlines(), 1)
    ]


def test_a_style_follows_behind_a_comma():
    described = describe("oil painting of a cook and a nun")
    assert (described["prompts"], described["setting"]) == ("a cook,\na nun,", "oil painting")


def test_the_pose_says_how_many_and_what_they_do():
    described = describe("some people in a park", pose=pose("four people"))
    assert (described["count"], described["sure"]) == (4, True)
    assert described["prompts"].splitlines() == ["a person"] * 4
    assert "2. standing, hands on the hips, facing the viewer" in described["request"]
    assert "Pose 4: sitting or crouching" in described["report"]


def test_the_frame_with_most_people_counts():
    frames = pose("two people") + pose("four people")
    assert describe("some people", pose=frames)["count"] == 4


def test_a_count_goes_before_the_pose():
    described = describe(count=3, pose=pose("two people"))
    assert (described["count"], described["sure"]) == (3, False)
    assert "Not sure: it has 2 people, but 3 are expected." in described["report"]


def test_a_doubt_leaves_the_count_open_and_is_said():
    described = describe("a crowd on a street")
    assert (described["count"], described["sure"]) == (0, False)
    assert "Not sure: it does not say how many people there are." in described["report"]
    assert "one line per person" in described["request"]


def test_points_below_the_confidence_are_not_read():
    faint = pose("two people")
    for person in faint[0]["people"]:
        person["pose_keypoints_2d"][2::3] = [0.4] * 18
    assert "standing" in describe(pose=faint)["request"]
    for person in faint[0]["people"]:
        for key in person:
            person[key][2::3] = [0.4] * (len(person[key]) // 3)
    with pytest.raises(ValueError, match="^Describe People: no point of the input 'pose'"):
        describe(pose=faint, min_confidence=0.5)


@pytest.mark.parametrize("sentence", ["", " \n "])
def test_an_empty_sentence_is_refused(sentence):
    with pytest.raises(ValueError, match="^Describe People: the input 'sentence' is empty"):
        describe(sentence)


def test_both_ways_make_the_same_instances(loaded):
    described = describe()
    answer = "Here are the 2 people:\n\n1. **Left:** " + LINES.replace("\n", "\n2. **Right:** ")
    with torch.inference_mode():
        by_rule, answered = (
            VitruvianInstancesFromText.execute(
                loaded[1], prompts, described["setting"], "", count=described["count"]
            ).result[0]
            for prompts in (described["prompts"], answer)
        )
    for one, other in zip(by_rule, answered, strict=True):
        assert (one.name, one.person) == (other.name, other.person)
        assert torch.equal(one.conditioning[0][0], other.conditioning[0][0])


def test_the_wires_fit():
    """The outputs are of the types of the inputs that they are for."""
    outputs = {o.display_name: o.io_type for o in VitruvianDescribePeople.define_schema().outputs}
    inputs = {i.id: i.io_type for i in VitruvianInstancesFromText.define_schema().inputs}
    for name in ("prompts", "setting", "count"):
        assert execution.validate_node_input(outputs[name], inputs[name])


def test_generate_text_takes_the_request():
    generating = pytest.importorskip("comfy_extras.nodes_textgen")  # of newer hosts
    schema = generating.TextGenerate.define_schema()
    assert {"clip", "prompt", "max_length", "sampling_mode"} <= {i.id for i in schema.inputs}
    example = json.loads((ROOT / "workflows" / "api" / "one_sentence_z_image.json").read_text())
    (node,) = [n for n in example.values() if n["class_type"] == "TextGenerate"]
    ids = {i.id for i in schema.inputs}
    assert node["inputs"].keys() <= ids
    assert {i.id for i in schema.inputs if not i.optional} <= node["inputs"].keys()
