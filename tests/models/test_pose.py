"""Test reading, writing and drawing OpenPose frames, and the masks of bodies."""

import json
import math

import pytest
import torch
from vitruvian.models import body_masks, pose, pose_drawing
from vitruvian.models.pose import POINT_GROUPS, read_frame, write_frame

STANDING = [
    (256, 80), (256, 140), (210, 142), (190, 210), (180, 270), (302, 142), (322, 210), (332, 270),
    (228, 280), (225, 370), (222, 460), (284, 280), (287, 370), (290, 460), (246, 70), (266, 70),
    (236, 76), (276, 76),
]  # fmt: skip


def flat(points, confidence=1.0):
    return [value for x, y in points for value in (x, y, confidence)]


def frame(people=1, shift=0, **parts):
    persons = [
        {"pose_keypoints_2d": flat([(x + i * shift, y) for x, y in STANDING]), **parts}
        for i in range(people)
    ]
    return {"people": persons, "canvas_width": 512, "canvas_height": 512}


def hand(x=180, y=280, size=12):
    fan = [(math.radians(60 * f), 1 + j) for f in range(5) for j in range(4)]
    return [(x, y)] + [(x + size * r * math.sin(a), y + size * r * math.cos(a)) for a, r in fan]


def random_people(n=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for _, count in POINT_GROUPS.values():
        points = torch.rand(n, count, 3, generator=generator)
        points[..., :2] = points[..., :2] * 800 - 150  # some outside the canvas
        visible = torch.rand(n, count, 1, generator=generator) > 0.3
        parts.append(points * visible)
    return pose.people_from_points(parts, 512, 384)


def same(people_1, people_2):
    pairs = zip(people_1[:5], people_2[:5], strict=True)
    return all(torch.equal(a, b) for a, b in pairs) and people_1[5:] == people_2[5:]


# reading and writing


def test_what_is_written_reads_back_exactly():
    people = random_people()
    assert same(read_frame(write_frame(people)), people)
    assert same(read_frame(json.loads(json.dumps(write_frame(people)))), people)


def test_fractions_and_pixels_read_alike():
    pixels = read_frame(frame())
    points = [(x / 512, y / 512) for x, y in STANDING]
    fractions = frame(pose_keypoints_2d=flat(points))
    torch.testing.assert_close(read_frame(fractions).body, pixels.body)


@pytest.mark.parametrize("unit", [1, 512])
def test_points_outside_the_canvas_stay_outside_in_both_conventions(unit):
    points = [(x / 512 * unit, y / 512 * unit + 1.2 * unit) for x, y in STANDING]
    body = read_frame(frame(pose_keypoints_2d=flat(points))).body[0]
    torch.testing.assert_close(body[:, 1] - torch.tensor(STANDING)[:, 1], torch.full((18,), 614.4))


@pytest.mark.parametrize("missing", [None, [], [-1], [[]]])
def test_parts_may_be_missing(missing):
    people = read_frame(frame(hand_left_keypoints_2d=missing, face_keypoints_2d=missing))
    assert same(people, read_frame(frame()))
    assert people.left_hand.shape == (1, 21, 3) and not people.left_hand.any()


def test_missing_points_become_zeros():
    body = flat(STANDING)
    body[2] = 0.0
    body[3:6] = [-1, -1, 0.8]
    points = read_frame(frame(pose_keypoints_2d=body)).body[0]
    assert not points[:2].any() and points[2:, 2].all()


def test_nested_points_read_like_flat_ones():
    nested = [[x, y, 1.0] for x, y in STANDING]
    assert same(read_frame(frame(pose_keypoints_2d=nested)), read_frame(frame()))


def test_faces_of_68_points_are_filled_up():
    face = read_frame(frame(face_keypoints_2d=flat([(9, 9)] * 68))).face[0]
    assert face[:68, 2].all() and not face[68:].any()


def test_body_25_gives_body_and_feet():
    body, feet = STANDING[:8] + [(256, 280)] + STANDING[8:], [(50 + i, 480) for i in range(6)]
    people = read_frame(frame(pose_keypoints_2d=flat(body + feet)))
    assert torch.equal(people.body, read_frame(frame()).body)
    assert people.foot[0, :, 0].tolist() == [50, 51, 52, 53, 54, 55]


def test_people_without_a_point_are_left_out():
    values = frame(2)
    values["people"][0]["pose_keypoints_2d"] = [0.0] * 54
    assert pose.count(read_frame(values)) == 1
    values["people"] = []
    assert pose.count(read_frame(values)) == 0


def test_feet_are_written_only_where_visible():
    foot = flat([(200 + i, 470) for i in range(6)])
    assert "foot_keypoints_2d" not in write_frame(read_frame(frame()))["people"][0]
    written = write_frame(read_frame(frame(foot_keypoints_2d=foot)))
    assert written["people"][0]["foot_keypoints_2d"] == foot


BAD = {
    "text": ("hello", "'people'"),
    "no people": ({"canvas_width": 9, "canvas_height": 9}, "'people' must be a list"),
    "animals": ({"animals": [], "canvas_width": 9, "canvas_height": 9}, "animals"),
    "no size": ({"people": []}, "'canvas_width'"),
    "size 0": ({"people": [], "canvas_width": 0, "canvas_height": 9}, "'canvas_width' is 0"),
    "huge": ({"people": [], "canvas_width": 9, "canvas_height": 10**9}, "16384"),
    "nan size": ({"people": [], "canvas_width": float("nan"), "canvas_height": 9}, "pixels"),
    "yes": ({"people": [], "canvas_width": True, "canvas_height": 9}, "'canvas_width'"),
    "person is text": (frame() | {"people": ["me"]}, "person 1"),
    "16 points": (frame(pose_keypoints_2d=[1.0] * 48), "48 numbers, but 17, 18, 25, 26 or 133 po"),
    "not three": (frame(hand_right_keypoints_2d=[1.0] * 64), "64 numbers, but 21 points"),
    "words": (frame(pose_keypoints_2d=["a"] * 54), "list of numbers"),
    "ragged": (frame(pose_keypoints_2d=[[1, 2, 3], [1]]), "list of numbers"),
    "object": (frame(pose_keypoints_2d={"x": 1}), "list of numbers"),
    "nan": (frame(pose_keypoints_2d=[float("nan")] * 54), "not a number"),
}


@pytest.mark.parametrize("values, message", BAD.values(), ids=BAD)
def test_malformed_frames_say_what_is_wrong(values, message):
    with pytest.raises(ValueError, match=message):
        read_frame(values)


def test_several_frames_and_a_single_one():
    assert [pose.count(p) for p in pose.read_poses([frame(1), frame(2), frame(0)])] == [1, 2, 0]
    assert len(pose.read_poses(frame())) == 1
    with pytest.raises(ValueError, match="frame 2 of 2: 'canvas_width'"):
        pose.read_poses([frame(), {"people": [], "canvas_width": 0, "canvas_height": 9}])
    for empty in (None, [], "pose"):
        with pytest.raises(ValueError, match="list"):
            pose.read_poses(empty)


# files


def test_files_count_on_and_never_overwrite(tmp_path):
    people = random_people()
    (tmp_path / "pose_00002_.json").write_text("mine")
    paths = [pose.save_poses([people, people], tmp_path, "pose", 1) for _ in range(2)]
    assert [path.name for path in paths] == ["pose_00001_.json", "pose_00003_.json"]
    assert (tmp_path / "pose_00002_.json").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 3  # nothing half-written beside them
    assert all(same(loaded, people) for loaded in pose.load_poses(paths[1]))


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space"):
        pose.save_poses([random_people()], tmp_path, "pose", 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "{", "\xff", "[]", "3", "null", '{"people": 1}', "[" * 99999])
def test_malformed_files_are_named(tmp_path, text):
    (tmp_path / "bad.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match="bad.json"):
        pose.load_poses(tmp_path / "bad.json")


# people


def test_left_to_right_and_pick():
    people = read_frame(frame(3, shift=-60))
    assert pose.left_to_right(people) == [2, 1, 0]
    picked = pose.pick(people, [2, 0])
    assert torch.equal(picked.body, people.body[[2, 0]]) and picked.face.shape == (2, 70, 3)
    assert pose.count(pose.pick(people, [])) == 0


def test_merge_scales_the_second_canvas():
    small = pose.scale_to_canvas(read_frame(frame()), 256, 256)
    merged = pose.merge(read_frame(frame()), small)
    assert pose.count(merged) == 2 and merged.width == merged.height == 512
    torch.testing.assert_close(merged.body[1], merged.body[0])
    wide = people_of([(100.0, 60.0), (156.0, 60.0)], 256, 128)
    merged = pose.merge(read_frame(frame()), wide)  # 512 x 512 covers it at the factor 4
    expected = torch.tensor([[400.0 - 256, 240.0], [624.0 - 256, 240.0]])
    torch.testing.assert_close(merged.body[1, :2, :2], expected)


def people_of(points, width, height):
    """One person with these first points of the body."""
    people = read_frame({**frame(), "canvas_width": width, "canvas_height": height})
    body = torch.zeros(1, 18, 3)
    body[0, : len(points)] = torch.tensor([(x, y, 1.0) for x, y in points])
    return people._replace(body=body)


@pytest.mark.parametrize(
    "text, numbers", [("1, 3", [0, 2]), ("2-4", [1, 2, 3]), ("4,1-2, 1", [3, 0, 1]), (" 2 ", [1])]
)
def test_numbers(text, numbers):
    assert pose.parse_numbers(text, 4) == numbers


@pytest.mark.parametrize("text", ["0", "5", "1-5", "3-2", "", "one", "1,,2", "-1", "1.5", "9" * 40])
def test_wrong_numbers_say_how_many_people_there_are(text):
    with pytest.raises(ValueError, match="the pose has 4 people"):
        pose.parse_numbers(text, 4)


def test_keep_confident_drops_uncertain_points():
    people = random_people()
    confident_people = pose.keep_confident(people, 0.5)
    for points, remaining in zip(people[:5], confident_people[:5], strict=True):
        assert torch.equal(remaining, points * (points[..., 2:] >= 0.5))


# drawing


def colors(image):
    return {tuple(c) for c in image.mul(255).round().int().flatten(0, 1).unique(dim=0).tolist()}


def test_colors_are_those_of_openpose():
    first_colors = [(255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0)]
    assert pose_drawing.JOINT_COLORS[:4] == first_colors
    assert pose_drawing.JOINT_COLORS[17] == (255, 0, 85)
    assert pose_drawing.LIMB_COLORS[1] == (153, 51, 0)
    assert len(pose.LIMBS) == 17 and len(pose.BONES) == 20


@pytest.mark.parametrize("size", [(192, 192), (512, 512), (333, 777), (1024, 768)])
def test_joints_and_limbs_have_their_colors(size):
    width, height = size
    people = read_frame(frame())
    image = pose_drawing.draw_people(people, width, height).mul(255).round().int()
    assert image.shape == (height, width, 3)
    scale = max(size) / 512  # the square canvas covers the image, its middle in the image's
    middle = torch.tensor([width / 2, height / 2])
    points = (scale * (people.body[0, :, :2] - 256) + middle).int().tolist()
    limbs = [(points[a], points[b]) for a, b in pose.LIMBS[:12]]
    middles = [[(p + q) // 2 for p, q in zip(*ends, strict=True)] for ends in limbs]
    # the head's discs lie close together
    expected = [*zip(points[2:14], pose_drawing.JOINT_COLORS[2:14], strict=True)]
    expected += zip(middles, pose_drawing.LIMB_COLORS[:12], strict=True)
    inside = [((x, y), color) for (x, y), color in expected if y < height]
    assert len(inside) >= 18
    for (x, y), color in inside:
        assert tuple(image[y, x].tolist()) == color


def test_limbs_are_eight_pixels_wide_at_512_and_grow():
    for size, expected in ((192, 3), (512, 8), (1024, 16)):
        image = pose_drawing.draw_people(read_frame(frame()), size, size)
        row = image[round(325 / 512 * size)].any(-1)  # across both thighs
        assert abs(row.sum().item() / 2 - expected) <= 1.5
    image = pose_drawing.draw_people(read_frame(frame()), 512, 512, line_width=10)
    assert abs(image[325].any(-1).sum().item() / 2 - 20) <= 1.5


def test_missing_points_are_not_drawn():
    body = flat(STANDING)
    body[4 * 3 + 2] = 0  # right wrist
    people = read_frame(frame(pose_keypoints_2d=body))
    used = colors(pose_drawing.draw_people(people, 512, 512))
    assert pose_drawing.JOINT_COLORS[4] not in used and pose_drawing.LIMB_COLORS[3] not in used
    assert pose_drawing.JOINT_COLORS[3] in used and pose_drawing.LIMB_COLORS[2] in used


def test_hands_and_face_can_be_left_out():
    people = read_frame(
        frame(
            hand_right_keypoints_2d=flat(hand()),
            face_keypoints_2d=flat([(236 + i // 2, 90) for i in range(70)]),
        )
    )
    all_colors = colors(pose_drawing.draw_people(people, 512, 512))
    assert pose_drawing.HAND_COLOR in all_colors and pose_drawing.FACE_COLOR in all_colors
    assert pose_drawing.BONE_COLORS[10] in all_colors
    bare = pose_drawing.draw_people(people, 512, 512, hands=False, face=False)
    assert torch.equal(bare, pose_drawing.draw_people(read_frame(frame()), 512, 512))


def test_nobody_and_people_far_outside_give_black():
    assert not pose_drawing.draw_people(pose.no_people(64, 48), 64, 48).any()
    people = read_frame(frame())
    for far in (1e4, 1e30):
        away = people._replace(body=people.body + torch.tensor([far, 0.0, 0.0]))
        assert not pose_drawing.draw_people(away, 64, 64).any()


def test_drawing_over_an_image_does_not_change_it():
    image = torch.rand(64, 64, 3)
    original = image.clone()
    over = pose_drawing.draw_over(image, read_frame(frame()))
    assert torch.equal(image, original) and over.shape == image.shape


# masks


def masks(values=None, size=256, dilation=0.0, feather=0.0):
    people = read_frame(values or frame())
    return body_masks.person_masks(people, size, size, dilation=dilation, feather=feather)


def test_masks_cover_every_limb():
    mask = masks()[0]
    points = torch.tensor(STANDING) / 2
    for a, b in pose.LIMBS:
        x, y = ((points[a] + points[b]) / 2).round().int().tolist()
        assert mask[y, x] == 1
    assert mask[200 // 2, 256 // 2] == 1  # the chest, between the limbs
    assert 0.03 < mask.mean() < 0.25


def test_a_larger_dilation_contains_a_smaller_one():
    for feather in (0.0, 0.02):
        nested = [masks(dilation=d, feather=feather) for d in (0, 0.01, 0.03, 0.1, 0.5)]
        for small, large in zip(nested, nested[1:], strict=False):
            assert (large >= small - 1e-5).all() and large.sum() > small.sum()


def test_feather_softens_within_0_and_1():
    soft, hard = masks(feather=0.02), masks()
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    assert soft.min() >= 0 and soft.max() <= 1
    assert ((soft > 0.05) & (soft < 0.95)).sum() > 200
    assert soft.sum() == pytest.approx(hard.sum().item(), rel=0.05)


def test_a_soft_mask_does_not_fade_at_the_edge_of_the_image():
    lower = frame(pose_keypoints_2d=flat([(x, y + 240) for x, y in STANDING]))
    soft, hard = masks(lower, feather=0.02), masks(lower)
    x = 256 // 2
    assert hard[0, -1, x] == 1 and soft[0, -1, x] > 0.99


def test_the_margin_follows_the_size_of_the_person():
    points = [(128 + x / 2, 128 + y / 2) for x, y in STANDING]
    small = masks(frame(pose_keypoints_2d=flat(points)), 512, dilation=0.05)
    large = masks(size=512, dilation=0.05)
    assert large.sum().item() == pytest.approx(4 * small.sum().item(), rel=0.05)


def test_people_may_overlap_and_the_union_mask_covers_all():
    overlapping = masks(frame(2, shift=20), dilation=0.02)
    assert (overlapping.sum(0) > 1).any()
    assert torch.equal(body_masks.union_mask(overlapping), overlapping.amax(0))
    assert body_masks.union_mask(overlapping[:0]).shape == (256, 256)


def test_half_a_person_keeps_their_chest():
    upper = [v if i // 3 < 8 or i // 3 > 13 else 0 for i, v in enumerate(flat(STANDING))]
    mask = masks(frame(pose_keypoints_2d=upper))[0]
    assert mask[230 // 2, 256 // 2] == 1 and mask[400 // 2].sum() == 0


def test_hands_alone_and_single_points_have_a_mask():
    fingers = {"hand_left_keypoints_2d": flat(hand()), "pose_keypoints_2d": None}
    assert masks(frame(**fingers))[0].sum() > 50
    one = [0.0] * 3 * 3 + [100, 100, 1.0] + [0.0] * 14 * 3
    assert masks(frame(pose_keypoints_2d=one))[0, 50, 50] == 1


def test_the_blur_is_the_same_on_every_device():
    """OpenCV's on the processor, against PyTorch's, which double precision takes. A wide one is
    computed on larger pixels.
    """
    noise = torch.rand(2, 41, 30, generator=torch.Generator().manual_seed(0))
    discs = torch.zeros(2, 300, 200)
    for disc, center in zip(discs, ((60.0, 90.0), (150.0, 230.0)), strict=True):
        body_masks.fill_capsules(disc, [(torch.tensor(center), torch.tensor(center), 70.0)])
    cases = (noise, 0.4, 1e-6), (noise, 15.9, 1e-6), (discs, 25.0, 2e-3), (discs, 60.0, 2e-3)
    for image, sigma, off in cases:  # the second kernel is larger than the image
        expected = body_masks.blur(image.double(), sigma).float()
        torch.testing.assert_close(body_masks.blur(image, sigma), expected, atol=off, rtol=0)
    assert body_masks.blur(noise[:0], 3.0).shape == (0, 41, 30)


def test_a_wide_blur_softens_an_edge_as_a_gaussian_does():
    image = torch.zeros(1, 600, 10)
    image[:, 300:] = 1
    rows = torch.arange(600.0) - 299.5
    expected = 0.5 * (1 + torch.erf(rows / (40 * 2**0.5)))
    torch.testing.assert_close(body_masks.blur(image, 40.0)[0, :, 5], expected, atol=4e-3, rtol=0)


def points_of(height, width):
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack((x, y), -1).view(-1, 2).double()


def near(points, start, end, radius):
    """Say which points are within the radius of a segment, each by its distance."""
    axis = (end - start).double()
    along = ((points - start) @ axis / axis.square().sum().clamp(min=1e-9)).clamp(0, 1)
    return (points - start - along[:, None] * axis).norm(dim=1) <= radius


def test_capsules_cover_what_is_near_their_segments():
    g = torch.Generator().manual_seed(0)
    points = points_of(40, 50)
    for number in range(30):
        ends = (torch.rand(3, 2, 2, generator=g) * 70 - 10).double()
        ends[0, 1, number % 2] = ends[0, 0, number % 2]  # upright or level
        ends[1, 1] = ends[1, 0]  # a single point
        capsules = [(*pair, 2.3 * k + 0.4) for k, pair in enumerate(ends)][: 1 + number % 3]
        shape = torch.zeros(40, 50)
        body_masks.fill_capsules(shape, capsules)
        expected = torch.stack([near(points, *capsule) for capsule in capsules]).any(0)
        assert torch.equal(shape, expected.view(40, 50).float())


def test_no_capsules_and_those_outside_change_nothing():
    shape = torch.zeros(20, 30)
    body_masks.fill_capsules(shape, [])
    outside = torch.tensor([-50.0, 5.0]), torch.tensor([-20.0, 9.0]), 3.0
    below = torch.tensor([5.0, 90.0]), torch.tensor([9.0, 95.0]), 3.0
    body_masks.fill_capsules(shape, [outside, below])
    assert not shape.any()
