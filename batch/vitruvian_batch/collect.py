"""Bring what a run saved into the batch's folder: complete files only, a name for every job."""

import hashlib
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from .host import Saved
from .jobs import Job
from .manifest import Manifest, full_disk

LONGEST_NAME = 150  # bytes of a host's name that are kept; file systems take 255 in all
UNSAFE = re.compile(r'[<>:"|?*\x00-\x1f\x7f]')  # what some system takes in no file name


def collect(
    saved: list[Saved], job: Job, manifest: Manifest, digits: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """Write the files of a run; return their names, sizes and SHA-256, and what is to be told.

    They are on the disk when this returns. A job that is done again writes the same names, so there
    is never a second image of it. digits: of the number with which the names begin.
    """
    names: set[str] = set()
    files, notes = [], []
    with full_disk(manifest.out):
        for index, file in enumerate(saved, 1):
            name = _name(job, file.name, names, digits)
            partial = manifest.out / f".{job.number}-{index}.{manifest.batch[:8]}.part"
            try:
                size, sha256 = _write(file, partial)
                files.append({"file": name, "bytes": size, "sha256": sha256})
                if aside := manifest.set_aside(name, size, sha256):
                    notes.append(f"{name} was changed since it was saved: it is {aside} now.")
                os.replace(partial, manifest.out / name)
            finally:
                partial.unlink(missing_ok=True)
        _sync_folder(manifest.out)
    return files, notes


def _write(saved: Saved, partial: Path) -> tuple[int, str]:
    sha, size = hashlib.sha256(), 0
    with partial.open("wb") as file:
        for chunk in saved.read():
            file.write(chunk)
            sha.update(chunk)
            size += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return size, sha.hexdigest()


def _name(job: Job, name: str, names: set[str], digits: int) -> str:
    """`003_text_to_person.png`: the job's number, the host's name without the host's counter.

    names: those of the job so far, in small letters: some systems know no others.
    """
    path = PurePosixPath(UNSAFE.sub("_", name.replace("\\", "/")))
    stem = re.sub(r"_\d{5,}_?$", "", path.stem).removesuffix(job.mark)
    stem = stem.encode(errors="replace")[:LONGEST_NAME].decode(errors="ignore")
    suffix = path.suffix[:20]
    start, count = f"{job.number:0{digits}}_{stem}", 1
    unique = f"{start}{suffix}"
    while unique.lower() in names:
        count += 1
        unique = f"{start}_{count}{suffix}"
    names.add(unique.lower())
    return unique


def _sync_folder(folder: Path) -> None:
    """A new name is safe from a power cut only when its folder is on the disk too."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
