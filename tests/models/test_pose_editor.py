"""Test the state of the pose editor: what is read, whose prompt is whose, what is refused."""

import json
import math

import pytest
import torch
from vitruvian.models import body_masks, pose, pose_editor, postures


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


def test_what_a_person_was_before_a_turn_changes_nothing():
    face = {"face_keypoints_2d": [99.5, 60.0, 0.0] * 70}  # looks away
    turned = person(100, "a man", **face, turn=[90, 100.0, *[0.0] * 408])
    turned_scene = pose_editor.editor_scene(state(turned), None, 400, 200)
    plain = pose_editor.editor_scene(state(person(100, "a man")), None, 400, 200)
    assert turned_scene.prompts == plain.prompts
    for part, expected in zip(turned_scene.people[:5], plain.people[:5], strict=True):
        assert torch.equal(part, expected)


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


FRAMES = json.loads(pose_editor.POSE_LIBRARY.read_text(encoding="utf-8"))
GROUPS = ["standing", "sitting", "walking", "running", "dance", "fight", "lying", "children"]
TALL = {"child": 520, "child,": 520, "toddler": 350}  # px; others 765
LIMBS = [
    (first, second, share)
    for points in (
        (pose.NECK, pose.R_SHOULDER, pose.R_ELBOW, pose.R_WRIST),
        (pose.NECK, pose.L_SHOULDER, pose.L_ELBOW, pose.L_WRIST),
        (pose.NECK, pose.R_HIP, pose.R_KNEE, pose.R_ANKLE),
        (pose.NECK, pose.L_HIP, pose.L_KNEE, pose.L_ANKLE),
    )
    for first, second, share in zip(
        points,
        points[1:],
        (0.14, 0.186, 0.16)
        if pose.R_SHOULDER in points or pose.L_SHOULDER in points
        else (0.35, 0.25, 0.25),
        strict=False,
    )
]


def test_the_library_has_forty_poses_and_eight_of_pairs():
    names = [frame["name"] for frame in FRAMES]
    assert names[0] == "standing" and pose_editor.PAIR in names
    assert len(set(names)) == len(names)
    singles = [frame for frame in FRAMES if len(frame["people"]) == 1]
    pairs = [frame for frame in FRAMES if len(frame["people"]) == 2]
    assert len(singles) >= 40 and len(pairs) >= 8 and len(singles) + len(pairs) == len(FRAMES)
    assert list(dict.fromkeys(frame["group"] for frame in FRAMES)) == [*GROUPS, "pairs"]
    assert all((frame["group"] == "pairs") == (len(frame["people"]) == 2) for frame in FRAMES)


@pytest.mark.parametrize("frame", FRAMES, ids=[frame["name"] for frame in FRAMES])
def test_a_pose_of_the_library(frame):
    """No limb is longer than a body's of this size; all is on the canvas and on one ground."""
    people = pose.read_frame(frame)
    visible = torch.cat([part[part[..., 2] > 0] for part in people[:5]])
    assert visible[:, :2].min() >= 0 and visible[:, :2].max() <= 1000
    assert visible[:, 1].max() == 930 or frame["name"] in ("jumping", "leaping", "child jumping")
    for number, body in enumerate(people.body[..., :2]):
        tall = TALL.get(frame["name"].split()[0] if frame["group"] == "children" else "", 765)
        tall = TALL["child"] if frame["name"].endswith("a child") and number else tall
        for a, b, share in LIMBS:
            limb = math.dist(body[a], body[b])
            assert limb <= 1.15 * share * tall, f"{a} to {b} is too long"
        lengths = [math.dist(body[a], body[b]) / share for a, b, share in LIMBS]
        assert max(lengths) > 0.8 * tall, "everything is too short"
    hands = torch.cat([people.left_hand, people.right_hand])
    assert (hands[..., 2] > 0).all()
    wrists = torch.cat([people.body[:, pose.L_WRIST, :2], people.body[:, pose.R_WRIST, :2]])
    assert torch.equal(hands[:, 0, :2], wrists)


@pytest.mark.parametrize(
    "group, word", [("standing", "standing"), ("lying", "lying"), ("sitting", "sitting")]
)
def test_poses_are_described_as_they_are_called(group, word):
    """The pack's own description of postures, which knows no names, agrees with the groups."""
    frames = [frame for frame in FRAMES if frame["group"] == group]
    described = [postures.describe(pose.read_frame(frame))[0].stance for frame in frames]
    agree = sum(word in stance for stance in described)
    assert agree >= len(frames) / 2
    other_stances = {"standing", "lying", "sitting"} - {word}
    assert not [stance for stance in described if any(other in stance for other in other_stances)]
