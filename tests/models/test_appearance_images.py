"""A folder of photographs with semantic maps as the alignment of parts learns it."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate
from transformers import CLIPVisionConfig
from vitruvian.lab.recipes.dressed import semantic_maps
from vitruvian.lab.training import bases, preview
from vitruvian.lab.training.appearance_images import (
    DressedDataset,
    build_memory,
    collect_dressed,
    cut_around,
    read_map,
    resize_map,
    without_appearance,
)
from vitruvian.lab.training.image_folder import CAPTION
from vitruvian.lab.training.part_encoder import save_encoder, start_encoder
from vitruvian.lab.training.vision_files import open_vision
from vitruvian.lab.world.renderer import render
from vitruvian.lab.world.scenes import FULL, sample_scenes
from vitruvian.models import memory, part_crops, semantic_map

SIZE, SIDE, PHOTO = 64, 24, 96
CAPTIONED = "a woman wearing a red top and blue trousers, standing, in a park"


@pytest.fixture(scope="module")
def scenes():
    """Images [3,3,H,W] and their maps."""
    drawn = sample_scenes(3, 91, framing=FULL, people=1)
    truth = render(drawn, PHOTO)
    return truth.rgb, semantic_maps(drawn, truth)


@pytest.fixture(scope="module")
def vision(tmp_path_factory):
    torch.manual_seed(2)
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=8,
        projection_dim=12,
        hidden_act="quick_gelu",
    )
    file = tmp_path_factory.mktemp("vision") / "tiny.safetensors"
    save_encoder(start_encoder(config, 192), file, "mini")
    return open_vision(file)


def save(rgb, file):
    """[3,H,W] in 0..1"""
    Image.fromarray((rgb.movedim(0, -1) * 255).round().byte().contiguous().numpy()).save(file)


def save_map(labels, file):
    Image.fromarray(labels.numpy()).save(file)


@pytest.fixture
def folder(scenes, tmp_path):
    """Three images with maps beside them, one with a caption."""
    for i, (rgb, labels) in enumerate(zip(*scenes, strict=True)):
        save(rgb, tmp_path / f"{i}.png")
        save_map(labels, tmp_path / f"{i}.map.png")
    (tmp_path / "1.txt").write_text(CAPTIONED)
    return tmp_path


def test_numbers_and_colors_are_read_alike(scenes, tmp_path):
    labels = scenes[1][0].clone()
    labels[0, :24] = torch.arange(24)
    gray = labels.numpy()
    colored = semantic_map.PALETTE[labels.long()].numpy()
    other = Image.fromarray(gray).convert("P")
    other.putpalette(np.random.default_rng(0).integers(0, 255, 768).tolist())
    light = Image.fromarray(gray).convert("P")
    light.putpalette([level for k in range(256) for level in (k * 10 % 256,) * 3])
    ours = Image.fromarray(23 - gray).convert("P")  # the colors count, whatever their order
    ours.putpalette(semantic_map.PALETTE.flip(0).flatten().tolist())
    kinds = {
        "gray": Image.fromarray(gray),
        "rgb_gray": Image.fromarray(np.stack([gray] * 3, -1)),
        "deep": Image.fromarray(gray.astype(np.uint16)),
        "colored": Image.fromarray(colored),
        "clear": Image.fromarray(colored).convert("RGBA"),
        "other": other,
        "light": light,
        "ours": ours,
        "few": Image.fromarray(colored).convert("P", palette=Image.Palette.ADAPTIVE),
    }
    for name, image in kinds.items():
        image.save(tmp_path / f"{name}.png")
        read = read_map(tmp_path / f"{name}.png")
        assert read.dtype == torch.uint8 and torch.equal(read, labels), name


def test_maps_that_mean_nothing_are_named(tmp_path):
    mask = Image.fromarray(np.eye(9, dtype=np.uint8) * 255)
    noise = np.random.default_rng(1).integers(0, 255, (9, 9, 3), dtype=np.uint8)
    for name, image, message in (
        ("mask", mask, "gray levels up to 255, and parts have numbers from 0 to 23"),
        ("bits", mask.convert("1"), "gray levels up to 255"),
        ("noise", Image.fromarray(noise), "pixels have a color that is more than 30 levels"),
    ):
        image.save(tmp_path / f"{name}.png")
        with pytest.raises(ValueError, match=rf"{name}\.png.* {message}"):
            read_map(tmp_path / f"{name}.png")


def same(one, other):
    for a, b in zip(one, other, strict=True):
        for x, y in zip(a, b, strict=True):
            assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y


def test_maps_lie_beside_or_in_a_folder_of_their_own(folder, scenes, vision, tmp_path):
    beside = collect_dressed(folder, SIZE, vision)
    assert [image.caption for image in beside] == [CAPTION, CAPTIONED, CAPTION]
    assert len({tuple(image.parts.tolist()) for image in beside}) > 1
    maps = tmp_path / "maps"
    maps.mkdir()
    save(semantic_map.color_image(scenes[1][:1])[0].movedim(-1, 0), maps / "0.png")
    save_map(scenes[1][1], maps / "1_segm.png")
    save_map(scenes[1][2], maps / "2.map.png")
    same(collect_dressed(folder, SIZE, vision, maps), beside)
    same(collect_dressed(folder, SIZE, vision, folder), beside)  # not the images themselves


def test_the_image_and_its_map_are_cut_alike(scenes, vision, tmp_path):
    rgb, labels = scenes[0][0], scenes[1][0]
    tall = torch.cat((torch.full((3, 40, PHOTO), 0.5), rgb), 1)
    save(tall, tmp_path / "a.png")
    save_map(torch.cat((torch.zeros(40, PHOTO).byte(), labels)), tmp_path / "a.map.png")
    (image,) = collect_dressed(tmp_path, PHOTO, vision)
    assert image.rgb.shape == (3, PHOTO, PHOTO) and image.labels.shape == (PHOTO, PHOTO)
    assert image.rgb.dtype == image.labels.dtype == torch.uint8
    places = [
        top
        for top in range(41)
        if torch.equal((tall[:, top : top + PHOTO] * 255).round().byte(), image.rgb)
    ]
    assert len(places) == 1
    tall_labels = torch.cat((torch.zeros(40, PHOTO).byte(), labels))
    assert torch.equal(image.labels, tall_labels[places[0] : places[0] + PHOTO])
    (small,) = collect_dressed(tmp_path, SIZE, vision)
    assert torch.isin(small.labels, labels).all()


def test_the_square_lies_where_a_part_is():
    labels = torch.zeros(60, 240, dtype=torch.uint8)
    labels[20:50, 180:200] = semantic_map.TOP
    cuts = [cut_around(labels, 32, number) for number in range(60)]
    assert cut_around(labels, 32, 7) == cuts[7]
    assert {cut[:3] for cut in cuts} == {(32, 128, 0)}
    lefts = {cut.left for cut in cuts}
    assert min(lefts) >= 80 and max(lefts) <= 91 and len(lefts) > 4  # middle in 96..107
    edge = torch.zeros(240, 60, dtype=torch.uint8)
    edge[:3] = semantic_map.HAIR
    assert cut_around(edge, 32, 1)[2:4] == (0, 0)
    assert cut_around(edge.flip(0), 32, 1)[2:4] == (96, 0)
    assert cut_around(labels[:20, 170:190] + 1, 64, 1)[:4] == (64, 64, 0, 0)  # small ones grow


def test_parts_are_those_of_the_whole_photograph(folder, scenes, vision):
    dressed = collect_dressed(folder, SIZE, vision)
    for image, rgb, labels in zip(dressed, *scenes, strict=True):
        pixels = (rgb.movedim(0, -1) * 255).round() / 255
        parts = part_crops.crop_parts(pixels, labels, SIDE)
        crops = torch.stack([crop for _, crop in parts])
        assert image.parts.tolist() == [part for part, _ in parts]
        crop_pixels = (crops * 255).round() / 255
        torch.testing.assert_close(image.features, vision(crop_pixels.movedim(-1, 1)))
        assert torch.equal(image.thumbnails, part_crops.thumbnails(crops))


def test_coarser_maps_serve_as_well(folder, scenes, vision):
    exact = collect_dressed(folder, SIZE, vision)
    for i, labels in enumerate(scenes[1]):
        save_map(resize_map(labels, PHOTO // 2, PHOTO // 2), folder / f"{i}.map.png")
    coarse = collect_dressed(folder, SIZE, vision)
    for one, other in zip(exact, coarse, strict=True):
        assert (one.labels == other.labels).float().mean() > 0.9


def test_what_is_left_out_is_named(folder, scenes, vision, caplog):
    rgb, labels = scenes[0][0], scenes[1][0]
    for name in ("bare", "empty", "turned", "bad", "strange"):
        save(rgb, folder / f"{name}.png")
    save_map(torch.zeros_like(labels), folder / "empty.map.png")
    save_map(labels[: PHOTO // 2].contiguous(), folder / "turned.map.png")
    (folder / "bad.map.png").write_bytes(b"no image")
    save_map(labels + 100, folder / "strange.map.png")
    with caplog.at_level(logging.WARNING):
        assert len(collect_dressed(folder, SIZE, vision)) == 3
    for message in (
        "bare.png has no bare.map.png beside it",
        "empty.map.png shows no part of 24 pixels",
        "turned.png and turned.map.png differ in proportions",
        "bad.png or its map bad.map.png can not be read",
        "strange.map.png has gray levels up to 1",
        "5 of 8 images in --images are left out",
        "2 of 3 images have no caption",
    ):
        assert message in caplog.text
    assert len(caplog.records) == 7


def test_folders_that_can_not_be(folder, vision, tmp_path):
    with pytest.raises(ValueError, match="nowhere is no folder"):
        collect_dressed(tmp_path / "nowhere", SIZE, vision)
    with pytest.raises(ValueError, match="maps is no folder: give the one with"):
        collect_dressed(folder, SIZE, vision, tmp_path / "maps")
    with pytest.raises(ValueError, match="must be a multiple of 8"):
        collect_dressed(folder, 100, vision)
    (tmp_path / "maps").mkdir()
    with pytest.raises(ValueError, match="none of 3 images can be learned from. Put the semantic"):
        collect_dressed(folder, SIZE, vision, tmp_path / "maps")


def test_a_new_memory_holds_all_parts(folder, vision):
    dressed = collect_dressed(folder, SIZE, vision)
    garments = build_memory(dressed, vision, 2)
    assert garments.encoder == vision.name and torch.equal(
        garments.projection, vision.text_projection
    )
    for part, bank in garments.banks.items():
        assert len(bank) <= 2
        assert bank.counts.sum() == sum(part in image.parts for image in dressed)
    assert garments.parts == sorted({part for image in dressed for part in image.parts.tolist()})


def test_items_are_what_the_loss_takes(folder, vision, mini_weights):
    base, dressed = bases.open_base(preview.CHECKPOINT), collect_dressed(folder, SIZE, vision)
    all_parts = build_memory(dressed, vision, 2)
    without_tops = memory.Memory(
        {part: bank for part, bank in all_parts.banks.items() if part != semantic_map.TOP},
        all_parts.encoder,
    )
    data = DressedDataset(dressed, base, without_tops)
    assert len(data) == 3
    for image, item in zip(dressed, (data[i] for i in range(3)), strict=True):
        torch.testing.assert_close(
            item["latent"], base.encode(image.rgb[None] / 255)[0], atol=1e-5, rtol=1e-5
        )
        assert item["labels"] is image.labels
        parts = item["has_feature"].nonzero().flatten().tolist()
        assert parts == [part for part in image.parts.tolist() if part != semantic_map.TOP]
        for name in ("features", "refreshed"):
            assert item[name].shape == (24, 12) and not item[name][~item["has_feature"]].any()
        for part in parts:
            feature = image.features[image.parts == part]
            assert torch.equal(item["features"][part], feature[0])
            expected = memory.refresh(without_tops.banks[part], feature).features[0]
            torch.testing.assert_close(item["refreshed"][part], expected)
    captions = data[1]["captions"]
    assert captions["full"] == CAPTIONED and captions["bodies"] == []
    assert captions["brief"] == without_appearance(CAPTIONED)
    with pytest.raises(ValueError, match="the memory holds tie, and the images show top"):
        DressedDataset(
            [
                image._replace(parts=torch.tensor([semantic_map.TOP]), features=image.features[:1])
                for image in dressed
            ],
            base,
            memory.Memory(
                {semantic_map.TIE: without_tops.banks[without_tops.parts[0]]}, without_tops.encoder
            ),
        )


def test_images_larger_than_their_squares_are_smoothed(scenes, vision, tmp_path):
    rgb, labels = scenes[0][0], scenes[1][0]
    save(rgb, tmp_path / "a.png")
    save_map(labels, tmp_path / "a.map.png")
    (image,) = collect_dressed(tmp_path, SIZE, vision)
    close = interpolate(rgb[None], (SIZE, SIZE), mode="bilinear", antialias=True)[0]
    assert (image.rgb / 255 - close).abs().max() < 0.01


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a man doing yoga in a park", "a man doing yoga in a park"),
        ("blue jeans", CAPTION),
    ],
)
def test_captions_lose_what_is_worn(caption, expected):
    assert without_appearance(caption) == expected
    brief = without_appearance(CAPTIONED)
    assert "standing" in brief and "park" in brief and "top" not in brief and "blue" not in brief
