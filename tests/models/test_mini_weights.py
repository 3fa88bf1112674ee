"""The committed mini weights: small enough, and good on scenes never trained on."""

import pytest
import torch
from vitruvian.lab.evaluators import measurements, posenet
from vitruvian.lab.training import convert, preview, vae
from vitruvian.lab.world import renderer
from vitruvian.lab.world import scenes as world
from vitruvian.lab.world.captions import scene_caption
from vitruvian.lab.world.dataset import draw_hint

COUNT = 8


@pytest.fixture(scope="module")
def scenes():
    sampled = world.sample_scenes(COUNT, 3_000_000, framing=world.FULL, people=1)
    return sampled, renderer.render(sampled)


@pytest.fixture(scope="module")
def checkpoint():
    return convert.load_checkpoint(preview.CHECKPOINT)


def test_they_fit_into_the_pack():
    files = (preview.CHECKPOINT, preview.POSE_CONTROLNET)
    assert sum(file.stat().st_size for file in files) < 24.4e6
    shipped = list(preview.WEIGHTS.rglob("*.safetensors"))
    assert sum(file.stat().st_size for file in shipped) < 50.7e6


def test_the_autoencoder_keeps_the_image(scenes, checkpoint):
    assert vae.psnr(checkpoint.vae, scenes[1].rgb * 2 - 1) > 28


def test_latents_have_the_size_the_noise_schedule_expects(scenes, checkpoint):
    z = preview.encode(checkpoint, scenes[1].rgb)
    assert 0.8 < float(z.std()) < 1.2 and abs(float(z.mean())) < 0.2


def test_the_control_puts_joints_where_the_skeleton_has_them(scenes, checkpoint):
    sampled, truth = scenes
    prompts = [scene_caption(sampled, i) for i in range(COUNT)]
    hints = torch.stack([draw_hint(i, sampled, truth) for i in range(COUNT)])
    net, control = posenet.load_posenet(), convert.load_controlnet(preview.POSE_CONTROLNET)
    sampling = preview.Sampling(steps=10)
    with_pose = preview.sample(checkpoint, prompts, hints, control, sampling=sampling)
    posed = measurements.pck(net, with_pose, truth)
    free = measurements.pck(net, preview.sample(checkpoint, prompts, sampling=sampling), truth)
    assert measurements.pck(net, truth.rgb, truth) > 0.9
    assert posed > free + 0.2
