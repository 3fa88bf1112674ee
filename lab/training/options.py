"""What the command lines of all trainers share: options, and what is found before training."""

from __future__ import annotations

import argparse
import logging
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import torch

from ...models.atomic_file import part_of
from ...models.mini import LATENT_STRIDE
from . import fingerprint
from .image_folder import digest_images
from .loop import Schedule, TrainingError, native_precision
from .preview import CHECKPOINT

PRECISIONS = ("no", "bf16", "fp16")
LARGEST_STEPS, LARGEST_BATCH, LARGEST_RATE = 10_000_000, 65_536, 1.0
SMALLEST_SIDE, LARGEST_SIDE = 64, 8192  # of images, pixels
LARGEST_WIDTH, LARGEST_RANK = 4096, 1024  # of trained layers
WEIGHTS_ENDING = ".safetensors"
LONGEST_ERROR = 600  # characters
OUTPUTS = ("out", "memory_out")  # names of options of files to write
SAME_TRAINING = ("work", *OUTPUTS, "steps", "tasks", "gradient_checkpointing")  # may change later


log = logging.getLogger(__name__)


class Parser(argparse.ArgumentParser):
    """A command line whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {one_line(message)}\n")


def one_line(text: str) -> str:
    """Bring a message into one line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_ERROR else f"{line[:LONGEST_ERROR]} ..."


@contextmanager
def plain_errors(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Turn what is wrong with a training, or with its files, into one line for the person who
    started it.
    """
    try:
        yield
    except TrainingError as error:
        log.debug("where it was found", exc_info=True)
        parser.exit(1, f"{parser.prog}: {one_line(str(error))}\n")
    except (OSError, ValueError) as error:
        log.debug("where it was found", exc_info=True)
        parser.error(str(error))


def whole_number(least: int, most: int, step: int = 1) -> Callable[[str], int]:
    """Make the reader of an option that is a whole number in a range, a multiple of `step`."""

    def read(text: str) -> int:
        number = int(text) if text.strip().lstrip("+-").isdecimal() and len(text) < 20 else None
        if number is None or not least <= number <= most or number % step:
            multiple = f", a multiple of {step}" if step > 1 else ""
            raise argparse.ArgumentTypeError(
                f"expected a whole number from {least} to {most}{multiple}, got '{text}'"
            )
        return number

    return read


def number(least: float, most: float) -> Callable[[str], float]:
    """Make the reader of an option that is a number in a range."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:  # nor NaN
            raise argparse.ArgumentTypeError(
                f"expected a number from {least:g} to {most:g}, got '{text}'"
            )
        return value

    return read


share = number(0.0, 1.0)
positive_steps = whole_number(1, LARGEST_STEPS)


def training_parser(
    name: str,
    description: str | None,
    *,
    images: str = "folder of photographs",
    start: str,
    lr: float,
) -> Parser:
    """Begin the command line of `dev.py train NAME`, a training on a folder of images.

    `images` and `start` are the help texts of --images and --start, `lr` is the default of --lr.
    """
    parser = Parser(prog=f"dev.py train {name}", description=description)
    side = whole_number(SMALLEST_SIDE, LARGEST_SIDE, LATENT_STRIDE)
    parser.add_argument("--images", type=Path, required=True, help=images)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="mini or SD1.5")
    parser.add_argument(
        "--work",
        type=Path,
        required=True,
        help="folder for checkpoints and previews of this training; the same inputs go on from its "
        "last checkpoint, others need another folder",
    )
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--start", type=Path, help=start)
    parser.add_argument("--size", type=side, help="of the images; without it, the checkpoint's")
    parser.add_argument("--steps", type=positive_steps, default=4000)
    parser.add_argument("--batch", type=whole_number(1, LARGEST_BATCH), default=8)
    parser.add_argument("--lr", type=number(0.0, LARGEST_RATE), default=lr)
    parser.add_argument("--precision", default=native_precision(), choices=PRECISIONS)
    return parser


def add_tasks(parser: argparse.ArgumentParser) -> None:
    """Add --tasks, where MediaPipe's detectors lie."""
    parser.add_argument("--tasks", type=Path, help="MediaPipe's .task files, if it brings none")


def begin_training(options: argparse.Namespace) -> Schedule:
    """Check the files and folders of the options and claim --work for them; returns the schedule
    that they ask for.

    ValueError, naming the option, for a file that is not there, an output that can not be written,
    one that would destroy an input, and a folder of another training.
    """
    check_precision(options.precision)
    paths = {name: path for name, path in vars(options).items() if isinstance(path, Path)}
    _check_folders(paths)
    check_outputs(paths)
    fingerprint.claim(options.work, "options", describe(options))
    schedule = Schedule(options.steps, options.batch, options.lr, precision=options.precision)
    torch.manual_seed(schedule.seed)
    return schedule


def check_precision(precision: str) -> None:
    """Raise ValueError for a precision that this machine does not have."""
    if precision == "fp16" and not torch.cuda.is_available():
        raise ValueError("--precision fp16 needs a GPU: take bf16 or no.")


def describe(options: argparse.Namespace) -> dict[str, str]:
    """List what a training is made of by the names of its options; images, captions and maps are
    apart.
    """
    inputs: dict[str, str] = {}
    for name, value in vars(options).items():
        if name in SAME_TRAINING:
            continue
        if name == "images":
            inputs |= {f"--images' {kind}": text for kind, text in digest_images(value).items()}
        elif isinstance(value, Path):
            inputs[spelled(name)] = fingerprint.digest_path(value)
        elif value is not None:
            inputs[spelled(name)] = str(value)
    return inputs


def spelled(name: str) -> str:
    """Spell an option as the command line has it."""
    return "--" + name.replace("_", "-")


def _check_folders(paths: dict[str, Path]) -> None:
    """Raise ValueError for inputs that do not exist, or a --work that is among them."""
    for name in ("images", "maps", "tasks"):
        if name in paths and not os.path.isdir(paths[name]):
            raise ValueError(f"{spelled(name)} {paths[name]} is no folder.")
    for name, path in paths.items():
        if name not in ("images", "maps", "tasks", "work", *OUTPUTS) and not os.path.isfile(path):
            kind = "a folder" if os.path.isdir(path) else "no file"
            raise ValueError(f"{spelled(name)} {path}: expected a file, found {kind}.")
    for name in ("images", "maps"):
        if name in paths and paths["work"].resolve() == paths[name].resolve():
            raise ValueError(
                f"--work {paths['work']} is the folder of {spelled(name)}, to which previews would "
                "be added: choose another --work."
            )


def check_outputs(paths: dict[str, Path]) -> None:
    """Raise ValueError if an output can not be written, or is one of the other paths."""
    for name in (name for name in OUTPUTS if name in paths):
        check_file_to_write(paths[name], spelled(name))
        for other in set(paths) - {name}:
            if paths[name].resolve() == paths[other].resolve():
                raise ValueError(
                    f"{spelled(name)} {paths[name]} is also {spelled(other)}, which it would "
                    f"destroy: give {spelled(name)} another name."
                )
    check_folder_to_write(paths["work"], "--work")


def check_file_to_write(path: Path, option: str) -> None:
    """Raise ValueError, naming the option, unless a file of weights can be written at `path`."""
    if path.suffix.lower() != WEIGHTS_ENDING:
        raise ValueError(f"{option} {path}: expected the name of a {WEIGHTS_ENDING} file.")
    if os.path.isdir(path):  # which, unlike Path, knows no names that are too long
        raise ValueError(
            f"{option} {path} is a folder: give the name of a {WEIGHTS_ENDING} file, such as "
            f"{path / 'mine.safetensors'}."
        )
    check_folder_to_write(path.parent, option, part_of(path).name)


def check_folder_to_write(folder: Path, option: str, name: str | None = None) -> None:
    """Raise ValueError, naming the option, unless a file can be made in a folder, which is not
    made. `name`: of the file.
    """
    try:
        nearest = folder.absolute()
        while not nearest.exists() and not nearest.is_symlink():
            nearest = nearest.parent
        if name is None:
            tempfile.TemporaryFile(dir=nearest).close()
        else:
            (nearest / name).touch(exist_ok=False)
            (nearest / name).unlink()
    except OSError as error:
        raise ValueError(
            f"{option}: nothing can be written in {folder}: {error}. Choose another folder."
        ) from error


def task_folders(options: argparse.Namespace) -> list[str]:
    """List the folders of --tasks, none or one."""
    return [str(options.tasks)] if options.tasks else []
