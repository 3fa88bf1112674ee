"""Brings what a run saved into the batch's folder: whole files only, one name for every job."""

import hashlib
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from .host import Saved
from .jobs import Job
from .manifest import full_disk


def collect(saved: list[Saved], job: Job, out: Path, width: int) -> list[dict[str, Any]]:
    """Write the files; their names, sizes and SHA-256. They are on the disk when this returns.

    A job that is done again writes the same names, so there is never a second picture of it.
    """
    taken: set[str] = set()
    with full_disk(out):
        files = [_write(one, out, _name(job, one.name, taken, width)) for one in saved]
        _sync_folder(out)
    return files


def _write(saved: Saved, out: Path, name: str) -> dict[str, Any]:
    partial = out / f".{name}.part"
    sha, size = hashlib.sha256(), 0
    try:
        with partial.open("wb") as file:
            for chunk in saved.read():
                file.write(chunk)
                sha.update(chunk)
                size += len(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, out / name)
    finally:
        partial.unlink(missing_ok=True)
    return {"file": name, "bytes": size, "sha256": sha.hexdigest()}


def _name(job: Job, name: str, taken: set[str], width: int) -> str:
    """`003_text_to_person.png`: the job's number and the host's name without the host's counter."""
    path = PurePosixPath(name)
    stem = re.sub(r"_\d{5,}_?$", "", path.stem).removesuffix(job.mark)
    wish, count = f"{job.number:0{width}}_{stem}", 1
    made = f"{wish}{path.suffix}"
    while made in taken:
        count += 1
        made = f"{wish}_{count}{path.suffix}"
    taken.add(made)
    return made


def _sync_folder(folder: Path) -> None:
    """A new name is safe from a power cut only when its folder is on the disk too."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
