"""What the mini weights of appearance are made from, and that they know colors by name."""

from itertools import product

import pytest
import torch
from vitruvian.lab.recipes import dressed
from vitruvian.lab.recipes import memory as memory_recipe
from vitruvian.lab.recipes import part_encoder as encoder_recipe
from vitruvian.lab.training import convert, part_encoder, preview
from vitruvian.lab.world.body import BOTTOM, HAT, TOP
from vitruvian.lab.world.captions import scene_caption
from vitruvian.lab.world.renderer import render
from vitruvian.lab.world.scenes import BOTTOMS, COLORS, FULL, PATTERNS, sample_scenes
from vitruvian.models import memory, memory_file, part_crops, semantic_map
from vitruvian.models.phrases import split_phrases

COUNT = 60


@pytest.fixture(scope="module")
def scenes():
    return sample_scenes(COUNT, 4_000_000, framing=FULL, people=1)


@pytest.fixture(scope="module")
def truth(scenes):
    return render(scenes)


def test_a_fifth_is_held_out_and_the_training_has_every_word():
    combinations = set(product(COLORS, PATTERNS, dressed.GARMENTS))
    assert len(dressed.HELD_OUT) == len(combinations) / 5
    for k in range(3):
        trained_on = {combination[k] for combination in combinations - dressed.HELD_OUT}
        assert trained_on == {combination[k] for combination in combinations}


def test_captions_tell_what_is_worn(scenes):
    p, held_out = scenes.people, 0
    for i in range(COUNT):
        caption = scene_caption(scenes, i)
        looks = dressed.part_phrases(caption)
        bottom = BOTTOMS[int(p.bottom_kind[i])]
        parts = {"top": (p.top, p.top_pattern), bottom: (p.bottom, p.bottom_pattern)}
        worn = {
            (list(COLORS)[int(color[i])], PATTERNS[int(pattern[i])], noun)
            for noun, (color, pattern) in parts.items()
        }
        assert dressed.is_held_out(caption) == bool(worn & dressed.HELD_OUT)
        held_out += dressed.is_held_out(caption)
        assert (semantic_map.HEADWEAR in looks) == (int(p.hat[i]) >= 0)
        assert looks[semantic_map.FOOTWEAR] == f"{list(COLORS)[int(p.shoes[i])]} shoes"
        words = dressed.without_appearance(caption).split()
        assert not set(words) & {*COLORS, *PATTERNS, "wearing", "hair"}
        parsed = {phrase.part: phrase.text for phrase in split_phrases(caption)}
        assert parsed == {part: text for part, text in looks.items() if part != semantic_map.FACE}
    assert 0 < held_out < COUNT


def test_maps_of_renders_and_of_their_captions_agree(scenes, truth):
    maps = dressed.semantic_maps(scenes, truth)
    for i in range(COUNT):
        from_caption = dressed.map_of_single(truth.parsing[i], scene_caption(scenes, i))
        assert torch.equal(maps[i], from_caption)
        assert torch.equal(maps[i] == semantic_map.TOP, truth.parsing[i] == TOP)
        assert torch.equal(maps[i] == semantic_map.HEADWEAR, truth.parsing[i] == HAT)
        bottom = (maps[i] == semantic_map.PANTS) | (maps[i] == semantic_map.SKIRT)
        assert torch.equal(bottom, truth.parsing[i] == BOTTOM)


def test_parts_are_cut_out_of_rendered_scenes_with_their_phrases(scenes, truth):
    first = scenes.take(torch.arange(3))
    crops, maps = dressed.cut_scenes(first), dressed.semantic_maps(scenes, truth)
    for i in range(3):
        rows = (crops.scenes == i).nonzero()[:, 0].tolist()
        looks = dressed.part_phrases(scene_caption(scenes, i))
        cut = part_crops.crop_parts(truth.rgb[i].movedim(0, -1), maps[i], dressed.CROP)
        assert crops.parts[rows].tolist() == [part for part, _ in cut]
        assert [crops.phrases[row] for row in rows] == [looks[part] for part, _ in cut]
        for row, (_, crop) in zip(rows, cut, strict=True):
            assert (crops.images[row] / 255 - crop.movedim(-1, 0)).abs().max() <= 0.5 / 255 + 1e-5


def test_a_memory_has_so_many_slots_of_each_class_as_its_budget(scenes, mini_weights):
    crops = dressed.cut_scenes(scenes.take(torch.arange(16)))
    budget = {semantic_map.TOP: 5, semantic_map.FOOTWEAR: 3}
    encoder = part_encoder.load_encoder(encoder_recipe.VISION)
    banks = memory_recipe.build(encoder, crops, budget).banks
    assert {part: len(bank) for part, bank in banks.items()} == budget
    assert {part: int(bank.counts.sum()) for part, bank in banks.items()} == {
        part: int((crops.parts == part).sum()) for part in budget
    }


def test_the_shipped_encoder_names_the_colors_and_garments_of_crops(scenes, truth, mini_weights):
    encoder = part_encoder.load_encoder(encoder_recipe.VISION)
    maps, crops, expected = dressed.semantic_maps(scenes, truth), [], []
    for i in range(COUNT):
        image = truth.rgb[i].movedim(0, -1)
        for part, crop in part_crops.crop_parts(image, maps[i], dressed.CROP):
            if part in (semantic_map.TOP, semantic_map.FOOTWEAR, semantic_map.PANTS):
                crops.append(crop.movedim(-1, 0))
                expected.append(dressed.part_phrases(scene_caption(scenes, i))[part].split())
    nouns = ("top", "shoes", "trousers")
    texts = [f"{color} {noun}" for noun in nouns for color in COLORS]
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    with torch.no_grad():
        text = encoder.encode_text(encoder_recipe.pooled_texts(checkpoint, texts))
        nearest = (encoder.encode_images(torch.stack(crops)) @ text.mT).argmax(1).tolist()
    names = (texts[k].split() for k in nearest)
    hits = [name == [words[0], words[-1]] for name, words in zip(names, expected, strict=True)]
    assert sum(hits) / len(hits) > 0.9


def test_the_shipped_memory_fits_the_encoder_and_holds_all_garments(mini_weights):
    encoder, garments = (
        part_encoder.load_encoder(encoder_recipe.VISION),
        memory_file.load(memory_recipe.MEMORY),
    )
    assert garments.encoder == memory.encoder_name(encoder.vision.state_dict())
    worn = {
        semantic_map.TOP,
        semantic_map.PANTS,
        semantic_map.SKIRT,
        semantic_map.FOOTWEAR,
        semantic_map.HEADWEAR,
    }
    assert worn <= set(garments.parts)
    slots = {part: len(bank) for part, bank in garments.banks.items()}
    assert all(count <= memory_recipe.SLOTS[part] for part, count in slots.items())
    torch.testing.assert_close(garments.projection, encoder.text_projection.detach())
