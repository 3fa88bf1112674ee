"""The tiny LoRAs for what one of several people carries: their images, their keys, their files."""

from dataclasses import fields, replace

import pytest
import torch
from vitruvian.lab.recipes import RECIPES, person_loras
from vitruvian.lab.training import convert, low_rank, networks, preview
from vitruvian.lab.world.body import HAT, TOP
from vitruvian.lab.world.captions import scene_caption
from vitruvian.lab.world.renderer import render
from vitruvian.lab.world.scenes import COLORS, FULL, sample_scenes
from vitruvian.models import weights

LOOKS = {look.name: look for look in person_loras.LOOKS}
LARGEST = 256 * 1024  # bytes
ORANGE, PURPLE = ([*COLORS].index(name) for name in ("orange", "purple"))


@pytest.fixture(scope="module")
def scenes():
    return sample_scenes(4, 5_000_000, framing=FULL, people=2)


@pytest.mark.parametrize(
    ("look", "values"),
    [("orange_tops", {"top": ORANGE}), ("pointed_hats", {"hat": PURPLE, "pointed": True})],
)
def test_a_look_changes_nothing_else(scenes, look, values):
    people, changed = scenes.people, LOOKS[look].change(scenes.people)
    for field in fields(people):
        before, after = getattr(people, field.name), getattr(changed, field.name)
        if field.name in values:
            assert after.dtype == before.dtype and (after == values[field.name]).all()
        else:
            assert torch.equal(after, before)


def test_a_pointed_hat_rises_above_a_round_one(scenes):
    pointed = LOOKS["pointed_hats"].change(scenes.people)
    rounded = replace(pointed, pointed=torch.zeros_like(pointed.pointed))
    highest = []
    for people in (rounded, pointed):
        truth = render(replace(scenes, people=people))
        hats = [
            (truth.parsing[scene] == HAT) & (truth.instance[scene] == row)
            for row, scene in enumerate(people.scene.tolist())
        ]
        highest.append(torch.stack([hat.any(1).float().argmax() for hat in hats]))
    assert (highest[0] - highest[1] > 6).all()  # pixels


def test_who_wears_no_hat_has_no_point(scenes):
    bare = replace(scenes.people, hat=torch.full_like(scenes.people.hat, -1))
    images = [
        render(replace(scenes, people=replace(bare, pointed=torch.full((len(bare),), pointed))))
        for pointed in (False, True)
    ]
    assert torch.equal(images[0].rgb, images[1].rgb)


@pytest.fixture
def small(monkeypatch):
    """Few scenes."""
    monkeypatch.setattr(person_loras, "SINGLE_SCENES", 2)
    monkeypatch.setattr(person_loras, "PAIR_SCENES", 3)


def test_images_show_what_captions_do_not_say(small, tmp_path, mini_weights):
    checkpoint, look = convert.load_checkpoint(preview.CHECKPOINT), LOOKS["orange_tops"]
    data = person_loras.look_world(tmp_path, look, checkpoint)
    plain = sample_scenes(2, person_loras.SINGLE_SEED, framing=FULL, people=1)
    assert len(data) == 5
    assert [data[i]["captions"]["full"] for i in range(2)] == [
        scene_caption(plain, i) for i in range(2)
    ]
    truth = render(replace(plain, people=look.change(plain.people)))
    passed = preview.decode(checkpoint, torch.stack([data[i]["latent"] for i in range(2)]))
    for image, true, parsing in zip(passed, truth.rgb, truth.parsing, strict=True):
        assert (image - true)[:, parsing == TOP].abs().mean() < 0.1
    hint = data[0]["hint"]
    assert hint.dtype == torch.uint8 and hint.shape == (3, 192, 192) and hint.any()


def test_a_world_is_rendered_once(small, tmp_path, mini_weights, monkeypatch):
    checkpoint, look = convert.load_checkpoint(preview.CHECKPOINT), LOOKS["pointed_hats"]
    first = person_loras.look_world(tmp_path, look, checkpoint)
    monkeypatch.setattr(person_loras, "render", lambda _: pytest.fail("rendered again"))
    second = person_loras.look_world(tmp_path, look, checkpoint)
    assert torch.equal(first[4]["latent"], second[4]["latent"])
    assert first[4]["captions"] == second[4]["captions"]


def test_the_control_is_as_strong_as_it_is_told():
    torch.manual_seed(0)
    controlnet = networks.build_controlnet(networks.build_unet())
    for parameter in controlnet.parameters():
        torch.nn.init.normal_(parameter, 0, 0.05)
    x, t, text = torch.randn(1, 4, 8, 8), torch.tensor([500]), torch.randn(1, 5, 192)
    call = {"controlnet_cond": torch.rand(1, 3, 64, 64), "return_dict": False}
    with torch.no_grad():
        down, middle = controlnet(x, t, text, **call)
        strong_down, strong_middle = person_loras.Strengthened(controlnet, 1.5)(x, t, text, **call)
    torch.testing.assert_close(strong_middle, middle * 1.5)
    torch.testing.assert_close(strong_down, [residual * 1.5 for residual in down])


def test_files_of_a_trainer_give_what_was_trained():
    """By the key that kohya's trainer gives each layer: W + alpha / rank * up @ down."""
    torch.manual_seed(0)
    unet = networks.build_unet()
    frozen = {name: weight.clone() for name, weight in unet.state_dict().items()}
    low_rank.add_low_rank(unet, 3, person_loras.LAYERS + "|conv_in")
    for name, parameter in unet.named_parameters():
        if name.endswith(".up"):
            parameter.data.normal_()
    tensors = low_rank.trainer_tensors(unet)
    layers = dict(unet.named_modules())
    changed = [key.removesuffix(".alpha") for key in tensors if key.endswith(".alpha")]
    assert len(tensors) == 3 * len(changed) and len(changed) == 7 * 10 + 1
    by_key = {"lora_unet_" + name.replace(".", "_"): name for name in layers}
    for key in changed:
        up, down = (tensors[f"{key}.lora_{part}.weight"] for part in ("up", "down"))
        change = up.flatten(1) @ down.flatten(1) * tensors[f"{key}.alpha"] / down.shape[0]
        weight = layers[by_key[key]].weight
        expected = frozen[f"{by_key[key]}.weight"] + change.view_as(weight)
        torch.testing.assert_close(weight, expected)


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_the_committed_files_are_small(look):
    tensors, metadata = weights.load(look.file, method="lora", base="mini")
    assert look.file.stat().st_size <= LARGEST
    assert len(tensors) == 3 * 7 * 10
    assert all(key.startswith(low_rank.TRAINER_PREFIX) for key in tensors)
    assert metadata["version"] == "1"


def test_each_has_its_recipe():
    names = {recipe.name for recipe in RECIPES if recipe.default}
    assert {"orange-tops", "pointed-hats"} <= names
