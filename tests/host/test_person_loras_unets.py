"""A LoRA for each person on networks of the shape of SD1.5, SD2 and SDXL: against the host's own
LoRA loader, which changes the weights.
"""

import pytest
import torch
from vitruvian.tests.host.test_person_loras import ALL_OF, CLOSE, loaded, lora_of
from vitruvian.tests.host.transformer_compositions import Regions, compose, distance, sample

modes = pytest.mark.parametrize("mode", ["exact", "layers", "couple"])
LATENT = {"size": (8, 12), "cfg": 3.0}


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture
def prompts(family, random_text):
    return random_text(family[0], 1), random_text(family[0], 2)


@pytest.fixture
def people(family, random_text):
    return random_text(family[0], 3), random_text(family[0], 4)


@modes
@pytest.mark.parametrize("shared_negative", [True, False])
@pytest.mark.parametrize("owner", [0, 1])
def test_all_cells_one_persons_are_the_hosts_lora(
    family, prompts, people, mode, owner, shared_negative
):
    model = family[0]
    loras = lora_of(model, 5), lora_of(model, 6, 0.7)
    composed = compose(
        model,
        prompts,
        people,
        ALL_OF[owner],
        mode=mode,
        shared_negative=shared_negative,
        loras=tuple((lora,) for lora in loras),
    )
    value = sample(*composed, **LATENT)
    expected = sample(loaded(model, loras[owner]), people[owner], prompts[1], **LATENT)
    assert distance(value, expected) < CLOSE
    assert distance(value, sample(model, people[owner], prompts[1], **LATENT)) > 0.01


@modes
def test_the_same_lora_for_everybody_is_that_lora_on_the_model(family, prompts, people, mode):
    model, lora = family[0], lora_of(family[0], 5)
    settings = {"regions": Regions((((0, 8), (4, 12)),)), "mode": mode, "harmony": 1.0}
    value = sample(*compose(model, prompts, people, **settings, loras=((lora,), (lora,))), **LATENT)
    on_model = compose(loaded(model, lora), prompts, people, **settings)
    assert distance(value, sample(*on_model, **LATENT)) < CLOSE


@modes
def test_strength_0_is_no_lora_bit_for_bit(family, prompts, people, mode):
    model = family[0]
    composed = compose(model, prompts, people, mode=mode, loras=((lora_of(model, 5, 0.0),), ()))
    plain = compose(model, prompts, people, mode=mode)
    assert torch.equal(sample(*composed, **LATENT), sample(*plain, **LATENT))
