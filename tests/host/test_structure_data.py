"""Save Structure Data: what lies in the folder, and that the trainer reads it."""

import comfy.model_management
import comfy.utils
import folder_paths
import pytest
import torch
from PIL import Image
from vitruvian.lab.training.structure_images import collect_structure
from vitruvian.models import structure, structure_data
from vitruvian.nodes import structure_data as nodes

HEIGHT = WIDTH = 64
NODE = nodes.VitruvianSaveStructureData


@pytest.fixture(autouse=True)
def output(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    return tmp_path


def batch(count=2, height=HEIGHT, width=WIDTH, seed=1):
    """Smooth IMAGEs, all different."""
    small = torch.rand(count, 3, 3, 3, generator=torch.Generator().manual_seed(seed))
    size = (height, width)
    grown = torch.nn.functional.interpolate(small, size, mode="bilinear", align_corners=True)
    return grown.movedim(1, -1)


def normals(count=2, height=HEIGHT, width=WIDTH):
    """IMAGEs of unit normals, x right."""
    raw = batch(count, height, width, seed=2).movedim(-1, 1) - 0.5
    raw[:, 2] = 1
    return structure.normals_to_image(torch.nn.functional.normalize(raw, dim=1)).movedim(1, -1)


def save(**changes):
    depth = batch(seed=3)[..., :1].expand(-1, -1, -1, 3)
    inputs = {
        "images": batch(),
        "depth_images": depth,
        "normal_images": normals(),
        "pose_images": batch(seed=4),
        "caption": "a man waving",
        "folder": "data",
        "depth_convention": structure.MIDAS,
        "normal_convention": structure.RIGHT_UP,
    }
    return NODE.execute(**{**inputs, **changes}).args[0]


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_the_schema_explains_everything():
    schema = NODE.GET_SCHEMA()
    assert schema.node_id == "VitruvianSaveStructureData" and schema.is_output_node
    assert schema.description and schema.category.startswith("Vitruvian/")
    assert all(part.tooltip for part in [*schema.inputs, *schema.outputs])
    assert NODE.GET_NODE_INFO_V1()["input"]
    assert nodes.NODES == [NODE]


def test_every_image_lies_there_with_all_that_belongs_to_it(output):
    assert save() == str(output / "data")
    expected = [
        f"0000{n}.{end}"
        for n in (1, 2)
        for end in (
            "depth.png",
            "normal.png",
            "png",
            "pose.png",
            "txt",
        )
    ]
    assert names(output / "data") == expected
    assert (output / "data" / "00002.txt").read_text() == "a man waving"
    assert Image.open(output / "data" / "00001.depth.png").mode == "L"


def test_numbers_go_on_and_nothing_is_overwritten(output):
    save()
    (output / "data" / "00007.depth.png").write_bytes(b"of a killed run")
    (output / "data" / "mine.png").write_bytes(b"an artist's own")
    before = {file: file.read_bytes() for file in (output / "data").iterdir()}
    save(images=batch(seed=9), caption="  ")
    assert all(file.read_bytes() == content for file, content in before.items())
    new = {file.name for file in (output / "data").iterdir() if file not in before}
    ends = ("png", "depth.png", "normal.png", "pose.png")
    assert new == {f"0000{n}.{end}" for n in (8, 9) for end in ends}  # no caption: no text


@pytest.mark.parametrize("depth_convention", structure.DEPTHS)
@pytest.mark.parametrize("normal_convention", structure.NORMALS)
def test_the_trainer_reads_what_was_saved(output, depth_convention, normal_convention):
    depth, normal = batch(seed=3)[..., :1].expand(-1, -1, -1, 3), normals()
    stored = 1 - depth if depth_convention == structure.METRIC else depth
    turned = torch.cat((1 - normal[..., :1], normal[..., 1:]), -1)
    folder = save(
        depth_images=stored,
        normal_images=turned if normal_convention == structure.BAE else normal,
        depth_convention=depth_convention,
        normal_convention=normal_convention,
    )
    examples = collect_structure(output / folder, HEIGHT)
    assert len(examples) == 2
    for i, example in enumerate(examples):
        assert example.caption == "a man waving" and example.size == (HEIGHT, WIDTH, 0, 0)
        expected = batch()[i], depth[i], normal[i], batch(seed=4)[i]
        for part, image in zip(example[:4], expected, strict=True):
            assert (part / 255 - image.movedim(-1, 0)).abs().max() < 2.5 / 255


def test_maps_of_another_size_are_resized_and_transparency_is_left_out(output):
    opaque = batch(height=64, width=96)
    transparent = torch.cat((opaque, torch.zeros(2, 64, 96, 1)), -1)
    save(
        images=transparent,
        depth_images=batch(height=32, width=48, seed=3),
        pose_images=batch(height=128, width=128),
        normal_images=normals(height=200, width=100),
    )
    for end in ("", ".depth", ".normal", ".pose"):
        assert Image.open(output / "data" / f"00001{end}.png").size == (96, 64)
    assert Image.open(output / "data" / "00001.png").mode == "RGB"


@pytest.mark.parametrize("name", ["depth_images", "normal_images", "pose_images"])
def test_a_map_for_every_image(output, name):
    message = f"Save Structure Data: there are 2 images in 'images' and 1 in '{name}'"
    with pytest.raises(ValueError, match=message):
        save(**{name: batch(1)})
    assert names(output) == []


@pytest.mark.parametrize("folder", ["", " ", ".", "..", "../out", "/tmp/out", "a/../..", "a\0b"])
def test_folders_stay_inside_the_output_folder(output, folder):
    with pytest.raises(ValueError, match="is no folder inside ComfyUI's output folder"):
        save(folder=folder)
    assert names(output) == []


def test_folders_in_folders_and_names_of_files(output):
    assert save(folder="people/dancing ") == str(output / "people" / "dancing")
    (output / "file").write_text("")
    with pytest.raises(ValueError, match="can not be created"):
        save(folder="file")


def test_a_link_out_of_the_output_folder_is_no_folder_inside(output, tmp_path_factory):
    (output / "link").symlink_to(tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(ValueError, match="is no folder inside"):
        save(folder="link")


def test_a_cancelled_run_leaves_whole_images_only(output, monkeypatch):
    def cancel(self, value, *_):
        raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", cancel)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        save()
    assert len(names(output / "data")) == 5
    assert len(collect_structure(output / "data", HEIGHT)) == 1


def test_a_run_that_fails_leaves_no_image_without_its_maps(output, monkeypatch):
    save_image = Image.Image.save

    def full_disk(self, file, *options):
        if ".pose." in str(file):
            file.write_bytes(b"half")
            raise OSError("no space left")
        save_image(self, file, *options)

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(ValueError, match=r"00001\.pose\.png could not be written: no space left"):
        save()
    assert names(output / "data") == ["00001.depth.png", "00001.normal.png"]
    monkeypatch.undo()
    assert structure_data.next_number(output / "data") == 2
