"""Test the detection of people in photographs, and the mapping to OpenPose points."""

import importlib
import re
import shutil
import sys
import types
import zipfile
from pathlib import Path

import pytest
import torch
from vitruvian.lab.world.renderer import render
from vitruvian.lab.world.scenes import HAND, sample_scenes
from vitruvian.models import detect, pose
from vitruvian.models.detect import Box, open_detector, read_boxes
from vitruvian.models.detectors import mediapipe_files, mediapipe_landmarks
from vitruvian.models.detectors.mediapipe_landmarks import (
    LandmarkDetector,
    assign_hands,
    to_people,
)
from vitruvian.models.detectors.mediapipe_tasks import DetectedHand

FOLDERS = ["/nowhere/models/vitruvian"]


@pytest.fixture(scope="module")
def astronaut():
    data = pytest.importorskip("skimage.data")
    return torch.from_numpy(data.astronaut()).float().div(255)


@pytest.fixture(scope="module")
def detector():
    mediapipe = pytest.importorskip("mediapipe")
    if not Path(mediapipe.__file__).with_name("modules").is_dir():
        pytest.skip("this MediaPipe brings no weights")
    with open_detector(FOLDERS) as detector:
        yield detector


def near(point, x, y, within=30):
    return (point[:2] - torch.tensor([x, y])).norm() < within and point[2] == 1


def test_the_astronaut_is_found_where_she_is(detector, astronaut):
    original = astronaut.clone()
    people = detector.detect(astronaut)
    assert pose.count(people) == 1 and (people.width, people.height) == (512, 512)
    body = people.body[0]
    assert near(body[pose.NOSE], 222, 128)
    assert near(body[pose.R_SHOULDER], 115, 240) and near(body[pose.L_SHOULDER], 306, 257)
    assert near(body[pose.R_ELBOW], 65, 414, 50) and near(body[pose.R_WRIST], 135, 477, 50)
    middle = (body[pose.R_SHOULDER] + body[pose.L_SHOULDER]) / 2
    torch.testing.assert_close(body[pose.NECK], middle)
    assert torch.equal(astronaut, original)


def test_the_same_image_gives_the_same_points(detector, astronaut):
    first, second = (detector.detect(astronaut) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first[:5], second[:5], strict=True))


def test_two_side_by_side_come_left_to_right(detector, astronaut):
    people = detector.detect(torch.cat([astronaut, astronaut], dim=1))
    assert pose.count(people) == 2
    for number, body in enumerate(people.body):
        start = 512 * number
        assert near(body[pose.NOSE], start + 222, 128)
        assert near(body[pose.R_SHOULDER], start + 115, 235, 45)
        assert near(body[pose.L_SHOULDER], start + 306, 252, 45)


@pytest.mark.parametrize("copies", [3, 4, 5])
def test_more_in_a_row(detector, astronaut, copies):
    row = torch.cat([astronaut, astronaut.flip(1)] * 3, dim=1)[:, : 512 * copies]
    people = detector.detect(row, max_people=8)
    assert (people.body[:, pose.NOSE, 0] // 512).tolist() == list(range(copies))
    assert pose.count(detector.detect(row, max_people=2)) == 2


def test_boxes_say_where_to_look(detector, astronaut):
    pair = torch.cat([astronaut, astronaut], dim=1)
    people = detector.detect(pair, boxes=[Box(512, 0, 1024, 512)])
    assert pose.count(people) == 1 and near(people.body[0, pose.NOSE], 734, 128)
    outside = detector.detect(pair, boxes=[Box(5000, 0, 6000, 512)])
    assert pose.count(outside) == 0


def test_a_mirrored_person_has_the_sides_swapped(detector, astronaut):
    body = detector.detect(astronaut.flip(1)).body[0]
    assert near(body[pose.R_SHOULDER], 511 - 306, 257) and near(body[pose.L_SHOULDER], 396, 240)


@pytest.mark.parametrize("factor", [0.25, 1.37, 5])
def test_other_sizes(detector, astronaut, factor):
    image = torch.nn.functional.interpolate(
        astronaut.movedim(2, 0)[None], scale_factor=factor, mode="bilinear"
    )[0].movedim(0, 2)
    body = detector.detect(image).body[0]
    assert near(body[pose.NOSE] / torch.tensor([factor, factor, 1]), 222, 128, 15)


def test_min_confidence_leaves_out_what_is_hidden(detector, astronaut):
    def is_visible(minimum):
        return detector.detect(astronaut, min_confidence=minimum).body[0, :, 2]

    assert is_visible(0).all()
    assert not is_visible(0.9)[[pose.R_WRIST, pose.L_KNEE]].any() and is_visible(0.9)[pose.NOSE]


@pytest.mark.parametrize("size", [(512, 512), (64, 64), (1, 1), (3, 700), (701, 33)])
def test_nobody_in_an_empty_image(detector, size):
    for level in (0.0, 0.5):
        people = detector.detect(torch.full((*size, 3), level))
        assert pose.count(people) == 0 and (people.height, people.width) == size


@pytest.mark.parametrize("name", ["coffee", "rocket", "chelsea"])
def test_nobody_in_images_of_things(detector, name):
    image = torch.from_numpy(getattr(pytest.importorskip("skimage.data"), name)()).float() / 255
    assert pose.count(detector.detect(image)) == 0


# MediaPipe without weights


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """The .task files made from the weights in the package."""
    mediapipe = pytest.importorskip("mediapipe")
    package = Path(mediapipe.__file__).parent
    if not (package / "modules/pose_landmark/pose_landmark_full.tflite").is_file():
        pytest.skip("this MediaPipe brings no weights")
    folder = tmp_path_factory.mktemp("vitruvian")
    for name in mediapipe_files.TASKS:
        content = mediapipe_files.assemble(name, lambda path: (package / path).read_bytes())
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def without_weights(monkeypatch, tmp_path_factory):
    """A later version of `mediapipe`: neither weights nor `solutions`."""
    mediapipe = pytest.importorskip("mediapipe")
    newer = types.ModuleType("mediapipe")
    newer.__version__ = "1.0"
    newer.__path__ = [str(tmp_path_factory.mktemp("mediapipe")), *mediapipe.__path__]
    newer.Image, newer.ImageFormat = mediapipe.Image, mediapipe.ImageFormat
    monkeypatch.setitem(sys.modules, "mediapipe", newer)


def test_weights_in_a_folder_find_the_same(tasks, without_weights, astronaut):
    with open_detector([*FOLDERS, str(tasks)]) as detector:
        people = detector.detect(torch.cat([astronaut, astronaut], dim=1))
    assert pose.count(people) == 2
    assert near(people.body[0, pose.NOSE], 222, 128) and near(people.body[1, pose.NOSE], 734, 128)


def test_boxes_of_faces_need_the_file_for_faces(tasks, without_weights, astronaut, tmp_path):
    (tmp_path / "pose_landmarker_lite.task").symlink_to(tasks / "pose_landmarker_full.task")
    array, _ = mediapipe_landmarks.to_array(astronaut)
    with open_detector([str(tmp_path)], hands=False) as detector:
        assert detector.landmarker.face_boxes(array) == []
        assert pose.count(detector.detect(astronaut)) == 1
    with open_detector([str(tasks)], hands=False) as detector:
        (face,) = detector.landmarker.face_boxes(array)
    assert face.x0 < 195 < 250 < face.x1 and face.y0 < 110 < 150 < face.y1 and face.score > 0.8


def test_the_face_of_the_astronaut_has_points(tasks, without_weights, astronaut):
    with open_detector([str(tasks)], hands=False, face=True) as detector:
        face = detector.detect(astronaut).face[0]
    assert (face[:, 2] == 1).all()
    expected = {8: (224, 172), 30: (224, 131), 36: (195, 109), 45: (250, 107), 48: (202, 145)}
    expected |= {54: (247, 143), 0: (178, 97), 16: (264, 98), 68: (204, 109), 69: (241, 107)}
    for point, place in expected.items():
        assert (face[point, :2] - torch.tensor(place)).norm() < 10, (point, face[point])


def test_the_same_weights_always_give_the_same_file(tasks):
    for name in mediapipe_files.TASKS:
        with zipfile.ZipFile(tasks / name) as bundle:
            for entry in bundle.infolist():
                start = entry.header_offset + 30 + len(entry.filename) + len(entry.extra)
                assert start % 16 == 0 and entry.compress_type == zipfile.ZIP_STORED
                assert entry.date_time == (1980, 1, 1, 0, 0, 0)


def test_a_missing_file_is_named_with_its_folder(without_weights):
    with pytest.raises(ValueError, match="pose_landmarker_full.task.*ComfyUI/models/vitruvian"):
        with open_detector(FOLDERS):
            pass


def test_without_hands_no_hand_file_is_needed(tasks, without_weights, tmp_path):
    (tmp_path / "pose_landmarker_lite.task").symlink_to(tasks / "pose_landmarker_full.task")
    with open_detector([str(tmp_path)], hands=False):
        pass
    with pytest.raises(ValueError, match="hand_landmarker.task"):
        with open_detector([str(tmp_path)], hands=True):
            pass


def test_a_wrong_file_is_named(without_weights, tmp_path):
    (tmp_path / "pose_landmarker_full.task").write_bytes(b"not a task")
    with pytest.raises(ValueError, match="pose_landmarker_full.task is not a MediaPipe"):
        with open_detector([str(tmp_path)]):
            pass


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(ValueError, match="pip install mediapipe"):
        with open_detector(FOLDERS):
            pass


# landmarks, hands and boxes


def standing(x=0.0):
    """MediaPipe's 33 landmarks of somebody 400 pixels tall, facing the camera."""
    marks = torch.zeros(33, 3)
    marks[:, 2] = 1
    marks[0, :2] = torch.tensor([200.0, 60])
    for left, right, across, y in (
        (2, 5, 8, 52),
        (7, 8, 18, 55),
        (11, 12, 44, 100),
        (13, 14, 50, 175),
        (15, 16, 52, 233),
        (23, 24, 26, 215),
        (25, 26, 27, 313),
        (27, 28, 28, 400),
        (29, 30, 28, 410),
        (31, 32, 34, 415),
    ):
        marks[left, :2], marks[right, :2] = (
            torch.tensor([200.0 + across, y]),
            torch.tensor([200.0 - across, y]),
        )
    marks[:, 0] += x
    return marks


class Scripted:
    """A landmarker that finds these bodies in the first look, and these hands in every one."""

    def __init__(self, bodies=(), hands=(), side="right"):
        self._bodies, self._hands = list(bodies), [DetectedHand(hand, side) for hand in hands]

    def bodies(self, array):
        bodies, self._bodies = self._bodies, []
        return bodies

    def face_boxes(self, array):
        return []

    def hands(self, array):
        return self._hands


def test_landmarks_become_openpose_points():
    people = LandmarkDetector(Scripted([standing()]), hands=False).detect(torch.zeros(500, 500, 3))
    body, foot = people.body[0, :, :2].tolist(), people.foot[0]
    assert body[pose.NECK] == [200, 100]
    assert body[pose.R_WRIST] == [148, 233] and body[pose.L_WRIST] == [252, 233]
    assert body[pose.R_EYE] == [192, 52] and body[pose.L_EAR] == [218, 55]
    assert foot[0].tolist() == [234, 415, 1] and foot[5].tolist() == [172, 410, 1]
    assert not foot[[1, 4]].any()


def crossed_people():
    marks = standing()
    marks[[15, 16]] = marks[[16, 15]]
    bodies = [standing(), marks]
    bodies[1][:, 0] += 300
    return to_people(bodies, torch.zeros(500, 800, 3).numpy(), 0.3)


def hand_at(x, y):
    return torch.tensor([[x, y]]) + torch.arange(21)[:, None] * torch.tensor([[0.0, 1.5]])


def test_hands_go_to_the_nearest_wrist():
    people = crossed_people()
    hands = [hand_at(148.0, 235), hand_at(252.0, 235), hand_at(450.0, 230), hand_at(700.0, 60)]
    people_with_hands = assign_hands(hands, people)
    assert torch.equal(people_with_hands.right_hand[0, :, :2], hands[0])
    assert torch.equal(people_with_hands.left_hand[0, :, :2], hands[1])
    # the second person's arms are crossed: the hand on the image's left is the left one
    assert torch.equal(people_with_hands.left_hand[1, :, :2], hands[2])
    assert not people_with_hands.right_hand[1].any()
    assert not people.left_hand.any()


def test_a_wrist_gets_one_hand_and_a_hand_one_wrist():
    people_with_hands = assign_hands([hand_at(150.0, 233), hand_at(149.0, 233)], crossed_people())
    assert people_with_hands.right_hand[0, 0, 0] == 149 and not people_with_hands.left_hand[0].any()


def test_hands_without_a_body_are_a_person():
    hands = [hand_at(300.0, 40), hand_at(90.0, 40)]
    people = LandmarkDetector(Scripted(hands=hands)).detect(torch.zeros(400, 400, 3))
    assert pose.count(people) == 1 and not people.body.any()
    assert people.right_hand[0, 0, 0] == 90 and people.left_hand[0, 0, 0] == 300
    assert (
        pose.count(
            LandmarkDetector(Scripted(hands=hands), hands=False).detect(torch.zeros(9, 9, 3))
        )
        == 0
    )


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_lone_hand_is_the_one_it_looks_like(side):
    people = LandmarkDetector(Scripted(hands=[hand_at(90.0, 40)], side=side)).detect(
        torch.zeros(400, 400, 3)
    )
    assert getattr(people, f"{side}_hand").any()
    assert not people.right_hand.any() or not people.left_hand.any()


def test_mediapipe_tells_drawn_hands_apart(detector):
    scenes = sample_scenes(24, 5, framing=HAND)
    hands_by_side = [
        (int(scenes.hand[i]), detector.landmarker.hands((rgb.movedim(0, -1) * 255).byte().numpy()))
        for i, rgb in enumerate(render(scenes, 384).rgb)
    ]
    right = [hands[0].side == ("right", "left")[which] for which, hands in hands_by_side if hands]
    assert len(right) >= 8 and sum(right) >= 0.8 * len(right), right


def test_a_body_seen_inside_a_hand_is_none():
    tiny = standing()
    tiny[:, :2] = tiny[:, :2] / 20 + torch.tensor([90.0, 42])
    hand = hand_at(90.0, 40)
    hand[5:, 0] += 20
    people = LandmarkDetector(Scripted([tiny], [hand])).detect(torch.zeros(400, 400, 3))
    assert pose.count(people) == 1 and not people.body.any() and people.right_hand.any()


def test_boxes_of_every_shape():
    box = {"x": 1, "y": 2.4, "width": 10, "height": 20}
    dog = box | {"label": "dog", "score": 0.9}
    person = box | {"label": "person", "score": 0.9}
    same = [Box(1, 2, 11, 22)]
    assert read_boxes(box) == read_boxes([box]) == read_boxes([[box]]) == [same]
    assert read_boxes([[], [person, dog]]) == [[], same]
    assert read_boxes([]) == read_boxes([[]]) == read_boxes(None) == [[]]


@pytest.mark.parametrize("bad", [[{"x": 1}], ["box"], [[3]], [[{**dict.fromkeys("xy"), "w": 1}]]])
def test_other_boxes_are_refused(bad):
    with pytest.raises(ValueError, match="x, y, width and height"):
        read_boxes(bad)


# another detector


FAKE_DETECTOR = """
from contextlib import contextmanager

from .. import pose
from ..detect import register_detector


class FakeDetector:
    def detect(self, image, *, boxes=(), max_people=4, min_confidence=0.3, on_look=None):
        height, width = image.shape[:2]
        frame = {"canvas_width": width, "canvas_height": height}
        noses = [[100.0 * (k + 1), 50.0, 1.0] + 17 * [0.0, 0.0, 0.0] for k in range(max_people)]
        return pose.read_frame(frame | {"people": [{"pose_keypoints_2d": p} for p in noses]})


@register_detector("Fake")
@contextmanager
def open_detector(model_folders, *, hands=True, face=False):
    yield FakeDetector()
"""
FAKE_LINE = "from . import fake_detector as fake_detector\n"


def test_another_detector_is_one_file_and_one_line(tmp_path, monkeypatch):
    copy = tmp_path / "copied_models"
    shutil.copytree(Path(detect.__file__).parent, copy, ignore=shutil.ignore_patterns("*.pyc"))
    (copy / "detectors" / "fake_detector.py").write_text(FAKE_DETECTOR)
    listing = copy / "detectors" / "__init__.py"
    listing.write_text(listing.read_text().replace("from .", FAKE_LINE + "from .", 1))
    monkeypatch.syspath_prepend(tmp_path)
    copied = importlib.import_module("copied_models.detect")
    copied_pose = importlib.import_module("copied_models.pose")

    # as Detect Pose does
    images, frames = torch.zeros(2, 300, 400, 3), []
    with copied.open_detector(FOLDERS, hands=True) as detector:
        for image in images:
            (boxes,) = copied.read_boxes(None)
            frames.append(detector.detect(image, boxes=boxes, max_people=3, min_confidence=0.3))
    assert [copied_pose.count(people) for people in frames] == [3, 3]
    assert copied_pose.write_frame(frames[0])["people"][2]["pose_keypoints_2d"][:3] == [300, 50, 1]


def test_every_row_of_the_table_is_a_detector():
    importlib.import_module("vitruvian.models.detectors")
    modules = {function.__module__ for function in detect.DETECTORS.values()}
    listing = Path(detect.__file__).parent / "detectors" / "__init__.py"
    names = re.findall(r"^from \. import (\w+) as", listing.read_text(), re.M)
    assert names and modules == {f"vitruvian.models.detectors.{name}" for name in names}


def test_an_unknown_detector_is_refused():
    with pytest.raises(ValueError, match="no detector 'Sonar', only MediaPipe"):
        open_detector(FOLDERS, name="Sonar")
