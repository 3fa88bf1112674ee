"""People in parts: where the memory has no room for all streams at once, they go through the
network some at a time, and the image stays the same.
"""

import comfy.model_management
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from vitruvian.models import compose
from vitruvian.nodes import compose as ours
from vitruvian.tests.host import transformer_compositions as transformers
from vitruvian.tests.host import transformer_networks

import nodes as core

SIZE, PEOPLE = 128, 4
NETWORKS = ("Flux.1 dev", "Flux.2 Klein", "Qwen-Image", "Z-Image", "SD3", "Krea 2", "Wan 2.1")
ROW = 10**12  # bytes that one row takes, as this host counts


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture
def room(monkeypatch, family):
    """Give the host memory for so many rows; return the numbers of rows that the network got."""
    base, rows = family[0].model, []
    monkeypatch.setattr(base, "memory_required", lambda shape, **_: shape[0] * ROW)
    free = {"bytes": 0.0}

    def free_memory(device=None, torch_free_too=False):
        return (free["bytes"], free["bytes"]) if torch_free_too else free["bytes"]

    monkeypatch.setattr(comfy.model_management, "get_free_memory", free_memory)

    def note(_, inputs, named):
        count = len(inputs[0] if inputs else named["x"])
        if count * ROW * 1.5 > free["bytes"]:
            raise torch.OutOfMemoryError(f"{count} rows")
        rows.append(count)

    hook = base.diffusion_model.register_forward_pre_hook(note, with_kwargs=True)

    def set_room(count):
        free["bytes"] = (count + 0.5) * ROW * 1.5
        rows.clear()
        return rows

    yield set_room
    hook.remove()


def four_people():
    """A pose of four people side by side."""
    g, people = torch.Generator().manual_seed(5), []
    for number in range(PEOPLE):
        points = torch.rand(18, 2, generator=g) * torch.tensor([0.16, 0.8])
        points += torch.tensor([0.25 * number + 0.04, 0.1])
        flat = [v for x, y in points.tolist() for v in (x * SIZE, y * SIZE, 1.0)]
        people.append({"pose_keypoints_2d": flat})
    return [{"people": people, "canvas_width": SIZE, "canvas_height": SIZE}]


def composed(family, random_text, **changes):
    model, controlnet = family
    prompts = [random_text(model, seed) for seed in range(1, PEOPLE + 1)]
    settings = {
        "mode": "exact", "strength": 1.0, "harmony": 0.0, "dilation": 0.06, "start_percent": 0.0,
        "end_percent": 1.0, "background_prompt": ours.MEAN, "shared_negative": True,
    }  # fmt: skip
    return ours.VitruvianComposeInstances.execute(
        model,
        random_text(model, 8),
        random_text(model, 9),
        tuple(compose.Instance(prompt, k) for k, prompt in enumerate(prompts, 1)),
        four_people(),
        controlnet,
        **{**settings, **changes},
    ).result[:3]


def sampled(composition, batch=1):
    model, positive, negative = composition
    channels = model.model.latent_format.latent_channels
    latent = {"samples": torch.zeros(batch, channels, SIZE // 8, SIZE // 8)}
    return core.common_ksampler(model, 3, 1, 3.0, "euler", "normal", positive, negative, latent)[0][
        "samples"
    ]


CASES = {
    "shared negative": {},
    "a negative each": {"shared_negative": False},
    "the scene": {"background_prompt": ours.SCENE},
    "soft shares": {"harmony": 1.0, "shared_negative": False},
}


@pytest.mark.parametrize(("at_once", "batch"), [(1, 1), (2, 1), (3, 2)])
@pytest.mark.parametrize("case", CASES)
def test_parts_give_the_image_of_all_at_once(family, random_text, room, case, at_once, batch):
    composition = composed(family, random_text, **CASES[case])
    room(100)
    expected = sampled(composition, batch)
    rows = room(at_once * batch)
    parts = sampled(composition, batch)
    assert float((parts - expected).norm() / expected.norm()) < 5e-6
    assert len(rows) > 1 and max(rows) <= at_once * batch


@pytest.mark.parametrize("at_once", [2, 100])
def test_a_node_may_let_the_network_run_twice(family, random_text, room, at_once):
    """As those do that compare two results of the network, or measure one. The host's networks use
    residuals up, so there is no ControlNet.
    """
    model, *prompts = composed((family[0], None), random_text)
    room(at_once)
    expected = sampled((model, *prompts))

    assert torch.equal(sampled((running_twice(model), *prompts)), expected)


def running_twice(model):
    def twice(executor, *args, **kwargs):
        executor(*args, **kwargs)
        return executor(*args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "twice", twice)
    return model


@pytest.mark.parametrize("name", [n for n in NETWORKS if transformer_networks.is_known(n)])
@pytest.mark.parametrize("mode", ["exact", "couple"])
def test_so_it_is_on_transformers(name, mode):
    prompts = [transformer_networks.text(name, seed) for seed in range(4)]
    model, *conds = transformers.compose(
        transformer_networks.make_model(name), tuple(prompts[:2]), prompts[2:], mode=mode
    )
    expected = transformers.sample(model, *conds, steps=1)
    assert torch.equal(transformers.sample(running_twice(model), *conds, steps=1), expected)
