"""Test weight files: what is saved is loaded, and bad files give an error that says why."""

import os

import pytest
import torch
from safetensors.torch import save_file
from vitruvian.models import weights

FACTS = {"method": "human_prior", "version": 1, "base": "mini", "width": 64}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new folder" / "human_prior.safetensors"


def tensors(value=1.0):
    return {"a.weight": torch.full((2, 3), value), "ids": torch.arange(3), "s": torch.tensor(0.1)}


def test_round_trip(path):
    weights.save(path, tensors(), FACTS)
    loaded, metadata = weights.load(path, method="human_prior", base="mini")
    assert loaded.keys() == tensors().keys()
    assert all(torch.equal(loaded[key], value) for key, value in tensors().items())
    assert metadata == {key: str(value) for key, value in FACTS.items()}
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # no temporary file stays


def test_half_precision_spares_scalars_and_integers(path):
    weights.save(path, tensors(), FACTS, torch.float16)
    loaded, _ = weights.load(path, method="human_prior")
    assert [loaded[key].dtype for key in ("a.weight", "ids", "s")] == [
        torch.float16,
        torch.int64,
        torch.float32,
    ]


def test_channels_last_weights(path):
    weight = torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last)
    weights.save(path, {"w": weight}, FACTS)
    assert torch.equal(weights.load(path, method="human_prior")[0]["w"], weight)


@pytest.mark.parametrize(
    "arguments, expected, actual",
    [
        ({"method": "hands"}, "'hands'", "'human_prior'"),
        ({"method": "human_prior", "base": "sd15"}, "'sd15'", "'mini'"),
        ({"method": "human_prior", "version": 0}, "version 0", "'1'"),
    ],
)
def test_another_file(path, arguments, expected, actual):
    weights.save(path, tensors(), FACTS)
    with pytest.raises(ValueError) as error:
        weights.load(path, **arguments)
    assert all(part in str(error.value) for part in (str(path), expected, actual))


def test_a_file_of_somebody_else(path):
    path.parent.mkdir()
    save_file(tensors(), path)
    with pytest.raises(ValueError, match="not Vitruvian's") as error:
        weights.load(path, method="human_prior")
    assert str(path) in str(error.value)


@pytest.mark.parametrize("size", [0, 5, 60, -1])
def test_a_broken_file(path, size):
    weights.save(path, tensors(), FACTS)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match="copy or download it again") as error:
        weights.load(path, method="human_prior")
    assert str(path) in str(error.value)


def test_no_file(path):
    with pytest.raises(ValueError, match="found no file") as error:
        weights.load(path, method="human_prior")
    assert str(path) in str(error.value)


def test_a_failed_save_keeps_the_old_file(path, monkeypatch):
    weights.save(path, tensors(), FACTS)
    old_content = path.read_bytes()

    def fail(file_path, content):
        with file_path.open("wb") as file:
            file.write(content[:4])
        raise OSError("No space left on device")

    def fail_to_flush(descriptor):
        raise OSError("No space left on device")  # some file systems say it no earlier

    for holder, name, failure in ((type(path), "write_bytes", fail), (os, "fsync", fail_to_flush)):
        with monkeypatch.context() as patch:
            patch.setattr(holder, name, failure)
            with pytest.raises(OSError, match="as it was before: No space left"):
                weights.save(path, tensors(2.0), FACTS)
        assert path.read_bytes() == old_content
        assert list(path.parent.iterdir()) == [path]


def test_a_file_is_on_the_disk_before_it_has_its_name(path, monkeypatch):
    """Else a crash of the machine may leave an empty file under the old one's name."""
    events, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (events.append("flush"), fsync(number)))
    monkeypatch.setattr(os, "replace", lambda *names: (events.append("name"), replace(*names)))
    weights.save(path, tensors(), FACTS)
    assert events == ["flush", "name", "flush"]


def write_text(path):
    path.write_text("no weights, but words\n" * 20)


def write_numbers(value):
    def write(path):
        facts = {f"{weights.PREFIX}{key}": str(fact) for key, fact in FACTS.items()}
        save_file({"a.weight": torch.tensor([1.0, value])}, path, facts)

    return write


def write_lone_scale(path):
    weights.save(path, {"a.scale": torch.ones(2)}, FACTS)


def write_version(version):
    return lambda path: weights.save(path, tensors(), {**FACTS, "version": version})


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.mkdir(), "found a folder"),
        (lambda path: path.symlink_to("nowhere"), "found a link to a missing file"),
        (write_text, "can not be read"),
        (write_numbers(float("nan")), "NaN or infinity in 'a.weight'"),
        (write_numbers(float("inf")), "NaN or infinity in 'a.weight'"),
        (write_numbers(-float("inf")), "NaN or infinity in 'a.weight'"),
        (write_lone_scale, "a scale of 8 bit numbers that are not there"),
        (write_version("new"), "expected a number as version in its metadata, found 'new'"),
        (write_version("9" * 5000), "expected a number as version"),
        (write_version("-1"), "expected a number as version"),
        (write_version(2), "version 1 or older, found version '2'. Update"),
    ],
)
def test_what_is_no_weights_is_said_in_one_line(path, write, message):
    path.parent.mkdir()
    write(path)
    with pytest.raises(ValueError) as error:
        weights.load(path, method="human_prior")
    text = str(error.value)
    assert text.startswith(str(path)) and message in text and "\n" not in text


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16, torch.float64, torch.int8])
def test_every_type_of_number_is_looked_through(dtype):
    assert weights.is_finite(torch.tensor([1.0, 2.0]).to(dtype))
    assert weights.is_finite(torch.zeros(0, dtype=dtype))
    if dtype.is_floating_point:
        assert not weights.is_finite(torch.tensor([1.0, float("nan")]).to(dtype))


def test_names_that_are_missing_and_too_many_are_listed(path):
    weights.check_names(path, "a net", ["a", "b"], ["b", "a"])
    with pytest.raises(ValueError, match=r"expected a net, found no 'b' in it"):
        weights.check_names(path, "a net", ["a", "b"], ["a", "c"])
    with pytest.raises(ValueError, match=r"a net, found 'b', 'c', 'd' and 1 more in it as well"):
        weights.check_names(path, "a net", ["a"], ["a", "b", "c", "d", "e"])


@pytest.mark.parametrize("value, dtype", [(float("nan"), None), (1e6, torch.float16)])
def test_numbers_that_are_not_finite_are_not_saved(path, value, dtype):
    weights.save(path, tensors(), FACTS)
    old_content = path.read_bytes()
    with pytest.raises(ValueError, match="'a.weight'"):
        weights.save(path, tensors(value), FACTS, dtype)
    assert path.read_bytes() == old_content


def test_eight_bits_come_back_nearly_alike(tmp_path):
    g = torch.Generator().manual_seed(0)
    original = {
        "matrix": torch.randn(5, 7, generator=g) * torch.logspace(-3, 1, 5)[:, None],
        "kernel": torch.randn(4, 3, 2, 2, generator=g),
        "bias": torch.randn(6, generator=g),
        "nothing": torch.zeros(3, 3),
        "mark": torch.zeros(0),
    }
    path = tmp_path / "narrow.safetensors"
    weights.save(path, original, FACTS, torch.int8)
    loaded, _ = weights.load(path, method=FACTS["method"])
    assert loaded.keys() == original.keys()
    for key, tensor in original.items():
        assert loaded[key].dtype == torch.float16 and loaded[key].shape == tensor.shape
        rows = (
            tensor.abs().amax(tuple(range(1, tensor.dim())), keepdim=True) if key != "mark" else 0
        )
        assert ((loaded[key].float() - tensor).abs() <= rows / 250 + 1e-3 * tensor.abs()).all()


def test_a_part_of_a_file_takes_eight_bits(tmp_path):
    matrix = torch.randn(64, 32, generator=torch.Generator().manual_seed(0)) * 1e-4
    part = weights.narrowed({"part.matrix": matrix})
    path = tmp_path / "half.safetensors"
    weights.save(path, {"matrix": matrix, **part}, FACTS, torch.float16)
    with weights.opened(path, "a part") as file:
        assert file.get_tensor("part.matrix").dtype == torch.int8
        assert torch.equal(file.get_tensor("part.matrix.scale"), part["part.matrix.scale"])
    loaded, _ = weights.load(path, method=FACTS["method"])
    assert loaded.keys() == {"matrix", "part.matrix"}
    assert torch.allclose(loaded["part.matrix"].float(), matrix, atol=4e-6)


def test_eight_bits_are_half_the_size(tmp_path):
    original = {"matrix": torch.randn(256, 256)}
    sizes = []
    for dtype in (torch.int8, torch.float16):
        weights.save(tmp_path / "file.safetensors", original, FACTS, dtype)
        sizes.append((tmp_path / "file.safetensors").stat().st_size)
    assert sizes[0] < 0.52 * sizes[1]
