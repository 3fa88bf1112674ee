"""Joint denoising on the host: against diffusers, the base, and what the host does to models."""

import pytest
import torch
from vitruvian.host import structure as host
from vitruvian.host.registration import register
from vitruvian.models import structure
from vitruvian.training import convert, preview
from vitruvian.training import structure as training

register()
CELLS = 8


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def mini(mini_weights):
    """The mini UNet in diffusers."""
    return convert.load_checkpoint(preview.CHECKPOINT).unet


def random_joint(unet, seed=1, **how):
    """A joint network whose branches differ from the base and from each other."""
    joint = training.start_joint(unet, **how).eval()
    g = torch.Generator().manual_seed(seed)
    for p in joint.parameters():
        p.data += 0.02 * torch.randn(p.shape, generator=g)
    return joint


def written(joint, folder, **how):
    path = folder / "joint.safetensors"
    training.save_structure(joint, path, "mini", dtype=torch.float32, **how)
    return path


def predict(model, x, t, text, pose=None, sizes=None):
    """What the host's network gives, [B, 12, h, w]."""
    net = model.model.diffusion_model
    pose = torch.zeros(len(x), 4, *x.shape[2:]) if pose is None else pose
    sizes = torch.zeros(len(x), 4) if sizes is None else sizes
    return net(torch.cat((x, pose), 1), t, text, y=structure.size_embedding(sizes))


def inputs(batch=2, size=(CELLS, CELLS), seed=2):
    g = torch.Generator().manual_seed(seed)
    x, pose = (torch.randn(batch, n, *size, generator=g) for n in (12, 4))
    text = torch.randn(batch, 77, 192, generator=g)
    return x, torch.tensor([3.0, 700.0][:batch]), text, pose, torch.tensor([[64, 96, 8, 0]] * batch)


@pytest.mark.parametrize("how", [
    {}, {"experts": 1}, {"experts": 4}, {"fusion": structure.SUM}, {"fusion": structure.LEARNT},
    {"fusion": structure.OFF},
])  # fmt: skip
@pytest.mark.parametrize("size", [(8, 8), (9, 13)])
def test_the_host_gives_what_diffusers_gives(mini, tmp_path, how, size):
    joint = random_joint(mini, **how)
    x, t, text, pose, sizes = inputs(size=size)
    expected = joint(x, t, text, pose, sizes)
    found = predict(host.load(written(joint, tmp_path)), x, t, text, pose, sizes)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
