"""Training a hand generator from a folder of photographs; renders stand for them."""

import logging

import pytest
import torch
from PIL import Image
from vitruvian.lab.training import bases, hand_images, hands, preview
from vitruvian.lab.world.renderer import render
from vitruvian.lab.world.scenes import HAND, sample_scenes
from vitruvian.models import weights
from vitruvian.models.hand_generator import CHANNELS, VERSION

SIZE = 64


def save(rgb, file):
    Image.fromarray((rgb.movedim(0, -1) * 255).byte().numpy()).save(file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Open hands, three of them with a caption and one with a mask, and what is none."""
    pytest.importorskip("mediapipe")
    folder = tmp_path_factory.mktemp("photographs")
    scenes = sample_scenes(24, 5, framing=HAND)
    for i, rgb in enumerate(render(scenes, 384).rgb):
        save(rgb, folder / f"{i:02d}.png")
        (folder / f"{i:02d}.txt").write_text(f"hand {i}\n")
    save(torch.full((3, 200, 200), 0.5), folder / "gray.jpg")
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "notes.md").write_text("not looked at")
    return folder


@pytest.fixture(scope="module")
def photographed(folder):
    return hand_images.collect_hands(folder, SIZE)


def test_every_hand_comes_with_points_mask_and_caption(photographed):
    assert len(photographed) >= 8
    for hand in photographed:
        assert hand.rgb.shape == (SIZE, SIZE, 3) and hand.mask.shape == (SIZE, SIZE)
        assert hand.points[:, :2].min() > 0 and hand.points[:, :2].max() < SIZE
        x, y = hand.points[9, :2].long()  # the middle knuckle lies on the hand
        assert hand.mask[y, x] == 1
        assert hand.caption.startswith("hand ")
    assert {hand.side for hand in photographed} == {"left", "right"}


def test_a_mask_beside_the_image_is_taken(folder, photographed, tmp_path):
    number = int(photographed[0].caption.split()[1])
    (tmp_path / "a.png").write_bytes((folder / f"{number:02d}.png").read_bytes())
    Image.new("L", (384, 384), 255).save(tmp_path / "a.mask.png")
    (hand,) = hand_images.collect_hands(tmp_path, SIZE)
    assert hand.mask.all() and hand.caption == hand_images.CAPTION


def test_what_is_left_out_is_named(folder, tmp_path, caplog):
    for name in ("gray.jpg", "broken.png"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with caplog.at_level(logging.WARNING):
        with pytest.raises(ValueError, match="no hand of .* in 2 images"):
            hand_images.collect_hands(tmp_path, SIZE)
    assert "gray.jpg" in caplog.text and "broken.png can not be read" in caplog.text
    with pytest.raises(ValueError, match="no folder"):
        hand_images.collect_hands(tmp_path / "nowhere", SIZE)


def test_items_show_each_hand_in_its_own_channels(photographed, mini_weights):
    base = bases.open_base(preview.CHECKPOINT)
    data = hand_images.HandDataset(photographed, base)
    assert len(data) == len(photographed)
    item = data[0]
    assert item["latent"].shape == (4, SIZE // 8, SIZE // 8)
    half = CHANNELS // 2
    channels = slice(0, half) if photographed[0].side == "left" else slice(half, None)
    assert item["heat"][channels].any() and item["heat"].sum() == item["heat"][channels].sum()


def test_the_trainer_writes_a_generator_and_goes_on_from_it(folder, mini_weights, tmp_path, capsys):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"

    def train(out, *more):
        hands.main(
            [
                "--images",
                str(folder),
                "--work",
                str(tmp_path / out.stem),
                "--out",
                str(out),
                "--size",
                str(SIZE),
                "--batch",
                "2",
                "--precision",
                "no",
                "--steps",
                "2",
                *more,
            ]
        )
        return weights.load(out, method="hands", base="mini", version=VERSION)[0]

    initial = train(first)
    assert "hand.first.weight" in initial and any("lora_up" in key for key in initial)
    assert (tmp_path / "first" / "final.png").is_file()
    continued = train(second, "--start", str(first), "--lr", "0")
    assert all(torch.equal(initial[key], continued[key]) for key in initial)
    with pytest.raises(SystemExit):
        train(tmp_path / "third.safetensors", "--start", str(first), "--rank", "3")
    assert "another checkpoint or rank" in capsys.readouterr().err


def test_a_wrong_folder_is_said_and_nothing_written(tmp_path, capsys):
    with pytest.raises(SystemExit):
        hands.main(
            [
                "--images",
                str(tmp_path / "none"),
                "--work",
                str(tmp_path / "work"),
                "--out",
                str(tmp_path / "mine.safetensors"),
            ]
        )
    assert "is no folder" in capsys.readouterr().err
    assert not (tmp_path / "mine.safetensors").exists()
