"""The prior's training on the MODEL wire."""

import comfy.model_management
import folder_paths
import pytest
import torch
from vitruvian.host import human_prior as host
from vitruvian.host import human_prior_training as training
from vitruvian.host.registration import register
from vitruvian.models import human_prior, loss_curve
from vitruvian.nodes import human_prior as ours
from vitruvian.nodes import human_prior_training as nodes

import nodes as core

register()
INPUTS = {
    "steps": 2,
    "samples_per_step": 2,
    "learning_rate": 1e-2,
    "hidden_size": 4,
    "train_gamma": 0.0,
    "train_mask_tokens": human_prior.KEYS,
    "alignment_weight": 0.1,
    "seed": 3,
    "filename_prefix": "kept",
    "pose_encoder_name": nodes.DRAWN,
}


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "vitruvian", ([str(tmp_path)], {".safetensors"})
    )
    return tmp_path


def texts(clip, *prompts):
    return [
        ours.VitruvianEncodeHumanPrompt.execute(clip, text, "", "").result[0] for text in prompts
    ]


def latents(count, size=(6, 8)):
    g = torch.Generator().manual_seed(count)
    return [{"samples": torch.randn(count, 4, *size, generator=g)}]


def train(
    loaded,
    *,
    prompts=("a man waving", "a woman jumping"),
    images=None,
    poses=None,
    start=None,
    **changes,
):
    inputs = {key: [value] for key, value in {**INPUTS, **changes}.items()}
    return nodes.VitruvianTrainHumanPrior.execute(
        [loaded[0]],
        images or latents(2),
        texts(loaded[1], *prompts),
        pose_images=poses,
        initial_human_prior=start,
        **inputs,
    ).result


def sample(model, conditioning):
    latent = {"samples": torch.zeros(1, 4, 6, 8)}
    negative = [[torch.zeros_like(conditioning[0][0]), {}]]
    return core.common_ksampler(
        model, 5, 2, 4.0, "euler", "normal", conditioning, negative, latent
    )[0]["samples"]


def applied(model, prior):
    return ours.VitruvianApplyHumanPrior.execute(
        model, prior, 1.0, -1.0, ours.AS_TRAINED, 0.0, 1.0, 1.0, 1.0, 1.0
    ).result[0]


def test_learns_every_layer_and_leaves_the_model_as_it_was(loaded):
    (positive,) = texts(loaded[1], "a man waving")
    before = sample(loaded[0], positive)
    poses = [torch.rand(1, 48, 64, 3), torch.rand(1, 48, 64, 3)]
    prior, curve = train(loaded, poses=poses)
    assert set(prior.layers) == set(host.cross_attentions(loaded[0].model.diffusion_model))
    for layer in prior.layers.values():
        assert float(layer.net[2].weight.abs().sum()) > 0
        assert not layer.training and not any(p.requires_grad for p in layer.parameters())
    assert curve.shape == (1, loss_curve.HEIGHT, loss_curve.WIDTH, 3)
    assert torch.equal(sample(loaded[0], positive), before)
    assert not torch.equal(sample(applied(loaded[0], prior), positive), before)


def test_works_for_every_family(family, random_text):
    model = family[0]
    human = torch.zeros(77, dtype=torch.bool)
    human[2:4] = True
    entries = [
        [text, {**entry, host.HUMAN: human}]
        for seed in (1, 2)
        for text, entry in random_text(model, seed)
    ]
    config = training.Config(1, 2, 1e-3, 4, 0.5, human_prior.BEFORE, 0.1, 0)
    training_set = training.TrainingSet(torch.randn(2, 4, 8, 8), entries, [torch.rand(2, 3, 8, 8)])
    losses = []
    prior = training.train(model, training_set, config, None, lambda loss, _: losses.append(loss))
    assert len(losses) == 1 and losses[0] > 0
    moved = [float(layer.net[2].weight.abs().sum()) for layer in prior.layers.values()]
    assert all(move > 0 for move in moved)


def test_learns_to_denoise_what_it_is_shown(loaded):
    """Against the same losses at a rate that moves nothing."""

    def late_losses(rate):
        config = training.Config(12, 2, rate, 8, 0.0, human_prior.KEYS, 0.0, 1)
        (entry,) = texts(loaded[1], "a man waving")[0]
        losses = []
        training_set = training.TrainingSet(latents(1)[0]["samples"] * 0.2, [entry], [])
        training.train(loaded[0], training_set, config, None, lambda loss, _: losses.append(loss))
        return sum(losses[4:])

    assert late_losses(3e-2) < late_losses(1e-12)


def test_alignment_brings_the_maps_to_the_pose(loaded):
    """The alignment's own share of the loss falls, with the denoising the same."""

    def late_losses(rate):
        (entry,) = texts(loaded[1], "a man waving")[0]
        pose = torch.zeros(1, 3, 6, 8)
        pose[..., 3:5] = 1
        config = training.Config(12, 1, rate, 8, 0.0, human_prior.AFTER, 100.0, 1)
        losses = []
        training_set = training.TrainingSet(latents(1)[0]["samples"], [entry], [pose])
        training.train(loaded[0], training_set, config, None, lambda loss, _: losses.append(loss))
        return sum(losses[-4:])

    assert late_losses(3e-2) < 0.95 * late_losses(1e-12)


def test_an_image_whose_text_names_nobody_is_left_out(loaded):
    mixed, _ = train(loaded, prompts=("a man waving", "a red tree"), steps=3)
    only = {"samples": latents(2)[0]["samples"][:1]}
    alone, _ = train(loaded, prompts=("a man waving",), images=[only], steps=3)
    for place, layer in alone.layers.items():
        assert torch.equal(mixed.layers[place].net[2].weight, layer.net[2].weight)


def test_continues_from_a_prior_and_a_saved_file_is_the_same(loaded, folder):
    prior, _ = train(loaded)
    again, _ = train(loaded, start=[prior], steps=1, learning_rate=1e-9)
    for place, layer in prior.layers.items():
        torch.testing.assert_close(
            again.layers[place].net[2].weight, layer.net[2].weight, atol=1e-6, rtol=1e-6
        )
    save = nodes.VitruvianSaveHumanPrior.execute
    assert save(prior, loaded[0], "my/prior").result == ("my_prior.safetensors",)
    assert save(again, loaded[0], "my/prior").result == ("my_prior_2.safetensors",)
    saved = host.load(folder / "my_prior.safetensors")
    assert (saved.gamma, saved.mask) == (0.0, human_prior.KEYS)
    for place, layer in prior.layers.items():
        assert torch.equal(saved.layers[place].net[0].weight, layer.net[0].weight.half().float())


def test_a_cancelled_run_keeps_what_was_trained(loaded, folder, monkeypatch):
    def update(self, value, total=None, preview=None):
        if value == 2:
            raise comfy.model_management.InterruptProcessingException()

    monkeypatch.setattr("comfy.utils.ProgressBar.update_absolute", update)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train(loaded, steps=5)
    assert [file.name for file in folder.iterdir()] == ["kept.safetensors"]
    layers = host.load(folder / "kept.safetensors").layers.values()
    assert all(float(layer.net[2].weight.abs().sum()) > 0 for layer in layers)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": ("a red car", "a tree")}, "Train Human Prior: no text names a person"),
        ({"prompts": ("a man",) * 3}, "2 images in 'latents' and 3 texts"),
        ({"images": [*latents(1), *latents(1, (8, 8))]}, r"several sizes \(64 x 48, 64 x 64\)"),
        ({"poses": [torch.zeros(1, 48, 64, 3)]}, "2 images in 'latents' and 1 in 'pose_images'"),
    ],
)
def test_what_does_not_fit_is_said(loaded, changes, message):
    with pytest.raises(ValueError, match=message):
        train(loaded, **changes)


NAN = float("nan")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "'steps' must be a number from 1"),
        ({"samples_per_step": -1}, "'samples_per_step' must be"),
        ({"learning_rate": NAN}, "'learning_rate' must be a number from 1e-12 to 1, not nan"),
        ({"learning_rate": -1e-3}, "'learning_rate' must be"),
        ({"learning_rate": float("inf")}, "'learning_rate' must be"),
        ({"hidden_size": 0}, "'hidden_size' must be"),
        ({"train_gamma": NAN}, "'train_gamma' must be"),
        ({"train_gamma": 1.5}, "'train_gamma' must be"),
        ({"alignment_weight": NAN}, "'alignment_weight' must be"),
        ({"seed": -1}, "'seed' must be a number from 0"),
        ({"seed": 2**64}, "'seed' must be"),
        ({"train_mask_tokens": "all"}, "'train_mask_tokens' is one of 'before', 'after', 'keys'"),
        ({"images": [{"samples": torch.full((2, 4, 6, 8), NAN)}]}, "'latents' holds numbers that"),
        ({"poses": [torch.full((2, 48, 64, 3), NAN)]}, ".*'pose_images' .*not"),
    ],
)
def test_numbers_that_no_training_can_have_are_said_before_it(loaded, folder, changes, message):
    """A wire can carry them, and NaN passes the host's own check of a range."""
    with pytest.raises(ValueError, match="^Train Human Prior: " + message):
        train(loaded, **changes)
    assert not [*folder.iterdir()]


def poisoned(monkeypatch, step, number):
    """The loss of this step, counted from 1, becomes `number`."""
    original, calls = training._Loss.__call__, []

    def call(self, *sample):
        calls.append(sample)
        factor = number if len(calls) == step else 1.0
        return original(self, *sample) * factor

    monkeypatch.setattr(training._Loss, "__call__", call)
    return calls


@pytest.mark.parametrize("number", [NAN, float("inf")])
def test_a_loss_that_is_no_number_stops_the_run_and_what_was_good_is_kept(
    loaded, folder, monkeypatch, number
):
    (folder / "kept.safetensors").write_bytes(b"an older one")
    good, _ = train(loaded, steps=2, samples_per_step=1)
    calls = poisoned(monkeypatch, 3, number)
    message = r"^Train Human Prior: the loss of step 3 is no finite number .* lower 'learning_rate'"
    with pytest.raises(ValueError, match=message + ".*trained before is in kept_2.safetensors"):
        train(loaded, steps=50, samples_per_step=1)
    assert len(calls) == 3
    assert (folder / "kept.safetensors").read_bytes() == b"an older one"
    saved = host.load(folder / "kept_2.safetensors").layers
    for place, layer in good.layers.items():
        assert torch.equal(saved[place].net[2].weight, layer.net[2].weight.half().float())


def test_nothing_is_kept_of_a_first_step_that_fails(loaded, folder, monkeypatch):
    poisoned(monkeypatch, 1, NAN)
    with pytest.raises(ValueError, match="the loss of step 1 is no finite number"):
        train(loaded)
    assert not [*folder.iterdir()]


def test_a_run_is_cancelled_within_a_step(loaded, folder, monkeypatch):
    calls = poisoned(monkeypatch, 0, 1.0)

    def interrupt():
        if len(calls) == 3:
            raise comfy.model_management.InterruptProcessingException()

    monkeypatch.setattr(
        comfy.model_management, "throw_exception_if_processing_interrupted", interrupt
    )
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        train(loaded, steps=4, samples_per_step=2)
    assert len(calls) == 3 and [file.name for file in folder.iterdir()] == ["kept.safetensors"]


def test_a_folder_that_can_not_be_written_is_said_before_the_training(
    loaded, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("no folder")
    for folder in (tmp_path / "file" / "below", tmp_path / "file", "/proc/nowhere"):
        monkeypatch.setitem(
            folder_paths.folder_names_and_paths, "vitruvian", ([str(folder)], {".safetensors"})
        )
        calls = poisoned(monkeypatch, 0, 1.0)
        with pytest.raises(ValueError, match=f"^Train Human Prior: nothing can be .* {folder}"):
            train(loaded)
        assert not calls


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        ("../../evil", "_.._evil"),
        ("..", "human_prior"),
        ("/etc/passwd", "_etc_passwd"),
        ("C:\\windows\\x", "C__windows_x"),
        ("con", "_con"),
        ("COM1.v2", "_COM1.v2"),
        ("aux ", "_aux"),
        ("a\0b\nc|d?", "a_b_c_d_"),
        ("Männer 人", "Männer 人"),
        ("x" * 500, "x" * 160),
        ("人" * 200, "人" * 53),
        ("", "human_prior"),
        (" . ", "human_prior"),
        (".hidden", "hidden"),
    ],
)
def test_any_text_becomes_a_name_in_the_folder(loaded, folder, prefix, name):
    prior = training.initial_prior(loaded[0], training.Config(1, 1, 1, 4, 0, "keys", 0, 0), None)
    for number in ("", "_2", "_3"):
        (saved,) = nodes.VitruvianSaveHumanPrior.execute(prior, loaded[0], prefix).result
        assert saved == f"{name}{number}.safetensors"
    assert len([*folder.iterdir()]) == 3


def test_nothing_that_lies_there_is_overwritten(loaded, folder):
    prior = training.initial_prior(loaded[0], training.Config(1, 1, 1, 4, 0, "keys", 0, 0), None)
    (folder / "a.safetensors").mkdir()
    (folder / "a_2.safetensors").symlink_to("nowhere")
    (folder / "a_3.safetensors").write_bytes(b"")
    (saved,) = nodes.VitruvianSaveHumanPrior.execute(prior, loaded[0], "a").result
    assert saved == "a_4.safetensors" and (folder / "a_2.safetensors").is_symlink()


def test_a_full_disk_leaves_nothing_half_written(loaded, folder, monkeypatch):
    prior = training.initial_prior(loaded[0], training.Config(1, 1, 1, 4, 0, "keys", 0, 0), None)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ValueError, match="^Save Human Prior: .*a.safetensors could not be written"):
        nodes.VitruvianSaveHumanPrior.execute(prior, loaded[0], "a")
    assert not [*folder.iterdir()]
