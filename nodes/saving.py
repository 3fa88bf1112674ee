"""Choose where nodes save files of weights."""

from pathlib import Path

import folder_paths


def free_path(filename_prefix: str, default_name: str) -> Path:
    """Return a path in models/vitruvian where no file is yet, and make the folder. A number is
    added to a name in use; a name without usable characters becomes `default_name`.
    """
    safe_name = "".join(c if c.isalnum() or c in " -_." else "_" for c in filename_prefix).strip(
        " ."
    )
    folder = Path(folder_paths.get_folder_paths("vitruvian")[0])
    path, number = folder / f"{safe_name or default_name}.safetensors", 1
    while path.exists():
        number += 1
        path = folder / f"{safe_name or default_name}_{number}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    return path
