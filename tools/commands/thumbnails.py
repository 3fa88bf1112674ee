"""`dev.py thumbnails`: run examples and write workflows/NAME.jpg; all take about ten minutes."""

import argparse
import importlib
import os
import sys
from pathlib import Path

from .. import paths
from ..environments import again_inside, has_packages, host_environment
from ..examples import copy_images
from ..hosts import base_directory, device_options, find_host


def run(options: argparse.Namespace) -> int:
    """Make the thumbnails of the examples of the command line, or all."""
    if not (has_packages() and os.environ.get("COMFYUI_PATH")):
        host = find_host(options.host)
        again_inside(host_environment(host), host)
    from ..server import Server

    package = f"{__package__.split('.')[0]}.lab.templates"
    thumbnails = importlib.import_module(f"{package}.thumbnails")
    base, python = base_directory(), Path(sys.executable)
    copy_images(base)
    names = options.names or sorted(file.stem for file in paths.WORKFLOWS.glob("*.json"))
    host = Path(os.environ["COMFYUI_PATH"])
    with Server(python, host, base, *device_options(python)) as server:
        for name in names:
            file = paths.WORKFLOWS.parent / f"{name}.jpg"
            file.write_bytes(thumbnails.draw(server, name))
            print(file, flush=True)
    return 0
