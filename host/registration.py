"""Register Vitruvian's model folders, model families and routes with the host."""

from pathlib import Path

import folder_paths

from . import mini_family, routes, structure_family

PACK = Path(__file__).resolve().parent.parent
MINI_WEIGHTS = PACK / "weights"


def register() -> None:
    """Register model folders, families and routes. Calling it again changes nothing."""
    _add_folder("vitruvian", Path(folder_paths.models_dir) / "vitruvian", {".safetensors"})
    for name in ("checkpoints", "clip_vision", "controlnet", "loras", "vitruvian"):
        _add_folder(name, MINI_WEIGHTS / name)
    mini_family.register_family()
    structure_family.register_family()
    routes.add_routes()


def _add_folder(name: str, path: Path, extensions: set[str] | None = None) -> None:
    """Append `path` to a list of model folders, behind those of extra_model_paths.yaml.

    `extensions` are the file endings of a list of our own; a list of the host keeps its own.
    """
    paths, host_extensions = folder_paths.folder_names_and_paths.get(name, ([], set()))
    if str(path) not in paths:
        paths = [*paths, str(path)]
    folder_paths.folder_names_and_paths[name] = (paths, extensions or host_extensions)
