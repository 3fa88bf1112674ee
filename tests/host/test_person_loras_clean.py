"""Nothing stays behind on the model after 50 samplings with LoRAs per person, ten of them cancelled
and ten failing: no hook, no replaced forward, no patch, no changed weight, no memory.
"""

import functools
import gc
import itertools

import comfy.model_management
import pytest
import torch
from comfy.model_management import InterruptProcessingException
from vitruvian.host import module_hooks
from vitruvian.host.lora_kinds import Change
from vitruvian.host.registration import register
from vitruvian.models.compose import PersonLora
from vitruvian.tests.host import transformer_networks
from vitruvian.tests.host.test_person_loras import lora_of
from vitruvian.tests.host.transformer_compositions import compose, distance, sample

import nodes as core

register()
MINI = "mini UNet"
CASES = [
    *((MINI, mode) for mode in ("exact", "layers", "couple")),
    *((name, mode) for name in ("Flux.1 dev", "Z-Image") for mode in ("exact", "couple")),
]
RUNS, EVERY = 50, 5  # every fifth run is cancelled, and every fifth other one fails
HOOKS = [name for name in vars(torch.nn.Module()) if name.endswith("hooks")]


class Stop(Exception):
    """An error in the middle of the network."""


@functools.cache
def cast_of(name):
    """MODEL, positive and negative, and two people's prompts."""
    if name == MINI:
        loaded = core.CheckpointLoaderSimple().load_checkpoint("vitruvian_mini.safetensors")
        words = "a park", "blurry", "a man with a red top", "a woman with a blue top"
        texts = [core.CLIPTextEncode().encode(loaded[1], each)[0] for each in words]
        return loaded[0], (texts[0], texts[1]), texts[2:]
    if not transformer_networks.is_known(name):
        pytest.skip(f"this host has no {name}")
    text = functools.partial(transformer_networks.text, name)
    return transformer_networks.make_model(name), (text(1, 24), text(2, 20)), [text(5), text(6, 33)]


@pytest.fixture(autouse=True)
def inference(mini_weights):
    with torch.inference_mode():
        yield


@pytest.fixture(autouse=True, scope="module")
def forgotten():
    """Let the MODELs go while the host still can."""
    yield
    cast_of.cache_clear()


def left_on(model):
    """What can stay behind on a MODEL: its hooks, replaced forwards, patches and attachments."""
    modules = list(model.model.modules())
    return {
        "hooks": sum(len(getattr(module, name)) for module in modules for name in HOOKS),
        "forwards": sum("forward" in vars(module) for module in modules),
        "attributes": sum(len(vars(module)) for module in modules),
        "patches": len(model.patches) + len(model.object_patches) + len(model.backup),
        "attachments": len(model.attachments) + len(model.injections),
        "wrappers": sum(map(len, model.wrappers.values())),
        "options": str(model.model_options),
    }


def tensors_alive():
    """How many tensors there are, and their bytes."""
    gc.collect()
    tensors = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    return len(tensors), sum(each.numel() * each.element_size() for each in tensors)


def changes_alive():
    """How many layers' changes there are."""
    return sum(issubclass(type(each), Change) for each in gc.get_objects())


def middle_of(network):
    """A layer in the middle of a network, that every call passes."""
    layers = [each for each in network.modules() if isinstance(each, torch.nn.Linear)]
    return layers[len(layers) // 2]


def dora_of(model, seed):
    """A LoRA of the kind that asks the layers for their response, on some of them."""
    tensors = dict(itertools.islice(lora_of(model, seed).tensors.items(), 40))
    for key in [key for key in tensors if key.endswith("up.weight")]:
        scale = torch.ones(len(tensors[key]), *[1] * (tensors[key].ndim - 1))
        tensors[key.replace("lora_up.weight", "dora_scale")] = scale
    return PersonLora("dora.safetensors", tensors, 0.8, 1.0)


@pytest.mark.parametrize("name, mode", CASES)
def test_nothing_is_left_after_50_runs_of_which_some_are_cancelled_or_fail(name, mode):
    model, prompts, people = cast_of(name)
    loras = (lora_of(model, 5), dora_of(model, 7)), (lora_of(model, 6, 0.7),)
    composed = compose(model, prompts, people, mode=mode, loras=loras)
    layer = middle_of(model.model.diffusion_model)
    errors = {0: InterruptProcessingException, 1: Stop}

    def run(number):
        """Sample; some runs are stopped in the middle of the network, at one of two steps."""
        error, calls = errors.get(number % EVERY), itertools.count()

        def stop(*_):
            if next(calls) == number // EVERY % 2:
                raise error

        if error is None:
            return sample(*composed, steps=1, cfg=2.0)
        hook = layer.register_forward_pre_hook(stop)
        try:
            with pytest.raises(error):
                sample(*composed, steps=2, cfg=2.0)
        finally:
            hook.remove()
        return None

    weights = {key: value.clone() for key, value in model.model.state_dict().items()}
    plain = sample(model, *prompts, steps=1)
    expected = sample(*composed, steps=1, cfg=2.0)
    without = sample(*compose(model, prompts, people, mode=mode), steps=1, cfg=2.0)
    assert distance(expected, without) > 1e-3
    for number in (0, 1):  # what is there once, such as the host's list of loaded models
        run(number)
    before, alive = left_on(model), tensors_alive()
    changes = changes_alive()

    results = [run(number) for number in range(RUNS)]

    finished = [result for result in results if result is not None]
    assert len(finished) == RUNS - 20 and all(torch.equal(each, expected) for each in finished)
    del results, finished
    assert left_on(model) == before
    assert tensors_alive() == alive
    assert changes_alive() == changes
    assert not comfy.model_management.processing_interrupted()
    assert module_hooks._CALL.get(None) is None
    after = model.model.state_dict()
    assert after.keys() == weights.keys()
    assert all(torch.equal(value, weights[key]) for key, value in after.items())
    assert torch.equal(sample(model, *prompts, steps=1), plain)
