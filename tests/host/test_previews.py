"""The images that the host shows while it samples: of the mini models in their own colors."""

import comfy.cli_args
import comfy.utils
import latent_preview
import numpy as np
import pytest
import torch
from comfy import latent_formats
from vitruvian.host.registration import register
from vitruvian.lab.world.dataset import structure_images
from vitruvian.lab.world.renderer import render
from vitruvian.lab.world.scenes import sample_scenes
from vitruvian.nodes.structure import VitruvianEmptyStructureLatent, VitruvianLoadStructureModel

import nodes as core

SIDE, CELLS = 192, 24
CHECKPOINTS = ("vitruvian_mini.safetensors", "vitruvian_mini_transformer.safetensors")
SEEN = 12  # scenes that nobody has fitted anything to


@pytest.fixture(autouse=True)
def previews(monkeypatch, mini_weights):
    """Collect what the host's progress bars show, with the previews that need no further file."""
    register()
    method = comfy.cli_args.LatentPreviewMethod.Latent2RGB
    monkeypatch.setattr(comfy.cli_args.args, "preview_method", method)
    previews = []
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK", lambda *what, **_: previews.append(what[2])
    )
    with torch.inference_mode():
        yield previews


def checkpoint(name):
    return core.CheckpointLoaderSimple().load_checkpoint(name)[:3]


def sampled(model, latent, text):
    core.KSampler().sample(model, 0, 3, 2.0, "euler", "normal", text, text, latent)


def shown_images(previews):
    return [preview[1] for preview in previews if preview is not None]


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_step_shows_an_image(previews, name):
    model, clip, _ = checkpoint(name)
    text = core.CLIPTextEncode().encode(clip, "a man")[0]
    sampled(model, {"samples": torch.zeros(1, 4, CELLS, CELLS + 8)}, text)
    assert [image.size for image in shown_images(previews)] == [(CELLS + 8, CELLS)] * 3


def test_a_structure_model_shows_image_depth_and_normals_side_by_side(previews):
    (model,) = VitruvianLoadStructureModel.execute("vitruvian_mini_structure.safetensors").args
    text = core.CLIPTextEncode().encode(checkpoint(CHECKPOINTS[0])[1], "a man")[0]
    (latent,) = VitruvianEmptyStructureLatent.execute(SIDE, SIDE, 1).args
    sampled(model, latent, text)
    parts = 3 if hasattr(latent_formats.LatentFormat, "latent_rgb_factors_reshape") else 1
    assert [image.size for image in shown_images(previews)] == [(parts * CELLS, CELLS)] * 3


def world():
    """Images of the renderer with their depth and normals, [B, H, W, 3] each."""
    rendering = render(sample_scenes(SEEN, seed=77), SIDE)
    images = (rendering.rgb, *structure_images(rendering))
    return [image.permute(0, 2, 3, 1) for image in images]


def difference(latent_format, latents, images):
    """The mean difference per color between previews of latents and small images, 0..255."""
    previewer = latent_preview.get_previewer("cpu", latent_format)
    drawn_images = [np.array(previewer.decode_latent_to_preview(one[None])) for one in latents]
    small = torch.nn.functional.interpolate(images.movedim(-1, 1), size=(CELLS, CELLS), mode="area")
    return abs(np.array(drawn_images, float) - 255 * small.movedim(1, -1).numpy()).mean()


def test_previews_have_the_colors_of_the_image():
    model, _, vae = checkpoint(CHECKPOINTS[0])
    ours = model.model.latent_format
    for images, most in zip(world(), (28, 18, 19), strict=True):
        latents = ours.process_in(vae.encode(images))
        error = difference(ours, latents, images)
        assert error < most and error < 0.8 * difference(latent_formats.SD15(), latents, images)
