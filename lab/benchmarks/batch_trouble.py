"""Whether a batch comes out whole when everything around it fails.

Rows on two servers; the runner and the servers are killed at random moments, and the disk is full
once. A supervisor starts again what was killed, as a user or a service would. The images are
compared, byte for byte, with those of a run that nothing disturbed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ...tools.hosts import prepare_base
from ...tools.paths import ROOT
from ...tools.server import Server

SERVERS = 2
SEED = 5  # of the moments
DISK = 1 << 26  # bytes of the disk that is full once
EVENT_SECONDS = 600  # in which the next row must be done


class Troubles(NamedTuple):
    """How many rows, how often the runner is killed, and how often each server."""

    rows: int
    runner_kills: int
    server_kills: int


def run(quick: bool) -> dict[str, float]:
    """Run a batch through its troubles; the numbers of results/batch_trouble.json.

    `rows_equal` are the rows whose image equals that of the undisturbed run, `rows_twice` those
    with two lines or two images; `images_on_servers` shows what was computed again after a kill.
    """
    return measure(Troubles(24, 4, 1) if quick else Troubles(200, 20, 5))


def measure(troubles: Troubles) -> dict[str, float]:
    """Run the batch undisturbed and disturbed, and compare."""
    os.environ["OMP_NUM_THREADS"] = "1"  # inherited by the servers: equal sums, and room for others
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        work = Path(folder)
        servers = [_Supervised(stack, work / f"server-{n}") for n in range(SERVERS)]
        files = _files(work, troubles.rows)
        calm = work / "calm"
        begun = time.perf_counter()
        _Batch(files, calm, servers[:1]).finish(0)
        calm_seconds = time.perf_counter() - begun
        out = work / "disk" / "out"
        stack.enter_context(_small_disk(out.parent))
        before = sum(server.images() for server in servers)
        begun = time.perf_counter()
        row_seconds = calm_seconds / troubles.rows
        counts = _disturbed(_Batch(files, out, servers), servers, troubles, row_seconds)
        seconds = time.perf_counter() - begun
        return {
            **troubles._asdict(),
            "servers": SERVERS,
            **_compare(calm, out, troubles.rows),
            **counts,
            "images_on_servers": sum(server.images() for server in servers) - before,
            "seconds_undisturbed_on_one": calm_seconds,
            "seconds_disturbed": seconds,
        }


class _Supervised:
    """A server that is started again whenever it ends."""

    def __init__(self, stack: contextlib.ExitStack, base: Path) -> None:
        prepare_base(base)
        host = Path(os.environ["COMFYUI_PATH"])
        self.base = base
        self.server = stack.enter_context(Server(Path(sys.executable), host, base, "--cpu"))
        self.kills = 0
        self.start: threading.Thread | None = None

    def kill(self) -> None:
        """Kill the server, and start it again in the background."""
        if self.start:
            self.start.join()
        process = self.server.process
        assert process
        process.kill()  # the kernel ends ComfyUI with its keeper
        process.wait()
        self.kills += 1
        self.start = threading.Thread(target=self.server.start, daemon=True)
        self.start.start()

    def images(self) -> int:
        """Count the images that the server has saved."""
        return len(list((self.base / "output").rglob("*.png")))


def _files(work: Path, rows: int) -> tuple[Path, Path]:
    """Write the workflow, on the mini weights at their smallest, and its table."""
    nodes = json.loads((ROOT / "workflows" / "api" / "text_to_person.json").read_text())
    nodes["4"]["inputs"].update(width=64, height=64)
    nodes["5"]["inputs"].update(steps=2)
    flow, table = work / "person.json", work / "people.csv"
    flow.write_text(json.dumps(nodes))
    lines = ["#2.text,seed", *(f"person number {n},{1000 + n}" for n in range(1, rows + 1))]
    table.write_text("\n".join(lines) + "\n")
    return flow, table


class _Batch:
    """The command, started again after every end, as often as it needs."""

    def __init__(self, files: tuple[Path, Path], out: Path, servers: list[_Supervised]) -> None:
        flow, table = files
        hosts = [part for server in servers for part in ("--host", server.server.url)]
        self.command = [sys.executable, "-m", "vitruvian_batch", str(flow), "--table", str(table)]
        self.command += ["--out", str(out), *hosts, "--resume"]
        self.out, self.starts = out, 0
        self.start()

    def start(self, most_bytes: int = 0) -> None:
        """Start the runner. most_bytes: of the largest file that it can write, 0: no limit."""
        self.starts += 1
        self.runner = subprocess.Popen(
            self.command,
            env={**os.environ, "PYTHONPATH": str(ROOT / "batch")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=(lambda: _limit_files(most_bytes)) if most_bytes else None,
        )

    def kill(self) -> None:
        """Kill the runner."""
        self.runner.send_signal(signal.SIGKILL)
        self.runner.wait()

    def finish(self, code: int) -> str:
        """Wait for the runner's end with this exit status; what it printed."""
        while True:
            output = self.runner.communicate(timeout=EVENT_SECONDS)[0]
            if self.runner.returncode == code and "Traceback" not in output:
                return output
            self._start_without_servers(output)

    def until(self, rows: int) -> None:
        """Wait until so many rows are done."""
        deadline = time.monotonic() + EVENT_SECONDS
        while len(_lines(self.out, "done")) < rows:
            if self.runner.poll() is not None:
                self._start_without_servers(self.runner.communicate()[0])
            if time.monotonic() > deadline:
                raise RuntimeError("The batch does not go on.")
            time.sleep(0.05)

    def _start_without_servers(self, output: str) -> None:
        """Start again a runner that found both servers killed; RuntimeError if it is not that."""
        if self.runner.returncode != 2 or "does not answer" not in output:
            raise RuntimeError(f"The runner ended with {self.runner.returncode}:\n{output}")
        time.sleep(1)
        self.start()


def _limit_files(most_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))


def _disturbed(
    batch: _Batch, servers: list[_Supervised], troubles: Troubles, row_seconds: float
) -> dict[str, float]:
    """Let every trouble happen after some random row, and the batch come to its end.

    row_seconds: what a row takes; the longest delay from a row's end to its trouble. The disk is
    full first: later, while a server starts again, the other may have done all rows.
    """
    chance = random.Random(SEED)
    kinds = ["runner"] * troubles.runner_kills
    kinds += [f"server {n}" for n in range(SERVERS)] * troubles.server_kills
    chance.shuffle(kinds)
    kinds.insert(0, "disk")
    moments = sorted(chance.choices(range(troubles.rows - 5), k=len(kinds)))
    full_disks = runner_kills = 0
    for kind, rows in zip(kinds, moments, strict=True):
        batch.until(rows)
        time.sleep(chance.uniform(0, row_seconds))
        if kind.startswith("server"):
            servers[int(kind.split()[1])].kill()
        elif kind == "runner":
            batch.kill()
            runner_kills += 1
            batch.start()
        else:
            full_disks += _fill_disk(batch)
            batch.start()
    output = batch.finish(0)
    if f"{troubles.rows} done, 0 failed" not in output:
        raise RuntimeError(output)
    return {
        "runner_kills_done": runner_kills,
        "runner_starts": batch.starts,
        "server_kills_done": sum(server.kills for server in servers),
        "full_disks": full_disks,
    }


def _fill_disk(batch: _Batch) -> int:
    """Fill the disk until the runner gives up, then make room. 1 if it was a disk, 0 if a limit."""
    is_disk = os.path.ismount(batch.out.parent)
    if is_disk:
        filler = batch.out.parent / "filler"
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()
        batch.finish(1)
        filler.unlink()
    else:  # nobody may mount here: instead no file may grow
        batch.kill()
        batch.start((batch.out / "manifest.jsonl").stat().st_size + 100)
        batch.finish(1)
    return int(is_disk)


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    """Mount a small disk at `folder`, where this is allowed."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    is_mounted = not subprocess.run(mount, capture_output=True).returncode
    try:
        yield
    finally:
        if is_mounted:
            subprocess.run(["umount", str(folder)], check=True)


def _lines(out: Path, event: str) -> list[dict[str, object]]:
    """Read the complete lines of the manifest with this event."""
    path = out / "manifest.jsonl"
    text = path.read_text() if path.exists() else ""
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in lines if line.get("event") == event]


def _compare(calm: Path, out: Path, rows: int) -> dict[str, float]:
    """Count the rows that are there, equal, and there twice."""
    names = sorted(path.name for path in calm.glob("*.png"))
    images = [path.name for path in out.glob("*.png")]
    numbers = [line["number"] for line in _lines(out, "done")]
    image_numbers = [name.split("_")[0] for name in images]
    return {
        "rows_done": len(set(numbers)),
        "rows_twice": len(numbers) - len(set(numbers)) + len(images) - len(set(image_numbers)),
        "rows_equal": sum(
            (out / name).is_file() and _hash(out / name) == _hash(calm / name) for name in names
        ),
        "rows_missing": rows - len(names) + len(set(names) - set(images)),
        "rows_failed_once": len(_lines(out, "failed")),
        "parts_left": len(list(out.glob("*.part")) + list(out.glob(".*.part"))),
    }


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
