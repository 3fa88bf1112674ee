"""The thumbnails of the examples: what they generate with the mini weights.

An example for a model that does not come along is represented by one of the same idea that does.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

from ...tools.paths import ROOT
from ...tools.server import Server

SIDE, MOST_BYTES = 320, 14_000
STAND_INS = {  # example -> the one that is run in its place, and its seed
    "two_people_sd15": ("two_people", 12),
    "two_people_sdxl": ("touching_people", 14),
    "two_people_z_image": ("pose_editor", 12),
    "two_people_qwen_image": ("touching_people", 11),
    "two_people_flux": ("two_people", 14),
    "two_people_flux2_klein": ("pose_editor", 16),
    "two_people_krea2": ("touching_people", 15),
    "two_people_anima": ("pose_editor", 11),
    "one_sentence_z_image": ("one_sentence", 14),
    "two_characters_sdxl": ("two_characters", 12),
    "three_people_mixed": ("pose_library", 12),
    "people_from_a_photograph_sdpose": ("people_from_a_photograph", 12),
}
SHOWN: dict[str, tuple[int, ...]] = {  # of the images of an example; else the first two
    "appearance": (0,),
    "appearance_memory": (0,),
    "change_one_person": (1,),
    "structure_refined": (0, 2),
    "structure_relight": (2, 3),
    "structure_training_data": (0,),
}


def draw(server: Server, name: str) -> bytes:
    """Run an example and return its thumbnail, a JPEG file."""
    source, seed = STAND_INS.get(name, (name, None))
    workflow = json.loads((ROOT / "workflows" / "api" / f"{source}.json").read_text())
    if seed is not None:
        set_seed(workflow, seed)
    images = results(server, workflow)
    return compose([images[number] for number in SHOWN.get(name, range(len(images)))][:2])


def set_seed(workflow: dict[str, Any], seed: int) -> None:
    """Give all samplers this seed."""
    for node in workflow.values():
        if "Sampler" in node["class_type"] and isinstance(node["inputs"].get("seed"), int):
            node["inputs"]["seed"] = seed


def results(server: Server, workflow: dict[str, Any]) -> list[Image.Image]:
    """Run a workflow and return the images that it saves."""
    outputs = server.wait(server.queue(workflow))
    files = [
        file
        for _, output in sorted(outputs.items(), key=lambda pair: int(pair[0].split(":")[0]))
        for file in output.get("images", ())
        if file["type"] == "output"
    ]
    folder = Path(server.base) / "output"
    return [Image.open(folder / file["subfolder"] / file["filename"]) for file in files]


def compose(images: list[Image.Image]) -> bytes:
    """Fill a square with the middle of one image, or of two side by side."""
    square = Image.new("RGB", (SIDE, SIDE), "white")
    width = SIDE if len(images) == 1 else SIDE // 2 - 2
    if len(images) == 1 and images[0].width > images[0].height:
        images = [_padded(images[0].convert("RGB"))]
    for number, image in enumerate(images):
        square.paste(_fill(image.convert("RGB"), width, SIDE), (number * (SIDE - width), 0))
    return jpeg(square, MOST_BYTES)


def jpeg(image: Image.Image, most_bytes: int, best: int = 88) -> bytes:
    """Write a JPEG file, as good as its limit allows."""
    for quality in range(best, 20, -4):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() <= most_bytes:
            break
    return file.getvalue()


def _padded(image: Image.Image) -> Image.Image:
    """Make a wide image square by drawing out its first and last row."""
    side, edge = image.width, (image.width - image.height) // 2
    square = Image.new("RGB", (side, side))
    square.paste(image.crop((0, 0, side, 1)).resize((side, edge)), (0, 0))
    last = image.crop((0, image.height - 1, side, image.height))
    square.paste(last.resize((side, side - edge)), (0, edge))
    square.paste(image, (0, edge))
    return square


def _fill(image: Image.Image, width: int, height: int) -> Image.Image:
    factor = max(width / image.width, height / image.height)
    size = round(image.width * factor), round(image.height * factor)
    larger = image.resize(size, Image.Resampling.LANCZOS)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return larger.crop((left, top, left + width, top + height))
