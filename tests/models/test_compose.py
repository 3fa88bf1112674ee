"""Test the invariants of shares and of the mix of streams."""

import math

import pytest
import torch
from vitruvian.models import body_masks, compose, compose_drawing, outfit, pose, pose_drawing


def occupied(n=3, side=12):
    g = torch.Generator().manual_seed(0)
    return (torch.rand(n, side, side, generator=g) - 0.4).clamp(min=0)


@pytest.mark.parametrize("scene", [False, True])
@pytest.mark.parametrize("size", [(12, 12), (6, 6), (5, 7), (1, 1)])
def test_shares_sum_to_one_on_every_grid(scene, size):
    for shares in (
        compose.hard_shares(occupied(), [0, 0, 0], scene=scene),
        compose.soft_shares(occupied(), scene=scene),
    ):
        total = compose.resize_shares(shares, *size).sum(0)
        torch.testing.assert_close(total, torch.ones_like(total))


def slowly_feathered(share, sigma):
    """Blur [h, w] point by point, in doubles, with a kernel that ends at three sigma."""
    radius, (height, width) = math.ceil(3 * sigma), share.shape
    steps = range(-radius, radius + 1)
    weights = [math.exp(-0.5 * (step / sigma) ** 2) for step in steps]
    blurred = torch.zeros(height, width, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            blurred[y, x] = sum(
                weights[i] * weights[j] / sum(weights) ** 2
                * float(share[min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)])
                for i, dy in enumerate(steps)
                for j, dx in enumerate(steps)
            )  # fmt: skip
    return blurred


@pytest.mark.parametrize("feather", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("size", [(12, 12), (9, 4), (1, 1)])
def test_feathered_shares_still_sum_to_one_and_are_blurred(feather, size):
    g = torch.Generator().manual_seed(3)
    occupancy = torch.rand(3, *size, generator=g)
    frames = [compose.hard_shares(occupancy, [0, 0, 0]), compose.soft_shares(1 - occupancy)]
    shares = torch.cat(frames, 1)
    feathered = compose.feather_shares(shares, feather)
    assert feathered.shape == shares.shape
    torch.testing.assert_close(feathered.sum(0), torch.ones_like(feathered[0]))
    expected = slowly_feathered(shares[1, 1, 0], feather * max(size) / 3)
    torch.testing.assert_close(feathered[1, 1, 0].double(), expected, atol=1e-6, rtol=1e-5)


def test_a_feather_of_0_leaves_the_shares_as_they_are():
    shares = compose.hard_shares(occupied(), [0, 0, 0])
    assert compose.feather_shares(shares, 0.0) is shares


def test_a_border_gets_softer_only_as_far_as_the_feather_reaches():
    left = torch.zeros(2, 20, 40)
    left[0, :, :20], left[1, :, 20:] = 1, 1
    feathered = compose.feather_shares(compose.hard_shares(left, [0, 0]), 0.1)[0, 0, 0]
    assert (feathered[:, :16] > 0.9999).all() and (feathered[:, 24:] < 1e-4).all()
    assert (feathered[:, 19] > 0.5).all() and (feathered[:, 19] < 0.7).all()


def test_the_scene_gets_its_share_of_every_place():
    occupancy = occupied()
    for scene in (False, True):
        shares = compose.hard_shares(occupancy, [0, 0, 0], scene=scene)
        mixed = compose.share_with_scene(shares, 0.25, scene)
        torch.testing.assert_close(mixed[:3], 0.75 * shares[:3])
        torch.testing.assert_close(mixed[3], 1 - mixed[:3].sum(0))
        assert len(mixed) == 4 and mixed[3].min() >= 0.25
        everything = compose.share_with_scene(shares, 1.0, scene)
        assert not everything[:3].any() and (everything[3] == 1).all()


@pytest.mark.parametrize("scene", [False, True])
def test_a_scene_share_of_0_leaves_the_shares_as_they_are(scene):
    shares = compose.soft_shares(occupied(), scene=scene)
    assert compose.share_with_scene(shares, 0.0, scene) is shares


def test_a_tie_goes_by_order_then_to_the_smaller_then_to_the_first():
    masks = torch.zeros(2, 4, 4)
    masks[0], masks[1, :2] = 1, 1  # the second covers less
    assert compose.hard_shares(masks, [0, 0])[1, 0, 0, 0, 0] == 1
    assert compose.hard_shares(masks, [1, 0])[0, 0, 0, 0, 0] == 1
    alike = torch.ones(2, 4, 4)
    assert compose.precedence(alike, [0, 0]) == [0, 1]
    assert (compose.soft_shares(alike) == 0.5).all()


def test_empty_cells_belong_to_all_people_or_to_the_scene():
    empty = torch.zeros(3, 4, 4)
    for shares in (compose.hard_shares(empty, [0] * 3), compose.soft_shares(empty)):
        torch.testing.assert_close(shares, torch.full_like(shares, 1 / 3))
    for shares in (
        compose.hard_shares(empty, [0] * 3, scene=True),
        compose.soft_shares(empty, scene=True),
    ):
        torch.testing.assert_close(shares[-1], torch.ones_like(shares[-1]), atol=1e-3, rtol=0)


def test_swapping_people_swaps_their_shares():
    occupancy = occupied()
    order = torch.tensor([2, 0, 1])
    for shares in (lambda o: compose.hard_shares(o, [0] * 3), compose.soft_shares):
        assert torch.equal(shares(occupancy[order]), shares(occupancy)[order])


def test_composing_equal_streams_changes_nothing():
    shares = compose.soft_shares(occupied())
    h = torch.randn(2, 8, 12, 12)
    torch.testing.assert_close(compose.compose_features(h.repeat(3, 1, 1, 1), shares), h)
    tokens = h.flatten(2).mT
    mixed = compose.compose_tokens(tokens.repeat(3, 1, 1), shares, 12, 12)
    torch.testing.assert_close(mixed, tokens)


def test_tokens_are_composed_as_their_grid_is():
    shares = compose.hard_shares(occupied(), [0, 0, 0])
    h = torch.randn(6, 8, 6, 6)
    mixed = compose.compose_tokens(h.flatten(2).mT, shares, 6, 6)
    torch.testing.assert_close(mixed.mT.unflatten(2, (6, 6)), compose.compose_features(h, shares))


def test_only_the_coarsest_residuals_stay_private():
    fine, coarse = torch.randn(2, 4, 12, 12), torch.randn(2, 4, 3, 3)
    assert compose.are_shared([fine, None, coarse, coarse]) == [True, False, False, False]
    assert compose.are_shared([None, None]) == [False, False]


def people(n):
    body = torch.rand(n, 18, 3).clamp(min=0.1) * torch.tensor([20.0, 100.0, 1.0])
    body[..., 0] += 30 * torch.arange(n).flip(0)[:, None]  # listed right to left
    parts = (torch.zeros(n, k, 3) for k in (21, 21, 70, 6))
    return pose.people_from_points([body, *parts], 128, 128)


def test_instances_find_their_person_from_the_left():
    both_people = people(2)
    instances = [compose.Instance(None, 2), compose.Instance(None, 1)]
    assert torch.equal(compose.instance_people(instances, both_people).body, both_people.body)


@pytest.mark.parametrize(
    "numbers, message",
    [
        ([1], "person 2 of the pose .* has no instance"),
        ([1, 3], "the pose has 2 people"),
        ([1, 1], "more than one instance"),
        ([1, 0], "neither a person nor a mask"),
    ],
)
def test_wrong_numbers_say_how_to_correct_them(numbers, message):
    with pytest.raises(ValueError, match=message):
        compose.instance_people([compose.Instance(None, n) for n in numbers], people(2))


def test_the_mask_of_an_instance_times_its_weight_is_the_area():
    person = people(1)
    half = torch.zeros(1, 10, 10)
    half[..., :5] = 1
    instance = compose.Instance(None, 1, half, weight=0.5)
    area = compose.instance_areas([instance], person, 64, 64, 0.05)
    assert area.shape == (1, 64, 64)
    assert (area[0, :, :20] == 0.5).all() and not area[0, :, 44:].any()


def test_a_pose_covers_another_canvas_as_the_host_crops_a_control_image():
    person = people(1)
    wide = pose.cover_canvas(person, 256, 128)
    assert (wide.width, wide.height) == (256, 128)
    torch.testing.assert_close(wide.body[..., 0], person.body[..., 0] * 2)
    torch.testing.assert_close(wide.body[..., 1], person.body[..., 1] * 2 - 64)


@pytest.mark.parametrize("size", [(200, 300), (300, 200), (64, 64)])
def test_every_drawing_places_a_pose_as_compose_does(size):
    """Skeletons, masks and maps of a pose, on an image of other proportions than its canvas."""
    one = people(1)
    placed = pose.cover_canvas(one, *size)
    drawn = pose_drawing.draw_people(one, *size)
    assert torch.equal(drawn, compose.draw_skeleton(one, compose.MERGED, *size))
    assert torch.equal(drawn, pose_drawing.draw_people(placed, *size))
    edge = {"dilation": 0.03, "feather": 0.0}
    masks = body_masks.person_masks(one, *size, **edge)
    assert torch.equal(masks, body_masks.person_masks(placed, *size, **edge))
    clothes = outfit.Outfit()
    labels = outfit.map_from_pose(one, clothes, *size)
    assert torch.equal(labels, outfit.map_from_pose(placed, clothes, *size))
    merged = pose.merge(pose.no_people(*size), one)
    assert torch.equal(merged.body, placed.body)


def test_the_drawing_of_shares_shows_every_owner():
    owned = torch.zeros(2, 64, 64)
    owned[0, :, :30], owned[1, :, 34:] = 1, 1
    image = compose_drawing.draw_shares(owned, torch.zeros(64, 64, 3))
    assert image.shape == (64, 64, 3)
    assert not torch.allclose(image[5, 5], image[5, 60])
    assert image[5, 32].max() < 0.15


def test_names_and_shares_are_written_inside_the_own_area():
    """Each change of one name changes the area of its person, and no other place."""
    owned = torch.zeros(2, 128, 256)
    owned[0, :, :120], owned[1, :, 136:] = 1, 1

    def drawn(*names):
        return compose_drawing.draw_shares(owned, torch.zeros(128, 256, 3), names)

    numbers, named = drawn(), drawn("a man with long grey hair and a hat", "")
    changed = (numbers != named).any(-1)
    assert changed[:, :120].any() and changed[:, 136:].any()  # both have a share
    with_name, without = drawn("a man with long grey hair", ""), drawn("", "")
    changed = (with_name != without).any(-1)
    assert changed[:, :124].any() and not changed[:, 124:].any()
    assert torch.equal(drawn("\u7537\u4eba", ""), without)  # the font has no such letters
    assert torch.equal(drawn("Jos\u00e9", ""), drawn("Jose", ""))
