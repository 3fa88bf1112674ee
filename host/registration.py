"""Tells the host where Vitruvian's files lie and which model family the mini weights belong to."""

from pathlib import Path

import folder_paths

from . import mini_family, structure_family

PACK = Path(__file__).resolve().parent.parent
MINI_WEIGHTS = PACK / "weights"


def register() -> None:
    """Register model folders and the families. Calling it again changes nothing."""
    _add_folder("vitruvian", Path(folder_paths.models_dir) / "vitruvian", {".safetensors"})
    for name in ("checkpoints", "clip_vision", "controlnet", "loras", "vitruvian"):
        _add_folder(name, MINI_WEIGHTS / name)
    mini_family.register_family()
    structure_family.register_family()


def _add_folder(name: str, path: Path, extensions: set[str] | None = None) -> None:
    """Append `path` to a model folder list, after whatever extra_model_paths.yaml put there first.

    `extensions` are the file endings of a folder kind of our own; a kind of the host keeps its own.
    """
    paths, known = folder_paths.folder_names_and_paths.get(name, ([], set()))
    if str(path) not in paths:
        paths = [*paths, str(path)]
    folder_paths.folder_names_and_paths[name] = (paths, extensions or known)
