"""A ComfyUI that this command starts, and starts again when it dies."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from .host import Host
from .trouble import HostGone, Wrong

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


def find_python(folder: Path) -> Path:
    """The interpreter that came with a ComfyUI folder, else this one."""
    found = (folder / python for python in PYTHONS)
    return next((python for python in found if python.is_file()), Path(sys.executable))


class Started(Host):
    """A headless ComfyUI of its own on a free port. It ends with this process.

    options: more of ComfyUI's command line. work: a folder for its log. seconds: how long it may
    take to come up. number, of: which of several hosts of one folder this is; they share all but
    the folder for previews, which every host empties when it starts.
    """

    def __init__(
        self,
        folder: Path,
        python: Path | None,
        options: list[str],
        work: Path,
        seconds: float,
        number: int = 1,
        of: int = 1,
    ) -> None:
        if not (folder / "main.py").is_file():
            raise Wrong(f"There is no main.py in {folder}. Give --comfyui the folder of ComfyUI.")
        self.port = _free_port()
        super().__init__(f"http://127.0.0.1:{self.port}")
        self.seconds, self.log = seconds, work / f"host-{number}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.command = [
            sys.executable,
            str(KEEPER),
            str(python or find_python(folder)),
            str((folder / "main.py").resolve()),
            "--port",
            str(self.port),
            "--disable-auto-launch",
            "--database-url",
            "sqlite:///:memory:",
            *options,
        ]
        if of > 1:
            self.command += ["--temp-directory", str((work / f"host-{number}").resolve())]

    def start(self) -> None:
        """Wrong, with the host's last words, if it does not come up."""
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
        words = self.log.read_text(errors="replace").splitlines()[-10:]
        raise Wrong("\n".join([f"ComfyUI did not start. From {self.log}:", *words]))

    def wait_back(self, seconds: float, stopped: Callable[[], bool]) -> bool:
        """True when the host answers again; one that has ended is started again."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not stopped():
            if self.process is None or self.process.poll() is not None:
                self.start()
            if super().wait_back(1, stopped):  # it may be about to end: its keeper is a bit slower
                return True
        return False

    def close(self) -> None:
        """Stop the host."""
        super().close()
        if self.process and self.process.poll() is None:
            assert self.process.stdin
            self.process.stdin.close()
            self.process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
