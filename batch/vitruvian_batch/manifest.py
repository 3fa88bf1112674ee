"""The record of a batch: JSON lines, each on the disk before the next step is taken.

{"batch": id, ...}                  the first line
{"event": "queued", "key", ...}     before a row is handed to a host
{"event": "done", ..., "files"}     when all its images are in the folder; "replaced": those of the
                                    row's earlier values, which are then deleted
{"event": "failed", ..., "error"}   when the row failed ("again": it gets another try)
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import filelock

from .jobs import Job, Plan
from .trouble import BadInput, DiskFull

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the last where files have a limit
LOCK = ".vitruvian-batch.lock"
BEGINNING = b'{"batch": "'
BEGUN = re.compile(BEGINNING.replace(b"{", rb"\{") + rb'[0-9a-f-]{0,36}"?\}?')
FIRST_LINE = 1 << 16  # bytes of it that are looked at
CHUNK = 1 << 20


class Stored(NamedTuple):
    """A file of a row as it was saved."""

    file: str
    bytes: int
    sha256: str


class Done(NamedTuple):
    """A row that is done: its number and its files."""

    number: int
    files: tuple[Stored, ...]


class Manifest:
    """The lines that earlier starts wrote, and where this one appends. One process has it open."""

    def __init__(self, path: Path, out: Path, resume: bool) -> None:
        self.path, self.out = path, out
        self.done: dict[str, Done] = {}  # key -> what it left
        self.hosts: dict[str, str] = {}  # key -> the host it was queued on, if it was not finished
        self.failures: dict[str, int] = {}
        self.batch = ""
        self._owners: dict[str, str] = {}  # file -> the key whose image it is
        self._numbers: set[int] = set()  # of every row that was ever handed to a host
        self._replaced: dict[str, Stored] = {}  # images of rows that were corrected
        self._lock = Lock()
        with full_disk(out), contextlib.ExitStack() as stack:
            _check_manifest(path)
            _make_folder(out)
            _make_folder(path.parent)
            stack.enter_context(_locked(out / LOCK, out))
            stack.enter_context(_locked(path.with_name(f".{path.name}{LOCK}"), path))
            self._file = stack.enter_context(path.open("a+b"))
            self._begin(resume)
            self._open = stack.pop_all()

    def _begin(self, resume: bool) -> None:
        """Take up the batch of an earlier start, or begin one."""
        self._read()
        if self.batch and not resume:
            raise BadInput(
                f"{self.path} is the manifest of a batch begun earlier: {len(self.done)} rows are "
                "done. Add --resume to go on with it, or name another folder with --out."
            )
        self._check_folder()
        if not self.batch:
            self.batch = str(uuid.uuid4())
            self.write({"batch": self.batch})
        for part in self.out.glob(f".*.{self.batch[:8]}.part"):  # a killed runner was writing it
            part.unlink()
        self._sweep()

    def _read(self) -> None:
        """Read all lines; an incomplete one, which a killed runner was writing, is cut off."""
        self._file.seek(0)
        end = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                self._remember(json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                raise BadInput(
                    f"{self.path}, line {number} is damaged. Delete that line: its row runs again."
                ) from None
            end += len(line)
        self._file.truncate(end)

    def _remember(self, line: dict[str, Any]) -> None:
        event, key = line.get("event"), str(line.get("key"))
        self.batch = self.batch or str(line.get("batch") or "")
        if event:
            self._numbers.add(line.get("number", 0))
        if event == "queued":
            self.hosts[key] = str(line.get("host"))
        elif event:
            self.hosts.pop(key, None)
        if event in ("failed", "again"):
            self.failures[key] = self.failures.get(key, 0) + 1
        if event == "done":
            files = tuple(map(_stored, line["files"]))
            for file in files:
                self.done.pop(self._owners.get(file.file, ""), None)  # its image was overwritten
                self._owners[file.file] = key
            for file in map(_stored, line.get("replaced", ())):
                self._replaced[file.file] = file
                self.done.pop(self._owners.get(file.file, ""), None)
            self.done[key] = Done(line["number"], files)

    def write(self, line: dict[str, Any]) -> None:
        """Append a line; it is on the disk when this returns."""
        # half of a surrogate pair has no UTF-8: it stays the escape \ud800, which JSON reads
        text = json.dumps(line, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
        with self._lock, full_disk(self.out):
            end = self._file.seek(0, os.SEEK_END)
            try:
                self._file.write(text)
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError:
                os.ftruncate(self._file.fileno(), end)
                raise
            self._remember(line)

    def prompt_id(self, key: str) -> str:
        """Return the id of a job on every host. A job that failed gets another.

        It is the same after the runner was killed, so that a host does not get a job twice.
        """
        return str(uuid.uuid5(uuid.UUID(self.batch), f"{key}/{self.failures.get(key, 0)}"))

    def is_done(self, key: str) -> bool:
        """Tell if the job's line says so and its files still exist."""
        return key in self.done and all(
            (path := self.out / stored.file).is_file() and path.stat().st_size == stored.bytes
            for stored in self.done[key].files
        )

    def remaining(self, plan: Plan) -> list[int]:
        """List the numbers of the jobs still to be done.

        BadInput if one would overwrite another's image, or if the batch is another one.
        """
        numbers = [n for n, key in enumerate(plan.keys, 1) if not self.is_done(key)]
        keys = set(plan.keys)
        done_keys = keys - {plan.keys[number - 1] for number in numbers}
        used_numbers = {self.done[key].number for key in done_keys}
        for number in numbers:
            if number in used_numbers:
                raise BadInput(
                    f"{plan.job(number).where} is new, but its number {number} belongs to images "
                    "of an earlier row. Write new rows at the end of the table, or name another "
                    "--out."
                )
        if len(self.done) > 1 and keys.isdisjoint(self.done):
            raise BadInput(
                f"None of the {len(self.done)} rows that {self.path} calls done is in this table "
                "and workflow: their images would be replaced. Name another folder with --out."
            )
        return numbers

    def corrected(self, plan: Plan) -> list[int]:
        """List the numbers of the rows whose images are those of earlier values."""
        keys = set(plan.keys)
        numbers = {done.number for key, done in self.done.items() if key not in keys}
        return sorted(numbers & set(range(1, len(plan) + 1)))

    def replaced_by(self, job: Job) -> list[Stored]:
        """List the images that the earlier values of a job's row left."""
        return [
            file
            for key, done in self.done.items()
            if done.number == job.number and key != job.key
            for file in done.files
        ]

    def finish(self, line: dict[str, Any], replaced: list[Stored]) -> None:
        """Write that a row is done, and then delete the images that it replaces."""
        if replaced:
            line = {**line, "replaced": [file._asdict() for file in replaced]}
        self.write(line)
        self._sweep()

    def _sweep(self) -> None:
        """Delete the images of rows that were corrected, unless somebody changed them since."""
        for name, stored in list(self._replaced.items()):
            path = self.out / name
            is_used = any(name == file.file for file in self._files_of_owner(name))
            if not is_used and is_as_saved(path, stored):
                path.unlink()
            del self._replaced[name]

    def _files_of_owner(self, name: str) -> tuple[Stored, ...]:
        done = self.done.get(self._owners.get(name, ""))
        return done.files if done else ()

    def set_aside(self, name: str, size: int, sha256: str) -> str:
        """Rename an image that somebody changed since it was saved; its new name, or "" if none.

        So a row that is done again destroys nobody's work. size, sha256: of what is to be saved in
        its place; a runner that was killed may have saved that already.
        """
        path = self.out / name
        if is_as_saved(path, Stored(name, size, sha256)):
            return ""
        stored = next((file for file in self._files_of_owner(name) if file.file == name), None)
        if stored is None or not path.is_file() or is_as_saved(path, stored):
            return ""
        count = 1
        while (aside := self.out / f"{name}.changed{count}").exists():
            count += 1
        path.rename(aside)
        return aside.name

    def _check_folder(self) -> None:
        """Raise BadInput if the folder holds images, by their names, that are not of this batch."""
        for path in sorted(self.out.iterdir()):
            number = path.name.split("_")[0]
            if not number.isdecimal() or ".changed" in path.suffix:
                continue
            if path.name not in self._owners and int(number) not in self._numbers:
                raise BadInput(
                    f"{self.out} holds images of another batch ({path.name}). Name another folder "
                    "with --out."
                )

    def close(self) -> None:
        """Release the files."""
        self._open.close()


def check_place(path: Path, out: Path, resume: bool) -> None:
    """Raise BadInput if a batch may not begin there, as Manifest does, and write nothing.

    path: of the manifest. out: the folder of the images.
    """
    _check_manifest(path)
    if path.is_file() and path.stat().st_size and not resume:
        raise BadInput(
            f"{path} is the manifest of a batch begun earlier. Add --resume to go on with it, or "
            "name another folder with --out."
        )
    images = out.glob("[0-9]*_*") if out.is_dir() and not path.is_file() else ()
    if image := next((image for image in sorted(images)), None):
        raise BadInput(
            f"{out} holds images of another batch ({image.name}). Name another folder with --out."
        )


@contextlib.contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Turn the system's errors for a full disk into DiskFull. folder: where files are written."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise DiskFull(
            f"The disk of {folder} is full ({error.strerror}). What is done stays done: make room "
            "and run the same command again with --resume."
        ) from None


def is_as_saved(path: Path, stored: Stored) -> bool:
    """Tell if a file is still the one that was saved."""
    if not path.is_file() or path.stat().st_size != stored.bytes:
        return False
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest() == stored.sha256


def _stored(file: dict[str, Any]) -> Stored:
    """Read a file's entry. ValueError if its name leads out of the folder."""
    if re.search(r"[/\\]", file["file"]):
        raise ValueError(file["file"])
    return Stored(file["file"], file["bytes"], file.get("sha256", ""))


def _check_manifest(path: Path) -> None:
    """Raise BadInput, and leave the file as it is, if one is there that is no manifest."""
    if not path.exists():
        return
    line = b"no file"
    if path.is_file():
        with path.open("rb") as file:
            line = file.readline(FIRST_LINE)
        if BEGINNING.startswith(line) or BEGUN.fullmatch(line):  # a killed runner was writing it
            return
    try:
        uuid.UUID(json.loads(line)["batch"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise BadInput(
            f"{path} is there and does not begin as a manifest: it stays as it is. Name another "
            "file with --manifest."
        ) from None


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in FULL:
            raise
        raise BadInput(
            f"The folder {folder} cannot be made: {error.strerror}. Name another with --out."
        ) from None


@contextlib.contextmanager
def _locked(lock_file: Path, place: Path) -> Iterator[None]:
    """Keep a second runner from a folder or a manifest: it would do every row again."""
    lock = filelock.FileLock(str(lock_file), timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise BadInput(
            f"Another vitruvian-batch works on {place}. Wait for it, or name another --out."
        ) from None
    except OSError as error:
        if error.errno in FULL:
            raise
        raise BadInput(f"Nothing can be written to {place}: {error.strerror}.") from None
    try:
        yield
    finally:
        lock.release()
