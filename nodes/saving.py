"""Choose where nodes save files of weights."""

import os
import tempfile
from pathlib import Path

import folder_paths

from ..models.plain_words import reason

ENDING = ".safetensors"
LONGEST_NAME = 160  # bytes: file systems take 255, and a number and an ending come behind it
DEVICES = {"con", "prn", "aux", "nul"}  # names that Windows keeps for itself, with any ending
DEVICES |= {f"{port}{number}" for port in ("com", "lpt") for number in range(10)}


def free_path(filename_prefix: str, default_name: str) -> Path:
    """Return a path in models/vitruvian where nothing is yet, and make the folder. A number is
    added to a name in use; a name without usable characters becomes `default_name`.
    """
    name, folder = safe_name(filename_prefix) or default_name, save_folder()
    path, number = folder / f"{name}{ENDING}", 1
    while os.path.lexists(path):  # a link to a missing file, too
        number += 1
        path = folder / f"{name}_{number}{ENDING}"
    folder.mkdir(parents=True, exist_ok=True)
    return path


def safe_name(text: str) -> str:
    """Turn a text into a name that every system takes for a file, "" if nothing of it is left."""
    name = "".join(c if c.isalnum() or c in " -_." else "_" for c in text)
    name = name.encode()[:LONGEST_NAME].decode(errors="ignore").strip(" .")
    return f"_{name}" if name.split(".")[0].strip().lower() in DEVICES else name


def save_folder() -> Path:
    """Return the first folder of models/vitruvian."""
    return Path(folder_paths.get_folder_paths("vitruvian")[0])


def check_folder() -> None:
    """Raise ValueError if nothing can be written in models/vitruvian."""
    folder = save_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(
            f"nothing can be written in {folder}: {reason(error)}. What is trained could not be "
            "saved there: make the folder writable, or name another in extra_model_paths.yaml."
        ) from error
