"""Test the hand generator: its heat maps, its loss, and its LoRA on a frozen network."""

import pytest
import torch
from torch import nn
from vitruvian.lab.training import networks
from vitruvian.lab.training.low_rank import add_low_rank, low_rank_tensors, set_low_rank
from vitruvian.models import hand_generator
from vitruvian.models.hand_generator import CHANNELS, DETAIL, HandGenerator, heat_maps, mask_loss


def points(x, y):
    """A hand in pixels whose fingers lie on five lines."""
    hand = torch.zeros(21, 3)
    hand[0] = torch.tensor([x, y, 1.0])
    for finger in range(5):
        for joint in range(4):
            hand[1 + 4 * finger + joint] = torch.tensor(
                [x - 32 + 16 * finger, y - 24 - 8.0 * joint, 1.0]
            )
    return hand


def test_every_finger_of_either_hand_has_its_own_channel():
    none = torch.zeros(21, 3)
    left = heat_maps(points(96, 120), none, 8, 24, 24)
    right = heat_maps(none, points(96, 120), 8, 24, 24)
    assert left.shape == (CHANNELS, 96, 96)
    assert left[6:].abs().sum() == 0 and right[:6].abs().sum() == 0
    assert torch.equal(left[:6], right[6:])
    assert all(left[k].amax() > 0.5 for k in range(6))
    columns = [int(left[k].amax(0).argmax()) for k in range(1, 6)]
    assert columns == sorted(columns) and len(set(columns)) == 5


def test_a_line_is_one_on_its_joints_and_falls_with_the_distance():
    straight = torch.tensor([[12.0, 12.0, 1.0], [44.0, 12.0, 1.0]])
    line = hand_generator._line(straight, 8, 4, 8)
    assert torch.allclose(line[1, 1:6], torch.ones(5))
    off = torch.exp(torch.tensor(-1 / (2 * hand_generator.SPREAD**2)))
    assert torch.allclose(line[2, 1:6], off.expand(5))
    assert hand_generator._line(straight * 0, 8, 4, 8).sum() == 0
    assert hand_generator._line(straight[:1], 8, 4, 8)[1, 1] == 1


def test_a_new_generator_adds_nothing_and_gives_full_size_masks():
    network = HandGenerator(64)
    keypoints = network(torch.rand(2, CHANNELS, DETAIL * 6, DETAIL * 5))
    assert keypoints.first.shape == (2, 64, 6, 5) and keypoints.first.abs().sum() == 0
    assert network.predict_mask(torch.rand(2, 64, 6, 5), keypoints).shape == (2, 48, 40)


def test_the_mask_depends_on_keypoints_and_on_features():
    torch.manual_seed(0)
    network = HandGenerator(64)
    keypoints = [network(torch.rand(1, CHANNELS, DETAIL * 3, DETAIL * 3)) for _ in range(2)]
    features = torch.rand(2, 1, 64, 3, 3)
    mask = network.predict_mask(features[0], keypoints[0])
    assert not torch.allclose(mask, network.predict_mask(features[0], keypoints[1]))
    assert not torch.allclose(mask, network.predict_mask(features[1], keypoints[0]))


def test_the_mask_loss_prefers_the_truth():
    target = (torch.rand(3, 16, 16) > 0.6).float()
    confident_logits = 20 * (2 * target - 1)
    assert (mask_loss(confident_logits, target) < 1e-3).all()
    assert (mask_loss(-confident_logits, target) > mask_loss(0 * confident_logits, target)).all()


def test_low_rank_changes_begin_as_none_and_leave_the_weights_frozen():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 16, 5))
    x = torch.rand(2, 4, 4, 4)
    frozen_output = network(x)
    add_low_rank(network, 3)
    assert torch.equal(network(x), frozen_output)
    trained = [name for name, p in network.named_parameters() if p.requires_grad]
    assert len(trained) == 4 and all(name.endswith((".up", ".down")) for name in trained)
    for name, p in network.named_parameters():
        if name.endswith(".up"):
            p.data.normal_()
    assert not torch.allclose(network(x), frozen_output)


def test_low_rank_changes_come_back_from_what_was_saved():
    torch.manual_seed(0)
    unets = [networks.build_unet() for _ in range(2)]
    for unet in unets:
        add_low_rank(unet, 2, r".*to_q|conv_in")
    for name, p in unets[0].named_parameters():
        if name.endswith(".up"):
            p.data.normal_()
    saved = low_rank_tensors(unets[0])
    set_low_rank(unets[1], saved)
    restored = low_rank_tensors(unets[1])
    assert saved.keys() == restored.keys()
    assert all(torch.equal(saved[key], restored[key]) for key in saved)
    with pytest.raises(ValueError, match="expected a change of .* found none"):
        set_low_rank(unets[1], {})
