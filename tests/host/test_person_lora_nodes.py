"""What an artist gives a person beside a prompt: LoRAs by node, tag or hook, and references."""

import os

import comfy.hooks
import comfy.lora
import comfy.sd
import folder_paths
import pytest
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from comfy_extras.nodes_hooks import SetClipHooks
from safetensors.torch import save_file
from vitruvian.host.registration import register
from vitruvian.models.compose import Instance, PersonLora
from vitruvian.nodes import compose as ours
from vitruvian.nodes import person_loras
from vitruvian.nodes.instances import (
    VitruvianAddInstance,
    VitruvianInstancesFromBoxes,
    VitruvianInstancesFromMasks,
    VitruvianInstancesFromText,
)
from vitruvian.nodes.person_loras import VitruvianLoadPersonLoRA

import nodes as core

register()
SIZE = 64
SETTINGS = {
    "mode": "exact",
    "strength": 1.0,
    "harmony": 0.5,
    "dilation": 0.06,
    "start_percent": 0.0,
    "end_percent": 1.0,
    "background_prompt": ours.MEAN,
    "shared_negative": False,
}
EVERYWHERE = torch.ones(1, SIZE, SIZE)


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture
def model(loaded):
    return loaded[0]


@pytest.fixture
def clip(loaded):
    return loaded[1]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder of LoRAs, the only one that the host knows."""
    kinds = folder_paths.supported_pt_extensions
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], kinds))
    folder_paths.filename_list_cache.pop("loras", None)
    yield tmp_path
    folder_paths.filename_list_cache.pop("loras", None)


def tensors_of(model, clip, seed=0):
    """A LoRA of one layer of the text encoder and one of the network, by the host's names."""
    g = torch.Generator().manual_seed(seed)
    names = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})
    name = "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1"
    weight = dict(clip.cond_stage_model.state_dict())[names[name]]
    layer = next(
        key.removesuffix(".weight")
        for key, value in model.model.state_dict().items()
        if key.endswith(".attn2.to_q.weight") and value.dim() == 2
    )
    shapes = {name: weight.shape, layer: model.model.state_dict()[f"{layer}.weight"].shape}
    return {
        f"{key}.lora_{part}.weight": torch.randn(shape, generator=g)
        for key, (out, inner) in shapes.items()
        for part, shape in (("up", (out, 2)), ("down", (2, inner)))
    }


@pytest.fixture
def arthur(folder, model, clip):
    """A LoRA file in a folder of its own, and its tensors."""
    (folder / "knights").mkdir()
    tensors = tensors_of(model, clip)
    save_file(tensors, folder / "knights" / "Arthur.safetensors")
    return "knights/Arthur.safetensors", tensors


def load(name, strength_model=0.8, strength_clip=0.5, **inputs):
    return VitruvianLoadPersonLoRA.execute(name, strength_model, strength_clip, **inputs).result


def same_tensors(ours, expected):
    return ours.keys() == expected.keys() and all(torch.equal(ours[k], expected[k]) for k in ours)


def encoded(clip, text):
    return core.CLIPTextEncode().encode(clip, text)[0]


def patched(clip, tensors, strength):
    return comfy.sd.load_lora_for_models(None, clip, tensors, 0.0, strength)[1]


# ---- the loader


def test_a_file_is_loaded_for_one_person(arthur, clip):
    name, tensors = arthur
    (lora,), encoder = load(name, clip=clip)
    assert (lora.name, lora.strength, lora.strength_clip) == (name, 0.8, 0.5)
    assert same_tensors(lora.tensors, tensors)
    text = encoded(encoder, "a knight")[0][0]
    assert torch.equal(text, encoded(patched(clip, tensors, 0.5), "a knight")[0][0])
    assert not torch.allclose(text, encoded(clip, "a knight")[0][0], atol=1e-2)


def test_loras_are_chained_in_their_order(arthur, clip):
    name, tensors = arthur
    first, encoder = load(name, clip=clip)
    chain, encoder = load(name, -1.0, 0.25, clip=encoder, lora=first)
    assert [(lora.strength, lora.strength_clip) for lora in chain] == [(0.8, 0.5), (-1.0, 0.25)]
    expected = patched(patched(clip, tensors, 0.5), tensors, 0.25)
    texts = encoded(encoder, "a knight")[0][0], encoded(expected, "a knight")[0][0]
    torch.testing.assert_close(*texts, atol=1e-5, rtol=1e-5)
    assert len(first) == 1


def test_without_a_clip_the_output_says_what_is_missing(arthur):
    blocked = load(arthur[0])[1]
    assert isinstance(blocked, ExecutionBlocker)
    assert "Load Person LoRA" in blocked.message and "its input clip is not" in blocked.message


def test_a_file_is_read_once_until_it_changes(arthur, folder):
    name, tensors = arthur
    (first,), (again,) = load(name)[0], load(name, 0.1)[0]
    assert first.tensors is again.tensors
    before = VitruvianLoadPersonLoRA.fingerprint_inputs(name, strength_model=1.0)
    assert before == VitruvianLoadPersonLoRA.fingerprint_inputs(name, strength_model=2.0)
    changed = {key: value + 1 for key, value in tensors.items()}
    save_file(changed, folder / "new.safetensors")
    os.replace(folder / "new.safetensors", folder / name)
    os.utime(folder / name, ns=(1, 1))
    (fresh,) = load(name)[0]
    assert same_tensors(fresh.tensors, changed) and same_tensors(first.tensors, tensors)
    assert before != VitruvianLoadPersonLoRA.fingerprint_inputs(name, strength_model=1.0)


@pytest.mark.parametrize("missing", ["nobody.safetensors", "../Arthur.safetensors", ""])
def test_a_missing_file_is_named(arthur, missing):
    with pytest.raises(ValueError, match=f"^Load Person LoRA: there is no file {missing}"):
        load(missing)
    VitruvianLoadPersonLoRA.fingerprint_inputs(missing, strength_model=1.0)


@pytest.mark.parametrize("ending", [".pt", ".ckpt", ".safetensors.bin"])
def test_another_ending_is_refused_before_it_is_read(folder, ending):
    (folder / f"old{ending}").write_bytes(b"a pickle")
    with pytest.raises(ValueError, match=f"^Load Person LoRA: old{ending} is no .safetensors file"):
        load(f"old{ending}")


@pytest.mark.parametrize("broken", ["half", "header", "empty", "nan"])
def test_a_damaged_file_is_named(arthur, folder, broken):
    name, tensors = arthur
    content = (folder / name).read_bytes()
    path = folder / f"{broken}.safetensors"
    if broken == "nan":
        save_file({key: value * float("nan") for key, value in tensors.items()}, path)
    else:
        path.write_bytes(content[: {"half": len(content) // 2, "header": 30, "empty": 0}[broken]])
    with pytest.raises(ValueError, match=f"^Load Person LoRA: .*{broken}.safetensors: expected"):
        load(path.name)


# ---- tags


def from_text(clip, prompts, **inputs):
    return VitruvianInstancesFromText.execute(clip, prompts, "in a park", "", **inputs).result[0]


def from_masks(clip, prompts):
    masks = EVERYWHERE.repeat(2, 1, 1)
    return VitruvianInstancesFromMasks.execute(clip, prompts, "in a park", "", masks).result[0]


def from_boxes(clip, prompts):
    bboxes = [{"x": 0, "y": 0, "width": 20, "height": 64}] * 2
    return VitruvianInstancesFromBoxes.execute(
        clip, prompts, "in a park", "", bboxes, SIZE, SIZE, "as listed"
    ).result[0]


SOURCES = pytest.mark.parametrize("make", [from_text, from_masks, from_boxes])


@SOURCES
def test_a_tag_in_a_line_is_a_lora_of_that_person(arthur, clip, make):
    name, tensors = arthur
    knight, nun = make(clip, "a knight <lora:arthur:0.8:0.5>\na nun")
    (lora,) = knight.loras
    assert (lora.name, lora.strength, lora.strength_clip) == (name, 0.8, 0.5)
    assert same_tensors(lora.tensors, tensors)
    assert (knight.name, nun.name, nun.loras) == ("a knight", "a nun", ())
    words = "a knight in a park"
    expected = encoded(patched(clip, tensors, 0.5), words)[0][0]
    assert torch.equal(knight.conditioning[0][0], expected)
    assert not torch.allclose(expected, encoded(clip, words)[0][0], atol=1e-2)
    assert torch.equal(nun.conditioning[0][0], encoded(clip, "a nun in a park")[0][0])


def test_several_tags_act_in_their_order(arthur, folder, model, clip):
    other = tensors_of(model, clip, seed=1)
    save_file(other, folder / "hat.safetensors")
    (knight,) = from_text(clip, "<lora:hat:2:0> a knight <lora:knights/Arthur>")
    assert [(lora.name, lora.strength_clip) for lora in knight.loras] == [
        ("hat.safetensors", 0.0),
        ("knights/Arthur.safetensors", 1.0),
    ]
    expected = encoded(patched(clip, arthur[1], 1.0), "a knight in a park")[0][0]
    torch.testing.assert_close(knight.conditioning[0][0], expected, atol=1e-5, rtol=1e-5)


def test_a_line_of_a_tag_alone_has_the_setting(arthur, clip):
    (knight,) = from_text(clip, "<lora:arthur:1:0>")
    assert knight.name == "" and len(knight.loras) == 1
    assert torch.equal(knight.conditioning[0][0], encoded(clip, "in a park")[0][0])


@SOURCES
@pytest.mark.parametrize(
    "tag, words",
    [
        ("<lora:artur:0.8>", "Near it are knights/Arthur.safetensors"),
        ("<lora:arthur:strong>", "has 'strong' for a number"),
        ("<lora:arthur", "has no end"),
        ("<lora:half>", "half.safetensors: expected a LoRA in a complete .safetensors file"),
        ("<lora:old>", "old.pt is no .safetensors file"),
    ],
)
def test_a_tag_that_can_not_be_used_is_quoted_with_its_line(arthur, folder, clip, make, tag, words):
    (folder / "half.safetensors").write_bytes(b"1234567")
    (folder / "old.pt").write_bytes(b"a pickle")
    with pytest.raises(ValueError, match="line 2 of the input 'prompts': ") as caught:
        make(clip, f"a knight\na nun {tag}")
    text = str(caught.value)
    assert text.startswith("Instances from ") and words in text
    assert tag in text or "safetensors file" in text


@SOURCES
@pytest.mark.parametrize("name", ["setting", "quality"])
def test_a_tag_for_everybody_is_refused(arthur, clip, make, name):
    node = {
        from_text: VitruvianInstancesFromText,
        from_masks: VitruvianInstancesFromMasks,
        from_boxes: VitruvianInstancesFromBoxes,
    }[make]
    texts = {"setting": "", "quality": "", name: "in a park <lora:arthur>"}
    more = {
        from_text: (),
        from_masks: (EVERYWHERE,),
        from_boxes: ([{"x": 0, "y": 0, "width": 20, "height": 64}], SIZE, SIZE, "as listed"),
    }[make]
    with pytest.raises(ValueError, match=f"the input '{name}' names a LoRA"):
        node.execute(clip, "a knight", texts["setting"], texts["quality"], *more)


def test_texts_without_tags_need_no_file(folder, clip):
    (knight,) = from_text(clip, "a knight <3 (in armor:1.2)")
    assert knight.name == "a knight <3 (in armor:1.2)" and knight.loras == ()


# ---- Add Instance


def add(conditioning, **inputs):
    return VitruvianAddInstance.execute(conditioning, 0, 0, 1.0, EVERYWHERE, **inputs).result[0]


def test_an_instance_carries_loras_and_a_reference(arthur, clip):
    lora, encoder = load(arthur[0], clip=clip)
    latent = torch.randn(1, 16, 8, 8)
    (knight,) = add(encoded(encoder, "a knight"), lora=lora, reference={"samples": latent})
    assert knight.loras == lora
    assert len(knight.references) == 1 and knight.references[0] is latent


@pytest.mark.parametrize("shape", [(1, 16, 8, 8), (1, 16, 1, 8, 8), (3, 4, 5, 6)])
def test_latents_of_images_are_references(clip, shape):
    (knight,) = add(encoded(clip, "a knight"), reference={"samples": torch.zeros(shape)})
    assert knight.references[0].shape == shape


@pytest.mark.parametrize("shape", [(1, 16, 2, 8, 8), (16, 8, 8), (1, 16, 0, 8), None])
def test_other_latents_are_refused(clip, shape):
    latent = {"samples": torch.zeros(shape)} if shape else None
    with pytest.raises(ValueError, match="^Add Instance: the input 'reference' can not be used"):
        add(encoded(clip, "a knight"), reference=latent or {})


def hooked(conditioning, hooks):
    return [[text, {**entry, "hooks": hooks}] for text, entry in conditioning]


def test_loras_that_come_as_hooks_are_carried(arthur, model, clip):
    name, tensors = arthur
    hooks = comfy.hooks.create_hook_lora(tensors, 0.7, 0.0)
    prompt = hooked(encoded(clip, "a knight"), hooks)
    (knight,) = add(prompt, lora=load(name)[0])
    from_hook, from_file = knight.loras
    assert from_hook.strength == 0.7 and same_tensors(from_hook.tensors, tensors)
    assert from_file.name == name
    assert "hooks" not in knight.conditioning[0][1] and "hooks" in prompt[0][1]


def test_hooks_of_the_text_encoder_are_carried_from_lines(arthur, clip):
    hooks = comfy.hooks.create_hook_lora(arthur[1], 0.7, 0.5)
    with_hooks = SetClipHooks().apply_hooks(clip, False, True, hooks)[0]
    knight, nun = from_text(with_hooks, "a knight\na nun <lora:arthur:0.2>")
    assert [lora.strength for lora in knight.loras] == [0.7]
    assert [lora.strength for lora in nun.loras] == [0.7, 0.2]
    expected = encoded(patched(clip, arthur[1], 0.5), "a knight in a park")[0][0]
    torch.testing.assert_close(knight.conditioning[0][0], expected, atol=1e-5, rtol=1e-5)


def test_other_hooks_are_refused_by_name(clip):
    group = comfy.hooks.HookGroup()
    group.add(comfy.hooks.TransformerOptionsHook())
    with pytest.raises(ValueError, match="^Add Instance: the input 'conditioning' carries hooks"):
        add(hooked(encoded(clip, "a knight"), group))


# ---- Compose Instances and Preview Instances


def composed(loaded, instances, **inputs):
    prompt = encoded(loaded[1], "two people in a park")
    settings = {**SETTINGS, **inputs}
    return ours.VitruvianComposeInstances.execute(
        loaded[0], prompt, prompt, instances, **settings
    ).result


def composition_of(monkeypatch, loaded, instances):
    """The composition that Compose Instances makes of the instances."""
    compositions = []
    monkeypatch.setattr(
        ours.host,
        "compose_model",
        lambda model, composition: compositions.append(composition) or model,
    )
    composed(loaded, instances)
    return compositions[0]


def lora(name="arthur.safetensors", strength=0.8):
    return PersonLora(name, {}, strength, 1.0)


def test_the_composition_knows_what_each_person_carries(monkeypatch, loaded):
    stored, first, second = torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 8, 8), torch.ones(1, 4, 4, 4)
    text = encoded(loaded[1], "a knight")
    referenced = [[words, {**conds, "reference_latents": [stored]}] for words, conds in text]
    loras = lora(), lora("hat.safetensors")
    masks = torch.zeros(2, 1, SIZE, SIZE)
    masks[0, ..., :32], masks[1, ..., 32:] = 1, 1
    instances = (
        Instance(referenced, 0, masks[0], loras=loras, references=(first, second)),
        Instance(text, 0, masks[1]),
    )
    composition = composition_of(monkeypatch, loaded, instances)
    assert composition.loras == (loras, ())
    latents = composition.people[0][1]["reference_latents"]
    assert [x is y for x, y in zip(latents, (stored, first, second), strict=True)] == [True] * 3
    assert referenced[0][1]["reference_latents"] == [stored]
    assert composition.people[1] is text[0]


def test_person_masks_are_the_places_of_each_person(loaded):
    masks = torch.zeros(2, 1, SIZE, SIZE)
    masks[0, ..., :40], masks[1, ..., 32:] = 1, 1
    text = encoded(loaded[1], "a knight")
    people = Instance(text, 0, masks[0]), Instance(text, 0, masks[1], order=1)
    left = masks[0] * (1 - masks[1])
    assert torch.equal(composed(loaded, people)[3], torch.cat((left, masks[1])))


def test_the_report_names_loras_and_counts_references():
    text = [[torch.zeros(1, 77, 192), {"reference_latents": [torch.zeros(1, 4, 8, 8)]}]]
    masks = torch.zeros(3, 1, SIZE, SIZE)
    for number, mask in enumerate(masks):
        mask[..., 16 * number : 16 * number + 16] = 1
    latent = torch.zeros(1, 4, 8, 8)
    instances = (
        Instance(text, 0, masks[0], name="a knight", loras=(lora(), lora("b", -1.0))),
        Instance(text, 0, masks[1], name="a nun", references=(latent,)),
        Instance([[text[0][0], {}]], 0, masks[2], name="a dog"),
    )
    report = ours.VitruvianPreviewInstances.execute(instances, 0, 0, 0.0).result[2]
    assert report.splitlines() == [
        "1: 25 % a knight [LoRA arthur.safetensors 0.8, LoRA b -1, 1 reference image]",
        "2: 25 % a nun [2 reference images]",
        "3: 25 % a dog",
    ]


def test_menus_list_what_the_hosts_loader_lists(arthur, folder):
    (folder / "old.pt").write_bytes(b"")
    folder_paths.filename_list_cache.pop("loras", None)
    assert person_loras.lora_names() == core.LoraLoader.INPUT_TYPES()["required"]["lora_name"][0]
    (combo,) = [
        entry for entry in VitruvianLoadPersonLoRA.define_schema().inputs if entry.id == "lora_name"
    ]
    assert combo.options == person_loras.lora_names() == [arthur[0], "old.pt"]
