"""Tables: a CSV file with a line of column names, or JSON lines."""

import csv
import glob
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .trouble import BadInput

WILD = re.compile(r"[*?]|\[.+\]")
FOLDER = re.compile(r" \[\w+\]$")  # "name.png [output]": how the host names its other folders


@dataclass(frozen=True)
class Row:
    """One row. `number` counts from 1 below the column names; `where` names it in messages."""

    number: int
    where: str
    cells: dict[str, Any]


def read(path: Path) -> list[Row]:
    """Read all rows of a table. BadInput if it is missing, broken or empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BadInput(f"The table {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise BadInput(
            f"{path} is not UTF-8 text. Save it as CSV UTF-8, or as JSON lines."
        ) from None
    rows = _json_lines(path, text) if path.suffix in (".jsonl", ".ndjson") else _csv(path, text)
    if not rows:
        raise BadInput(f"The table {path} has no rows. Write one below the column names.")
    return rows


def _csv(path: Path, text: str) -> list[Row]:
    """Read CSV. Spreadsheets of some countries separate columns by semicolons or tabs."""
    head = text.split("\n", 1)[0]
    lines = csv.reader(text.splitlines(keepends=True), delimiter=max(",;\t", key=head.count))
    columns = [name.strip() for name in next(lines, [])]
    for name in columns:
        if not name or columns.count(name) > 1:
            raise BadInput(f"{path}: the column name '{name}' is empty or occurs twice.")
    rows: list[Row] = []
    for cells in lines:
        if not any(cell.strip() for cell in cells):
            continue
        where = f"{path.name}, row {len(rows) + 1} (line {lines.line_num})"
        if len(cells) > len(columns):
            raise BadInput(
                f"{where}: {len(cells)} cells for {len(columns)} columns. Put a text with commas "
                'in it between double quotes: "a woman, waving".'
            )
        filled = {name: cell for name, cell in zip(columns, cells, strict=False) if cell != ""}
        rows.append(Row(len(rows) + 1, where, filled))
    return rows


def _json_lines(path: Path, text: str) -> list[Row]:
    rows: list[Row] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path.name}, row {len(rows) + 1} (line {number})"
        try:
            cells = json.loads(line)
        except ValueError as error:
            raise BadInput(f"{where}: this is not JSON: {error}.") from None
        if not isinstance(cells, dict):
            raise BadInput(f'{where}: every line must be an object, {{"Title.input": value}}.')
        filled = {name: cell for name, cell in cells.items() if cell is not None}
        rows.append(Row(len(rows) + 1, where, filled))
    return rows


def columns(rows: list[Row]) -> list[str]:
    """List every column that any row fills, in their order."""
    return list(dict.fromkeys(name for row in rows for name in row.cells))


def expand(row: Row, names: list[str], folder: Path) -> list[Row]:
    """Repeat a row for every file that its wildcards match; `names` are the columns of files.

    Several wildcards in a row go together, first with first: photos/*.png with masks/*.png. So they
    must match equally many files. folder: what relative paths start from.
    """
    matches = {name: _files(row, name, folder) for name in names if _is_wild(row, name, folder)}
    if not matches:
        return [row]
    counts = {name: len(files) for name, files in matches.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"'{name}' {count}" for name, count in counts.items())
        raise BadInput(
            f"{row.where}: its wildcards go together, first file with first, but they match "
            f"different numbers of files: {listed}. For every file of one with every file of the "
            "other, write one row for each of one of them."
        )
    return [
        Row(row.number, row.where, {**row.cells, **dict(zip(matches, files, strict=True))})
        for files in zip(*matches.values(), strict=True)
    ]


def _is_wild(row: Row, name: str, folder: Path) -> bool:
    cell = row.cells.get(name)
    if not isinstance(cell, str) or (folder / cell).exists():
        return False
    return bool(WILD.search(FOLDER.sub("", cell)))


def _files(row: Row, name: str, folder: Path) -> list[str]:
    pattern = str(row.cells[name])
    matches = [path for path in glob.glob(pattern, root_dir=folder) if (folder / path).is_file()]
    if not matches:
        raise BadInput(f"{row.where}, column '{name}': no file is called {pattern} in {folder}.")
    return sorted(matches, key=_by_number)


def _by_number(name: str) -> list[tuple[int, str]]:
    """2.png before 10.png."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
