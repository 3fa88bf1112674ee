"""`dev.py test`: run the tests; the rings that need ComfyUI are left out if there is none."""

import argparse
import os
import subprocess
from pathlib import Path

from ...batch.vitruvian_batch.trouble import Trouble
from .. import paths
from ..environments import host_environment, pins_environment
from ..hosts import find_host


def run(options: argparse.Namespace) -> int:
    """Run pytest with the command line's further arguments."""
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
    names_tests = any(Path(argument).parts[:1] == ("tests",) for argument in options.arguments)
    tests = [] if names_tests else [str(paths.ROOT / "tests")]
    command = [str(python), "-m", "pytest", *tests, *options.arguments]
    code = subprocess.call(command, cwd=paths.ROOT, env=environment)
    if missing:
        print(missing)
    return code
