"""One running ComfyUI, through its web interface."""

import math
import re
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .connection import Access, Connection, refusal
from .jobs import Job
from .needs import output_nodes, reports_files
from .trouble import (
    BadInput,
    DiskFull,
    HostAway,
    HostGone,
    NotLetIn,
    RowFailed,
    Trouble,
    TryAgain,
)
from .values import shorten

QUEUE_EVERY = 2.0  # seconds between looks at the queue, which may be long
STOPPED_WITHIN = 20.0  # seconds in which a host obeys an interrupt
CHUNK = 1 << 20
MESSAGE = 2000  # characters of a node's message; some carry a tensor
Chunks = Iterator[bytes] | list[bytes]


@dataclass(frozen=True)
class Saved:
    """A file that a run saved: its name, and a way to its bytes."""

    name: str
    read: Callable[[], Chunks]


class Host:
    """A ComfyUI at a URL. row_limit: seconds that a row may run."""

    def __init__(
        self,
        url: str,
        access: Access = Access(),  # noqa: B008 (frozen)
        row_limit: float = math.inf,
    ) -> None:
        self.connection = Connection(url, access)
        self.url = self.name = self.connection.url
        self.row_limit = row_limit
        self.sent: dict[Path, str] = {}  # what the host calls the files that were sent to it
        self.contents: dict[Path, bytes] = {}  # files that do not lie on this machine
        self.cancelled: set[str] = set()  # runs that may still hold up the host

    # The worker's side: what run.py asks of a host, be it here or on Ray

    def start(self) -> None:
        """Greet the host. HostAway if it does not answer, BadInput if it is no ComfyUI."""
        try:
            self.check()
        except NotLetIn as error:
            raise BadInput(str(error)) from None
        except HostGone as error:
            raise HostAway(
                f"{error} Start ComfyUI there, or name another with --host, or let "
                "this command start one with --comfyui FOLDER."
            ) from None

    def check(self) -> None:
        """Raise HostGone if the host does not answer, BadInput if another server does."""
        stats = self.connection.get_once("/system_stats")
        if not isinstance(stats, dict) or not stats.get("system"):
            raise BadInput(
                f"{self.url} answers, but it is no ComfyUI. Correct the address in --host."
            )

    def perform(self, job: Job, prompt: str) -> list[Saved]:
        """Run a job, or take over the run of this id that the host has already; what it saved."""
        if not self.has(prompt):
            self._hand_in(job, prompt)
        past = self._ended(prompt, self.row_limit)
        left_out = sorted(output_nodes(job.flow) - _accepted(past, output_nodes(job.flow)))
        if left_out:  # by a runner that was killed before it could say so
            raise RowFailed(f"the host refused a part of the workflow: node {', '.join(left_out)}")
        places = output_files(past.get("outputs") or {})
        if not places and reports_files(job.flow):
            raise TryAgain("the run saved no file: it has previews only, or all of it was cached")
        return [Saved(name, partial(self._view, name, subfolder)) for name, subfolder in places]

    def has(self, prompt: str) -> bool:
        """Tell if the host runs this id, will run it, or has done it.

        The queue is asked first: a run that ends in between is then in the history.
        """
        return bool(self._place(prompt)) or self.past(prompt) is not None

    def forget(self, prompt: str) -> None:
        """Cancel a run."""
        self.connection.post("/queue", {"delete": [prompt]})
        if self._place(prompt):
            self.connection.post("/interrupt", {"prompt_id": prompt})
            self.cancelled.add(prompt)

    def empty(self) -> None:
        """Let the host put its models and its cache out of memory."""
        self.connection.post("/free", {"unload_models": True, "free_memory": True})

    def wait_back(self, seconds: float, stopped: Callable[[], bool]) -> bool:
        """Wait for a host that went away; False after so many seconds or if all is stopped."""
        deadline = time.monotonic() + seconds
        self.sent.clear()
        while time.monotonic() < deadline and not stopped():
            try:
                self.check()
                return True
            except (HostGone, BadInput):  # a proxy may answer in its place for a while
                time.sleep(0.5)
        return False

    def close(self) -> None:
        """Let go of the connection."""
        self.connection.close()

    def info(self) -> dict[str, Any]:
        """Ask for /object_info: every node of the host with its inputs."""
        return self.connection.get_object("/object_info")

    def has_input(self, name: str) -> bool:
        """Tell if a file lies in the host's folders, as "name.png", "sub/name.png [output]"."""
        path, _, folder = name.partition(" [")
        subfolder, _, filename = path.replace("\\", "/").rpartition("/")
        where = {"filename": filename, "subfolder": subfolder, "type": folder[:-1] or "input"}
        try:
            self.connection.ask("GET", "/view", params=where, stream=True).close()
        except RowFailed:
            return False
        return True

    # One run

    def queue(
        self,
        nodes: dict[str, Any],
        prompt: str = "",
        ui: dict[str, Any] | None = None,
        client: str = "vitruvian-batch",
    ) -> str:
        """Hand in a workflow in the API format; its id. RowFailed with the host's messages.

        prompt: the id of the run, or a new one. ui: the workflow as the front end opens it, to be
        saved in the images. client: who gets the messages of its progress. A workflow of which the
        host would run a part only is taken back.
        """
        prompt = prompt or str(uuid.uuid4())
        extra = {"extra_pnginfo": {"workflow": ui}} if ui else {}
        content = {"prompt": nodes, "prompt_id": prompt, "client_id": client, "extra_data": extra}
        reply = self.connection.post("/prompt", content, lambda: self.has(prompt))
        reply = reply if isinstance(reply, dict) else {}
        if (other := reply.get("prompt_id", prompt)) != prompt:
            self.forget(str(other))
            raise RowFailed(
                "the host gives runs ids of its own, so that none can be taken over: it is older "
                "than ComfyUI 0.3.64"
            )
        if reply.get("node_errors"):
            self.forget(prompt)
            raise RowFailed(f"the host refused a part of the workflow: {refusal(reply)}")
        return prompt

    def wait(self, prompt: str, seconds: float = math.inf) -> dict[str, Any]:
        """Wait until a run has ended; its outputs by node id. RowFailed with the node's message."""
        return self._ended(prompt, seconds).get("outputs") or {}

    def _ended(self, prompt: str, seconds: float) -> dict[str, Any]:
        """Wait for the host's record of a run that has ended well.

        Only seconds in which the host is busy with it count, or with a run that was cancelled.
        """
        start = queue_checked = time.monotonic()
        foreign_seconds = 0.0
        while time.monotonic() - start - foreign_seconds < seconds:
            past = self.past(prompt)
            now = time.monotonic()
            if past is not None:
                status = past.get("status") or {}
                if status.get("status_str", "success") == "success":
                    return past
                raise failure(status.get("messages") or [])
            if now - queue_checked > min(QUEUE_EVERY, seconds / 4):
                place = self._place(prompt)
                if not place and self.past(prompt) is None:
                    raise HostGone(f"{self.url} was started anew and has forgotten the row.")
                foreign_seconds += now - queue_checked if place == "behind others" else 0.0
                queue_checked = now
            time.sleep(min(0.5, max(0.05, (now - start) / 40)))
        self._stop(prompt)
        raise RowFailed(f"it was not done after {seconds:g} seconds (--row-timeout) and is stopped")

    def _stop(self, prompt: str) -> None:
        """Cancel a run that takes too long, and see that it ends."""
        self.forget(prompt)
        deadline = time.monotonic() + STOPPED_WITHIN
        while self._place(prompt):
            if time.monotonic() > deadline:
                return self.stuck()
            time.sleep(0.2)

    def stuck(self) -> None:
        """Do what can be done for a host that does not obey: here nothing."""

    def past(self, prompt: str) -> dict[str, Any] | None:
        """Ask the host's history for a run; None if it has not ended."""
        return self.connection.get_object(f"/history/{prompt}").get(prompt)

    def _hand_in(self, job: Job, prompt: str) -> None:
        """Send the files of a job, then the job. A file that the host lost is sent once more."""
        try:
            self.queue(self._filled(job), prompt, job.ui())
        except RowFailed:
            names = [self.sent[path] for path in job.files.values()]
            if all(self.has_input(name) for name in names):
                raise
            self.sent.clear()
            self.queue(self._filled(job), prompt, job.ui())

    def _filled(self, job: Job) -> dict[str, Any]:
        return job.nodes({target: self._send(path) for target, path in job.files.items()})

    def _send(self, path: Path) -> str:
        """Put a file into the host's input folder; what the host calls it."""
        if path not in self.sent:
            content = self.contents[path] if path in self.contents else read_file(path)
            reply = self.connection.ask(
                "POST", "/upload/image", files={"image": (path.name, content)}
            )
            answer = reply.json()
            subfolder = answer.get("subfolder") or ""
            self.sent[path] = f"{subfolder}/{answer['name']}".lstrip("/")
        return self.sent[path]

    def _place(self, prompt: str) -> str:
        """Tell where a run is: "running", "behind others", "next", or "" if not in the queue."""
        queue = self.connection.get_object("/queue")
        running = [item[1] for item in queue.get("queue_running") or ()]
        if prompt in running:
            return "running"
        if prompt not in [item[1] for item in queue.get("queue_pending") or ()]:
            return ""
        return "next" if self.cancelled.intersection(running) or not running else "behind others"

    def _view(self, name: str, subfolder: str) -> Iterator[bytes]:
        """The bytes of a saved file as they are."""
        where = {"filename": name, "subfolder": subfolder, "type": "output"}
        reply = self.connection.ask("GET", "/view", params=where, stream=True)
        yield from self.connection.read(reply, name, CHUNK)

    # For tools

    def get(self, path: str) -> Any:
        """Return the JSON that the host answers to GET `path`."""
        return self.connection.get(path)

    def post(self, path: str, content: dict[str, Any]) -> Any:
        """POST JSON to `path`. RowFailed with the host's message if it refuses."""
        return self.connection.post(path, content)


def read_file(path: Path) -> bytes:
    """Read a file to send. RowFailed if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise RowFailed(f"{path} cannot be read: {error.strerror}") from None


def output_files(outputs: dict[str, Any]) -> list[tuple[str, str]]:
    """List the files in the host's output folder, without previews: (name, subfolder).

    outputs: what `Host.wait` returns. The files come in the order of their nodes.
    """
    places = {
        (file["filename"], file.get("subfolder") or ""): None
        for _, output in sorted(outputs.items(), key=lambda item: _order(item[0]))
        if isinstance(output, dict)
        for files in output.values()
        if isinstance(files, list)
        for file in files
        if isinstance(file, dict) and file.get("type") == "output" and file.get("filename")
    }
    return list(places)


def _accepted(past: dict[str, Any], all_outputs: set[str]) -> set[str]:
    """Return the output nodes that a run was accepted with; all if the record does not tell."""
    item = past.get("prompt")
    if not isinstance(item, list) or len(item) < 5 or not isinstance(item[4], list):
        return all_outputs
    return set(map(str, item[4]))


def _order(node: str) -> tuple[int, str]:
    """Node ids by number; those in subgraphs are 12:5."""
    number = node.split(":")[0]
    return (int(number) if number.isdecimal() else 0, node)


def failure(messages: list[Any]) -> Trouble:
    """Make the exception for a failed run. messages: those of its status in the history."""
    for event, data in messages:
        if event != "execution_error":
            continue
        message = shorten(data["exception_message"], MESSAGE)
        text = f"{data['node_type']} (node {data['node_id']}): {message}"
        kind = str(data.get("exception_type"))
        if "No space left on device" in message:
            return DiskFull(f"The host's disk is full: {text}. Make room, then use --resume.")
        if "OutOfMemory" in kind or re.search("out of memory|Allocation on device", message):
            return TryAgain(f"{text} (also with emptied memory)")
        return RowFailed(text)
    return RowFailed("the run was interrupted at the host")
