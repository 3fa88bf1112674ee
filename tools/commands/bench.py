"""`dev.py bench`: run lab/benchmarks/NAME.py and write its numbers as one flat JSON object."""

import argparse
import importlib
import json
import os
import sys
from pathlib import Path

from ..environments import again_inside, has_packages, host_environment
from ..hosts import base_directory, device_options, find_host, open_host
from ..modules import modules_with, pick


def run(options: argparse.Namespace) -> int:
    """Run the benchmark of the command line on the host in this process."""
    name = pick("benchmark", options.name, modules_with("lab/benchmarks", "run"))
    if not (has_packages() and os.environ.get("COMFYUI_PATH")):
        host = find_host(options.host)
        again_inside(host_environment(host), host)
    host = Path(os.environ["COMFYUI_PATH"])
    open_host(host, base_directory(), *device_options(Path(sys.executable)))
    numbers = importlib.import_module(name).run(options.quick)
    text = json.dumps(numbers, indent=2) + "\n"
    target = Path(options.json)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.partial")
    partial.write_text(text)
    partial.replace(target)
    print(text, end="")
    return 0
