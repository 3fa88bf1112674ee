"""Test that all nodes with a pose read the same formats and use one threshold of confidence."""

import json
import shutil
from pathlib import Path

import folder_paths
import pytest
import torch
from vitruvian.host.registration import register
from vitruvian.models import pose
from vitruvian.models.compose import Instance
from vitruvian.models.outfit import LOWERS, UPPERS
from vitruvian.nodes import MODULES, compose, compose_people, hand_generator
from vitruvian.nodes.pose_files import VitruvianLoadPose

register()
POSES = Path(__file__).parents[1] / "poses"
VARIANTS = json.loads((POSES.parent / "pose_variants.json").read_text(encoding="utf-8"))
READABLE = [name for name in VARIANTS if "frames" in VARIANTS[name] and name != "utf_16.json"]
STOP = "stop with an error"
SIZE = {"output_width": 0, "output_height": 0}
INSTANCES = (Instance([[None, {}]], 1),)
OUTFIT = {
    "upper": UPPERS[0], "lower": LOWERS[0], "hair": "short", "long_sleeves": False,
    "long_legs": True, "shoes": True, "hat": False, "glasses": False,
}  # fmt: skip
COMPOSE = {
    "model": None, "positive": [], "negative": [], "control_net": None, "mode": "exact",
    "strength": 1.0, "harmony": 0.5, "dilation": 0.06, "start_percent": 0.0, "end_percent": 1.0,
    "background_prompt": compose.MEAN, "shared_negative": False, "min_confidence": 0.3,
}  # fmt: skip

INPUTS = {  # node -> its inputs besides the pose, for nodes that use the points
    "VitruvianDrawPose": SIZE
    | {"include_hands": True, "include_face": True, "line_width": 0, "min_confidence": 0.3},
    "VitruvianDrawPersonMasks": SIZE
    | {"mask_dilation": 0.03, "mask_feather": 0.01, "min_confidence": 0.3},
    "VitruvianSemanticMapFromPose": SIZE | OUTFIT | {"min_confidence": 0.3},
    "VitruvianDescribePeople": {"sentence": "two people", "count": 0, "min_confidence": 0.3},
    "VitruvianDrawHandMasks": SIZE
    | {"hand_side": "both", "thickness": 0.08, "wrist_length": 0.2, "if_no_hands": STOP}
    | {"min_confidence": 0.3},
    "VitruvianCutHands": {
        "hand_side": "both",
        "crop_size": 64,
        "margin": 0.35,
        "upright": False,
        "if_no_hands": STOP,
        "min_confidence": 0.3,
    },
    "VitruvianPreviewInstances": SIZE
    | {"instances": INSTANCES, "dilation": 0.06, "min_confidence": 0.3},
    "VitruvianComposeInstances": COMPOSE | {"instances": INSTANCES},
    "VitruvianComposePeople": SIZE
    | {"model": None, "clip": None, "prompts": "somebody", "setting": "", "negative_prompt": ""}
    | {"control_net_name": compose_people.NO_CONTROL, "strength": 1.0, "mode": "exact"},
    "VitruvianApplyHandGenerator": {"model": None, "hand_generator": None, "strength": 1.0},
    "VitruvianPoseEditor": {"canvas_width": 256, "canvas_height": 256, "people": ""},
}
PASS_ON = {  # nodes that hand points of any confidence on
    "VitruvianPickPeople": {"person_numbers": "1"},
    "VitruvianMergePeople": {},
    "VitruvianSavePose": {"filename_prefix": "confidence/pose"},
}
BY_ID = {node.GET_SCHEMA().node_id: node for module in MODULES for node in module.NODES}


def pose_names(node):
    return [i.id for i in node.GET_SCHEMA().inputs if i.get_io_type() == "POSE_KEYPOINT"]


def content(name):
    return json.loads((POSES / name).read_text(encoding="utf-8-sig"))


def with_hands(frames, confidence=1.0):
    """Add a left hand, and a right one of low confidence at the canvas's corner."""
    left = [v for k in range(21) for v in (146 + 4 * (k % 5), 128 - 3 * k, confidence)]
    right = [v for k in range(21) for v in (10 + 4 * (k % 5), 90 - 3 * k, 0.05)]
    for person in frames[0]["people"]:
        person |= {"hand_left_keypoints_2d": left, "hand_right_keypoints_2d": right}
    return frames


def without_uncertain(frames):
    """Write the same frames with points below 0.3 as missing, and without people of no others."""
    frames = json.loads(json.dumps(frames))
    for frame in frames:
        for person in frame["people"]:
            for key, values in person.items():
                person[key] = [
                    0.0 if values[k - k % 3 + 2] < 0.3 else value for k, value in enumerate(values)
                ]
        frame["people"] = [p for p in frame["people"] if any(any(v) for v in p.values())]
    return frames


def ghost(frames):
    """Add somebody in front of the others of whom every point is uncertain, at the left edge."""
    values = [v for k in range(18) for v in (3.0 + k, 20.0 * (k % 12), 0.2)]
    frames[0]["people"].insert(0, {"pose_keypoints_2d": values})
    return frames


@pytest.fixture(autouse=True)
def composition(monkeypatch):
    """Hand over what Compose Instances, Compose People and Apply Hand Generator would give to the
    model.
    """

    def draw(model, composed):
        return composed.masks(128, 128), composed.hint(-1, 128, 128)

    monkeypatch.setattr(compose.host, "compose_model", draw)
    monkeypatch.setattr(compose.host, "ComposedControl", lambda *_, **__: None)
    monkeypatch.setattr(compose.host, "check_controls", lambda model, control: None)
    monkeypatch.setattr(compose.host, "attach", lambda control, positive, negative: ([], []))
    monkeypatch.setattr(compose_people, "encode_prompt", lambda *_: [])
    monkeypatch.setattr(compose_people, "person_instances", lambda *_: INSTANCES)
    monkeypatch.setattr(compose_people, "empty_latent", lambda *_: None)
    monkeypatch.setattr(
        hand_generator.generator, "apply", lambda model, loaded, frames, strength: list(frames[0])
    )


def run(node_id, poses, **inputs):
    node = BY_ID[node_id]
    names = pose_names(node)
    settings = INPUTS.get(node_id) or PASS_ON[node_id]
    return node.execute(**dict.fromkeys(names, poses), **settings | inputs)


def flat(value):
    """List all tensors and plain values in an output."""
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in flat(item)]
    if isinstance(value, dict):
        return [leaf for key in sorted(value) for leaf in flat(value[key])]
    return [value]


def same(values, others):
    values, others = flat(values), flat(others)
    return len(values) == len(others) and all(map(equal, values, others))


def equal(value, other):
    if isinstance(value, torch.Tensor):
        return torch.equal(value, other)
    return value == other


def test_every_node_with_a_pose_is_listed():
    with_pose = {node_id for node_id, node in BY_ID.items() if pose_names(node)}
    assert with_pose == INPUTS.keys() | PASS_ON.keys()


@pytest.mark.parametrize("node_id", INPUTS)
def test_uncertain_points_are_not_there(node_id):
    poses = ghost(with_hands(content("low_confidence.json")))
    certain = without_uncertain(poses)
    assert len(certain[0]["people"]) == 1 and len(poses[0]["people"]) == 2
    assert same(run(node_id, poses).args, run(node_id, certain).args)


@pytest.mark.parametrize(
    "node_id", [n for n, inputs in INPUTS.items() if "min_confidence" in inputs]
)
def test_the_threshold_can_be_lowered(node_id):
    poses = with_hands(content("low_confidence.json"))
    assert not same(run(node_id, poses).args, run(node_id, poses, min_confidence=0.01).args)
    faint = without_certain(poses)
    with pytest.raises(ValueError, match="has a confidence of 0.3 or more.*lower 'min_confidence'"):
        run(node_id, faint)
    run(node_id, faint, min_confidence=0.1)


def without_certain(frames):
    """Give every point a confidence of 0.2."""
    frames = json.loads(json.dumps(frames))
    for person in frames[0]["people"]:
        for values in person.values():
            values[2::3] = [0.2] * (len(values) // 3)
    return frames


@pytest.mark.parametrize(
    "node_id",
    [n for n, inputs in INPUTS.items() if "min_confidence" not in inputs and "Editor" not in n],
)
def test_a_node_without_the_input_does_not_name_it(node_id):
    poses = without_certain(with_hands(content("low_confidence.json")))
    with pytest.raises(ValueError, match="has a confidence of 0.3 or more") as error:
        run(node_id, poses)
    assert "min_confidence" not in str(error.value)


def test_points_are_handed_on_with_their_confidence():
    poses = ghost(content("low_confidence.json"))
    picked = run("VitruvianPickPeople", poses).args[0]
    assert len(picked[0]["people"]) == 1, "the certain person is number 1, as in all nodes"
    body = picked[0]["people"][0]["pose_keypoints_2d"]
    assert body[4 * 3 : 5 * 3] == pytest.approx([10, 10, 0.05])
    merged = run("VitruvianMergePeople", poses).args[0]
    assert len(merged[0]["people"]) == 4
    with pytest.raises(ValueError, match="there is no person 2: the pose has 1 people"):
        run("VitruvianPickPeople", poses, person_numbers="2")


@pytest.mark.parametrize("name", READABLE)
def test_every_readable_variant_works_on_a_wire(name):
    value = content(name)
    (images,) = run("VitruvianDrawPose", value).args
    assert len(images) == len(VARIANTS[name]["frames"])
    assert [bool(image.any()) for image in images] == [
        bool(frame["people"]) for frame in VARIANTS[name]["frames"]
    ]


@pytest.mark.parametrize("name", VARIANTS)
def test_load_pose_reads_or_refuses_in_its_own_name(name):
    folder = Path(folder_paths.get_input_directory()) / "variants"
    folder.mkdir(exist_ok=True)
    shutil.copy(POSES / name, folder)
    expected = VARIANTS[name]
    if "refused" in expected:
        with pytest.raises(ValueError) as error:
            VitruvianLoadPose.execute(f"variants/{name}")
        assert str(error.value).startswith(f"Load Pose: {name}: ")
        assert expected["refused"] in str(error.value)
        return
    frames = VitruvianLoadPose.execute(f"variants/{name}").args[0]
    assert [[f["canvas_width"], f["canvas_height"]] for f in frames] == [
        frame["canvas"] for frame in expected["frames"]
    ]
    confident = [pose.count(pose.keep_confident(people)) for people in pose.read_poses(frames)]
    assert confident == [len(frame["people"]) for frame in expected["frames"]]
