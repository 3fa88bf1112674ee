"""The hand nodes one after the other: cut, mask, place, paste."""

import pytest
import torch
from vitruvian.models import pose
from vitruvian.nodes import hands as ours
from vitruvian.nodes.mask_expansion import VitruvianPreviewMaskExpansion


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def waving(width=256, height=256):
    """A person with a right hand of 21 points, as POSE_KEYPOINT."""
    hand = [(100.0, 120.0)]
    for finger in range(5):
        hand += [(84 + 8 * finger + 2 * k, 100 - 10 * k) for k in range(4)]
    body = [(0.0, 0.0, 0.0)] * 18
    body[pose.R_WRIST] = (100.0, 122.0, 1.0)
    body[pose.L_WRIST] = (200.0, 122.0, 1.0)
    return [
        {
            "people": [
                {
                    "pose_keypoints_2d": [v for point in body for v in point],
                    "hand_right_keypoints_2d": [v for x, y in hand for v in (x, y, 1.0)],
                }
            ],
            "canvas_width": width,
            "canvas_height": height,
        }
    ]


def without_hands():
    frames = waving()
    del frames[0]["people"][0]["hand_right_keypoints_2d"]
    return frames


def test_cut_mask_place_and_paste_give_the_image_back():
    image = torch.rand(1, 32, 32, 3).repeat_interleave(8, 1).repeat_interleave(8, 2)
    images, poses, boxes, count = ours.VitruvianCutHands.execute(
        waving(), "both", 128, 0.35, False, ours.STOP, image
    ).result
    assert images.shape == (1, 128, 128, 3) and count == 1 and boxes[0][0]["label"] == "right hand"
    masks, union, count = ours.VitruvianDrawHandMasks.execute(
        poses, 0, 0, "both", 0.11, 0.2, ours.STOP
    ).result
    assert count == 1 and masks.shape == union.shape == (1, 128, 128)
    placed, hand_mask, ring_mask = ours.VitruvianPlaceHands.execute(
        images, masks, boxes, 0, 0, 0.1, image
    ).result
    assert placed.shape == image.shape and hand_mask.sum() > 200 and ring_mask.sum() > 200
    assert torch.equal(
        placed[0][(hand_mask[0] == 0) & (ring_mask[0] == 0)],
        image[0][(hand_mask[0] == 0) & (ring_mask[0] == 0)],
    )
    assert float((placed - image).abs().mean()) < 0.02
    (pasted,) = ours.VitruvianPasteHands.execute(
        torch.zeros_like(image), placed, hand_mask, 0, 0.0
    ).result
    assert torch.equal(pasted[0][hand_mask[0] > 0], placed[0][hand_mask[0] > 0])
    (strip,) = VitruvianPreviewMaskExpansion.execute(1 - hand_mask, 40, 0.2, 0.8, 5, placed).result
    assert strip.shape == (1, 256, 5 * 256, 3)


def test_boxes_of_a_large_pose_fit_a_small_image():
    images, poses, boxes, count = ours.VitruvianCutHands.execute(
        waving(), "both", 128, 0.35, True, ours.STOP
    ).result
    masks = ours.VitruvianDrawHandMasks.execute(poses, 0, 0, "both", 0.11, 0.0, ours.STOP).result[0]
    small = ours.VitruvianPlaceHands.execute(images, masks, boxes, 64, 64, 0.0).result[1]
    rows, columns = (small[0] > 0).nonzero().double().mean(0).tolist()
    assert 18 < columns < 32 and 15 < rows < 31  # a quarter of where the hand is on 256 pixels


def test_a_image_without_hands_passes_through():
    image = torch.rand(1, 64, 64, 3)
    images, poses, boxes, count = ours.VitruvianCutHands.execute(
        without_hands(), "both", 128, 0.35, False, ours.GO_ON, image
    ).result
    masks = torch.ones(1, 128, 128)
    placed, hand_mask, ring_mask = ours.VitruvianPlaceHands.execute(
        images, masks, boxes, 0, 0, 0.0, image
    ).result
    assert torch.equal(placed, image) and hand_mask.sum() == ring_mask.sum() == 0
    assert (
        ours.VitruvianDrawHandMasks.execute(
            without_hands(), 0, 0, "both", 0.11, 0.2, ours.GO_ON
        ).result[2]
        == 0
    )


def test_nodes_say_what_to_do():
    with pytest.raises(
        ValueError, match="Draw Hand Masks: frame 1 of the pose has no hand .*'if_no_hands'"
    ):
        ours.VitruvianDrawHandMasks.execute(without_hands(), 0, 0, "both", 0.11, 0.2, ours.STOP)
    with pytest.raises(ValueError, match="has no left hand"):
        ours.VitruvianCutHands.execute(waving(), "left", 128, 0.35, False, ours.STOP)
    image, mask = torch.zeros(1, 64, 64, 3), torch.zeros(1, 64, 64)
    with pytest.raises(ValueError, match="has 2 boxes, but there are 1 'hand_images'"):
        box = {"x": 1, "y": 1, "width": 9, "height": 9}
        ours.VitruvianPlaceHands.execute(image, mask, [[box, box]], 0, 0, 0.0, image)
    with pytest.raises(ValueError, match="connect the output '.*boxes'"):
        ours.VitruvianPlaceHands.execute(image, mask, [["left"]], 0, 0, 0.0, image)
    with pytest.raises(ValueError, match="must have one size"):
        ours.VitruvianPasteHands.execute(image, image[:, :32], mask, 4, 0.5)


def test_boxes_without_lists_are_those_of_one_image():
    """As other nodes write the boxes of one image: both hands on it, not one on each of two."""
    boxes = [
        {"x": 4, "y": 4, "width": 20, "height": 20},
        {"x": 40, "y": 8, "width": 20, "height": 20},
    ]
    hand_images, masks = torch.rand(2, 20, 20, 3), torch.ones(2, 20, 20)
    inputs = hand_images, masks
    flat = ours.VitruvianPlaceHands.execute(*inputs, boxes, 64, 64, 0.0).result
    listed = ours.VitruvianPlaceHands.execute(*inputs, [boxes], 64, 64, 0.0).result
    assert flat[0].shape == (1, 64, 64, 3)
    for one, other in zip(flat, listed, strict=True):
        assert torch.equal(one, other)
    with pytest.raises(
        ValueError, match="has 2 boxes, but there are 3 'hand_images' and 2 'masks'"
    ):
        ours.VitruvianPlaceHands.execute(torch.rand(3, 20, 20, 3), masks, boxes, 64, 64, 0.0)


def test_hands_keep_their_proportions_on_an_image_of_another_shape():
    """A square pose covers a tall image: three times as large, its sides cut off."""
    image = torch.rand(1, 768, 512, 3)
    size = {"crop_size": 64, "margin": 0.0, "upright": False, "if_no_hands": ours.STOP}
    boxes = ours.VitruvianCutHands.execute(waving(), "both", image=image, **size).result[2]
    small = ours.VitruvianCutHands.execute(waving(), "both", **size).result[2]
    (box,), (small_box,) = boxes[0], small[0]
    assert box["width"] == pytest.approx(3 * small_box["width"], rel=1e-5)
    assert box["x"] == pytest.approx(3 * small_box["x"] - 128, abs=1e-3)
    assert box["y"] == pytest.approx(3 * small_box["y"], abs=1e-3)


def test_a_frame_of_people_without_hands_is_what_the_choice_is_about():
    frames = [*waving(), *without_hands()]
    with pytest.raises(ValueError, match="frame 2 of the pose has no hand"):
        ours.VitruvianCutHands.execute(frames, "both", 64, 0.3, False, ours.STOP)
    boxes = ours.VitruvianCutHands.execute(frames, "both", 64, 0.3, False, ours.GO_ON).result[2]
    assert [len(of_frame) for of_frame in boxes] == [1, 0]
    nobody = {"people": [], "canvas_width": 256, "canvas_height": 256}
    boxes = ours.VitruvianCutHands.execute(
        [*waving(), nobody, *waving()], "both", 64, 0.3, False, ours.STOP
    ).result[2]
    assert [len(of_frame) for of_frame in boxes] == [1, 0, 1]
