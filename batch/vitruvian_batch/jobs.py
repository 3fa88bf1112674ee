"""What is to be run: one job for every workflow and row, checked before anything starts."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import table, workflow
from .table import Row
from .trouble import BadInput
from .workflow import Target, Workflow

TOLD = 10  # of many mistakes in a table, how many are shown at once


@dataclass(frozen=True)
class Job:
    """One run of a workflow: its values, not yet in a workflow of its own, as there may be many.

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

    def nodes(self, sent: dict[Target, str] | None = None) -> workflow.Nodes:
        """What POST /prompt takes. sent: what the host calls the files."""
        filled = workflow.fill(self.flow.nodes, {**self.values, **(sent or {})})
        for node in filled.values():
            if isinstance(node["inputs"].get("filename_prefix"), str):
                node["inputs"]["filename_prefix"] += self.mark
        return filled

    def ui(self) -> dict[str, Any] | None:
        """What the front end opens."""
        return workflow.fill_ui(self.flow, self.values)

    def seeds(self) -> list[int]:
        """Every seed of the run, for the manifest."""
        held = workflow.seeds(self.flow.nodes)
        return [
            self.values.get(seed, self.flow.nodes[seed.node]["inputs"][seed.input]) for seed in held
        ]


def plan(
    flows: list[Workflow], rows: list[Row], folder: Path, seed: int | None = None
) -> list[Job]:
    """All jobs. BadInput tells up to ten mistakes, each with its row, its column and the fix.

    folder: where the table's relative paths start. seed: the first job's, where no column names
    one; every later job's is one higher.
    """
    jobs: list[Job] = []
    mistakes: list[str] = []
    for flow in flows:
        targets = _targets(flow, rows)
        files = [
            name
            for name, target in targets.items()
            if target and workflow.takes_files(flow, target)
        ]
        for row in rows:
            try:
                for one in table.expand(row, files, folder):
                    first = None if seed is None else seed + len(jobs)
                    jobs.append(_job(flow, one, targets, files, folder, first))
            except BadInput as wrong:
                mistakes += str(wrong).splitlines()
    if mistakes:
        more = [f"... and {len(mistakes) - TOLD} more."] if len(mistakes) > TOLD else []
        raise BadInput("\n".join([*mistakes[:TOLD], *more]))
    return _numbered(jobs)


def _targets(flow: Workflow, rows: list[Row]) -> dict[str, Target | None]:
    """column -> its input; None for `seed`, which means all seeds. Notes (_name) are left out."""
    targets: dict[str, Target | None] = {}
    mistakes = []
    for name in table.columns(rows):
        if name.startswith("_"):
            continue
        try:
            targets[name] = None if name == "seed" else workflow.find(flow, name)
        except BadInput as wrong:
            mistakes.append(str(wrong))
    if "seed" in targets and not workflow.seeds(flow.nodes):
        mistakes.append(f"Column 'seed': {flow.name} has no seed that is a value and not a wire.")
    if mistakes:
        raise BadInput("\n".join(mistakes))
    return targets


def _job(
    flow: Workflow,
    row: Row,
    targets: dict[str, Target | None],
    files: list[str],
    folder: Path,
    seed: int | None,
) -> Job:
    filled: dict[Target, Any] = {}
    sent: dict[Target, Path] = {}
    own = [target for name, target in targets.items() if name in row.cells and target]
    if seed is not None:
        filled |= {target: seed for target in workflow.seeds(flow.nodes) if target not in own}
    mistakes = []
    for name, target in targets.items():
        if name not in row.cells:
            continue
        cell = row.cells[name]
        path = folder / str(cell)
        try:
            if isinstance(cell, (list, dict)):
                raise ValueError(f"'{cell}' is not one value")
            if target is None:
                filled |= _seeds(flow, own, cell)
            elif name in files and path.is_file():
                sent[target] = path
                filled[target] = path.name
            else:
                filled[target] = workflow.fit(cell, *workflow.spec_of(flow, target))
        except ValueError as error:
            hint = ""
            if name in files:
                hint = f", and there is no file {path}. Put it there or correct the path"
            mistakes.append(f"{row.where}, column '{name}': {error}{hint}.")
    if mistakes:
        raise BadInput("\n".join(mistakes))
    key = _key(workflow.fill(flow.nodes, filled), sent)
    return Job(0, flow, row.where, key, row.cells, filled, sent)


def _seeds(flow: Workflow, own: list[Target], cell: Any) -> dict[Target, Any]:
    """The column `seed` goes to every seed that has no column of its own."""
    return {
        target: workflow.fit(cell, *workflow.spec_of(flow, target))
        for target in workflow.seeds(flow.nodes)
        if target not in own
    }


def _key(nodes: workflow.Nodes, files: dict[Target, Path]) -> str:
    """Of the values that are run; a file counts by its path, size and date, as in make."""
    stats = [
        (target.node, target.input, str(path.resolve()), path.stat().st_size, path.stat().st_mtime)
        for target, path in files.items()
    ]
    values = {name: (node["class_type"], node["inputs"]) for name, node in nodes.items()}
    return hashlib.sha256(json.dumps([values, stats], sort_keys=True).encode()).hexdigest()[:16]


def _numbered(jobs: list[Job]) -> list[Job]:
    """With numbers from 1, keys that tell equal rows apart, and names of their own for the host.

    The host numbers its files by what it finds in its output folder. Two hosts that share one would
    give two pictures the same name; so the prefix carries the job's number.
    """
    seen: Counter[str] = Counter()
    done = []
    for number, job in enumerate(jobs, 1):
        seen[job.key] += 1
        key = job.key if seen[job.key] == 1 else f"{job.key}-{seen[job.key]}"
        mark = f"_r{number:04}" if len(jobs) > 1 else ""
        done.append(replace(job, number=number, key=key, mark=mark))
    return done
