"""Write the numbers of results/families.json as tables into README and the help page of Compose
Instances: `python3 lab/benchmarks/family_table.py`. Needs only the standard library.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
HELP = ROOT / "web" / "docs" / "VitruvianComposeInstances.md"
README = ROOT / "README.md"
HEADINGS = {HELP: "## Models", README: "## Models for people side by side"}
POSES = {  # how everybody gets their pose -> in words, in the order of the short table
    "ControlNet": "a ControlNet",
    "ControlNet or model patch": "a ControlNet or a model patch",
    "model patch": "a model patch",
    "reference": "a reference image, for all at once",
    "none": "none: regions alone",
}
Numbers = Mapping[str, Any]


def titles(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    """Return title and kind of pose control of every row of networks.json."""

    def pose(key: str) -> str:
        row = rows[key]
        inherited = pose(row["like"]) if "like" in row else "none"
        return row.get("pose", inherited)

    return {key: (row["title"], pose(key)) for key, row in rows.items()}


def full_table(numbers: Numbers, models: Mapping[str, tuple[str, str]]) -> list[str]:
    """Return the lines of the help page's table: a row per model."""
    rows = [
        (
            title,
            _works(numbers, key, "exact"),
            _works(numbers, key, "couple"),
            _times(numbers, [key], "exact"),
            _times(numbers, [key], "couple"),
            POSES[pose],
        )
        for key, (title, pose) in models.items()
    ]
    heads = ("model", "exact", "couple", "exact, cost", "couple, cost", "pose of each by")
    return _table(heads, rows)


def short_table(numbers: Numbers, models: Mapping[str, tuple[str, str]]) -> list[str]:
    """Return the lines of README's table: a row per kind of pose control."""
    rows = []
    for pose, words in POSES.items():
        keys = [key for key, (_, each) in models.items() if each == pose]
        if keys:
            names = ", ".join(models[key][0] for key in keys)
            costs = (_times(numbers, keys, mode) for mode in ("exact", "couple"))
            rows.append((names, words, *costs))
    return _table(("models", "pose of each person by", "exact, cost", "couple, cost"), rows)


def _works(numbers: Numbers, key: str, mode: str) -> str:
    if f"{key}_{mode}_refused" in numbers:
        return f"refused: {numbers[f'{key}_{mode}_refused']}"
    return f"works ({_error(numbers[f'{key}_{mode}_error'])})"


def _error(value: float) -> str:
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    return f"{mantissa}e{int(exponent)}" if value else "0"


def _times(numbers: Numbers, keys: Sequence[str], mode: str) -> str:
    """Say how many times as much four people cost as one."""
    costs = [numbers.get(f"{key}_{mode}_ops_4") for key in keys]
    counted = sorted({f"{cost:.2f}" for cost in costs if cost is not None}, key=float)
    return " to ".join(dict.fromkeys([counted[0], counted[-1]])) if counted else "not counted"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    head, *below = (f"| {' | '.join(cells)} |" for cells in (heads, *rows))
    return [head, "|" + "---|" * len(heads), *below]


def with_table(text: str, heading: str, table: Sequence[str]) -> str:
    """Put a table in the place of the first one below a heading."""
    lines = text.splitlines()
    below = range(lines.index(heading) + 1, len(lines))
    start = next(n for n in below if lines[n].startswith("|"))
    stop = next(n for n in range(start, len(lines)) if not lines[n].startswith("|"))
    return "\n".join([*lines[:start], *table, *lines[stop:]]) + "\n"


def pages() -> dict[Path, str]:
    """Return both pages as they have to be."""
    numbers = json.loads((FOLDER / "results" / "families.json").read_text(encoding="utf-8"))
    models = titles(json.loads((FOLDER / "networks.json").read_text(encoding="utf-8")))
    tables = {HELP: full_table(numbers, models), README: short_table(numbers, models)}
    return {
        page: with_table(page.read_text(encoding="utf-8"), HEADINGS[page], table)
        for page, table in tables.items()
    }


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text, encoding="utf-8")
