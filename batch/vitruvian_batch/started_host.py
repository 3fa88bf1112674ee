"""A ComfyUI that this process starts, and starts again when it dies."""

import math
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .host import Host
from .trouble import BadInput, HostGone

KEEPER = Path(__file__).with_name("keeper.py")
PYTHONS = (
    ".venv/bin/python",
    "venv/bin/python",
    ".venv/Scripts/python.exe",
    "venv/Scripts/python.exe",
    "../python_embeded/python.exe",
    "../.venv/bin/python",
    "../venv/bin/python",
)


@dataclass(frozen=True)
class Installation:
    """A folder of ComfyUI, its interpreter (None: the one beside it), more of its command line."""

    folder: Path
    python: Path | None = None
    options: tuple[str, ...] = ()

    def command(self, port: int) -> list[str]:
        """Return the command line that starts it without a browser."""
        line = [str(self.python or find_python(self.folder))]
        line += [str((self.folder / "main.py").resolve()), "--port", str(port)]
        line += ["--disable-auto-launch", "--database-url", "sqlite:///:memory:"]
        return [*line, *self.options]


def find_python(folder: Path) -> Path:
    """Find the interpreter that came with a ComfyUI folder, else this one."""
    candidates = (folder / python for python in PYTHONS)
    return next((python for python in candidates if python.is_file()), Path(sys.executable))


class StartedHost(Host):
    """A headless ComfyUI that ends with this process.

    log: a file for what it prints. seconds: how long it may take to come up. port: a free one if 0.
    """

    def __init__(
        self,
        installation: Installation,
        log: Path,
        seconds: float,
        port: int = 0,
        row_limit: float = math.inf,
    ) -> None:
        folder = installation.folder
        if not (folder / "main.py").is_file():
            raise BadInput(
                f"There is no main.py in {folder}. Give --comfyui the folder of ComfyUI."
            )
        port = port or _free_port()
        super().__init__(f"http://127.0.0.1:{port}", row_limit=row_limit)
        self.seconds, self.log = seconds, log
        self.process: subprocess.Popen[bytes] | None = None
        self.command = [sys.executable, str(KEEPER), *installation.command(port)]

    def start(self) -> None:
        """Start ComfyUI. BadInput, with the last lines of its log, if it does not come up."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # or Ctrl-C would end it before its row
            )
        deadline = time.monotonic() + self.seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                return self.check()
            except HostGone:
                time.sleep(0.2)
        self.close()
        lines = self.log.read_text(errors="replace").splitlines()[-15:]
        raise BadInput("\n".join([f"ComfyUI did not start. From {self.log}:", *lines]))

    def _ended(self, prompt: str, seconds: float) -> dict[str, Any]:
        """Wait as for any host, and name the log if it goes away."""
        try:
            return super()._ended(prompt, seconds)
        except HostGone as error:
            raise HostGone(f"{error} Its log is {self.log}.") from None

    def wait_back(self, seconds: float, stopped: Callable[[], bool]) -> bool:
        """Wait for a host that went away; one that has ended is started again."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not stopped():
            if self.process is None or self.process.poll() is not None:
                self.start()
            if super().wait_back(1, stopped):  # it may be about to end: its keeper is a bit slower
                return True
        return False

    def stuck(self) -> None:
        """Stop a ComfyUI that does not obey; `wait_back` starts it again."""
        self.close()

    def close(self) -> None:
        """Stop ComfyUI."""
        super().close()
        if self.process and self.process.poll() is None:
            assert self.process.stdin
            self.process.stdin.close()
            self.process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
