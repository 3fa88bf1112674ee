"""Test the human-centric prior: its maps, their two forms, alignment, weights of stages."""

import math

import pytest
import torch
from vitruvian.models import human_prior

HEADS, N, T, C, D = 4, 12, 7, 32, 20


@pytest.fixture
def case():
    g = torch.Generator().manual_seed(0)
    q, v = torch.randn(2, N, C, generator=g), torch.randn(2, T, C, generator=g)
    k, k_h = torch.randn(2, T, C, generator=g), torch.randn(2, T, C, generator=g)
    human = torch.zeros(2, T, dtype=torch.bool)
    human[0, 2], human[1, 3:5] = True, True
    return q, k, k_h, v, human


def slow_human_map(q, k, human, mask):
    """Compute the map head by head and row by row, from the formulas."""
    width = C // HEADS
    attention = torch.zeros(len(q), HEADS, N, T)
    for b in range(len(q)):
        for h in range(HEADS):
            part = slice(h * width, (h + 1) * width)
            for i in range(N):
                scores = [float(q[b, i, part] @ k[b, j, part]) / math.sqrt(width) for j in range(T)]
                allowed = [j for j in range(T) if human[b, j] or mask == human_prior.KEYS]
                total = sum(
                    math.exp(scores[j])
                    for j in (allowed if mask == human_prior.BEFORE else range(T))
                )
                for j in allowed:
                    attention[b, h, i, j] = math.exp(scores[j]) / total
    return attention


@pytest.mark.parametrize("mask", human_prior.MASKS)
def test_the_human_map_is_what_the_formula_says(case, mask):
    q, _, k_h, _, human = case
    attention = human_prior.human_map(q, k_h, human, HEADS, mask)
    torch.testing.assert_close(attention, slow_human_map(q, k_h, human, mask), atol=1e-6, rtol=1e-5)
    assert (attention.movedim(-1, 1)[~human] == 0).all() == (mask != human_prior.KEYS)
    sums = attention.sum(-1)
    assert (sums < 1).all() if mask == human_prior.AFTER else torch.allclose(sums, torch.ones(()))


def test_masked_keys_are_trained_at_human_tokens_only_and_begin_as_the_ordinary_map(case):
    q, k, k_h, _, human = case
    keys = human_prior.human_keys(k_h, k, human, human_prior.KEYS)
    assert torch.equal(keys[human], k_h[human]) and torch.equal(keys[~human], k[~human])
    assert torch.equal(human_prior.human_keys(k_h, k, human, human_prior.AFTER), k_h)
    untrained = human_prior.human_map(
        q, human_prior.human_keys(k, k, human, human_prior.KEYS), human, HEADS, human_prior.KEYS
    )
    assert torch.equal(untrained, human_prior.attention_map(q, k, HEADS))


@pytest.mark.parametrize("mask", human_prior.MASKS)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9, 1.0])
def test_two_attentions_equal_the_combined_map(case, mask, gamma):
    q, k, k_h, v, human = case
    ordinary = human_prior.attention_map(q, k, HEADS)
    of_humans = human_prior.human_map(q, k_h, human, HEADS, mask)
    explicit = human_prior.apply_map(human_prior.combined_map(ordinary, of_humans, gamma), v)
    combined = human_prior.combine_results(
        human_prior.apply_map(ordinary, v),
        human_prior.human_attention(q, k_h, v, human, HEADS, mask),
        gamma,
    )
    torch.testing.assert_close(combined, explicit, atol=1e-5, rtol=1e-5)


def test_gamma_1_is_the_ordinary_attention_bit_for_bit(case):
    q, k, k_h, v, human = case
    ordinary = human_prior.apply_map(human_prior.attention_map(q, k, HEADS), v)
    of_humans = human_prior.human_attention(q, k_h, v, human, HEADS)
    assert torch.equal(human_prior.combine_results(ordinary, of_humans, 1.0), ordinary)


def test_a_new_layer_gives_the_frozen_key():
    layer = human_prior.PriorLayer(D, C, 8)
    context, key = torch.randn(2, T, D), torch.randn(2, T, C)
    assert torch.equal(layer(context, key), key)
    layer.net[2].weight.data.normal_()
    assert not torch.equal(layer(context, key), key)
    assert [*layer.state_dict()] == ["net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias"]


def test_alignment_is_zero_for_a_map_like_the_pose_and_counts_human_tokens_only():
    human = torch.tensor([[False, True, False]])
    features = torch.rand(1, 5, 8, 12)
    grid = (4, 6)
    like = torch.nn.functional.interpolate(features.norm(dim=1, keepdim=True), grid, mode="area")
    maps = torch.rand(1, 2, 24, 3)
    maps[..., 1] = 0.3 * like.flatten()
    assert float(human_prior.alignment_loss(maps, human, features, grid)) == pytest.approx(
        0, abs=1e-6
    )
    changed = maps.clone()
    changed[..., 0] = torch.rand(24)
    assert torch.equal(
        human_prior.alignment_loss(changed, human, features, grid),
        human_prior.alignment_loss(maps, human, features, grid),
    )
    changed[..., 1] = 0
    changed[:, :, 3, 1] = 1  # all of the word's attention in one place
    assert float(human_prior.alignment_loss(changed, human, features, grid)) > 0.5


def test_the_gradient_moves_a_map_to_the_pose():
    torch.manual_seed(0)
    features = torch.zeros(1, 1, 4, 4)
    features[0, 0, 1, 2] = 1
    logits = torch.zeros(1, 1, 16, 2, requires_grad=True)
    human = torch.tensor([[True, True]])
    human_prior.alignment_loss(logits.softmax(2), human, features, (4, 4)).backward()
    assert logits.grad[0, 0, 6].max() < 0 < logits.grad[0, 0, :6].min()


def test_weights_of_stages_and_steps():
    table = human_prior.cosine_table()
    ends = torch.tensor([0.0, 0.5, 1.0])
    half = math.cos(math.pi / 4)
    expected = {
        human_prior.DOWN: [1.0, half, 0.0],
        human_prior.MID: [0.0, half, 1.0],
        human_prior.UP: [0.0, 1.0, 0.0],
    }
    for stage, values in expected.items():
        weights = human_prior.stage_weight(table, stage, ends)
        torch.testing.assert_close(weights, torch.tensor(values), atol=1e-6, rtol=0)
    between = human_prior.stage_weight(
        {human_prior.DOWN: [0.0, 1.0, 0.0]}, human_prior.DOWN, torch.tensor([0.25, 0.75])
    )
    assert torch.allclose(between, torch.tensor(0.5))
    assert (
        human_prior.stage_weight(human_prior.constant_table(), human_prior.UP, torch.rand(5)) == 1
    ).all()
    with pytest.raises(ValueError, match="'middle' it has 0"):
        human_prior.stage_weight({human_prior.DOWN: [1.0, 1.0]}, human_prior.MID, ends)
