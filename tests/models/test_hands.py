"""Test which hands are found, their masks, their squares and the preserved border."""

import math

import pytest
import torch
from vitruvian.models import hands, pose
from vitruvian.models.hands import LEFT, RIGHT, Square


def open_hand(x, y, size=60.0, mirrored=False):
    """21 points, fingers up, the wrist at (x, y)."""
    points = [(0.0, 0.0)]
    for finger, (aside, root) in enumerate(
        ((-0.35, 0.25), (-0.17, 0.48), (0.0, 0.5), (0.13, 0.48), (0.26, 0.42))
    ):
        for joint in range(4):
            points.append((aside * (1 + 0.15 * joint), root + joint * (0.12 if finger else 0.1)))
    flip = -1 if mirrored else 1
    return torch.tensor([(x + flip * a * size, y - b * size, 1.0) for a, b in points])


def person(left=None, right=None, wrists=((150.0, 150.0), (50.0, 150.0)), width=200, height=200):
    body = torch.zeros(1, 18, 3)
    for index, place in zip((pose.L_WRIST, pose.R_WRIST), wrists, strict=True):
        if place is not None:
            body[0, index] = torch.tensor([*place, 1.0])
    none = torch.zeros(21, 3)
    return pose.people_from_points(
        (
            body,
            (none if left is None else left)[None],
            (none if right is None else right)[None],
            torch.zeros(1, 70, 3),
            torch.zeros(1, 6, 3),
        ),
        width,
        height,
    )


def sides(people, side=None):
    return [hand.side for hand in hands.find_hands(people, side)]


def test_larger_hands_come_first_and_a_side_can_be_chosen():
    people = person(open_hand(150, 150, 80), open_hand(50, 150, 60))
    assert sides(people) == [LEFT, RIGHT]
    assert sides(people, RIGHT) == [RIGHT]


def test_confused_hands_change_sides():
    swapped = person(left=open_hand(50, 150), right=open_hand(150, 150))
    wrists = {hand.side: float(hand.points[0, 0]) for hand in hands.find_hands(swapped)}
    assert wrists == {LEFT: 150.0, RIGHT: 50.0}
    twice = person(left=open_hand(50, 150), right=open_hand(52, 150))  # one hand, reported twice
    (hand,) = hands.find_hands(twice)
    assert hand.side == RIGHT and float(hand.points[0, 0]) == 52.0


def test_a_missing_wrist_comes_from_the_body_or_the_hand_is_left_out():
    points = open_hand(50, 150)
    points[0] = 0
    (hand,) = hands.find_hands(person(right=points))
    assert hand.points[0].tolist() == [50.0, 150.0, 1.0]
    assert not hands.find_hands(person(right=points, wrists=(None, None)))


def test_tiny_hands_and_hands_of_two_points_are_left_out():
    assert not hands.find_hands(person(right=open_hand(50, 150, hands.SMALLEST_HAND / 2)))
    points = open_hand(50, 150)
    points[2:] = 0
    assert not hands.find_hands(person(right=points))


def test_the_size_is_that_of_the_open_hand_even_of_a_fist():
    fist = open_hand(50, 150, 60)
    fist[6:9] = fist[5]  # fingers curled onto their knuckles
    fist[10:13] = fist[9]
    assert 0.8 * 60 < hands.hand_size(fist) < 1.3 * 60
    assert 0.8 * 60 < hands.hand_size(open_hand(50, 150, 60)) < 1.3 * 60


def test_a_mask_covers_its_keypoints_and_not_the_gaps_between_spread_fingers():
    points = open_hand(100, 180, 150)
    mask = hands.hand_mask(points, 200, 200, thickness=0.04)
    for x, y, _ in points.tolist():
        assert mask[min(199, round(y)), round(x)] == 1
    between = (points[7, :2] + points[11, :2]) / 2  # index and middle finger
    assert mask[round(float(between[1])), round(float(between[0]))] == 0
    wider = hands.hand_mask(points, 200, 200, thickness=0.04, wrist=0.3)
    assert (wider >= mask).all() and wider.sum() > mask.sum()


def test_a_hand_beyond_the_edge_is_cut_off():
    mask = hands.hand_mask(open_hand(5, 100), 200, 200)
    assert 0 < mask.sum() < hands.hand_mask(open_hand(100, 100), 200, 200).sum()
    assert hands.hand_mask(open_hand(-500, 100), 200, 200).sum() == 0


def test_cleaning_fills_holes_and_drops_specks():
    mask = torch.zeros(40, 40)
    mask[5:25, 5:25] = 0.9
    mask[12:15, 12:15] = 0.0
    mask[35, 35] = 1.0
    cleaned = hands.clean_mask(mask)
    assert cleaned[5:25, 5:25].all() and cleaned.sum() == 400
    assert hands.clean_mask(torch.zeros(8, 8)).sum() == 0


@pytest.mark.parametrize("reach", [0, 3, 12])
def test_distances_are_euclidean(reach):
    inside = torch.rand(3, 1, 17, 23, generator=torch.Generator().manual_seed(1)) > 0.97
    distances = hands.distance_map(inside, reach)
    at = torch.stack(torch.meshgrid(torch.arange(17), torch.arange(23), indexing="ij"), -1).float()
    for cells, distance in zip(inside[:, 0], distances[:, 0], strict=True):
        slow = torch.cdist(at.reshape(-1, 2), at[cells]).amin(1).reshape(17, 23)
        near = slow <= reach
        torch.testing.assert_close(distance[near], slow[near])
        assert (distance[~near] > reach).all()


def test_the_preserved_border_shrinks_to_the_mask():
    mask = torch.ones(1, 4, 24, 24)
    mask[..., 10:14, 9:15] = 0
    mask[..., 9, 9:15] = 0.7  # a soft rim
    widths = [hands.border_width(k / 20, 5.0, 0.2, 0.8) for k in range(21)]
    masks = [hands.expand_mask(mask, width, 5.0) for width in widths]
    assert widths[:5] == [5.0] * 5 and widths[-4:] == [0.0] * 4
    assert all((a <= b).all() for a, b in zip(masks, masks[1:], strict=False))
    assert torch.equal(masks[-1], mask)
    assert masks[0].sum() < masks[8].sum() < mask.sum()


@pytest.mark.parametrize("upright", [False, True])
def test_a_hand_that_is_cut_out_and_inserted_is_where_it_was(upright):
    g = torch.Generator().manual_seed(2)
    coarse = torch.rand(1, 3, 9, 12, generator=g)
    smooth = torch.nn.functional.interpolate(coarse, (90, 120), mode="bicubic")
    smooth = smooth[0].movedim(0, -1).clamp(0, 1)
    points = open_hand(70, 60, 40)
    turn = torch.tensor([[math.cos(0.5), math.sin(0.5)], [-math.sin(0.5), math.cos(0.5)]])
    points[:, :2] = (points[:, :2] - points[0, :2]) @ turn + points[0, :2]
    square = hands.square_around(points, 0.2, upright=upright)
    size = 96
    image = hands.cut_square(smooth, square, size)
    moved = hands.to_square(points, square, size)
    assert ((moved[:, :2] > 0) & (moved[:, :2] < size)).all()
    if upright:
        assert abs(float(moved[1:, 0].mean() - moved[0, 0])) < 1e-3
    mask = torch.zeros(size, size)
    mask[8:-8, 8:-8] = 1
    canvas = torch.zeros_like(smooth)
    restored, hand_area, ring = hands.insert_hands(canvas, [square], image[None], mask[None], 0.0)
    inside = hands.distance_map(hand_area < 0.5, 3) > 2
    assert inside.sum() > 300
    assert float((restored - smooth)[inside].abs().max()) < 0.05
    assert torch.equal(ring, 1 - hand_area)


def test_room_inpaints_a_ring_and_without_hands_nothing_changes():
    canvas = torch.rand(64, 64, 3)
    square = Square(32, 32, 20)
    hand, mask = torch.zeros(1, 40, 40, 3), torch.ones(1, 40, 40)
    placed, hand_area, ring = hands.insert_hands(canvas, [square], hand, mask, 0.25)
    assert hand_area.sum() == 400 and (hand_area * ring).sum() == 0
    assert 0 < ring.sum() < 1200
    assert torch.equal(placed[ring == 1], canvas[ring == 1])
    unchanged, no_hands, no_ring = hands.insert_hands(canvas, [], hand[:0], mask[:0], 0.0)
    assert torch.equal(unchanged, canvas) and no_hands.sum() == no_ring.sum() == 0


def test_hands_keep_the_background_they_were_generated_with():
    square = Square(32, 32, 40)
    surroundings = hands.hand_surroundings([square], torch.full((1, 40, 40, 3), 0.7), 64, 60)
    inside = torch.zeros(60, 64, dtype=torch.bool)
    inside[12:52, 12:52] = True
    assert torch.allclose(surroundings[inside], torch.tensor(0.7))
    assert (surroundings[~inside] == hands.GRAY).all()
    assert (hands.hand_surroundings([], torch.zeros(0, 4, 4, 3), 8, 8) == hands.GRAY).all()


def test_of_overlapping_hands_the_first_is_on_top():
    canvas = torch.zeros(64, 64, 3)
    squares = [Square(30, 32, 20), Square(38, 32, 20)]
    images = torch.stack([torch.full((20, 20, 3), 0.2), torch.full((20, 20, 3), 0.8)])
    placed, hand_area, _ = hands.insert_hands(canvas, squares, images, torch.ones(2, 20, 20), 0.0)
    assert float(placed[32, 34, 0]) == pytest.approx(0.2)
    assert float(placed[32, 45, 0]) == pytest.approx(0.8)
    assert hand_area.sum() == 20 * 28


def test_pasting_keeps_the_core_and_matches_colors():
    base, top = torch.full((40, 40, 3), 0.3), torch.full((40, 40, 3), 0.7)
    mask = torch.zeros(40, 40)
    mask[10:30, 10:30] = 1
    hard = hands.paste_over(base, top, mask, feather=0, color=0)
    assert torch.equal(hard[mask > 0], top[mask > 0])
    assert torch.equal(hard[mask == 0], base[mask == 0])
    soft = hands.paste_over(base, top, mask, feather=4, color=0)
    assert float(soft[20, 20, 0]) == pytest.approx(0.7) and 0.3 < float(soft[10, 20, 0]) < 0.5
    assert torch.equal(soft[mask == 0], base[mask == 0])
    torch.testing.assert_close(hands.paste_over(base, top, mask, feather=0, color=1.0), base)
    empty = hands.paste_over(base, top, torch.zeros(40, 40), feather=4, color=1.0)
    assert torch.equal(empty, base)


def test_every_hand_gets_its_own_color():
    """Two hands, one too red and one too dark: each alone is pasted as both together."""
    torch.manual_seed(0)
    base, top, mask = torch.rand(64, 96, 3) * 0.2 + 0.4, torch.rand(64, 96, 3) * 0.2 + 0.4, []
    for columns, shift in ((slice(10, 30), (0.2, 0.0, 0.0)), (slice(55, 85), (-0.3, -0.3, -0.3))):
        hand_mask = torch.zeros(64, 96)
        hand_mask[20:44, columns] = 1
        hand_mask[18:20, columns] = 0.3  # a soft border
        top[:, columns] += torch.tensor(shift)
        mask.append(hand_mask)
    for feather in (0, 5):
        style = {"feather": feather, "color": 0.8}
        both = hands.paste_over(base, top, mask[0] + mask[1], **style)
        apart = hands.paste_over(base, top, mask[0], **style)
        apart = hands.paste_over(apart, top, mask[1], **style)
        torch.testing.assert_close(both, apart)


def test_boxes_keep_their_proportions_on_an_image_of_another_shape():
    """A square's canvas covers the image, as a pose's does."""
    box = {"x": 20, "y": 20, "width": 20, "height": 20, "canvas_width": 100, "canvas_height": 100}
    ((square,),) = hands.read_squares([[box]], 200, 300)
    assert square == (3 * 30 - 50, 3 * 30, 60, 0.0)
    people = pose.no_people(100, 100)._replace(body=torch.tensor([[[30.0, 30, 1]] * 18]))
    assert pose.cover_canvas(people, 200, 300).body[0, 0].tolist() == [square.x, square.y, 1]
