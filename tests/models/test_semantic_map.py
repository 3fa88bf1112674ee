"""Semantic pose maps against slow references: colors, masks, shares, growth, skeletons."""

import math

import pytest
import torch
from vitruvian.models import outfit as outfits
from vitruvian.models import pose
from vitruvian.models import semantic_map as ours
from vitruvian.models.outfit import Outfit, map_from_pose
from vitruvian.models.semantic_map import from_colors, part_mask, shares

BODY = {  # right is the left of the viewer: the person faces the camera
    pose.NOSE: (256, 80), pose.NECK: (256, 140), pose.R_SHOULDER: (210, 142),
    pose.R_ELBOW: (190, 210), pose.R_WRIST: (180, 270), pose.L_SHOULDER: (302, 142),
    pose.L_ELBOW: (322, 210), pose.L_WRIST: (332, 270), pose.R_HIP: (228, 280),
    pose.R_KNEE: (225, 370), pose.R_ANKLE: (222, 460), pose.L_HIP: (284, 280),
    pose.L_KNEE: (287, 370), pose.L_ANKLE: (290, 460), pose.R_EYE: (246, 70), pose.L_EYE: (266, 70),
    pose.R_EAR: (236, 76), pose.L_EAR: (276, 76),
}  # fmt: skip
EYES_AND_NOSE = (pose.NOSE, pose.R_EYE, pose.L_EYE)
TOP, SKIN, PANTS = ours.TOP, ours.SKIN, ours.PANTS


def people(*shifts, without=(), grow=1.0, moved=None):
    """A standing person, once per shift to the right."""
    body = torch.zeros(len(shifts), 18, 3)
    for number, shift in enumerate(shifts):
        for joint, (x, y) in {**BODY, **(moved or {})}.items():
            if joint not in without:
                body[number, joint] = torch.tensor((x * grow + shift, y * grow, 1.0))
    empty = pose.no_people(512, 512)
    parts = (torch.zeros(len(shifts), *part.shape[1:]) for part in empty[1:5])
    return pose.people_from_points((body, *parts), 512, 512)


def draw_map(outfit=None, size=(512, 512), **who):
    return map_from_pose(people(0, **who), outfit or Outfit(), *size)[0]


def parts_of(labels):
    return {ours.CLASSES[part] for part in labels.unique().tolist()} - {"background"}


def random_map(b=2, h=9, w=13, seed=0, classes=24):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(classes, (b, h, w), generator=generator).to(torch.uint8)


# classes and colors


def test_the_classes_are_those_of_deepfashion():
    assert len(ours.CLASSES) == 24 and ours.TIE == 23
    names = {name.split()[0].upper(): number for number, name in enumerate(ours.CLASSES)}
    assert all(getattr(ours, name) == number for name, number in names.items())
    assert [ours.part_named(name) for name in ours.CLASSES] == list(range(24))
    assert ours.part_named(" Wrist_Wearing ") == ours.WRIST
    with pytest.raises(ValueError, match="no part 'hat'.*headwear"):
        ours.part_named("hat")


def test_the_palette_s_colors_are_far_apart():
    assert ours.PALETTE.shape == (24, 3) and ours.PALETTE[ours.BACKGROUND].tolist() == [0, 0, 0]
    apart = torch.cdist(ours.PALETTE.float(), ours.PALETTE.float()) + 1e3 * torch.eye(24)
    assert apart.min() >= 80


@pytest.mark.parametrize("palette", [ours.PALETTE, ours.GRAY_LEVELS])
def test_colors_are_read_back(palette):
    labels = random_map(2, 16, 24)
    image = palette[labels.long()].float() / 255
    read = from_colors(image, palette, 0.4)
    assert read.dtype == torch.uint8 and torch.equal(read, labels)
    assert torch.equal(from_colors(torch.cat((image, image[..., :1]), -1), palette, 1), labels)
    assert torch.equal(ours.color_image(labels), ours.PALETTE[labels.long()] / 255)


def test_the_nearest_color_counts_up_to_the_tolerance():
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 12, 12, 3, generator=generator)
    expected, far = torch.zeros(12, 12, dtype=torch.uint8), 0
    for y in range(12):
        for x in range(12):
            away = [math.dist((255 * image[0, y, x]).tolist(), c.tolist()) for c in ours.PALETTE]
            far += min(away) > 60
            expected[y, x] = 0 if min(away) > 60 else away.index(min(away))
    assert 10 < far < 134
    assert torch.equal(from_colors(image, ours.PALETTE, 60, background=True)[0], expected)
    with pytest.raises(ValueError, match=f"{far} of 144 pixels .* 60 levels .*tolerance"):
        from_colors(image, ours.PALETTE, 60)


def test_custom_palettes():
    palette, parts = ours.read_palette("top: #ff0000\n\n Footwear = 00ff00\nfootwear: #0000FF")
    assert palette.tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0]]
    assert parts == [ours.TOP, ours.FOOTWEAR, ours.FOOTWEAR, ours.BACKGROUND]
    image = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]])[None]
    assert from_colors(image, palette, 1, parts).flatten().tolist() == parts
    assert ours.read_palette("background: #ffffff\ntop: #000000")[1] == [ours.BACKGROUND, ours.TOP]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("top", "'top' is not a part and its color"),
        ("top: red", "'top: red' is not a part"),
        ("top: #ff00", "'top: #ff00' is not"),
        ("hat: #ff0000", "no part 'hat'"),
        ("top: #ff0000\nskirt: #FF0000", "'skirt: #FF0000': top has that color"),
        (" \n", "there are no colors"),
    ],
)
def test_palettes_that_can_not_be_read(text, message):
    with pytest.raises(ValueError, match=message):
        ours.read_palette(text)


# parts


def test_parts_are_added_where_the_mask_is_a_half_or_more():
    labels = random_map(2, 3, 4)
    before = labels.clone()
    mask = torch.tensor([0.0, 0.49, 0.5, 1.0]).expand(2, 3, 4)
    changed = ours.add_part(labels, mask, ours.TIE)
    assert changed.dtype == torch.uint8 and torch.equal(labels, before)
    assert torch.equal(changed[..., :2], labels[..., :2]) and (changed[..., 2:] == ours.TIE).all()


def test_one_map_or_one_mask_goes_with_many():
    labels, masks = random_map(3, 2, 5), torch.eye(3, 10).view(3, 2, 5)
    assert torch.equal(
        ours.add_part(labels[:1], masks, TOP),
        torch.cat([ours.add_part(labels[:1], mask[None], TOP) for mask in masks]),
    )
    assert torch.equal(
        ours.add_part(labels, masks[:1], TOP),
        torch.cat([ours.add_part(frame[None], masks[:1], TOP) for frame in labels]),
    )
    with pytest.raises(ValueError, match="3 maps and 2 masks"):
        ours.add_part(labels, masks[:2], TOP)
    with pytest.raises(ValueError, match="5 x 2 .*10 x 1"):
        ours.add_part(labels, torch.ones(1, 1, 10), TOP)


def test_empty_is_background():
    assert torch.equal(ours.empty_map(torch.ones(2, 3, 4)), torch.zeros(2, 3, 4, dtype=torch.uint8))


# shares


@pytest.mark.parametrize("grid", [(9, 13), (3, 4), (1, 1), (4, 5), (20, 30), (9, 1), (8, 26)])
def test_shares_are_areas(grid):
    labels = random_map(2, 9, 13)
    cell_shares = shares(labels, grid)
    expected = torch.zeros(2, 24, *grid, dtype=torch.float64)
    (h, w), (rows, columns) = labels.shape[1:], grid
    for i in range(rows):
        for j in range(columns):
            for y in range(h):
                for x in range(w):
                    high = min((i + 1) * h / rows, y + 1) - max(i * h / rows, y)
                    wide = min((j + 1) * w / columns, x + 1) - max(j * w / columns, x)
                    if high > 0 and wide > 0:
                        area = high * wide * rows * columns / (h * w)
                        for b in range(2):
                            expected[b, int(labels[b, y, x]), i, j] += area
    torch.testing.assert_close(cell_shares.double(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(cell_shares.sum(1), torch.ones(2, *grid))


def test_shares_on_the_same_grid_are_the_labels():
    labels = random_map(1, 32, 48)
    assert torch.equal(shares(labels, (32, 48)).argmax(1).to(torch.uint8), labels)
    assert shares(labels, (32, 48)).unique().tolist() == [0, 1]


# masks


@pytest.mark.parametrize("grow", [0, 1, 2, 3, 5, -1, -2, 40, -40])
def test_masks_grow_and_shrink_by_pixels(grow):
    labels = torch.zeros(2, 17, 21, dtype=torch.uint8)
    labels[0, 4:12, 3:9], labels[0, 6, 15], labels[1, :, 10:] = TOP, ours.HAIR, ours.HAIR
    mask = part_mask(labels, [TOP, ours.HAIR], grow)
    for b in range(2):
        spots = [(y, x) for y in range(17) for x in range(21)]
        inside = [spot for spot in spots if labels[b][spot]]
        outside = [spot for spot in spots if not labels[b][spot]]
        for spot in spots:
            near = min((math.dist(spot, target) for target in inside), default=math.inf)
            deep = min((math.dist(spot, target) for target in outside), default=math.inf)
            assert mask[b][spot] == (near <= grow if grow >= 0 else deep > -grow)


def test_masks_are_of_the_selected_parts_alone():
    labels = random_map(2, 30, 30)
    mask = part_mask(labels, (ours.BAG, ours.TIE))
    assert mask.dtype == torch.float32
    assert torch.equal(mask, ((labels == ours.BAG) | (labels == ours.TIE)).float())
    assert torch.equal(part_mask(labels, ours.WHOLE_PERSON), (labels > 0).float())
    assert {*ours.WHOLE_PERSON} - {*ours.CLOTHING} == {ours.HAIR, ours.FACE, ours.SKIN}


@pytest.mark.parametrize("grow", [3, -3])
def test_an_empty_and_a_full_mask_stay(grow):
    labels = torch.stack((torch.zeros(8, 9), torch.full((8, 9), TOP))).to(torch.uint8)
    assert part_mask(labels, [TOP], grow).mean((1, 2)).tolist() == [0, 1]


# the legend


def test_the_legend_names_what_occurs():
    labels = torch.zeros(2, 64, 40, dtype=torch.uint8)
    labels[0, :20], labels[1, 40:] = ours.DRESS, ours.HAIR
    image = ours.with_legend(labels)
    assert image.shape[:2] == (2, 384) and image.shape[2] > 240
    large = ours.color_image(labels).repeat_interleave(6, 1).repeat_interleave(6, 2)
    assert torch.equal(image[:, :, :240], large)
    for number, part in enumerate((ours.DRESS, ours.HAIR)):
        legend = (255 * image[number, :, 240:]).round().long()
        listed = [k for k in range(24) if (legend == ours.PALETTE[k]).all(-1).sum() > 40]
        white = [ours.EYEGLASS] * (ours.EYEGLASS in listed)  # the letters' color too
        assert listed == sorted([ours.BACKGROUND, part, *white])


def test_a_legend_of_everything_fits():
    labels = torch.arange(24).to(torch.uint8).view(1, 24, 1).expand(1, 24, 30)
    image = ours.with_legend(labels)
    legend = (255 * image[0, :, -144:]).round().long()
    assert all((legend == color).all(-1).sum() >= 64 for color in ours.PALETTE)
    assert ours.with_legend(random_map(1, 500, 300)).shape[1] == 500


# strokes


def winds(corners, x, y):
    """The slow way: the angle that the polygon turns around a point."""
    turn = 0.0
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        a, b = math.atan2(ay - y, ax - x), math.atan2(by - y, bx - x)
        turn += (b - a + math.pi) % (2 * math.pi) - math.pi
    return abs(turn) > math.pi


def from_segment(a, b, x, y):
    """The slow way: the smallest distance to many points of a segment."""
    return min(
        math.dist((x, y), (a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t))
        for t in (k / 400 for k in range(401))
    )


@pytest.mark.parametrize(
    "corners",
    [
        [(9.3, 7.2)],
        [(3.1, 4.2), (20.4, 15.3)],
        [(4.1, 3.2), (22.3, 6.1), (12.2, 19.4)],
        [(3.2, 3.3), (20.1, 4.4), (23.6, 18.2), (6.3, 20.1)],
        [(-8.2, 3.1), (9.4, 30.2)],
        [(-30.0, -40.0), (-20.0, -35.0)],
    ],
)
@pytest.mark.parametrize("radius", [0.3, 2.6])
def test_a_stroke_is_what_is_inside_or_near(corners, radius):
    labels = torch.zeros(24, 28, dtype=torch.uint8)
    outfits._fill(labels, torch.tensor(corners), radius, TOP)
    for y in range(24):
        for x in range(28):
            edges = list(zip(corners, corners[1:] + corners[:1], strict=True))
            near = min(from_segment(a, b, x, y) for a, b in edges)
            if abs(near - radius) > 0.05:  # the slow way steps over the very edge
                inside = len(corners) > 2 and winds(corners, x, y)
                assert labels[y, x] == TOP * (near < radius or inside), (x, y)


def test_corners_in_any_order_are_the_same_polygon():
    corners = torch.tensor([(3.0, 3.0), (20.0, 4.0), (22.0, 18.0), (6.0, 20.0)])
    maps = []
    for order in ([0, 1, 2, 3], [0, 2, 1, 3], [2, 3, 0, 1]):
        maps.append(torch.zeros(24, 28, dtype=torch.uint8))
        outfits._fill(maps[-1], corners[order], 1.0, TOP)
    assert torch.equal(maps[0], maps[1]) and torch.equal(maps[0], maps[2])
    assert maps[0][11, 12] == TOP


# skeletons


def at(labels, x, y):
    return ours.CLASSES[int(labels[round(y), round(x)])]


def test_parts_lie_on_the_skeleton():
    labels = draw_map()
    assert labels.dtype == torch.uint8
    places = {
        (256, 200): "top",
        (195, 190): "top",
        (182, 260): "top",
        (226, 330): "pants",
        (288, 420): "pants",
        (256, 282): "pants",
        (221, 478): "footwear",
        (177, 288): "skin",
        (256, 80): "face",
        (256, 38): "hair",
        (256, 118): "skin",
        (256, 400): "background",
        (20, 20): "background",
        (256, 505): "background",
    }
    assert {place: at(labels, *place) for place in places} == places


@pytest.mark.parametrize(
    ("outfit", "expected"),
    [
        (Outfit(), {"top", "pants", "footwear", "hair", "face", "skin"}),
        (Outfit("outer", "leggings"), {"outer", "leggings", "footwear", "hair", "face", "skin"}),
        (
            Outfit(outfits.OPEN, "skirt", shoes=False),
            {"outer", "top", "skirt", "hair", "face", "skin"},
        ),
        (Outfit("dress", "nothing", "none", shoes=False), {"dress", "face", "skin"}),
        (
            Outfit("dress", "leggings", "none", long_legs=False, shoes=False),
            {"dress", "face", "skin"},
        ),  # short leggings stay below the dress
        (Outfit("rompers", "skirt", "none"), {"rompers", "footwear", "face", "skin"}),
        (Outfit("nothing", "nothing", "none", shoes=False), {"face", "skin"}),
        (
            Outfit("nothing", "pants", hat=True, glasses=True),
            {"pants", "headwear", "eyeglass", "footwear", "hair", "face", "skin"},
        ),
    ],
)
def test_an_outfit_is_what_is_drawn(outfit, expected):
    assert parts_of(draw_map(outfit)) == expected


def test_every_outfit_can_be_drawn():
    for upper in outfits.UPPERS:
        for lower in outfits.LOWERS:
            for hair in outfits.HAIRS:
                for switch in (False, True):
                    labels = draw_map(Outfit(upper, lower, hair, *[switch] * 5), (64, 64))
                    assert (labels > 0).sum() > 200


def test_sleeves_and_legs_have_two_lengths():
    places = {"elbow": (190, 212), "wrist": (182, 262), "knee": (225, 372), "shin": (223, 430)}
    long, short = draw_map(), draw_map(Outfit(long_sleeves=False, long_legs=False))
    assert [at(long, *p) for p in places.values()] == ["top", "top", "pants", "pants"]
    assert [at(short, *p) for p in places.values()] == ["skin"] * 4
    assert at(short, 206, 155) == "top" and at(short, 226, 310) == "pants"
    skirts = [draw_map(Outfit(lower="skirt", long_legs=legs)) for legs in (True, False)]
    assert [at(skirt, 256, 400) for skirt in skirts] == ["skirt", "background"]
    assert [at(skirt, 256, 330) for skirt in skirts] == ["skirt", "skirt"]


def test_a_skirt_is_wider_below():
    skirt = draw_map(Outfit(lower="skirt")) == ours.SKIRT
    assert skirt[410].sum() > skirt[300].sum() > 60


def test_arms_are_in_front_and_the_far_one_behind():
    across = {pose.R_ELBOW: (215, 220), pose.R_WRIST: (270, 215)}
    bare = Outfit(long_sleeves=False)
    assert at(draw_map(bare, moved=across), 250, 217) == "skin"
    hidden = draw_map(bare, moved=across, without=(pose.R_EAR,))  # the right side is turned away
    assert at(hidden, 250, 217) == "top"
    assert at(draw_map(bare, moved=across, without=(pose.L_EAR,)), 250, 217) == "skin"
    arm = {pose.L_ELBOW: (297, 220), pose.L_WRIST: (245, 215)}
    assert at(draw_map(bare, moved=arm, without=(pose.R_EAR,)), 262, 216) == "skin"
    assert at(draw_map(bare, moved=arm, without=(pose.L_EAR,)), 262, 216) == "top"


@pytest.mark.parametrize(
    ("without", "missing_parts"),
    [
        ((pose.R_WRIST, pose.L_WRIST), set()),
        ((pose.R_ANKLE, pose.L_ANKLE), {"footwear"}),
        ((pose.R_KNEE, pose.L_KNEE, pose.R_ANKLE, pose.L_ANKLE), {"footwear"}),
        ((*EYES_AND_NOSE, pose.R_EAR, pose.L_EAR), {"face", "hair"}),
        (EYES_AND_NOSE, {"face"}),
        ((pose.R_SHOULDER, pose.L_SHOULDER, pose.R_ELBOW, pose.L_ELBOW), {"top"}),
    ],
)
def test_missing_joints_leave_parts_out(without, missing_parts):
    assert parts_of(draw_map(without=without)) == parts_of(draw_map()) - missing_parts


def test_half_a_person_keeps_the_chest():
    legs = (pose.R_HIP, pose.L_HIP, pose.R_KNEE, pose.L_KNEE, pose.R_ANKLE, pose.L_ANKLE)
    assert at(draw_map(without=legs), 256, 200) == "top"


def test_a_person_from_behind_has_hair_and_no_face():
    labels = draw_map(Outfit(hair="long"), without=EYES_AND_NOSE)
    assert at(labels, 256, 80) == at(labels, 256, 110) == "hair"
    assert at(draw_map(Outfit(hair="none"), without=EYES_AND_NOSE), 256, 70) == "skin"
    front = draw_map(Outfit(hair="long"))
    assert at(front, 256, 85) == "face"
    assert (front == ours.HAIR).sum() > (draw_map() == ours.HAIR).sum()


def test_the_head_leans_with_the_neck():
    turned = {joint: (y + 176, 512 - 176 - x) for joint, (x, y) in BODY.items()}
    lying = draw_map(Outfit(hat=True), moved=turned)
    upright = draw_map(Outfit(hat=True))
    hat = (upright == ours.HEADWEAR).nonzero().float().mean(0)
    lying_hat = (lying == ours.HEADWEAR).nonzero().float().mean(0)
    torch.testing.assert_close(lying_hat[1], hat[0] + 176, atol=1.5, rtol=0)
    torch.testing.assert_close(lying_hat[0], 336 - hat[1], atol=1.5, rtol=0)


def test_visible_hands_and_feet_are_drawn():
    who = people(0)
    hand = torch.tensor([(180 - 2 * k, 270 + 3 * k, 1.0) for k in range(21)])
    who.right_hand[0] = hand
    who.foot[0, 3] = torch.tensor((160.0, 470.0, 1.0))  # right big toe
    labels = map_from_pose(who, Outfit(), 512, 512)[0]
    assert at(labels, 142, 327) == "skin" and at(labels, 166, 470) == "footwear"
    assert at(draw_map(), 142, 327) == at(draw_map(), 166, 470) == "background"


def test_a_map_has_the_requested_size():
    small, large = draw_map(size=(128, 128)), draw_map()
    assert small.shape == (128, 128) and draw_map(size=(200, 90)).shape == (90, 200)
    assert (small == large[2::4, 2::4]).float().mean() > 0.97


def test_several_people_and_the_smaller_in_front():
    two = map_from_pose(people(-120, 120), Outfit(), 512, 512)[0]
    assert at(two, 136, 200) == at(two, 376, 200) == "top"
    child = people(128, grow=0.5)
    adult_and_child = pose.merge(people(0), child)
    for order in ([0, 1], [1, 0]):
        labels = map_from_pose(pose.pick(adult_and_child, order), Outfit(), 512, 512)[0]
        assert at(labels, 256, 40) == "face"  # over the other's hair
    nobody = map_from_pose(pose.no_people(64, 48), Outfit(), 64, 48)
    assert nobody.shape == (1, 48, 64) and not nobody.any()


def test_stray_and_single_points_do_no_harm():
    draw_map(moved={pose.R_WRIST: (1e7, -1e7), pose.L_ANKLE: (-1e9, 3)})
    draw_map(moved=dict.fromkeys(BODY, (100, 100)))
    lone = people(0, without=[joint for joint in BODY if joint != pose.NOSE])
    assert map_from_pose(lone, Outfit(), 64, 64).shape == (1, 64, 64)
