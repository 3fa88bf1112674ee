"""Training the structure-guided refiner: where it begins, what it is shown, what learns."""

import functools
import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.utils.data import Dataset
from vitruvian.lab.training import convert, networks, preview
from vitruvian.lab.training import refiner as ours
from vitruvian.lab.training.denoise import Denoiser, DenoisingLoss
from vitruvian.lab.training.loop import Schedule
from vitruvian.lab.training.tokens import WordTokenizer
from vitruvian.models import refiner, weights
from vitruvian.models.refiner import CONDITIONS

SIDE = 8  # latent cells
BASE = "mini"


@pytest.fixture(scope="module")
def tokenizer():
    return WordTokenizer.from_file()


@pytest.fixture(scope="module")
def controlnet():
    """A pose ControlNet that does something: nothing in it is zero."""
    torch.manual_seed(0)
    net = networks.build_controlnet(networks.build_unet()).eval()
    for p in net.parameters():
        p.data += 0.02 * torch.randn(p.shape)
    return net


class Structures(Dataset):
    def __init__(self, channels=12):
        self.channels = channels

    def __len__(self):
        return 4

    def __getitem__(self, i):
        g = torch.Generator().manual_seed(i)
        return {
            "latent": torch.randn(self.channels, SIDE, SIDE, generator=g),
            "hint": torch.randint(1, 256, (9, 8 * SIDE, 8 * SIDE), generator=g).byte(),
            "captions": {"full": "a man waving, in a park", "brief": "a man", "bodies": []},
        }


BATCH = [Structures()[i] for i in range(4)]


def loss_of(tokenizer, **how):
    return ours.RefinerLoss(DenoisingLoss(tokenizer, forget=0.0), **how)


def model_of(tokenizer, controlnet):
    torch.manual_seed(1)
    unet, text = networks.build_unet(), networks.build_text_encoder(len(tokenizer))
    return Denoiser(unet, text, ours.start_refiner(controlnet))


def randomized(controlnet, seed=3):
    net = ours.start_refiner(controlnet)
    g = torch.Generator().manual_seed(seed)
    for name, p in net.named_parameters():
        if name.startswith(ours.EMBEDDING):
            p.data += 0.1 * torch.randn(p.shape, generator=g)
    return net


def inputs(seed=4):
    g = torch.Generator().manual_seed(seed)
    context = torch.randn(2, 77, networks.mini.UNET.context_dim, generator=g)
    hint = torch.rand(2, 9, 8 * SIDE, 8 * SIDE, generator=g)
    return torch.randn(2, 4, SIDE, SIDE, generator=g), torch.tensor([10, 800]), context, hint


def residuals(net, x, t, context, hint):
    with torch.no_grad():
        down, middle = net(x, t, context, hint, return_dict=False)
    return [*down, middle]


def test_it_begins_as_the_controlnet_whatever_depth_and_normals_are(controlnet):
    x, t, context, hint = inputs()
    begun_residuals = residuals(ours.start_refiner(controlnet), x, t, context, hint)
    expected = residuals(controlnet, x, t, context, hint[:, :3])
    assert all(torch.equal(a, b) for a, b in zip(begun_residuals, expected, strict=True))
    assert not isinstance(controlnet.controlnet_cond_embedding, refiner.SummedEmbedders)


def test_every_condition_counts(controlnet):
    x, t, context, hint = inputs()
    net = randomized(controlnet)
    all_conditions = residuals(net, x, t, context, hint)
    for k in range(3):
        is_kept = torch.ones(2, 3).bool()
        is_kept[:, k] = False
        other = residuals(net, x, t, context, refiner.keep_conditions(hint, is_kept))
        assert not torch.allclose(all_conditions[-1], other[-1], atol=1e-4)


def test_a_file_is_read_as_it_was_written_and_holds_a_pose_controlnet(controlnet, tmp_path):
    net, path = randomized(controlnet), tmp_path / "refiner.safetensors"
    ours.save_refiner(net, path, BASE, torch.float32)
    again = ours.load_refiner(path, networks.build_unet(), BASE)
    assert again.state_dict().keys() == net.state_dict().keys()
    assert all(torch.equal(t, again.state_dict()[name]) for name, t in net.state_dict().items())
    tensors, facts = weights.load(path, method="refiner")
    assert facts["base"] == BASE
    plain = {name: t for name, t in tensors.items() if refiner.is_controlnet(name)}
    assert plain.keys() == convert.controlnet_to_ldm(controlnet).keys()
    assert (
        refiner.embedder_tensors(tensors, "normal").keys()
        == refiner.embedder_tensors(tensors, "pose").keys()
    )


def test_wrong_files_are_named(controlnet, tmp_path):
    plain, torn = tmp_path / "plain.safetensors", tmp_path / "torn.safetensors"
    convert.save_controlnet(plain, controlnet)
    with pytest.raises(ValueError, match="plain.safetensors.*'refiner', found 'controlnet'"):
        ours.load_refiner(plain, networks.build_unet(), BASE)
    facts = {"method": "refiner", "version": 1, "base": BASE}
    weights.save(torn, convert.controlnet_to_ldm(controlnet), facts)
    with pytest.raises(ValueError, match="torn.safetensors.*hint.depth.input_hint_block"):
        ours.load_refiner(torn, networks.build_unet(), BASE)


def test_training_begins_as_the_file_does(controlnet, tmp_path):
    x, t, context, hint = inputs()
    unet, ldm = networks.build_unet(), convert.controlnet_to_ldm(controlnet)
    expected_residuals = residuals(controlnet, x, t, context, hint[:, :3])
    spellings = {
        "ldm": ldm,
        "prefixed": {f"control_model.{name}": tensor for name, tensor in ldm.items()},
        "diffusers": controlnet.state_dict(),
    }
    for name, tensors in spellings.items():
        path = tmp_path / f"{name}.safetensors"
        save_file(tensors, path)
        begun_residuals = residuals(ours.begin_refiner(path, unet, BASE), x, t, context, hint)
        assert all(
            torch.equal(a, b) for a, b in zip(expected_residuals, begun_residuals, strict=True)
        )
    path = tmp_path / "narrow.safetensors"
    convert.save_controlnet(path, controlnet, torch.int8)
    begun_residuals = residuals(ours.begin_refiner(path, unet, BASE), x, t, context, hint)
    assert all(
        torch.allclose(a, b, atol=0.05)
        for a, b in zip(expected_residuals, begun_residuals, strict=True)
    )
    path = tmp_path / "refiner.safetensors"
    ours.save_refiner(randomized(controlnet), path, BASE, torch.float32)
    expected = residuals(randomized(controlnet), x, t, context, hint)
    begun_residuals = residuals(ours.begin_refiner(path, unet, BASE), x, t, context, hint)
    assert all(torch.equal(a, b) for a, b in zip(expected, begun_residuals, strict=True))
    untrained = residuals(ours.begin_refiner(None, unet, BASE), x, t, context, hint)
    assert not any(residual.any() for residual in untrained)


def test_files_that_no_training_begins_with_are_named(controlnet, tmp_path):
    unet, path = networks.build_unet(), tmp_path / "other.safetensors"
    with pytest.raises(
        ValueError, match="other.safetensors: expected a pose ControlNet .* found no file"
    ):
        ours.begin_refiner(path, unet, BASE)
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="other.safetensors: expected a ControlNet for this"):
        ours.begin_refiner(path, unet, BASE)
    ours.save_refiner(randomized(controlnet), path, "sd15")
    with pytest.raises(ValueError, match="other.safetensors: .*'mini', found weights for 'sd15'"):
        ours.begin_refiner(path, unet, BASE)


def test_which_conditions_to_keep():
    assert ours.read_keep("pose + normal") == ("pose", "normal")
    assert ours.read_keep("depth") == ("depth",)
    for text in ("", "rgb", "pose,depth", "pose+"):
        with pytest.raises(ValueError, match="joined by .*such as depth.normal"):
            ours.read_keep(text)


def test_conditions_are_dropped_each_by_itself(tokenizer):
    originals = [{**BATCH[i % 4], "hint": BATCH[i % 4]["hint"][:, :8, :8]} for i in range(4000)]
    g = torch.Generator().manual_seed(5)
    items = loss_of(tokenizer, drop=0.25).drop_conditions(originals, g)
    hints = torch.stack([item["hint"] for item in items])
    visible = hints.unflatten(1, (3, 3)).flatten(2).any(2)
    assert torch.allclose(visible.float().mean(0), torch.tensor(0.75), atol=0.03)
    two_visible = (visible[:, :1] & visible[:, 1:]).float().mean(0)
    assert torch.allclose(two_visible, torch.tensor(0.75**2), atol=0.03)
    for item, original, row in zip(items, originals, visible, strict=True):
        assert torch.equal(item["latent"], original["latent"][:4])
        for k in range(3):
            part = slice(3 * k, 3 * k + 3)
            assert torch.equal(item["hint"][part], original["hint"][part] * row[k])


def test_only_some_conditions_are_kept(tokenizer):
    loss = loss_of(tokenizer, drop=0.0, keep_only=("pose", "normal"))
    hints = torch.stack([item["hint"] for item in loss.drop_conditions(BATCH, torch.Generator())])
    assert not hints[:, 3:6].any() and hints[:, :3].all() and hints[:, 6:].all()


def test_texts_have_a_rate_of_their_own(tokenizer, controlnet):
    captions = []

    def tokenize(texts):
        captions.extend(texts)
        return tokenizer(texts)

    model, g = model_of(tokenizer, controlnet), torch.Generator().manual_seed(6)
    for drop, empty in ((0.0, 0), (1.0, 4)):
        captions.clear()
        loss = ours.RefinerLoss(DenoisingLoss(tokenize, brief=0.0), drop=1 - drop, drop_text=drop)
        with torch.no_grad():
            assert loss(model, BATCH, g).isfinite()
        assert captions.count("") == empty


def test_only_the_refiner_learns(tokenizer, controlnet, tmp_path):
    model = model_of(tokenizer, controlnet)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    schedule = Schedule(4, 2, 1e-2, warmup=1, ema=0.5, precision="no")
    longer = replace(schedule, steps=5)
    loss = loss_of(tokenizer, drop=0.0, keep_only=("pose", "depth"))
    ours.train_refiner(model, Structures(), loss, schedule, tmp_path / "work")
    changed = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert changed and all(name.startswith("controlnet.") for name in changed)
    embedders = {name.split(".")[2] for name in changed if ours.EMBEDDING in name}
    assert embedders == {"pose", "depth"}
    losses = json.loads((tmp_path / "work" / "loss.json").read_text())
    assert len(losses) == 4
    model = model_of(tokenizer, controlnet)  # the same folder again: it goes on where it was
    ours.train_refiner(model, Structures(), loss, longer, tmp_path / "work")
    assert json.loads((tmp_path / "work" / "loss.json").read_text())[:4] == losses


def test_a_denoiser_without_a_refiner_is_refused(tokenizer, tmp_path):
    model = Denoiser(networks.build_unet(), networks.build_text_encoder(len(tokenizer)))
    with pytest.raises(ValueError, match="start_refiner"):
        ours.train_refiner(model, Structures(), loss_of(tokenizer), Schedule(1, 1, 1e-3), tmp_path)


def test_the_validation_sheet(tokenizer, controlnet, tmp_path, monkeypatch):
    quick = functools.partial(preview.denoise, sampling=preview.Sampling(steps=2))
    monkeypatch.setattr(preview, "denoise", quick)
    model = model_of(tokenizer, controlnet).eval()
    above = torch.rand(2, 3, 8 * SIDE, 8 * SIDE)
    hints = torch.rand(2, 9, 8 * SIDE, 8 * SIDE)

    def decode(z):
        return z[:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3)

    ours.show_refiner(tokenizer, ["a man", "a park"], hints, decode, above)(model, tmp_path / "s")
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.size == (2 * 8 * SIDE, (1 + 1 + len(CONDITIONS)) * 8 * SIDE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A photograph with all that may lie beside it."""
    photographs = tmp_path_factory.mktemp("images")
    g = torch.Generator().manual_seed(8)
    for name in ("a.png", "a.depth.png", "a.normal.png", "a.pose.png"):
        pixels = torch.randint(0, 256, (80, 96, 3), generator=g).byte()
        Image.fromarray(pixels.numpy()).save(photographs / name)
    (photographs / "a.txt").write_text("a man in a park")
    return photographs


def train(folder, tmp_path, *more):
    work, out = tmp_path / "work", tmp_path / "refiner.safetensors"
    ours.main(
        [
            "--images",
            str(folder),
            "--work",
            str(work),
            "--out",
            str(out),
            "--steps",
            "2",
            "--batch",
            "1",
            "--size",
            "64",
            "--precision",
            "no",
            *more,
        ]
    )
    return out


@pytest.fixture
def quick(monkeypatch):
    one_step = functools.partial(preview.denoise, sampling=preview.Sampling(steps=1))
    monkeypatch.setattr(preview, "denoise", one_step)


def test_training_from_a_folder(mini_weights, folder, tmp_path, quick):
    out = train(folder, tmp_path, "--start", str(preview.POSE_CONTROLNET), "--drop", "0.1")
    tensors, facts = weights.load(out, method="refiner", base=BASE)
    assert facts["version"] == "1" and not all(refiner.is_controlnet(name) for name in tensors)
    with Image.open(tmp_path / "work" / "final.png") as sheet:
        assert sheet.size == (64, 8 * 64)
    again = tmp_path / "again"
    train(folder, again, "--start", str(out), "--keep", "normal")
    later, _ = weights.load(again / "refiner.safetensors", method="refiner")
    changed = {
        name.split(".")[1]
        for name in later
        if "input_hint_block." in name and not torch.equal(later[name], tensors[name])
    }
    assert changed == {"normal"}


def test_an_interrupted_training_keeps_what_it_learned(mini_weights, folder, tmp_path, monkeypatch):
    start = ["--start", str(preview.POSE_CONTROLNET)]

    def stopped(after):
        def stop(self, model, batch, g, calls=[]):  # noqa: B006, the count of this training
            calls.append(1)
            if len(calls) > after:
                raise KeyboardInterrupt
            return original(self, model, batch, g)

        return stop

    original = ours.RefinerLoss.__call__
    monkeypatch.setattr(ours.RefinerLoss, "__call__", stopped(0))
    with pytest.raises(KeyboardInterrupt):
        train(folder, tmp_path, *start)
    assert not (tmp_path / "refiner.safetensors").exists()
    monkeypatch.setattr(ours.RefinerLoss, "__call__", stopped(1))
    with pytest.raises(KeyboardInterrupt):
        train(folder, tmp_path, *start, "--lr", "0.1")
    assert weights.load(tmp_path / "refiner.safetensors", method="refiner")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--keep", "rgb"), "joined by +"),
        (("--drop", "1.5"), "--drop: expected a number from 0 to 1"),
        (("--start", "nothing.safetensors"), "--start nothing.safetensors: expected a file"),
        (("--size", "65"), "--size: expected a whole number from 64 to 8192, a multiple of 8"),
    ],
)
def test_arguments_that_can_not_be_meant(mini_weights, folder, tmp_path, capsys, more, words):
    with pytest.raises(SystemExit):
        train(folder, tmp_path, *more)
    assert words in capsys.readouterr().err
