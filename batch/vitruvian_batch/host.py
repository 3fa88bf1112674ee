"""One running ComfyUI, through its web interface."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import requests

from .jobs import Job
from .trouble import DiskFull, HostGone, RowFailed, TryAgain, Wrong

CONNECT, ANSWER = 5, 120  # seconds; ComfyUI answers late while it loads a model
QUEUE_EVERY = 2.0  # seconds between looks at the queue, which may be long
CHUNK = 1 << 20
OVERLOADED = (502, 503, 504)  # what a proxy says of a host that is gone
Chunks = Iterator[bytes] | list[bytes]


@dataclass
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
        self.sent: dict[Path, str] = {}  # what the host calls the files that it was given
        self.contents: dict[Path, bytes] = {}  # files that do not lie on this machine

    # The worker's side: what run.py asks of a host, be it here or on Ray

    def start(self) -> None:
        """Wrong if there is no ComfyUI."""
        try:
            self.check()
        except HostGone as gone:
            raise Wrong(
                f"{gone} Start ComfyUI there, or name another with --host, or let "
                "this command start one with --comfyui FOLDER."
            ) from None

    def check(self) -> None:
        """HostGone if the host does not answer, Wrong if another server does."""
        try:
            system = self._get("/system_stats").get("system")
        except (RowFailed, AttributeError):
            system = None
        if not system:
            raise Wrong(f"{self.url} answers, but it is no ComfyUI. Correct the address in --host.")

    def perform(self, job: Job, prompt: str) -> list[Saved]:
        """Run a job, or take over the run of this id that the host has already; what it saved."""
        if not self.has(prompt):
            self._queue(job, prompt)
        return self._saved(self._wait(prompt))

    def has(self, prompt: str) -> bool:
        """True if the host runs this id, will run it, or has done it.

        The queue is asked first: a run that ends in between is then found in the history.
        """
        return self._is_queued(prompt) or self.past(prompt) is not None

    def forget(self, prompt: str) -> None:
        """Take a run back that another host has taken over."""
        self._post("/queue", {"delete": [prompt]})
        if self._is_queued(prompt):
            self._post("/interrupt", {"prompt_id": prompt})

    def empty(self) -> None:
        """Let the host put its models and its cache out of memory."""
        self._post("/free", {"unload_models": True, "free_memory": True})

    def wait_back(self, seconds: float, stopped: Callable[[], bool]) -> bool:
        """True when the host answers again, False after so many seconds or if all is stopped."""
        deadline = time.monotonic() + seconds
        self.sent.clear()
        while time.monotonic() < deadline and not stopped():
            try:
                self.check()
                return True
            except (HostGone, Wrong):  # a proxy may answer in its place for a while
                time.sleep(0.5)
        return False

    def close(self) -> None:
        self.session.close()

    def info(self) -> dict[str, Any]:
        """/object_info: every node of the host with its inputs."""
        return self._get("/object_info")

    # One run

    def _queue(self, job: Job, prompt: str) -> None:
        ui = job.ui()
        extra = {"extra_pnginfo": {"workflow": ui}} if ui else {}
        content = {
            "prompt": job.nodes({target: self._send(path) for target, path in job.files.items()}),
            "prompt_id": prompt,
            "client_id": "vitruvian-batch",
            "extra_data": extra,
        }
        self._post("/prompt", content)

    def _send(self, path: Path) -> str:
        """Put a file into the host's input folder; what the host calls it."""
        if path not in self.sent:
            content = self.contents[path] if path in self.contents else read_file(path)
            reply = self._ask("POST", "/upload/image", files={"image": (path.name, content)})
            self.sent[path] = _json(reply)["name"]
        return self.sent[path]

    def _wait(self, prompt: str) -> dict[str, Any]:
        """The history of a run when it has ended well."""
        start = looked = time.monotonic()
        while True:
            past = self.past(prompt)
            if past is None and time.monotonic() - looked > QUEUE_EVERY:
                if not self.has(prompt):
                    raise HostGone(f"{self.url} was started anew and has forgotten the row.")
                looked = time.monotonic()
            elif past is not None:
                if past["status"]["status_str"] == "success":
                    return past
                raise _failure(past["status"]["messages"])
            time.sleep(min(0.5, max(0.05, (time.monotonic() - start) / 40)))

    def past(self, prompt: str) -> dict[str, Any] | None:
        """What the host's history says of a run that has ended."""
        return self._get(f"/history/{prompt}").get(prompt)

    def _is_queued(self, prompt: str) -> bool:
        queue = self._get("/queue")
        return any(item[1] == prompt for part in queue.values() for item in part)

    def _saved(self, past: dict[str, Any]) -> list[Saved]:
        """The files in the host's output folder, in the order of their nodes; previews not."""
        saved, taken = [], set()
        for _, output in sorted(past["outputs"].items(), key=lambda item: _order(item[0])):
            for file in [file for part in output.values() if _is_list(part) for file in part]:
                if not isinstance(file, dict) or file.get("type") != "output":
                    continue
                place = (file["filename"], file.get("subfolder", ""))
                if place not in taken:
                    taken.add(place)
                    saved.append(Saved(file["filename"], partial(self._view, *place)))
        return saved

    def _view(self, name: str, subfolder: str) -> Iterator[bytes]:
        """The bytes of a saved file as they are."""
        where = {"filename": name, "subfolder": subfolder, "type": "output"}
        reply = self._ask("GET", "/view", params=where, stream=True)
        with _gone(self.url), reply:
            yield from reply.iter_content(CHUNK)

    # Requests

    def _get(self, path: str) -> Any:
        return _json(self._ask("GET", path))

    def _post(self, path: str, content: dict[str, Any]) -> None:
        self._ask("POST", path, json=content)

    def _ask(self, method: str, path: str, **more: Any) -> requests.Response:
        with _gone(self.url):
            reply = self.session.request(method, self.url + path, timeout=(CONNECT, ANSWER), **more)
        if reply.status_code in OVERLOADED:
            raise HostGone(f"{self.url} answered {reply.status_code}: its host is away.")
        if path == "/view" and reply.status_code == 404:
            raise TryAgain("the host no longer has the file that it saved for this row before")
        if not reply.ok:
            raise RowFailed(_refusal(reply))
        return reply


class _gone:
    """Turns every way in which a connection ends into HostGone."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: object, __: object) -> None:
        if isinstance(error, (requests.exceptions.MissingSchema, requests.exceptions.InvalidURL)):
            raise Wrong(f"{self.url} is no address. Write it as http://name:8188.") from None
        if isinstance(error, requests.exceptions.RequestException):
            raise HostGone(f"{self.url} does not answer.") from None


def read_file(path: Path) -> bytes:
    """The bytes of a file to send."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise RowFailed(f"{path} cannot be read: {error.strerror}") from None


def _json(reply: requests.Response) -> Any:
    try:
        return reply.json()
    except ValueError:
        raise RowFailed(f"{reply.url} answered with something that is not JSON") from None


def _is_list(part: Any) -> bool:
    return isinstance(part, list)


def _order(name: str) -> tuple[int, str]:
    """Node ids by number; those in subgraphs are 12:5."""
    first = name.split(":")[0]
    return (int(first) if first.isdigit() else 0, name)


def _refusal(reply: requests.Response) -> str:
    """What the host says to a workflow that it does not take, node by node."""
    try:
        said = reply.json()
        lines = [
            f"{node['class_type']} (node {name}): {error['message']}: {error['details']}"
            for name, node in (said.get("node_errors") or {}).items()
            for error in node["errors"]
        ]
        return "; ".join(lines) or f"{said['error']['message']}: {said['error']['details']}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"the host answered {reply.status_code}: {reply.text[:200].strip()}"


def _failure(messages: list[Any]) -> Exception:
    """What the history of a failed run says."""
    for event, data in messages:
        if event != "execution_error":
            continue
        words = str(data["exception_message"]).strip()
        said = f"{data['node_type']} (node {data['node_id']}): {words}"
        kind = str(data.get("exception_type"))
        if "No space left on device" in words:
            return DiskFull(f"The host's disk is full: {said}. Make room, then use --resume.")
        if "OutOfMemory" in kind or re.search("out of memory|Allocation on device", words):
            return TryAgain(f"{said} (also with emptied memory)")
        return RowFailed(said)
    return RowFailed("the run was interrupted at the host")
