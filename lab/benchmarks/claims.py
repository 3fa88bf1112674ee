"""Write what the benchmarks decided, the `decided` lists of results/*.json, as the table "What was
measured" into README: `python3 lab/benchmarks/claims.py`. Needs only the standard library.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results"
README = FOLDER.parents[1] / "README.md"
BEGIN, END = "<!-- claims: begin -->", "<!-- claims: end -->"
FIRST = ("compose", "persons", "human_prior", "hands", "structure", "appearance")  # of the files
HEADS = ("claim", "figure, 95 % interval, count", "baseline", "ceiling", "shown?")
VERDICTS = {"shown": "yes", "denied": "no"}
NOTHING = "No claim has been decided yet."

Row = Mapping[str, Any]  # what decisions.py returns


def decided(folder: Path = RESULTS) -> list[Row]:
    """Read the claims of all results, those of one paper together."""
    files = sorted(folder.glob("*.json"), key=_place)
    results = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    rows = [row for numbers in results for row in numbers.get("decided", ())]
    papers = list(dict.fromkeys(row["paper"] for row in rows))
    return sorted(rows, key=lambda row: papers.index(row["paper"]))


def _place(file: Path) -> tuple[int, str]:
    return FIRST.index(file.stem) if file.stem in FIRST else len(FIRST), file.stem


def table(rows: Sequence[Row]) -> list[str]:
    """Return the table's lines: a line for each paper, and one for each of its claims."""
    if not rows:
        return [NOTHING]
    lines = [_line(HEADS), "|" + "---|" * len(HEADS)]
    for paper, claims in groupby(rows, key=lambda row: row["paper"]):
        lines.append(_line((f"**{paper}**", *[""] * (len(HEADS) - 1))))
        lines += [_line(_cells(row)) for row in claims]
    return lines


def _cells(row: Row) -> tuple[str, ...]:
    ceiling = row.get("ceiling")
    ends = f"{_number(row['figure_low'])} to {_number(row['figure_high'])}"
    apart = f"{_number(row['difference_low'])} to {_number(row['difference_high'])}"
    return (
        row["claim"],
        f"{_number(row['figure'])} ({ends}), {row['count']}",
        _number(row["baseline"]),
        "" if ceiling is None else _number(ceiling),
        f"{VERDICTS[row['verdict']]}: {_number(row['difference'])} ({apart})",
    )


def _number(value: float) -> str:
    """Write three digits, and minus as a sign that does not break the line."""
    return f"{round(value, 5) + 0.0:.3g}".replace("-", "\N{MINUS SIGN}")


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def with_table(text: str, lines: Sequence[str]) -> str:
    """Put lines between the markers of a text; ValueError if it has none."""
    if not 0 <= text.find(BEGIN) < text.find(END):
        raise ValueError(f"expected {BEGIN} and {END} around the table, found no such lines")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return "\n".join([f"{before}{BEGIN}", *lines, f"{END}{after}"])


def page() -> str:
    """Return README as it has to be."""
    return with_table(README.read_text(encoding="utf-8"), table(decided()))


if __name__ == "__main__":
    README.write_text(page(), encoding="utf-8")
