"""The batch's diary: JSON lines, each on the disk before the next step is taken.

{"batch": id, ...}                  the first line
{"event": "queued", "key", ...}     before a row is handed to a host
{"event": "done", ..., "files"}     when all its pictures lie in the folder
{"event": "failed", ..., "error"}   when the row failed ("again": it gets another try)
"""

import errno
import json
import os
import uuid
from pathlib import Path
from threading import Lock
from typing import IO, Any

from .jobs import Job
from .trouble import BadInput, DiskFull

FULL = (errno.ENOSPC, errno.EDQUOT)


class Manifest:
    """Reads what earlier starts wrote, and appends. One process at a time holds it."""

    def __init__(self, path: Path, out: Path, resume: bool) -> None:
        self.path, self.out = path, out
        self.done: dict[str, dict[str, Any]] = {}  # key -> its line
        self.hosts: dict[str, str] = {}  # key -> the host it was queued on, if it was not finished
        self.failures: dict[str, int] = {}
        self._lock = Lock()
        with full_disk(out):
            out.mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
            _hold(self._file, path)
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
        for rest in out.glob(".*.part"):  # what a killed runner was writing
            rest.unlink()

    def _read(self) -> list[dict[str, Any]]:
        """All lines; the rest of one that a killed runner was writing is cut off."""
        self._file.seek(0)
        text = self._file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._file.truncate(len(whole))
        lines = []
        for number, line in enumerate(whole.splitlines(), 1):
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
                del self.done[other]  # its picture was painted over by this row's
            self.done[key] = line
            self.hosts.pop(key, None)

    def write(self, line: dict[str, Any]) -> None:
        """Append a line, and return when it is on the disk."""
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
        """The id of a job on every host, the same after the runner was killed: so a host that has
        it already is not given it twice. A job that failed gets another.
        """
        name = f"{job.key}/{self.failures.get(job.key, 0)}"
        return str(uuid.uuid5(uuid.UUID(self.batch), name))

    def is_done(self, job: Job) -> bool:
        """True if the job's line says so and its files are still there."""
        line = self.done.get(job.key)
        return line is not None and all(
            (path := self.out / file["file"]).is_file() and path.stat().st_size == file["bytes"]
            for file in line["files"]
        )

    def left(self, jobs: list[Job]) -> list[Job]:
        """List the jobs that are still to be done. BadInput if one would overwrite another's image."""
        left = [job for job in jobs if not self.is_done(job)]
        kept = {job.key for job in jobs} - {job.key for job in left}
        owners = {self.done[key]["number"]: key for key in kept}
        for job in left:
            if job.number in owners:
                raise BadInput(
                    f"{job.where} is new, but its number {job.number} belongs to pictures made "
                    "before. Write new rows at the end of the table, or name another --out."
                )
        return left

    def close(self) -> None:
        self._file.close()


class full_disk:
    """Turns the system's word for a full disk into DiskFull."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: object, __: object) -> None:
        if isinstance(error, OSError) and error.errno in FULL:
            raise DiskFull(
                f"The disk of {self.folder} is full. What is done stays done: make room and run "
                "the same command again with --resume."
            ) from None


def _names(line: dict[str, Any]) -> set[str]:
    return {file["file"] for file in line["files"]}


def _need_empty(out: Path) -> None:
    pictures = [path.name for path in out.iterdir() if path.name.split("_")[0].isdigit()]
    if pictures:
        raise BadInput(
            f"{out} holds pictures of another batch ({sorted(pictures)[0]}), and this manifest is "
            "new. Name another folder with --out."
        )


def _hold(file: IO[bytes], path: Path) -> None:
    """A second runner on the same manifest would do every row again."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BadInput(
            f"Another vitruvian-batch works on {path}. Wait for it, or name another --out."
        ) from None
