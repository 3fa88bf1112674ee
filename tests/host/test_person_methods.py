"""The pack's other methods for one of several composed people: an appearance, and a hand that is
generated first.
"""

import pytest
import torch
from vitruvian.host.registration import register
from vitruvian.lab.neighbors import strengths as methods
from vitruvian.models import semantic_map
from vitruvian.models.compose import Instance, instance_frames
from vitruvian.nodes.appearance import VitruvianApplyAppearance
from vitruvian.tests.host.transformer_compositions import Regions, compose

import nodes as core

register()
CELLS, PIXELS = 16, 128
HALVES = Regions((((0, 8), (8, 16)),), CELLS)
modes = pytest.mark.parametrize("mode", ["exact", "layers", "couple"])


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def encode(loaded, words):
    return core.CLIPTextEncode().encode(loaded[1], words)[0]


def composed(loaded, model, mode, second="a woman with a blue top"):
    prompts = encode(loaded, "two people"), encode(loaded, "")
    people = [encode(loaded, "a man with a red top"), encode(loaded, second)]
    return compose(model, prompts, people, HALVES, mode=mode)


def sample(model, positive, negative, latent=None, steps=2):
    latent = latent or {"samples": torch.zeros(1, 4, CELLS, CELLS)}
    return core.common_ksampler(
        model, 7, steps, 4.0, "euler", "normal", positive, negative, latent
    )[0]["samples"]


def mask_of_first():
    """Return the mask that Compose Instances gives for the first person."""
    areas = HALVES.masks(PIXELS, PIXELS)[0]
    instances = tuple(Instance([], 0, area[None]) for area in areas)
    return instance_frames(instances).person_masks(0.0)[:1]


def dressed(model, mask):
    labels = torch.full((1, 40, 40), semantic_map.TOP).byte()
    return VitruvianApplyAppearance.execute(
        model, methods.random_appearance(model), methods.parts(), labels, 1.0, 1.0, 0.0, 1.0, mask
    ).result[0]


@modes
@pytest.mark.parametrize("is_before", [True, False])
def test_an_appearance_of_one_of_two_people(loaded, mode, is_before):
    model = loaded[0]

    def image(mask):
        if is_before:
            return sample(*composed(loaded, dressed(model, mask), mode), steps=1)
        people, *conds = composed(loaded, model, mode)
        return sample(dressed(people, mask), *conds, steps=1)

    plain = sample(*composed(loaded, model, mode), steps=1)
    assert torch.equal(image(torch.zeros(1, PIXELS, PIXELS)), plain)
    change = (image(mask_of_first()) - plain).abs()
    assert float(change[..., :8].mean()) > 3 * float(change[..., 8:].mean())
    assert float(change[..., :8].max()) > 1e-2


@modes
def test_a_hand_of_one_person_is_generated_first_and_everybody_around_it(loaded, mode):
    hand = sample(*methods.apply_hand_generator(loaded[0], *methods.prompts(loaded[1]))[:3])
    around = torch.ones(1, PIXELS, PIXELS)
    around[:, 40:72, 8:40] = 0  # the hand, in the place of the first person
    latent = {"samples": hand, "noise_mask": around[:, None]}
    image = sample(*composed(loaded, loaded[0], mode), latent)
    other = sample(*composed(loaded, loaded[0], mode, "a dog"), latent)
    torch.testing.assert_close(image[..., 5:9, 1:5], hand[..., 5:9, 1:5])
    assert float((image - hand)[..., 10:, :].abs().max()) > 0.1
    change = (image - other).abs()
    assert float(change[..., 8:].max()) > 1e-2
    assert float(change[..., 5:9, 1:5].max()) < 1e-5
