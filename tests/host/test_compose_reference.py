"""Composition against the recorded numbers of the authors' released FineControlNet.

`finecontrolnet/README.md` says what was recorded.
"""

import importlib.util
import lzma
from pathlib import Path

import comfy.controlnet
import comfy.sd
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from safetensors.torch import load
from vitruvian.host import compose as host
from vitruvian.host.compose.families import compose_family
from vitruvian.host.compose.person_loras import place_changes
from vitruvian.host.compose.plan import memory
from vitruvian.host.sampling import Window
from vitruvian.models import compose

REFERENCE = Path(__file__).parent / "finecontrolnet"
SIGMA = 2.2928538  # of timestep 601


@pytest.fixture(scope="module")
def weights():
    """The module that makes the networks and the inputs from seeds."""
    spec = importlib.util.spec_from_file_location("reference_weights", REFERENCE / "weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def numbers(weights):
    packed = (REFERENCE / "fcn_ref.safetensors.xz").read_bytes()
    latent, contexts, negative = weights.inputs()
    return {
        **load(lzma.decompress(packed)),
        "in.x": latent,
        "in.context": contexts,
        "in.negative_context": negative,
    }


@pytest.fixture(scope="module")
def networks(weights, numbers):
    """MODEL and ControlNet of the seeded weights, by the host's loaders."""
    unet, control_net = weights.unet_state_dict(), weights.control_net_state_dict()
    torch.testing.assert_close(weights.fingerprint(unet), numbers["fp.unet"])
    torch.testing.assert_close(weights.fingerprint(control_net), numbers["fp.control"])
    return (
        comfy.sd.load_diffusion_model_state_dict(
            {f"model.diffusion_model.{k}": v for k, v in unet.items()}
        ),
        comfy.controlnet.load_controlnet_state_dict(
            {f"control_model.{k}": v for k, v in control_net.items()}
        ),
    )


def hints_of(numbers):
    """The people's hints [3, H, W, 3]."""
    return numbers["in.hint_u8"].movedim(1, -1) / 255


def epsilon(networks, mode, x, people, *, strength=1.5, sigma=SIGMA, negative=None):
    """Predict the noise of x [B, 4, h, w] as the network reads it, in one chunk.

    people: shares [N, B, 1, h, w], contexts [N, 77, 768] and hints [N, H, W, 3]. With `negative`
    [1, 77, 768] it is the negative's chunk.
    """
    model, controlnet = networks
    shares, contexts, hints = people
    count = len(contexts)
    composition = host.Composition(
        people=tuple([c[None], {}] for c in contexts),
        masks=lambda width, height: torch.ones(1, count, height, width),
        hint=lambda person, width, height: hints[person, None],
        canvas=(1, 1),
        order=(0,) * count,
        mode=mode,
        harmony=0.0,
        scene=False,
        shared_negative=False,
        start_percent=0.0,
        end_percent=1.0,
    )
    control = host.ComposedControl(controlnet, composition, strength)
    control.pre_run(model.model, model.model.model_sampling.percent_to_sigma)
    texts = host.PeopleTexts(("uuid",) * count, tuple(c[None] for c in contexts), (None,) * count)
    plan = host.Plan(
        Window(1e9, -1.0),
        composition,
        compose_family(model, mode),
        texts,
        {"uuid": control},
        {"uuid": host.PEOPLE if negative is None else host.NEGATIVE},
        {"uuid": contexts[:1] if negative is None else negative},
        host.Shares(shares, shares, -1.0),
        tuple(x.shape[-2:]),
        place_changes((), x.device, x.dtype),
        2,  # streams at once
        memory(),
    )
    wrappers = host.compose_model(model, composition).get_all_wrappers(WrappersMP.APPLY_MODEL)
    options = {
        host.KEY: plan,
        "uuids": ["uuid"],
        "cond_or_uncond": [0],
        "wrappers": {WrappersMP.APPLY_MODEL: {host.KEY: wrappers}},
    }
    noisy = x * (1 + sigma**2) ** 0.5
    with torch.inference_mode():
        denoised = model.model.apply_model(
            noisy,
            torch.full((len(x),), sigma),
            c_crossattn=contexts[:1] if negative is None else negative,
            transformer_options=options,
        )
    return (noisy - denoised) / sigma


def distance(prediction, expected):
    return float((prediction - expected).norm() / expected.norm())


MODES = pytest.mark.parametrize("mode, name", [("exact", "h_control"), ("layers", "h_all")])


@MODES
@pytest.mark.parametrize("strength, suffix", [(1.5, ""), (1.0, ".s1")])
def test_three_people(networks, numbers, mode, name, strength, suffix):
    people = numbers["in.mask"], numbers["in.context"], hints_of(numbers)
    prediction = epsilon(networks, mode, numbers["in.x"], people, strength=strength)
    assert distance(prediction, numbers[f"out.{name}{suffix}"]) < 1e-4


@MODES
def test_one_person_alone(networks, numbers, mode, name):
    people = torch.ones(1, 1, 1, 16, 24), numbers["in.context"][:1], hints_of(numbers)[:1]
    prediction = epsilon(networks, mode, numbers["in.x"], people)
    assert distance(prediction, numbers[f"out.{name}.n1"]) < 1e-4


@MODES
def test_two_images_with_masks_of_their_own(networks, numbers, mode, name):
    for image, persons in enumerate(([0, 1], [2, 0])):
        row = slice(image, image + 1)
        shares = numbers["b2.mask"][:, row]
        people = shares, numbers["in.context"][persons], hints_of(numbers)[persons]
        prediction = epsilon(networks, mode, numbers["b2.x"][row], people)
        assert distance(prediction, numbers[f"b2.{name}"][row]) < 1e-4


@pytest.mark.parametrize("step", range(4))
def test_a_trajectory(networks, numbers, step):
    alpha = float(numbers["traj.alphas_cumprod_f64"][step])
    shares = numbers["norm.hard" if step < 2 else "norm.harmony"]
    people = shares, numbers["in.context"], hints_of(numbers)
    x, sigma = numbers["traj.x"][step], ((1 - alpha) / alpha) ** 0.5
    positive = epsilon(networks, "exact", x, people, sigma=sigma)
    negative = epsilon(
        networks, "exact", x, people, sigma=sigma, negative=numbers["in.negative_context"]
    )
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
