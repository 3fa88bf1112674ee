"""Training the alignment of parts with their appearance: its loss, its command line."""

import json
import logging

import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig
from vitruvian.lab.recipes.dressed import semantic_maps
from vitruvian.lab.training import appearance as ours
from vitruvian.lab.training import bases, preview
from vitruvian.lab.training.appearance_images import DressedDataset, build_memory, collect_dressed
from vitruvian.lab.training.appearance_unet import (
    AppearanceDenoiser,
    load_alignment,
    save_alignment,
    start_alignment,
)
from vitruvian.lab.training.denoise import Denoiser, DenoisingLoss
from vitruvian.lab.training.loop import Schedule
from vitruvian.lab.training.part_encoder import save_encoder, start_encoder
from vitruvian.lab.training.vision_files import open_vision
from vitruvian.lab.world.renderer import render
from vitruvian.lab.world.scenes import FULL, sample_scenes
from vitruvian.models import appearance as layers
from vitruvian.models import memory, memory_file, weights
from vitruvian.models.appearance import Alignment, PartFeatures, Sizes

SIZE, WIDTH = 64, 12  # pixels, features


def write_encoder(file, seed):
    torch.manual_seed(seed)
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=24,
        patch_size=8,
        projection_dim=WIDTH,
        hidden_act="quick_gelu",
    )
    save_encoder(start_encoder(config, 192), file, "mini")
    return file


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("vision") / "tiny.safetensors", 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two scenes with captions, their maps in `maps`."""
    folder = tmp_path_factory.mktemp("photographs")
    scenes = sample_scenes(2, 91, framing=FULL, people=1)
    truth = render(scenes, 96)
    (folder / "maps").mkdir()
    for i, (rgb, labels) in enumerate(zip(truth.rgb, semantic_maps(scenes, truth), strict=True)):
        pixels = (rgb.movedim(0, -1) * 255).round().byte().contiguous()
        Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
        Image.fromarray(labels.numpy()).save(folder / "maps" / f"{i}.png")
        (folder / f"{i}.txt").write_text("a woman in a red top, standing, in a park")
    return folder


@pytest.fixture(scope="module")
def base(mini_weights):
    return bases.open_base(preview.CHECKPOINT)


@pytest.fixture(scope="module")
def data(base, encoder, folder):
    vision = open_vision(encoder)
    dressed = collect_dressed(folder, SIZE, vision, folder / "maps")
    return DressedDataset(dressed, base, build_memory(dressed, vision, 4))


@pytest.fixture
def model(base):
    torch.manual_seed(5)
    denoiser = AppearanceDenoiser(
        base.unet, base.text_encoder, start_alignment(base.unet, Sizes(WIDTH))
    )
    yield denoiser
    for block in denoiser.denoiser.unet.up_blocks:  # the base is shared by the tests
        for resnet in block.resnets:
            resnet._forward_pre_hooks.clear()


def changed(alignment, seed=7):
    """No part of it is zero any more."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in alignment.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=g)
    return alignment


def inputs(base, data):
    g = torch.Generator().manual_seed(6)
    items = [data[i] for i in range(2)]
    parts = PartFeatures(
        *(torch.stack([item[name] for item in items]) for name in ("refreshed", "has_feature")),
        torch.ones(2, 24),
        torch.stack([item["labels"] for item in items]),
    )
    ids = base.tokenizer(["a man", "a woman waving"])
    return torch.randn(2, 4, SIZE // 8, SIZE // 8, generator=g), torch.tensor([700, 40]), ids, parts


def test_at_the_start_the_base_generates_as_before(base, data, model):
    x, t, ids, parts = inputs(base, data)
    with torch.no_grad():
        expected = Denoiser(base.unet, base.text_encoder)(x, t, ids)
        assert torch.equal(model(x, t, ids, parts), expected)
        changed(model.alignment)
        assert not torch.equal(model(x, t, ids, parts), expected)
        assert torch.equal(model.denoiser(x, t, ids), expected)  # nothing is worn


def losses_of(base):
    return ours.AppearanceLoss(DenoisingLoss(base.tokenizer, drop=0.2, brief=0.4, forget=0.0))


def test_two_steps_change_the_alignment_alone(base, data, model, tmp_path):
    before = {name: p.clone() for name, p in model.named_parameters()}
    schedule = Schedule(2, 2, 1e-2, warmup=0, precision="no")
    ours.train_appearance(model, data, losses_of(base), schedule, tmp_path)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved and all(name.startswith("alignment.") for name in moved)
    assert any(name.endswith(".out.weight") for name in moved)
    values = json.loads((tmp_path / "loss.json").read_text())
    assert len(values) == 2 and all(0 < value < 100 for value in values)


def test_a_few_steps_lower_the_loss_of_what_they_saw(base, data, model, tmp_path):
    loss = ours.AppearanceLoss(
        DenoisingLoss(base.tokenizer, drop=1.0, forget=0.0), forgotten=0.0, unrefreshed=0.0
    )
    batch = [data[i % 2] for i in range(8)]

    def value():
        with torch.no_grad():
            return float(loss(model, batch, torch.Generator().manual_seed(9)))

    before = value()
    schedule = Schedule(25, 4, 1e-2, warmup=0, ema=0.5, precision="no")
    ours.train_appearance(model, data, loss, schedule, tmp_path)
    assert value() < 0.9 * before


def test_parts_are_forgotten_and_mixed_as_often_as_is_asked(base, data):
    loss = ours.AppearanceLoss(DenoisingLoss(base.tokenizer), forgotten=0.25, unrefreshed=0.5)
    batch = [data[0]] * 400
    parts = loss.part_features(batch, torch.Generator().manual_seed(3), torch.device("cpu"))
    has_feature = data[0]["has_feature"]
    assert not parts.has_feature[:, ~has_feature].any()
    assert parts.has_feature[:, has_feature].float().mean() == pytest.approx(0.75, abs=0.05)
    torch.testing.assert_close(
        parts.features[:, has_feature].norm(dim=-1), torch.ones(400, has_feature.sum())
    )
    unmixed = ours.AppearanceLoss(DenoisingLoss(base.tokenizer), unrefreshed=0.0)
    exact = unmixed.part_features(batch[:1], torch.Generator().manual_seed(3), torch.device("cpu"))
    torch.testing.assert_close(exact.features[0], data[0]["refreshed"])


def test_a_saved_alignment_generates_the_same(base, data, model, tmp_path):
    file = tmp_path / "a.safetensors"
    save_alignment(changed(model.alignment), file, "mini", torch.float32)
    model_inputs = inputs(base, data)
    with torch.no_grad():
        expected = model(*model_inputs)
        model.alignment.load_state_dict(start_alignment(base.unet, Sizes(WIDTH)).state_dict())
        assert not torch.equal(model(*model_inputs), expected)
        model.alignment.load_state_dict(load_alignment(file).state_dict())
        assert torch.equal(model(*model_inputs), expected)
    assert all(p.requires_grad for p in load_alignment(file).parameters())


# the command line


@pytest.fixture
def train(folder, encoder, mini_weights, tmp_path):
    """Two steps of `train appearance`; returns the file."""

    def run(name, *more, remembers=None):
        out = tmp_path / f"{name}.safetensors"
        ours.main(
            [
                "--images",
                str(folder),
                "--maps",
                str(folder / "maps"),
                "--vision",
                str(encoder),
                "--work",
                str(tmp_path / name),
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
                *(remembers or ("--memory-out", str(tmp_path / "memory.safetensors"))),
                *more,
            ]
        )
        return out

    return run


def read(file):
    return weights.load(file, method="appearance", base="mini", version=layers.VERSION)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_the_trainer_writes_both_files_and_goes_on_from_them(train, tmp_path, encoder, capsys):
    first = train("first", "--lr", "0.01", "--slots", "1")
    initial, facts = read(first)
    assert facts["features"] == str(WIDTH)
    assert all(initial[f"layers.{k}.out.weight"].any() for k in (0, 2, 4))
    sheet = Image.open(tmp_path / "first" / "final.png")
    assert sheet.size == (
        2 * SIZE,
        4 * SIZE,
    )  # two images, their maps, and two rows of both generated
    assert (tmp_path / "first" / "loss.png").is_file()
    memory_path = tmp_path / "memory.safetensors"
    garments = memory_file.load(memory_path)
    assert garments.encoder == open_vision(encoder).name
    assert {len(bank) for bank in garments.banks.values()} == {1}
    written = memory_path.read_bytes()
    memory_option = ("--memory", str(memory_path))
    second = train("second", "--start", str(first), "--lr", "0", remembers=memory_option)
    assert same(initial, read(second)[0]) and memory_path.read_bytes() == written


def test_the_host_reads_what_the_trainer_wrote(train, tmp_path):
    pytest.importorskip("comfy")
    from vitruvian.host import appearance as host

    loaded = host.load(train("alignment", "--lr", "0.01"))
    assert isinstance(loaded.alignment, Alignment) and loaded.alignment.sizes.features == WIDTH


def interrupting(monkeypatch, step):
    """Ctrl-C at this step's loss."""
    original, calls = ours.AppearanceLoss.__call__, []

    def call(self, *batch):
        calls.append(batch)
        if len(calls) > step:
            raise KeyboardInterrupt
        return original(self, *batch)

    monkeypatch.setattr(ours.AppearanceLoss, "__call__", call)


def test_an_interrupted_training_keeps_what_it_learned(train, tmp_path, monkeypatch, caplog):
    uninterrupted, _ = read(train("whole", "--steps", "3", "--lr", "0.01"))
    interrupting(monkeypatch, 2)
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        train("half", "--steps", "3", "--lr", "0.01")
    learned, _ = read(tmp_path / "half.safetensors")
    assert f"What was learned so far is in {tmp_path / 'half.safetensors'}" in caplog.text
    monkeypatch.undo()
    continued, _ = read(train("half", "--steps", "3", "--lr", "0.01"))
    assert len(json.loads((tmp_path / "half" / "loss.json").read_text())) == 3
    assert not same(learned, continued)
    for key, tensor in uninterrupted.items():
        torch.testing.assert_close(continued[key], tensor, atol=1e-3, rtol=1e-2)


def test_a_training_that_learned_nothing_leaves_the_file_alone(train, tmp_path, monkeypatch):
    (tmp_path / "good.safetensors").write_bytes(b"a better one")
    interrupting(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt):
        train("good")
    assert (tmp_path / "good.safetensors").read_bytes() == b"a better one"


def test_wrong_arguments_are_said(train, tmp_path, encoder, base, capsys):
    other = write_encoder(tmp_path / "other.safetensors", 3)
    bank = memory.Bank(torch.eye(1, WIDTH), torch.ones(1), torch.zeros(1, 40, 40, 3).byte())
    for name, part, vision in (("ties", 23, encoder), ("others", 1, other)):
        garments = memory.Memory({part: bank}, open_vision(vision).name)
        memory_file.save(tmp_path / f"{name}.safetensors", garments)
    channels = start_alignment(base.unet, Sizes(WIDTH)).channels
    save_alignment(Alignment(channels, Sizes(WIDTH + 1)), tmp_path / "wide.safetensors", "mini")
    save_alignment(Alignment({0: 64}, Sizes(WIDTH)), tmp_path / "sd15.safetensors", "sd15")

    def error_of(*more, **remembers):
        with pytest.raises(SystemExit):
            train("wrong", *more, **remembers)
        return capsys.readouterr().err

    for name, message in (
        ("ties", "the memory holds tie, and the images show top"),
        ("others", "others.safetensors was made with the image encoder 'CLIP vision 16/8"),
        ("none", "none.safetensors: expected a file, found no file"),
    ):
        file = str(tmp_path / f"{name}.safetensors")
        assert message in error_of(remembers=("--memory", file))
    for *more, message in (
        (
            "--start",
            "wide.safetensors",
            "was trained with features of 13 numbers, and --vision makes 12",
        ),
        ("--start", "sd15.safetensors", "was trained for another checkpoint"),
        ("--vision", "ties.safetensors", "expected a CLIP image encoder"),
        ("--maps", "nowhere", "nowhere is no folder"),
        ("--images", "nowhere", "nowhere is no folder"),
    ):
        option, name = more
        assert message in error_of(option, str(tmp_path / name))
    assert "--slots: expected a whole number from 1 to" in error_of("--slots", "0")
    assert "not allowed with" in error_of("--memory", str(tmp_path / "ties.safetensors"))
    assert not (tmp_path / "wrong.safetensors").exists()
