"""Vectors of several people over tokens and cells, against loops over places."""

import pytest
import torch
from vitruvian.host.compose import vectors


@pytest.fixture
def g():
    return torch.Generator().manual_seed(0)


def test_every_token_gets_the_vectors_of_its_people(g):
    rows = torch.randn(3 * 4, 5, generator=g)  # of three people; two chunks of two images
    weights = torch.rand(3, 2, 6, generator=g)  # a frame for each image
    spread = vectors.spread_over_tokens(rows, weights)
    assert spread.shape == (4, 6, 5)
    for row in range(4):
        for token in range(6):
            expected = sum(weights[p, row % 2, token] * rows[4 * p + row] for p in range(3))
            torch.testing.assert_close(spread[row, token], expected)


def test_every_cell_gets_the_vectors_of_its_people(g):
    rows, shares = torch.randn(2, 5, generator=g), torch.rand(2, 1, 1, 3, 4, generator=g)
    spread = vectors.spread_over_cells(rows, shares, (3, 4))
    expected = sum(shares[p, 0, 0][None] * rows[p][:, None, None] for p in range(2))
    torch.testing.assert_close(spread, expected[None])


def test_a_modulation_of_every_token_passes_for_one_of_every_row(g):
    plain = torch.randn(2, 6, 8, generator=g)
    modulation = plain.as_subclass(vectors.PerToken)
    for parts in (modulation.chunk(2, dim=1), torch.chunk(modulation, 2, dim=1)):
        for part, expected in zip(parts, plain.chunk(2, -1), strict=True):
            assert torch.equal(part.unsqueeze(1), expected)
            assert torch.equal(part[:, None], expected)
            assert type(part.unsqueeze(1)) is torch.Tensor
