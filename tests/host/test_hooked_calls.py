"""Composed calls of a network beside other calls of the same network: compiled ones, those of
another thread, and those that another pack makes in the middle of ours.
"""

import functools
import threading
from typing import Any, NamedTuple

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras import nodes_torch_compile
from vitruvian.host.registration import register
from vitruvian.tests.host import slow_compose, transformer_networks
from vitruvian.tests.host.test_person_loras import lora_of
from vitruvian.tests.host.transformer_compositions import Regions, compose, distance, sample

import nodes as core

register()
MINI = "mini UNet"
TRANSFORMERS = ["Flux.1 dev", "Qwen-Image", "Z-Image", "SD3"]
MODES = {MINI: ["exact", "layers", "couple"], **dict.fromkeys(TRANSFORMERS, ["exact", "couple"])}
CASES = [(name, mode) for name, modes in MODES.items() for mode in modes]
modes = pytest.mark.parametrize("name, mode", CASES)
CLOSE = 1e-5
OTHER_REGIONS = Regions((((0, 3), (3, 12)),))


class Cast(NamedTuple):
    """A MODEL of one family with positive and negative, and two people's prompts."""

    model: Any
    prompts: tuple[list, list]
    people: list[list]

    def composed(self, model=None, **changes):
        """Return MODEL, positive and negative of a composition in which everybody has a LoRA."""
        loras = tuple((lora_of(self.model, seed),) for seed in (5, 6))
        return compose(model or self.model, self.prompts, self.people, loras=loras, **changes)


@functools.cache
def cast_of(name):
    if name == MINI:
        with torch.inference_mode():
            loaded = core.CheckpointLoaderSimple().load_checkpoint("vitruvian_mini.safetensors")
            words = "a park", "blurry", "a man with a red top", "a woman with a blue top"
            texts = [core.CLIPTextEncode().encode(loaded[1], each)[0] for each in words]
        return Cast(loaded[0], (texts[0], texts[1]), texts[2:])
    if not transformer_networks.is_known(name):
        pytest.skip(f"this host has no {name}")
    text = functools.partial(transformer_networks.text, name)
    model = transformer_networks.make_model(name)
    return Cast(model, (text(1, 24), text(2, 20)), [text(5, 20), text(6, 33)])


@pytest.fixture(autouse=True)
def inference(mini_weights):
    with torch.inference_mode():
        yield


# ---- compiled networks


def with_compiled(model, parts):
    """Compile a MODEL as the host's node does it, with a backend that takes no minutes; `parts`:
    the entire network, or each of its blocks as other packs do it.
    """
    if parts == "network":
        return nodes_torch_compile.TorchCompileModel.execute(model, "eager").result[0]
    network = model.get_model_object("diffusion_model")
    names = [(name, len(getattr(network, name))) for name in ("double_blocks", "single_blocks")]
    keys = [
        f"diffusion_model.{name}.{number}" for name, length in names for number in range(length)
    ]
    model = model.clone()
    overlook = getattr(nodes_torch_compile, "skip_torch_compile_dict", None)  # newer hosts'
    options = overlook and {"guard_filter_fn": overlook}
    nodes_torch_compile.set_torch_compile_wrapper(model, "eager", options, keys=keys)
    return model


@pytest.fixture
def compiler():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "name, parts",
    [(MINI, "network"), ("Z-Image", "network"), ("Flux.1 dev", "blocks")],
)
def test_a_compiled_network_composes(name, parts, compiler):
    """After plain calls, which the compiler keeps; compiled before Compose Instances and behind it;
    with other regions; with plain calls in between; and plain calls again.
    """
    cast = cast_of(name)
    compiled = with_compiled(cast.model, parts)
    plain = sample(cast.model, *cast.prompts)
    assert distance(sample(compiled, *cast.prompts), plain) < CLOSE
    frames = compiler["frames"]["ok"]
    assert frames > 0  # or else nothing was compiled

    for mode in MODES[name]:
        results = []
        for changes in ({}, {"regions": OTHER_REGIONS}, {"start_percent": 0.5}):
            model, *conditionings = cast.composed(mode=mode, **changes)
            results.append(sample(model, *conditionings))
            before = cast.composed(compiled, mode=mode, **changes)
            assert distance(sample(*before), results[-1]) < CLOSE
            behind = with_compiled(model, parts)
            assert distance(sample(behind, *conditionings), results[-1]) < CLOSE
        assert distance(results[0], results[1]) > 1e-3
        assert distance(results[0], results[2]) > 1e-3

    assert distance(sample(compiled, *cast.prompts), plain) < CLOSE


def test_a_compiled_network_is_refused_where_pytorch_can_not_leave_it(monkeypatch, compiler):
    cast = cast_of(MINI)
    monkeypatch.delattr(torch.compiler, "set_stance")
    assert sample(*cast.composed()).isfinite().all()
    with pytest.raises(ValueError, match="^Compose Instances: the model is compiled, .* 2.6"):
        sample(*cast.composed(with_compiled(cast.model, "network")))


# ---- other calls of the same network


def plain_call(cast):
    """Call the network for the positive prompt, without any node."""
    g = torch.Generator().manual_seed(4)
    latent = transformer_networks.empty_latent(cast.model, 8, 12)["samples"]
    x, sigma = torch.randn(latent.shape, generator=g), torch.tensor([0.7])
    return slow_compose.plain(cast.model.model, x, sigma, slow_compose.entry_of(cast.prompts[0]))


def on_another_thread(call):
    """Return what a call gives on a thread of its own."""
    results = []

    def run():
        with torch.inference_mode():
            results.append(call())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return results[0]


def inner_modules(network):
    """Modules in the middle of a network that the host calls: the last blocks of each kind."""
    if hasattr(network, "output_blocks"):
        return [network.output_blocks[-1][-1]]  # of a UNet it calls the layers, never the blocks
    lists = "double_blocks", "transformer_blocks", "layers", "joint_blocks"
    return [getattr(network, name)[-1] for name in lists if hasattr(network, name)]


@modes
@pytest.mark.parametrize("where", ["around the network", "inside it"])
@pytest.mark.parametrize("run", [on_another_thread, lambda call: call()], ids=["thread", "nested"])
def test_a_plain_call_in_the_middle_of_a_composed_one_is_plain(name, mode, where, run):
    cast = cast_of(name)
    model, *conditionings = cast.composed(mode=mode)
    plain, composed = plain_call(cast), sample(model, *conditionings, cfg=3.0)
    results, is_busy = [], threading.Event()

    def call_plainly(*_):
        if not is_busy.is_set():
            is_busy.set()
            results.append(run(lambda: plain_call(cast)))
            is_busy.clear()

    def wrapper(executor, *args, **kwargs):
        call_plainly()
        return executor(*args, **kwargs)

    hooks = []
    if where == "inside it":
        for module in inner_modules(cast.model.model.diffusion_model):
            hooks.append(module.register_forward_pre_hook(call_plainly))
    else:
        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "another pack", wrapper)
    try:
        assert torch.equal(sample(model, *conditionings, cfg=3.0), composed)
    finally:
        for hook in hooks:
            hook.remove()
    assert len(results) >= 2
    assert all(torch.equal(result, plain) for result in results)
    assert distance(plain_call(cast), plain) == 0


@modes
def test_two_threads_compose_at_the_same_time(name, mode):
    """Each waits in the middle of the network until the other one is there. They begin without
    noise, which the host draws from one generator of all threads.
    """
    cast = cast_of(name)
    regions = Regions((((0, 6), (6, 12)),)), OTHER_REGIONS
    calls = [
        functools.partial(
            sample, *cast.composed(regions=each, mode=mode), steps=1, disable_noise=True
        )
        for each in regions
    ]
    expected = [call() for call in calls]
    together = threading.Barrier(2, timeout=60)
    first = inner_modules(cast.model.model.diffusion_model)[0]
    results = [None, None]

    def wait(*_):
        together.wait()

    def run(number):
        with torch.inference_mode():
            results[number] = calls[number]()

    threads = [threading.Thread(target=run, args=(number,)) for number in (0, 1)]
    hook = first.register_forward_pre_hook(wait)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        hook.remove()
    assert all(map(torch.equal, results, expected))
