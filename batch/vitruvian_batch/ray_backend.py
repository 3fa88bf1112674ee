"""Hosts on a Ray cluster: every actor has one ComfyUI, and one graphics card where there are any.

Ray places the actors, starts a dead one again where there is room, and repeats its task there. The
queue, the manifest and the images' folder stay with the command that was started.
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from .host import Host, Saved, read_file
from .jobs import Job
from .trouble import BadInput, HostGone

Make = Callable[[], Host]


class OnRay:
    """The actor's side: a host whose answers travel whole."""

    def __init__(self, make: Make) -> None:
        self.host = make()
        self.host.start()

    def perform(self, job: Job, prompt: str, files: dict[Path, bytes]) -> list[tuple[str, bytes]]:
        """Do as Host.perform, with the row's files from the other machine and the images to it."""
        self.host.contents = files
        return [(file.name, b"".join(file.read())) for file in self.host.perform(job, prompt)]

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call any other method of the host."""
        return getattr(self.host, method)(*arguments)

    def wait_back(self, seconds: float) -> bool:
        """Do as Host.wait_back; nobody can stop it from outside."""
        return self.host.wait_back(seconds, lambda: False)


class RayWorker:
    """The runner's side of an actor, with the methods of a Host."""

    def __init__(self, name: str, make: Make, graphics_cards: int, retries: int) -> None:
        self.name, self.make = name, make
        options = {"num_cpus": 1, "num_gpus": graphics_cards, "max_restarts": -1}
        kind = _ray().remote(**options, max_task_retries=retries)(OnRay)
        self.actor = kind.remote(make)

    def start(self) -> None:
        """Wait for the actor's host. BadInput if it does not come up."""
        self._get(self.actor.ask.remote("check"), BadInput)

    def info(self) -> dict[str, Any]:
        """Ask for the nodes that the host knows."""
        return self._get(self.actor.ask.remote("info"))

    def has_input(self, name: str) -> bool:
        """Ask whether a file lies in the host's folders."""
        return self._get(self.actor.ask.remote("has_input", name))

    def perform(self, job: Job, prompt: str) -> list[Saved]:
        files = {path: read_file(path) for path in job.files.values()}
        saved = self._get(self.actor.perform.remote(job, prompt, files))
        return [Saved(name, partial(list, [content])) for name, content in saved]

    def has(self, prompt: str) -> bool:
        return self._get(self.actor.ask.remote("has", prompt))

    def forget(self, prompt: str) -> None:
        self._get(self.actor.ask.remote("forget", prompt))

    def empty(self) -> None:
        self._get(self.actor.ask.remote("empty"))

    def wait_back(self, seconds: float, stopped: Callable[[], bool]) -> bool:
        return not stopped() and self._get(self.actor.wait_back.remote(seconds))

    def close(self) -> None:
        """End the actor; the host that it started ends with it."""
        _ray().kill(self.actor)

    def _get(self, answer: Any, dead_error: type[Exception] = HostGone) -> Any:
        """The answer; errors of the host come as they are, a dead actor as `dead_error`."""
        ray = _ray()
        try:
            return ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise dead_error(
                f"{self.name} is gone from the Ray cluster: {_last_line(error)}"
            ) from None


def connect(address: str) -> None:
    """Join the cluster, or start one on this machine ("local"). BadInput if there is none."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is reported to anyone
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray = _ray()
    options = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise BadInput(f"There is no Ray cluster at '{address}': {_last_line(error)}") from None
    # this package need not be installed on the other machines
    ray.cloudpickle.register_pickle_by_value(sys.modules[__package__])


def graphics_cards() -> int:
    """Count the graphics cards of the cluster."""
    return int(_ray().cluster_resources().get("GPU", 0))


def check_room(hosts: int, cards: int) -> None:
    """Raise BadInput if the cluster can never place so many hosts: Ray would wait forever."""
    processors = int(_ray().cluster_resources().get("CPU", 0))
    if hosts > processors or hosts * cards > graphics_cards():
        raise BadInput(
            f"{hosts} hosts do not fit on this Ray cluster: it has {processors} processors and "
            f"{graphics_cards()} graphics cards. Ask for fewer with --hosts."
        )


def disconnect() -> None:
    """Leave the cluster."""
    _ray().shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise BadInput("--ray needs Ray: pip install 'vitruvian-batch[ray]'.") from None
    return ray


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
