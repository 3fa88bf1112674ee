"""The process that renders all worlds of a run, encodes them, and cuts out what is made of them."""

from __future__ import annotations

import os
import time
from pathlib import Path

from ....models.structure import MODALITIES
from ...training import convert, preview
from ...world.dataset import write_worlds
from .. import dressed, person_loras, worlds
from . import plan, report


def render_all(work: Path, device: str) -> None:
    """Write what is not finished yet, in the order in which the stages need it."""
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    unfinished = [world for world in plan.WORLDS if not report.is_finished(work, world.name)]
    folders = {world.name: world.in_folder(work) for world in unfinished}
    begin = time.time()
    # one processor each for the trainings that run meanwhile and for this process
    workers = max(1, (os.cpu_count() or 1) - 2)
    for rendered in write_worlds([*folders.values()], workers=workers, device=device):
        name = rendered.folder.name
        encode_kinds(checkpoint, rendered.folder, work)
        seconds, begin = time.time() - begin, time.time()
        report.finish(work, name, {"seconds": seconds, "samples": rendered.scenes})
    cut_out(checkpoint, work)


def encode_kinds(checkpoint: convert.Checkpoint, folder: Path, work: Path) -> None:
    """Encode every kind of images of a world that a stage reads as latents."""
    if folder.name == worlds.DRESSED.name:
        worlds.encode(
            checkpoint,
            folder,
            work,
            names=(),
            keep=lambda caption: not dressed.is_held_out(caption["full"]),
        )
        return
    kinds = (*MODALITIES, "hint") if folder.name == worlds.BODIES.name else ("rgb",)
    for kind in kinds:
        worlds.encode(checkpoint, folder, work, names=(), of=kind)


def cut_out(checkpoint: convert.Checkpoint, work: Path) -> None:
    """Cut out the parts of dressed people, and render the people of the two LoRAs."""
    begin = time.time()
    if not report.is_finished(work, plan.CROPS):
        dressed.read_crops(work)
        report.finish(work, plan.CROPS, {"seconds": time.time() - begin})
    begin = time.time()
    if not report.is_finished(work, plan.LOOKS):
        for look in person_loras.LOOKS:
            person_loras.look_world(work, look, checkpoint)
        report.finish(work, plan.LOOKS, {"seconds": time.time() - begin})
