"""A folder of photographs with depth and normals as joint denoising learns it."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image
from vitruvian.lab.training import bases, image_folder, preview
from vitruvian.lab.training.structure_images import (
    Conventions,
    StructureDataset,
    collect_structure,
    random_cut,
)
from vitruvian.models import pose, structure, structure_data

SIZE = 64
HEIGHT, WIDTH = 96, 160


def save(image, file, **how):
    """[3,H,W] or gray [H,W] in 0..1"""
    image = image.movedim(0, -1) if image.dim() == 3 else image
    Image.fromarray((image * 255).round().byte().contiguous().numpy()).save(file, **how)


def ramps(height=HEIGHT, width=WIDTH):
    """Red grows to the right, green downwards: [3,H,W]."""
    y, x = torch.linspace(0, 1, height), torch.linspace(0, 1, width)
    across, down = x.expand(height, -1), y[:, None].expand(-1, width)
    return torch.stack((across, down, torch.zeros(height, width)))


def left_facing(height=HEIGHT, width=WIDTH):
    """The normal (-0.6, 0, 0.8), as ours."""
    return torch.tensor([0.2, 0.5, 0.9])[:, None, None].expand(3, height, width)


@pytest.fixture
def folder(tmp_path):
    """One image with everything beside it; maps of half the resolution."""
    save(ramps(), tmp_path / "a.png")
    save(ramps(HEIGHT // 2, WIDTH // 2)[0], tmp_path / "a.depth.png")
    save(left_facing(), tmp_path / "a.normal.png")
    save(ramps(HEIGHT // 2, WIDTH // 2).flip(0), tmp_path / "a.pose.png")
    (tmp_path / "a.txt").write_text(" a man doing yoga\n")
    return tmp_path


def one(folder, *conventions):
    """The only image that can be learned from."""
    (image,) = collect_structure(folder, SIZE, Conventions(*conventions))
    return image


def test_the_image_and_its_maps_are_cut_alike(folder, monkeypatch):
    monkeypatch.delattr(image_folder.detect, "open_detector")
    image = one(folder)
    for part in image[:4]:
        assert part.shape == (3, SIZE, SIZE) and part.dtype == torch.uint8
    assert image.caption == "a man doing yoga" and image.bodies == []
    height, width, top, left = image.size
    assert (height, width, top) == (HEIGHT, WIDTH, 0) and 0 < left <= 107 - SIZE
    red = image.rgb[0].float()
    at = (left + torch.arange(SIZE) + 0.5) / 107 * 255  # 96 x 160 became 64 x 107
    assert (red - at).abs().max() < 3
    for part, channel in ((image.depth, 0), (image.depth, 2), (image.pose, 2)):
        assert (part[channel].float() - red).abs().max() < 4
    assert (image.pose[1].float() - image.rgb[1]).abs().max() < 4
    assert (image.normal.float() - 255 * left_facing(1, 1)).abs().max() < 2


def test_the_place_is_random_and_always_the_same(folder):
    cuts = [random_cut(100, 300, 50, number) for number in range(200)]
    assert {cut.top for cut in cuts} == {0} and {cut.height for cut in cuts} == {50}
    places = {cut.left for cut in cuts}
    assert min(places) < 5 and max(places) > 95 and max(places) <= 100
    tall = random_cut(301, 100, 50, 1)
    assert tall == random_cut(301, 100, 50, 1) and tall.left == 0 and tall.width == 50
    assert random_cut(20, 20, 64, 3)[:4] == (64, 64, 0, 0)  # small ones grow
    first = one(folder)
    (folder / "z.png").write_bytes((folder / "a.png").read_bytes())  # without maps
    assert torch.equal(one(folder).rgb, first.rgb)


def test_conventions_become_ours(folder):
    ours = one(folder)
    save(1 - ramps()[0], folder / "a.depth.png")
    save(torch.cat((1 - left_facing()[:1], left_facing()[1:])), folder / "a.normal.png")
    other = one(folder, structure.METRIC, structure.BAE)
    assert (other.depth.float() - ours.depth).abs().max() < 4
    assert (other.normal.float() - ours.normal).abs().max() < 2


def test_normals_that_point_nowhere_face_the_viewer_and_others_have_length_one():
    gray = torch.full((1, 3, 2, 2), 128 / 255)
    facing = torch.tensor([0.5, 0.5, 1.0])[None, :, None, None].expand(1, 3, 2, 2)
    for convention in structure.NORMALS:
        torch.testing.assert_close(structure_data.stored_normals(gray, convention), facing)
    short = structure_data.stored_normals(facing * 0.9 + 0.05)
    torch.testing.assert_close(short, facing)


@pytest.mark.parametrize("mode", ["I;16", "L", "RGB"])
def test_depths_of_any_depth_are_read(tmp_path, mode):
    values = np.array([[0, 16448], [32896, 65535]])  # 0, 64, 128, 255 in 8 bits
    file = tmp_path / "a.depth.png"
    if mode == "I;16":
        Image.fromarray(values.astype(np.uint16)).save(file)
    else:
        Image.fromarray((values // 257).astype(np.uint8)).convert(mode).save(file)
    depth = image_folder.read_upright(file, "L")
    assert depth.shape == (2, 2, 1) and depth.dtype == torch.float32
    torch.testing.assert_close(depth[..., 0], torch.from_numpy(values / 65535).float())


def test_images_and_depths_are_taken_upright(folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    deep = (ramps()[0] * 65535).round().numpy().astype(np.uint16)
    Image.fromarray(deep).save(folder / "a.depth.png")
    for name in ("a", "a.depth", "a.normal", "a.pose"):
        upright = Image.open(folder / f"{name}.png")
        upright.transpose(Image.Transpose.ROTATE_90).save(folder / f"{name}.png", exif=exif)
    image = one(folder)
    assert image.size[:2] == (HEIGHT, WIDTH)
    assert (image.depth[0].float() - image.rgb[0]).abs().max() < 4


def test_what_is_left_out_is_named(folder, caplog):
    complete = {
        what: (folder / f"a{what}.png").read_bytes() for what in ("", ".depth", ".normal", ".pose")
    }

    def put(name, **instead):
        for what, data in {**complete, **instead}.items():
            (folder / f"{name}{what}.png").write_bytes(data)

    put("flat")
    (folder / "flat.depth.png").unlink()
    put("bare")
    (folder / "bare.depth.png").unlink()
    (folder / "bare.normal.png").unlink()
    put("bad", **{".normal": b"no image"})
    put("cut", **{".depth": complete[".depth"][:80]})
    put("turned")
    save(left_facing(WIDTH, HEIGHT), folder / "turned.normal.png")
    with caplog.at_level(logging.WARNING):
        assert one(folder).caption == "a man doing yoga"
    assert "flat.png has no flat.depth.png beside it" in caplog.text
    assert "bare.png has no bare.depth.png and no bare.normal.png beside it" in caplog.text
    for name in ("bad", "cut"):
        assert f"{name}.png or what lies beside it can not be read" in caplog.text
    assert "turned.png and turned.normal.png differ in proportions" in caplog.text
    assert "a.png" not in caplog.text.replace("bare.png", "").replace("flat.png", "")


def test_folders_that_can_not_be(folder, tmp_path):
    with pytest.raises(ValueError, match="is no folder"):
        collect_structure(tmp_path / "nowhere", SIZE)
    with pytest.raises(ValueError, match="must be a multiple of 8"):
        collect_structure(folder, 100)
    (folder / "a.normal.png").unlink()
    with pytest.raises(ValueError, match="none of 1 images can be learned from. Put the depth"):
        collect_structure(folder, SIZE)


def test_people_are_found_and_drawn_where_the_square_shows_them(tmp_path, caplog):
    pytest.importorskip("mediapipe")
    data = pytest.importorskip("skimage.data")
    astronaut = torch.from_numpy(data.astronaut()).movedim(-1, 0) / 255
    high = torch.nn.functional.pad(astronaut, (0, 0, 16, 16), value=0.5)
    for name, image in (("her", high), ("nobody", torch.full((3, 128, 128), 0.5))):
        save(image, tmp_path / f"{name}.png")
        for what in ("depth", "normal"):
            save(left_facing(*image.shape[1:]), tmp_path / f"{name}.{what}.png")
    with caplog.at_level(logging.WARNING):
        her = one(tmp_path)
    assert her.caption == image_folder.CAPTION
    assert "nobody.png: nobody was found" in caplog.text
    scale = SIZE / 512
    nose = torch.tensor([222 * scale, (128 + 16) * scale - her.size[2]])
    bodies = torch.tensor(her.bodies)
    body = min(bodies, key=lambda body: (body[pose.NOSE, :2] - nose).norm())
    assert (body[pose.NOSE, :2] - nose).norm() < 4
    assert (bodies[..., :2] * (bodies[..., 2:] == 0)).sum() == 0  # unknown points are zeros
    x, y = body[pose.NOSE, :2].long()
    assert her.pose[:, y, x].any()


def test_items_are_what_the_loss_and_the_refiner_take(folder, mini_weights):
    base, image = bases.open_base(preview.CHECKPOINT), one(folder)
    data = StructureDataset([image] * 3, base)
    assert len(data) == 3
    item = data[1]
    latents = [base.encode(part[None] / 255)[0] for part in image[:4]]
    torch.testing.assert_close(item["latent"], torch.cat(latents[:3]), atol=1e-5, rtol=1e-5)
    nobody = base.encode(torch.zeros(1, 3, SIZE, SIZE))[0]
    torch.testing.assert_close(item["pose"], latents[3] - nobody, atol=1e-5, rtol=1e-5)
    assert item["size"].tolist() == [*image.size]
    caption = image.caption
    assert item["captions"] == {"full": caption, "brief": caption, "bodies": []}
    assert item["hint"].shape == (9, SIZE, SIZE) and item["hint"].dtype == torch.uint8
    assert torch.equal(item["hint"], torch.cat((image.pose, image.depth, image.normal)))
