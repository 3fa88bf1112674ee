"""Write files that appear complete or not at all."""

import os
from collections.abc import Callable
from pathlib import Path


def part_of(path: Path) -> Path:
    """Name the hidden file beside `path` that holds what is not complete yet."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def write_atomically(path: Path, write_to: Callable[[Path], object]) -> None:
    """Let `write_to` fill a file beside `path`, then put it in the place of `path` at once.

    The file is on the disk before it gets its name, so a crash of the machine leaves the old one or
    the new one too. After an error of `write_to`, or an OSError, the old one is still there.
    """
    part = part_of(path)
    try:
        write_to(part)
        flush_to_disk(part)
        os.replace(part, path)
        flush_to_disk(path.parent)
    finally:
        part.unlink(missing_ok=True)


def flush_to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    if path.is_dir() and os.name == "nt":  # Windows opens no folders, and needs it less
        return
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
