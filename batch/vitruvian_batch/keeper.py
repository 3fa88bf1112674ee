"""Run a command for as long as its parent lives: `python keeper.py COMMAND ...`.

A runner that is killed cannot stop the host it started. The pipe on this process's standard input
ends with the runner, however that ended, and then the host is stopped here. On Linux the kernel
stops the host if this process is killed too, as Ray does with the children of a dead worker.
It imports no other module of the package.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from types import FrameType

DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def main() -> int:
    """Run the command of the command line; its exit status."""
    child = subprocess.Popen(
        sys.argv[1:], stdin=subprocess.DEVNULL, preexec_fn=_bind if _on_linux() else None
    )

    def stop(*_: int | FrameType | None) -> None:
        child.kill()

    def follow() -> None:
        os.read(0, 1)  # not sys.stdin, whose lock would be held when this process ends
        stop()

    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=follow, daemon=True).start()
    return child.wait()


def _on_linux() -> bool:
    return sys.platform == "linux"


def _bind() -> None:
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
