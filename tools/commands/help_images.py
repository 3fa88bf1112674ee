"""`dev.py help-images`: make web/docs/*.jpg by lab/templates/help_images.toml, in Chromium, too."""

import argparse
import contextlib
import importlib
import os
from pathlib import Path

from ...batch.vitruvian_batch.trouble import Trouble
from ..environments import again_inside, has_packages, host_environment
from ..hosts import find_host


def run(options: argparse.Namespace) -> int:
    """Make the images of the command line, or all."""
    if not (has_packages() and os.environ.get("COMFYUI_PATH")):
        host = find_host(options.host)
        again_inside(host_environment(host), host)
    package = f"{__package__.split('.')[0]}.lab.templates"
    help_images = importlib.import_module(f"{package}.help_images")
    front_end = importlib.import_module(f"{package}.front_end")
    table = help_images.table()
    names = [name.removeprefix("Vitruvian") for name in options.names]
    names = names or [name for name, row in table.items() if "by_hand" not in row]
    if unknown := [name for name in names if "example" not in table.get(name, {})]:
        raise Trouble(f"{help_images.TABLE} does not say how to make {', '.join(unknown)}.")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(front_end.started(Path(os.environ["COMFYUI_PATH"])))
        page = None
        for name in names:
            if "screen" in table[name] and not page:
                page = stack.enter_context(front_end.page_of(server))
            file = help_images.path(name)
            file.write_bytes(help_images.draw(server, name, page))
            print(file, file.stat().st_size, flush=True)
    return 0
