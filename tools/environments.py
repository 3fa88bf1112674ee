"""Virtual environments in the user's cache: the developers' pins, and a layer for each ComfyUI."""

import contextlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from ..batch.vitruvian_batch.trouble import Trouble
from . import paths

PYTHONS = (11, 12)  # minor versions of Python 3 for which all the pins have wheels
UNDECLARED = ("requests",)  # imported by ComfyUI v0.3.64, missing from its requirements
PINS_GIGABYTES = 10.0  # torch with CUDA is most of it; pip needs room to unpack
HOST_GIGABYTES = 1.5


def find_python() -> tuple[str, int]:
    """Find an interpreter for which all pins have wheels; also return its minor version."""
    current = sys.version_info.minor
    for minor in [current, *reversed(PYTHONS)]:
        python = sys.executable if minor == current else shutil.which(f"python3.{minor}")
        if minor in PYTHONS and python:
            return python, minor
    raise Trouble(
        f"Vitruvian's tools need Python 3.{PYTHONS[0]} to 3.{PYTHONS[-1]}; this is "
        f"{sys.version.split()[0]}. Install one of those and run the command again."
    )


def find_version(version: str) -> str | None:
    """Find an interpreter of this version, such as 3.12: on the path, or one that pyenv made."""
    made_by_pyenv = Path.home().glob(f".pyenv/versions/{version}.*/bin/python")
    for python in (shutil.which(f"python{version}"), *map(str, sorted(made_by_pyenv))):
        # pyenv puts names on the path that stand for no interpreter
        if python and not subprocess.call([python, "-c", ""], stderr=subprocess.DEVNULL):
            return python
    return None


def pins_environment() -> Path:
    """Set the environment of the developers' pins up if need be; return its interpreter."""
    _, minor = find_python()
    name = "env-" + paths.digest(paths.PINS.read_text(), str(minor), platform.machine())
    return set_up(name, ["-r", str(paths.PINS)], PINS_GIGABYTES)


def host_environment(host: Path) -> Path:
    """Set up a layer on the pins with what this ComfyUI requires; return its interpreter."""
    pins = pins_environment()
    requirements = host / "requirements.txt"
    name = f"{_name(pins)}-{paths.digest(requirements.read_text(), *UNDECLARED)}"
    packages = ["-r", str(requirements), *UNDECLARED, "-c", str(paths.PINS)]
    return set_up(name, packages, HOST_GIGABYTES, visible=site_packages(pins))


def _name(python: Path) -> str:
    return python.parent.parent.name


def site_packages(python: Path) -> Path:
    """Return the folder with the packages of an environment, by its interpreter."""
    return next(python.parent.parent.glob("lib/python*/site-packages"))


def set_up(
    name: str,
    packages: list[str],
    gigabytes: float,
    visible: Path | None = None,
    interpreter: str | None = None,
) -> Path:
    """Set environment `name` up with pip's arguments `packages`; return its interpreter.

    The file `complete` is written last: without it the folder is what an interrupted set-up left,
    and is set up again. `visible` is a folder of packages that are visible in it too, so that
    several hosts share one copy of torch. interpreter: the Python that it is made with.
    """
    folder = paths.CACHE / name
    python, complete = folder / "bin" / "python", folder / "complete"
    if complete.exists() and python.exists():
        return python
    paths.CACHE.mkdir(parents=True, exist_ok=True)
    with _lock(paths.CACHE / f"{name}.lock"):
        if complete.exists() and python.exists():  # another dev.py did it while this one waited
            return python
        need_disk(gigabytes)
        print(f"Setting up {folder} (once; {gigabytes:g} GB at most)", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        _make_venv(folder, interpreter or find_python()[0])
        if visible:
            link = site_packages(python) / "vitruvian_below.pth"
            link.write_text(f"import site; site.addsitedir({str(visible)!r})\n")
        _pip(python, packages)
        complete.write_text(" ".join(packages) + "\n")
    return python


def _make_venv(folder: Path, interpreter: str) -> None:
    process = subprocess.run(
        [interpreter, "-m", "venv", str(folder)], capture_output=True, text=True
    )
    if process.returncode:
        raise Trouble(
            f"Python could not make a virtual environment:\n{process.stdout}{process.stderr}\n"
            "On Debian and Ubuntu, install it with: apt-get install python3-venv"
        )


def _pip(python: Path, packages: list[str]) -> None:
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
    if subprocess.call([*command, *packages]):
        raise Trouble(
            "pip could not install the packages; its messages are above. If there was no "
            "connection, connect this machine (or name your mirror in PIP_INDEX_URL, or a folder "
            "of wheels in PIP_FIND_LINKS) and run the same command again."
        )


def need_disk(gigabytes: float) -> None:
    """Raise Trouble unless the cache's disk has so much room."""
    free = shutil.disk_usage(paths.CACHE).free / 1e9
    if free < gigabytes:
        raise Trouble(
            f"The set-up needs {gigabytes:g} GB in {paths.CACHE}, and {free:.1f} GB are free. Make "
            "room, or set XDG_CACHE_HOME to a folder on a larger disk, and run the command again."
        )


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Let one process at a time in. fcntl and not filelock: no environment is there yet.

    The kernel releases the lock when its holder dies.
    """
    import fcntl

    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another dev.py is setting this up; waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_inside(python: Path) -> bool:
    """Tell if this process runs in the environment of that interpreter."""
    return Path(sys.prefix).resolve() == python.parent.parent.resolve()


def has_packages() -> bool:
    """Tell if this interpreter already has what trainers and benchmarks import."""
    return all(importlib.util.find_spec(name) for name in ("torch", "diffusers", "accelerate"))


def again_inside(python: Path, host: Path | None = None) -> NoReturn:
    """Run the same command again with the environment's interpreter, in this process's place.

    A parent process would kill it a quarter of a second after Ctrl-C, while it saves its weights.
    """
    if os.environ.get("VITRUVIAN_INSIDE"):
        raise Trouble(f"The environment {sys.prefix} is damaged. Delete it and try again.")
    environment = {**os.environ, "VITRUVIAN_INSIDE": "1"}
    if host:
        environment["COMFYUI_PATH"] = str(host)
    sys.stdout.flush()
    os.execve(python, [str(python), str(paths.ROOT / "dev.py"), *sys.argv[1:]], environment)
