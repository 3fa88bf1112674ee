"""Test that the work on a large image is bounded: it is scaled down before anything else."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from vitruvian.models import pixels, pose, pose_drawing
from vitruvian.models.detectors import mediapipe_landmarks
from vitruvian.models.detectors.mediapipe_landmarks import LandmarkDetector

SIDE = 64  # stands for LARGEST_SIDE and LARGEST_PREVIEW


class LargestTensor(TorchDispatchMode):
    """Measure the largest tensor that an operation makes, views aside."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        is_new = isinstance(result, torch.Tensor) and all(
            result.untyped_storage().data_ptr() != arg.untyped_storage().data_ptr()
            for arg in args
            if isinstance(arg, torch.Tensor)
        )
        if is_new:
            self.numbers = max(self.numbers, result.numel())
        return result


class Nobody:
    """A landmarker that finds nobody and remembers the sizes of what it was shown."""

    def __init__(self):
        self.shapes = []

    def bodies(self, array):
        self.on_look()
        self.shapes.append(array.shape)
        return []

    def face_boxes(self, array):
        return []

    def hands(self, array):
        self.on_look()
        self.shapes.append(array.shape)
        return []


def test_an_image_is_scaled_before_it_is_searched(monkeypatch):
    monkeypatch.setattr(mediapipe_landmarks, "LARGEST_SIDE", SIDE)
    nobody, image = Nobody(), torch.rand(750, 1000, 3)
    with LargestTensor() as largest:
        people = LandmarkDetector(nobody).detect(image)
    assert (people.width, people.height) == (1000, 750)
    assert nobody.shapes and max(max(shape) for shape in nobody.shapes) == SIDE
    assert largest.numbers <= 3 * SIDE * SIDE


def test_an_image_is_scaled_before_it_is_drawn_over(monkeypatch):
    monkeypatch.setattr(pose_drawing, "LARGEST_PREVIEW", SIDE)
    image = torch.rand(750, 1000, 3)
    with LargestTensor() as largest:
        over = pose_drawing.draw_over(image, pose.no_people(1000, 750))
    assert over.shape == (48, SIDE, 3) and largest.numbers <= 3 * SIDE * SIDE


@pytest.mark.parametrize("channels", [3, 4])
def test_shrinking_averages(channels):
    image = torch.rand(12, 20, channels)
    small = pixels.shrink(image, 10)
    expected = image[..., :3].unfold(0, 2, 2).unfold(1, 2, 2).mean((-1, -2))
    torch.testing.assert_close(small, expected)
    assert torch.equal(pixels.shrink(image, 20), image[..., :3])


def test_a_thin_image_keeps_a_pixel():
    assert pixels.shrink(torch.rand(2, 4000, 3), 100).shape == (1, 100, 3)


def test_what_a_look_raises_ends_the_search():
    looks = []

    def stop():
        looks.append(1)
        if len(looks) == 2:
            raise KeyboardInterrupt

    nobody = Nobody()
    with pytest.raises(KeyboardInterrupt):
        LandmarkDetector(nobody).detect(torch.rand(50, 100, 3), on_look=stop)
    assert len(nobody.shapes) == 1
