"""What a run leaves in its folder: which stages and worlds are finished, and how long they took."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from ....models.atomic_file import write_atomically

TENTH = 10  # the first and the last of so many parts of the losses are told


def finished_file(work: Path, name: str) -> Path:
    """Name the record of a finished stage or world."""
    return work / "finished" / f"{name}.json"


def is_finished(work: Path, name: str) -> bool:
    """Tell whether a stage or world was finished, now or in an earlier run."""
    return finished_file(work, name).is_file()


def finish(work: Path, name: str, facts: Mapping[str, Any]) -> None:
    """Record that a stage or world is finished."""
    file = finished_file(work, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"name": name, "finished": round(time.time()), **facts})
    write_atomically(file, lambda part: part.write_text(text, encoding="utf-8"))


def losses_of(work: Path, since: float) -> dict[str, dict[str, float]]:
    """Summarize the losses that trainings in `work` have written since this time, by their
    folders: the means of the first and of the last tenth.
    """
    summaries = {}
    for file in sorted(work.rglob("loss.json")):
        losses = json.loads(file.read_text("utf-8"))
        if losses and file.stat().st_mtime >= since:
            width = max(1, len(losses) // TENTH)
            summaries[str(file.parent.relative_to(work))] = {
                "steps": len(losses),
                "loss_first": round(fmean(losses[:width]), 5),
                "loss_last": round(fmean(losses[-width:]), 5),
            }
    return summaries


def table(work: Path) -> str:
    """List what is finished in a folder, a line each: seconds, samples a second, losses."""
    lines = [f"{'stage':24} {'seconds':>8} {'samples/s':>10}  losses, first and last tenth"]
    files = (work / "finished").glob("*.json")
    records = sorted((json.loads(f.read_text("utf-8")) for f in files), key=_when)
    for record in records:
        seconds, samples = record.get("seconds", 0.0), record.get("samples", 0)
        rate = f"{samples / seconds:10.0f}" if samples and seconds else " " * 10
        losses = "; ".join(
            f"{name} {each['loss_first']:.4f} to {each['loss_last']:.4f}"
            for name, each in record.get("losses", {}).items()
        )
        lines.append(f"{record['name']:24} {seconds:8.0f} {rate}  {losses}")
    return "\n".join(lines)


def _when(record: Mapping[str, Any]) -> float:
    return record["finished"]
