"""The developer's one entry: `python3 dev.py demo`, `python3 dev.py test`, and the rest in --help.

Needs only the standard library and does its own set-up, in the user's cache (~/.cache/vitruvian):
  env-<hash>         the developers' pins (tests/requirements.txt), named by their hash
  env-<hash>-<hash>  a thin layer on it with what one version of ComfyUI requires
  ComfyUI-<version>  the host, unless COMFYUI_PATH names one
  base-<hash>        this checkout's private ComfyUI folders: input, output, models, custom_nodes
Linux and macOS.
"""

import argparse
import contextlib
import hashlib
import importlib
import importlib.util
import json
import os
import platform
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitruvian"
PINS = ROOT / "tests" / "requirements.txt"
WORKFLOWS = ROOT / "workflows" / "api"
HOST_REPOSITORY = "https://github.com/comfyanonymous/ComfyUI"
HOST_VERSION = "v0.33.0"
PYTHONS = (11, 12)  # minor versions of Python 3 for which all the pins have wheels
UNDECLARED = ("requests",)  # imported by ComfyUI v0.3.64, missing from its requirements
PINS_GIGABYTES = 10.0  # torch with CUDA is most of it; pip needs room to unpack
HOST_GIGABYTES = 1.5


class Trouble(Exception):
    """Something the developer can mend; the text says how."""


# Environments


def find_python() -> tuple[str, int]:
    """An interpreter for which the pins exist, and its minor version: this one, or on the PATH."""
    own = sys.version_info.minor
    for minor in [own, *reversed(PYTHONS)]:
        found = sys.executable if minor == own else shutil.which(f"python3.{minor}")
        if minor in PYTHONS and found:
            return found, minor
    raise Trouble(
        f"Vitruvian's tools need Python 3.{PYTHONS[0]} to 3.{PYTHONS[-1]}; this is "
        f"{sys.version.split()[0]}. Install one of those and run the command again."
    )


def pins_environment() -> Path:
    """The interpreter of the environment with the developers' pins, made on first use."""
    _, minor = find_python()
    name = "env-" + _hash(PINS.read_text(), str(minor), platform.machine())
    return _environment(name, ["-r", str(PINS)], PINS_GIGABYTES)


def host_environment(host: Path) -> Path:
    """The pins' environment and, layered on it, what this version of ComfyUI requires."""
    pins = pins_environment()
    requirements = host / "requirements.txt"
    name = f"{_name(pins)}-{_hash(requirements.read_text(), *UNDECLARED)}"
    packages = ["-r", str(requirements), *UNDECLARED, "-c", str(PINS)]
    return _environment(name, packages, HOST_GIGABYTES, below=pins)


def _name(python: Path) -> str:
    return python.parent.parent.name


def _hash(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:10]


def _environment(
    name: str, packages: list[str], gigabytes: float, below: Path | None = None
) -> Path:
    """The interpreter of environment `name`; `packages` are pip's arguments for making it.

    The file `complete` is written last: without it the folder is what an interrupted set-up left,
    and is made anew. `below` is the interpreter of an environment whose packages are seen too, so
    that several hosts share one copy of torch.
    """
    folder = CACHE / name
    python, complete = folder / "bin" / "python", folder / "complete"
    if complete.exists() and python.exists():
        return python
    CACHE.mkdir(parents=True, exist_ok=True)
    with _lock(CACHE / f"{name}.lock"):
        if complete.exists() and python.exists():  # made by another while this one waited
            return python
        _need_disk(gigabytes)
        print(f"Setting up {folder} (once; {gigabytes:g} GB at most)", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        _make_venv(folder)
        if below:
            site = next(below.parent.parent.glob("lib/python*/site-packages"))
            link = next(folder.glob("lib/python*/site-packages")) / "vitruvian_below.pth"
            link.write_text(f"import site; site.addsitedir({str(site)!r})\n")
        _pip(python, packages)
        complete.write_text(" ".join(packages) + "\n")
    return python


def _make_venv(folder: Path) -> None:
    made = subprocess.run(
        [find_python()[0], "-m", "venv", str(folder)], capture_output=True, text=True
    )
    if made.returncode:
        raise Trouble(
            f"Python could not make a virtual environment:\n{made.stdout}{made.stderr}\n"
            "On Debian and Ubuntu, install it with: apt-get install python3-venv"
        )


def _pip(python: Path, packages: list[str]) -> None:
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
    if subprocess.call([*command, *packages]):
        raise Trouble(
            "pip could not install the packages; its own words are above. If it found no "
            "connection, connect this machine (or name your mirror in PIP_INDEX_URL, or a folder "
            "of wheels in PIP_FIND_LINKS) and run the same command again: it starts afresh."
        )


def _need_disk(gigabytes: float) -> None:
    free = shutil.disk_usage(CACHE).free / 1e9
    if free < gigabytes:
        raise Trouble(
            f"The set-up needs {gigabytes:g} GB in {CACHE}, and {free:.1f} GB are free. Make room, "
            "or set XDG_CACHE_HOME to a folder on a larger disk, and run the command again."
        )


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One process at a time; the kernel lets go of the lock when its holder dies."""
    import fcntl

    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another dev.py is setting this up; waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def has_packages() -> bool:
    """True if this interpreter already has what trainers and benchmarks import."""
    return all(importlib.util.find_spec(name) for name in ("torch", "diffusers", "accelerate"))


def again_inside(python: Path, host: Path | None = None) -> NoReturn:
    """Run this very command with the environment's interpreter, in this process's place: a parent
    would kill it a quarter of a second after Ctrl-C, while it saves what was learnt.
    """
    if os.environ.get("VITRUVIAN_INSIDE"):
        raise Trouble(f"The environment {sys.prefix} is damaged. Delete it and try again.")
    environment = {**os.environ, "VITRUVIAN_INSIDE": "1"}
    if host:
        environment["COMFYUI_PATH"] = str(host)
    sys.stdout.flush()
    os.execve(python, [str(python), str(ROOT / "dev.py"), *sys.argv[1:]], environment)


# The pack and the host, in this process


def load_pack() -> None:
    """Import this checkout as the package `vitruvian`, whatever its folder is called.

    Its rooms must not be found under their bare names: ComfyUI owns the name `nodes`.
    """
    if "vitruvian" in sys.modules:
        return
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != ROOT]
    spec = importlib.util.spec_from_file_location(
        "vitruvian", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["vitruvian"] = module
    spec.loader.exec_module(module)


def open_host(host: Path, base: Path, *options: str) -> None:
    """Make `comfy`, `nodes` and `folder_paths` importable here, with their folders below `base`.

    ComfyUI reads its command line once, at import, so this comes before any other import of it.
    options: more of ComfyUI's command line, such as --cpu.
    """
    sys.path.insert(0, str(host))
    arguments, sys.argv = sys.argv, [sys.argv[0], "--base-directory", str(base), *options]
    try:
        options_module = importlib.import_module("comfy.options")
        options_module.enable_args_parsing()
        importlib.import_module("comfy.cli_args")
    finally:
        sys.argv = arguments


# The host


def find_host(version: str | None) -> Path:
    """ComfyUI's folder: COMFYUI_PATH, else the cache, else a fresh clone of the pinned tag.

    version: the wish on the command line, or None. A wish goes before COMFYUI_PATH.
    """
    if not version and (given := os.environ.get("COMFYUI_PATH")):
        if not Path(given, "main.py").is_file():
            raise Trouble(f"COMFYUI_PATH is {given}, but there is no main.py in it.")
        return Path(given).resolve()
    version = version or HOST_VERSION
    folder = CACHE / f"ComfyUI-{version}"
    if not (folder / "main.py").is_file():
        _clone(version, folder)
    return folder


def _clone(version: str, folder: Path) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    if not shutil.which("git"):
        raise Trouble(f"There is no ComfyUI, and no git to fetch it with. {_host_advice(version)}")
    _need_disk(0.5)
    print(f"Fetching ComfyUI {version} into {folder} (once)", flush=True)
    fresh = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    command = ["git", "clone", "--quiet", "--depth", "1", "--branch", version]
    try:
        cloned = subprocess.run(
            [*command, HOST_REPOSITORY, str(fresh)],
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
            capture_output=True,
            text=True,
            timeout=600,
        )
        failure = cloned.stderr.strip().splitlines()[-1:] if cloned.returncode else []
        if cloned.returncode == 0:
            fresh.rename(folder)
    except subprocess.TimeoutExpired:
        failure = ["no answer in 10 minutes"]
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    if not (folder / "main.py").is_file():
        reason = "".join(failure) or "the clone has no main.py"
        raise Trouble(f"ComfyUI {version} could not be fetched ({reason}). {_host_advice(version)}")


def _host_advice(version: str) -> str:
    return (
        f"Connect this machine and try again, or set COMFYUI_PATH to a ComfyUI folder, or put "
        f"ComfyUI {version} into {CACHE / f'ComfyUI-{version}'}."
    )


def base_directory() -> Path:
    """This checkout's own ComfyUI folders, with the pack linked in."""
    base = CACHE / f"base-{_hash(str(ROOT))}"
    prepare_base(base)
    return base


def prepare_base(base: Path) -> None:
    """Make the folders that ComfyUI expects below --base-directory, and link the pack in."""
    for folder in ("custom_nodes", "input", "output", "models", "user"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    link = base / "custom_nodes" / "vitruvian"
    if not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(ROOT, target_is_directory=True)


class Server:
    """A headless ComfyUI with the pack in it, for the length of a `with` block."""

    def __init__(self, python: Path, host: Path, base: Path, *options: str, port: int = 0) -> None:
        self.base = base
        self.port = port or _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = base / "server.log"
        command = [str(python), str(host / "main.py"), "--port", str(self.port)]
        command += ["--base-directory", str(base), "--disable-auto-launch", "--disable-api-nodes"]
        self.command = [*command, "--database-url", "sqlite:///:memory:", *options]

    def __enter__(self) -> "Server":
        with self.log.open("w") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT)
        try:
            self._wait_until_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _wait_until_up(self, seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError):
                self.get("/system_stats")
                return
            time.sleep(0.2)
        lines = self.log.read_text(errors="replace").splitlines()[-15:]
        raise Trouble("\n".join([f"ComfyUI did not start. From {self.log}:", *lines]))

    def get(self, path: str) -> Any:
        """The JSON that the server answers to GET `path`."""
        with urllib.request.urlopen(self.url + path, timeout=30) as reply:
            return json.load(reply)

    def post(self, path: str, content: dict) -> Any:
        """The JSON that the server answers to POST `path`, None if it answers with nothing."""
        request = urllib.request.Request(self.url + path, json.dumps(content).encode())
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.loads(reply.read() or "null")

    def queue(self, workflow: dict, client: str = "") -> str:
        """Hand in an API-format workflow; its id. Trouble with the nodes' messages if refused."""
        try:
            reply = self.post("/prompt", {"prompt": workflow, "client_id": client})
        except urllib.error.HTTPError as refusal:
            raise Trouble(_refusal(json.loads(refusal.read()))) from None
        return reply["prompt_id"]

    def wait(self, prompt: str, seconds: float = 3600) -> dict:
        """The outputs, by node id, of a workflow handed in. Trouble with the node's own message."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if entry := self.get(f"/history/{prompt}").get(prompt):
                if entry["status"]["status_str"] == "success":
                    return entry["outputs"]
                raise Trouble(_failure(entry["status"]["messages"]))
            if self.process.poll() is not None:
                raise Trouble(f"ComfyUI ended while it worked; see {self.log}")
            time.sleep(0.1)
        raise Trouble(f"The workflow was not done after {seconds:g} seconds; see {self.log}")

    def run(self, workflow: dict) -> list[Path]:
        """Run an API-format workflow under a progress bar; the files it saved."""
        client = uuid.uuid4().hex
        titles = {id: node["class_type"] for id, node in workflow.items()}
        with Progress(self.port, client, titles):
            outputs = self.wait(self.queue(workflow, client))
        return [
            self.base / "output" / file["subfolder"] / file["filename"]
            for output in outputs.values()
            for files in output.values()
            if isinstance(files, list)
            for file in files
            if isinstance(file, dict) and file.get("type") == "output"
        ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _refusal(reply: dict) -> str:
    """What a 400 of POST /prompt says, node by node."""
    lines = [
        f"{node['class_type']} (node {id}): {error['message']}: {error['details']}"
        for id, node in (reply.get("node_errors") or {}).items()
        for error in node["errors"]
    ]
    return "\n".join(lines) or f"{reply['error']['message']}: {reply['error']['details']}"


def _failure(messages: list) -> str:
    """What the history of a failed workflow says."""
    for event, data in messages:
        if event == "execution_error":
            words = data["exception_message"].strip()
            return f"{data['node_type']} (node {data['node_id']}): {words}"
    return "interrupted"


class Progress:
    """A progress bar fed by the server's websocket. It may fail: nothing depends on it."""

    def __init__(self, port: int, client: str, titles: dict[str, str]) -> None:
        self.titles = titles
        self.last = ""
        try:
            self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
            self.socket.settimeout(None)
            self.socket.sendall(
                f"GET /ws?clientId={client} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
                "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: dml0cnV2aWFudml0cnV2aQ==\r\n\r\n".encode()
            )
            self.stream = self.socket.makefile("rb")
            while self.stream.readline().strip():  # the reply's head
                pass
        except OSError:
            self.socket = socket.socket()
            self.stream = self.socket.makefile("rb")

    def __enter__(self) -> None:
        threading.Thread(target=self._follow, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        if self.last and sys.stdout.isatty():
            print()

    def _follow(self) -> None:
        with contextlib.suppress(OSError, struct.error, ValueError):
            while True:
                message = self._message()
                if message and message["type"] in ("progress", "executing"):
                    self._show(message["data"])

    def _message(self) -> dict | None:
        """The next text message (RFC 6455, section 5.2; a server's frames are not masked)."""
        first, length = struct.unpack("!BB", self.stream.read(2))
        if length >= 126:
            form = "!H" if length == 126 else "!Q"
            (length,) = struct.unpack(form, self.stream.read(struct.calcsize(form)))
        content = self.stream.read(length)
        return json.loads(content) if first & 0x0F == 1 else None

    def _show(self, data: dict) -> None:
        title = self.titles.get(str(data.get("node")))
        if not title:
            return
        done, of = data.get("value", 0), data.get("max", 0)
        if sys.stdout.isatty():
            filled = round(24 * done / of) if of else 0
            count = f"{done}/{of}" if of else ""
            print(f"\r\033[K[{'#' * filled:-<24}] {title} {count}", end="", flush=True)
        elif title != self.last:
            print(f"  {title}", flush=True)
        self.last = title


def device_options(python: Path) -> list[str]:
    """ComfyUI's --cpu, unless the environment's torch sees an accelerator."""
    if sys.platform == "darwin":
        return []
    question = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    seen = shutil.which("nvidia-smi") and not subprocess.call([str(python), "-c", question])
    return [] if seen else ["--cpu"]


# Commands


def demo(options: argparse.Namespace) -> int:
    """Start ComfyUI with the pack, run a workflow, print where its pictures are."""
    workflow = _workflow(options.workflow)
    try:
        host = find_host(options.host)
    except Trouble as trouble:
        return _preview(options, trouble)
    python = host_environment(host)
    base = base_directory()
    copy_pictures(base)
    if options.photo:
        _use_photo(workflow, Path(options.photo), base)
    print(f"ComfyUI: {host}", flush=True)
    with Server(python, host, base, *device_options(python)) as server:
        pictures = server.run(workflow)
    for picture in pictures:
        print(picture)
    return 0


def _preview(options: argparse.Namespace, trouble: Trouble) -> int:
    """The same picture without the host, by the trainers' sampler on the same weights."""
    if not has_packages():
        return again_inside(pins_environment())
    photo = Path(options.photo) if options.photo else sample_photo()
    out = base_directory() / "output" / "preview.png"
    load_pack()
    try:
        importlib.import_module("vitruvian.lab.training.preview").preview(photo, out)
    except ValueError as error:
        raise Trouble(f"There is no ComfyUI, and the preview failed: {error}\n{trouble}") from None
    print(f"{out}\nThis was only a preview, made without ComfyUI. {trouble}")
    return 0


def sample_photo() -> Path:
    """scikit-image's public-domain photograph of an astronaut, from the pins' environment."""
    pins = pins_environment().parent.parent
    return next(pins.glob("lib/python*/site-packages/skimage/data/astronaut.png"))


def copy_pictures(base: Path) -> None:
    """Put the pictures that the example workflows start from into ComfyUI's input folder."""
    for picture in (sample_photo(), *(ROOT / "workflows" / "images").iterdir()):
        shutil.copyfile(picture, base / "input" / picture.name)


def _use_photo(workflow: dict, photo: Path, base: Path) -> None:
    """Copy the photograph into ComfyUI's input folder and name it in the workflow."""
    if not photo.is_file():
        raise Trouble(f"There is no photograph {photo}.")
    shutil.copyfile(photo, base / "input" / photo.name)
    for node in workflow.values():
        if node["class_type"] == "LoadImage":
            node["inputs"]["image"] = photo.name


def _workflow(name: str) -> dict:
    """An API-format workflow: a file, or the name of one that the pack ships."""
    path = Path(name) if name.endswith(".json") else WORKFLOWS / f"{name}.json"
    if not path.is_file():
        shipped = ", ".join(sorted(file.stem for file in WORKFLOWS.glob("*.json")))
        raise Trouble(f"There is no workflow {path}. The pack ships: {shipped}.")
    try:
        workflow = json.loads(path.read_text())
    except ValueError as error:
        raise Trouble(f"{path} is not JSON: {error}") from None
    if not isinstance(workflow, dict) or not all(
        isinstance(node, dict) and "class_type" in node for node in workflow.values()
    ):
        raise Trouble(f"{path} is not in the API format. Save it with Workflow > Export (API).")
    return workflow


def batch(options: argparse.Namespace, rest: list[str]) -> int:
    """Run saved workflows, over a table if one is given (batch/README.md has its options)."""
    if "--resume" in rest and "--out" not in rest:
        raise Trouble("Name the folder of the batch that is to go on: --out FOLDER.")
    host = find_host(options.host)
    python, base = host_environment(host), base_directory()
    copy_pictures(base)
    line = ["--base-directory", str(base), "--disable-api-nodes", *device_options(python)]
    out = base / "batches" / time.strftime("%Y%m%d-%H%M%S")
    command = [str(python), "-m", "vitruvian_batch", "--comfyui", str(host)]
    command += ["--python", str(python), f"--host-options={shlex.join(line)}"]
    command += ["--out", str(out), *rest]
    paths = [str(ROOT / "batch"), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    sys.stdout.flush()
    os.execv(command[0], command)  # in this process's place: Ctrl-C is the runner's


def serve(options: argparse.Namespace) -> int:
    """Start ComfyUI with the pack and leave it running until Ctrl-C."""
    host = find_host(options.host)
    python, base = host_environment(host), base_directory()
    copy_pictures(base)
    with Server(python, host, base, *device_options(python), port=options.port) as server:
        print(f"{server.url}\nfolders: {base}\nCtrl-C stops it", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            return server.process.wait()
    return 0


def test(options: argparse.Namespace, rest: list[str]) -> int:
    """Run the tests; the rings that need ComfyUI are left out if there is none."""
    environment = dict(os.environ)
    environment.pop("COMFYUI_PATH", None)
    missing = ""
    try:
        host = find_host(options.host)
        python = host_environment(host)
        environment["COMFYUI_PATH"] = str(host)
    except Trouble as trouble:
        if options.require_host:
            raise
        missing, python = str(trouble), pins_environment()
    named = any(Path(argument).parts[:1] == ("tests",) for argument in rest)
    paths = [] if named else [str(ROOT / "tests")]
    command = [str(python), "-m", "pytest", *paths, *rest]
    code = subprocess.call(command, cwd=ROOT, env=environment)
    if missing:
        print(missing)
    return code


def bench(options: argparse.Namespace) -> int:
    """Run benchmarks/NAME.py and write its numbers as one flat JSON object."""
    module = _offered("benchmark", options.name, _modules("lab/benchmarks", "run"))
    if not (has_packages() and os.environ.get("COMFYUI_PATH")):
        host = find_host(options.host)
        return again_inside(host_environment(host), host)
    load_pack()
    host = Path(os.environ["COMFYUI_PATH"])
    open_host(host, base_directory(), *device_options(Path(sys.executable)))
    numbers = importlib.import_module(f"vitruvian.{module}").run(options.quick)
    text = json.dumps(numbers, indent=2) + "\n"
    target = Path(options.json)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.partial")
    partial.write_text(text)
    partial.replace(target)
    print(text, end="")
    return 0


def train(options: argparse.Namespace) -> int:
    """Run a trainer (mini: all the mini weights); also under `accelerate launch dev.py train`."""
    trainers = {**_modules("lab/training", "main"), "mini": "lab.recipes.mini"}
    module = _offered("trainer", options.name, trainers)
    if not has_packages():
        return again_inside(pins_environment())
    load_pack()
    importlib.import_module(f"vitruvian.{module}").main(options.arguments)
    return 0


def _modules(room: str, function: str) -> dict[str, str]:
    """name -> module, of the files of a room that have this function."""
    files = sorted((ROOT / room).glob("*.py"))
    offering = [file for file in files if f"\ndef {function}(" in file.read_text()]
    return {file.stem: f"{room.replace('/', '.')}.{file.stem}" for file in offering}


def _offered(kind: str, name: str, modules: dict[str, str]) -> str:
    if name not in modules:
        raise Trouble(f"There is no {kind} {name}. There are: {', '.join(modules) or 'none yet'}.")
    return modules[name]


def lint(_: argparse.Namespace) -> int:
    """ruff and mypy over the pack."""
    python = str(pins_environment())
    packages = base_directory() / "custom_nodes"  # where the checkout is called `vitruvian`
    settings = str(ROOT / "pyproject.toml")
    mypy = [python, "-m", "mypy", "--config-file", settings, "--cache-dir", str(CACHE / "mypy")]
    ruff = subprocess.call([python, "-m", "ruff", "check", "--no-cache", str(ROOT)])
    types = subprocess.call([*mypy, "-p", "vitruvian"], cwd=packages)
    return 1 if ruff or types else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(function: Any, needs_host: bool = True) -> argparse.ArgumentParser:
        made = commands.add_parser(
            function.__name__,
            help=function.__doc__,
            allow_abbrev=False,
            add_help=function is not batch,  # which has a command line of its own
        )
        made.set_defaults(function=function)
        if needs_host:
            made.add_argument("--host", metavar="VERSION", help=f"ComfyUI's tag ({HOST_VERSION})")
        return made

    made = command(demo)
    made.add_argument("workflow", nargs="?", default="photo_to_person")
    made.add_argument("--photo", metavar="FILE", help="whose pose to take")
    made = command(test)
    made.add_argument("--require-host", action="store_true", help="fail without ComfyUI")
    made = command(bench)
    made.add_argument("name")
    made.add_argument("--quick", action="store_true", help="fewer scenes, under 3 minutes")
    made.add_argument("--json", metavar="FILE", required=True)
    made = command(serve)
    made.add_argument("--port", type=int, default=8188)
    command(batch)
    made = command(train, needs_host=False)
    made.add_argument("name")
    made.add_argument("arguments", nargs=argparse.REMAINDER)
    command(lint, needs_host=False)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped too
    options, rest = parser.parse_known_args()
    if options.function in (batch, test):
        return options.function(options, rest)
    if rest:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    return options.function(options)


if __name__ == "__mp_main__":  # a worker process of a trainer, which looks for the same package
    load_pack()

if __name__ == "__main__":
    try:
        sys.exit(main())
    except Trouble as trouble:
        sys.exit(f"{trouble}")
    except KeyboardInterrupt:
        sys.exit(130)
