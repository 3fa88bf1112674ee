"""Loads the pack as `vitruvian`, and ComfyUI beside it for the rings that need one.

Rings: models (torch only), host (ComfyUI in process), server (a running ComfyUI) and browser (its
front end). ComfyUI is found through COMFYUI_PATH, which `dev.py test` sets; without it the last
three rings are left out.
"""

import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOST_RINGS = ("host", "server", "browser")
HOST = os.environ.get("COMFYUI_PATH")
_left_out: list[Path] = []
_base: Path | None = None


def _load_pack() -> None:
    """Import the checkout as the package `vitruvian`, whatever its folder is called."""
    spec = importlib.util.spec_from_file_location(
        "vitruvian", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["vitruvian"] = module
    spec.loader.exec_module(module)


_load_pack()


def pytest_configure(config):
    global _base
    if HOST:
        from vitruvian.dev import open_host, prepare_base

        _base = Path(tempfile.mkdtemp(prefix="vitruvian-tests-"))
        prepare_base(_base)
        open_host(Path(HOST), _base, "--cpu")


def pytest_unconfigure(config):
    if _base:
        shutil.rmtree(_base, ignore_errors=True)


def pytest_ignore_collect(collection_path, config):
    """Files of the last three rings import ComfyUI at their top: without one they are not read."""
    if HOST or not any(ROOT / "tests" / ring in collection_path.parents for ring in HOST_RINGS):
        return None
    if collection_path.name.startswith("test_"):
        _left_out.append(collection_path)
    return True


def pytest_terminal_summary(terminalreporter):
    if _left_out:
        names = ", ".join(sorted(str(path.relative_to(ROOT)) for path in _left_out))
        count = len(_left_out)
        terminalreporter.write_line(f"left out for want of ComfyUI, {count} files: {names}")
