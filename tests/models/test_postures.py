"""Postures are read from joints as the mini world bent them, and as the examples show them."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from vitruvian.lab.world import renderer
from vitruvian.lab.world import scenes as world
from vitruvian.models import pose, postures, sentence_request

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "workflows" / "poses"
STANDING = {
    "standing",
    "walking",
    "waving",
    "arms raised",
    "arms outstretched",
    "pointing",
    "bowing",
    "hands on hips",
    "dancing",
}
TRUE_STANCES = {"kneeling": {"kneeling"}, "sitting or crouching": {"sitting", "crouching"}}
TRUE_ARMS = {
    "both arms raised": {"arms raised", "jumping"},
    "one arm raised": {"waving", "dancing", "arms raised", "jumping"},
    "both arms stretched out": {"arms outstretched", "kicking"},
    "one arm stretched out": {"pointing", "arms outstretched", "kicking"},
    "hands on the hips": {"hands on hips"},
}


@pytest.fixture(scope="module")
def acting():
    """What is read of people of the mini world, the name of what they do, and their turn."""
    scenes = world.sample_scenes(200, 31)
    points = renderer.render(scenes, 64)
    empty = [torch.zeros(len(points.body), n, 3) for n in (70, 6)]
    parts = (points.body, points.hands[:, 1], points.hands[:, 0], *empty)
    people = pose.people_from_points(parts, 64, 64)
    actions = [list(world.ACTIONS)[int(k)] for k in scenes.people.action]
    return list(zip(postures.describe(people), actions, scenes.people.yaw.tolist(), strict=True))


def test_a_stance_that_is_said_is_true(acting):
    stances = Counter(
        (posture.stance, action in TRUE_STANCES.get(posture.stance, STANDING))
        for posture, action, _ in acting
        if posture.stance
    )
    assert not [stance for stance, is_true in stances if not is_true]
    assert all(stances[stance, True] > 8 for stance in ("standing", *TRUE_STANCES))


def test_arms_that_are_said_are_true(acting):
    arms = Counter(
        (posture.arms, action in TRUE_ARMS[posture.arms])
        for posture, action, _ in acting
        if posture.arms
    )
    assert not [words for words, is_true in arms if not is_true]
    assert all(arms[words, True] > 4 for words in TRUE_ARMS)


def test_who_faces_the_viewer_is_not_turned_away(acting):
    facing = [abs(yaw) for posture, _, yaw in acting if posture.facing]
    assert {posture.facing for posture, *_ in acting} == {"", "facing the viewer"}
    assert len(facing) > 100 and max(facing) < 0.9  # radians


def read(name):
    people = pose.keep_confident(pose.load_poses(EXAMPLES / f"{name}.json")[0])
    return sentence_request.read_pose(people)


def test_the_examples_are_read_as_they_are_drawn():
    assert read("two people") == [
        "standing, both arms raised, facing the viewer",
        "standing, one arm raised, facing the viewer",
    ]
    assert read("four people") == [
        "",
        "standing, hands on the hips, facing the viewer",
        "standing, one arm stretched out, facing the viewer",
        "sitting or crouching, facing the viewer",
    ]
    assert read("a person with arms outstretched") == [
        "standing, both arms stretched out, facing the viewer"
    ]
    assert read("two people who touch")[0].endswith("touches the arm of person 2 with a hand")


def standing(x=0.0, turn=1):
    """A person who stands at x, 100 pixels a torso; turn -1: seen from behind, without a face."""
    rows = [
        (0, -40),
        (0, 0),
        (-40, 0),
        (-45, 50),
        (-45, 95),
        (40, 0),
        (45, 50),
        (45, 95),
        (-20, 100),
        (-22, 190),
        (-22, 280),
        (20, 100),
        (22, 190),
        (22, 280),
        (-8, -48),
        (8, -48),
        (-18, -45),
        (18, -45),
    ]
    body = torch.tensor([(x + turn * right, 100.0 + down, 1.0) for right, down in rows])
    if turn < 0:
        body[[pose.NOSE, pose.R_EYE, pose.L_EYE]] = 0
    return body


def people_of(*bodies):
    n = len(bodies)
    parts = (torch.stack(bodies), *(torch.zeros(n, k, 3) for k in (21, 21, 70, 6)))
    return pose.people_from_points(parts, 800, 500)


def described(body):
    (posture,) = postures.describe(people_of(body))
    return posture


def test_a_back_is_seen_and_a_half_person():
    assert postures.text(described(standing())) == "standing, facing the viewer"
    assert postures.text(described(standing(turn=-1))) == "standing, seen from behind"
    half = standing()
    half[[pose.R_KNEE, pose.R_ANKLE, pose.L_KNEE, pose.L_ANKLE]] = 0
    assert postures.text(described(half)) == "facing the viewer, seen from the waist up"


def test_somebody_on_the_ground_lies():
    body = standing()
    body[:, :2] = body[:, [1, 0]]
    assert described(body).stance == "lying"


def test_nothing_is_said_without_the_points():
    for missing in (pose.NECK, pose.L_HIP, pose.R_HIP):
        body = standing()
        body[missing] = 0
        assert described(body).stance == ""
    body = standing()
    body[pose.L_KNEE] = 0
    assert described(body).stance == ""


@pytest.mark.parametrize(
    "point, part",
    [
        ((195, 140), "arm"),
        ((155 + 45, 195), "hand"),
        ((220, 100), "shoulder"),
        ((238, 150), "body"),
        ((232, 250), "leg"),
        ((240, 60), "head"),
        ((120, 150), None),
    ],
)
def test_a_hand_on_somebody_touches_them(point, part):
    first, second = standing(), standing(240.0)
    first[pose.L_WRIST, :2] = torch.tensor(point)
    touches = postures.touches(people_of(first, second))
    assert touches == ([] if part is None else [postures.Touch(0, 1, part)])


def test_somebody_far_away_is_not_touched():
    first, second = standing(), standing(240.0)
    first[pose.L_WRIST, :2] = torch.tensor((238.0, 150.0))
    second[:, :2] = torch.tensor((240.0, 150.0)) + 0.5 * (
        second[:, :2] - torch.tensor((240.0, 150.0))
    )
    assert postures.touches(people_of(first, second)) == []


def test_the_request_counts_from_the_left_and_has_the_sentence():
    texts = sentence_request.read_pose(people_of(standing(400.0, turn=-1), standing(100.0)))
    assert texts == ["standing, facing the viewer", "standing, seen from behind"]
    request = sentence_request.write_request("a cook and a nun", 2, texts)
    assert "Sentence: a cook and a nun\n" in request and "exactly 2 lines" in request
    assert "1. standing, facing the viewer\n2. standing, seen from behind" in request
    plain = sentence_request.write_request("a cook")
    assert "pose" not in plain and "exactly" not in plain
