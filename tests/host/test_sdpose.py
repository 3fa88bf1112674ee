"""The host's SDPose nodes give poses to every node that takes one: scores are heights of heatmaps,
hands are on each other's side, points of no heat lie at (-1, -1), and people come in no order.
"""

from pathlib import Path

import folder_paths
import numpy as np
import pytest
import torch
from vitruvian.models import pose
from vitruvian.models.compose import Instance
from vitruvian.tests.host.test_pose_confidence import (
    INPUTS,
    PASS_ON,
    composition,  # noqa: F401  a fixture that acts by itself
    run,
    same,
)

sdpose = pytest.importorskip("comfy_extras.nodes_sdpose", reason="this host has no SDPose nodes")

SIDE = 256
# COCO's points of somebody who stands at x = 0
BODY_X = "0 4 -4 8 -8 20 -20 30 -30 34 -34 12 -12 13 -13 14 -14".split()
BODY_Y = "40 36 36 38 38 70 70 105 105 140 140 140 140 185 185 230 230".split()
FEET = [(18, 240), (22, 238), (12, 236), (-18, 240), (-22, 238), (-12, 236)]
LEFT_HAND, RIGHT_HAND = slice(91, 112), slice(112, 133)  # COCO-WholeBody's, as SDPose finds them


def hand_at(x, y, outward):
    fingers = [(x + 2 * (f - 2) + outward * j, y + 5 + 4 * j) for f in range(5) for j in range(4)]
    return [(x, y), *fingers]


def detection(x, confidence=1.8):
    """What SDPose's network finds of one person: 133 places and the heights of their heatmaps."""
    places = np.zeros((133, 2), np.float32)
    places[:17] = np.stack([BODY_X, BODY_Y], axis=1).astype(np.float32)
    places[17:23] = FEET
    places[23:91] = [(6 * np.cos(k), 40 + 8 * np.sin(k)) for k in range(68)]
    places[LEFT_HAND] = hand_at(34, 140, 1)
    places[RIGHT_HAND] = hand_at(-34, 140, -1)
    scores = np.linspace(0.5, 2.5, 133, dtype=np.float32) * confidence / 1.8
    places += (x, 0)
    places[3], scores[3] = -1, 2.0  # an ear that the refinement moved out of the image
    places[20:23], scores[20:23] = -1, -0.2  # a foot of which nothing is seen
    places[16], scores[16] = (x + 70, 3), 0.1  # an ankle that is guessed
    return places, scores


def frames_of(*images):
    """The host's own frames of images, each a list of what was found in it."""
    places = [[person[0] for person in people] for people in images]
    scores = [[person[1] for person in people] for people in images]
    return sdpose._to_openpose_frames(places, scores, SIDE, SIDE)


def plain(frames, minimum):
    """The same frames as a tool writes them whose confidences are shares: missing is (0, 0, 0), and
    so is all below the minimum.
    """
    written = []
    for frame in frames:
        people = []
        for person in frame["people"]:
            points = {key: np.reshape(values, (-1, 3)).copy() for key, values in person.items()}
            for values in points.values():
                values[(values[:, 2] < minimum) | (values[:, :2] == -1).all(1)] = 0
                values[:, 2] = values[:, 2].clip(max=1)
            people.append({key: values.flatten().tolist() for key, values in points.items()})
        written.append({**frame, "people": people})
    return written


TWO_IMAGES = [[detection(180), detection(70)], [detection(120)]]  # the right one is found first
NODES = {**INPUTS, **PASS_ON}
FOR_ONE = ("ComposeInstances", "ComposePeople", "PreviewInstances", "PoseEditor")  # the inputs
SEVERAL = NODES.keys() - {f"Vitruvian{name}" for name in FOR_ONE}


def test_the_host_writes_what_these_tests_are_about():
    frame, _ = frames_of(*TWO_IMAGES)
    person = {key: np.reshape(values, (-1, 3)) for key, values in frame["people"][0].items()}
    assert {key: len(values) for key, values in person.items()} == {
        key: count for key, count in pose.POINT_GROUPS.values()
    }
    body = person["pose_keypoints_2d"]
    assert body[:, 2].max() > 1 > 0.3 > body[:, 2].min()
    assert body[pose.L_EAR].tolist() == [-1, -1, 2.0]
    hand, wrists = person["hand_right_keypoints_2d"][0], body[[pose.R_WRIST, pose.L_WRIST]]
    assert np.linalg.norm(hand[:2] - wrists[1, :2]) < np.linalg.norm(hand[:2] - wrists[0, :2])


def test_all_that_is_certain_is_read_and_nothing_else():
    frames = [pose.keep_confident(people) for people in pose.read_poses(frames_of(*TWO_IMAGES))]
    assert [pose.count(people) for people in frames] == [2, 1]
    people = frames[0]
    assert all(points[..., 2].max() <= 1 for points in people[:5])
    is_visible = people.body[..., 2] > 0
    assert not is_visible[:, [pose.L_EAR, pose.R_ANKLE]].any() and is_visible.sum() == 2 * 16
    assert (people.foot[..., 2] > 0).sum(1).tolist() == [3, 3]
    assert (people.face[:, :68, 2] > 0).all() and (people.left_hand[..., 2] > 0).all()
    assert pose.left_to_right(people) == [1, 0]


@pytest.mark.parametrize("node_id", NODES)
def test_a_node_does_with_them_what_it_does_with_shares(node_id):
    images = TWO_IMAGES if node_id in SEVERAL else [[detection(120)]]
    frames = frames_of(*images)
    shares = plain(frames, 1e-6 if node_id in PASS_ON else pose.MIN_CONFIDENCE)
    assert same(results(run(node_id, frames)), results(run(node_id, shares)))


def results(output):
    """What a node hands on, or the frames that it has saved."""
    if not isinstance(output.ui, dict) or "poses" not in output.ui:
        return output.args
    (file,) = output.ui["poses"]
    folder = Path(folder_paths.get_output_directory()) / file["subfolder"]
    return [list(people) for people in pose.load_poses(folder / file["filename"])]


def test_hands_belong_to_the_wrist_where_they_are():
    """Whatever side the host says."""
    left_only = run("VitruvianDrawHandMasks", frames_of([detection(120)]), hand_side="left").args[0]
    columns = left_only[0].amax(0).nonzero().flatten()
    assert columns.min() > 120, "the left hand is the image's right one"


@pytest.mark.parametrize("node_id", ["VitruvianComposeInstances", "VitruvianPreviewInstances"])
def test_prompts_go_to_people_from_the_left(node_id):
    """Though the host lists people as certain as it is of them."""
    two = tuple(Instance([[None, {}]], number) for number in (1, 2))
    left, right = detection(70), detection(180)
    outputs = run(node_id, frames_of([right, left]), instances=two).args
    assert same(outputs, run(node_id, frames_of([left, right]), instances=two).args)


def test_an_image_in_which_nobody_is_found_stays_empty():
    (images,) = run("VitruvianDrawPose", frames_of([detection(120)], [])).args
    assert [bool(image.any()) for image in images] == [True, False]
    assert torch.isfinite(images).all()
