"""Test the state of the pose editor: what is read, whose prompt is whose, what is refused."""

import json

import pytest
import torch
from vitruvian.models import body_masks, pose, pose_editor


def person(x, prompt=None, **parts):
    """A person of two points, 100 pixels tall, in the middle of whose points is x."""
    points = [x - 10, 50.0, 1.0, x + 10, 150.0, 1.0, *[0.0] * 48]
    return {"pose_keypoints_2d": points, **parts, **({} if prompt is None else {"prompt": prompt})}


def state(*people, width=400, height=200):
    return json.dumps({"canvas_width": width, "canvas_height": height, "people": people})


def prompts(text, width=400, height=200):
    return pose_editor.left_to_right(pose_editor.editor_scene(text, None, width, height)).prompts


def test_prompts_follow_the_people_from_left_to_right():
    text = state(person(300, "right"), person(100, "left"), person(200, "middle"))
    assert prompts(text) == ("left", "middle", "right")
    people = pose_editor.left_to_right(pose_editor.editor_scene(text, None, 400, 200)).people
    assert pose.left_to_right(people) == [0, 1, 2]
    assert people.body[:, 0, 0].tolist() == [90, 190, 290]


def test_editing_order_is_kept_for_who_is_in_front():
    text = state(person(300, "behind"), person(100, "in front"))
    assert pose_editor.editor_scene(text, None, 400, 200).prompts == ("behind", "in front")


@pytest.mark.parametrize("empty", [None, "", "  \n "])
def test_an_empty_prompt_holds_its_line(empty):
    text = state(person(100, empty), person(200, "a man"))
    assert prompts(text) == (pose_editor.DEFAULT_PROMPT, "a man")


def test_a_prompt_is_one_line():
    assert prompts(state(person(100, "a man\n in a\u2028 hat\r\n"))) == ("a man in a hat",)


def test_people_without_a_visible_point_are_left_out_with_their_prompts():
    without_points = {"prompt": "no points", "pose_keypoints_2d": [5.0, 5.0, 0.0] * 18}
    assert prompts(state(without_points, person(100, "a man"))) == ("a man",)


def test_people_keep_their_proportions_on_another_canvas():
    text = state(person(100), width=200, height=200)
    people = pose_editor.editor_scene(text, None, 800, 400).people
    assert (people.width, people.height) == (800, 400)
    assert people.body[0, :2].tolist() == [[380, 100, 1], [420, 300, 1]]
    assert not people.body[0, 2:].any(), "missing points stay at zero"


def test_an_unused_editor_has_one_standing_person():
    scene = pose_editor.editor_scene("", None, 512, 512)
    assert scene.prompts == (pose_editor.DEFAULT_PROMPT,)
    assert (scene.people.body[0, :, 2] > 0).all()
    assert 300 < body_masks.standing_heights(scene.people)[0] < 512


def test_a_new_editor_has_two_people_side_by_side():
    scene = pose_editor.editor_scene(pose_editor.UNTOUCHED, None, 768, 512)
    assert scene.prompts == (pose_editor.DEFAULT_PROMPT,) * 2
    assert (scene.people.width, scene.people.height) == (768, 512)
    visible = [
        torch.cat([part[n, part[n, :, 2] > 0, 0] for part in scene.people[:5]]) for n in (0, 1)
    ]
    assert 0 < visible[0].min() and visible[0].max() < visible[1].min() and visible[1].max() < 768


def test_a_connected_pose_fills_an_editor_without_people():
    connected = pose.read_frame(json.loads(state(person(50), person(150), width=200)))
    for text in ("", state(), pose_editor.UNTOUCHED):
        scene = pose_editor.editor_scene(text, connected, 400, 400)
        assert scene.prompts == (pose_editor.DEFAULT_PROMPT,) * 2
        assert scene.people.body[:, 0, 0].tolist() == [80, 280]
    assert pose_editor.editor_scene(state(person(100)), connected, 400, 200).prompts == (
        pose_editor.DEFAULT_PROMPT,
    )


def test_no_people_is_an_error_that_says_what_to_do():
    no_people = pose.no_people(64, 64)
    untouched = pose_editor.UNTOUCHED
    for text, connected in (
        (state(), None),
        ("", no_people),
        (state(), no_people),
        (untouched, no_people),
    ):
        with pytest.raises(ValueError, match="no people: add a person .* connect a 'pose'"):
            pose_editor.editor_scene(text, connected, 64, 64)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "the input 'people' is not JSON"),
        ("[" * 100_000, "the input 'people' is not JSON"),
        ("3", "'people' can not be used: a frame is an object .*undo the change, or clear"),
        ("{}", "there is no 'canvas_width'"),
        (json.dumps({"people": []}), "there is no 'canvas_width'"),
        (state(7), "person 1 must be an object"),
        (state({"pose_keypoints_2d": [1, 2]}), "has 2 numbers, but 17, 18, 25, 26 or 133 points"),
        (state(person(100, prompt=7)), "a 'prompt' must be text, but it is 7"),
    ],
)
def test_a_bad_state_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        pose_editor.read_state(text)


def test_the_library():
    frames = json.loads(pose_editor.POSE_LIBRARY.read_text())
    names = [frame["name"] for frame in frames]
    assert names[0] == "standing" and len(set(names)) == len(names) >= 8
    for frame in frames:
        people = pose.read_frame(frame)
        if pose.count(people) != 1:
            continue
        tall = body_masks.standing_heights(people).item()
        assert 750 < tall < 1000, f"{frame['name']} is of another size than the others"
        visible = torch.cat([part[0, part[0, :, 2] > 0] for part in people[:5]])
        assert visible[:, :2].min() >= 0 and visible[:, :2].max() <= 1000
        hands = torch.cat([people.left_hand, people.right_hand])
        assert (hands[..., 2] > 0).all()
        wrists = people.body[0, [pose.L_WRIST, pose.R_WRIST], :2]
        assert torch.equal(hands[:, 0, :2], wrists)
