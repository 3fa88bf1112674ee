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

MOST_MISTAKES = 10  # that one message lists


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

    def nodes(self, host_names: dict[Target, str] | None = None) -> workflow.Nodes:
        """Fill the workflow for POST /prompt. host_names: what the host calls the input files."""
        nodes = workflow.fill(self.flow.nodes, {**self.values, **(host_names or {})})
        for node in nodes.values():
            if isinstance(node["inputs"].get("filename_prefix"), str):
                node["inputs"]["filename_prefix"] += self.mark
        return nodes

    def ui(self) -> dict[str, Any] | None:
        """Fill the workflow as the front end opens it; None if it was saved in the API format."""
        return workflow.fill_ui(self.flow, self.values)

    def seeds(self) -> list[int]:
        """List every seed of the run, for the manifest."""
        targets = workflow.seeds(self.flow.nodes)
        return [
            self.values.get(seed, self.flow.nodes[seed.node]["inputs"][seed.input])
            for seed in targets
        ]


def plan(
    flows: list[Workflow], rows: list[Row], folder: Path, seed: int | None = None
) -> list[Job]:
    """Make a job for every workflow and row. BadInput lists up to ten mistakes and their fixes.

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
                for expanded in table.expand(row, files, folder):
                    job_seed = None if seed is None else seed + len(jobs)
                    jobs.append(_job(flow, expanded, targets, files, folder, job_seed))
            except BadInput as error:
                mistakes += str(error).splitlines()
    if mistakes:
        more = (
            [f"... and {len(mistakes) - MOST_MISTAKES} more."]
            if len(mistakes) > MOST_MISTAKES
            else []
        )
        raise BadInput("\n".join([*mistakes[:MOST_MISTAKES], *more]))
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
        except BadInput as error:
            mistakes.append(str(error))
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
    values: dict[Target, Any] = {}
    paths: dict[Target, Path] = {}
    named_targets = [target for name, target in targets.items() if name in row.cells and target]
    if seed is not None:
        all_seeds = workflow.seeds(flow.nodes)
        values |= {target: seed for target in all_seeds if target not in named_targets}
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
                values |= _seeds(flow, named_targets, cell)
            elif name in files and path.is_file():
                paths[target] = path
                values[target] = path.name
            else:
                values[target] = workflow.fit(cell, *workflow.spec_of(flow, target))
        except ValueError as error:
            hint = ""
            if name in files:
                hint = f", and there is no file {path}. Put it there or correct the path"
            mistakes.append(f"{row.where}, column '{name}': {error}{hint}.")
    if mistakes:
        raise BadInput("\n".join(mistakes))
    key = _key(workflow.fill(flow.nodes, values), paths)
    return Job(0, flow, row.where, key, row.cells, values, paths)


def _seeds(flow: Workflow, named_targets: list[Target], cell: Any) -> dict[Target, Any]:
    """Give the column `seed` to every seed that no other column names."""
    return {
        target: workflow.fit(cell, *workflow.spec_of(flow, target))
        for target in workflow.seeds(flow.nodes)
        if target not in named_targets
    }


def _key(nodes: workflow.Nodes, files: dict[Target, Path]) -> str:
    """Hash the values that are run; a file counts by its path, size and date, as in make."""
    stats = [
        (target.node, target.input, str(path.resolve()), path.stat().st_size, path.stat().st_mtime)
        for target, path in files.items()
    ]
    values = {name: (node["class_type"], node["inputs"]) for name, node in nodes.items()}
    return hashlib.sha256(json.dumps([values, stats], sort_keys=True).encode()).hexdigest()[:16]


def _numbered(jobs: list[Job]) -> list[Job]:
    """Number the jobs from 1, with keys that tell equal rows apart and marks for the host's files.

    The host numbers its files by what is in its output folder. Two hosts that share one would give
    two images the same name; so the prefix carries the job's number.
    """
    repeats: Counter[str] = Counter()
    numbered = []
    for number, job in enumerate(jobs, 1):
        repeats[job.key] += 1
        key = job.key if repeats[job.key] == 1 else f"{job.key}-{repeats[job.key]}"
        mark = f"_r{number:04}" if len(jobs) > 1 else ""
        numbered.append(replace(job, number=number, key=key, mark=mark))
    return numbered
