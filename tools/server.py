"""A running ComfyUI with the pack in it, for commands, tests and benchmarks."""

from pathlib import Path
from typing import Any

from ..batch.vitruvian_batch.started_host import Installation, StartedHost

START_SECONDS, RUN_SECONDS = 240, 3600


class Server(StartedHost):
    """A headless ComfyUI with the pack in it, for the length of a `with` block.

    python: the interpreter of ComfyUI's environment. host: ComfyUI's folder. base: the folders it
    works in (`hosts.prepare_base`). options: more of its command line. port: a free one if 0.
    """

    def __init__(self, python: Path, host: Path, base: Path, *options: str, port: int = 0) -> None:
        self.base = base
        line = ("--base-directory", str(base), "--disable-api-nodes", *options)
        log = base / "server.log"
        super().__init__(Installation(host, Path(python), line), log, START_SECONDS, port)

    def __enter__(self) -> "Server":
        self.log.unlink(missing_ok=True)
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait(self, prompt: str, seconds: float = RUN_SECONDS) -> dict[str, Any]:
        """Wait until a run has ended; its outputs by node id."""
        return super().wait(prompt, seconds)
