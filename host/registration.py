"""Register Vitruvian's model folders, model families and routes with the host."""

import contextlib
import shutil
from functools import partial
from pathlib import Path

import folder_paths

from ..models.atomic_file import write_atomically
from . import mini_family, routes, structure_family

PACK = Path(__file__).resolve().parent.parent
MINI_WEIGHTS = PACK / "weights"
EXAMPLE_IMAGES = PACK / "workflows" / "images"


def register() -> None:
    """Register model folders, families and routes. Calling it again changes nothing."""
    _add_folder("vitruvian", Path(folder_paths.models_dir) / "vitruvian", {".safetensors"})
    for name in ("checkpoints", "clip_vision", "controlnet", "loras", "vitruvian"):
        _add_folder(name, MINI_WEIGHTS / name)
    mini_family.register_family()
    structure_family.register_family()
    routes.add_routes()
    _offer_example_images()


def _offer_example_images() -> None:
    """Put the images that the examples begin with where Load Image lists them.

    A file of the user's with the same name stays. A folder that cannot be written is left alone.
    """
    folder = Path(folder_paths.get_input_directory())
    with contextlib.suppress(OSError):
        for image in EXAMPLE_IMAGES.iterdir():
            if not (folder / image.name).exists():
                write_atomically(folder / image.name, partial(shutil.copyfile, image))


def _add_folder(name: str, path: Path, extensions: set[str] | None = None) -> None:
    """Append `path` to a list of model folders, behind those of extra_model_paths.yaml.

    `extensions` are the file endings of a list of our own; a list of the host keeps its own.
    """
    paths, host_extensions = folder_paths.folder_names_and_paths.get(name, ([], set()))
    if str(path) not in paths:
        paths = [*paths, str(path)]
    folder_paths.folder_names_and_paths[name] = (paths, extensions or host_extensions)
