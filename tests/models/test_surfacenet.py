"""The instrument for surfaces and what the benchmark of joint denoising computes with it."""

import pytest
import torch
from vitruvian.lab.benchmarks import structure_judge as bench
from vitruvian.lab.evaluators import surfacenet
from vitruvian.lab.world.dataset import structure_images
from vitruvian.lab.world.renderer import render
from vitruvian.lab.world.scenes import FULL, sample_scenes
from vitruvian.models import structure


@pytest.fixture(scope="module")
def truth():
    return render(sample_scenes(4, 77, framing=FULL, people=1))


def test_depth_and_normals_of_one_body_agree(truth):
    depth, normal = structure_images(truth)
    is_body = surfacenet.coarse((depth > 0).float())[:, 0] > 0.5
    same_body = bench.agreement(depth, normal, is_body)
    next_body = bench.agreement(depth, normal.roll(1, 0), is_body)
    turned = structure.normals_to_image(
        structure.image_to_normals(normal) * torch.tensor([-1, -1, 1]).view(3, 1, 1)
    )
    assert same_body.shape == (4,)
    assert (
        same_body.mean() > 0.6
        and same_body.mean() > next_body.mean() + 0.3
        and bench.agreement(depth, turned, is_body).mean() < -0.5
    )


def test_overlap_of_silhouettes():
    one = torch.zeros(2, 4, 4, dtype=torch.bool)
    one[:, :2] = True
    other = one.roll(1, 1)
    assert bench.overlap(one, one).tolist() == [1, 1] and not bench.overlap(one, ~one).any()
    assert bench.overlap(one, other).tolist() == pytest.approx([1 / 3] * 2)


def test_the_evaluator_reads_true_images(truth, mini_weights):
    net = surfacenet.load_surfacenet()
    depth, normal = structure_images(truth)
    true = surfacenet.coarse((depth[:, :1] > 0).float())[:, 0] > 0.5
    for images in (truth.rgb, depth, normal):
        assert bench.overlap(surfacenet.read(net, images).presence > 0.5, true).mean() > 0.8
    surfaces = surfacenet.read(net, truth.rgb)
    near = surfacenet.coarse(depth).mean(1)
    assert float((surfaces.depth - near).abs()[true].mean()) < 0.15
    cosine = torch.cosine_similarity(
        surfaces.normal, structure.image_to_normals(surfacenet.coarse(normal))
    )
    assert float(cosine[true].mean()) > 0.85
