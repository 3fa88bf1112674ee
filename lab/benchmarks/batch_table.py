"""How long a batch of many rows takes to begin, and how much memory its runner takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ...batch.vitruvian_batch import jobs, workflow
from ...batch.vitruvian_batch.table import Table
from ...tools.hosts import prepare_base
from ...tools.paths import ROOT
from ...tools.server import Server

WAIT_SECONDS = 120
FLOW = ROOT / "workflows" / "api" / "text_to_person.json"


def run(quick: bool) -> dict[str, float]:
    """Measure from the command to the first row that is handed in; the numbers of batch_table.json.

    The tables have one row, many, many with long texts, and many of which all but one are done.
    """
    rows = 1000 if quick else 10_000
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare_base(work / "base")
        host = Path(os.environ["COMFYUI_PATH"])
        with Server(Path(sys.executable), host, work / "base", "--cpu") as server:
            numbers: dict[str, float] = {"rows": rows}
            for name, count, words in (("one", 1, 10), ("many", rows, 10), ("long", rows, 1000)):
                table = _table(work / f"{name}.csv", count, words)
                numbers |= _begin(name, table, work / name, server.url)
            _pretend_done(work / "many.csv", work / "resumed")
            numbers |= _begin("resumed", work / "many.csv", work / "resumed", server.url)
    return numbers


def _table(path: Path, rows: int, words: int) -> Path:
    with path.open("w") as file:
        file.write("#2.text,seed\n")
        for number in range(rows):
            file.write(f"person {number} {'word ' * words},{number}\n")
    return path


def _begin(name: str, table: Path, out: Path, url: str) -> dict[str, float]:
    """Start the command, and end it when its first row is handed in."""
    manifest = out / "manifest.jsonl"
    size = manifest.stat().st_size if manifest.exists() else len('{"batch": ""}\n') + 36
    command = [sys.executable, "-m", "vitruvian_batch", str(FLOW), "--table", str(table)]
    begun = time.perf_counter()
    runner = subprocess.Popen(
        [*command, "--out", str(out), "--host", url, "--resume"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "batch")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    while not manifest.exists() or manifest.stat().st_size <= size:
        if runner.poll() is not None or time.perf_counter() - begun > WAIT_SECONDS:
            runner.kill()
            raise RuntimeError(runner.communicate()[1].decode())
        time.sleep(0.005)
    seconds = time.perf_counter() - begun
    status = Path(f"/proc/{runner.pid}/status").read_text()
    times = Path(f"/proc/{runner.pid}/stat").read_text().rpartition(")")[2].split()
    runner.kill()
    runner.communicate()
    peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    processor = (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
    return {
        f"start_seconds_{name}": seconds,
        f"processor_seconds_{name}": processor,
        f"peak_megabytes_{name}": int(peak) / 1024,
    }


def _pretend_done(table: Path, out: Path) -> None:
    """Write the folder of a batch in which all rows but the last are done."""
    flow = workflow.build(FLOW, workflow.read(FLOW), {})
    planned = jobs.plan([flow], Table(table), table.parent)
    out.mkdir()
    with (out / "manifest.jsonl").open("w") as file:
        file.write('{"batch": "00000000-0000-4000-8000-000000000000"}\n')
        for job in planned:
            if job.number == len(planned):
                break
            name = f"{job.number:05}_person.png"
            (out / name).touch()
            files = [{"file": name, "bytes": 0, "sha256": ""}]
            about = {"number": job.number, "key": job.key, "host": "a", "cells": job.cells}
            file.write(json.dumps({"event": "queued", **about}) + "\n")
            file.write(json.dumps({"event": "done", **about, "files": files}) + "\n")
