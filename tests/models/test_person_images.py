"""A folder of photographs as the human-centric prior learns it."""

import logging

import pytest
import torch
from PIL import Image
from vitruvian.lab.training import bases, image_folder, person_images, preview
from vitruvian.lab.training.batches import nearness
from vitruvian.lab.training.image_folder import CAPTION
from vitruvian.lab.training.person_images import collect_people
from vitruvian.models import pose

SIZE = 64


def save(rgb, file, **how):
    """[3,H,W] in 0..1"""
    Image.fromarray((rgb.movedim(0, -1) * 255).round().byte().numpy()).save(file, **how)


def ramp(height, width):
    """Red grows to the right, green downwards."""
    y, x = torch.linspace(0, 1, height), torch.linspace(0, 1, width)
    return torch.stack(
        (x.expand(height, -1), y[:, None].expand(-1, width), torch.zeros(height, width))
    )


@pytest.fixture
def folder(tmp_path):
    """One image with everything beside it."""
    save(ramp(96, 128), tmp_path / "a.png")
    save(ramp(48, 64).flip(0), tmp_path / "a.pose.png")
    (tmp_path / "a.txt").write_text(" a man doing yoga\n")
    (tmp_path / "notes.md").write_text("not looked at")
    return tmp_path


@pytest.fixture(scope="module")
def astronaut():
    pytest.importorskip("mediapipe")
    data = pytest.importorskip("skimage.data")
    return torch.from_numpy(data.astronaut()).movedim(-1, 0) / 255


def test_a_pose_image_beside_the_image_is_taken_and_nobody_is_looked_for(folder, monkeypatch):
    monkeypatch.delattr(image_folder.detect, "open_detector")
    (person,) = collect_people(folder, SIZE)
    assert person.rgb.shape == person.hint.shape == (3, SIZE, SIZE)
    assert person.rgb.dtype == person.hint.dtype == torch.uint8
    assert person.caption == "a man doing yoga" and person.bodies == []
    expected = ramp(96, 128)[:, :, 16:112]  # the centered square
    close = torch.nn.functional.interpolate(expected[None], (SIZE, SIZE), mode="bilinear")[0]
    assert (person.rgb / 255 - close).abs().max() < 0.01
    assert (person.hint / 255 - close.flip(0)).abs().max() < 0.02


def test_images_are_taken_upright(folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    for name in ("a", "a.pose"):
        upright = Image.open(folder / f"{name}.png")
        upright.rotate(90, expand=True).save(folder / f"{name}.png", exif=exif)
    (person,) = collect_people(folder, SIZE)
    red = (person.rgb[0] / 255).mean(0)
    assert red[0] < 0.2 and red[-1] > 0.8


def test_people_are_found_and_drawn_where_the_square_shows_them(astronaut, tmp_path, caplog):
    wide = torch.nn.functional.pad(astronaut, (128, 128), value=0.5)  # her square is the middle
    save(astronaut, tmp_path / "her.png")
    save(wide, tmp_path / "wide.jpg", quality=95)
    with caplog.at_level(logging.WARNING):
        her, again = collect_people(tmp_path, 128)
    assert her.caption == again.caption == CAPTION
    assert "2 of 2 images have no caption" in caplog.text
    nose = torch.tensor([222, 128]) / 4
    for person in (her, again):
        bodies = torch.tensor(person.bodies)  # the wide one is searched part by part
        assert bodies.shape[1:] == (18, 3)
        body = min(bodies, key=lambda body: (body[pose.NOSE, :2] - nose).norm())
        assert (body[pose.NOSE, :2] - nose).norm() < 6
        assert (bodies[..., :2] * (bodies[..., 2:] == 0)).sum() == 0  # unknown points are zeros
        x, y = body[pose.NOSE, :2].long()
        assert person.hint[:, y, x].any()


def test_somebody_outside_the_square_is_nobody(astronaut, tmp_path, caplog):
    save(torch.nn.functional.pad(astronaut, (0, 1024), value=0.5), tmp_path / "left.png")
    with caplog.at_level(logging.WARNING):
        with pytest.raises(ValueError, match="nobody was found in 1 images"):
            collect_people(tmp_path, SIZE)
    assert "left.png: nobody was found" in caplog.text


def test_what_is_left_out_is_named(folder, caplog):
    pytest.importorskip("mediapipe")
    save(torch.full((3, 200, 200), 0.5), folder / "gray.jpg")
    png = (folder / "a.png").read_bytes()
    (folder / "cut.png").write_bytes(png[: len(png) // 2])
    (folder / "broken.png").write_bytes(b"no image")
    for name, caption in (("bad_pose", b"a man"), ("bad_text", b"\xff\xfe\xff")):
        (folder / f"{name}.png").write_bytes(png)
        (folder / f"{name}.txt").write_bytes(caption)
    (folder / "bad_pose.pose.png").write_bytes(b"no image")
    save(ramp(96, 128), folder / "turned.png")
    save(ramp(128, 96), folder / "turned.pose.png")
    with caplog.at_level(logging.WARNING):
        (person,) = collect_people(folder, SIZE)
    assert person.caption == "a man doing yoga"
    for name in ("cut", "broken", "bad_pose", "bad_text"):
        assert f"{name}.png can not be read" in caplog.text
    assert "gray.jpg: nobody was found" in caplog.text
    assert "turned.png and turned.pose.png differ in proportions" in caplog.text
    assert "no caption" not in caplog.text


def test_folders_and_sizes_that_can_not_be(folder, tmp_path):
    with pytest.raises(ValueError, match="is no folder"):
        collect_people(tmp_path / "nowhere", SIZE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="--images .*empty has no image in it"):
        collect_people(tmp_path / "empty", SIZE)
    with pytest.raises(ValueError, match="size is 100: it must be a multiple of 8"):
        collect_people(folder, 100)


def test_items_are_what_the_loss_takes(folder, mini_weights):
    (person,) = collect_people(folder, SIZE)
    body = torch.zeros(18, 3)
    body[3] = torch.tensor([20.0, 12.0, 1.0])
    people = [person, person._replace(bodies=[body.tolist()])]
    base = bases.open_base(preview.CHECKPOINT)
    data = person_images.PersonDataset(people, base)
    assert len(data) == 2
    item, other = data[0], data[1]
    torch.testing.assert_close(
        item["latent"], base.encode(person.rgb[None] / 255)[0], atol=1e-5, rtol=1e-5
    )
    assert item["hint"].shape == (3, SIZE, SIZE) and item["hint"].dtype == torch.uint8
    assert item["captions"] == {"full": person.caption, "brief": person.caption, "bodies": []}
    assert nearness(item["captions"]["bodies"], 8, 8).sum() == 0
    near = nearness(other["captions"]["bodies"], 8, 8)
    assert near.argmax() == 1 * 8 + 2
