"""The tables in lab/evaluators/README.md and the benchmark's figures agree."""

import json

from vitruvian.lab.evaluators import table

NUMBERS = json.loads(
    (table.README.parents[1] / "benchmarks" / "results" / "evaluators.json").read_text()
)


def test_the_readme_holds_the_figures_of_the_results():
    text = table.README.read_text(encoding="utf-8")
    assert text.split(table.START)[1].split(table.END)[0].strip() == table.tables(NUMBERS)


def test_another_figure_makes_another_table():
    for name in (*table.EVALUATORS, *table.BROKEN):
        assert table.tables({**NUMBERS, name: NUMBERS[name] + 0.01}) != table.tables(NUMBERS), name


def test_enough_is_measured():
    assert NUMBERS["true_bodies"] >= 2_000
    assert all(NUMBERS[f"{way}_count"] >= 100 for way in table.BROKEN)
    assert NUMBERS["false_alarms"] < 0.1
