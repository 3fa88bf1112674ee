"""Load the pack as `vitruvian`, and ComfyUI with it for the rings that need one.

Rings: house (names, layers, documents), models (torch only), host (ComfyUI in process), server (a
running ComfyUI) and browser (its front end). COMFYUI_PATH, which `dev.py test` sets, is ComfyUI's
folder; without it the last three rings are left out.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HOST_RINGS = ("host", "server", "browser")
HOST = os.environ.get("COMFYUI_PATH")
_left_out: set[Path] = set()
_base: Path | None = None


sys.path.insert(0, str(ROOT))
import dev  # noqa: E402

dev.load_pack()  # which takes the root from the path again
if HOST:  # now, before any conftest or test of a ring imports ComfyUI
    from vitruvian.tools.hosts import open_host, prepare_base

    _base = Path(tempfile.mkdtemp(prefix="vitruvian-tests-"))
    prepare_base(_base)
    open_host(Path(HOST), _base, "--cpu")


def pytest_unconfigure(config):
    if _base:
        shutil.rmtree(_base, ignore_errors=True)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A running ComfyUI with the pack, shared by all tests; scikit-image's photographs as input."""
    import skimage
    from vitruvian.tools.server import Server

    base = tmp_path_factory.mktemp("server")
    prepare_base(base)
    for photo in ("astronaut.png", "coffee.png"):
        shutil.copy(Path(skimage.__file__).parent / "data" / photo, base / "input")
    for image in (ROOT / "workflows" / "images").iterdir():
        shutil.copy(image, base / "input")
    with Server(Path(sys.executable), Path(HOST), base, "--cpu") as running:
        yield running


@pytest.fixture(scope="session")
def api():
    """name -> a fresh copy of the API-format workflow that the pack ships."""
    return lambda name: json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text())


@pytest.fixture(scope="session")
def mini_weights():
    """Skip the test if the mini weights are missing."""
    for file in ("checkpoints/vitruvian_mini", "controlnet/vitruvian_mini_openpose"):
        if not (ROOT / "weights" / f"{file}.safetensors").exists():
            pytest.skip(f"weights/{file}.safetensors is missing")


def pytest_ignore_collect(collection_path, config):
    """Files of the last three rings import ComfyUI at their top: without one they are not read."""
    rings = {ROOT / "tests" / ring for ring in HOST_RINGS}
    if HOST or rings.isdisjoint([collection_path, *collection_path.parents]):
        return None
    paths = collection_path.rglob("*") if collection_path.is_dir() else [collection_path]
    _left_out.update(path for path in paths if path.match("test_*.py"))
    return True


def pytest_terminal_summary(terminalreporter):
    if _left_out:
        names = ", ".join(sorted(str(path.relative_to(ROOT)) for path in _left_out))
        count = len(_left_out)
        terminalreporter.write_line(f"left out without ComfyUI, {count} files: {names}")
