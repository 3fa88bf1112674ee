"""Test weight files: what is saved is loaded, and bad files give an error that says why."""

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
    with pytest.raises(ValueError, match="copy it again") as error:
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

    monkeypatch.setattr(type(path), "write_bytes", fail)
    with pytest.raises(OSError, match="as it was before: No space left"):
        weights.save(path, tensors(2.0), FACTS)
    assert path.read_bytes() == old_content
    assert list(path.parent.iterdir()) == [path]


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


def test_eight_bits_are_half_the_size(tmp_path):
    original = {"matrix": torch.randn(256, 256)}
    sizes = []
    for dtype in (torch.int8, torch.float16):
        weights.save(tmp_path / "file.safetensors", original, FACTS, dtype)
        sizes.append((tmp_path / "file.safetensors").stat().st_size)
    assert sizes[0] < 0.52 * sizes[1]
