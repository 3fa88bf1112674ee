"""`dev.py layout`: place the nodes of examples so that they open readable, in Chromium.

About half a minute an example. The images that examples begin with are drawn again, too.
"""

import argparse
import importlib
import json
import os
from pathlib import Path

from .. import paths
from ..environments import again_inside, has_packages, host_environment
from ..hosts import find_host

EXAMPLES = paths.ROOT / "workflows"


def run(options: argparse.Namespace) -> int:
    """Lay out the examples of the command line, or all."""
    if not (has_packages() and os.environ.get("COMFYUI_PATH")):
        host = find_host(options.host)
        again_inside(host_environment(host), host)
    package = f"{__package__.split('.')[0]}.lab.templates"
    front_end, layout, photographs = (
        importlib.import_module(f"{package}.{name}")
        for name in ("front_end", "layout", "photographs")
    )
    photographs.write_images(paths.EXAMPLE_IMAGES)
    names = options.names or sorted(file.stem for file in EXAMPLES.glob("*.json"))
    with front_end.opened(Path(os.environ["COMFYUI_PATH"])) as page:
        for name in names:
            file = EXAMPLES / f"{name}.json"
            saved = json.loads(file.read_text(encoding="utf-8"))
            print(f"{name}: {layout.lay_out(page, saved, name)}", flush=True)
            file.write_text(layout.text_of(saved), encoding="utf-8")
    return 0
