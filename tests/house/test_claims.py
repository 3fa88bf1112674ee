"""README holds what the benchmarks decided, and every figure says how sure it is."""

import json

import pytest
from vitruvian.lab.benchmarks import claims

COMMAND = "python3 lab/benchmarks/claims.py"
ENDS = ("_low", "_high", "_count")
ROW = {
    "paper": "One",
    "claim": "More is right",
    "verdict": "shown",
    "figure": 0.9032,
    "figure_low": 0.85,
    "figure_high": 0.96,
    "count": 400,
    "baseline": 0.645,
    "difference": 0.258,
    "difference_low": 0.1854,
    "difference_high": 0.3125,
    "ceiling": 1.0,
}
DENIED = {
    **ROW,
    "verdict": "denied",
    "difference": -1e-9,
    "difference_low": -0.0774,
    "ceiling": None,
}
FILES = sorted(claims.RESULTS.glob("*.json"))
WITH_CLAIMS = [file for file in FILES if '"decided"' in file.read_text(encoding="utf-8")]


def test_readme_says_what_was_decided():
    text = claims.README.read_text(encoding="utf-8")
    assert claims.page() == text, f"renew the table: {COMMAND}"


def test_a_claim_has_a_line_with_its_interval_and_verdict():
    assert claims.table([ROW, DENIED])[2:] == [
        "| **One** |  |  |  |  |",
        "| More is right | 0.903 (0.85 to 0.96), 400 | 0.645 | 1 | yes: 0.258 (0.185 to 0.312) |",
        "| More is right | 0.903 (0.85 to 0.96), 400 | 0.645 |  | no: 0 (\N{MINUS SIGN}0.0774 to "
        "0.312) |",
    ]
    assert claims.table([]) == [claims.NOTHING]


def test_claims_of_one_paper_stand_together(tmp_path):
    def write(name, *papers):
        rows = [{**ROW, "paper": paper} for paper in papers]
        (tmp_path / f"{name}.json").write_text(json.dumps({"x": 1, "decided": rows}), "utf-8")

    write("zebra", "Two")
    write("mini", "One", "Two")
    write("hands", "Three")
    (tmp_path / "batch.json").write_text("{}", "utf-8")
    papers = [row["paper"] for row in claims.decided(tmp_path)]
    assert papers == ["Three", "One", "Two", "Two"]


def test_only_what_is_between_the_markers_is_replaced():
    text = f"a\n{claims.BEGIN}\nold\n{claims.END}\nb\n"
    assert claims.with_table(text, ["new"]) == f"a\n{claims.BEGIN}\nnew\n{claims.END}\nb\n"
    with pytest.raises(ValueError, match="expected <!-- claims"):
        claims.with_table("a\nb\n", ["new"])


@pytest.mark.parametrize("file", WITH_CLAIMS, ids=lambda file: file.stem)
def test_a_claim_s_figures_are_in_the_file_and_decide_it(file):
    numbers = json.loads(file.read_text(encoding="utf-8"))
    sure = {
        key: value
        for key, value in numbers.items()
        if all(f"{key}{end}" in numbers for end in ENDS)
    }
    for row in numbers["decided"]:
        for name in ("figure", "difference"):
            ends = row[f"{name}_low"], row[f"{name}_high"]
            assert any(
                (value, numbers[f"{key}_low"], numbers[f"{key}_high"]) == (row[name], *ends)
                for key, value in sure.items()
            ), f"{row['claim']}: no figure of {file.name} is its {name} with such an interval"
        crosses_zero = row["difference_low"] <= 0 <= row["difference_high"]
        assert not (row["verdict"] == "shown" and crosses_zero), row["claim"]
