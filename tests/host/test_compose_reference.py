"""The authors' released FineControlNet, as numbers: our modes through the host's loaders."""

import importlib.util
from pathlib import Path

import comfy.controlnet
import comfy.sd
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from safetensors.torch import load_file
from vitruvian.host import compose as host
from vitruvian.models import compose

REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "finecontrolnet"
SIGMA = 2.2928538  # of timestep 601
pytestmark = pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference is not here")


@pytest.fixture(scope="module")
def numbers():
    return load_file(REFERENCE / "fcn_ref.safetensors")


@pytest.fixture(scope="module")
def networks():
    """MODEL and ControlNet of the reference's seeded weights, by the host's loaders."""
    spec = importlib.util.spec_from_file_location("reference_weights", REFERENCE / "weights.py")
    weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(weights)
    unet = {f"model.diffusion_model.{k}": v for k, v in weights.unet_state_dict().items()}
    control = {f"control_model.{k}": v for k, v in weights.controlnet_state_dict().items()}
    return (
        comfy.sd.load_diffusion_model_state_dict(unet),
        comfy.controlnet.load_controlnet_state_dict(control),
    )


def epsilon(networks, mode, x, shares, contexts, hints, strength=1.5, sigma=SIGMA, negative=None):
    """What the network predicts for x [B,4,h,w] as it sees it, one chunk, given shares."""
    model, controlnet = networks
    people = len(contexts)
    composition = host.Composition(
        people=tuple([c[None], {}] for c in contexts),
        masks=lambda width, height: torch.ones(people, height, width),
        hint=lambda person, width, height: hints[person],
        order=(0,) * people,
        mode=mode,
        harmony=0.0,
        scene=False,
        shared_negative=False,
        start=0.0,
        end=1.0,
    )
    control = host.ComposedControl(controlnet, composition, strength)
    control.pre_run(model.model, model.model.model_sampling.percent_to_sigma)
    plan = host.Plan(
        composition,
        ("one",) * people,
        tuple(c[None] for c in contexts),
        (None,) * people,
        control,
        {"one": host.PEOPLE if negative is None else host.NEGATIVE},
        shares,
        shares,
        -1.0,
        1e9,
        -1.0,
    )
    composed = host.compose_model(model, composition)
    wrappers = composed.get_all_wrappers(WrappersMP.APPLY_MODEL)
    options = {
        host.KEY: plan,
        "uuids": ["one"],
        "cond_or_uncond": [0],
        "wrappers": {WrappersMP.APPLY_MODEL: {host.KEY: wrappers}},
    }
    noisy = x * (1 + sigma**2) ** 0.5
    with torch.inference_mode():
        t = torch.full((len(x),), sigma)
        denoised = model.model.apply_model(
            noisy,
            t,
            c_crossattn=contexts[:1] if negative is None else negative,
            transformer_options=options,
        )
    return (noisy - denoised) / sigma


def distance(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("mode, name", [("exact", "h_control"), ("layers", "h_all")])
@pytest.mark.parametrize("strength, suffix", [(1.5, ""), (1.0, ".s1")])
def test_three_people(networks, numbers, mode, name, strength, suffix):
    found = epsilon(
        networks,
        mode,
        numbers["in.x"],
        numbers["in.mask"],
        numbers["in.context_f16"].float(),
        numbers["in.hint_u8"].movedim(1, -1) / 255,
        strength,
    )
    assert distance(found, numbers[f"out.{name}{suffix}"]) < 1e-4


@pytest.mark.parametrize("mode, name", [("exact", "h_control"), ("layers", "h_all")])
def test_one_person_alone(networks, numbers, mode, name):
    found = epsilon(
        networks,
        mode,
        numbers["in.x"],
        torch.ones(1, 1, 1, 16, 24),
        numbers["in.context_f16"][:1].float(),
        numbers["in.hint_u8"][:1].movedim(1, -1) / 255,
    )
    assert distance(found, numbers[f"out.{name}.n1"]) < 1e-4


@pytest.mark.parametrize("mode, name", [("exact", "h_control"), ("layers", "h_all")])
def test_two_pictures_with_masks_of_their_own(networks, numbers, mode, name):
    for image, people in enumerate(([0, 1], [2, 0])):
        found = epsilon(
            networks,
            mode,
            numbers["b2.x"][image : image + 1],
            numbers["b2.mask"][:, image : image + 1],
            numbers["in.context_f16"][people].float(),
            numbers["in.hint_u8"][people].movedim(1, -1) / 255,
        )
        assert distance(found, numbers[f"b2.{name}"][image : image + 1]) < 1e-4


@pytest.mark.parametrize("step", range(4))
def test_a_trajectory(networks, numbers, step):
    alpha = float(numbers["traj.alphas_cumprod_f64"][step])
    shares = numbers["norm.hard" if step < 2 else "norm.harmony"]
    given = (
        numbers["traj.x"][step],
        shares,
        numbers["in.context_f16"].float(),
        numbers["in.hint_u8"].movedim(1, -1) / 255,
        1.5,
        ((1 - alpha) / alpha) ** 0.5,
    )
    positive = epsilon(networks, "exact", *given)
    negative = epsilon(networks, "exact", *given, negative=numbers["in.neg_context_f16"].float())
    assert distance(positive, numbers["traj.e_cond"][step]) < 1e-4
    assert distance(negative, numbers["traj.e_uncond"][step]) < 1e-4


def test_the_shares_of_recorded_occupancies(numbers):
    occupied = numbers["norm.occ"][:, 0, 0]
    order = [2, 1, 0]  # the released code gives ties to the first listed
    hard = compose.hard_shares(occupied, order)
    faint = (occupied.amax(0) > 0) & (occupied.amax(0) < 1e-8)  # there it goes by area
    assert torch.equal(hard[..., ~faint], numbers["norm.hard"][..., ~faint])
    torch.testing.assert_close(compose.soft_shares(occupied), numbers["norm.harmony"])


def test_the_shares_of_recorded_skeletons(numbers):
    occupied = numbers["skel.occ"][:, 0, 0]
    assert torch.equal(compose.hard_shares(occupied, [1, 0]), numbers["skel.hard"])
    torch.testing.assert_close(compose.soft_shares(occupied), numbers["skel.harmony"])
