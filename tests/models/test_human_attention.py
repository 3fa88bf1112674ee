"""Test drawings of attention maps: their tokens, averages, and one brightness per comparison."""

import torch
from vitruvian.models import human_attention
from vitruvian.models.human_tokens import Word

PROMPT = [
    Word("a", (1,)), Word("man", (2, 3)), Word("doing", (4,)), Word("tai", (5,)), Word("chi", (6,)),
    Word(",", (7,)), Word("a", (8,)), Word("man", (9,)), Word("waving", (10,)),
]  # fmt: skip


def test_phrases_are_found_wherever_they_stand_and_in_any_form():
    assert human_attention.phrase_positions("Man", PROMPT) == (2, 3, 9)
    assert human_attention.phrase_positions("tai chi", PROMPT) == (5, 6)
    assert human_attention.phrase_positions("wave", PROMPT) == (10,)
    assert human_attention.phrase_positions("tai", PROMPT[:4]) == (5,)
    for absent in ("woman", "chi tai", "chi, chi", "", " "):
        assert human_attention.phrase_positions(absent, PROMPT) == ()
    assert human_attention.phrase_positions("man", []) == ()


def test_marked_words_come_once_with_all_their_tokens():
    marks = [k in (2, 3, 9, 10) for k in range(12)]
    assert human_attention.marked_positions(PROMPT, marks) == {"man": (2, 3, 9), "waving": (10,)}


def test_a_words_share_is_the_sum_over_its_tokens_and_the_mean_over_heads():
    attention = torch.rand(4, 6, 9, generator=torch.Generator().manual_seed(0)).softmax(-1)
    maps = human_attention.word_maps(attention, [(1,), (2, 5), tuple(range(9))], (2, 3))
    assert maps.shape == (3, 2, 3)
    for row in range(2):
        for column in range(3):
            token = attention[:, 3 * row + column]
            mean = sum(token[h, 2] + token[h, 5] for h in range(4)) / 4
            torch.testing.assert_close(maps[1, row, column], mean)
    torch.testing.assert_close(maps[2], torch.ones(2, 3))


def test_layers_of_one_grid_are_averaged():
    fine, finer, coarse = torch.rand(2, 4, 6), torch.rand(2, 4, 6), torch.rand(2, 2, 3)
    averages = human_attention.average_layers([coarse, fine, finer])
    assert list(averages) == [(4, 6), (2, 3)]
    torch.testing.assert_close(averages[4, 6], (fine + finer) / 2)
    assert torch.equal(averages[2, 3], coarse)


def test_masks_are_means_with_the_largest_value_1():
    flat, hot = torch.full((2, 2, 2), 0.2), torch.zeros(2, 4, 4)
    hot[0, 0, 0] = 0.6
    masks = human_attention.word_masks([{(4, 4): hot, (2, 2): flat}] * 3, 4, 4)
    assert masks.shape == (2, 4, 4)
    torch.testing.assert_close(masks[0, 0, 0], torch.tensor(1.0))
    torch.testing.assert_close(masks[0, 2, 2], torch.tensor(0.25))  # 0.1 of 0.4
    torch.testing.assert_close(masks[1], torch.ones(4, 4))
    assert not human_attention.word_masks([{(2, 2): torch.zeros(1, 2, 2)}], 4, 4).any()


def sheets(maps_by_row, words=("man", "waving"), moments=(0.1, 0.5), image=None):
    ground = torch.full((90, 60, 3), 0.5) if image is None else image
    return human_attention.draw_sheets(words, moments, maps_by_row, ground)


def hot_corner(value):
    """Two words' maps on two grids, hot at one corner."""
    fine, coarse = torch.zeros(2, 6, 4), torch.zeros(2, 3, 2)
    fine[:, 0, 0] = coarse[:, 0, 0] = value
    return {(6, 4): fine, (3, 2): coarse}


def cell(sheet, row, column):
    """The row-th row (of two for each grid) of a sheet of upright images."""
    width = round(human_attention.CELL * 2 / 3)
    top = (
        human_attention.HEADER
        + row * (human_attention.CELL + human_attention.GAP)
        + row // 2 * human_attention.GAP
    )
    x = human_attention.MARGIN + column * (width + human_attention.GAP)
    return sheet[top : top + human_attention.CELL, x : x + width]


def test_a_hot_place_is_bright_and_rows_have_one_scale():
    drawings = sheets(
        {"without": [hot_corner(0.1), hot_corner(0.1)], "with": [hot_corner(0.1), hot_corner(0.4)]}
    )
    assert drawings.shape[0] == 2 and drawings.shape[-1] == 3
    assert 0 <= drawings.min() <= drawings.max() <= 1
    for sheet in drawings:
        hot = cell(sheet, 1, 1)
        assert hot[5, 5].mean() > 0.8 > 0.4 > hot[-5, -5].mean()
        faint = cell(sheet, 0, 1)
        assert torch.equal(faint, cell(sheet, 1, 0))
        assert hot[-5, -5].mean() < faint[5, 5].mean() < hot[5, 5].mean()
        assert torch.equal(cell(sheet, 3, 1)[-5, -5], hot[-5, -5])


def test_grids_and_words_have_scales_of_their_own():
    maps, scaled = hot_corner(0.1), hot_corner(0.2)
    scaled[3, 2][:] *= 3
    scaled[6, 4][1] *= 5
    alone, beside = sheets({"": [maps, maps]}), sheets({"": [scaled, scaled]})
    rows = slice(human_attention.HEADER, human_attention.HEADER + human_attention.CELL)
    assert torch.equal(
        alone[0, rows, human_attention.MARGIN :], beside[0, rows, human_attention.MARGIN :]
    )


def test_sheets_are_of_one_size_whatever_they_hold():
    words = ("a very long phrase that goes on and on and would not fit at all", "ü", "man")
    maps_of_three = {(6, 4): torch.zeros(3, 6, 4)}
    drawings = sheets({"attention": [maps_of_three]}, words, (0.123,), torch.rand(33, 901, 3))
    assert len(drawings) == 3 and drawings.isfinite().all()
    small = sheets({"attention": [maps_of_three]}, words, (0.123,), torch.rand(1, 1, 3))
    assert small.isfinite().all()
