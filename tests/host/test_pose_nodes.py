"""The pose nodes on the real host, and beside its SDPose nodes."""

import asyncio
import json
from contextlib import contextmanager

import folder_paths
import numpy as np
import pytest
import torch
from comfy_api.latest import io
from vitruvian.host.registration import register
from vitruvian.models import detect, pose
from vitruvian.nodes import people, pose_detection, pose_drawing, pose_files
from vitruvian.nodes.people import VitruvianMergePeople, VitruvianPickPeople
from vitruvian.nodes.pose_detection import LEAVE_EMPTY, STOP, VitruvianDetectPose
from vitruvian.nodes.pose_drawing import VitruvianDrawPersonMasks, VitruvianDrawPose
from vitruvian.nodes.pose_files import VitruvianLoadPose, VitruvianSavePose, _pose_files
from vitruvian.nodes.wires import BoundingBox

register()

STANDING = [
    (256, 80), (256, 140), (210, 142), (190, 210), (180, 270), (302, 142), (322, 210), (332, 270),
    (228, 280), (225, 370), (222, 460), (284, 280), (287, 370), (290, 460), (246, 70), (266, 70),
    (236, 76), (276, 76),
]  # fmt: skip


def person(shift=0, confidence=1.0):
    return {"pose_keypoints_2d": [v for x, y in STANDING for v in (x + shift, y, confidence)]}


def frame(*shifts):
    row = [person(shift) for shift in shifts]
    return {"people": row, "canvas_width": 512, "canvas_height": 512}


NOBODY = [frame()]


def run(node, **inputs):
    return node.execute(**inputs)


def noses(poses):
    return [round(p["pose_keypoints_2d"][0]) for p in poses[0]["people"]]


def test_schemas_explain_everything():
    nodes = [
        node
        for module in (pose_detection, pose_files, pose_drawing, people)
        for node in module.NODES
    ]
    assert [node.GET_SCHEMA().node_id for node in nodes] == [
        f"Vitruvian{name}"
        for name in (
            "DetectPose",
            "LoadPose",
            "SavePose",
            "DrawPose",
            "DrawPersonMasks",
            "PickPeople",
            "MergePeople",
        )
    ]
    for node in nodes:
        schema = node.GET_SCHEMA()
        assert schema.description and schema.category.startswith("Vitruvian/")
        assert all(part.tooltip for part in [*schema.inputs, *schema.outputs])
        assert node.GET_NODE_INFO_V1()["input"]


# detect


def test_detect_pose_on_a_photograph():
    data = pytest.importorskip("skimage.data")
    pytest.importorskip("mediapipe")
    image = torch.from_numpy(data.astronaut()).float().div(255)[None]
    before = image.clone()
    settings = {"max_people": 4, "min_confidence": 0.3, "include_hands": True, "if_nobody": STOP}
    result = run(VitruvianDetectPose, image=torch.cat([image, image.flip(2)]), **settings)
    poses, count = result.args
    assert count == 2 and len(poses) == 2 and abs(noses(poses)[0] - 222) < 20
    assert poses[0]["canvas_width"] == 512 and json.loads(json.dumps(poses)) == poses
    assert len(result.ui.as_dict()["images"]) == 2
    assert torch.equal(image, before)

    with pytest.raises(ValueError, match=r"Detect Pose: nobody was found in image 2 of 2.*if_no"):
        run(VitruvianDetectPose, image=torch.cat([image, image * 0]), **settings)
    settings["if_nobody"] = LEAVE_EMPTY
    poses, count = run(VitruvianDetectPose, image=torch.cat([image, image * 0]), **settings).args
    assert count == 1 and poses[1]["people"] == []
    assert run(VitruvianDrawPose, pose=poses, **DRAW).args[0].shape == (2, 512, 512, 3)

    boxes = {"x": 5, "y": 5}
    with pytest.raises(ValueError, match="Detect Pose: a bounding box"):
        run(VitruvianDetectPose, image=image, bboxes=boxes, **settings)


def test_detect_pose_uses_the_first_detector_of_the_table(monkeypatch):
    class FakeDetector:
        def detect(self, image, *, boxes, max_people, min_confidence, on_look):
            assert (boxes, max_people, min_confidence) == ([], 2, 0.5)
            return pose.read_frame(frame(90, 0))

    @contextmanager
    def open_detector(model_folders, *, hands, face):
        assert model_folders == folder_paths.get_folder_paths("vitruvian")
        assert not hands and not face
        yield FakeDetector()

    monkeypatch.setattr(detect, "DETECTORS", {"Fake": open_detector, **detect.DETECTORS})
    settings = {"max_people": 2, "min_confidence": 0.5, "include_hands": False, "if_nobody": STOP}
    poses, count = run(VitruvianDetectPose, image=torch.zeros(1, 512, 512, 3), **settings).args
    assert count == 2 and poses == [pose.write_frame(pose.read_frame(frame(90, 0)))]


# load and save


def test_save_and_load_round_trip():
    poses = [frame(0, 90), frame(-50)]
    saved = [run(VitruvianSavePose, pose=poses, filename_prefix="a/people") for _ in range(2)]
    names = [s.ui["poses"][0]["filename"] for s in saved]
    assert names == ["people_00001_.json", "people_00002_.json"]
    name = f"a/{names[0]} [output]"
    assert name in VitruvianLoadPose.define_schema().inputs[0].options
    assert VitruvianLoadPose.validate_inputs(name) is True
    loaded = run(VitruvianLoadPose, pose_name=name).args[0]
    assert noses(loaded) == noses(poses) and len(loaded) == 2


def test_load_follows_the_content():
    path = f"{folder_paths.get_input_directory()}/sub.json"
    marks = []
    for shift in (0, 10, 10):
        with open(path, "w") as file:
            json.dump([frame(shift)], file)
        marks.append(VitruvianLoadPose.fingerprint_inputs("sub.json"))
    assert marks[0] != marks[1] == marks[2]


def test_load_pose_offers_examples():
    name = "two people.json [example]"
    assert name in _pose_files()
    (frame,) = run(VitruvianLoadPose, pose_name=name).result[0]
    assert len(frame["people"]) == 2


@pytest.mark.parametrize(
    "file",
    [
        "none.json",
        "../secret.json",
        "/etc/passwd",
        "",
        None,
        "../../x.json [output]",
        ".",
        "../api/two_people.json [example]",
    ],
)
def test_files_not_there_or_outside_are_refused(file):
    assert "no such .json file" in VitruvianLoadPose.validate_inputs(file)
    with pytest.raises(ValueError, match="Load Pose: the input 'pose_name'"):
        run(VitruvianLoadPose, pose_name=file)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"people": []}', json.dumps(NOBODY)])
def test_malformed_files_are_refused(text):
    with open(f"{folder_paths.get_input_directory()}/bad.json", "w") as file:
        file.write(text)
    with pytest.raises(ValueError, match="Load Pose: .*bad.json"):
        run(VitruvianLoadPose, pose_name="bad.json")


def test_nobody_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="Save Pose: .*no people"):
        run(VitruvianSavePose, pose=NOBODY, filename_prefix="never/pose")
    assert "never" not in {name.split("/")[0] for name in _pose_files()}


# draw, mask, pick, merge

DRAW = {
    "output_width": 0,
    "output_height": 0,
    "include_hands": True,
    "include_face": True,
    "line_width": 0,
    "min_confidence": 0.3,
}
MASK = {
    "output_width": 0,
    "output_height": 0,
    "mask_dilation": 0.03,
    "mask_feather": 0.01,
    "min_confidence": 0.3,
}


@pytest.mark.parametrize(
    "sides, size",
    [((0, 0), (512, 512)), ((192, 0), (192, 192)), ((100, 301), (100, 301)), ((0, 7), (7, 7))],
)
def test_draw_pose_sizes(sides, size):
    inputs = DRAW | {"output_width": sides[0], "output_height": sides[1]}
    pose_images = run(VitruvianDrawPose, pose=[frame(0), frame(9)], **inputs)
    assert pose_images.args[0].shape == (2, size[1], size[0], 3)
    assert pose_images.args[0].amax() == 1 and pose_images.args[0].amin() == 0


def test_person_masks():
    masks, union = run(VitruvianDrawPersonMasks, pose=[frame(0, 40), frame(9)], **MASK).args
    assert masks.shape == (3, 512, 512) and union.shape == (2, 512, 512)
    assert torch.equal(union[0], masks[:2].amax(0)) and torch.equal(union[1], masks[2])


def test_unsure_points_are_not_used():
    unsure = [frame() | {"people": [person(confidence=0.2)]}]
    for node, inputs in ((VitruvianDrawPose, DRAW), (VitruvianDrawPersonMasks, MASK)):
        with pytest.raises(ValueError, match="min_confidence"):
            run(node, pose=unsure, **inputs)
        run(node, pose=unsure, **inputs | {"min_confidence": 0.1})


def test_pick_counts_from_the_left():
    row = [frame(100, -100, 0)]
    assert noses(run(VitruvianPickPeople, pose=row, person_numbers="1").args[0]) == [156]
    assert noses(run(VitruvianPickPeople, pose=row, person_numbers="3, 1-2").args[0]) == [
        356,
        156,
        256,
    ]
    with pytest.raises(ValueError, match="Pick People: .*'person_numbers'.*has 3 people"):
        run(VitruvianPickPeople, pose=row, person_numbers="4")


def test_merge():
    merged = run(VitruvianMergePeople, pose_1=[frame(0)], pose_2=[frame(50, 100)]).args[0]
    assert noses(merged) == [256, 306, 356]
    merged_frames = run(VitruvianMergePeople, pose_1=[frame(0)] * 3, pose_2=[frame(50)]).args[0]
    assert len(merged_frames) == 3 and all(len(f["people"]) == 2 for f in merged_frames)
    with pytest.raises(ValueError, match="Merge People: .*'pose_1' has 2 and 'pose_2' has 3"):
        run(VitruvianMergePeople, pose_1=[frame(0)] * 2, pose_2=[frame(0)] * 3)
    with pytest.raises(ValueError, match="Merge People: the input 'pose_2' has no people"):
        run(VitruvianMergePeople, pose_1=[frame(0)], pose_2=NOBODY)


@pytest.mark.parametrize("bad", [None, [], "pose", [None], NOBODY, [{"people": [{"age": 3}]}]])
def test_every_node_refuses_a_bad_pose(bad):
    for node, inputs in (
        (VitruvianDrawPose, DRAW),
        (VitruvianDrawPersonMasks, MASK),
        (VitruvianPickPeople, {"person_numbers": "1"}),
        (VitruvianSavePose, {"filename_prefix": "bad"}),
    ):
        with pytest.raises(ValueError, match=f"{node.GET_SCHEMA().display_name}: .*'pose'"):
            run(node, pose=bad, **inputs)


def test_inputs_are_not_changed():
    poses = [frame(0, 40)]
    before = json.dumps(poses)
    run(VitruvianDrawPose, pose=poses, **DRAW)
    run(VitruvianDrawPersonMasks, pose=poses, **MASK)
    run(VitruvianPickPeople, pose=poses, person_numbers="2")
    run(VitruvianMergePeople, pose_1=poses, pose_2=poses)
    assert json.dumps(poses) == before


# beside the host's SDPose nodes


@pytest.fixture
def sdpose():
    return pytest.importorskip("comfy_extras.nodes_sdpose", reason="this host has no SDPose nodes")


def sdpose_draw(sdpose, poses):
    node = asyncio.run(sdpose.comfy_entrypoint())
    assert sdpose.SDPoseDrawKeypoints in asyncio.run(node.get_node_list())
    return sdpose.SDPoseDrawKeypoints.execute(
        poses,
        draw_body=True,
        draw_hands=True,
        draw_face=True,
        draw_feet=True,
        stick_width=4,
        face_point_size=3,
        score_threshold=0.3,
        draw_head=True,
    ).args[0]


def test_sdpose_draws_our_poses(sdpose):
    ours = run(VitruvianPickPeople, pose=[frame(0, 90)], person_numbers="1-2").args[0]
    theirs = sdpose_draw(sdpose, ours)
    pose_images = run(VitruvianDrawPose, pose=ours, **DRAW).args[0]
    assert theirs.shape == pose_images.shape
    overlap, either = (theirs.amax(-1) > 0) & (pose_images.amax(-1) > 0), theirs + pose_images
    assert overlap.sum() / (either.amax(-1) > 0).sum() > 0.8
    assert len(sdpose.SDPoseFaceBBoxes.execute(ours, 1.5, True).args[0][0]) == 0  # no face known


def test_we_read_what_sdpose_makes(sdpose):
    # 133 whole-body points as its network gives them: COCO order, (-1, -1) where unknown
    points = np.full((133, 2), -1.0, np.float32)
    scores = np.full(133, 0.05, np.float32)
    coco = [0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10]
    points[:17], scores[:17] = np.array(STANDING, np.float32)[coco], 0.9
    points[91:112], scores[91:112] = np.array(STANDING[7]) + np.arange(21)[:, None], 0.8
    frames = sdpose._to_openpose_frames([[points]], [[scores]], 512, 512)
    read = pose.read_frame(frames[0])
    torch.testing.assert_close(read.body[0, 2:, :2], torch.tensor(STANDING[2:]).float())
    assert read.left_hand[0, :, 2].all() + read.right_hand[0, :, 2].all() == 1
    theirs = sdpose_draw(sdpose, frames)
    pose_images = run(VitruvianDrawPose, pose=frames, **DRAW).args[0]
    overlap, either = (theirs.amax(-1) > 0) & (pose_images.amax(-1) > 0), theirs + pose_images
    assert overlap.sum() / (either.amax(-1) > 0).sum() > 0.8


def test_sdpose_s_raw_scores_are_no_shares(sdpose):
    points = np.full((133, 2), -1.0, np.float32)
    scores = np.full(133, -0.2, np.float32)
    coco = [0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10]
    points[:17], scores[:17] = np.array(STANDING, np.float32)[coco], 1.8  # heights of heatmaps
    points[15:17], scores[15:17] = [[3e6, -7e5], [9.0, 9.0]], 0.1  # of flat ones
    frames = sdpose._to_openpose_frames([[points], [points * 0 - 1]], [[scores]] * 2, 512, 512)
    frames[1]["people"][0] = {
        key: [v if k % 3 < 2 else 0.1 for k, v in enumerate(values)]
        for key, values in frames[0]["people"][0].items()
    }
    (masks, unions) = run(VitruvianDrawPersonMasks, pose=frames, **MASK).args
    assert len(masks) == 1 and len(unions) == 2 and not unions[1].any()
    certain = person()["pose_keypoints_2d"]
    certain[10 * 3 : 11 * 3] = certain[13 * 3 : 14 * 3] = [0.0, 0.0, 0.0]
    only = [{**frame(), "people": [{"pose_keypoints_2d": certain}]}]
    assert torch.equal(masks[0], run(VitruvianDrawPersonMasks, pose=only, **MASK).args[0][0])


def test_our_boxes_input_takes_sdpose_s_boxes(sdpose):
    face = [v for i in range(70) for v in (230 + i, 60 + i, 1.0)]
    poses = [{**frame(), "people": [{**person(), "face_keypoints_2d": face}]}]
    boxes = sdpose.SDPoseFaceBBoxes.execute(poses, 1.5, True).args[0]
    assert len(detect.read_boxes(boxes)[0]) == 1
    assert BoundingBox.io_type == io.BoundingBox.io_type
