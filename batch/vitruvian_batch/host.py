"""One running ComfyUI, through its web interface."""

import contextlib
import math
import re
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import requests

from .jobs import Job
from .trouble import BadInput, DiskFull, HostGone, RowFailed, Trouble, TryAgain

CONNECT, ANSWER = 5, 120  # seconds; ComfyUI answers late while it loads a model
QUEUE_EVERY = 2.0  # seconds between looks at the queue, which may be long
CHUNK = 1 << 20
OVERLOADED = (502, 503, 504)  # what a proxy answers for a host that is gone
Chunks = Iterator[bytes] | list[bytes]


@dataclass(frozen=True)
class Saved:
    """A file that a run saved: its name, and a way to its bytes."""

    name: str
    read: Callable[[], Chunks]


class Host:
    """A ComfyUI at a URL."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/") if "://" in url else f"http://{url.rstrip('/')}"
        self.name = self.url
        self.session = requests.Session()
        self.session.trust_env = False  # a proxy for the internet knows no ComfyUI
        self.sent: dict[Path, str] = {}  # what the host calls the files that were sent to it
        self.contents: dict[Path, bytes] = {}  # files that do not lie on this machine

    # The worker's side: what run.py asks of a host, be it here or on Ray

    def start(self) -> None:
        """Greet the host. BadInput if there is no ComfyUI."""
        try:
            self.check()
        except HostGone as error:
            raise BadInput(
                f"{error} Start ComfyUI there, or name another with --host, or let "
                "this command start one with --comfyui FOLDER."
            ) from None

    def check(self) -> None:
        """Raise HostGone if the host does not answer, BadInput if another server does."""
        try:
            system = self.get("/system_stats").get("system")
        except (RowFailed, AttributeError):
            system = None
        if not system:
            raise BadInput(
                f"{self.url} answers, but it is no ComfyUI. Correct the address in --host."
            )

    def perform(self, job: Job, prompt: str) -> list[Saved]:
        """Run a job, or take over the run of this id that the host has already; what it saved."""
        if not self.has(prompt):
            nodes = job.nodes({target: self._send(path) for target, path in job.files.items()})
            self.queue(nodes, prompt, job.ui())
        places = output_files(self.wait(prompt))
        return [Saved(name, partial(self._view, name, subfolder)) for name, subfolder in places]

    def has(self, prompt: str) -> bool:
        """Tell if the host runs this id, will run it, or has done it.

        The queue is asked first: a run that ends in between is then in the history.
        """
        return self._is_queued(prompt) or self.past(prompt) is not None

    def forget(self, prompt: str) -> None:
        """Cancel a run that another host has taken over."""
        self.post("/queue", {"delete": [prompt]})
        if self._is_queued(prompt):
            self.post("/interrupt", {"prompt_id": prompt})

    def empty(self) -> None:
        """Let the host put its models and its cache out of memory."""
        self.post("/free", {"unload_models": True, "free_memory": True})

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
        self.session.close()

    def info(self) -> dict[str, Any]:
        """Ask for /object_info: every node of the host with its inputs."""
        return self.get("/object_info")

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
        saved in the images. client: who gets the messages of its progress.
        """
        prompt = prompt or str(uuid.uuid4())
        extra = {"extra_pnginfo": {"workflow": ui}} if ui else {}
        content = {"prompt": nodes, "prompt_id": prompt, "client_id": client, "extra_data": extra}
        self.post("/prompt", content)
        return prompt

    def wait(self, prompt: str, seconds: float = math.inf) -> dict[str, Any]:
        """Wait until a run has ended; its outputs by node id. RowFailed with the node's message."""
        start = queue_checked = time.monotonic()
        while time.monotonic() - start < seconds:
            past = self.past(prompt)
            if past is None and time.monotonic() - queue_checked > QUEUE_EVERY:
                if not self.has(prompt):
                    raise HostGone(f"{self.url} was started anew and has forgotten the row.")
                queue_checked = time.monotonic()
            elif past is not None:
                if past["status"]["status_str"] == "success":
                    return past["outputs"]
                raise failure(past["status"]["messages"])
            time.sleep(min(0.5, max(0.05, (time.monotonic() - start) / 40)))
        raise RowFailed(f"the workflow was not done after {seconds:g} seconds")

    def past(self, prompt: str) -> dict[str, Any] | None:
        """Ask the host's history for a run; None if it has not ended."""
        return self.get(f"/history/{prompt}").get(prompt)

    def _send(self, path: Path) -> str:
        """Put a file into the host's input folder; what the host calls it."""
        if path not in self.sent:
            content = self.contents[path] if path in self.contents else read_file(path)
            reply = self._ask("POST", "/upload/image", files={"image": (path.name, content)})
            self.sent[path] = _json(reply)["name"]
        return self.sent[path]

    def _is_queued(self, prompt: str) -> bool:
        queue = self.get("/queue")
        return any(item[1] == prompt for part in queue.values() for item in part)

    def _view(self, name: str, subfolder: str) -> Iterator[bytes]:
        """The bytes of a saved file as they are."""
        where = {"filename": name, "subfolder": subfolder, "type": "output"}
        reply = self._ask("GET", "/view", params=where, stream=True)
        with _connection(self.url), reply:
            yield from reply.iter_content(CHUNK)

    # Requests

    def get(self, path: str) -> Any:
        """Return the JSON that the host answers to GET `path`."""
        return _json(self._ask("GET", path))

    def post(self, path: str, content: dict[str, Any]) -> None:
        """POST JSON to `path`. RowFailed with the host's message if it refuses."""
        self._ask("POST", path, json=content)

    def _ask(self, method: str, path: str, **options: Any) -> requests.Response:
        with _connection(self.url):
            reply = self.session.request(
                method, self.url + path, timeout=(CONNECT, ANSWER), **options
            )
        if reply.status_code in OVERLOADED:
            raise HostGone(f"{self.url} answered {reply.status_code}: its host is away.")
        if path == "/view" and reply.status_code == 404:
            raise TryAgain("the host no longer has the file that it saved for this row before")
        if not reply.ok:
            raise RowFailed(_refusal_of(reply))
        return reply


@contextlib.contextmanager
def _connection(url: str) -> Iterator[None]:
    """Turn every way in which a connection ends into HostGone."""
    try:
        yield
    except (requests.exceptions.MissingSchema, requests.exceptions.InvalidURL):
        raise BadInput(f"{url} is no address. Write it as http://name:8188.") from None
    except requests.exceptions.RequestException:
        raise HostGone(f"{url} does not answer.") from None


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
        (file["filename"], file.get("subfolder", "")): None
        for _, output in sorted(outputs.items(), key=lambda item: _order(item[0]))
        for files in output.values()
        if isinstance(files, list)
        for file in files
        if isinstance(file, dict) and file.get("type") == "output"
    }
    return list(places)


def _json(reply: requests.Response) -> Any:
    try:
        return reply.json()
    except ValueError:
        raise RowFailed(f"{reply.url} answered with something that is not JSON") from None


def _order(node: str) -> tuple[int, str]:
    """Node ids by number; those in subgraphs are 12:5."""
    number = node.split(":")[0]
    return (int(number) if number.isdigit() else 0, node)


def _refusal_of(reply: requests.Response) -> str:
    try:
        return refusal(reply.json())
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"the host answered {reply.status_code}: {reply.text[:200].strip()}"


def refusal(reply: dict[str, Any]) -> str:
    """Say node by node why the host refused a workflow. reply: its answer to POST /prompt."""
    lines = [
        f"{node['class_type']} (node {name}): {error['message']}: {error['details']}"
        for name, node in (reply.get("node_errors") or {}).items()
        for error in node["errors"]
    ]
    return "; ".join(lines) or f"{reply['error']['message']}: {reply['error']['details']}"


def failure(messages: list[Any]) -> Trouble:
    """Make the exception for a failed run. messages: those of its status in the history."""
    for event, data in messages:
        if event != "execution_error":
            continue
        message = str(data["exception_message"]).strip()
        text = f"{data['node_type']} (node {data['node_id']}): {message}"
        kind = str(data.get("exception_type"))
        if "No space left on device" in message:
            return DiskFull(f"The host's disk is full: {text}. Make room, then use --resume.")
        if "OutOfMemory" in kind or re.search("out of memory|Allocation on device", message):
            return TryAgain(f"{text} (also with emptied memory)")
        return RowFailed(text)
    return RowFailed("the run was interrupted at the host")
