"""The mini transformer's trainer: its files, its objective, its sampler, and its optimizer."""

import math

import pytest
import torch
from torch import nn
from vitruvian.lab.recipes import transformer as recipe
from vitruvian.lab.training import flow, mmdit, transformer_files
from vitruvian.lab.training.loop import MUON, Schedule
from vitruvian.lab.training.muon import build_muon, hidden_matrices, orthogonal
from vitruvian.lab.training.resident import Columns, read_columns
from vitruvian.lab.training.tokens import UNKNOWN, WordTokenizer
from vitruvian.models import mini

FULL = "a woman in a red top and blue trousers, waving"
BRIEF = "a man in a green top and white trousers, standing"


@pytest.fixture(scope="module")
def tokenizer():
    return WordTokenizer.from_file()


@pytest.fixture
def bundle(tokenizer):
    """Random weights everywhere, also where training starts from zeros."""
    torch.manual_seed(0)
    built = transformer_files.build(tokenizer.token_ids)
    for module in built[:3]:
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.1)
    return built


def columns(tokenizer, count=6):
    g = torch.Generator().manual_seed(1)
    return {
        "latent": torch.randn(count, 4, 8, 8, generator=g),
        "hint": torch.randn(count, 4, 8, 8, generator=g),
        "ids": tokenizer([FULL, BRIEF]).short().expand(count, -1, -1),
        "near": torch.rand(count, 8, 8, generator=g),
    }


class Oracle(nn.Module):
    """Knows the images; `error` is added to the velocity. Remembers what it was asked."""

    def __init__(self, latents, error=0.0):
        super().__init__()
        self.latents = nn.Parameter(latents)
        self.error = error

    def forward(self, x, level, ids, hint):
        self.asked = {"x": x, "level": level, "ids": ids, "hint": hint}
        return (x - self.latents) / level[:, None, None, None] + self.error


def test_files_come_back_as_they_were_and_stay_small(bundle, tmp_path):
    checkpoint, control = tmp_path / "net.safetensors", tmp_path / "pose.safetensors"
    transformer_files.save(bundle, checkpoint, control)
    assert checkpoint.stat().st_size < 2.2e6 and control.stat().st_size < 1.0e6
    back = transformer_files.load(checkpoint, control)
    assert back.token_ids == bundle.token_ids
    for before, after in zip(bundle[:3], back[:3], strict=True):
        tensors = after.state_dict()
        for name, tensor in before.state_dict().items():
            largest = float(tensor.abs().amax())  # of 8 bits: half a step of the largest in a row
            torch.testing.assert_close(tensors[name], tensor, atol=largest / 220, rtol=0)
    with pytest.raises(ValueError, match=r"pose\.safetensors.*checkpoint"):
        transformer_files.load(control, checkpoint)


def test_every_tensor_of_the_control_has_a_name_of_its_own_in_diffusers_layout(bundle):
    tensors = bundle.control.state_dict()
    renamed = transformer_files.to_diffusers(tensors)
    assert not any("joint_blocks" in name or "qkv" in name for name in renamed)
    assert sum(t.numel() for t in renamed.values()) == sum(t.numel() for t in tensors.values())
    back = transformer_files.from_diffusers(renamed, list(tensors))
    assert all(torch.equal(back[key], tensor) for key, tensor in tensors.items())


def test_the_loss_is_the_error_of_the_velocity(tokenizer):
    batch = columns(tokenizer)
    loss = flow.FlowLoss(tuple(tokenizer.encode("")))
    oracle = Oracle(batch["latent"])
    assert loss(oracle, batch, torch.Generator().manual_seed(3)).item() < 1e-8
    oracle.error = 0.5
    assert loss(oracle, batch, torch.Generator().manual_seed(3)).item() == pytest.approx(0.25)
    level = oracle.asked["level"]
    assert float(level.detach().min()) > 0 and float(level.detach().max()) < 1
    assert len(oracle.asked["hint"]) == 3


def test_cells_near_joints_weigh_more(tokenizer):
    batch = columns(tokenizer)
    batch["near"] = torch.zeros(6, 8, 8)
    batch["near"][:, 0, 0] = 1.0
    error = torch.zeros(6, 4, 8, 8)
    error[:, :, 0, 0] = 1.0
    loss = flow.FlowLoss(tuple(tokenizer.encode("")), focus=3.0)
    value = loss(Oracle(batch["latent"], error), batch, torch.Generator().manual_seed(3)).item()
    assert value == pytest.approx(4 / 67)  # the mean over 64 cells of weights 1 and, once, 4


@pytest.mark.parametrize("choice, text", [("drop", ""), ("brief", BRIEF), ("neither", FULL)])
def test_captions_are_full_brief_or_left_out(tokenizer, choice, text):
    shares = {"drop": 0.0, "brief": 0.0, "forget": 0.0}
    shares |= {choice: 1.0} if choice in shares else {}
    loss = flow.FlowLoss(tuple(tokenizer.encode("")), controlled=0.0, **shares)
    oracle = Oracle(columns(tokenizer)["latent"])
    loss(oracle, columns(tokenizer), torch.Generator())
    assert torch.equal(oracle.asked["ids"], tokenizer([text]).expand(6, -1))
    assert oracle.asked["hint"] is None


def test_forgotten_words_are_unknown(tokenizer):
    loss = flow.FlowLoss(tuple(tokenizer.encode("")), drop=0.0, brief=0.0, forget=1.0)
    oracle = Oracle(columns(tokenizer)["latent"])
    loss(oracle, columns(tokenizer), torch.Generator())
    words = tokenizer([FULL]) > UNKNOWN
    assert words.any() and (oracle.asked["ids"][:1][words] == UNKNOWN).all()


def test_columns_are_read_from_a_world(tokenizer):
    bodies = [[[20.0, 12.0, 1.0], [0.0, 0.0, 0.0]]]
    captions = {"full": FULL, "brief": BRIEF, "bodies": bodies}
    latents = torch.randn(3, 4, 8, 8)
    world = [{"latent": latents[i], "captions": captions} for i in range(3)]
    read = read_columns(world, ("latent",), tokenizer)
    assert torch.equal(read["latent"], latents.half())
    assert torch.equal(read["ids"].long(), tokenizer([FULL, BRIEF]).expand(3, -1, -1))
    assert int(read["near"][0].flatten().argmax()) == 1 * 8 + 2  # cell x 2, y 1
    batch = Columns(read).__getitems__([2, 0])
    assert torch.equal(batch["latent"], latents[[2, 0]].half())


class Straight(nn.Module):
    """Velocity of a flow that ends at one image, pushed by what guidance adds."""

    def __init__(self, target):
        super().__init__()
        self.target = nn.Parameter(target)

    def forward(self, x, level, text, pooled, residual=None):
        return (x - self.target) / level[:, None, None, None]


def test_samples_follow_the_velocity_to_its_end(bundle):
    target = torch.randn(1, 4, 8, 8)
    aimed = bundle._replace(transformer=Straight(target))
    ends = flow.sample(aimed, [FULL, BRIEF], cells=(8, 8))
    torch.testing.assert_close(ends, target.expand(2, -1, -1, -1), atol=1e-4, rtol=1e-4)


def test_a_free_sample_does_not_see_the_hint_of_another(bundle):
    x, text, pooled = torch.randn(2, 4, 8, 8), torch.randn(2, 77, 128), torch.randn(2, 128)
    level, hint = torch.tensor([0.3, 0.9]), torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        residual = bundle.control(x[:1], level[:1], text[:1], hint)
        free = bundle.transformer(x, level, text, pooled)
        half = bundle.transformer(x, level, text, pooled, residual)
    torch.testing.assert_close(half[1], free[1])
    assert (half[0] - free[0]).abs().max() > 1e-3


def test_an_untrained_network_predicts_nothing_and_its_control_adds_nothing(tokenizer):
    built = transformer_files.build(tokenizer.token_ids)
    x, text = torch.randn(1, 4, 8, 8), torch.randn(1, 77, 128)
    with torch.no_grad():
        assert not built.transformer(x, torch.ones(1), text, text[:, 0]).any()
        assert not built.control(x, torch.ones(1), text, x).any()


def test_places_agree_with_sines_counted_one_by_one():
    table = mmdit.cell_places(2, 3, 8, torch.device("cpu"))[0]
    for row in range(2):
        for column in range(3):
            x, y = column * 7.5 * 1.5, row * 15.0  # the shorter side spans 15
            x -= (3 / 2 - 1) * 7.5
            expected = []
            for place in (x, y):
                waves = [place * 10_000 ** -(i / 2) for i in range(2)]
                expected += [math.sin(w) for w in waves] + [math.cos(w) for w in waves]
            torch.testing.assert_close(table[3 * row + column], torch.tensor(expected))


def test_singular_values_come_near_one():
    g = torch.Generator().manual_seed(0)
    for shape in ((3, 8, 20), (2, 30, 10)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=g)).float())
        assert 0.4 < values.min() and values.max() < 1.4


def test_muon_learns_and_leaves_others_to_adam():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    hidden, vectors = hidden_matrices(model)
    assert [p.dim() for p in hidden] == [2, 2] and [p.dim() for p in vectors] == [1, 1]
    optimizer = build_muon(model, 0.02)
    x = torch.randn(64, 6)
    target = torch.stack((x[:, 0] * x[:, 1], x[:, 2].sin(), x[:, 3]), 1)
    losses = []
    for _ in range(300):
        loss = (model(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < 0.25 * losses[0]


def test_embeddings_and_heads_are_no_hidden_matrices(bundle):
    model = flow.FlowDenoiser(bundle.transformer, bundle.text_encoder, bundle.control)
    hidden, _ = hidden_matrices(model)
    hidden_names = {name for name, p in model.named_parameters() if any(p is h for h in hidden)}
    assert "transformer.joint_blocks.0.x_block.attn.qkv.weight" in hidden_names
    assert not any(
        part in name for name in hidden_names for part in ("embed", "final_layer", "adaLN")
    )


def test_a_training_goes_on_where_it_stopped(tokenizer, tmp_path):
    batch = columns(tokenizer)
    ends = []
    for name, stops in (("once", [4]), ("twice", [2, 4])):
        for steps in stops:
            torch.manual_seed(0)
            built = transformer_files.build(tokenizer.token_ids)
            schedule = Schedule(
                steps, 3, 1e-3, warmup=4, precision="no", save_every=100, optimizer=MUON
            )
            recipe.train_bundle(built, batch, schedule, tmp_path / name)
        ends.append(built.transformer.state_dict())
    for key, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][key], tensor)
    assert mini.TRANSFORMER.width == ends[0]["final_layer.linear.weight"].shape[1]
