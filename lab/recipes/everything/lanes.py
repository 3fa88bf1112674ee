"""The processes of a run: what renders, the first lane, then the other lanes side by side."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ...training.loop import Schedule
from ...training.preview import WEIGHTS
from ..recipe import Recipe, Run, shortened
from . import plan, report

log = logging.getLogger(__name__)
WORLDS = "worlds"  # the process that renders
POLL = 0.5  # seconds between two looks at the other processes
GRACE = 30  # seconds that a stopped training has to write its checkpoint
ENTRY = WEIGHTS.parent / "dev.py"


def run_lane(lane: str, recipes: Mapping[str, Recipe], run: Run, share: float) -> None:
    """Train the stages of a lane that are not finished, each a share of its length.

    `run` says where the samples lie, and its schedule has the precision of all.
    """
    for stage in plan.LANES[lane]:
        if report.is_finished(run.work, stage.recipe):
            log.info("%s is finished already", stage.recipe)
            continue
        await_worlds(run.work, stage)
        schedule = shortened(_schedule_of(recipes[stage.recipe], stage, run), share)
        begin = time.time()
        log.info("%s begins: %s", stage.recipe, schedule)
        recipes[stage.recipe].train(replace(run, schedule=schedule))
        facts = {
            "seconds": time.time() - begin,
            "samples": schedule.steps * schedule.batch,
            "lr": schedule.lr,
            "losses": report.losses_of(run.work, begin),
        }
        report.finish(run.work, stage.recipe, facts)


def _schedule_of(recipe: Recipe, stage: plan.Stage, run: Run) -> Schedule:
    scaled = plan.stage_schedule(recipe, stage) if run.device == "cuda" else recipe.schedule
    return replace(scaled, precision=run.schedule.precision)


def await_worlds(work: Path, stage: plan.Stage) -> None:
    """Wait until the worlds of a stage are rendered; another process does that."""
    while not all(report.is_finished(work, name) for name in stage.worlds):
        time.sleep(POLL)


def run_all(work: Path, arguments: Sequence[str]) -> list[str]:
    """Run all processes with the arguments of the command line; returns those that failed.

    The first lane has the card to itself. If the worlds or the first lane fail, all end.
    """
    processes = {name: start(work, name, arguments) for name in (WORLDS, plan.FIRST)}
    failed: list[str] = []
    try:
        while processes:
            time.sleep(POLL)
            for name in [name for name, process in processes.items() if process.poll() is not None]:
                status = processes.pop(name).returncode
                log.info("%s ended with %d", name, status)
                if status:
                    failed.append(name)
                elif name == plan.FIRST:
                    lanes = (lane for lane in plan.LANES if lane != plan.FIRST)
                    processes |= {lane: start(work, lane, arguments) for lane in lanes}
            if {WORLDS, plan.FIRST} & set(failed):
                break
    finally:  # when it is interrupted, too: every training writes its checkpoint
        stop(processes)
    return failed


def start(work: Path, name: str, arguments: Sequence[str]) -> subprocess.Popen:
    """Begin one process of a run; what it says goes to a log."""
    command = [sys.executable, str(ENTRY), "train", "everything", *arguments, "--lane", name]
    environment = {"OMP_NUM_THREADS": "2", **os.environ, "PYTHONUNBUFFERED": "1"}
    file = work / "logs" / f"{name}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)


def stop(processes: Mapping[str, subprocess.Popen]) -> None:
    """End processes that run; each has GRACE seconds for its last checkpoint."""
    for process in processes.values():
        process.terminate()
    for process in processes.values():
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
