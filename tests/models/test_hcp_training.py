"""Training the human-centric prior: what is trained, what it is shown, what it leaves alone."""

import pytest
import torch
from torch.utils.data import Dataset
from vitruvian.mini import posenet
from vitruvian.models import hcp, weights
from vitruvian.training import denoise, networks
from vitruvian.training import hcp as ours
from vitruvian.training.loop import Schedule
from vitruvian.training.tokens import WordTokenizer

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
        ours.word_pieces(tokenizer.words), net.features, **how,
    )  # fmt: skip


def test_captions_words_are_found_from_their_ids(tokenizer):
    looks = "with tan skin wearing a red top"
    texts = [f"a man {looks}, waving, in a park", "", "two people in the snow"]
    human = ours.human_of(ours.word_pieces(tokenizer.words), tokenizer(texts))
    assert human.shape == (3, 77) and human.sum(1).tolist() == [2, 0, 1]
    assert human[0, 2] and human[2, 2]


@pytest.mark.parametrize(("size", "tokens", "grid"), [
    ((24, 24), 144, (12, 12)), ((13, 19), 70, (7, 10)), ((64, 64), 4096, (64, 64)),
    ((13, 19), 20, (4, 5)),
])
def test_the_grid_of_a_map(size, tokens, grid):
    assert ours.grid_of(size, tokens) == grid


def test_prompts_without_people_are_the_base(tokenizer):
    model = denoiser(tokenizer)
    for processor in model.attentions.values():
        processor.layer.net[2].weight.data.normal_()
    x, t = torch.randn(2, 4, SIDE, SIDE), torch.tensor([10, 500])
    ids = tokenizer(["a man", "a park"])
    human = ours.human_of(ours.word_pieces(tokenizer.words), ids)
    with torch.no_grad():
        noise, seen = model(x, t, ids, human)
        torch.manual_seed(0)
        plain = networks.build_unet()
        context = model.text_encoder(ids).last_hidden_state
        expected = plain(x, t, context).sample
    torch.testing.assert_close(noise[1], expected[1], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(noise[0], expected[0], atol=1e-4)
    assert len(seen) == len(model.attentions) == 7
    for maps in seen.values():
        assert torch.allclose(maps[0].sum(-1), torch.ones(()))
        assert maps[0][..., ~human[0]].sum() == 0


def test_only_the_layers_are_trained_and_saved(tokenizer, tmp_path):
    model = denoiser(tokenizer, gamma=0.8, mask=hcp.AFTER)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all(".processor.layer." in name for name in trained)
    before = {name: p.clone() for name, p in model.named_parameters()}
    schedule = Schedule(3, 2, 1e-2, warmup=0, precision="no")
    ours.train_prior(model, People(), loss_of(tokenizer), schedule, tmp_path / "work")
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed <= trained and any("net.2" in name for name in changed)
    ours.save_prior(model, tmp_path / "prior.safetensors", "mini")
    tensors, facts = weights.load(tmp_path / "prior.safetensors", method="hcp", base="mini")
    assert {"hcp.input_3_0.net.0.weight", "hcp.middle_0_0.net.2.bias"} <= set(tensors)
    assert facts["gamma"] == "0.8" and facts["mask"] == hcp.AFTER


def test_alignment_adds_to_the_loss_and_without_it_the_loss_is_plain(tokenizer):
    model, batch = denoiser(tokenizer), [People()[0], People()[1]]

    def value(**how):
        with torch.no_grad():
            return float(loss_of(tokenizer, **how)(model, batch, torch.Generator().manual_seed(3)))

    plain = value(alpha=0.0)
    even = value(alpha=1.0, table=hcp.constant_table())
    assert plain < value(alpha=1.0) < even
    assert value(alpha=2.0, table=hcp.constant_table()) - plain == pytest.approx(
        2 * (even - plain), rel=1e-4
    )
