"""`dev.py bench`: run lab/benchmarks/NAME.py and write its numbers as one flat JSON object."""

import argparse
import importlib
import json
import os
import sys
from pathlib import Path

from ...batch.vitruvian_batch.trouble import Trouble
from ..environments import again_inside, has_packages, host_environment
from ..hosts import base_directory, device_options, find_host, open_host
from ..modules import modules_with, pick

KEEP = "VITRUVIAN_BENCH_KEEP"  # read by lab/benchmarks/kept.py


def run(options: argparse.Namespace) -> int:
    """Run the benchmark of the command line on the host in this process."""
    name = pick("benchmark", options.name, modules_with("lab/benchmarks", "run"))
    target = Path(options.json)
    _check_target(target)
    if not (has_packages() and os.environ.get("COMFYUI_PATH")):
        host = find_host(options.host)
        again_inside(host_environment(host), host)
    host = Path(os.environ["COMFYUI_PATH"])
    open_host(host, base_directory(), *device_options(Path(sys.executable)))
    if options.keep:
        os.environ[KEEP] = str(Path(options.keep).absolute())
    numbers = importlib.import_module(name).run(options.quick)
    text = json.dumps(numbers, indent=2) + "\n"
    partial = _partial(target)
    partial.write_text(text)
    partial.replace(target)
    print(text, end="")
    return 0


def _partial(target: Path) -> Path:
    return target.with_name(f"{target.name}.partial")


def _check_target(target: Path) -> None:
    """Raise Trouble before the benchmark if its numbers can not be written."""
    try:
        if target.is_dir():
            raise IsADirectoryError("it is a folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        _partial(target).touch()
        _partial(target).unlink()
    except OSError as error:
        raise Trouble(f"--json {target} can not be written: {error}") from None
