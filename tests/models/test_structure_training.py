"""Training joint denoising: its loss, its sampler, its command line."""

import json
import logging

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Dataset
from vitruvian.lab.training import convert, networks, preview
from vitruvian.lab.training import structure as ours
from vitruvian.lab.training.loop import Schedule
from vitruvian.lab.training.tokens import WordTokenizer
from vitruvian.models import structure, weights

SIDE = 8  # latent cells
FULL, BRIEF = "a man waving, in a park", "a man"


@pytest.fixture(scope="module")
def tokenizer():
    return WordTokenizer.from_file()


@pytest.fixture(scope="module")
def base(mini_weights):
    return convert.load_checkpoint(preview.CHECKPOINT)


class Structures(Dataset):
    def __init__(self, count=2):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        g = torch.Generator().manual_seed(i)
        return {
            "latent": torch.randn(12, SIDE, SIDE, generator=g),
            "pose": torch.randn(4, SIDE, SIDE, generator=g),
            "size": torch.tensor([64 + i, 96, i, 2]),
            "captions": {"full": FULL, "brief": BRIEF, "bodies": []},
        }


class Recording(nn.Module):
    """Predicts a fixed mixture of what it is shown, and keeps it."""

    def __init__(self):
        super().__init__()
        self.share = nn.Parameter(torch.tensor(0.3))

    def forward(self, x, t, ids, pose, sizes):
        self.x, self.t, self.ids, self.pose, self.sizes = x, t, ids, pose, sizes
        return self.share * x + pose.repeat(1, 3, 1, 1).cos()


def run_loss(loss, batch, seed=3):
    model = Recording()
    return float(loss(model, batch, torch.Generator().manual_seed(seed)).detach()), model


def by_hand(model, batch, epsilon=False, modalities=3):
    """Equation 4 element by element, from what the network was shown."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas = (1 - betas).cumprod(0)
    if not epsilon:
        root = alphas.sqrt()
        alphas = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    total = 0.0
    for b, item in enumerate(batch):
        for k in range(modalities):
            steps = model.t[b] if model.t.dim() == 2 else model.t[b].repeat(3)
            a, s = alphas[steps[k]].sqrt(), (1 - alphas[steps[k]]).sqrt()
            part = slice(4 * k, 4 * k + 4)
            clean, noisy = item["latent"][part], model.x[b, part]
            noise = (noisy - a * clean) / s
            target = noise if epsilon else a * noise - s * clean
            prediction = 0.3 * noisy + model.pose[b].cos()
            total += float(((prediction - target) ** 2).mean())
    return total / len(batch)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"epsilon": True},
        {"shared_step": False},
        {"modalities": 1},
        {"modalities": 2},
    ],
)
def test_the_loss_is_equation_4(tokenizer, how):
    batch = [Structures()[i] for i in range(2)]
    value, model = run_loss(ours.StructureLoss(tokenizer, **how), batch)
    how = {key: how[key] for key in how if key != "shared_step"}
    assert value == pytest.approx(by_hand(model, batch, **how), rel=1e-3)
    assert torch.equal(model.sizes, torch.stack([item["size"] for item in batch]))


def test_only_what_counts_changes_the_loss(tokenizer):
    batch = [Structures()[i] for i in range(2)]
    changed = [{**item, "latent": item["latent"].clone()} for item in batch]
    for item in changed:
        item["latent"][4:] += 5

    def values(modalities):
        loss = ours.StructureLoss(tokenizer, modalities=modalities)
        return [run_loss(loss, items)[0] for items in (batch, changed)]

    first, again = values(1)
    assert first == again
    assert values(2)[0] != values(2)[1]


def test_every_modality_has_a_step_of_its_own_if_wished(tokenizer):
    batch = [Structures()[i % 2] for i in range(16)]
    _, together = run_loss(ours.StructureLoss(tokenizer), batch)
    _, apart = run_loss(ours.StructureLoss(tokenizer, shared_step=False), batch)
    assert together.t.shape == (16,) and apart.t.shape == (16, 3)
    assert (apart.t[:, 0] != apart.t[:, 1]).any() and (apart.t[:, 1] != apart.t[:, 2]).any()


def test_poses_and_texts_are_dropped_as_often_as_is_asked(tokenizer):
    batch = [Structures()[0]] * 3000
    loss = ours.StructureLoss(tokenizer, drop_text=0.3, drop_pose=0.25, brief=0.5)
    _, model = run_loss(loss, batch)
    without = (model.pose == 0).flatten(1).all(1)
    assert 0.22 < without.float().mean() < 0.28
    assert torch.equal(model.pose[~without][0], batch[0]["pose"])
    empty, full, brief = tokenizer(["", FULL, BRIEF])
    shares = [(model.ids == ids).all(1) for ids in (empty, full, brief)]
    measured = [float(share.float().mean()) for share in shares]
    assert measured == pytest.approx([0.3, 0.35, 0.35], abs=0.03) and sum(
        measured
    ) == pytest.approx(1)
    assert 0.05 < (without & shares[0]).float().mean() < 0.1  # independently
    _, always = run_loss(ours.StructureLoss(tokenizer, drop_pose=1.0, drop_text=0.0), batch[:4])
    assert not always.pose.any() and (always.ids != empty).any(1).all()


def test_nothing_is_left_at_the_last_step():
    rescaled, usual = ours.noise_schedule(False), ours.noise_schedule(True)
    assert rescaled[-1] == 0 and rescaled[0] == pytest.approx(float(usual[0]))
    torch.testing.assert_close(usual, networks.build_scheduler().alphas_cumprod)


@pytest.mark.parametrize("epsilon", [False, True])
def test_the_sampler_finds_what_a_perfect_network_knows(epsilon):
    g = torch.Generator().manual_seed(5)
    clean = torch.randn(2, 12, SIDE, SIDE + 1, generator=g)
    alphas, times = ours.noise_schedule(epsilon), []

    def perfect(x, t, context, pose, sizes):
        times.append(int(t[0]))
        a, s = alphas[t[0]].sqrt(), (1 - alphas[t[0]]).sqrt()
        noise = (x - a * clean.repeat(2, 1, 1, 1)) / s
        return noise if epsilon else a * noise - s * clean.repeat(2, 1, 1, 1)

    conditions = torch.zeros(4, 77, 8), torch.zeros(2, 4, SIDE, SIDE + 1), torch.zeros(2, 4)
    latents = ours.sample_structure(
        perfect, *conditions, epsilon=epsilon, sampling=preview.Sampling(steps=5)
    )
    assert latents.shape == clean.shape
    torch.testing.assert_close(latents, clean, atol=1e-3, rtol=1e-3)
    assert times[0] == 999 and len(times) == 5 and times == sorted(times, reverse=True)


def test_a_new_network_samples_and_begins_as_three_of_the_base(base):
    unet = ours.start_joint(base.unet).eval()
    g = torch.Generator().manual_seed(6)
    x, context = torch.randn(1, 4, SIDE, SIDE, generator=g), torch.randn(1, 77, 192, generator=g)
    pose, sizes = torch.randn(1, 4, SIDE, SIDE, generator=g), torch.tensor([[64, 64, 0, 0]])
    with torch.no_grad():
        prediction = unet(x.repeat(1, 3, 1, 1), torch.tensor([400]), context, pose, sizes)
        expected = base.unet(x, torch.tensor([400]), context).sample
    torch.testing.assert_close(prediction, expected.repeat(1, 3, 1, 1), atol=1e-4, rtol=1e-3)
    latents = ours.sample_structure(
        unet, context.repeat(2, 1, 1), pose, sizes, sampling=preview.Sampling(steps=2)
    )
    assert latents.shape == (1, 12, SIDE, SIDE) and latents.isfinite().all()


@pytest.mark.parametrize(
    ("fusion", "modalities", "trained"),
    [(structure.OFF, 1, 1), (structure.PAIR, 2, 2), (structure.MEAN, 1, 3), (structure.OFF, 2, 2)],
)
def test_a_branch_that_says_nothing_learns_nothing(
    base, tokenizer, tmp_path, fusion, modalities, trained
):
    model = ours.JointDenoiser(ours.start_joint(base.unet, fusion=fusion), base.text_encoder)
    before = [branch.conv_in.weight.clone() for branch in model.unet.unets]
    loss = ours.StructureLoss(tokenizer, modalities=modalities)
    schedule = Schedule(steps=1, batch=2, lr=1e-3, warmup=0, precision="no")
    ours.train_structure(model, Structures(), loss, schedule, tmp_path)
    changed = [
        not torch.equal(branch.conv_in.weight, weight)
        for branch, weight in zip(model.unet.unets, before, strict=True)
    ]
    assert changed == [k < trained for k in range(3)]


def test_a_few_steps_on_two_images_lower_the_loss(base, tokenizer, tmp_path):
    torch.manual_seed(0)
    model = ours.JointDenoiser(ours.start_joint(base.unet), base.text_encoder)
    loss, data = ours.StructureLoss(tokenizer, 0.0, 0.0), Structures()
    batch = [data[i % 2] for i in range(8)]

    def value():
        with torch.no_grad():
            return float(loss(model, batch, torch.Generator().manual_seed(9)))

    before = value()
    text = {name: p.clone() for name, p in model.text_encoder.named_parameters()}
    schedule = Schedule(12, 4, 1e-3, warmup=0, ema=0.5, precision="no")
    ours.train_structure(model, data, loss, schedule, tmp_path)
    assert value() < 0.8 * before
    assert all(torch.equal(p, text[name]) for name, p in model.text_encoder.named_parameters())


# the command line


def write_folder(folder, count):
    """Images with maps and poses; all but the first with a caption."""
    g = torch.Generator().manual_seed(4)
    for i in range(count):
        for name in (f"{i}.png", f"{i}.depth.png", f"{i}.normal.png", f"{i}.pose.png"):
            pixels = torch.randint(0, 256, (8 * SIDE, 10 * SIDE, 3), generator=g).byte()
            Image.fromarray(pixels.numpy()).save(folder / name)
        if i:
            (folder / f"{i}.txt").write_text(FULL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    write_folder(folder, 2)
    return folder


@pytest.fixture
def train(folder, mini_weights, tmp_path):
    """Two steps of `train structure`; returns the file."""

    def run(name, *more):
        out = tmp_path / f"{name}.safetensors"
        ours.main(
            [
                "--images",
                str(folder),
                "--work",
                str(tmp_path / name),
                "--out",
                str(out),
                "--size",
                str(8 * SIDE),
                "--batch",
                "2",
                "--precision",
                "no",
                "--steps",
                "2",
                *more,
            ]
        )
        return out

    return run


def read(file):
    return weights.load(file, method="structure", base="mini", version=structure.VERSION)[0]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_the_trainer_writes_a_network_and_goes_on_from_it(train, tmp_path, base, capsys):
    first = train("first", "--lr", "0.01", "--fusion", structure.SUM, "--experts", "2")
    begun = read(first)
    unet = ours.load_structure(base.unet, first, "mini")
    assert (unet.fusion, unet.experts) == (structure.SUM, 2)
    assert not ours.predicts_noise(first)
    assert begun["model.diffusion_model.label_emb.0.2.weight"].any()
    pose_half = begun["model.diffusion_model.expert.depth.input_blocks.0.0.weight"][:, 4:]
    assert pose_half.any()
    sheet = Image.open(tmp_path / "first" / "final.png")
    assert sheet.size == (2 * 8 * SIDE, 7 * 8 * SIDE)  # two images; four given rows, three made
    assert (tmp_path / "first" / "loss.png").is_file()
    assert same(begun, read(train("second", "--start", str(first), "--lr", "0")))
    for more, message in (
        (("--fusion", structure.MEAN), "has --fusion sum and can not go on with mean"),
        (("--experts", "3"), "has --experts 2 and can not go on with 3"),
        (("--epsilon",), "predicts the velocity: leave out --epsilon"),
    ):
        with pytest.raises(SystemExit):
            train("third", "--start", str(first), *more)
        assert f"first.safetensors {message}" in capsys.readouterr().err
    assert not (tmp_path / "third.safetensors").exists()


def test_the_base_s_own_noise_and_less_memory_if_wished(train, base, capsys):
    one = train("one", "--epsilon", "--lr", "0.01")
    assert ours.predicts_noise(one)
    other = train("other", "--epsilon", "--lr", "0.01", "--gradient-checkpointing")
    first, second = read(one), read(other)
    for key in first:
        torch.testing.assert_close(first[key], second[key], atol=2e-3, rtol=1e-2)
    with pytest.raises(SystemExit):
        train("third", "--start", str(one))
    assert "one.safetensors predicts the noise: add --epsilon" in capsys.readouterr().err


def interrupting(monkeypatch, step):
    """Ctrl-C at this step's loss."""
    original, calls = ours.StructureLoss.__call__, []

    def call(self, *batch):
        calls.append(batch)
        if len(calls) > step:
            raise KeyboardInterrupt
        return original(self, *batch)

    monkeypatch.setattr(ours.StructureLoss, "__call__", call)


def test_an_interrupted_training_keeps_what_it_learned(train, tmp_path, monkeypatch, caplog):
    interrupting(monkeypatch, 1)
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        train("half", "--steps", "3")
    learned = read(tmp_path / "half.safetensors")
    assert f"What was learned so far is in {tmp_path / 'half.safetensors'}" in caplog.text
    monkeypatch.undo()
    continued = read(train("half", "--steps", "3"))
    assert len(json.loads((tmp_path / "half" / "loss.json").read_text())) == 3
    assert not same(learned, continued)


def test_a_training_that_learned_nothing_leaves_the_file_alone(train, tmp_path, monkeypatch):
    (tmp_path / "good.safetensors").write_bytes(b"a better one")
    interrupting(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt):
        train("good")
    assert (tmp_path / "good.safetensors").read_bytes() == b"a better one"


def test_wrong_arguments_are_said(train, tmp_path, capsys):
    table = tmp_path / "table.json"
    table.write_text("{}")
    for *wrong, message in (
        ("--drop-pose", "1.5", "--drop-pose: expected a number from 0 to 1"),
        ("--drop-text", "-1", "--drop-text: expected a number from 0 to 1"),
        ("--experts", "60", "vitruvian_mini.safetensors: expected 1 to"),
        ("--start", str(table), "table.json: expected"),
        ("--checkpoint", str(table), "table.json: expected"),
        ("--images", str(tmp_path / "none"), "is no folder"),
        ("--size", "20", "--size: expected a whole number from 64"),
    ):
        with pytest.raises(SystemExit):
            train("wrong", *wrong)
        assert message in capsys.readouterr().err
    assert not (tmp_path / "wrong.safetensors").exists()
