"""What the mini weights of appearance are made from, and that they know colours by name."""

from itertools import product

import pytest
import torch
from vitruvian.lab.recipes import dressed
from vitruvian.lab.recipes import memory as memory_recipe
from vitruvian.lab.recipes import part_encoder as encoder_recipe
from vitruvian.lab.training import convert, part_encoder, preview
from vitruvian.lab.world.captions import scene_caption
from vitruvian.lab.world.figure import BOTTOM, HAT, TOP
from vitruvian.lab.world.renderer import render
from vitruvian.lab.world.scenes import BOTTOMS, COLOURS, FULL, PATTERNS, sample_scenes
from vitruvian.models import memory, memory_file, part_crops, semantic_map
from vitruvian.models.phrases import split_phrases

COUNT = 60


@pytest.fixture(scope="module")
def scenes():
    return sample_scenes(COUNT, 4_000_000, framing=FULL, people=1)


@pytest.fixture(scope="module")
def truth(scenes):
    return render(scenes)


def test_a_fifth_is_held_out_and_everything_else_is_seen():
    every = set(product(COLOURS, PATTERNS, dressed.GARMENTS))
    assert len(dressed.HELD_OUT) == len(every) / 5
    for k in range(3):
        seen = {combination[k] for combination in every - dressed.HELD_OUT}
        assert seen == {combination[k] for combination in every}


def test_captions_tell_what_is_worn(scenes):
    p, held = scenes.people, 0
    for i in range(COUNT):
        caption = scene_caption(scenes, i)
        looks = dressed.part_phrases(caption)
        bottom = BOTTOMS[int(p.bottom_kind[i])]
        parts = {"top": (p.top, p.top_pattern), bottom: (p.bottom, p.bottom_pattern)}
        worn = {
            (list(COLOURS)[int(colour[i])], PATTERNS[int(pattern[i])], noun)
            for noun, (colour, pattern) in parts.items()
        }
        assert dressed.is_held_out(caption) == bool(worn & dressed.HELD_OUT)
        held += dressed.is_held_out(caption)
        assert (semantic_map.HEADWEAR in looks) == (int(p.hat[i]) >= 0)
        assert looks[semantic_map.FOOTWEAR] == f"{list(COLOURS)[int(p.shoes[i])]} shoes"
        words = dressed.without_appearance(caption).split()
        assert not set(words) & {*COLOURS, *PATTERNS, "wearing", "hair"}
        found = {phrase.part: phrase.text for phrase in split_phrases(caption)}
        assert found == {part: text for part, text in looks.items() if part != semantic_map.FACE}
    assert 0 < held < COUNT


def test_maps_of_renders_and_of_their_captions_agree(scenes, truth):
    maps = dressed.semantic_maps(scenes, truth)
    for i in range(COUNT):
        own = dressed.map_of_single(truth.parsing[i], scene_caption(scenes, i))
        assert torch.equal(maps[i], own)
        assert torch.equal(maps[i] == semantic_map.TOP, truth.parsing[i] == TOP)
        assert torch.equal(maps[i] == semantic_map.HEADWEAR, truth.parsing[i] == HAT)
        bottom = (maps[i] == semantic_map.PANTS) | (maps[i] == semantic_map.SKIRT)
        assert torch.equal(bottom, truth.parsing[i] == BOTTOM)


def test_the_shipped_encoder_finds_the_words_for_what_it_sees(scenes, truth, mini_weights):
    encoder = part_encoder.load_encoder(encoder_recipe.VISION)
    maps, crops, right = dressed.semantic_maps(scenes, truth), [], []
    for i in range(COUNT):
        picture = truth.rgb[i].movedim(0, -1)
        for part, crop in part_crops.crop_parts(picture, maps[i], dressed.CROP):
            if part in (semantic_map.TOP, semantic_map.FOOTWEAR, semantic_map.PANTS):
                crops.append(crop.movedim(-1, 0))
                right.append(dressed.part_phrases(scene_caption(scenes, i))[part].split())
    nouns = ("top", "shoes", "trousers")
    texts = [f"{colour} {noun}" for noun in nouns for colour in COLOURS]
    whole = convert.load_checkpoint(preview.CHECKPOINT)
    with torch.no_grad():
        text = encoder.of_text(encoder_recipe.pooled_texts(whole, texts))
        found = (encoder.of_pictures(torch.stack(crops)) @ text.mT).argmax(1).tolist()
    named = (texts[k].split() for k in found)
    hits = [read == [words[0], words[-1]] for read, words in zip(named, right, strict=True)]
    assert sum(hits) / len(hits) > 0.9


def test_the_shipped_memory_is_the_encoders_and_holds_what_it_needs(mini_weights):
    encoder, kept = (
        part_encoder.load_encoder(encoder_recipe.VISION),
        memory_file.load(memory_recipe.MEMORY),
    )
    assert kept.encoder == memory.encoder_name(encoder.vision.state_dict())
    worn = {
        semantic_map.TOP,
        semantic_map.PANTS,
        semantic_map.SKIRT,
        semantic_map.FOOTWEAR,
        semantic_map.HEADWEAR,
    }
    assert worn <= set(kept.parts)
    assert all(len(bank) <= memory_recipe.SLOTS for bank in kept.banks.values())
    torch.testing.assert_close(kept.projection, encoder.text_projection.detach())
