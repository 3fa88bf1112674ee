"""Every loader with every kind of file that is not its own: one error in the node's words, which
names the file."""

import json
from pathlib import Path
from types import SimpleNamespace

import folder_paths
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from vitruvian.host.registration import register
from vitruvian.models import pose_features, weights
from vitruvian.nodes import appearance, hand_generator, human_prior, memory, refiner, structure
from vitruvian.tests.plain_errors import python_words

register()
WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
LOADERS = {  # method: folder, sample file, node, further inputs
    "human_prior": ("human_prior", human_prior.VitruvianLoadHumanPrior),
    "hands": ("hands", hand_generator.VitruvianLoadHandGenerator),
    "memory": ("memory", memory.VitruvianLoadMemory),
    "appearance": ("appearance", appearance.VitruvianLoadAppearance),
    "refiner": ("refiner", refiner.VitruvianLoadStructureRefiner),
    "structure": ("structure", structure.VitruvianLoadStructureModel),
    "vision": ("vision", memory.VitruvianLoadPartEncoder),
}
FOLDERS = {"vision": "clip_vision"}


@pytest.fixture(params=LOADERS)
def kind(request, tmp_path, monkeypatch, mini_weights):
    """A loader, a file of its own, and a name in a folder where the loader looks."""
    method = request.param
    name, node = LOADERS[method]
    place = FOLDERS.get(method, "vitruvian")
    sample = WEIGHTS / place / f"vitruvian_mini_{name}.safetensors"
    if not sample.is_file():
        pytest.skip(f"{sample.name} is missing")
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, place, ([str(tmp_path)], {".safetensors"})
    )
    folder_paths.filename_list_cache.clear()
    more = ("normal",) if method == "refiner" else ()

    def load(path):
        with torch.inference_mode():
            return node.execute(path.name, *more)

    return SimpleNamespace(
        method=method, sample=sample, node=node, load=load, file=tmp_path / "mine.safetensors"
    )


def read(sample):
    with safe_open(sample, framework="pt") as file:
        facts = {key.removeprefix(weights.PREFIX): v for key, v in file.metadata().items()}
    method = facts["method"]
    return weights.load(sample, method=method, version=int(facts["version"]))[0], facts


def write(kind, change):
    """Write the sample once more, after `change` has changed its tensors or facts."""
    tensors, facts = read(kind.sample)
    change(tensors, facts)
    facts = {weights.PREFIX + key: str(value) for key, value in facts.items()}
    save_file({key: t.contiguous() for key, t in tensors.items()}, kind.file, facts)


def matrix(tensors):
    """The name of a weight that every network of the kind needs, and not the first of all."""
    names = sorted(key for key, t in tensors.items() if t.dim() > 1 and t.is_floating_point())
    names = [name for name in names if ".lora_" not in name]  # whose model is not known yet
    return names[len(names) // 2]


def cut(kind):
    kind.file.write_bytes(kind.sample.read_bytes()[:-1000])


def only_header(kind):
    kind.file.write_bytes(kind.sample.read_bytes()[:40])


def empty(kind):
    kind.file.touch()


def text(kind):
    kind.file.write_text("<html>not found</html>\n" * 40)


def another_method(kind):
    for method, (name, _) in LOADERS.items():
        sample = WEIGHTS / FOLDERS.get(method, "vitruvian") / f"vitruvian_mini_{name}.safetensors"
        if method not in (kind.method, "vision") and sample.is_file():
            kind.file.write_bytes(sample.read_bytes())
            return


def somebody_elses(kind):
    save_file({"weight": torch.zeros(3, 3)}, kind.file)


def newer(kind):
    write(kind, lambda tensors, facts: facts.update(version=99))


def version_in_words(kind):
    write(kind, lambda tensors, facts: facts.update(version="two"))


def not_a_number(kind):
    def change(tensors, facts):
        key = matrix(tensors)
        tensors[key] = tensors[key].clone()
        tensors[key].view(-1)[-1] = float("nan")

    write(kind, change)


def missing(kind):
    write(kind, lambda tensors, facts: tensors.pop(matrix(tensors)))


def too_many(kind):
    write(kind, lambda tensors, facts: tensors.update({"extra.part.weight": torch.zeros(2, 2)}))


def wrong_shape(kind):
    def change(tensors, facts):
        key = matrix(tensors)
        tensors[key] = tensors[key][: len(tensors[key]) // 2]

    write(kind, change)


def other_axes(kind):
    def change(tensors, facts):
        key = matrix(tensors)
        tensors[key] = tensors[key].flatten()

    write(kind, change)


def nothing_in_it(kind):
    write(kind, lambda tensors, facts: tensors.clear())


DAMAGES = [
    cut, only_header, empty, text, another_method, somebody_elses, newer, version_in_words,
    not_a_number, missing, too_many, wrong_shape, other_axes, nothing_in_it,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_one_error_names_the_node_and_the_file(kind, damage):
    if kind.method == "memory" and damage is nothing_in_it:
        pytest.skip("a memory may be empty")
    damage(kind)
    with pytest.raises(ValueError) as error:
        kind.load(kind.file)
    message = str(error.value)
    name = kind.node.define_schema().display_name
    assert message.startswith(f"{name}: {kind.file}"), message
    assert "expected" in message and "\n" not in message and len(message) < 900
    assert not python_words(message.replace(str(kind.file), "")), message


def test_the_undamaged_file_loads(kind):
    kind.file.write_bytes(kind.sample.read_bytes())
    kind.load(kind.file)
    write(kind, lambda tensors, facts: None)
    kind.load(kind.file)


def test_folders_and_links_to_nothing_are_said(kind):
    kind.file.mkdir()
    with pytest.raises(ValueError, match=rf"^{kind.node.define_schema().display_name}: .*mine"):
        kind.load(kind.file)
    kind.file.rmdir()
    kind.file.symlink_to("nowhere")
    with pytest.raises(ValueError, match=rf"^{kind.node.define_schema().display_name}: .*mine"):
        kind.load(kind.file)


FACTS = {
    "human_prior": [
        {"gamma": "much"},
        {"gamma": "nan"},
        {"gamma": "1.5"},
        {"mask": "all"},
        {"gamma": None},
        {"mask": None},
    ],
    "memory": [{"encoder": None}],
    "appearance": [
        {"features": "many"},
        {"heads": "0"},
        {"heads": "-2"},
        {"heads": "7"},
        {"width": "99999999999"},
        {"width": "1000000"},
        {"tokens": None},
    ],
    "vision": [
        {"config": None},
        {"config": "{"},
        {"config": "[]"},
        {"config": "x" * 100_000},
        {"config": json.dumps({"hidden_size": "many"})},
        {"config": json.dumps({"hidden_size": 96})},
    ],
}


def test_metadata_that_mean_nothing_are_said(kind):
    for changes in FACTS.get(kind.method, [{"version": None}]):

        def change(tensors, facts, changes=changes):
            facts.update(changes)
            for name in [name for name, value in changes.items() if value is None]:
                del facts[name]

        write(kind, change)
        with pytest.raises(ValueError) as error:
            kind.load(kind.file)
        message = str(error.value)
        assert str(kind.file) in message and "expected" in message, (changes, message)
        assert "\n" not in message and len(message) < 900
        assert not python_words(message.replace(str(kind.file), "")), message


def test_a_prior_that_lacks_a_layer_is_not_loaded(loaded, tmp_path):
    from vitruvian.host import human_prior as host
    from vitruvian.host import human_prior_training as training

    prior = host.load(WEIGHTS / "vitruvian" / "vitruvian_mini_human_prior.safetensors")
    training.save(prior, tmp_path / "full.safetensors", "mini")
    host.load(tmp_path / "full.safetensors")
    tensors, facts = read(tmp_path / "full.safetensors")
    place = sorted(tensors)[0].split(".")[1]
    tensors = {key: t for key, t in tensors.items() if f".{place}." not in key}
    weights.save(tmp_path / "less.safetensors", tensors, facts)
    with pytest.raises(ValueError, match="less.safetensors: expected the layers .*, found 6 of 7"):
        host.load(tmp_path / "less.safetensors")


@pytest.mark.parametrize("change", ["another place", "another width"])
def test_a_generator_for_another_model_is_refused(loaded, tmp_path, change):
    """The host leaves out what it does not find: without an error, hands would be as before."""
    from vitruvian.host import hand_generator as host

    tensors, facts = read(WEIGHTS / "vitruvian" / "vitruvian_mini_hands.safetensors")
    key = next(key for key in sorted(tensors) if "attn2.to_k.lora_down" in key)
    if change == "another width":
        tensors[key] = torch.cat((tensors[key], tensors[key]), 1)
    else:
        for part in ("up", "down"):
            old = key.replace("lora_down", f"lora_{part}")
            tensors[old.replace("attn2.to_k", "attn9.to_k")] = tensors.pop(old)
    weights.save(tmp_path / "hands.safetensors", tensors, facts)
    generator = host.load(tmp_path / "hands.safetensors")
    people = host_people()
    with pytest.raises(ValueError, match="hands.safetensors was trained for another model"):
        host.apply(loaded[0], generator, [people], 1.0)


def host_people():
    from vitruvian.models import pose

    parts = [*pose.no_people(64, 64)[:5]]
    parts = [torch.zeros(1, *part.shape[1:]) for part in parts]
    parts[1] = torch.rand(parts[1].shape) * 60 + 1
    return pose.people_from_points(parts, 64, 64)


def test_a_network_for_pose_features_is_read_or_refused(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    file = tmp_path / "resnet.safetensors"
    tensors = torchvision.models.resnet50().state_dict()
    save_file(tensors, file)
    pose_features.resnet50(file)
    tensors["layer1.0.conv1.weight"][0, 0] = float("nan")
    save_file(tensors, file)
    with pytest.raises(ValueError, match=r"resnet.safetensors: .*NaN .* 'layer1.0.conv1.weight'"):
        pose_features.resnet50(file)
    file.unlink()
    file.mkdir()
    with pytest.raises(ValueError, match="resnet.safetensors: .*ResNet-50 here, found a folder"):
        pose_features.resnet50(file)


@pytest.mark.parametrize("content", [b"", b"no weights, but words", b"PK\x03\x04 a broken archive"])
def test_an_encoder_in_another_format_that_is_broken_is_said(tmp_path, content):
    from vitruvian.host import part_encoder

    file = tmp_path / "encoder.bin"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"encoder.bin: expected an image encoder .* not be read"):
        part_encoder.load(file)
