"""ComfyUI's folder, the folders it works in, and ComfyUI inside this process."""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from ..batch.vitruvian_batch.trouble import Trouble
from . import paths
from .environments import need_disk

HOST_REPOSITORY = "https://github.com/comfyanonymous/ComfyUI"
HOST_VERSION = "v0.33.0"


def find_host(version: str | None) -> Path:
    """Find ComfyUI's folder: COMFYUI_PATH, else the cache, else a fresh clone of the pinned tag.

    version: the tag on the command line, or None. It goes before COMFYUI_PATH.
    """
    if not version and (named := os.environ.get("COMFYUI_PATH")):
        if not Path(named, "main.py").is_file():
            raise Trouble(f"COMFYUI_PATH is {named}, but there is no main.py in it.")
        return Path(named).resolve()
    version = version or HOST_VERSION
    folder = paths.CACHE / f"ComfyUI-{version}"
    if not (folder / "main.py").is_file():
        _clone(version, folder)
    return folder


def _clone(version: str, folder: Path) -> None:
    paths.CACHE.mkdir(parents=True, exist_ok=True)
    if not shutil.which("git"):
        raise Trouble(f"There is no ComfyUI, and no git to fetch it with. {_host_advice(version)}")
    need_disk(0.5)
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
        f"ComfyUI {version} into {paths.CACHE / f'ComfyUI-{version}'}."
    )


def base_directory() -> Path:
    """Make this checkout's private ComfyUI folders with the pack in them; return their parent."""
    base = paths.CACHE / f"base-{paths.digest(str(paths.ROOT))}"
    prepare_base(base)
    return base


def prepare_base(base: Path) -> None:
    """Make the folders that ComfyUI works in, and link the pack in."""
    make_folders(base)
    link = base / "custom_nodes" / "vitruvian"
    if not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(paths.ROOT, target_is_directory=True)


def make_folders(base: Path) -> None:
    """Make the folders that ComfyUI expects below --base-directory."""
    for folder in ("custom_nodes", "input", "output", "models", "user"):
        (base / folder).mkdir(parents=True, exist_ok=True)


def device_options(python: Path) -> list[str]:
    """Return ComfyUI's --cpu, unless the environment's torch can use a graphics card."""
    if sys.platform == "darwin":
        return []
    question = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    has_cuda = shutil.which("nvidia-smi") and not subprocess.call([str(python), "-c", question])
    return [] if has_cuda else ["--cpu"]


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
