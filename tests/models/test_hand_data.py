"""Test the training data of the mini world's hand networks, and how hands are measured."""

import pytest
import torch
from vitruvian.lab.evaluators import measurements
from vitruvian.lab.recipes.hand_generator import HandDataset
from vitruvian.lab.recipes.handnet import in_sight
from vitruvian.lab.recipes.worlds import hands_in_image
from vitruvian.lab.world import renderer
from vitruvian.lab.world import scenes as world
from vitruvian.lab.world.body import LEFT_HAND, RIGHT_HAND
from vitruvian.models.hand_generator import DETAIL

CELLS = 24


@pytest.fixture(scope="module")
def close_ups():
    scenes = world.sample_scenes(12, 21, framing=world.HAND)
    return scenes, renderer.render(scenes)


def item(truth, i):
    """As LatentDataset has it; every latent cell says where it lies."""
    y, x = torch.meshgrid(torch.arange(CELLS), torch.arange(CELLS), indexing="ij")
    return {
        "latent": torch.stack((y, x, y, x)).float(),
        "parsing": truth.parsing[i],
        "rgb": (truth.rgb[i] * 255).byte(),
        "hint": torch.zeros(3, 192, 192, dtype=torch.uint8),
        "captions": {"full": "a hand", "brief": "a hand", "hands": truth.hands[[i]].tolist()},
    }


def test_a_window_shows_the_same_hand(close_ups):
    truth = close_ups[1]
    for i in range(4):
        full = HandDataset([item(truth, i)])[0]
        part = HandDataset([item(truth, i)], window=16)[0]
        top, start = part["latent"][:2, 0, 0].int().tolist()
        inside = slice(top, top + 16), slice(start, start + 16)
        assert torch.equal(part["latent"], full["latent"][:, inside[0], inside[1]])
        fine = [slice(DETAIL * cells.start, DETAIL * cells.stop) for cells in inside]
        assert torch.allclose(part["heat"], full["heat"][:, fine[0], fine[1]], atol=1e-5)
        pixels = slice(8 * top, 8 * top + 128), slice(8 * start, 8 * start + 128)
        assert torch.equal(part["mask"], full["mask"][pixels])
        assert part["mask"].sum() > 0.95 * full["mask"].sum() > 100


@pytest.mark.parametrize("shake", [None, (0.9, 0.1, 0.8, 0.2)])
def test_a_crops_joints_lie_on_its_hand(close_ups, shake):
    scenes, truth = close_ups
    for i in range(len(scenes)):
        side = int(scenes.hand[i])
        label = (RIGHT_HAND, LEFT_HAND)[side]
        mask = (truth.parsing[i] == label).float().expand(3, -1, -1)
        crop, joints = measurements.hand_crop(mask, truth.hands[i, side], side == 1, shake)
        assert crop.shape == (3, measurements.HAND_SIDE, measurements.HAND_SIDE)
        near = torch.nn.functional.max_pool2d(crop[:1], 9, 1, 4)[0]
        x, y = joints.round().long().clamp(0, measurements.HAND_SIDE - 1).unbind(1)
        assert float((near[y, x] > 0.5).float().mean()) > 0.8


def test_a_left_hand_is_read_as_its_mirror_image(close_ups):
    truth = close_ups[1]
    points = truth.hands[0, int(close_ups[0].hand[0])]
    flipped = torch.cat((192 - points[:, :1], points[:, 1:]), 1)
    crop, joints = measurements.hand_crop(truth.rgb[0], points, False)
    mirrored, same = measurements.hand_crop(truth.rgb[0].flip(-1), flipped, True)
    assert torch.allclose(joints, same, atol=1e-3) and torch.allclose(crop, mirrored, atol=1e-3)


def test_stretched_fingers_are_counted(close_ups):
    scenes, truth = close_ups
    names = list(world.GESTURES)
    for i in range(len(scenes)):
        side = int(scenes.hand[i])
        gesture = names[int(scenes.people.gesture[i, side])]
        count = int(measurements.stretched(truth.hands[[i], side, :, :2]))
        if gesture == "open":
            assert count == 5
        if gesture == "fist":
            assert count <= 1


def test_true_joints_have_no_error(close_ups, monkeypatch):
    scenes, truth = close_ups
    crops = [
        measurements.hand_crop(
            truth.rgb[i], truth.hands[i, int(scenes.hand[i])], bool(scenes.hand[i])
        )
        for i in range(len(scenes))
    ]
    joints = torch.stack([joints for _, joints in crops])
    monkeypatch.setattr(measurements, "find_joints", lambda net, images: joints + 3.0)
    all_of_them = [torch.ones(21, dtype=torch.bool)] * len(crops)
    report = measurements.read_hands(None, crops, all_of_them)
    assert report.fingers.all() and 0 < float(report.error.max()) < 0.2
    monkeypatch.setattr(measurements, "find_joints", lambda net, images: joints)
    assert float(measurements.read_hands(None, crops, all_of_them).error.max()) == 0


def test_joints_that_are_hidden_count_for_nothing(close_ups, monkeypatch):
    scenes, truth = close_ups
    side = int(scenes.hand[0])
    crop = measurements.hand_crop(truth.rgb[0], truth.hands[0, side], bool(side))
    wrong = crop[1][None].clone()
    wrong[0, 7] += 50
    monkeypatch.setattr(measurements, "find_joints", lambda net, images: wrong)
    visible = torch.ones(21, dtype=torch.bool)
    assert float(measurements.read_hands(None, [crop], [visible]).error) > 0
    visible[7] = False
    assert float(measurements.read_hands(None, [crop], [visible]).error) == 0


def test_a_hand_hidden_behind_its_body_is_not_in_sight(close_ups):
    scenes, truth = close_ups
    side = int(scenes.hand[0])
    item = {"captions": {"hands": [truth.hands[0].tolist()]}, "parsing": truth.parsing[0]}
    assert in_sight(item, side)
    assert not in_sight({**item, "parsing": truth.parsing[0] * 0}, side)


def test_a_hand_that_is_partly_outside_the_image_is_left_out(close_ups):
    hands = close_ups[1].hands[:1].clone()
    hands[0, :, :, 2] = 1
    hands[0, 0, 4, 2] = 0
    assert hands_in_image({"hands": hands.tolist()}) == [1]
