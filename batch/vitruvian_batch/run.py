"""A queue of jobs, and one thread for every host that takes from it.

A row belongs to one host at a time. A host that goes away gives its row back for the others; a row
that fails is written down and the rest goes on.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol

from .collect import collect
from .host import Saved
from .jobs import Job, Plan
from .manifest import Manifest
from .trouble import BadInput, DiskFull, HostGone, RowFailed, TryAgain


class Worker(Protocol):
    """A host, here or on Ray."""

    name: str

    def perform(self, job: Job, prompt: str) -> list[Saved]:
        """Run a job, or take over the run of this id; return what it saved."""

    def has(self, prompt: str) -> bool:
        """Tell if the host runs this id, will run it, or has done it."""

    def forget(self, prompt: str) -> None:
        """Cancel a run."""

    def empty(self) -> None:
        """Empty the host's memory."""

    def wait_back(self, seconds: float, stopped: Callable[[], bool]) -> bool:
        """Wait for a host that went away; tell if it is back."""


@dataclass(frozen=True)
class Patience:
    """How often a row is tried again whose host went away, and the seconds to wait for a host."""

    retries: int
    timeout: float


class Run:
    """Do the jobs of a batch on its workers. The counts may be read while it runs.

    plan: all jobs. numbers: those to be done. report: gets every finished job's line of the
    manifest, or a text for the reader. absent: names of workers that do not answer yet.
    """

    def __init__(
        self,
        plan: Plan,
        numbers: list[int],
        workers: list[Worker],
        manifest: Manifest,
        patience: Patience,
        report: Callable[[dict[str, Any] | str], None],
        absent: Collection[str] = (),
    ) -> None:
        self.plan, self.workers, self.manifest = plan, workers, manifest
        self.digits = max(3, len(str(len(plan))))  # of the numbers in the images' names
        self.patience, self.report, self.absent = patience, report, absent
        self.waiting = deque(numbers)
        self.running: dict[str, int] = {}  # worker's name -> its row's number
        self.departures: dict[str, int] = {}  # key -> how often its host went away
        self.disk_full: DiskFull | None = None
        self.fault: BaseException | None = None
        self.failures = 0
        self._stopping = False
        self._changed = threading.Condition()
        self._prefer = self._hosts_of(numbers)

    def _hosts_of(self, numbers: list[int]) -> dict[int, str]:
        """Number -> the host on which an earlier start ran the row, if it still has it."""
        prefer = {}
        workers = {worker.name: worker for worker in self.workers}
        for number in numbers:
            key = self.plan.keys[number - 1]
            worker = workers.get(self.manifest.hosts.get(key, ""))
            if worker and worker.name not in self.absent:
                with contextlib.suppress(HostGone, RowFailed):
                    if worker.has(self.manifest.prompt_id(key)):
                        prefer[number] = worker.name
        return prefer

    def start(self) -> list[threading.Thread]:
        """Start a thread for every worker; they end when nothing is left, or after `stop`."""
        threads = [
            threading.Thread(target=self._work, args=(worker,), daemon=True)
            for worker in self.workers
        ]
        for thread in threads:
            thread.start()
        return threads

    def stop(self) -> None:
        """Let the rows that run finish, and start no other."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def stopped(self) -> bool:
        """Tell if `stop` was called."""
        return self._stopping

    def _over(self) -> bool:
        """Tell if no host will get another row."""
        return self._stopping or not (self.waiting or self.running)

    # One worker's thread

    def _work(self, worker: Worker) -> None:
        try:
            if worker.name in self.absent and not self._is_back(worker):
                return
            while (job := self._take(worker)) and self._do(worker, job):
                pass
        except DiskFull as error:
            self.disk_full = error
            self.stop()
        except (
            BaseException
        ) as error:  # an error in this program must not look like a finished batch
            self.fault = error
            self.stop()
        finally:
            with self._changed:
                self.running.pop(worker.name, None)
                self._changed.notify_all()

    def _take(self, worker: Worker) -> Job | None:
        """The next row. While others run, one may come back: so an idle host waits for that."""
        with self._changed:
            while not self._stopping:
                number = self._next(worker)
                if number:
                    self.running[worker.name] = number
                    return self.plan.job(number)
                if self._over():
                    break
                self._changed.wait(1)
        return None

    def _next(self, worker: Worker) -> int | None:
        """Take the number of a row that this host has already, else of one that none has."""
        mine = [number for number, name in self._prefer.items() if name == worker.name]
        number = next((number for number in mine if number in self.waiting), None)
        number = number or next((n for n in self.waiting if n not in self._prefer), None)
        if number:
            self.waiting.remove(number)
            self._prefer.pop(number, None)
        return number

    def _do(self, worker: Worker, job: Job, may_repeat: bool = True) -> bool:
        """Run one row to its line in the manifest; False if the host is lost for good."""
        start, prompt = time.time(), self.manifest.prompt_id(job.key)
        about = _about(job, worker, prompt, start)
        self.manifest.write({"event": "queued", **about})
        try:
            saved = worker.perform(job, prompt)
            files, notes = collect(saved, job, self.manifest, self.digits)
        except HostGone as error:
            return self._host_gone(worker, job, about, str(error))
        except RowFailed as failure:
            if not (may_repeat and isinstance(failure, TryAgain)):
                self._finish("failed", job, about, error=str(failure))
                return True
            self._finish("again", job, about, error=str(failure))
            with contextlib.suppress(HostGone, RowFailed):  # the next try says what is wrong
                worker.empty()
            return self._do(worker, job, may_repeat=False)
        if not files:
            notes.append("its host reported no file that it saved.")
        self._finish("done", job, about, files=files)
        for note in notes:
            self.report(f"{job.where}: {note}")
        return True

    def _finish(self, event: str, job: Job, about: dict[str, Any], **result: Any) -> None:
        seconds, tries = time.time() - about["start"], self.departures.get(job.key, 0) + 1
        line = {"event": event, **about, "cells": job.cells, "seeds": job.seeds()}
        line |= {"seconds": round(seconds, 3), "tries": tries, **result}
        replaced = self.manifest.replaced_by(job) if event == "done" else []
        self.manifest.finish(line, replaced)
        with self._changed:
            if event != "again":
                self.running.pop(about["host"], None)
                self.failures += event == "failed"
            self._changed.notify_all()
        self.report(line)
        if replaced:
            names = ", ".join(file.file for file in replaced)
            self.report(f"{job.where}: its images replace those of its earlier values: {names}")

    def _host_gone(self, worker: Worker, job: Job, about: dict[str, Any], reason: str) -> bool:
        """Give the row back for the others, and wait for the host."""
        self.departures[job.key] = tries = self.departures.get(job.key, 0) + 1
        if tries > self.patience.retries:
            error = f"{reason} It went away {tries} times while this row ran"
            self._finish("failed", job, about, error=error)
        with self._changed:
            self._prefer = {n: name for n, name in self._prefer.items() if name != worker.name}
            self.running.pop(worker.name, None)
            if tries <= self.patience.retries:
                self.waiting.appendleft(job.number)
            self._changed.notify_all()
        self.report(f"{reason} Waiting for it, up to {self.patience.timeout:g} seconds.")
        try:
            is_back = self._is_back(worker)
            if is_back and job.number not in self.waiting:  # another host has it now, or it failed
                worker.forget(about["prompt_id"])
            return is_back
        except (HostGone, RowFailed, BadInput) as error:
            self.report(f"{worker.name} gets no more rows: {error}")
        return False

    def _is_back(self, worker: Worker) -> bool:
        """Wait for a host, and say so if it stays away."""
        is_back = worker.wait_back(self.patience.timeout, self._over)
        if not is_back and not self._over():
            self.report(f"{worker.name} did not come back; it gets no more rows.")
        return is_back


def _about(job: Job, worker: Worker, prompt: str, start: float) -> dict[str, Any]:
    """Begin every line of the manifest on a job."""
    return {
        "number": job.number,
        "row": job.where,
        "workflow": job.flow.name,
        "key": job.key,
        "host": worker.name,
        "prompt_id": prompt,
        "start": round(start, 3),
    }
