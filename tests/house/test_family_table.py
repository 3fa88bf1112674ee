"""README and the help page hold the table that was measured."""

import pytest
from vitruvian.lab.benchmarks import family_table

COMMAND = "python3 lab/benchmarks/family_table.py"
PAGES = family_table.pages()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_table_is_the_measured_one(page):
    assert page.read_text(encoding="utf-8") == PAGES[page], f"renew it: {COMMAND}"


def test_rows_are_refused_or_work_with_their_error_and_cost():
    numbers = {
        "one_exact_error": 1.26e-7,
        "one_couple_error": 0.0,
        "one_exact_ops_4": 4.0,
        "one_couple_ops_4": 1.047,
        "two_exact_error": 3e-7,
        "two_couple_refused": "it reads one",
    }
    models = {"one": ("One", "ControlNet"), "two": ("Two", "none")}
    assert family_table.full_table(numbers, models)[2:] == [
        "| One | works (1e-7) | works (0) | 4.00 | 1.05 | a ControlNet |",
        "| Two | works (3e-7) | refused: it reads one | not counted | not counted "
        "| none: regions alone |",
    ]


def test_only_the_first_table_below_the_heading_is_replaced():
    text = "|a|\n## Models\n\nwords\n\n|b|\n|c|\n\n|d|\n"
    assert family_table.with_table(text, "## Models", ["|e|"]) == (
        "|a|\n## Models\n\nwords\n\n|e|\n\n|d|\n"
    )
