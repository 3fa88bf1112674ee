"""Tags of LoRAs in a person's text: what is read, which file is meant, what an error says."""

import pytest
from vitruvian.models.lora_tags import LoraTag, find_file, has_tag, is_loaded, read_tags

NAMES = [
    "arthur.safetensors",
    "knights/Lancelot v1.2.safetensors",
    "knights/arthur_old.safetensors",
    "windows\\nun.safetensors",
    "pickle.pt",
    "twice/hat.safetensors",
    "other/hat.safetensors",
    "both.ckpt",
    "both.safetensors",
]


def tag(name):
    return LoraTag(f"<lora:{name}>", name, 1.0, 1.0)


@pytest.mark.parametrize(
    "text, words, numbers",
    [
        ("a knight <lora:arthur>", "a knight", (1, 1)),
        ("a knight <lora:arthur:0.8>", "a knight", (0.8, 0.8)),
        ("a knight <lora:arthur:0.8:0.5>", "a knight", (0.8, 0.5)),
        ("a knight <lora:arthur:-.5:1.>", "a knight", (-0.5, 1)),
        ("<lora:arthur:+2>, a knight", "a knight", (2, 2)),
        ("a knight, <LoRA: arthur : 0.8 >, red hair", "a knight, red hair", (0.8, 0.8)),
        ("a knight < lora:arthur:100> in armor", "a knight in armor", (100, 100)),
        ("a knight,<lyco:arthur:0>red hair,", "a knight, red hair,", (0, 0)),
        ("<lora:arthur:1:0>", "", (1, 0)),
    ],
)
def test_a_tag_is_read_and_taken_out(text, words, numbers):
    text_left, (one,) = read_tags(text)
    assert text_left == words
    assert (one.name, one.strength, one.strength_clip) == ("arthur", *numbers)
    assert one.text in text


def test_several_tags_keep_their_order():
    words, tags = read_tags("<lora:b:0.5> a nun <lora:a b.c> in red <lora:sub/a:1:2>")
    assert words == "a nun in red"
    assert [(t.name, t.strength, t.strength_clip) for t in tags] == [
        ("b", 0.5, 0.5),
        ("a b.c", 1, 1),
        ("sub/a", 1, 2),
    ]


@pytest.mark.parametrize(
    "text", ["a  knight , , <3 (smiling:1.2)", "lora:arthur", "<lorax:1>", "a < b, lora: c >", ""]
)
def test_other_texts_stay_as_they_are(text):
    assert not has_tag(text)
    assert read_tags(text) == (text, ())


@pytest.mark.parametrize(
    "text, error",
    [
        ("a knight <lora:arthur:0.8", "<lora:arthur:0.8 has no end"),
        ("a <lora:one <lora:two>", "<lora:one has no end"),
        ("a <lora:>", "<lora:> names no file"),
        ("a <lora: :1>", "<lora: :1> names no file"),
        ("a <lora:arthur:strong>", "<lora:arthur:strong> has 'strong' for a number"),
        ("a <lora:arthur:0,8>", "'0,8'"),
        ("a <lora:arthur:>", "<lora:arthur:> has '' for a number"),
        ("a <lora:arthur:nan>", "'nan'"),
        ("a <lora:arthur:1e3>", "'1e3'"),
        ("a <lora:arthur:te=1>", "'te=1'"),
        ("a <lora:arthur:1:1:1>", "has 3 parts behind the name"),
        ("a <lora:arthur:1:-100.5>", "the strength -100.5, but it is between -100 and 100"),
    ],
)
def test_a_tag_that_can_not_be_read_is_quoted(text, error):
    assert has_tag(text)
    with pytest.raises(ValueError) as caught:
        read_tags(text)
    assert error in str(caught.value)


@pytest.mark.parametrize(
    "name, file",
    [
        ("arthur", "arthur.safetensors"),
        ("arthur.safetensors", "arthur.safetensors"),
        ("ARTHUR.SafeTensors", "arthur.safetensors"),
        ("lancelot V1.2", "knights/Lancelot v1.2.safetensors"),
        ("knights/lancelot v1.2", "knights/Lancelot v1.2.safetensors"),
        ("knights\\Lancelot v1.2.safetensors", "knights/Lancelot v1.2.safetensors"),
        ("arthur_old", "knights/arthur_old.safetensors"),
        ("windows/nun", "windows\\nun.safetensors"),
        ("NUN", "windows\\nun.safetensors"),
        ("twice/hat", "twice/hat.safetensors"),
        ("pickle", "pickle.pt"),
        ("both", "both.safetensors"),
        ("both.ckpt", "both.ckpt"),
    ],
)
def test_a_file_is_meant_by_its_name(name, file):
    assert find_file(tag(name), NAMES) == file


def test_letter_case_decides_where_it_can():
    names = ["Hat.safetensors", "hat.safetensors", "sub/HAT.safetensors"]
    for name in ("Hat", "hat", "sub/HAT"):
        assert find_file(tag(name), names) == f"{name}.safetensors"
    with pytest.raises(ValueError, match="fits 2 files"):
        find_file(tag("hAT"), names)


@pytest.mark.parametrize(
    "name, error",
    [
        ("artur", "<lora:artur> names no file in models/loras. Near it are arthur.safetensors"),
        ("lancelot", "Near it are knights/Lancelot v1.2.safetensors"),
        ("v1.2", "No name there is near it"),
        ("thur", "Near it are arthur.safetensors"),
        ("wrong/arthur", "<lora:wrong/arthur> names no file"),
        ("../arthur", "<lora:../arthur> names no file"),
        ("hat", "fits 2 files in models/loras: other/hat.safetensors, twice/hat.safetensors"),
    ],
)
def test_a_name_without_a_file_is_quoted_with_those_near(name, error):
    with pytest.raises(ValueError) as caught:
        find_file(tag(name), NAMES)
    assert error in str(caught.value)


def test_an_empty_folder_is_said():
    with pytest.raises(ValueError, match="There is no file at all"):
        find_file(tag("arthur"), [])


def test_only_safetensors_are_loaded():
    assert all(is_loaded(f"x.{ending}") for ending in ("safetensors", "SFT"))
    assert not any(is_loaded(f"x.{ending}") for ending in ("pt", "ckpt", "safetensors.pt", ""))
