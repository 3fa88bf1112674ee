"""What the command lines of all trainers share."""

from __future__ import annotations

import argparse
from pathlib import Path

from .loop import Schedule, native_precision
from .preview import CHECKPOINT

PRECISIONS = ("no", "bf16", "fp16")


def training_parser(
    name: str,
    description: str | None,
    *,
    images: str = "folder of photographs",
    start: str,
    lr: float,
) -> argparse.ArgumentParser:
    """Begin the command line of `dev.py train NAME`, a training on a folder of images.

    `images` and `start` are the help texts of --images and --start, `lr` is the default of --lr.
    """
    parser = argparse.ArgumentParser(prog=f"dev.py train {name}", description=description)
    parser.add_argument("--images", type=Path, required=True, help=images)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="mini or SD1.5")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints, previews")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--start", type=Path, help=start)
    parser.add_argument("--size", type=int, help="of the images; without it, the checkpoint's")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--precision", default=native_precision(), choices=PRECISIONS)
    return parser


def add_tasks(parser: argparse.ArgumentParser) -> None:
    """Add --tasks, where MediaPipe's detectors lie."""
    parser.add_argument("--tasks", type=Path, help="MediaPipe's .task files, if it brings none")


def read_schedule(options: argparse.Namespace) -> Schedule:
    """Make the schedule that the options ask for."""
    return Schedule(options.steps, options.batch, options.lr, precision=options.precision)


def task_folders(options: argparse.Namespace) -> list[str]:
    """List the folders of --tasks, none or one."""
    return [str(options.tasks)] if options.tasks else []
