"""Training the human-centric prior: what is trained, what it is shown, what it leaves alone."""

import json
import logging

import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from vitruvian.lab.evaluators import posenet
from vitruvian.lab.recipes import human_prior as recipe
from vitruvian.lab.recipes.recipe import Run
from vitruvian.lab.training import bases, convert, denoise, networks, preview
from vitruvian.lab.training import human_prior as ours
from vitruvian.lab.training.human_prior_unet import load_prior, prior_layers
from vitruvian.lab.training.loop import Schedule
from vitruvian.lab.training.tokens import WordTokenizer, word_pieces
from vitruvian.lab.world.captions import scene_caption
from vitruvian.lab.world.dataset import draw_hint
from vitruvian.lab.world.renderer import render
from vitruvian.lab.world.scenes import FULL, sample_scenes
from vitruvian.models import human_prior, weights
from vitruvian.models.pose_features import image_features

SIDE = 8  # latent cells


@pytest.fixture(scope="module")
def tokenizer():
    return WordTokenizer.from_file()


def denoiser(tokenizer, **how):
    torch.manual_seed(0)
    unet, text = networks.build_unet(), networks.build_text_encoder(len(tokenizer))
    return ours.PriorDenoiser(unet, text, hidden=4, **how)


class People(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        g = torch.Generator().manual_seed(i)
        return {
            "latent": torch.randn(4, SIDE, SIDE, generator=g),
            "hint": torch.randint(0, 256, (3, 8 * SIDE, 8 * SIDE), generator=g).byte(),
            "captions": {"full": "a man waving, in a park", "brief": "a man", "bodies": []},
        }


def loss_of(tokenizer, **how):
    torch.manual_seed(1)
    net = posenet.PoseNet().eval().requires_grad_(False)
    return ours.PriorLoss(
        denoise.DenoisingLoss(tokenizer, forget=0.0, drop=0.0, brief=0.0),
        word_pieces(tokenizer.words),
        net.features,
        **how,
    )


def test_captions_words_are_found_from_their_ids(tokenizer):
    looks = "with tan skin wearing a red top"
    texts = [f"a man {looks}, waving, in a park", "", "two people in the snow"]
    human = ours.human_tokens(word_pieces(tokenizer.words), tokenizer(texts))
    assert human.shape == (3, 77) and human.sum(1).tolist() == [2, 0, 1]
    assert human[0, 2] and human[2, 2]


@pytest.mark.parametrize(
    ("size", "tokens", "grid"),
    [
        ((24, 24), 144, (12, 12)),
        ((13, 19), 70, (7, 10)),
        ((64, 64), 4096, (64, 64)),
        ((13, 19), 20, (4, 5)),
    ],
)
def test_the_grid_of_a_map(size, tokens, grid):
    assert human_prior.map_grid(size, tokens) == grid


def test_prompts_without_people_are_the_base(tokenizer):
    model = denoiser(tokenizer)
    for processor in model.attentions.values():
        processor.layer.net[2].weight.data.normal_()
    x, t = torch.randn(2, 4, SIDE, SIDE), torch.tensor([10, 500])
    ids = tokenizer(["a man", "a park"])
    human = ours.human_tokens(word_pieces(tokenizer.words), ids)
    with torch.no_grad():
        noise, maps_by_place = model(x, t, ids, human)
        torch.manual_seed(0)
        unet = networks.build_unet()
        context = model.text_encoder(ids).last_hidden_state
        expected = unet(x, t, context).sample
    torch.testing.assert_close(noise[1], expected[1], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(noise[0], expected[0], atol=1e-4)
    assert len(maps_by_place) == len(model.attentions) == 7
    for maps in maps_by_place.values():
        assert torch.allclose(maps[0].sum(-1), torch.ones(()))
        assert maps[0][..., ~human[0]].sum() == 0


def test_only_the_layers_are_trained_and_saved(tokenizer, tmp_path):
    model = denoiser(tokenizer, gamma=0.8, mask=human_prior.AFTER)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all(".processor.layer." in name for name in trained)
    before = {name: p.clone() for name, p in model.named_parameters()}
    schedule = Schedule(3, 2, 1e-2, warmup=0, precision="no")
    ours.train_prior(model, People(), loss_of(tokenizer), schedule, tmp_path / "work")
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed <= trained and any("net.2" in name for name in changed)
    ours.save_prior(model, tmp_path / "prior.safetensors", "mini")
    tensors, facts = weights.load(tmp_path / "prior.safetensors", method="human_prior", base="mini")
    assert {"human_prior.input_3_0.net.0.weight", "human_prior.middle_0_0.net.2.bias"} <= set(
        tensors
    )
    assert facts["gamma"] == "0.8" and facts["mask"] == human_prior.AFTER


def test_alignment_adds_to_the_loss_and_without_it_the_loss_is_plain(tokenizer):
    model, batch = denoiser(tokenizer), [People()[0], People()[1]]

    def value(**how):
        with torch.no_grad():
            return float(loss_of(tokenizer, **how)(model, batch, torch.Generator().manual_seed(3)))

    plain = value(alpha=0.0)
    even = value(alpha=1.0, table=human_prior.constant_table())
    assert plain < value(alpha=1.0) < even
    assert value(alpha=2.0, table=human_prior.constant_table()) - plain == pytest.approx(
        2 * (even - plain), rel=1e-4
    )


def items_of(checkpoint, count):
    """Encode drawn people as the recipe's data has them."""
    scenes = sample_scenes(count, 77, framing=FULL, people=1)
    truth = render(scenes)
    with torch.no_grad():
        latents = preview.encode(checkpoint, truth.rgb)
    captions = [
        {"full": scene_caption(scenes, i), "bodies": truth.body[i : i + 1].tolist()}
        for i in range(count)
    ]
    hints = [(draw_hint(i, scenes, truth) * 255).byte() for i in range(count)]
    return [
        {"latent": latents[i], "hint": hints[i], "captions": {**captions[i], "brief": "a man"}}
        for i in range(count)
    ]


def test_the_default_alignment_does_not_outweigh_denoising(mini_weights):
    """Of the mini model's trained prior: .1, the default of before, is 35 times the gradient."""
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    words = WordTokenizer.from_file(token_ids=checkpoint.token_ids)
    items = items_of(checkpoint, 8)
    config = recipe.CONFIG
    model = ours.PriorDenoiser(
        checkpoint.unet,
        checkpoint.text_encoder,
        hidden=config.hidden,
        gamma=config.gamma,
        mask=config.mask,
    )
    load_prior(model, recipe.HUMAN_PRIOR)
    denoising = denoise.DenoisingLoss(words, drop=0.0, brief=0.0, forget=0.0)

    def gradient(**how):
        model.zero_grad()
        loss = ours.PriorLoss(denoising, word_pieces(words.words), image_features, **how)
        loss(model, items, torch.Generator().manual_seed(5)).backward()
        return torch.cat([p.grad.flatten() for p in prior_layers(model).parameters()])

    plain = gradient(alpha=0.0)
    share = float((gradient() - plain).norm() / plain.norm())
    assert 0.02 < share < 1


def test_the_command_line_and_the_loss_align_by_the_same_weight():
    options = ours._parser().parse_args(["--images", "in", "--work", "work", "--out", "out"])
    assert options.alpha == ours.PriorLoss(None, None, None).alpha == human_prior.ALIGNMENT_WEIGHT


def test_the_recipes_arms_differ_in_what_they_claim(mini_weights, monkeypatch, tmp_path):
    """All see the drawn skeletons and as many samples; only the named thing differs."""
    trained, saved = [], []
    monkeypatch.setattr(recipe.worlds, "write_singles", lambda work: work)
    monkeypatch.setattr(recipe.worlds, "encode", lambda *_: None)
    monkeypatch.setattr(recipe, "preview_prior", lambda *_: None)
    monkeypatch.setattr(recipe.human_prior, "train_prior", lambda *a, **_: trained.append(a))
    monkeypatch.setattr(
        recipe.human_prior_unet, "save_prior", lambda model, file, *_: saved.append(file.stem)
    )
    for one in (recipe.RECIPE, recipe.ABLATIONS_RECIPE):
        one.train(Run(tmp_path, one.schedule, scenes=1))
    facts = {
        name: (loss.alpha, model.mask, model.gamma)
        for name, (model, _, loss, _, _) in zip(saved, trained, strict=True)
    }
    assert facts == {
        recipe.HUMAN_PRIOR.stem: (0.0005, human_prior.KEYS, 0.0),
        "no_alignment": (0.0, human_prior.KEYS, 0.0),
        "alignment_0015": (0.0015, human_prior.KEYS, 0.0),
        "gamma_07": (0.0005, human_prior.BEFORE, 0.7),
    }
    assert all(loss.features is image_features for _, _, loss, _, _ in trained)
    assert {s.steps * s.batch for _, _, _, s, _ in trained} == {57_600}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three images with pose images; two have a caption."""
    folder = tmp_path_factory.mktemp("photographs")
    g = torch.Generator().manual_seed(4)
    for i in range(3):
        for name in (f"{i}.png", f"{i}.pose.png"):
            pixels = torch.randint(0, 256, (8 * SIDE, 8 * SIDE, 3), generator=g).byte()
            Image.fromarray(pixels.numpy()).save(folder / name)
        if i:
            (folder / f"{i}.txt").write_text("a man waving, in a park")
    return folder


@pytest.fixture
def train(folder, mini_weights, tmp_path):
    """Two steps of `train human_prior`; returns the file."""

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
                "--hidden",
                "4",
                *more,
            ]
        )
        return out

    return run


def read(file):
    return weights.load(file, method="human_prior", base="mini", version=human_prior.VERSION)


def test_the_trainer_writes_a_prior_and_goes_on_from_it(train, tmp_path, caplog, capsys):
    first = train("first", "--gamma", "0.8", "--lr", "0.01")
    begun, facts = read(first)
    assert facts["gamma"] == "0.8" and facts["mask"] == human_prior.KEYS
    assert any(t.any() for key, t in begun.items() if key.endswith("net.2.weight"))
    assert (tmp_path / "first" / "final.png").is_file()
    assert (tmp_path / "first" / "loss.png").is_file()
    with caplog.at_level(logging.WARNING):
        gone_on, _ = read(train("second", "--start", str(first), "--lr", "0"))
    assert all(torch.equal(begun[key], gone_on[key]) for key in begun)
    assert "first.safetensors was trained with gamma 0.8 and goes on with 0.0" in caplog.text
    with pytest.raises(SystemExit):
        train("third", "--start", str(first), "--hidden", "3")
    said = capsys.readouterr().err
    assert "first.safetensors: a prior for another checkpoint or hidden width" in said


def test_the_host_reads_what_the_trainer_wrote(train):
    pytest.importorskip("comfy")
    from vitruvian.host import human_prior as host

    prior = host.load(train("prior", "--mask", human_prior.AFTER))
    assert (
        len(prior.layers) == 7
        and prior.mask == human_prior.AFTER
        and prior.gamma == human_prior.GAMMA
    )


def interrupting(monkeypatch, step):
    """Ctrl-C at this step's loss."""
    original, calls = ours.PriorLoss.__call__, []

    def call(self, *batch):
        calls.append(batch)
        if len(calls) > step:
            raise KeyboardInterrupt
        return original(self, *batch)

    monkeypatch.setattr(ours.PriorLoss, "__call__", call)


def test_an_interrupted_training_keeps_what_it_learned(train, tmp_path, monkeypatch, caplog):
    interrupting(monkeypatch, 2)
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        train("half", "--steps", "4", "--lr", "0.01")
    learned, _ = read(tmp_path / "half.safetensors")
    assert all(t.any() for key, t in learned.items() if key.endswith("net.2.weight"))
    assert f"What was learned so far is in {tmp_path / 'half.safetensors'}" in caplog.text
    monkeypatch.undo()
    caplog.clear()
    continued, _ = read(train("half", "--steps", "4", "--lr", "0.01"))
    assert len(json.loads((tmp_path / "half" / "loss.json").read_text())) == 4
    assert not all(torch.equal(learned[key], continued[key]) for key in learned)


def test_a_training_that_learned_nothing_leaves_the_file_alone(train, tmp_path, monkeypatch):
    (tmp_path / "good.safetensors").write_bytes(b"a better one")
    interrupting(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt):
        train("good")
    assert (tmp_path / "good.safetensors").read_bytes() == b"a better one"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "an object of the lists input, middle, output"),
        ('{"up": [1, 2]}', "an object of the lists"),
        ('{"input": [1, 2], "middle": [1, 2]}', "for 'output' it has 0"),
        ('{"input": [1, 2], "middle": [1], "output": [1, 1]}', "for 'middle' it has 1"),
        ('{"input": ["a", 2], "middle": [1, 2], "output": [1, 2]}', "expected the weights"),
        ('{"input": 3, "middle": [1, 2], "output": [1, 2]}', "expected the weights"),
        ('{"input": [NaN, 2], "middle": [1, 2], "output": [1, 2]}', "'input' must be finite"),
        ("{", "expected the weights"),
    ],
)
def test_a_wrong_table_is_said(tmp_path, text, message):
    file = tmp_path / "table.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=rf"table\.json: .*{message}"):
        ours.read_table(file)


def test_a_table_is_read_and_wrong_arguments_are_said(train, tmp_path, capsys):
    table = tmp_path / "table.json"
    table.write_text(json.dumps(human_prior.constant_table()))
    assert ours.read_table(table) == human_prior.constant_table()
    train("even", "--table", str(table))
    for *wrong, message in (
        ("--table", str(tmp_path / "none.json"), "none.json: expected a file"),
        ("--encoder", str(table), "table.json: expected the weights of a ResNet-50"),
        ("--start", str(table), "table.json: expected"),
        ("--gamma", "1.5", "--gamma: expected a number from 0 to 1"),
        ("--images", str(tmp_path / "none"), "is no folder"),
    ):
        with pytest.raises(SystemExit):
            train("wrong", *wrong)
        assert message in capsys.readouterr().err
    assert not (tmp_path / "wrong.safetensors").exists()


def test_captions_without_people_are_said(mini_weights, caplog):
    base = bases.open_base(preview.CHECKPOINT)
    with caplog.at_level(logging.WARNING):
        ours.check_captions(["a man", "in a park", ""], base)
    assert "2 captions have no word for people" in caplog.text
    with pytest.raises(ValueError, match="no caption has a word for people"):
        ours.check_captions(["in a park"], base)
