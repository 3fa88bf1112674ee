"""What is to be run: one job for every workflow and row, checked before anything starts."""

import json
import threading
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any, NamedTuple

from . import seeds, table, workflow
from .table import Row, Table
from .trouble import BadInput
from .values import Choices, fit, shorten
from .workflow import Nodes, Target, Workflow

MOST_MISTAKES = 10  # that one message lists
IN_MEMORY = 1 << 22  # bytes of jobs; longer plans lie on the disk


@dataclass(frozen=True)
class Job:
    """One run of a workflow: the values that differ from the workflow as it was saved.

    key: names what is run; it is the same in every later start. files: the input files to send to
    the host, which gives them their names. mark: what the host's file names carry of this job.
    """

    number: int
    flow: Workflow
    where: str
    key: str
    cells: dict[str, Any]
    values: dict[Target, Any]
    files: dict[Target, Path]
    mark: str = ""

    def nodes(self, host_names: dict[Target, str] | None = None) -> Nodes:
        """Fill the workflow for POST /prompt. host_names: what the host calls the input files."""
        nodes = workflow.queued(self.flow, {**self.values, **(host_names or {})})
        for node in nodes.values():
            node.pop("is_changed", None)  # of a workflow out of an image: it would skip the check
            if isinstance(node["inputs"].get("filename_prefix"), str):
                node["inputs"]["filename_prefix"] += self.mark
        return nodes

    def ui(self) -> dict[str, Any] | None:
        """Fill the workflow as the front end opens it; None if it was saved in the API format."""
        return workflow.fill_ui(self.flow, self.values)

    def seeds(self) -> list[int]:
        """List every seed of the run, for the manifest."""
        return [
            self.values.get(seed, self.flow.nodes[seed.node]["inputs"][seed.input])
            for seed in seeds.targets(self.flow.nodes)
        ]


class Plan:
    """The jobs of a batch in their order, numbered from 1. Of each only its key is kept in memory.

    Equal jobs get keys that tell them apart. The host numbers its files by what is in its output
    folder, and two hosts that share one would give two images the same name: so, where there are
    several jobs, the names of a job's files carry its number.
    """

    def __init__(self) -> None:
        self.keys: list[str] = []
        self._flows: list[Workflow] = []
        self._filled: dict[int, set[Target]] = {}
        self._starts = array("Q")
        self._repeats: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._file = SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 (as long as the plan)

    def add(self, flow: Workflow, row: Row, content: "Content") -> None:
        """Append a job."""
        if not self._flows or self._flows[-1] is not flow:
            self._flows.append(flow)
        self._repeats[content.key] += 1
        count = self._repeats[content.key]
        self.keys.append(content.key if count == 1 else f"{content.key}-{count}")
        values = [(target.node, target.input, value) for target, value in content.values.items()]
        files = [(target.node, target.input, str(path)) for target, path in content.files.items()]
        record = [len(self._flows) - 1, row.where, row.cells, values, files]
        index = len(self._flows) - 1
        self._filled[index] = self._filled.get(index, set(content.values)) & set(content.values)
        self._starts.append(self._file.tell())
        self._file.write(json.dumps(record).encode() + b"\n")

    def repeated(self) -> list[list[int]]:
        """List the numbers of jobs that run the same: each list has two or more."""
        same: dict[str, list[int]] = {}
        for number, key in enumerate(self.keys, 1):
            same.setdefault(key.partition("-")[0], []).append(number)
        return [numbers for numbers in same.values() if len(numbers) > 1]

    def filled(self, flow: int) -> set[Target]:
        """Return the inputs that all jobs of a workflow fill. flow: its place among them."""
        return self._filled.get(flow, set())

    def __len__(self) -> int:
        return len(self.keys)

    def job(self, number: int) -> Job:
        """Read the job of this number. Any thread may ask."""
        with self._lock:
            self._file.seek(self._starts[number - 1])
            record = json.loads(self._file.readline())
        flow, where, cells, values, files = record
        return Job(
            number,
            self._flows[flow],
            where,
            self.keys[number - 1],
            cells,
            {Target(node, key): value for node, key, value in values},
            {Target(node, key): Path(path) for node, key, path in files},
            f"_r{number:04}" if len(self) > 1 else "",
        )

    def __iter__(self) -> Iterator[Job]:
        return map(self.job, range(1, len(self) + 1))


class Content(NamedTuple):
    """What a job runs: its key, its values, and the files among them that are sent to the host."""

    key: str
    values: dict[Target, Any]
    files: dict[Target, Path]


def plan(
    flows: list[Workflow],
    rows: Table | Iterable[Row],
    folder: Path,
    seed: int | None = None,
    most: int = MOST_MISTAKES,
) -> Plan:
    """Make a job for every workflow and row. BadInput lists the mistakes and their fixes.

    folder: where the table's relative paths start. seed: the first job's, where no column names
    one; every later job's is one higher. most: mistakes that are listed; the others are counted.
    """
    jobs = Plan()
    mistakes = Mistakes(most)
    for flow in flows:
        writer = _Writer(flow, folder, mistakes)
        if seed is not None:
            with mistakes:
                seeds.check(flow, "--seed")
        for name in rows.columns() if isinstance(rows, Table) else ():
            writer.column(name)
        with mistakes:
            for row in rows.read() if isinstance(rows, Table) else rows:
                if isinstance(row, BadInput):
                    mistakes.add(str(row))
                else:
                    writer.write(row, jobs, seed)
    mistakes.raise_all()
    if not jobs:
        name = f"The table {rows.path}" if isinstance(rows, Table) else "The table"
        raise BadInput(f"{name} has no rows. Write one below the column names.")
    return jobs


class Mistakes:
    """Collect what is wrong, to say it all at once. A `with` block adds the BadInput it ends in."""

    def __init__(self, most: int = MOST_MISTAKES) -> None:
        self.most = most
        self.first: dict[str, None] = {}
        self.count = 0

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if isinstance(error, BadInput):
            self.add(str(error))
        return isinstance(error, BadInput)

    def add(self, text: str) -> None:
        """Keep the lines of a text, each once."""
        for line in text.splitlines():
            if line not in self.first:
                self.count += 1
            if len(self.first) < self.most:
                self.first[line] = None

    def raise_all(self) -> None:
        """Raise BadInput if there are any."""
        if self.count:
            more = self.count - len(self.first)
            raise BadInput("\n".join([*self.first, *([f"... and {more} more."] if more else [])]))


class _Column(NamedTuple):
    """An input that a column fills; `target` is None for the column of all seeds."""

    target: Target | None
    is_file: bool = False
    kind: Any = None
    options: dict[str, Any] = {}


class _Writer:
    """Writes the jobs of one workflow. What depends on the workflow alone is found out once."""

    def __init__(self, flow: Workflow, folder: Path, mistakes: Mistakes) -> None:
        self.flow, self.folder, self.mistakes = flow, folder, mistakes
        self.columns: dict[str, _Column | None] = {}
        self.seeds = {target: self._column_of(target) for target in seeds.targets(flow.nodes)}
        self.texts = {name: _text(node) for name, node in flow.nodes.items()}

    def column(self, name: str) -> _Column | None:
        """Find what a column fills; None for a note (_name) or a mistake, which is kept."""
        if name not in self.columns:
            self.columns[name] = None
            if not name.startswith("_"):
                with self.mistakes:
                    self.columns[name] = self._named(name)
        return self.columns[name]

    def _named(self, name: str) -> _Column:
        if name != "seed":
            return self._column_of(workflow.find(self.flow, name))
        seeds.check(self.flow, "Column 'seed'")
        return _Column(None)

    def _column_of(self, target: Target) -> _Column:
        kind, options = workflow.spec_of(self.flow, target)
        if isinstance(kind, list):
            kind = Choices(kind)
        return _Column(target, workflow.takes_files(self.flow, target), kind, options)

    def write(self, row: Row, jobs: Plan, first_seed: int | None) -> None:
        """Add the jobs of a row: several if its cells have wildcards."""
        columns = {name: column for name in row.cells if (column := self.column(name))}
        files = [name for name, column in columns.items() if column.is_file]
        with self.mistakes:
            for expanded in table.expand(row, files, self.folder):
                seed = None if first_seed is None else first_seed + len(jobs)
                jobs.add(self.flow, expanded, self._content(expanded, columns, seed))

    def _content(self, row: Row, columns: dict[str, _Column], seed: int | None) -> Content:
        values: dict[Target, Any] = {}
        files: dict[Target, Path] = {}
        named = [column.target for column in columns.values() if column.target]
        wrong = []
        cells = [(f"column '{name}'", column, row.cells[name]) for name, column in columns.items()]
        if seed is not None:
            cells.insert(0, ("--seed", _Column(None), seed))
        for name, column, cell in cells:
            try:
                if isinstance(cell, (list, dict)):
                    raise ValueError(f"'{shorten(cell)}' is not one value")
                if column.target is None:
                    values |= {
                        target: fit(cell, inner.kind, inner.options)
                        for target, inner in self.seeds.items()
                        if target not in named
                    }
                elif column.is_file and table.is_file(self.folder / str(cell)):
                    files[column.target] = self.folder / str(cell)
                    values[column.target] = files[column.target].name
                else:
                    values[column.target] = fit(cell, column.kind, column.options)
            except ValueError as error:
                hint = ""
                if column.is_file:
                    path = self.folder / str(cell)
                    hint = f", and there is no file {path}. Put it there or correct the path"
                wrong.append(f"{row.where}, {name}: {error}{hint}.")
        if wrong:
            raise BadInput("\n".join(wrong))
        return Content(self._key(values, files), values, files)

    def _key(self, values: dict[Target, Any], files: dict[Target, Path]) -> str:
        """Hash the values that are run; a file counts by its path, size and date, as in make."""
        texts = dict(self.texts)
        for name in {target.node for target in values}:
            changes = {target.input: new for target, new in values.items() if target.node == name}
            node = self.flow.nodes[name]
            texts[name] = _text({**node, "inputs": {**node["inputs"], **changes}})
        stats = [
            (target.node, target.input, str(path.resolve()), *_size_and_date(path))
            for target, path in files.items()
        ]
        return sha256(json.dumps([sorted(texts.items()), stats]).encode()).hexdigest()[:16]


def _size_and_date(path: Path) -> tuple[int, float]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime


def _text(node: dict[str, Any]) -> str:
    return json.dumps([node["class_type"], node["inputs"]], sort_keys=True)
