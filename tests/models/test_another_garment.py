"""Another garment class is one line: all that depends on the table of classes follows from it."""

import pytest
import torch
from vitruvian.models import semantic_map as shipped
from vitruvian.tests.pack_copy import with_kimono

KIMONO = len(shipped.CLASSES)


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    copy = with_kimono(tmp_path_factory.mktemp("kimono"))
    yield copy
    copy.forget()


@pytest.fixture
def semantic_map(pack):
    return pack.load("models.semantic_map")


def test_the_line_is_the_only_difference(pack, semantic_map):
    assert semantic_map.CLASSES == (*shipped.CLASSES, "kimono")
    assert semantic_map.KIMONO == KIMONO == semantic_map.part_named("Kimono")
    assert semantic_map.WHOLE_PERSON == (*shipped.WHOLE_PERSON, KIMONO)
    assert semantic_map.CLOTHING == (*shipped.CLOTHING, KIMONO)
    assert KIMONO not in shipped.WHOLE_PERSON  # the pack itself is unchanged


def test_its_color_is_read_back(semantic_map):
    labels = torch.arange(KIMONO + 1).to(torch.uint8).view(1, 5, 5)
    assert semantic_map.PALETTE.shape == semantic_map.GRAY_LEVELS.shape == (KIMONO + 1, 3)
    image = semantic_map.color_image(labels)
    assert torch.equal(semantic_map.from_colors(image, semantic_map.PALETTE, 0.4), labels)
    colors, parts = semantic_map.read_palette("kimono: #123456")
    assert parts == [KIMONO, 0] and colors[0].tolist() == [0x12, 0x34, 0x56]
    distances = torch.cdist(semantic_map.PALETTE.float(), semantic_map.PALETTE.float())
    assert (distances + 1e3 * torch.eye(KIMONO + 1)).min() >= 80


def test_masks_shares_and_legends_have_it(semantic_map):
    labels = torch.full((1, 8, 8), KIMONO, dtype=torch.uint8)
    labels[:, :2] = shipped.HAIR
    assert torch.equal(
        semantic_map.part_mask(labels, semantic_map.CLOTHING), (labels == KIMONO).float()
    )
    shares = semantic_map.shares(labels, (2, 2))
    assert shares.shape == (1, KIMONO + 1, 2, 2)
    assert torch.equal(shares[0, KIMONO], torch.tensor([[0.5, 0.5], [1.0, 1.0]]))
    every = torch.arange(KIMONO + 1).to(torch.uint8).view(1, -1, 1).expand(-1, -1, 30)
    legend = semantic_map.with_legend(every)[0, :, 30 * 16 :]
    color = semantic_map.PALETTE[KIMONO] / 255
    assert ((legend - color).abs().amax(-1) < 1e-6).sum() >= 64


def test_it_is_drawn_around_a_pose_by_its_shape(pack, semantic_map):
    outfit, pose = pack.load("models.outfit"), pack.load("models.pose")
    assert outfit.UPPERS[-2:] == ("kimono", "nothing") and outfit.UPPERS[0] == "top"
    people = pose.no_people(64, 64)
    body = torch.rand(1, 18, 3, generator=torch.Generator().manual_seed(0)) * 64
    points = (body, *(torch.zeros(1, *part.shape[1:]) for part in people[1:5]))
    people = pose.people_from_points(points, 64, 64)
    dress = outfit.map_from_pose(people, outfit.Outfit("dress"), 64, 64)
    kimono = outfit.map_from_pose(people, outfit.Outfit("kimono"), 64, 64)
    assert (dress == shipped.DRESS).any()
    assert torch.equal(kimono, torch.where(dress == shipped.DRESS, KIMONO, dress))


def test_words_name_it(pack):
    phrases = pack.load("models.phrases")
    garments = phrases.split_phrases("a woman in a red silk kimono and sandals, [24] odd thing")
    assert [phrase.part for phrase in garments] == [KIMONO, shipped.FOOTWEAR, KIMONO]
    assert garments[0].text == "red silk kimono"
    with pytest.raises(ValueError, match=rf"\[{KIMONO}\] kimono"):
        phrases.split_phrases(f"[{KIMONO + 1}] odd thing")


def test_memories_keep_it(pack, tmp_path):
    memory, memory_file = pack.load("models.memory"), pack.load("models.memory_file")
    crops = pack.load("models.part_crops")
    labels = torch.full((60, 60), KIMONO, dtype=torch.uint8)
    assert crops.parts_in(labels[None]) == {KIMONO}
    ((part, crop),) = crops.crop_parts(torch.rand(60, 60, 3), labels, 48)
    thumbnails = crops.thumbnails(crop[None])
    banks = memory.build_banks(torch.eye(1, 8), torch.tensor([part]), thumbnails, 4)
    memory_file.save(tmp_path / "m.safetensors", memory.Memory(banks, "E"))
    assert memory_file.load(tmp_path / "m.safetensors").parts == [KIMONO]
    drawn = pack.load("models.memory_drawing").draw_slots(
        banks[KIMONO], torch.tensor([0]), torch.ones(1), "kimono"
    )
    assert drawn.shape[-1] == 3


def test_layers_of_appearance_have_a_place_for_it(pack):
    appearance = pack.load("models.appearance")
    tokens = appearance.PartTokens(appearance.Sizes(features=8, width=32))
    assert tokens.part.shape[0] == KIMONO + 1
