"""`dev.py serve`: start ComfyUI with the pack and leave it running until Ctrl-C."""

import argparse
import contextlib

from ..environments import again_inside, host_environment, is_inside
from ..examples import copy_images
from ..hosts import base_directory, device_options, find_host


def run(options: argparse.Namespace) -> int:
    """Serve on the port of the command line."""
    host = find_host(options.host)
    python = host_environment(host)
    if not is_inside(python):
        again_inside(python, host)
    from ..server import Server

    base = base_directory()
    copy_images(base)
    with Server(python, host, base, *device_options(python), port=options.port) as server:
        print(f"{server.url}\nfolders: {base}\nCtrl-C stops it", flush=True)
        assert server.process
        with contextlib.suppress(KeyboardInterrupt):
            return server.process.wait()
    return 0
