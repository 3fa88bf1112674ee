"""What the benchmark of families counts: operations and attention without values."""

import comfy.supported_models
import pytest
import torch
from comfy.ldm.modules.attention import attention_basic
from torch.utils.flop_counter import FlopCounterMode
from vitruvian.host import compose
from vitruvian.host.sampling import run_as_sampler
from vitruvian.lab.benchmarks import counting, families, networks

pytestmark = pytest.mark.skipif(
    not hasattr(comfy.supported_models, "ZImage"), reason="benchmarks run on newer hosts"
)
BYTES = 2  # of a bfloat16
# billions, as their publishers say
PARAMETERS = {"sdxl": 2.6, "flux1": 12, "flux2_dev": 32, "qwen_image": 20, "z_image": 6.15}


@pytest.fixture
def small(monkeypatch):
    """The MODEL, the prompt and the latent of a family whose true network is the tiny one."""

    def make(key):
        family = networks.FAMILIES[key]
        tiny = family._replace(
            config={**family.config, **family.tiny},
            tokens=networks.TINY_TOKENS,
            width=family.tiny_width,
            pooled=family.tiny_pooled if family.pooled else 0,
        )
        monkeypatch.setitem(networks.FAMILIES, key, tiny)
        model = networks.true_network(key)
        latent = networks.empty_latent(model, 128)["samples"]
        return model, networks.prompt(key), latent

    return make


@pytest.mark.parametrize("key", ["sd15", "flux1", "z_image"])
def test_as_much_is_counted_as_in_a_network_with_values(key, small):
    model, prompt, latent = small(key)
    counted = counting.cost(model, prompt, prompt, latent).operations
    real = networks.tiny_network(key)
    options = real.model_options["transformer_options"]
    options[counting.OVERRIDE] = lambda _, *args, **kwargs: attention_basic(*args, **kwargs)
    counter = FlopCounterMode(display=False)

    def call(denoise, x, sigmas, extra_args, **_):
        with counter:
            return denoise(x, sigmas[:1], **extra_args)

    with torch.inference_mode():
        run_as_sampler(real, call, latent, (prompt, prompt), 0.5)
    assert counted == counter.get_total_flops()


def test_a_person_more_is_a_row_more_or_a_text_and_a_mask_more(small):
    model, prompt, latent = small("flux1")
    alone = counting.cost(model, prompt, prompt, latent)
    people = [prompt] * 3
    exact = families.composition(model, people, families.columns(3), compose.EXACT)
    couple = families.composition(model, people, families.columns(3), compose.COUPLE)
    assert counting.cost(*exact, latent).operations == pytest.approx(3 * alone.operations, rel=0.05)
    image, width = 8 * 8, networks.FAMILIES["flux1"].config["hidden_size"]
    one, three = (image + count * networks.TINY_TOKENS for count in (1, 3))
    assert alone.attention_bytes == 3 * one * width * BYTES
    mask = three**2 * BYTES
    assert counting.cost(*couple, latent).attention_bytes == 3 * three * width * BYTES + mask


@pytest.mark.parametrize("key", ["sd15", "flux1"])
@pytest.mark.parametrize("count", [2, 6])
def test_more_people_take_hardly_more_memory(small, key, count):
    model, prompt, latent = small(key)
    plain = counting.cost(model, prompt, prompt, latent).peak_bytes
    people = families.composition(model, [prompt] * count, families.columns(count), compose.EXACT)
    assert counting.cost(*people, latent).peak_bytes < 1.5 * plain


def test_the_peak_is_of_tensors_that_live_at_once():
    meta = {"device": "meta", "dtype": torch.float32}
    weight = torch.empty(100, 100, **meta)
    with counting.PeakBytes([weight]) as peak:
        first = torch.empty(100, 100, **meta)  # 40,000 bytes
        second = first @ weight.T  # as many; a view of a weight is none of them
        half = second[:50]
        del first
        third = second + 1
        del second
        fourth = torch.cat((half, third))  # 60,000 more, beside what half looks into
    assert peak.peak == 40_000 * 2 + 60_000
    assert peak.bytes == peak.peak
    del half, third, fourth
    assert peak.bytes == 0


@pytest.mark.parametrize("key", PARAMETERS)
def test_true_networks_are_as_large_as_published(key):
    weights = networks.true_network(key).model.diffusion_model.parameters()
    billions = sum(weight.numel() for weight in weights) / 1e9
    assert billions == pytest.approx(PARAMETERS[key], rel=0.03)


def test_other_prompts_than_the_composed_ones_show_in_the_error():
    """The slow loop must tell prompts apart, or its error would mean nothing."""
    key = "flux1"
    model = networks.tiny_network(key)
    people = [networks.prompt(key, tiny=True, seed=seed) for seed in (0, 1)]
    latent = networks.empty_latent(model, 128)["samples"]
    shares = torch.zeros(2, families.TINY_CELLS, families.TINY_CELLS)
    shares[0, :, :8], shares[1, :, 8:] = 1, 1
    composed = families.composition(model, people[::-1], shares, compose.EXACT)
    expected = families.one_by_one(key, model, people, shares, latent)
    assert families.distance(families.denoise(*composed, latent), expected) > 0.01
