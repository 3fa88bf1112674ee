"""Bring what a run saved into the batch's folder: complete files only, a name for every job."""

import hashlib
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from .host import Saved
from .jobs import Job
from .manifest import full_disk


def collect(saved: list[Saved], job: Job, out: Path, digits: int) -> list[dict[str, Any]]:
    """Write the files of a run; return their names, sizes and SHA-256.

    They are on the disk when this returns. A job that is done again writes the same names, so there
    is never a second image of it. digits: of the number with which the names begin.
    """
    names: set[str] = set()
    with full_disk(out):
        files = [_write(file, out, _name(job, file.name, names, digits)) for file in saved]
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


def _name(job: Job, name: str, names: set[str], digits: int) -> str:
    """`003_text_to_person.png`: the job's number, the host's name without the host's counter."""
    path = PurePosixPath(name)
    stem = re.sub(r"_\d{5,}_?$", "", path.stem).removesuffix(job.mark)
    start, count = f"{job.number:0{digits}}_{stem}", 1
    unique = f"{start}{path.suffix}"
    while unique in names:
        count += 1
        unique = f"{start}_{count}{path.suffix}"
    names.add(unique)
    return unique


def _sync_folder(folder: Path) -> None:
    """A new name is safe from a power cut only when its folder is on the disk too."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
