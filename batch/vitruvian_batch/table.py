"""Tables: a CSV file with a line of column names, or JSON lines. They are read row by row."""

import csv
import glob
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from .reading import check_encoding, parse_json
from .trouble import BadInput

SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson")
WILD = re.compile(r"[*?]|\[.+\]")
FOLDER = re.compile(r" \[\w+\]$")  # "name.png [output]": how the host names its other folders
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # a spreadsheet's own first line
QUOTED = re.compile(r'"[^"]*"')
LONGEST_CELL = 2**31 - 1  # characters; the csv module's own limit is 128 KB


@dataclass(frozen=True)
class Row:
    """One row. `number` counts from 1 below the column names; `where` names it in messages."""

    number: int
    where: str
    cells: dict[str, Any]


class Table:
    """A table on the disk, which can be read several times. BadInput if it is missing or broken."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.suffix.lower() == ".json":
            raise BadInput(
                f"{path} is JSON: a table is JSON lines, one object for each row, in a file "
                "that is called .jsonl; or CSV."
            )
        self.is_json = path.suffix.lower() in (".jsonl", ".ndjson")
        try:
            if path.exists() and not path.is_file() and not path.is_dir():
                raise BadInput(
                    f"{path} is a pipe or a device: a table is read more than once. Write it "
                    "to a file."
                )
            check_encoding(path)
        except OSError as error:
            raise BadInput(f"The table {path} cannot be read: {error.strerror}.") from None

    def columns(self) -> list[str]:
        """List the names in the first line of a CSV file; JSON lines have them in their rows."""
        if self.is_json:
            return []
        with self._open() as file:
            return _Csv(self.path, file).columns

    def __iter__(self) -> Iterator[Row]:
        for row in self.read():
            if isinstance(row, BadInput):
                raise row
            yield row

    def read(self) -> Iterator[Row | BadInput]:
        """Read all rows; in the place of one that is wrong comes what is wrong with it.

        BadInput is raised where nothing can be read any more.
        """
        with self._open() as file:
            yield from _json_lines(self.path, file) if self.is_json else _Csv(self.path, file)

    def _open(self) -> TextIO:
        """Open it so that lines end at line ends only, be they those of Windows or of old Macs."""
        return self.path.open(encoding="utf-8-sig")


class _Csv:
    """The rows of a CSV file. Spreadsheets of some countries separate columns by ; or tabs."""

    def __init__(self, path: Path, file: TextIO) -> None:
        csv.field_size_limit(LONGEST_CELL)
        self.path = path
        head = file.readline()
        separator = SEPARATOR_LINE.fullmatch(head)
        self.lines_before = 1 if separator else 0
        if not separator:
            file.seek(0)
        unquoted = QUOTED.sub("", head)
        delimiter = separator[1] if separator else max(",;\t", key=unquoted.count)
        self.lines = csv.reader(file, delimiter=delimiter, strict=True)
        self.columns = self._column_names()

    def _column_names(self) -> list[str]:
        """Read the line of names; empty ones at its end are a spreadsheet's empty columns."""
        _, cells = self._record()
        names = [name.strip() for name in cells or []]
        while names and not names[-1]:
            names.pop()
        for name in names:
            if not name or names.count(name) > 1:
                raise BadInput(f"{self.path}: the column name '{name}' is empty or occurs twice.")
        return names

    def _record(self) -> tuple[int, list[str] | None]:
        """Read (the number of its first line, the next record or None at the end)."""
        start = self.lines.line_num + 1 + self.lines_before
        try:
            return start, next(self.lines, None)
        except csv.Error as error:
            reason = str(error)
            if "end of data" in reason:
                reason = "the double quote that opens in this row is never closed"
            elif "expected after" in reason:
                reason = (
                    "text follows the closing double quote of a cell, or a quote opened above is "
                    'not closed. Within a quoted cell write each double quote twice: ""'
                )
            raise BadInput(f"{self.path.name}, line {start}: {reason}.") from None

    def __iter__(self) -> Iterator[Row | BadInput]:
        number = 0
        while True:
            _, cells = self._record()
            if cells is None:
                return
            if not any(cell.strip() for cell in cells):
                continue
            number += 1
            line = self.lines.line_num + self.lines_before
            where = f"{self.path.name}, row {number} (line {line})"
            if any(cell.strip() for cell in cells[len(self.columns) :]):
                yield BadInput(
                    f"{where}: {len(cells)} cells for {len(self.columns)} columns. Put a text with "
                    'commas in it between double quotes: "a woman, waving".'
                )
                continue
            filled = {
                name: cell for name, cell in zip(self.columns, cells, strict=False) if cell != ""
            }
            yield Row(number, where, filled)


def _json_lines(path: Path, file: TextIO) -> Iterator[Row | BadInput]:
    number = 0
    for line_number, line in enumerate(file, 1):
        if not line.strip():
            continue
        number += 1
        where = f"{path.name}, row {number} (line {line_number})"
        try:
            cells = parse_json(line, parse_float=_as_written, object_pairs_hook=_without_repeats)
        except ValueError as error:
            yield BadInput(f"{where}: this is not JSON: {error}.")
            continue
        if not isinstance(cells, dict):
            yield BadInput(f'{where}: every line must be an object, {{"Title.input": value}}.')
            continue
        yield Row(number, where, {name: cell for name, cell in cells.items() if cell is not None})


def _as_written(text: str) -> float | str:
    """Keep 1.23457E+14 as text: only that shows that it is rounded."""
    return text if "e" in text.lower() else float(text)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its names and values. ValueError if a name occurs twice."""
    cells: dict[str, Any] = {}
    for name, value in pairs:
        if name.strip() in cells:
            raise ValueError(f"the name '{name.strip()}' occurs twice")
        cells[name.strip()] = value
    return cells


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
    if not isinstance(cell, str) or is_file(folder / cell):
        return False
    return bool(WILD.search(FOLDER.sub("", cell)))


def is_file(path: Path) -> bool:
    """Tell if a file is there; a text that can be no path, as a long one, is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _files(row: Row, name: str, folder: Path) -> list[str]:
    pattern = str(row.cells[name])
    matches = [path for path in glob.glob(pattern, root_dir=folder) if (folder / path).is_file()]
    if not matches:
        raise BadInput(f"{row.where}, column '{name}': no file is called {pattern} in {folder}.")
    return sorted(matches, key=_by_number)


def _by_number(name: str) -> list[tuple[int, str]]:
    """2.png before 10.png."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
