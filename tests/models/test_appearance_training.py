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
from vitruvian.lab.training.appearance_images import DressedImages, collect_dressed, memory_of
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
    found = collect_dressed(folder, SIZE, vision, folder / "maps")
    return DressedImages(found, base, memory_of(found, vision, 4))


@pytest.fixture
def model(base):
    torch.manual_seed(5)
    made = AppearanceDenoiser(
        base.unet, base.text_encoder, start_alignment(base.unet, Sizes(WIDTH))
    )
    yield made
    for block in made.denoiser.unet.up_blocks:  # the base is shared by the tests
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
    worn = PartFeatures(
        *(torch.stack([item[name] for item in items]) for name in ("refreshed", "known")),
        torch.ones(2, 24),
        torch.stack([item["labels"] for item in items]),
    )
    ids = base.tokenizer(["a man", "a woman waving"])
    return torch.randn(2, 4, SIZE // 8, SIZE // 8, generator=g), torch.tensor([700, 40]), ids, worn


def test_at_the_start_the_base_paints_as_before(base, data, model):
    x, t, ids, worn = inputs(base, data)
    with torch.no_grad():
        expected = Denoiser(base.unet, base.text_encoder)(x, t, ids)
        assert torch.equal(model(x, t, ids, worn), expected)
        changed(model.alignment)
        assert not torch.equal(model(x, t, ids, worn), expected)
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
        DenoisingLoss(base.tokenizer, drop=1.0, forget=0.0), forgotten=0.0, own=0.0
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
    loss = ours.AppearanceLoss(DenoisingLoss(base.tokenizer), forgotten=0.25, own=0.5)
    batch = [data[0]] * 400
    worn = loss.worn(batch, torch.Generator().manual_seed(3), torch.device("cpu"))
    there = data[0]["known"]
    assert not worn.has_feature[:, ~there].any()
    assert worn.has_feature[:, there].float().mean() == pytest.approx(0.75, abs=0.05)
    torch.testing.assert_close(worn.features[:, there].norm(dim=-1), torch.ones(400, there.sum()))
    plain = ours.AppearanceLoss(DenoisingLoss(base.tokenizer), own=0.0)
    exact = plain.worn(batch[:1], torch.Generator().manual_seed(3), torch.device("cpu"))
    torch.testing.assert_close(exact.features[0], data[0]["refreshed"])


def test_a_saved_alignment_paints_the_same(base, data, model, tmp_path):
    file = tmp_path / "a.safetensors"
    save_alignment(changed(model.alignment), file, "mini", torch.float32)
    given = inputs(base, data)
    with torch.no_grad():
        expected = model(*given)
        model.alignment.load_state_dict(start_alignment(base.unet, Sizes(WIDTH)).state_dict())
        assert not torch.equal(model(*given), expected)
        model.alignment.load_state_dict(load_alignment(file).state_dict())
        assert torch.equal(model(*given), expected)
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
    begun, facts = read(first)
    assert facts["features"] == str(WIDTH)
    assert all(begun[f"layers.{k}.out.weight"].any() for k in (0, 2, 4))
    sheet = Image.open(tmp_path / "first" / "final.png")
    assert sheet.size == (2 * SIZE, 4 * SIZE)  # two images, their maps, and both painted twice
    assert (tmp_path / "first" / "loss.png").is_file()
    made = tmp_path / "memory.safetensors"
    kept = memory_file.load(made)
    assert kept.encoder == open_vision(encoder).name
    assert {len(bank) for bank in kept.banks.values()} == {1}
    written = made.read_bytes()
    given = ("--memory", str(made))
    second = train("second", "--start", str(first), "--lr", "0", remembers=given)
    assert same(begun, read(second)[0]) and made.read_bytes() == written


def test_the_host_reads_what_the_trainer_wrote(train, tmp_path):
    pytest.importorskip("comfy")
    from vitruvian.host import appearance as host

    found = host.load(train("alignment", "--lr", "0.01"))
    assert isinstance(found.alignment, Alignment) and found.alignment.sizes.features == WIDTH


def interrupting(monkeypatch, step):
    """Ctrl-C at this step's loss."""
    whole, calls = ours.AppearanceLoss.__call__, []

    def call(self, *batch):
        calls.append(batch)
        if len(calls) > step:
            raise KeyboardInterrupt
        return whole(self, *batch)

    monkeypatch.setattr(ours.AppearanceLoss, "__call__", call)


def test_an_interrupted_training_keeps_what_it_learned(train, tmp_path, monkeypatch, caplog):
    whole, _ = read(train("whole", "--steps", "3", "--lr", "0.01"))
    interrupting(monkeypatch, 2)
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        train("half", "--steps", "3", "--lr", "0.01")
    learned, _ = read(tmp_path / "half.safetensors")
    assert f"What was learned so far is in {tmp_path / 'half.safetensors'}" in caplog.text
    monkeypatch.undo()
    gone_on, _ = read(train("half", "--steps", "3", "--lr", "0.01"))
    assert len(json.loads((tmp_path / "half" / "loss.json").read_text())) == 3
    assert not same(learned, gone_on)
    for key, tensor in whole.items():
        torch.testing.assert_close(gone_on[key], tensor, atol=1e-3, rtol=1e-2)


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
        kept = memory.Memory({part: bank}, open_vision(vision).name)
        memory_file.save(tmp_path / f"{name}.safetensors", kept)
    channels = start_alignment(base.unet, Sizes(WIDTH)).channels
    save_alignment(Alignment(channels, Sizes(WIDTH + 1)), tmp_path / "wide.safetensors", "mini")
    save_alignment(Alignment({0: 64}, Sizes(WIDTH)), tmp_path / "sd15.safetensors", "sd15")

    def told(*more, **remembers):
        with pytest.raises(SystemExit):
            train("wrong", *more, **remembers)
        return capsys.readouterr().err

    for name, message in (
        ("ties", "the memory holds tie, and the images show top"),
        ("others", "others.safetensors was made with the image encoder 'CLIP vision 16/8"),
        ("none", "none.safetensors: expected weights of 'memory' here, found no file"),
    ):
        file = str(tmp_path / f"{name}.safetensors")
        assert message in told(remembers=("--memory", file))
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
        assert message in told(option, str(tmp_path / name))
    assert "--slots must be 1 or more" in told("--slots", "0")
    assert "not allowed with" in told("--memory", str(tmp_path / "ties.safetensors"))
    assert not (tmp_path / "wrong.safetensors").exists()
