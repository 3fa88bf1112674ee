"""Test the reading of other nodes' boxes, and their masks."""

import pytest
import torch
from vitruvian.models import boxes
from vitruvian.models.boxes import Rectangle

BOX = {"x": 1, "y": 2.5, "width": 10, "height": 20}
SAME = Rectangle(1, 2.5, 10, 20)


def test_boxes_of_every_form_are_read():
    assert boxes.read_frames(BOX) == boxes.read_frames([BOX]) == [[SAME]]
    assert boxes.read_frames([[BOX]]) == [[SAME]]
    assert boxes.read_frames([[], [BOX, BOX]]) == [[], [SAME, SAME]]
    assert boxes.read_frames([]) == boxes.read_frames([[]]) == boxes.read_frames(None) == [[]]


def test_a_detector_s_label_is_kept_and_all_else_left_out():
    detected = BOX | {"label": "dog", "score": 0.9}
    drawn = BOX | {"metadata": {"type": "obj", "desc": "a dog", "palette": []}}
    assert boxes.read_frames([detected, drawn]) == [[SAME._replace(label="dog"), SAME]]


@pytest.mark.parametrize(
    "bad",
    [
        [{"x": 1}],
        ["box"],
        [[3, 4, 5, 6]],
        [[[3, 4, 5, 6]]],
        [3, 4, 5, 6],
        [BOX | {"x": float("nan")}],
        [BOX | {"width": float("inf")}],
        [BOX | {"height": "high"}],
        [[BOX], BOX],
        [{"type": "obj", "bbox": [0, 0, 500, 500]}],
    ],
)
def test_other_boxes_are_refused(bad):
    with pytest.raises(ValueError, match="x, y, width and height|list of bounding boxes"):
        boxes.read_frames(bad)


def test_boxes_are_ordered_by_their_middles():
    wide, narrow = Rectangle(0, 0, 90, 10), Rectangle(10, 0, 10, 10)
    assert boxes.left_to_right([wide, narrow]) == [narrow, wide]


def test_a_mask_covers_its_box_and_pixels_at_the_edge_in_part():
    mask = boxes.box_mask(Rectangle(2, 3.25, 4, 2.5), 10, 8)
    expected = torch.zeros(8, 10)
    expected[3, 2:6], expected[4, 2:6], expected[5, 2:6] = 0.75, 1, 0.75
    torch.testing.assert_close(mask, expected)


def test_a_box_is_cut_at_the_edges_of_the_image():
    mask = boxes.box_mask(Rectangle(-5, -5, 8, 100), 10, 8)
    assert (mask[:, :3] == 1).all() and not mask[:, 3:].any()


def test_the_mask_of_a_huge_image_has_its_proportions():
    mask = boxes.box_mask(Rectangle(0, 0, 8192, 4096), 16384, 8192)
    assert mask.shape == (1024, 2048)
    assert (mask[:512, :1024] == 1).all() and mask.sum() == 512 * 1024


@pytest.mark.parametrize(
    ("box", "problem"),
    [
        (Rectangle(10, 0, 5, 5), "outside of the image of 10 x 8 pixels, at x 10 to 15, y 0 to 5"),
        (Rectangle(0, -6, 5, 5), "outside"),
        (Rectangle(0.1, 0.1, 0.4, 0.8), "empty: it has 0.4 x 0.8 pixels.* not shares of the image"),
        (Rectangle(5, 5, -3, 2), "empty: it has -3 x 2 pixels"),
        (Rectangle(5, 5, 0, 2), "empty: it has 0 x 2 pixels"),
        (Rectangle(5, 5, 2, 0), "empty: it has 2 x 0 pixels"),
    ],
)
def test_a_box_without_a_place_is_refused(box, problem):
    with pytest.raises(ValueError, match=problem):
        boxes.box_mask(box, 10, 8)
