"""`dev.py batch`: run saved workflows over a table, on a ComfyUI that this command starts."""

import argparse
import os
import shlex
import sys
import time

from ...batch.vitruvian_batch.trouble import Trouble
from .. import paths
from ..environments import host_environment
from ..examples import copy_images
from ..hosts import base_directory, device_options, find_host


def run(options: argparse.Namespace) -> int:
    """Become `vitruvian-batch` with the checkout's ComfyUI (batch/README.md has its options)."""
    arguments = options.arguments
    if "--resume" in arguments and "--out" not in arguments:
        raise Trouble("Name the folder of the batch that is to go on: --out FOLDER.")
    host = find_host(options.host)
    python, base = host_environment(host), base_directory()
    copy_images(base)
    line = ["--base-directory", str(base), "--disable-api-nodes", *device_options(python)]
    out = base / "batches" / time.strftime("%Y%m%d-%H%M%S")
    command = [str(python), "-m", "vitruvian_batch", "--comfyui", str(host)]
    command += ["--python", str(python), f"--host-options={shlex.join(line)}"]
    command += ["--out", str(out), *arguments]
    folders = [str(paths.ROOT / "batch"), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(folders)
    sys.stdout.flush()
    os.execv(command[0], command)  # in this process's place: Ctrl-C is the runner's
