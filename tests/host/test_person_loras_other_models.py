"""A LoRA for each person on the host's other image models, against the host's own LoRA loader."""

import functools

import pytest
import torch
from vitruvian.tests.host.other_networks import OTHERS, is_known, make_model, text
from vitruvian.tests.host.test_person_loras import CLOSE, loaded, lora_of
from vitruvian.tests.host.transformer_compositions import Regions, compose, distance, sample

MODELS = [name for name in OTHERS if is_known(name)]
# experts read tokens of all rows together
EXACT_ONLY = ("ERNIE-Image", "PixArt", "HunyuanDiT", "HiDream")
CASES = [
    (name, mode)
    for name in MODELS
    for mode in ("exact", "couple")
    if mode == "exact" or name not in EXACT_ONLY
]
model_of = functools.cache(make_model)


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(autouse=True, scope="module")
def forgotten():
    """Let the MODELs go while the host still can."""
    yield
    model_of.cache_clear()


@pytest.mark.parametrize(("name", "mode"), CASES)
@pytest.mark.parametrize("owner", [0, 1])
def test_all_cells_one_persons_are_the_hosts_lora(name, mode, owner):
    model, size = model_of(name), OTHERS[name].size
    prompts = text(name, 1, 24), text(name, 2, 20)
    people = text(name, 3), text(name, 4, 33)
    loras = lora_of(model, 5), lora_of(model, 6, 0.7)
    spans = [(0, 0), (0, 0)]
    spans[owner] = (0, size[1])
    composed = compose(
        model,
        prompts,
        people,
        Regions((tuple(spans),), size[1]),
        mode=mode,
        shared_negative=mode == "couple",
        loras=tuple((lora,) for lora in loras),
    )
    value = sample(*composed, cfg=3.0, size=size)
    settings = people[owner], prompts[1]
    assert (
        distance(value, sample(loaded(model, loras[owner]), *settings, cfg=3.0, size=size)) < CLOSE
    )
    assert distance(value, sample(model, *settings, cfg=3.0, size=size)) > 0.01


@pytest.mark.skipif(not is_known("HiDream"), reason="this host does not know HiDream")
def test_experts_that_read_all_tokens_together_are_refused_in_couple():
    model, people = model_of("HiDream"), (text("HiDream", 3), text("HiDream", 4, 33))
    prompts = text("HiDream", 1, 24), text("HiDream", 2, 20)
    composed = compose(model, prompts, people, mode="couple", loras=((lora_of(model, 5),), ()))
    with pytest.raises(ValueError, match="^Compose Instances: .*not known where a person's LoRA"):
        sample(*composed, size=OTHERS["HiDream"].size)
