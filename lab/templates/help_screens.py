"""Some nodes of a graph as ComfyUI's front end draws them, with the wires between them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from .layout import IMAGES, WIDTH, WIDTHS

VIEW: Any = {"width": 1900, "height": 1300}
SIDES = {
    "left": 300,  # where the nodes begin on the canvas: right of the side bar, below the tabs
    "top": 160,
    "title": 30,
    "between": 56,  # columns
    "below": 24,  # a node of a column
}
EDGE = 14  # around the nodes
WIDEST, LOADERS, IMAGE_HEIGHT = 800, 310, 230
SETTINGS = {  # nothing but nodes and wires
    "Comfy.NodeBadge.NodeSourceBadgeMode": "None",
    "Comfy.Graph.LinkMarkers": 0,
}

SET = """async (values) => {
    for (const [name, value] of Object.entries(values))
        await app.extensionManager.setting.set(name, value)
}"""
ARRANGE = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
BOX = """(ids) => {
    const nodes = app.graph._nodes.filter(node => ids.includes(String(node.id)))
    const boxes = nodes.map(node => [...node.pos, ...node.size])
    const canvas = app.canvas.canvas.getBoundingClientRect()
    const right = Math.max(...boxes.map(box => box[0] + box[2]))
    const bottom = Math.max(...boxes.map(box => box[1] + box[3]))
    return [canvas.left, canvas.top, right, bottom]
}"""


def draw(
    page: Any,
    graph: dict[str, Any],
    columns: Sequence[Sequence[str]],
    heights: dict[str, int],
    run: Sequence[str] | None,
) -> Image.Image:
    """Open the graph and take a screenshot of the nodes of `columns`, by their ids.

    heights: pixels more than a node's widgets need, for its text or image. run: nodes to run
    first, beside these; None to run nothing.
    """
    kinds = {id: graph[id]["class_type"] for column in columns for id in column}
    images = {} if run is None else dict.fromkeys(IMAGES, IMAGE_HEIGHT)
    sizes = {id: [_width(kind), heights.get(id, images.get(kind, 0))] for id, kind in kinds.items()}
    page.set_viewport_size(VIEW)
    page.evaluate(SET, SETTINGS)
    page.evaluate(ARRANGE, [graph, columns, sizes, run, SIDES])
    page.wait_for_timeout(1500)  # until images are loaded, and text boxes in their places
    left, top, right, bottom = page.evaluate(BOX, list(kinds))
    clip = {
        "x": left + SIDES["left"] - EDGE,
        "y": top + SIDES["top"] - SIDES["title"] - EDGE,
        "width": right + 2 * EDGE,
        "height": bottom + SIDES["title"] + 2 * EDGE,
    }
    image = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
    image.thumbnail((WIDEST, VIEW["height"]), Image.Resampling.LANCZOS)
    return image


def _width(kind: str) -> int:
    """Return the width of a node, so that names of files can be read."""
    return LOADERS if "Load" in kind else WIDTHS.get(kind, WIDTH)
