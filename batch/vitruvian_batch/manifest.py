"""The record of a batch: JSON lines, each on the disk before the next step is taken.

{"batch": id, ...}                  the first line
{"event": "queued", "key", ...}     before a row is handed to a host
{"event": "done", ..., "files"}     when all its images are in the folder
{"event": "failed", ..., "error"}   when the row failed ("again": it gets another try)
"""

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any

import filelock

from .jobs import Job
from .trouble import BadInput, DiskFull

FULL = (errno.ENOSPC, errno.EDQUOT)


class Manifest:
    """The lines that earlier starts wrote, and where this one appends. One process has it open."""

    def __init__(self, path: Path, out: Path, resume: bool) -> None:
        self.path, self.out = path, out
        self.done: dict[str, dict[str, Any]] = {}  # key -> its line
        self.hosts: dict[str, str] = {}  # key -> the host it was queued on, if it was not finished
        self.failures: dict[str, int] = {}
        self._lock = Lock()
        with full_disk(out):
            out.mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file_lock = _lock(path)
            self._file = path.open("a+b")
            lines = self._read()
            if lines and not resume:
                raise BadInput(
                    f"{path} is the manifest of a batch begun earlier: {len(self.done)} rows are "
                    "done. Add --resume to go on with it, or name another folder with --out."
                )
            if lines:
                self.batch = str(lines[0].get("batch") or "")
                if not self.batch:
                    raise BadInput(f"{path} does not begin as a manifest. Name another --manifest.")
            else:
                _need_empty(out)
                self.batch = str(uuid.uuid4())
                self.write({"batch": self.batch})
        for part in out.glob(".*.part"):  # what a killed runner was writing
            part.unlink()

    def _read(self) -> list[dict[str, Any]]:
        """Read all lines; an incomplete one, which a killed runner was writing, is cut off."""
        self._file.seek(0)
        text = self._file.read()
        complete = text[: text.rfind(b"\n") + 1]
        self._file.truncate(len(complete))
        lines = []
        for number, line in enumerate(complete.splitlines(), 1):
            try:
                lines.append(json.loads(line))
            except ValueError:
                raise BadInput(
                    f"{self.path}, line {number} is damaged. Delete that line: its row runs again."
                ) from None
        for line in lines:
            self._remember(line)
        return lines

    def _remember(self, line: dict[str, Any]) -> None:
        key = str(line.get("key"))
        if line.get("event") == "queued":
            self.hosts[key] = str(line.get("host"))
        if line.get("event") in ("failed", "again"):
            self.failures[key] = self.failures.get(key, 0) + 1
            self.hosts.pop(key, None)
        if line.get("event") == "done":
            for other in [k for k, done in self.done.items() if _names(line) & _names(done)]:
                del self.done[other]  # its image was overwritten by this row's
            self.done[key] = line
            self.hosts.pop(key, None)

    def write(self, line: dict[str, Any]) -> None:
        """Append a line; it is on the disk when this returns."""
        data = json.dumps(line, ensure_ascii=False).encode() + b"\n"
        with self._lock, full_disk(self.out):
            end = self._file.seek(0, os.SEEK_END)
            try:
                self._file.write(data)
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError:
                os.ftruncate(self._file.fileno(), end)
                raise
            self._remember(line)

    def prompt_id(self, job: Job) -> str:
        """Return the id of a job on every host. A job that failed gets another.

        It is the same after the runner was killed, so that a host does not get a job twice.
        """
        name = f"{job.key}/{self.failures.get(job.key, 0)}"
        return str(uuid.uuid5(uuid.UUID(self.batch), name))

    def is_done(self, job: Job) -> bool:
        """Tell if the job's line says so and its files still exist."""
        line = self.done.get(job.key)
        return line is not None and all(
            (path := self.out / file["file"]).is_file() and path.stat().st_size == file["bytes"]
            for file in line["files"]
        )

    def remaining(self, jobs: list[Job]) -> list[Job]:
        """List the jobs still to be done. BadInput if one would overwrite another's image."""
        remaining = [job for job in jobs if not self.is_done(job)]
        done_keys = {job.key for job in jobs} - {job.key for job in remaining}
        used_numbers = {self.done[key]["number"] for key in done_keys}
        for job in remaining:
            if job.number in used_numbers:
                raise BadInput(
                    f"{job.where} is new, but its number {job.number} belongs to images of an "
                    "earlier row. Write new rows at the end of the table, or name another --out."
                )
        return remaining

    def close(self) -> None:
        """Release the file."""
        self._file.close()
        self._file_lock.release()


@contextlib.contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Turn the system's errors for a full disk into DiskFull. folder: where files are written."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DiskFull(
            f"The disk of {folder} is full. What is done stays done: make room and run the same "
            "command again with --resume."
        ) from None


def _names(line: dict[str, Any]) -> set[str]:
    return {file["file"] for file in line["files"]}


def _need_empty(out: Path) -> None:
    images = [path.name for path in out.iterdir() if path.name.split("_")[0].isdigit()]
    if images:
        raise BadInput(
            f"{out} holds images of another batch ({sorted(images)[0]}), and this manifest is "
            "new. Name another folder with --out."
        )


def _lock(path: Path) -> filelock.BaseFileLock:
    """Keep a second runner from the manifest: it would do every row again."""
    lock = filelock.FileLock(f"{path}.lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise BadInput(
            f"Another vitruvian-batch works on {path}. Wait for it, or name another --out."
        ) from None
    return lock
