"""The example workflows and the images that they start from."""

import json
import shutil
from pathlib import Path
from typing import Any

from ..batch.vitruvian_batch.trouble import Trouble
from . import paths
from .environments import pins_environment


def read_workflow(name: str) -> dict[str, Any]:
    """Read a workflow in the API format: a file, or the name of one that the pack ships."""
    path = Path(name) if name.endswith(".json") else paths.WORKFLOWS / f"{name}.json"
    if not path.is_file():
        shipped = ", ".join(sorted(file.stem for file in paths.WORKFLOWS.glob("*.json")))
        raise Trouble(f"There is no workflow {path}. The pack ships: {shipped}.")
    try:
        workflow = json.loads(path.read_text())
    except ValueError as error:
        raise Trouble(f"{path} is not JSON: {error}") from None
    if not isinstance(workflow, dict) or not all(
        isinstance(node, dict) and "class_type" in node for node in workflow.values()
    ):
        raise Trouble(f"{path} is not in the API format. Save it with Workflow > Export (API).")
    return workflow


def sample_photo() -> Path:
    """Return scikit-image's public-domain photograph of an astronaut."""
    pins = pins_environment().parent.parent
    return next(pins.glob("lib/python*/site-packages/skimage/data/astronaut.png"))


def copy_images(base: Path) -> None:
    """Put the images that the example workflows start from into ComfyUI's input folder."""
    for image in (sample_photo(), *paths.EXAMPLE_IMAGES.iterdir()):
        shutil.copyfile(image, base / "input" / image.name)


def use_photo(workflow: dict[str, Any], photo: Path, base: Path) -> None:
    """Copy the photograph into ComfyUI's input folder and name it in the workflow."""
    if not photo.is_file():
        raise Trouble(f"There is no photograph {photo}.")
    shutil.copyfile(photo, base / "input" / photo.name)
    for node in workflow.values():
        if node["class_type"] == "LoadImage":
            node["inputs"]["image"] = photo.name
