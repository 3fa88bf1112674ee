"""Detect Pose on the real host: what it does with time and memory."""

import importlib
from contextlib import contextmanager

import comfy.model_management
import comfy.utils
import pytest
import torch
from vitruvian.host.registration import register
from vitruvian.models import detect, pose, pose_drawing
from vitruvian.nodes.pose_detection import LEAVE_EMPTY, STOP, VitruvianDetectPose

register()
SETTINGS = {"max_people": 4, "min_confidence": 0.3, "include_hands": True, "if_nobody": LEAVE_EMPTY}


class LookingDetector:
    """A detector that looks this often at each image and finds nobody."""

    def __init__(self, looks):
        self.looks, self.look_count = looks, 0

    def detect(self, image, *, boxes, max_people, min_confidence, on_look):
        for _ in range(self.looks):
            on_look()
            self.look_count += 1
        return pose.no_people(image.shape[1], image.shape[0])


@pytest.fixture
def detector(monkeypatch):
    looking = LookingDetector(30)

    @contextmanager
    def open_detector(model_folders, *, hands, face):
        yield looking

    importlib.import_module("vitruvian.models.detectors")  # enters the others before
    monkeypatch.setattr(detect, "DETECTORS", {"Looking": open_detector})
    return looking


@pytest.fixture
def reported(monkeypatch):
    """The values and totals that reach the front end."""
    values = []

    def hook(value, total, preview, node_id=None):
        values.append((value, total))

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0, raising=False)
    return values


def test_progress_moves_within_an_image_and_never_back(detector, reported):
    VitruvianDetectPose.execute(image=torch.zeros(2, 8, 8, 3), **SETTINGS)
    values = [value for value, _ in reported]
    assert values == sorted(values) and {total for _, total in reported} == {200}
    assert len(set(values)) > 20 and values[-1] == 200


@pytest.fixture
def canceled():
    comfy.model_management.interrupt_current_processing(True)
    yield
    comfy.model_management.interrupt_current_processing(False)


def test_a_canceled_search_ends_within_the_image(detector, canceled):
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        VitruvianDetectPose.execute(image=torch.zeros(1, 8, 8, 3), **SETTINGS)
    assert detector.look_count == 0


def test_the_preview_of_a_large_image_is_small(detector, monkeypatch):
    monkeypatch.setattr(pose_drawing, "LARGEST_PREVIEW", 32)
    preview_shapes = []
    monkeypatch.setattr(
        "comfy_api.latest.ui.PreviewImage", lambda images, cls: preview_shapes.append(images.shape)
    )
    poses, count = VitruvianDetectPose.execute(image=torch.zeros(3, 60, 80, 3), **SETTINGS).args
    assert preview_shapes == [(3, 24, 32, 3)] and count == 0
    assert [(f["canvas_width"], f["canvas_height"]) for f in poses] == [(80, 60)] * 3


def test_nobody_in_one_of_several_images_names_it(detector):
    with pytest.raises(ValueError, match="Detect Pose: nobody was found in image 1 of 2"):
        VitruvianDetectPose.execute(image=torch.zeros(2, 8, 8, 3), **SETTINGS | {"if_nobody": STOP})


# with MediaPipe itself


@pytest.fixture(scope="module")
def photograph():
    pytest.importorskip("mediapipe")
    data = pytest.importorskip("skimage.data")
    astronaut = torch.from_numpy(data.astronaut()).float().div(255)
    return torch.cat([astronaut, astronaut.flip(1)], dim=1)[None]


def test_two_people_have_bodies_and_on_demand_faces(photograph, reported):
    settings = SETTINGS | {"max_people": detect.MAX_PEOPLE, "include_hands": False}
    plain, count = VitruvianDetectPose.execute(image=photograph, **settings).args
    assert count == 2 and [value for value, _ in reported][-1] == 100
    faces, _ = VitruvianDetectPose.execute(image=photograph, include_face=True, **settings).args
    for person, same in zip(plain[0]["people"], faces[0]["people"], strict=True):
        assert person["pose_keypoints_2d"] == same["pose_keypoints_2d"]
        assert not any(person["face_keypoints_2d"]) and any(same["face_keypoints_2d"])


def test_the_most_people_are_a_choice(photograph):
    settings = SETTINGS | {"max_people": 1, "include_hands": False}
    assert VitruvianDetectPose.execute(image=photograph, **settings).args[1] == 1


def test_cancel_comes_between_two_looks(photograph, monkeypatch):
    checks = []

    def check():
        checks.append(1)
        if len(checks) == 5:
            raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", check)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        VitruvianDetectPose.execute(image=photograph, **SETTINGS)
    assert len(checks) == 5
