"""The mini world's renderer against slow references, and its ground truth against itself."""

import pytest
import torch
from vitruvian.lab.evaluators import measurements
from vitruvian.lab.training.tokens import UNKNOWN, WordTokenizer
from vitruvian.lab.world import body, captions, renderer
from vitruvian.lab.world import scenes as world


@pytest.fixture(scope="module")
def rendered():
    scenes = world.sample_scenes(24, 11)
    return scenes, renderer.render(scenes)


def test_cone_depth_is_the_highest_swept_sphere():
    g = torch.Generator().manual_seed(0)
    n = 400
    axis, dz = torch.randn(n, 2, generator=g) * 8, torch.randn(n, generator=g) * 6
    ra, rb = 2 + 4 * torch.rand(2, n, generator=g)
    q, z = torch.randn(n, 2, generator=g) * 7, torch.randn(n, generator=g)
    depth, t, s = renderer.cone_depth(q, axis, z, dz, ra, rb - ra)
    steps = torch.linspace(0, 1, 4001)[:, None]
    radius = ra + steps * (rb - ra)
    inside = radius**2 - (q - steps[..., None] * axis).square().sum(-1)
    surface = torch.where(inside >= 0, z + steps * dz + inside.clamp(min=0).sqrt(), -torch.inf)
    covered = (inside >= 0).any(0)
    clear = inside.amax(0).abs() > 0.05  # at the very rim 4001 steps decide nothing
    assert torch.equal((s >= 0)[clear], covered[clear])
    hit = covered & (s >= 0) & clear
    assert hit.sum() > 100 and (~covered).sum() > 50
    assert (depth - surface.amax(0))[hit].abs().max() < 5e-3
    assert ((t >= 0) & (t <= 1)).all()


def test_scenes_are_reproducible_and_new_seeds_are_new_scenes(rendered):
    scenes, truth = rendered
    again = renderer.render(world.sample_scenes(24, 11), chunk=5)
    assert torch.equal(again.rgb, truth.rgb) and torch.equal(again.instance, truth.instance)
    assert not torch.equal(renderer.render(world.sample_scenes(24, 12)).rgb, truth.rgb)


def test_images_and_truth_agree_in_shape_and_range(rendered):
    scenes, truth = rendered
    assert truth.rgb.shape == truth.normal.shape == (24, 3, 192, 192)
    assert truth.rgb.min() >= 0 and truth.rgb.max() <= 1
    somebody = truth.instance >= 0
    assert torch.equal(somebody, truth.parsing > 0) and torch.equal(
        somebody, truth.depth.isfinite()
    )
    assert torch.allclose(truth.normal.norm(dim=1)[somebody], torch.ones(()), atol=1e-4)
    owner = scenes.people.scene[truth.instance.clamp(min=0)]
    assert torch.equal(owner[somebody], torch.arange(24)[:, None, None].expand_as(owner)[somebody])


def test_normals_are_the_slope_of_the_depth(rendered):
    scenes, truth = rendered
    meter = scenes.scale * 192
    z = truth.depth * meter[:, None, None]  # pixels
    dx = (z[:, 1:-1, 2:] - z[:, 1:-1, :-2]) / 2
    dy = (z[:, 2:, 1:-1] - z[:, :-2, 1:-1]) / 2
    slope = torch.stack((-dx, dy, torch.ones_like(dx)), 1)
    slope = slope / slope.norm(dim=1, keepdim=True)
    facing = (slope * truth.normal[:, :, 1:-1, 1:-1]).sum(1)
    smooth = facing.isfinite() & (dx.abs() < 1) & (dy.abs() < 1)
    assert smooth.sum() > 20_000
    assert facing[smooth].quantile(0.1) > 0.97


def test_visible_joints_lie_on_their_person(rendered):
    scenes, truth = rendered
    for i in range(len(scenes.people)):
        joints = truth.body[i][truth.body_visible[i]].long()
        owners = truth.instance[scenes.people.scene[i], joints[:, 1], joints[:, 0]]
        # A joint is inside its limb; only one at the limb's rim may be drawn beside it.
        assert (owners == i).float().mean() > 0.8 if len(joints) else True
        assert (truth.body[i][truth.body_visible[i]][:, 2] == 1).all()


def test_a_raised_right_hand_is_right_in_every_truth():
    scenes = world.sample_scenes(1, 3, framing=world.FULL, people=1)
    truth = renderer.render(scenes)
    labels = truth.parsing[0]
    for side, label in ((0, body.RIGHT_HAND), (1, body.LEFT_HAND)):
        joints = truth.hands[0, side][truth.hands_visible[0, side]]
        if len(joints):
            x, y = joints[:, 0].long(), joints[:, 1].long()
            assert (labels[y, x] == label).any()
    right, left = truth.body[0, 2, 0], truth.body[0, 5, 0]
    assert right < left  # facing the viewer, the right shoulder is on the left


def test_hands_in_close_ups_and_upper_bodies_are_large_enough():
    close = world.sample_scenes(8, 4, framing=world.HAND)
    truth = renderer.render(close)
    span = truth.hands[torch.arange(8), close.hand]
    assert (span[..., :2].amax(1) - span[..., :2].amin(1)).amax(-1).median() > 60
    upper = world.sample_scenes(1, 4, framing=world.UPPER, people=1)
    assert body.HAND_LENGTH * float(upper.scale[0]) * 192 * 0.88 * 1.05 > 38


@pytest.mark.parametrize("framing", [world.FULL, world.UPPER, world.HAND, None])
def test_captions_fit_the_text_encoder_and_use_known_words(framing):
    scenes = world.sample_scenes(150, 8, framing=framing, people_share=(0.25, 0.25, 0.25, 0.25))
    tokenizer = WordTokenizer.from_file()
    for i in range(len(scenes)):
        for brief in (False, True):
            ids = tokenizer.encode(captions.scene_caption(scenes, i, brief=brief))
            assert UNKNOWN not in ids and ids[-1] == 1, captions.scene_caption(scenes, i)


def test_named_colors_are_read_back_from_true_images_and_not_from_others():
    scenes = world.sample_scenes(30, 21, framing=world.FULL, people=1)
    truth = renderer.render(scenes)
    assert measurements.color_accuracy(truth.rgb, scenes, truth) > 0.98
    assert measurements.color_accuracy(truth.rgb.roll(1, 0), scenes, truth) < 0.4


def test_at_least_the_promised_variety():
    assert len(world.ACTIONS) >= 12 and len(world.PATTERNS) >= 5 and len(world.BACKGROUNDS) >= 8
    assert len(set(a.phrase for a in world.ACTIONS.values())) == len(world.ACTIONS)


def test_a_seam_is_seen_only_where_regions_meet_and_nobody_is():
    owners = torch.zeros(1, 32, 32, dtype=torch.long)
    owners[:, :, 16:] = 1
    free = torch.ones(1, 32, 32, dtype=torch.bool)
    even = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.1
    torn = even + 0.3 * owners[:, None]
    assert measurements.seam_contrast(even, owners, free) == pytest.approx(1, abs=0.3)
    assert measurements.seam_contrast(torn, owners, free) > 5
    free[:, :, 10:22] = False  # somebody stands on the border
    free[:, :4] = True
    torn[:, :, :4] = even[:, :, :4]
    assert measurements.seam_contrast(torn, owners, free) == pytest.approx(1, abs=0.4)


def test_people_are_looked_at_one_by_one():
    scenes = world.sample_scenes(2, 5, framing=0, people=2)
    truth = renderer.render(scenes)
    batches = []

    class Spy(torch.nn.Module):
        def forward(self, images):
            batches.append(images)
            return torch.zeros(len(images), 18, 48, 48)

    measurements.pck_each(Spy(), truth.rgb, scenes, truth)
    images = torch.cat(batches)
    assert len(images) == 4
    for i, image in enumerate(images):
        scene = int(scenes.people.scene[i])
        person = truth.instance[scene] == i
        neighbor = (truth.instance[scene] >= 0) & ~person
        assert torch.equal(image[:, person], truth.rgb[scene][:, person])
        assert (image[:, neighbor] != truth.rgb[scene][:, neighbor]).float().mean() > 0.5


def test_selected_scenes_look_the_same():
    rows = torch.tensor([1, 4])
    scenes = world.sample_scenes(6, 11)
    rendered, selected = renderer.render(scenes), renderer.render(scenes.take(rows))
    assert torch.equal(selected.rgb, rendered.rgb[rows])
    assert torch.equal(selected.hands, rendered.hands[torch.isin(scenes.people.scene, rows)])
    selected_captions = [captions.scene_caption(scenes.take(rows), k) for k in (0, 1)]
    assert selected_captions == [captions.scene_caption(scenes, k) for k in rows.tolist()]
