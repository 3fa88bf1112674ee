"""`dev.py demo`: run a workflow on a ComfyUI with the pack, and print where its images are."""

import argparse
import importlib
from pathlib import Path

from ...batch.vitruvian_batch.trouble import Trouble
from ..environments import again_inside, has_packages, host_environment, is_inside, pins_environment
from ..examples import copy_images, read_workflow, sample_photo, use_photo
from ..hosts import base_directory, device_options, find_host


def run(options: argparse.Namespace) -> int:
    """Run the workflow of the command line; without ComfyUI, the trainers' preview."""
    workflow = read_workflow(options.workflow)
    try:
        host = find_host(options.host)
    except Trouble as trouble:
        return _preview(options, trouble)
    python = host_environment(host)
    if not is_inside(python):
        again_inside(python, host)
    from ...batch.vitruvian_batch.host import output_files
    from ..progress import Progress
    from ..server import Server

    base = base_directory()
    copy_images(base)
    if options.photo:
        use_photo(workflow, Path(options.photo), base)
    print(f"ComfyUI: {host}", flush=True)
    titles = {name: node["class_type"] for name, node in workflow.items()}
    with Server(python, host, base, *device_options(python)) as server:
        with Progress(server.url, titles) as progress:
            outputs = server.wait(server.queue(workflow, client=progress.client))
    for name, subfolder in output_files(outputs):
        print(base / "output" / subfolder / name)
    return 0


def _preview(options: argparse.Namespace, trouble: Trouble) -> int:
    """The same image without the host, by the trainers' sampler on the same weights."""
    if not has_packages():
        again_inside(pins_environment())
    photo = Path(options.photo) if options.photo else sample_photo()
    out = base_directory() / "output" / "preview.png"
    preview = importlib.import_module("...lab.training.preview", __package__).preview
    try:
        preview(photo, out)
    except ValueError as error:
        raise Trouble(f"There is no ComfyUI, and the preview failed: {error}\n{trouble}") from None
    print(f"{out}\nThis was only a preview, made without ComfyUI. {trouble}")
    return 0
