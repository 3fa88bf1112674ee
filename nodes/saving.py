"""Where nodes write files of weights."""

from pathlib import Path

import folder_paths


def free_path(name: str, otherwise: str) -> Path:
    """A file of this name in models/vitruvian that is not there yet, with a number if it must have
    one; the folder is made.
    """
    safe = "".join(c if c.isalnum() or c in " -_." else "_" for c in name).strip(" .")
    folder = Path(folder_paths.get_folder_paths("vitruvian")[0])
    path, number = folder / f"{safe or otherwise}.safetensors", 1
    while path.exists():
        number += 1
        path = folder / f"{safe or otherwise}_{number}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    return path
